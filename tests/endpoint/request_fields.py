"""The section `request` of a server's params, as most servers take it."""


def request_fields(max_tokens: int) -> dict:
    return {"temperature": 0, "max_tokens": max_tokens, "max_completion_tokens": None, "reasoning_effort": None}
