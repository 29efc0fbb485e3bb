"""Errors of tool selection: a call that is missing, out of place, one too many, or of the wrong tool."""

from collections.abc import Iterator

from saferflow.planner import teacher
from saferflow.planner.operator import Case, Operator, Propose, replaced, shuffled
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.topologies import GATE
from saferflow.protocol.trace import Call, Response


def dropped_layer(case: Case) -> Iterator[Response]:
    """A layer is missing: no reasoning between perception and decision, or no perception."""
    for layer in (Layer.REASONING, Layer.PERCEPTION):
        yield Response(tuple(c for c in case.chosen.trace if TOOLS[c.tool].layer is not layer), case.chosen.answer)


def wrong_tool(case: Case) -> Iterator[Response]:
    """Two calls of one layer swap their observations: each tool reports what the other would have."""
    trace = case.chosen.trace
    places = [(i, j) for i in range(len(trace)) for j in range(i) if _exchangeable(trace[i], trace[j])]
    for i, j in shuffled(case, places):
        first = replaced(trace, i, Call(trace[i].tool, trace[j].fields, trace[j].text))
        yield Response(replaced(first, j, Call(trace[j].tool, trace[i].fields, trace[i].text)), case.chosen.answer)


def _exchangeable(left: Call, right: Call) -> bool:
    layer = TOOLS[left.tool].layer
    return layer is TOOLS[right.tool].layer and layer is not Layer.DECISION and left.tool != right.tool


def foreign_tool(case: Case) -> Iterator[Response]:
    """A well-formed call of a tool that the plan does not have."""
    lacking = [t for t, tool in TOOLS.items() if t not in case.plan.tools and tool.layer is not Layer.DECISION]
    for name in shuffled(case, lacking):
        place = next((i for i, c in enumerate(case.chosen.trace) if TOOLS[c.tool].layer > TOOLS[name].layer), None)
        if place is not None:
            call = Call(name, teacher.fields_of(name, case.question, case.labels))
            trace = case.chosen.trace
            yield Response((*trace[:place], call, *trace[place:]), case.chosen.answer)


def illegal_order(case: Case) -> Iterator[Response]:
    """One call before the gate stands where the graph does not allow it."""
    trace = case.chosen.trace
    gate = next((i for i, call in enumerate(trace) if call.tool == GATE), 0)
    moves = [(old, new) for old in range(gate) for new in range(gate) if abs(old - new) > 0]
    for old, new in shuffled(case, moves):
        rest = replaced(trace, old)
        yield Response((*rest[:new], trace[old], *rest[new:]), case.chosen.answer)


def needless_repeat(case: Case) -> Iterator[Response]:
    """A call made again, in the same words, right after itself."""
    trace = case.chosen.trace
    for place in shuffled(case, (i for i, c in enumerate(trace) if TOOLS[c.tool].layer is not Layer.DECISION)):
        yield Response(replaced(trace, place, trace[place], trace[place]), case.chosen.answer)


def skipped_gate(case: Case) -> Iterator[Response]:
    """From reasoning straight to the decision's tool, or to the end."""
    yield Response(tuple(call for call in case.chosen.trace if call.tool != GATE), case.chosen.answer)


def _planting(name: str, propose: Propose, *codes: str) -> Operator:
    return Operator(name, "selection", propose, frozenset(codes))


OPERATORS = (
    _planting("dropped_layer", dropped_layer, "T105"),
    _planting("wrong_tool", wrong_tool, "T201", "T202"),
    _planting("foreign_tool", foreign_tool, "T102"),
    _planting("illegal_order", illegal_order, "T104"),
    _planting("needless_repeat", needless_repeat, "T103"),
    _planting("skipped_gate", skipped_gate, "T106"),
)
