"""Finds the blocks of a completion by the tags of the released form [K], in one pass over the text."""

import re
from typing import NamedTuple

OPEN_THINKING, CLOSE_THINKING = "<thinking>", "</thinking>"
OPEN_ANSWER, CLOSE_ANSWER = "<answer>", "</answer>"
TAGS = (OPEN_THINKING, CLOSE_THINKING, OPEN_ANSWER, CLOSE_ANSWER)
"""The tags in the order of a well-formed completion, each once."""

# No quantifier that could backtrack: the released test takes cubic time on an unclosed tag.
TAG = re.compile("|".join(TAGS))


class Span(NamedTuple):
    """A piece of the text: `text[start:end]`."""

    start: int
    end: int


class Blocks(NamedTuple):
    """The pieces that can be read from a completion, well formed or not.

    `thinking` and `answer` are None where no tag locates the piece. `tags` are (tag, offset) in the order of the
    text.
    """

    thinking: Span | None
    answer: Span | None
    tags: tuple[tuple[str, int], ...]


def find_blocks(text: str) -> Blocks:
    """Find the first thinking block and the first answer block after it.

    A block whose closing tag is missing runs to the next block or to the end; thinking whose opening tag is missing
    starts with the text. An answer before or inside the thinking counts only where none follows it.
    """
    tags = tuple([(match.group(), match.start()) for match in TAG.finditer(text)])
    if tuple([tag for tag, _ in tags]) == TAGS:
        opened, closed, begun, ended = (start for _, start in tags)
        return Blocks(Span(opened + len(OPEN_THINKING), closed), Span(begun + len(OPEN_ANSWER), ended), tags)
    thinking = _thinking(tags, len(text))
    after = thinking.end if thinking else 0
    start = _first(tags, OPEN_ANSWER, after)
    if start is None:
        start = _first(tags, OPEN_ANSWER, 0)
    if start is None:
        return Blocks(thinking, None, tags)
    start += len(OPEN_ANSWER)
    close = _first(tags, CLOSE_ANSWER, start)
    if close is None:
        close = thinking.start - len(OPEN_THINKING) if thinking and thinking.start > start else len(text)
    return Blocks(thinking, Span(start, max(start, close)), tags)


def _thinking(tags: tuple[tuple[str, int], ...], end: int) -> Span | None:
    start = _first(tags, OPEN_THINKING, 0)
    if start is None:
        close = _first(tags, CLOSE_THINKING, 0)
        return None if close is None else Span(0, close)
    start += len(OPEN_THINKING)
    close = _first(tags, CLOSE_THINKING, start)
    if close is None:
        close = _first(tags, OPEN_ANSWER, start)
    return Span(start, end if close is None else close)


def _first(tags: tuple[tuple[str, int], ...], name: str, after: int) -> int | None:
    return next((start for tag, start in tags if tag == name and start >= after), None)
