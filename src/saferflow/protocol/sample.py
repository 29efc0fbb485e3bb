"""Draws legal traces: a walk over the automaton that picks among its edges."""

import random
from typing import TYPE_CHECKING

from saferflow.protocol.paths import allowed, reach, required
from saferflow.protocol.tools import DECISIONS, LEVELS, TOOLS, Field, Layer
from saferflow.protocol.topologies import GATE, Automaton, Edge, State
from saferflow.protocol.trace import Call

if TYPE_CHECKING:
    from saferflow.protocol.plan import Plan

BLANK = "..."
"""Placeholder for words in a skeleton; a legal text, and a legal list of one item."""

AGAIN = 0.5
"""Chance of a legal call that nothing requires: a loop's second look (ours)."""


def sample(
    plan: "Plan",
    rng: random.Random,
    decision: str | None = None,
    coverage: float = 1.0,
    last: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    """Draw the tool names of a legal trace whose gate decides `decision`; None draws the decision first.

    Args:
        coverage: chance, in [0, 1], with which each optional tool is taken; at 1 every tool that the decision
            allows is called.
        last: tools called only when no other wanted tool is legal.

    Raises:
        ValueError: `decision` is not one of the four.
    """
    decision = rng.choice(DECISIONS) if decision is None else decision
    if decision not in DECISIONS:
        raise ValueError(f"decision is one of {', '.join(DECISIONS)}, got {decision!r}")
    automaton = plan.automaton
    left = set(_wanted(automaton, rng, decision, coverage))
    wanted = frozenset(left)
    state, trace = automaton.start, []
    while left or not automaton.accepting(state):
        edge = _pick(_useful(automaton, state, decision, left, wanted), left, last, rng)
        left.discard(edge.tool)
        trace.append(edge.tool)
        state = edge.target
    return tuple(trace)


def skeleton(plan: "Plan", rng: random.Random, decision: str | None = None, coverage: float = 1.0) -> tuple[Call, ...]:
    """Draw a legal trace as `sample` does, with fields: a drawn value where values can be listed, else `BLANK`."""
    decision = rng.choice(DECISIONS) if decision is None else decision
    names = sample(plan, rng, decision, coverage)
    return tuple(
        Call(name, tuple((field.name, _value(field, decision, rng)) for field in TOOLS[name].fields)) for name in names
    )


def _value(field: Field, decision: str, rng: random.Random) -> str:
    if field.choices == DECISIONS:
        return decision
    if field.type == "enum":
        return rng.choice(field.choices)
    if field.type == "level":
        return rng.choice(LEVELS)
    return "0.5" if field.type == "score" else BLANK


def _wanted(automaton: Automaton, rng: random.Random, decision: str, coverage: float) -> list[str]:
    """The tools that this trace will call: all required ones, some optional ones, one of each layer."""
    everything = sorted(allowed(automaton, decision))
    must = required(automaton, decision)
    wanted = [tool for tool in everything if tool in must or rng.random() < coverage]
    for layer in (Layer.PERCEPTION, Layer.REASONING):
        if not any(TOOLS[tool].layer is layer for tool in wanted):
            wanted.append(rng.choice([tool for tool in everything if TOOLS[tool].layer is layer]))
    return wanted


def _useful(automaton: Automaton, state: State, decision: str, left: set[str], wanted: frozenset[str]) -> list[Edge]:
    """The edges to wanted tools after which the end and every other wanted tool stay reachable."""
    return [
        edge
        for edge in automaton.edges(state)
        if edge.tool in wanted
        and (edge.tool != GATE or edge.decision == decision)
        and (rest := reach(automaton, edge.target, decision, wanted)) is not None
        and left - {edge.tool} <= rest
    ]


def _pick(edges: list[Edge], left: set[str], last: frozenset[str], rng: random.Random) -> Edge:
    fresh = [edge for edge in edges if edge.tool in left]
    fresh = [edge for edge in fresh if edge.tool not in last] or fresh
    again = [edge for edge in edges if edge.tool not in left]
    return rng.choice(again if again and (not fresh or rng.random() < AGAIN) else fresh)
