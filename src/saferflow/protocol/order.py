"""The rules of order: a trace's calls against its plan's automaton."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from saferflow.protocol.paths import resume
from saferflow.protocol.prompt import END
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.topologies import GATE, Automaton
from saferflow.protocol.violation import Violation, clip

if TYPE_CHECKING:
    from saferflow.protocol.plan import Plan


Step = tuple[int, str, str]
"""A call as (line, tool, the decision that guards it)."""


def check_order(plan: "Plan", steps: list[Step], last_line: int) -> Iterator[Violation]:
    """Yield the violations of order by a walk through the plan's automaton; after an illegal call, resume where possible."""
    automaton = plan.automaton
    if _accepted(automaton, steps):
        return
    names = {tool for _, tool, _ in steps}
    layers = {TOOLS[tool].layer for tool in names if tool in plan.tools}
    absent = [layer for layer in (Layer.PERCEPTION, Layer.REASONING) if layer not in layers]
    gateless = GATE not in names
    wrong_route = False
    called: set[str] = set()
    state = automaton.start
    for step, (line, tool, decision) in enumerate(steps, 1):
        after = automaton.after(state, tool, decision)
        if after is not None:
            state = after
            called.add(tool)
            continue
        code = _code(plan, tool, called, state.layer)
        legal = automaton.legal(state) or (END,)
        if code == "T104":
            called.add(tool)
            layer = TOOLS[tool].layer
            skipped = [lost for lost in absent if lost < layer]
            absent = [lost for lost in absent if lost not in skipped]
            if skipped:
                for lost in skipped:
                    yield Violation("T105", step, line, f"{tool} and no {lost} call", legal)
            elif gateless and layer is Layer.DECISION:
                gateless = False
                yield Violation("T106", step, line, tool, legal)
            else:
                yield Violation(code, step, line, tool, legal)
            state = resume(automaton, state, tool, decision) or state
        else:
            wrong_route = wrong_route or code == "T107"
            yield Violation(code, step, line, clip(tool), legal)
    legal = automaton.legal(state)
    yield from (Violation("T105", 0, last_line, f"no {layer} call", legal) for layer in absent)
    if gateless:
        yield Violation("T106", 0, last_line, END, legal)
    elif state.layer is Layer.DECISION and state.due and not wrong_route:
        yield Violation("T107", len(steps), last_line, END, legal)


def _accepted(automaton: Automaton, steps: list[Step]) -> bool:
    """Whether the steps form a complete legal trace: the usual case, without violations."""
    state = automaton.start
    for _, tool, decision in steps:
        state = automaton.after(state, tool, decision)
        if state is None:
            return False
    return automaton.accepting(state)


def _code(plan: "Plan", tool: str, called: set[str], layer: Layer | None) -> str:
    """The code of the violation for a call that the automaton does not allow."""
    if tool not in TOOLS:
        return "T101"
    if tool not in plan.tools:
        return "T102"
    if tool in called:
        return "T103"
    return "T107" if layer is Layer.DECISION and TOOLS[tool].layer is Layer.DECISION and tool != GATE else "T104"
