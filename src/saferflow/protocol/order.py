"""The rules of order: a trace's calls against its plan's automaton."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from saferflow.protocol.paths import resume_after
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.topologies import GATE
from saferflow.protocol.trace import Line
from saferflow.protocol.violation import Violation, clip

if TYPE_CHECKING:
    from saferflow.protocol.plan import Plan

END = "the end"


def check_order(plan: "Plan", calls: list[Line], last_line: int) -> Iterator[Violation]:
    """Walk the calls through the plan's automaton; after an illegal one, go on where the trace can be picked up."""
    automaton = plan.automaton
    if automaton.accepts(line.call for line in calls):
        return
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
            yield Violation(code, step, line.number, clip(call.tool), legal)
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
