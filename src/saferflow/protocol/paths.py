"""Questions about an automaton that take a walk over its states."""

from collections import deque
from functools import lru_cache

from saferflow.protocol.topologies import GATE, Automaton, State, guard

REACH_LIMIT = 4096
"""States that `resume` looks at before it gives up; only a loop with two returns has more."""


def states(automaton: Automaton) -> tuple[State, ...]:
    """Every reachable state, nearest first."""
    found = {automaton.start: None}
    queue = deque(found)
    while queue:
        for edge in automaton.edges(queue.popleft()):
            if edge.target not in found:
                found[edge.target] = None
                queue.append(edge.target)
    return tuple(found)


@lru_cache(maxsize=65536)
def reach(automaton: Automaton, state: State, decision: str) -> frozenset[str]:
    """The tools that some legal trace with this gate decision still calls after `state`."""
    found: set[str] = set()
    for edge in automaton.edges(state):
        if edge.tool != GATE or edge.decision == decision:
            found |= {edge.tool} | reach(automaton, edge.target, decision)
    return frozenset(found)


@lru_cache(maxsize=8192)
def required(automaton: Automaton, decision: str) -> frozenset[str]:
    """The tools that every legal trace with this gate decision calls."""
    everything = reach(automaton, automaton.start, decision)
    return frozenset(tool for tool in everything if not _ends_without(automaton, decision, tool))


@lru_cache(maxsize=65536)
def resume(automaton: Automaton, state: State, tool: str, decision: str) -> State | None:
    """Where a checker goes on after an illegal call: the state after `tool`, called as early as skipping steps allows.

    None where `tool` cannot be called from `state` on. The gate is never skipped.
    """
    found = {state}
    queue = deque(found)
    while queue and len(found) < REACH_LIMIT:
        here = queue.popleft()
        for edge in automaton.edges(here):
            if edge.tool == tool and edge.decision == decision:
                return edge.target
            if edge.tool != GATE and edge.target not in found:
                found.add(edge.target)
                queue.append(edge.target)
    return None


def resume_after(automaton: Automaton, state: State, tool: str, fields: tuple[tuple[str, str], ...]) -> State | None:
    """`resume` for a call as it was written."""
    return resume(automaton, state, tool, guard(tool, fields))


def _ends_without(automaton: Automaton, decision: str, tool: str) -> bool:
    """Whether some legal trace with this gate decision never calls `tool`."""
    found = {automaton.start}
    queue = deque(found)
    while queue:
        here = queue.popleft()
        if automaton.accepting(here):
            return True
        for edge in automaton.edges(here):
            allowed = edge.tool != tool and (edge.tool != GATE or edge.decision == decision)
            if allowed and edge.target not in found:
                found.add(edge.target)
                queue.append(edge.target)
    return False
