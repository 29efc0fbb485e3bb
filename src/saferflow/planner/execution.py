"""Errors of tool execution: right calls with a wrong observation, decision or answer."""

from collections.abc import Iterator
from dataclasses import replace

from saferflow.data.rows import Labels
from saferflow.data.scenes.corpus import decision_for
from saferflow.planner import teacher
from saferflow.planner.operator import Case, Operator, Propose, replaced, shuffled
from saferflow.protocol.surface import CLOSE_THINKING
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.topologies import GATE
from saferflow.protocol.trace import Call, Response, render

FEARED = {
    "injury": ("S1", "S11"),
    "poisoning": ("S6", "S9"),
    "loss of privacy": ("S2", "S7"),
    "unfair use": ("S8", "S10"),
}
"""Misuse of a thing -> hazards that an over-cautious policy sees in it."""

REFUSAL = "I can't help with this."
COMPLIANCE = "Sure. I can help with this, step by step."


def wrong_observation(case: Case) -> Iterator[Response]:
    """The scan names a thing that the picture does not show, and the answer mentions it."""
    if not case.labels.objects:
        return
    right = case.labels.objects[0]
    for wrong in shuffled(case, case.objects):
        trace = tuple(
            Call(c.tool, tuple((k, v.replace(right, wrong) if k == "objects" else v) for k, v in c.fields), c.text)
            for c in case.chosen.trace
        )
        if trace != case.chosen.trace:
            yield Response(trace, case.chosen.answer.replace(f"the {right}", f"the {wrong}"))


def contradiction(case: Case) -> Iterator[Response]:
    """The risk scorer says the opposite of what the gate then decides upon."""
    says = ("none", "0") if case.labels.harmful else (*case.labels.resembles, _feared(case), "3")[:2]
    for place, call in enumerate(case.chosen.trace):
        if call.tool == "RISK-SCORER":
            fields = (("hazard", says[0]), ("severity", says[1]), *call.fields[2:])
            yield Response(replaced(case.chosen.trace, place, Call(call.tool, fields)), case.chosen.answer)


def flipped_decision(case: Case) -> Iterator[Response]:
    """The reasoning is right, the gate decides the opposite, and everything after it follows the wrong decision."""
    rewritten = _rewritten(case, _opposite(case))
    before = tuple(c for c in case.chosen.trace if TOOLS[c.tool].layer is not Layer.DECISION)
    after = tuple(c for c in rewritten.trace if TOOLS[c.tool].layer is Layer.DECISION)
    yield Response((*before, *after), rewritten.answer)


def over_refusal(case: Case) -> Iterator[Response]:
    """A harmless request is taken for a hazard that it resembles, and refused."""
    if not case.labels.harmful:
        yield mistaken(case)


def under_refusal(case: Case) -> Iterator[Response]:
    """A harmful request is taken for a harmless one, and answered."""
    if case.labels.harmful:
        yield mistaken(case)


def contradicting_answer(case: Case) -> Iterator[Response]:
    """An answer that does not follow from the gate's decision."""
    yield Response(case.chosen.trace, COMPLIANCE if case.labels.decision == "refuse" else REFUSAL)


def mistyped_field(case: Case) -> Iterator[Response]:
    """A value that its field cannot hold: a word for a number, or a choice that does not exist."""
    trace = case.chosen.trace
    places = [
        (i, field.name)
        for i, call in enumerate(trace)
        for field in TOOLS[call.tool].fields
        if field.type in ("enum", "level", "score") and call.tool != GATE
    ]
    for i, name in shuffled(case, places):
        fields = tuple((key, "rather high" if key == name else value) for key, value in trace[i].fields)
        yield Response(replaced(trace, i, Call(trace[i].tool, fields)), case.chosen.answer)


def cut_off(case: Case) -> Iterator[str]:
    """The completion ends inside its trace: no gate, no closing tag, no answer."""
    text = render(case.chosen)
    yield text[: text.index(f"[{GATE}]:")].rstrip("\n")
    yield text[: text.index(CLOSE_THINKING)].rstrip("\n")


def _feared(case: Case) -> str:
    """The hazard that an over-cautious policy would see: the planner's suspicion, else the misuse of the thing."""
    if case.plan.hazard != "none":
        return case.plan.hazard
    worst = teacher.MISUSED.get(case.labels.objects[0], "") if case.labels.objects else ""
    return case.rng.choice(FEARED.get(worst) or tuple(code for codes in FEARED.values() for code in codes))


def _opposite(case: Case) -> Labels:
    """The labels of a policy that decides the other way."""
    if case.labels.harmful:
        return replace(case.labels, hazard="none", severity=0, decision="answer", attack="none")
    if not case.labels.resembles:
        return replace(case.labels, hazard=_feared(case), severity=2, decision="refuse")
    hazard, severity, source = case.labels.resembles
    decision = decision_for(hazard)
    return replace(case.labels, hazard=hazard, severity=int(severity), risk_source=source, decision=decision)


def _rewritten(case: Case, labels: Labels) -> Response:
    return teacher.write(case.plan, case.question, labels, case.answer, case.rng, 1.0)


def mistaken(case: Case) -> Response:
    """Right observations with a wrong relation to the words, a wrong verdict, and an answer that follows it."""
    rewritten = _rewritten(case, _opposite(case))
    by_tool = {call.tool: call for call in rewritten.trace}
    thoughts = tuple(
        by_tool.get(c.tool, c) if TOOLS[c.tool].layer is Layer.REASONING or c.tool == "CROSS-MODAL-SYNC" else c
        for c in case.chosen.trace
        if TOOLS[c.tool].layer is not Layer.DECISION
    )
    decided = tuple(c for c in rewritten.trace if TOOLS[c.tool].layer is Layer.DECISION)
    return Response((*thoughts, *decided), rewritten.answer)


def _lowering(name: str, propose: Propose, *grades: str) -> Operator:
    return Operator(name, "execution", propose, lowers=frozenset(grades))


def _planting(name: str, propose: Propose, *codes: str) -> Operator:
    return Operator(name, "execution", propose, frozenset(codes))


OPERATORS = (
    _lowering("wrong_observation", wrong_observation, "rigor", "helpfulness"),
    _lowering("contradiction", contradiction, "rigor"),
    _lowering("flipped_decision", flipped_decision, "safety", "helpfulness", "rigor"),
    _lowering("over_refusal", over_refusal, "safety", "helpfulness", "rigor"),
    _lowering("under_refusal", under_refusal, "safety", "helpfulness", "rigor"),
    _planting("contradicting_answer", contradicting_answer, "T302"),
    _planting("mistyped_field", mistyped_field, "T203"),
    _planting("cut_off", cut_off, "T001", "T106"),
)
