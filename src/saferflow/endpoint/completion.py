"""Reads the body of a chat completion: the model's text, a refusal of this row, or a fault of the server.

A server may answer 200 without an answer of the model: an error object, no choice, a page of HTML. A cut-off text is an
answer: a model that does not stop is not the server's fault. Source: ours.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

SHOWN = 200
"""Most characters of a server's words that a message repeats."""
UNSUPPORTED = ("unsupported_parameter", "unsupported_value")
"""OpenAI's codes for a field of the request that the model does not take."""
CUT = frozenset(("length", "max_tokens", "max_output_tokens", "model_length", "incomplete"))
"""Values of finish_reason for an unfinished text."""
BROKEN = frozenset(("error", "abort", "aborted", "cancelled", "canceled", "timeout"))
"""Values of finish_reason for a fault of the server."""
FILTERED = frozenset(
    ("content_filter", "content_filtered", "safety", "prohibited_content", "recitation", "blocklist", "spii", "refusal",
     "guardrail_intervened", "image_safety", "sensitive")
)  # fmt: skip
"""Values of finish_reason for a refusal of this row's content."""
FILTER = re.compile(
    r"content[ _-]?(?:filter|policy|management)|responsible\W?ai|moderation|flagged|safety (?:filter|system)", re.IGNORECASE
)
"""Words by which servers refuse a row for its content."""
TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window)|too (?:long|large|many tokens)|maximum (?:context|prompt|input|number of tokens)",
    re.IGNORECASE,
)
"""Words by which servers refuse a row for its size."""

Tokens = tuple[int, int]
"""(tokens of the prompt, tokens of the completion)."""


class Fault(Exception):
    """A fault of the server; another try may succeed."""

    def __init__(self, words: str, tokens: Tokens = (0, 0)):
        super().__init__(words)
        self.tokens = tokens


class Declined(Exception):
    """The server refuses this row; another try would fail too."""

    def __init__(self, words: str, tokens: Tokens = (0, 0), *, filtered: bool = False):
        super().__init__(words)
        self.tokens = tokens
        self.filtered = filtered
        """True for a refusal of the content; False for one of form or size, or of any request."""


class ServerError(Exception):
    """An error that a server reports in a body."""

    def __init__(self, words: str, status: int | None, field: str | None = None):
        super().__init__(words)
        self.status = status
        """An HTTP status, where the body names one."""
        self.field = field
        """The field of the request that the model does not take, by OpenAI's codes."""


class Completion(NamedTuple):
    """The model's answer."""

    text: str
    """Empty where it was cut off before its answer began."""
    tokens: Tokens
    cut: bool
    """True if the text did not come to its end."""


def read_completion(body: bytes) -> Completion:
    """Read the model's text, wherever the server puts it.

    Raises:
        Fault: there is no text.
        Declined: the server or the model refuses this row.
        ServerError: the body is an error report.
    """
    answer = _parsed(body)
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else choices
    if not isinstance(first, dict) or not first:
        if "error" in answer or not isinstance(choices, list):
            raise _reported(answer)
        raise Fault(f"no choice in its answer: {excerpt(answer)}")
    if first.get("error"):
        raise _reported(first)
    tokens, end = _tokens(answer), str(first.get("finish_reason") or first.get("stop_reason") or "").casefold()
    message = first.get("message") or first.get("delta")
    message = message if isinstance(message, dict) else {"content": message or first.get("text")}
    if end in FILTERED:
        raise Declined(f"finish_reason is {end}", tokens, filtered=True)
    if end in BROKEN:
        raise Fault(f"finish_reason is {end}", tokens)
    text, thought = _text(message)
    if not text.strip():
        if isinstance(refusal := message.get("refusal"), str) and refusal.strip():
            raise Declined(f"the model declines: {excerpt(refusal)}", tokens, filtered=True)
        if end in CUT:
            return Completion("", tokens, cut=True)
        raise Fault(f"an empty message (finish_reason {end or 'is not there'})", tokens)
    if thought and end in CUT:
        return Completion("", tokens, cut=True)
    return Completion(text, tokens, end in CUT)


