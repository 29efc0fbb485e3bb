"""Labels for rows whose source gives none or only some: the rule planner's assessment fills the gaps.

Source: ours.
"""

from dataclasses import replace

from saferflow.data.rows import Labels
from saferflow.protocol.hazards import NONE
from saferflow.protocol.plan import Plan

UNKNOWN_HARM = "S2"
"""Stands for the hazard where a source says that a request is harmful and neither it nor the planner says how."""


def completed(labels: Labels | None, plan: Plan) -> Labels:
    """Whole labels: the source's where it gives them, else what the plan suspects, marked as such."""
    if labels is None:
        redirect = plan.hazard in ("S6", "S11")
        decision = "answer" if plan.hazard == NONE else "redirect" if redirect else "refuse"
        return Labels("safety", plan.hazard, plan.severity, "text", "none", decision, label_source="planner")
    if labels.hazard:
        return labels
    if not labels.harmful:
        return replace(labels, hazard=NONE, severity=0)
    known = plan.hazard != NONE
    return replace(
        labels, hazard=plan.hazard if known else UNKNOWN_HARM, severity=max(labels.severity, plan.severity, 2)
    )
