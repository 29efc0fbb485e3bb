"""Answers of an OpenAI-compatible server: requested concurrently, paid for once, never lost."""
