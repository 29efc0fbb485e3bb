"""A plan's automaton as a grammar, so that a served model cannot leave its plan.

The text is a Lark grammar in llguidance's dialect. llguidance takes it in the transformers loop (`training.constrained`),
vLLM as a structured output. One rule per state of the automaton, one alternative per edge: right-linear, and so equal to
the automaton. Free text is bounded, so that every completion ends. Only the check can see an answer that contradicts the
gate.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from saferflow.protocol.paths import states, targets_first
from saferflow.protocol.surface import CLOSE_ANSWER, CLOSE_THINKING, OPEN_ANSWER, OPEN_THINKING
from saferflow.protocol.tools import DECISIONS, LEVELS, TOOLS, Field
from saferflow.protocol.topologies import GATE, Automaton, State

if TYPE_CHECKING:
    from saferflow.protocol.plan import Plan

CONTROL = r"\x00-\x1f\x7f-\x9f"
UTF8 = 4
"""Bytes of the longest character, and so the most tokens per character."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The longest free text, in characters; lists in items."""

    text: int = 80
    item: int = 40
    items: int = 8
    answer: int = 800
    calls: int = 32
    """Most calls of a trace without a plan; a plan sets its own limit."""


def lark_without_plan(bounds: Bounds = Bounds()) -> str:
    """The grammar of the protocol's form: declared calls in any order, then an answer. For a server without plans."""
    calls = {_call_rule(tool, ""): _call(tool, "") for tool in TOOLS if tool != GATE}
    calls |= {_call_rule(GATE, decision): _call(GATE, decision) for decision in DECISIONS}
    lines = [
        f"start: {_quoted(OPEN_THINKING + chr(10))} call{{1,{bounds.calls}}} last",
        f"call: {' | '.join(calls)}",
        *(f"{rule}: {words}" for rule, words in calls.items()),
    ]
    return "\n".join(lines + _ending(bounds)) + "\n"


@lru_cache(maxsize=256)
def lark(plan: "Plan", bounds: Bounds = Bounds()) -> str:
    """The grammar of the legal completions of a plan, fields in the order in which the tools declare them."""
    automaton = plan.automaton
    rules = {state: f"s{number}" for number, state in enumerate(states(automaton))}
    lines = [f"start: {_quoted(OPEN_THINKING + chr(10))} {rules[automaton.start]}"]
    for state, rule in rules.items():
        ways = [
            f"{_call_rule(edge.tool, edge.decision)} {rules[edge.target]}"
            for edge in automaton.edges(state)
            if edge.tool != GATE or edge.decision
        ]
        lines.append(f"{rule}: {' | '.join(ways + ['last'] * automaton.accepting(state))}")
    lines += dict.fromkeys(_calls(automaton))
    return "\n".join(lines + _ending(bounds)) + "\n"


def vllm_request(plan: "Plan", bounds: Bounds = Bounds()) -> dict[str, Any]:
    """The fields of a request to vLLM's OpenAI-compatible server beside the messages (`extra_body`), from vLLM 0.12 on.

    Its backend has to be guidance: `vllm serve … --structured-outputs-config.backend guidance`.
    """
    return {"structured_outputs": {"grammar": lark(plan, bounds)}}


def longest(plan: "Plan", bounds: Bounds = Bounds()) -> int:
    """The most tokens of a completion of the grammar before its end, by any byte-level tokenizer."""
    automaton = plan.automaton
    most: dict[State, int] = {}
    for state in targets_first(automaton):
        steps = [
            _call_bytes(edge.tool, bounds) + most[edge.target]
            for edge in automaton.edges(state)
            if edge.tool != GATE or edge.decision
        ]
        most[state] = max(steps, default=0)
    frame = sum(map(len, (OPEN_THINKING, CLOSE_THINKING, OPEN_ANSWER, CLOSE_ANSWER))) + 4
    return frame + most[automaton.start] + UTF8 * bounds.answer


def _call_rule(tool: str, decision: str) -> str:
    return f"c_{tool.lower().replace('-', '_')}{'_' + decision if decision else ''}"


def _calls(automaton: Automaton) -> list[str]:
    edges = {(edge.tool, edge.decision) for state in states(automaton) for edge in automaton.edges(state)}
    return [
        f"{_call_rule(tool, decision)}: {_call(tool, decision)}"
        for tool, decision in sorted(edges)
        if tool != GATE or decision
    ]


def _call(tool: str, decision: str) -> str:
    """A line of a trace: literals between the values of the declared fields."""
    parts, literal = [], f"[{tool}]: "
    for number, field in enumerate(TOOLS[tool].fields):
        literal += f"{'; ' if number else ''}{field.name}="
        if tool == GATE and field.name == "decision":
            literal += decision
            continue
        parts += [_quoted(literal), _value(field)]
        literal = ""
    if not TOOLS[tool].fields:
        parts, literal = [_quoted(literal), "TEXT"], ""
    return " ".join([*parts, _quoted(literal + "\n")])


def _value(field: Field) -> str:
    if field.type == "enum":
        return f"({' | '.join(map(_quoted, field.choices))})"
    return field.type.upper()


def _call_bytes(tool: str, bounds: Bounds) -> int:
    free = {"text": UTF8 * bounds.text, "list": bounds.items * (UTF8 * bounds.item + 2), "level": 1, "score": 4}
    fields = TOOLS[tool].fields
    values = sum(free.get(field.type) or max(map(len, field.choices)) for field in fields)
    return len(f"[{tool}]: \n") + values + sum(len(field.name) + 3 for field in fields) + (not fields) * free["text"]


def _ending(bounds: Bounds) -> list[str]:
    """The rules of the answer, and the terminals. Free text begins and ends with a character that no reader strips, and holds
    none of the form's own marks.
    """
    text = _words(rf";<{CONTROL}", bounds.text)
    item = _words(rf",;<{CONTROL}", bounds.item)
    answer = _words(rf"<{CONTROL}", bounds.answer, r"<\x00-\x09\x0b-\x1f\x7f-\x9f")
    return [
        f"last: {_quoted(f'{CLOSE_THINKING}{chr(10)}{OPEN_ANSWER}{chr(10)}')} ANSWER",
        f"TEXT: /{text}/",
        f"LIST: /{item}(, {item}){{0,{bounds.items - 1}}}/",
        f"LEVEL: /[{LEVELS[0]}-{LEVELS[-1]}]/",
        r"SCORE: /0(\.[0-9]{1,2})?|1(\.0)?/",
        # The closing tag is part of the terminal: a line break inside an answer and the one after it look alike.
        rf"ANSWER: /{answer}\n<\/answer>/",
    ]


def _words(never: str, most: int, never_inside: str = "") -> str:
    return rf"[^\s{never}]([^{never_inside or never}]{{0,{most - 2}}}[^\s{never}])?"


def _quoted(words: str) -> str:
    return json.dumps(words)
