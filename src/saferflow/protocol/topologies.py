"""A plan's legal orders, compiled to one deterministic automaton over tools, guarded by SAFETY-GATE's decision.

The kinds are published [K]; their edges are ours. A state holds the tools that must come next (`due`) or may come. A kind is
defined by its obligations (`obliges`) and its free choices. Checking, sampling and prompting all read `Automaton.edges`, so
that legality has one definition.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from saferflow.protocol.fields import PlanFields
from saferflow.protocol.tools import DECISIONS, DECLINING, TOOLS, Layer

KINDS = ("linear", "tree", "mesh", "shield", "loop")

GATE = "SAFETY-GATE"
GUARDS = ("JAILBREAK-SENTINEL", "RISK-SCORER")
"""Mandatory in a shield, in this order, right before the gate."""

ROUTES = {
    "answer": "ANSWER-COMPOSER",
    "answer_with_care": "ANSWER-COMPOSER",
    "redirect": "REDIRECT-ENGINE",
    "refuse": "REFUSAL-GENERATOR",
}
"""The tool that may follow the gate, by its decision."""

BINDING = DECLINING
"""Decisions whose tool must follow if the plan has it; after the others the trace may also end."""


class State(NamedTuple):
    """A place in a trace, with only what matters for the rest of it.

    `layer` of the last call (None before the first), `done` tools (or first tools of branches) that are used up in this
    pass, `due` tools that must come next in this order, `routes` tools that may close the trace; for a loop, the
    `returns` so far and the tools that earlier passes called `once` and twice (`spent`).
    """

    layer: Layer | None = None
    done: frozenset[str] = frozenset()
    due: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    returns: int = 0
    once: frozenset[str] = frozenset()
    spent: frozenset[str] = frozenset()


class Edge(NamedTuple):
    """A legal step: the tool, the gate's decision as its guard, and the state after it.

    `decision` is empty for every tool but the gate, and for a gate with an unreadable decision: then any route is open.
    """

    tool: str
    decision: str
    target: State


@dataclass(frozen=True, eq=False)
class Automaton:
    """The legal traces of one plan, as states and guarded edges; edges are computed at first use."""

    kind: str
    perception: tuple[str, ...]
    reasoning: tuple[str, ...]
    routes: tuple[str, ...]
    branches: tuple[tuple[str, ...], ...]
    max_returns: int
    obliges: dict[str, tuple[str, ...]]
    start: State
    _edges: dict[State, tuple[Edge, ...]] = field(default_factory=dict, repr=False)
    _steps: dict[State, dict[tuple[str, str], State]] = field(default_factory=dict, repr=False)
    _legal: dict[State, tuple[str, ...]] = field(default_factory=dict, repr=False)

    @property
    def tools(self) -> tuple[str, ...]:
        """Every tool of the plan: perception, reasoning, the gate, the routes."""
        return (*self.perception, *self.reasoning, GATE, *self.routes)

    def edges(self, state: State) -> tuple[Edge, ...]:
        """Every legal step from `state`, in the plan's order."""
        if state not in self._edges:
            self._edges[state] = tuple(self._compute(state))
        return self._edges[state]

    def step(self, state: State, tool: str, fields: Iterable[tuple[str, str]] = ()) -> State | None:
        """The state after calling `tool` with `fields`, or None where that is not legal."""
        return self.after(state, tool, guard(tool, fields))

    def after(self, state: State, tool: str, decision: str) -> State | None:
        """`step` for a call whose guard has been read."""
        steps = self._steps.get(state)
        if steps is None:
            steps = self._steps[state] = {(edge.tool, edge.decision): edge.target for edge in self.edges(state)}
        return steps.get((tool, decision))

    def legal(self, state: State) -> tuple[str, ...]:
        """The tools that may be called in `state`, each once, in the plan's order."""
        if state not in self._legal:
            self._legal[state] = tuple(dict.fromkeys(edge.tool for edge in self.edges(state)))
        return self._legal[state]

    def accepting(self, state: State) -> bool:
        """Whether a trace may end in `state`."""
        return state.layer is Layer.DECISION and not state.due

    def _compute(self, state: State) -> Iterable[Edge]:
        for tool in self._choices(state):
            if tool == GATE:
                yield from (Edge(GATE, decision, self._gated(decision)) for decision in (*DECISIONS, ""))
            else:
                yield Edge(tool, "", self._after(state, tool))

    def _choices(self, state: State) -> tuple[str, ...]:
        if state.due:
            return state.due[:1]
        if state.layer is Layer.DECISION:
            return state.routes
        return self._branch_heads(state) if self.kind == "tree" else self._mesh(state)

    def _branch_heads(self, state: State) -> tuple[str, ...]:
        """The open branches that never go back a layer, now or later; the gate when none is open."""
        spread = {branch[0]: _spread(branch) for branch in self.branches if branch[0] not in state.done}
        first = min(spread.values(), default=None)
        return tuple(head for head in spread if spread[head] == first) or (GATE,)

    def _mesh(self, state: State) -> tuple[str, ...]:
        """Any remaining tool of this layer, or a step on; for a shield its guards, for a loop a step back."""
        used = state.done | state.spent
        free = self.reasoning if self.kind != "shield" else tuple(t for t in self.reasoning if t not in GUARDS)
        looks = tuple(tool for tool in self.perception if tool not in used)
        thoughts = tuple(tool for tool in free if tool not in used)
        if state.layer is None:
            return looks
        ahead = GUARDS[:1] if self.kind == "shield" else ()
        if state.layer is Layer.PERCEPTION:
            return looks + thoughts + ahead
        return self._returns(state) + thoughts + (ahead or (GATE,))

    def _returns(self, state: State) -> tuple[str, ...]:
        """The perception tools that a step back may call; none where no reasoning tool would be left after it."""
        if self.kind != "loop" or state.returns == self.max_returns:
            return ()
        spent = state.spent | (state.once & state.done)
        return tuple(t for t in self.perception if t not in spent) if set(self.reasoning) - spent else ()

    def _after(self, state: State, tool: str) -> State:
        layer = TOOLS[tool].layer
        due = state.due[1:] if state.due else self.obliges.get(tool, ())
        if layer is Layer.DECISION:
            return State(layer)
        if state.layer is not None and layer < state.layer:
            return self._returned(state, tool)
        if state.layer is not layer and self.kind in ("mesh", "shield"):
            return State(layer, frozenset({tool}), due)
        return state._replace(layer=layer, done=state.done | {tool}, due=due)

    def _returned(self, state: State, tool: str) -> State:
        spent = state.spent | (state.once & state.done)
        last = state.returns + 1 == self.max_returns
        once = frozenset() if last else (state.once | state.done) - spent
        return State(Layer.PERCEPTION, frozenset({tool}), (), (), state.returns + 1, once, spent)

    def _gated(self, decision: str) -> State:
        open_routes = tuple(t for t in self.routes if not decision or t == ROUTES[decision])
        if decision in BINDING:
            return State(Layer.DECISION, due=open_routes)
        return State(Layer.DECISION, routes=open_routes)


