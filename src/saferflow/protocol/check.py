"""The rules a trace must obey under a plan. Each broken rule is one `Violation`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from saferflow.protocol.paths import resume_after
from saferflow.protocol.stance import contradicts
from saferflow.protocol.surface import TAG, TAGS, Blocks, Span, find_blocks
from saferflow.protocol.tools import TOOLS, Field, Layer
from saferflow.protocol.topologies import GATE
from saferflow.protocol.trace import Call, Line, lines

if TYPE_CHECKING:
    from saferflow.protocol.plan import Plan

CODES: dict[str, str] = {
    "T001": "malformed tags",
    "T002": "text outside the tags",
    "T003": "a line that is not a call",
    "T101": "unknown tool",
    "T102": "tool that the plan lacks",
    "T103": "repeated call",
    "T104": "illegal transition",
    "T105": "missing layer",
    "T106": "missing gate",
    "T107": "route that contradicts the gate",
    "T201": "unknown field",
    "T202": "missing field",
    "T203": "value of the wrong type",
    "T204": "repeated field",
    "T205": "free text where fields are declared",
    "T301": "empty answer",
    "T302": "answer that contradicts the gate",
}
"""Code -> meaning. Codes are stable: one that is dropped is never given to another rule."""

LEADING = re.compile(rf"\s+|{TAG.pattern}")

END = "the end"
SHOWN = 60
"""Characters of a completion that a message quotes."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: at which call (`step`, from 1; 0 where it is no call's fault), on which line (from 1), what was
    found, and what was legal there."""

    code: str
    step: int
    line: int
    found: str
    legal: tuple[str, ...]

    def __str__(self) -> str:
        legal = f"; legal: {', '.join(self.legal)}" if self.legal else ""
        return f"{self.line}: {self.code} {CODES[self.code]}: found {self.found}{legal}"


def check(plan: "Plan | None", text: str) -> tuple[Violation, ...]:
    """Every violation in a completion, in the order of its lines. Never raises; linear in the length of `text`.

    Without a plan (a trace in the released form, which knows no fields and lets a model invent tools), only what needs
    no plan is checked: the tags, the text around them, the answer, and the values of calls that are written as fields.
    """
    blocks = find_blocks(text)
    found = list(_tags(blocks, text))
    read = lines(text, blocks.thinking)
    calls = [line for line in read if line.call]
    found.extend(_fields(plan is not None, calls))
    if plan is not None:
        found.extend(_prose(read))
        found.extend(_order(plan, calls, _line(text, blocks.thinking.end) if blocks.thinking else 1))
    found.extend(_answer(blocks.answer, text, calls))
    return tuple(sorted(found, key=lambda violation: (violation.line, violation.code)))


def _tags(blocks: Blocks, text: str) -> Iterator[Violation]:
    names = [tag for tag, _ in blocks.tags]
    for tag in TAGS:
        count = names.count(tag)
        if count != 1:
            where = next((start for name, start in blocks.tags if name == tag), len(text))
            yield Violation("T001", 0, _line(text, where), f"{count} × {tag}", (f"1 × {tag}",))
    if len(names) == len(set(names)) == len(TAGS) and tuple(names) != TAGS:
        yield Violation("T001", 0, _line(text, blocks.tags[0][1]), " ".join(names), (" ".join(TAGS),))
    for gap in _gaps(blocks, len(text)):
        piece = TAG.sub(" ", text[gap.start : gap.end])
        if not piece.isspace() and piece:
            yield Violation("T002", 0, _line(text, _first_word(text, gap)), _quote(piece.strip()), ())


def _gaps(blocks: Blocks, length: int) -> Iterator[Span]:
    """The pieces before, between and after the blocks; tags may stand in them."""
    at = 0
    for start, end in sorted(span for span in (blocks.thinking, blocks.answer) if span):
        yield Span(at, max(at, start))
        at = max(at, end)
    yield Span(at, length)


def _first_word(text: str, gap: Span) -> int:
    """Where the first character stands that is neither white space nor part of a tag."""
    at = gap.start
    while match := LEADING.match(text, at, gap.end):
        at = match.end()
    return at


def _prose(read: tuple[Line, ...]) -> Iterator[Violation]:
    for line in read:
        if not line.call:
            yield Violation("T003", 0, line.number, _quote(line.text), ("[TOOL-NAME]: …",))


def _order(plan: "Plan", calls: list[Line], last_line: int) -> Iterator[Violation]:
    """Walk the calls through the plan's automaton; after an illegal one, go on where the trace can be picked up."""
    automaton = plan.automaton
    names = {line.call.tool for line in calls}
    layers = {TOOLS[tool].layer for tool in names if tool in plan.tools}
    absent = [layer for layer in (Layer.PERCEPTION, Layer.REASONING) if layer not in layers]
    gateless = GATE not in names
    wrong_route = False
    called: set[str] = set()
    state = automaton.start
    for step, line in enumerate(calls, 1):
        call = line.call
        after = automaton.step(state, call.tool, call.fields) if call.tool in plan.tools else None
        if after is not None:
            state = after
            called.add(call.tool)
            continue
        code = _code(plan, call.tool, called, state.layer)
        legal = automaton.legal(state) or (END,)
        if code == "T104":
            called.add(call.tool)
            layer = TOOLS[call.tool].layer
            skipped = [lost for lost in absent if lost < layer]
            absent = [lost for lost in absent if lost not in skipped]
            if skipped:
                for lost in skipped:
                    yield Violation("T105", step, line.number, f"{call.tool} and no {lost} call", legal)
            elif gateless and layer is Layer.DECISION:
                gateless = False
                yield Violation("T106", step, line.number, call.tool, legal)
            else:
                yield Violation(code, step, line.number, call.tool, legal)
            state = resume_after(automaton, state, call.tool, call.fields) or state
        else:
            wrong_route = wrong_route or code == "T107"
            yield Violation(code, step, line.number, call.tool, legal)
    legal = automaton.legal(state)
    yield from (Violation("T105", 0, last_line, f"no {layer} call", legal) for layer in absent)
    if gateless:
        yield Violation("T106", 0, last_line, END, legal)
    elif state.layer is Layer.DECISION and state.due and not wrong_route:
        yield Violation("T107", len(calls), last_line, END, legal)


