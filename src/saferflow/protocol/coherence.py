"""The rules of a coherent plan. Each problem is one line: what was given, what was expected, and the remedy."""

from collections.abc import Callable, Iterator

from saferflow.protocol.fields import PlanFields
from saferflow.protocol.hazards import HAZARDS, NONE
from saferflow.protocol.personas import PERSONAS
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.topologies import GATE, GUARDS, KINDS

MAX_BRANCH = 3
"""Most tools on one branch of a tree: a branch is a short path."""

MAX_RETURNS = 2
MAX_LOOP_TOOLS = 6
"""Most perception and reasoning tools of a loop that may return twice, so that its automaton has under ten thousand states."""


def problems(plan: PlanFields) -> tuple[str, ...]:
    """All problems of a plan; empty for a coherent one. Never raises, whatever the fields' types.

    A rule that reads a field of the wrong type is skipped; all other rules apply.
    """
    mistyped = dict(_types(plan))
    lines = [f"{name}: {problem}" for name, problem in mistyped.items()]
    for fields, rule in _RULES:
        if not mistyped.keys() & fields:
            lines += rule(plan)
    return tuple(lines)


def _types(plan: PlanFields) -> Iterator[tuple[str, str]]:
    for name in ("hazard", "persona", "topology"):
        if not isinstance(getattr(plan, name), str):
            yield name, f"a string is expected, got {getattr(plan, name)!r}"
    for name in ("severity", "max_returns"):
        if type(getattr(plan, name)) is not int:
            yield name, f"an integer is expected, got {getattr(plan, name)!r}"
    if not _names(plan.tools):
        yield "tools", f"a tuple of tool names is expected, got {plan.tools!r}"
    if not (isinstance(plan.branches, tuple) and all(_names(branch) and branch for branch in plan.branches)):
        yield "branches", f"a tuple of non-empty tuples of tool names is expected, got {plan.branches!r}"


def _names(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)


def _hazard(plan: PlanFields) -> Iterator[str]:
    if plan.hazard != NONE and plan.hazard not in HAZARDS:
        yield f"hazard: {plan.hazard!r} is unknown; one of {NONE}, {', '.join(HAZARDS)}"


def _severity(plan: PlanFields) -> Iterator[str]:
    if plan.severity not in range(4):
        yield f"severity: {plan.severity} is out of range; 0 none, 1 low, 2 medium, 3 high"


def _fit(plan: PlanFields) -> Iterator[str]:
    if plan.severity in range(4) and (plan.hazard == NONE) != (plan.severity == 0):
        yield f"severity: {plan.severity} does not fit hazard {plan.hazard!r}; 0 goes with {NONE}, 1 to 3 with a code"


def _persona(plan: PlanFields) -> Iterator[str]:
    if plan.persona not in PERSONAS:
        yield f"persona: {plan.persona!r} is unknown; one of {', '.join(PERSONAS)}"


def _kind(plan: PlanFields) -> Iterator[str]:
    if plan.topology not in KINDS:
        yield f"topology: {plan.topology!r} is unknown; one of {', '.join(KINDS)}"


def _returns(plan: PlanFields) -> Iterator[str]:
    if plan.max_returns not in range(MAX_RETURNS + 1):
        yield f"max_returns: {plan.max_returns} is out of range; 0 to {MAX_RETURNS}"


def _tools(plan: PlanFields) -> Iterator[str]:
    for tool in dict.fromkeys(plan.tools):
        if tool not in TOOLS:
            yield f"tools: {tool!r} is unknown; one of {', '.join(TOOLS)}"
        if plan.tools.count(tool) > 1:
            yield f"tools: {tool} is named {plan.tools.count(tool)} times; name it once"
    layers = {TOOLS[tool].layer for tool in plan.tools if tool in TOOLS}
    for layer in (Layer.PERCEPTION, Layer.REASONING):
        if layer not in layers:
            yield f"tools: none is of the {layer} layer; add one of {', '.join(_of(layer))}"
    if GATE not in plan.tools:
        yield f"tools: {GATE} is mandatory; add it"


def _topology(plan: PlanFields) -> Iterator[str]:
    known = [tool for tool in plan.tools if tool in TOOLS]
    if plan.topology == "linear":
        ranked = sorted(known, key=_rank)
        if ranked != known:
            yield f"tools: linear calls them in this order, which leaves a layer backwards; try {', '.join(ranked)}"
    if plan.topology == "shield":
        for tool in GUARDS:
            if tool not in plan.tools:
                yield f"tools: {tool} is mandatory in a shield; add it"
    inner = [tool for tool in known if TOOLS[tool].layer is not Layer.DECISION]
    if plan.topology == "loop" and plan.max_returns > 1 and len(inner) > MAX_LOOP_TOOLS:
        yield f"max_returns: {plan.max_returns} takes at most {MAX_LOOP_TOOLS} tools before the gate, got {len(inner)}"
    if plan.branches and plan.topology != "tree":
        yield f"branches: only a tree has them, and this is {plan.topology!r}; leave them out"
    elif plan.branches:
        yield from _branches(plan, inner)


def _branches(plan: PlanFields, inner: list[str]) -> Iterator[str]:
    root = next((tool for tool in inner if TOOLS[tool].layer is Layer.PERCEPTION), None)
    expected = sorted(set(inner) - {root})
    if sorted(tool for branch in plan.branches for tool in branch) != expected:
        yield f"branches: they hold each of {', '.join(expected)} once and nothing else, got {plan.branches!r}"
    mixed = 0
    for branch in plan.branches:
        orders = [TOOLS[tool].layer.order for tool in branch if tool in TOOLS]
        mixed += len(set(orders)) > 1
        if orders != sorted(orders):
            yield f"branches: {' > '.join(branch)} leaves a layer backwards; put perception first"
        if len(branch) > MAX_BRANCH:
            yield f"branches: {' > '.join(branch)} is longer than {MAX_BRANCH} tools; split it"
    if mixed > 1:
        yield "branches: two go from perception to reasoning, so the second would leave a layer backwards; split one"


def _rank(tool: str) -> tuple[int, bool]:
    """Sort key of tools: by layer, the gate before the other decision tools."""
    layer = TOOLS[tool].layer
    return layer.order, layer is Layer.DECISION and tool != GATE


def _of(layer: Layer) -> list[str]:
    return [tool.name for tool in TOOLS.values() if tool.layer is layer]


_RULES: tuple[tuple[frozenset[str], Callable[[PlanFields], Iterator[str]]], ...] = (
    (frozenset({"hazard"}), _hazard),
    (frozenset({"severity"}), _severity),
    (frozenset({"hazard", "severity"}), _fit),
    (frozenset({"persona"}), _persona),
    (frozenset({"topology"}), _kind),
    (frozenset({"max_returns"}), _returns),
    (frozenset({"tools"}), _tools),
    (frozenset({"tools", "topology", "branches", "max_returns"}), _topology),
)
"""Each rule with the fields that it reads."""
