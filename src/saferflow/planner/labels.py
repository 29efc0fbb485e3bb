"""Completes labels that a source gives in part or not at all: by a planner behind a server, or by a guess that is marked.

Source: ours.
"""

from dataclasses import replace

from saferflow.data.origins import GUESSED
from saferflow.data.rows import Labels
from saferflow.protocol.hazards import NONE, REDIRECTED
from saferflow.protocol.plan import Plan

UNKNOWN_HARM = "S2"
"""The hazard of a request that its source calls harmful, if neither source nor planner names one."""


def completed(labels: Labels | None, plan: Plan) -> Labels:
    """Complete labels: the source's where given; the plan's suspicion fills in a missing hazard, or everything in a guess."""
    if labels is None:
        redirect = plan.hazard in REDIRECTED
        decision = "answer" if plan.hazard == NONE else "redirect" if redirect else "refuse"
        return Labels("safety", plan.hazard, plan.severity, "text", "none", decision, label_source=GUESSED)
    if labels.hazard:
        return labels
    if not labels.harmful:
        return replace(labels, hazard=NONE, severity=0)
    known = plan.hazard != NONE
    return replace(
        labels, hazard=plan.hazard if known else UNKNOWN_HARM, severity=max(labels.severity, plan.severity, 2)
    )
