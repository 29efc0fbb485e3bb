"""Questions about an automaton that need a walk over its states."""

from collections import deque
from functools import lru_cache

from saferflow.protocol.topologies import GATE, Automaton, State

REACH_LIMIT = 4096
"""Most states that `resume` visits; only a loop with two returns has more."""


def states(automaton: Automaton) -> tuple[State, ...]:
    """Every reachable state, nearest first."""
    reached = {automaton.start: None}
    queue = deque(reached)
    while queue:
        for edge in automaton.edges(queue.popleft()):
            if edge.target not in reached:
                reached[edge.target] = None
                queue.append(edge.target)
    return tuple(reached)


def targets_first(automaton: Automaton) -> list[State]:
    """Every reachable state, each after its successors; the automaton has no cycle."""
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
    """The tools that legal traces with this gate decision still call after `state`, with tools of `within` only.

    None where no such trace can end.
    """
    tools: set[str] | None = set() if automaton.accepting(state) else None
    for edge in automaton.edges(state):
        if edge.tool in within and (edge.tool != GATE or edge.decision == decision):
            rest = reach(automaton, edge.target, decision, within)
            if rest is not None:
                tools = (tools or set()) | {edge.tool} | rest
    return None if tools is None else frozenset(tools)


def allowed(automaton: Automaton, decision: str) -> frozenset[str]:
    """The tools that some legal trace with this gate decision calls."""
    return reach(automaton, automaton.start, decision, frozenset(automaton.tools)) or frozenset()


@lru_cache(maxsize=8192)
def required(automaton: Automaton, decision: str) -> frozenset[str]:
    """The tools that every legal trace with this gate decision calls."""
    return frozenset(tool for tool in allowed(automaton, decision) if not _ends_without(automaton, decision, tool))


@lru_cache(maxsize=65536)
def resume(automaton: Automaton, state: State, tool: str, decision: str) -> State | None:
    """The state from which a check goes on after an illegal call: the nearest one after `tool`, with steps skipped before it.

    None where `tool` cannot be called from `state` on. The gate is never skipped.
    """
    reached = {state}
    queue = deque(reached)
    while queue and len(reached) < REACH_LIMIT:
        here = queue.popleft()
        for edge in automaton.edges(here):
            if edge.tool == tool and edge.decision == decision:
                return edge.target
            if edge.tool != GATE and edge.target not in reached:
                reached.add(edge.target)
                queue.append(edge.target)
    return None


def _ends_without(automaton: Automaton, decision: str, tool: str) -> bool:
    """Whether some legal trace with this gate decision never calls `tool`."""
    return reach(automaton, automaton.start, decision, frozenset(automaton.tools) - {tool}) is not None
