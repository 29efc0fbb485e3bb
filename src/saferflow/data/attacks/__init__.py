"""Requests in other forms: those that training may show, and those that only the evaluation shows."""
