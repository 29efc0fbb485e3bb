"""Completions as values: `parse` and `render` are inverse to each other on every legal response."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from saferflow.protocol.surface import (
    CLOSE_ANSWER,
    CLOSE_THINKING,
    OPEN_ANSWER,
    OPEN_THINKING,
    Span,
    find_blocks,
)

NAME = re.compile(r"\[([A-Z0-9_-]+)\]\s*:")
"""The start of a call: tool name and colon, as the released code reads them [K]."""

FIELD = re.compile(r"\s*+([a-z][a-z0-9_]*+)\s*+=")
"""The start of a field: its key and the equals sign. Possessive, so that the match never backtracks."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a virtual tool: its typed fields, in order, and the text beside them (all of a free observation)."""

    tool: str
    fields: tuple[tuple[str, str], ...] = ()
    text: str = ""

    def get(self, name: str, default: str = "") -> str:
        """The value of the first field called `name`."""
        return next((value for key, value in self.fields if key == name), default)


@dataclass(frozen=True, slots=True)
class Response:
    """A policy completion as trace and answer."""

    trace: tuple[Call, ...]
    answer: str


class Line(NamedTuple):
    """A non-empty line of a thinking block: its number in the completion, from 1, and the call on it, if it is one."""

    number: int
    text: str
    call: Call | None


def parse(text: str) -> Response:
    """Read as much as possible of the first thinking block and the first answer block. Never raises.

    Lines that follow a free-text call belong to its observation, as in the released form; other lines that are no
    call are left out.
    """
    blocks = find_blocks(text)
    trace: list[Call] = []
    more: list[str] = []
    for line in lines(text, blocks.thinking):
        if line.call:
            _extend(trace, more)
            trace.append(line.call)
        else:
            more.append(line.text)
    _extend(trace, more)
    answer = text[blocks.answer.start : blocks.answer.end].strip() if blocks.answer else ""
    return Response(tuple(trace), answer)


def render(response: Response) -> str:
    """Write a response in the protocol's surface form, without a line break at the end."""
    calls = "".join(f"[{call.tool}]: {observation(call)}".rstrip() + "\n" for call in response.trace)
    return f"{OPEN_THINKING}\n{calls}{CLOSE_THINKING}\n{OPEN_ANSWER}\n{response.answer}\n{CLOSE_ANSWER}"


def observation(call: Call) -> str:
    """The text after the colon of a call: its fields, then its text."""
    return "; ".join([f"{key}={value}" for key, value in call.fields] + [call.text] * bool(call.text))


def plain(value: str) -> str:
    """Make `value` fit into a text field: one line, no `;`, none of the protocol's tags."""
    value = value.replace("<", "(").replace(">", ")") if "<" in value else value
    return " ".join(value.replace(";", ",").split())


def lines(text: str, span: Span | None) -> Iterator[Line]:
    """The non-empty lines of `text[span]`, one at a time. Only a line feed ends a line."""
    if span is None:
        return
    first = text.count("\n", 0, span.start) + 1
    for number, piece in enumerate(text[span.start : span.end].split("\n"), first):
        line = piece.strip()
        if line:
            yield Line(number, line, read_call(line))


def read_call(line: str) -> Call | None:
    """The call on a stripped line, or None where the line does not begin with `[TOOL-NAME]:`."""
    match = NAME.match(line)
    if match is None:
        return None
    rest = line[match.end() :].strip()
    fields, text = [], []
    for piece in rest.split(";"):
        field = FIELD.match(piece)
        if field:
            fields.append((field[1], piece[field.end() :].strip()))
        else:
            text.append(piece)
    return Call(match[1], tuple(fields), ";".join(text).strip() if fields else rest)


def _extend(trace: list[Call], more: list[str]) -> None:
    """Append the lines since the last call to that call if it holds free text, and clear them."""
    if trace and more and not trace[-1].fields:
        trace[-1] = Call(trace[-1].tool, (), "\n".join([trace[-1].text, *more]).strip())
    more.clear()
