"""The rules a completion must obey under a plan: form, order, fields, answer. Each broken rule is one `Violation`."""

import re
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from saferflow.protocol.order import Step, check_order
from saferflow.protocol.stance import contradicts
from saferflow.protocol.surface import TAG, TAGS, Blocks, Span, find_blocks
from saferflow.protocol.topologies import GATE, guard
from saferflow.protocol.trace import lines
from saferflow.protocol.typed import field_faults
from saferflow.protocol.violation import CODES, Violation, quote

if TYPE_CHECKING:
    from saferflow.protocol.plan import Plan

__all__ = ["CODES", "Violation", "check"]

LINE = attrgetter("line")
CALL = ("[TOOL-NAME]: …",)
LEADING = re.compile(rf"\s+|{TAG.pattern}")


def check(plan: "Plan | None", text: str) -> tuple[Violation, ...]:
    """Every violation in a completion, in the order of its lines. Never raises; takes time linear in the length of `text`.

    On one line, violations of order come before those of fields; those of fields come in the order of the text.

    Without a plan (a trace in the released form, which has no fields and lets a model invent tools), the check covers only
    what needs no plan: the tags, the text around them, the answer, and the values of calls that are written as fields.
    """
    blocks = find_blocks(text)
    steps: list[Step] = []
    within: list[Violation] = []
    for line in lines(text, blocks.thinking):
        call = line.call
        if call:
            steps.append((line.number, call.tool, guard(call.tool, call.fields)))
            for code, seen, legal in field_faults(call, strict=plan is not None):
                within.append(Violation(code, len(steps), line.number, seen, legal))
        elif plan is not None:
            within.append(Violation("T003", 0, line.number, quote(line.text), CALL))
    violations = list(_tags(blocks, text))
    if plan is not None:
        violations.extend(check_order(plan, steps, _line(text, blocks.thinking.end) if blocks.thinking else 1))
    violations.extend(within)
    violations.extend(_answer(blocks.answer, text, steps))
    violations.sort(key=LINE)
    return tuple(violations)


def _tags(blocks: Blocks, text: str) -> Iterator[Violation]:
    names = tuple([tag for tag, _ in blocks.tags])
    if names != TAGS:
        yield from _malformed(names, blocks, text)
    for gap in _gaps(blocks, len(text)):
        piece = TAG.sub(" ", text[gap.start : gap.end]).strip()
        if piece:
            yield Violation("T002", 0, _line(text, _first_word(text, gap)), quote(piece), ("white space",))


def _malformed(names: tuple[str, ...], blocks: Blocks, text: str) -> Iterator[Violation]:
    for tag in TAGS:
        count = names.count(tag)
        if count != 1:
            where = next((start for name, start in blocks.tags if name == tag), len(text))
            yield Violation("T001", 0, _line(text, where), f"{count} of {tag}", (f"1 of {tag}",))
    if len(names) == len(set(names)) == len(TAGS):
        yield Violation("T001", 0, _line(text, blocks.tags[0][1]), " ".join(names), (" ".join(TAGS),))


def _gaps(blocks: Blocks, length: int) -> Iterator[Span]:
    """Yield the pieces before, between and after the blocks; they may hold tags."""
    at = 0
    for start, end in sorted(span for span in (blocks.thinking, blocks.answer) if span):
        yield Span(at, max(at, start))
        at = max(at, end)
    yield Span(at, length)


def _first_word(text: str, gap: Span) -> int:
    """Offset of the first character that is neither white space nor part of a tag."""
    at = gap.start
    while match := LEADING.match(text, at, gap.end):
        at = match.end()
    return at


def _answer(span: Span | None, text: str, steps: list[Step]) -> Iterator[Violation]:
    if span is None:
        return
    answer = text[span.start : span.end].strip()
    line = _line(text, span.start)
    if not answer:
        yield Violation("T301", 0, line, "nothing", ("text",))
    step, decision = next(((n, guarded) for n, (_, tool, guarded) in enumerate(steps, 1) if tool == GATE), (0, ""))
    words = contradicts(decision, answer)
    if words:
        legal = "an answer that declines" if decision == "refuse" else "an answer that gives what was asked for"
        yield Violation("T302", step, line, f"decision={decision} and an answer that begins {words!r}", (legal,))


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1