def _code(plan: "Plan", tool: str, called: set[str], layer: Layer | None) -> str:
    """Why a call that the automaton does not allow is illegal."""
    if tool not in TOOLS:
        return "T101"
    if tool not in plan.tools:
        return "T102"
    if tool in called:
        return "T103"
    return "T107" if layer is Layer.DECISION and TOOLS[tool].layer is Layer.DECISION and tool != GATE else "T104"


def _fields(strict: bool, calls: list[Line]) -> Iterator[Violation]:
    for step, line in enumerate(calls, 1):
        tool = TOOLS.get(line.call.tool)
        if tool and tool.fields and (strict or line.call.fields):
            for code, found, legal in _field_faults(tool.name, line.call, strict):
                yield Violation(code, step, line.number, found, legal)


def _field_faults(name: str, call: Call, strict: bool) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    declared, shape = _declared(name)
    seen: set[str] = set()
    for key, value in call.fields:
        field = declared.get(key)
        if key in seen:
            yield "T204", _quote(key), shape
        elif field is None:
            if strict:
                yield "T201", _quote(key), shape
        elif not field.accepts(value):
            yield "T203", _quote(f"{key}={value}"), (f"{key}={field.expects}",)
        seen.add(key)
    if not strict:
        return
    if call.text or not call.fields:
        yield "T205", _quote(call.text) or "nothing", shape
    for field in declared.values() if call.fields else ():
        if field.required and field.name not in seen:
            yield "T202", f"no {field.name}", (f"{field.name}={field.expects}",)


@cache
def _declared(name: str) -> tuple[dict[str, Field], tuple[str, ...]]:
    """A tool's fields by name, and how they are written."""
    fields = TOOLS[name].fields
    return {field.name: field for field in fields}, tuple(f"{field.name}={field.expects}" for field in fields)


def _answer(span: Span | None, text: str, calls: list[Line]) -> Iterator[Violation]:
    if span is None:
        return
    answer = text[span.start : span.end].strip()
    line = _line(text, span.start)
    if not answer:
        yield Violation("T301", 0, line, "nothing", ("text",))
    step, decision = next(((n, c.call.get("decision")) for n, c in enumerate(calls, 1) if c.call.tool == GATE), (0, ""))
    words = contradicts(decision, answer)
    if words:
        yield Violation("T302", step, line, f"decision={decision} and an answer that begins {words!r}", ())


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _quote(words: str) -> str:
    return repr(words[:SHOWN]) + "…" * (len(words) > SHOWN) if words else ""
