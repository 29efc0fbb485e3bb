"""Answers of an OpenAI-compatible server: asked for concurrently, paid for once, kept whatever happens."""
