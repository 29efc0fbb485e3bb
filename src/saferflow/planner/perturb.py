"""Perturbations of a good response: each plants one kind of fault and gives the rejected side of a DPO pair.

`[K]` names two families, errors of tool selection and of tool execution; the operators are ours.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from saferflow.data.rows import Labels
from saferflow.planner import teacher
from saferflow.protocol.plan import Plan
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.trace import Call, Response


@dataclass(frozen=True, slots=True)
class Case:
    """All that a perturbation may use."""

    plan: Plan
    question: str
    labels: Labels
    answer: str
    chosen: Response
    objects: tuple[str, ...]
    """Other objects that a wrong observation can name."""
    rng: random.Random


_FEARED = {
    "injury": ("S1", "S11"),
    "poisoning": ("S6", "S9"),
    "loss of privacy": ("S2", "S7"),
    "unfair use": ("S8", "S10"),
}


def _feared(labels: Labels) -> tuple[str, ...]:
    """The hazards that an over-cautious policy would see: those that the thing lends itself to, or any of them."""
    worst = teacher.MISUSED.get(labels.objects[0], "") if labels.objects else ""
    return _FEARED.get(worst) or tuple(code for codes in _FEARED.values() for code in codes)


def flipped_decision(case: Case) -> Response | None:
    """Execution: right observations, then the wrong verdict, and an answer that follows it (under- or over-refusal)."""
    if case.labels.harmful:
        wrong = replace(case.labels, hazard="none", severity=0, decision="answer", attack="none")
    else:
        hazard = case.plan.hazard if case.plan.hazard != "none" else case.rng.choice(_feared(case.labels))
        wrong = replace(case.labels, hazard=hazard, severity=2, decision="refuse")
    rewritten = teacher.write(case.plan, case.question, wrong, case.answer, case.rng, 1.0)
    by_tool = {call.tool: call for call in rewritten.trace}
    kept = [c for c in case.chosen.trace if TOOLS[c.tool].layer is Layer.PERCEPTION]
    reasoning = [by_tool.get(c.tool, c) for c in case.chosen.trace if TOOLS[c.tool].layer is Layer.REASONING]
    decision = [c for c in rewritten.trace if TOOLS[c.tool].layer is Layer.DECISION]
    return Response((*kept, *reasoning, *decision), rewritten.answer)


def wrong_observation(case: Case) -> Response | None:
    """Execution: the scan names a thing that is not there, and the answer speaks of it."""
    if not case.labels.objects or not case.objects:
        return None
    right, wrong = case.labels.objects[0], case.rng.choice(case.objects)
    trace = tuple(
        Call(c.tool, tuple((k, v.replace(right, wrong) if k == "objects" else v) for k, v in c.fields), c.text)
        for c in case.chosen.trace
    )
    return Response(trace, case.chosen.answer.replace(f"the {right}", f"the {wrong}"))


def dropped_layer(case: Case) -> Response | None:
    """Selection: no reasoning between what is seen and what is decided."""
    kept = tuple(call for call in case.chosen.trace if TOOLS[call.tool].layer is not Layer.REASONING)
    return Response(kept, case.chosen.answer)


PERTURBATIONS: dict[str, Callable[[Case], Response | None]] = {
    "flipped_decision": flipped_decision,
    "wrong_observation": wrong_observation,
    "dropped_layer": dropped_layer,
}
"""Name -> operator; it returns None where it cannot be applied."""
