"""Labels for rows whose source gives none or only some: a planner behind a server gives them, a guess is marked as one.

Source: ours.
"""

from dataclasses import replace

from saferflow.data.origins import GUESSED
from saferflow.data.rows import Labels
from saferflow.protocol.hazards import NONE, REDIRECTED
from saferflow.protocol.plan import Plan

UNKNOWN_HARM = "S2"
"""Stands for the hazard where a source says that a request is harmful and neither it nor the planner says how."""


def completed(labels: Labels | None, plan: Plan) -> Labels:
    """Whole labels: the source's where it gives them; a missing hazard, or all of a guess, is what the plan suspects."""
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