def excerpt(words: Any) -> str:
    """The beginning of a server's words, on one line."""
    plain = " ".join((words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)).split())
    return plain if len(plain) <= SHOWN else plain[:SHOWN] + "…"


def reported_error(body: bytes) -> ServerError:
    """Read an error response; its words fit on one line."""
    try:
        return _reported(_parsed(body))
    except Fault as fault:
        return ServerError(str(fault), None)


def _parsed(body: bytes) -> dict[str, Any]:
    text = body.decode("utf-8-sig", errors="replace").strip()
    if not text:
        raise Fault("an empty body")
    if text.startswith(("data:", "event:", ":", "id:")):
        return _joined(text)
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        kind = "HTML" if text.startswith("<") else "no whole JSON"
        raise Fault(f"its answer is {kind}: {excerpt(text)}") from None
    if not isinstance(answer, dict):
        raise Fault(f"its answer is no JSON object: {excerpt(text)}")
    return answer


def _joined(text: str) -> dict[str, Any]:
    """Join the chunks of an unrequested stream into one completion.

    Raises:
        Fault: the stream broke off.
    """
    pieces, thoughts, end, usage = [], [], None, None
    for chunk in _chunks(text):
        if chunk.get("error"):
            return chunk
        usage = chunk.get("usage") or usage
        choices = chunk.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        choice = first if isinstance(first, dict) else {}
        delta = choice.get("delta") or choice.get("message")
        delta = delta if isinstance(delta, dict) else {}
        pieces.append(_flat(delta.get("content")))
        thoughts.append(_flat(delta.get("reasoning_content") or delta.get("reasoning")))
        end = choice.get("finish_reason") or end
    if end is None:
        raise Fault("a stream that broke off")
    message = {"content": "".join(pieces), "reasoning_content": "".join(thoughts)}
    return {"choices": [{"message": message, "finish_reason": end}], "usage": usage}


def _chunks(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data in ("", "[DONE]"):
            continue
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            raise Fault(f"a stream with a chunk that is no JSON: {excerpt(data)}") from None
        if isinstance(chunk, dict):
            yield chunk


def _text(message: dict[str, Any]) -> tuple[str, bool]:
    """The text of a message, and whether it is only reasoning because the message holds nothing else."""
    for name in ("content", "parsed"):
        if (text := _flat(message.get(name))).strip():
            return text, False
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    for function in (*functions, message.get("function_call")):
        if isinstance(function, dict) and (text := _flat(function.get("arguments"))).strip():
            return text, False
    return _flat(message.get("reasoning_content") or message.get("reasoning")), True


def _flat(content: Any) -> str:
    """Content as text: a string, a list of parts, or the object itself."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part) for part in content)
    return json.dumps(content) if isinstance(content, dict) and content else ""


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") in ("thinking", "reasoning"):
        return ""
    return _flat(part.get("text") or part.get("content") or part.get("json"))


def _tokens(answer: dict[str, Any]) -> Tokens:
    usage = answer.get("usage")
    counts = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (int(count) if isinstance(count, int | float) and 0 <= count < 1e12 else 0 for count in counts)
    return prompt, completion


def _reported(answer: dict[str, Any]) -> ServerError:
    """An error report in its many shapes: an object, a text, or a body without choices."""
    error = answer.get("error") or answer.get("errors") or answer.get("detail") or answer.get("message") or answer
    if isinstance(error, list) and error:
        error = error[0]
    fields = error if isinstance(error, dict) else answer
    codes = [fields.get(name) for name in ("code", "status", "status_code", "http_code")]
    status = next((int(code) for code in codes if re.fullmatch(r"[1-5]\d\d", str(code))), None)
    words = fields.get("message") or fields.get("msg") or error if isinstance(error, dict) else error
    named = [str(fields[name]) for name in ("code", "type") if isinstance(fields.get(name), str) and fields is not answer]
    field = fields.get("param")
    unsupported = fields.get("code") in UNSUPPORTED and isinstance(field, str) and field
    return ServerError(excerpt(words) + (f" ({', '.join(named)})" if named else ""), status, field if unsupported else None)
