"""Questions about an automaton that take a walk over its states."""

from collections import deque
from functools import lru_cache

from saferflow.protocol.topologies import GATE, Automaton, State

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


def targets_first(automaton: Automaton) -> list[State]:
    """Every reachable state, after all states that its edges lead to; the automaton has no cycle."""
    order, seen, stack = [], set(), [(automaton.start, False)]
    while stack:
        state, left = stack.pop()
        if left:
            order.append(state)
        elif state not in seen:
            seen.add(state)
            stack.append((state, True))
            stack.extend((edge.target, False) for edge in automaton.edges(state))
    return order


@lru_cache(maxsize=65536)
def reach(automaton: Automaton, state: State, decision: str, within: frozenset[str]) -> frozenset[str] | None:
    """The tools that legal traces with this gate decision, of tools `within` alone, still call after `state`.

    None where no such trace comes to its end.
    """
    found: set[str] | None = set() if automaton.accepting(state) else None
    for edge in automaton.edges(state):
        if edge.tool in within and (edge.tool != GATE or edge.decision == decision):
            rest = reach(automaton, edge.target, decision, within)
            if rest is not None:
                found = (found or set()) | {edge.tool} | rest
    return None if found is None else frozenset(found)


def allowed(automaton: Automaton, decision: str) -> frozenset[str]:
    """The tools that some legal trace with this gate decision calls."""
    return reach(automaton, automaton.start, decision, frozenset(automaton.tools)) or frozenset()


@lru_cache(maxsize=8192)
def required(automaton: Automaton, decision: str) -> frozenset[str]:
    """The tools that every legal trace with this gate decision calls."""
    return frozenset(tool for tool in allowed(automaton, decision) if not _ends_without(automaton, decision, tool))


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


def _ends_without(automaton: Automaton, decision: str, tool: str) -> bool:
    """Whether some legal trace with this gate decision never calls `tool`."""
    return reach(automaton, automaton.start, decision, frozenset(automaton.tools) - {tool}) is not None
