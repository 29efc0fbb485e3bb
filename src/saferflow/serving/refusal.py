"""A request that gets no answer: its HTTP status and the reason, in OpenAI's form."""

from typing import Any


class Refusal(Exception):
    """Raised anywhere on a request's way; the server sends it.

    Args:
        status: of the HTTP response.
        code: a word for programs.
        message: what is wrong, what was expected and the way out.
        retry_after: seconds after which another try may help; None where none will.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @property
    def body(self) -> dict[str, Any]:
        """Source: OpenAI's API reference, error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "code": self.code, "param": None}}
