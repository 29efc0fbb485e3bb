"""SFT rows that teach a policy to reflect: to name the error of a draft, and to answer again.

The safety-aware rollout adds a second and a third turn (`training/reflection.py`). A small policy that saw single turns only
cannot answer there, so these rows show it the same conversations. The draft is the reference with a planted fault; rules
write the reflection from the gold labels; the new answer is the reference. Source: ours; [V] starts from a model that can
converse.
"""

from dataclasses import replace

from saferflow.data.rows import Labels, SFTRow, turns_to_json, whole_question
from saferflow.planner import teacher
from saferflow.planner.operator import Case
from saferflow.planner.perturb import perturb
from saferflow.protocol.hazards import HAZARDS, NONE
from saferflow.protocol.reflection import ANEW, MISSED
from saferflow.protocol.trace import parse

KIND = "reflection"
"""`kind` of the rows whose completion is a reflection: it has no trace and follows no plan."""
SUFFIXES = (".reflection", ".anew")
"""Endings of the ids of the two rows, after the id of the row that they come from."""
WRONG_OBSERVATION = 0.2
"""Share of drafts that decide rightly but name a thing that is not in the picture, so that the new answer is not always the
opposite of the draft."""


def lessons(row: SFTRow, case: Case) -> list[SFTRow]:
    """One row that asks for the reflection and one that asks for the new answer; none where no fault can be planted.

    Args:
        row: with the reference as its completion.
        case: of the same reference.
    """
    decides_wrongly = "under_refusal" if case.labels.harmful else "over_refusal"
    fault = "wrong_observation" if case.rng.random() < WRONG_OBSERVATION else decides_wrongly
    draft = perturb(fault, case)
    if draft is None:
        fault, draft = decides_wrongly, perturb(decides_wrongly, case)
    if draft is None:
        return []
    reflection = reflection_on(draft, fault, case.labels)
    drafted = (*row.turns, (row.last_question, draft))
    reflected = (*drafted, (MISSED, reflection))
    return [
        replace(
            row,
            id=row.id + SUFFIXES[0],
            kind=KIND,
            question=whole_question(drafted, MISSED),
            completion=reflection,
            plan="",
            earlier=turns_to_json(drafted),
            writer="rules",
        ),
        replace(
            row,
            id=row.id + SUFFIXES[1],
            question=whole_question(reflected, ANEW),
            earlier=turns_to_json(reflected),
        ),
    ]


def reflection_on(draft: str, fault: str, labels: Labels) -> str:
    """The error of the draft, in a sentence or two.

    Args:
        fault: name of the perturbation that gave the draft.
    """
    seen = {call.tool: call for call in parse(draft).trace}
    if fault == "wrong_observation":
        things = seen["VISUAL-SCAN"].get("objects").split(", ")
        wrong = next(thing for thing in things if thing not in labels.objects)
        return f"The picture shows {labels.objects[0]}, not {wrong}."
    if fault == "under_refusal":
        return f"The draft missed {_phrase(labels.hazard)}: {teacher.reason(labels)}."
    feared = _phrase(seen["RISK-SCORER"].get("hazard")) if "RISK-SCORER" in seen else "a risk"
    if labels.hazard != NONE:
        return f"The draft saw too much risk: {_phrase(labels.hazard)} needs care, and no refusal."
    return f"There is no risk here; the draft saw {feared}."


def _phrase(hazard: str) -> str:
    return HAZARDS[hazard].phrase if hazard in HAZARDS else "a risk"