def guard(tool: str, fields: Iterable[tuple[str, str]]) -> str:
    """The decision that guards a step: the gate's first `decision` where it is one of the four, else empty."""
    if tool != GATE:
        return ""
    decision = next((value for key, value in fields if key == "decision"), "")
    return decision if decision in DECISIONS else ""


@lru_cache(maxsize=4096)
def compile_plan(plan: PlanFields) -> Automaton:
    """Compile a plan's automaton. Plans that differ only in hazard, severity or persona share one."""
    layers = tuple(plan.layer(layer) for layer in Layer)
    return _compile(plan.topology, layers, plan.paths, plan.max_returns if plan.topology == "loop" else 0)


@lru_cache(maxsize=1024)
def _compile(
    kind: str, layers: tuple[tuple[str, ...], ...], branches: tuple[tuple[str, ...], ...], max_returns: int
) -> Automaton:
    perception, reasoning, decision = layers
    obliges: dict[str, tuple[str, ...]] = {}
    start = State()
    if kind == "linear":
        start = State(due=(*perception, *reasoning, GATE))
    elif kind == "tree":
        start = State(due=perception[:1])
        obliges = {branch[0]: branch[1:] for branch in branches}
    elif kind == "shield":
        obliges = {GUARDS[0]: (*GUARDS[1:], GATE)}
    routes = tuple(tool for tool in decision if tool != GATE)
    return Automaton(kind, perception, reasoning, routes, branches, max_returns, obliges, start)


def _spread(branch: tuple[str, ...]) -> tuple[int, int]:
    """(layer of a branch's first tool, of its last); branches sorted by it never go back a layer."""
    return TOOLS[branch[0]].layer.order, TOOLS[branch[-1]].layer.order
