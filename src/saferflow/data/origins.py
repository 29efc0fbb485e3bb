"""Says where a row's label comes from, and what to do with rows that have none.

A label says what a safe assistant does. The drawn corpus has labels. Any other row gets its label from the source, from a
category that the source's `hazards` map, or from a planner behind a server. The rule planner's suspicion is no label.
Source: ours.
"""

from collections.abc import Mapping, Sequence

from saferflow.data.rows import Labels, Row
from saferflow.errors import DataError
from saferflow.params import Params
from saferflow.protocol.hazards import HAZARDS, NONE, REDIRECTED

GOLD, MAPPED, PLANNER, GUESSED = "gold", "mapped", "planner", "guessed"
LABEL_SOURCES = {
    GOLD: "the source itself",
    MAPPED: "a category, as the source's hazards map it",
    PLANNER: "the planner behind the server",
    GUESSED: "a guess of the rule planner",
}
UNLABELLED = "no one: stage plan stops"
RULE_PLANNER = (
    "the rule planner knows the drawn corpus alone: on other rows it misses most harmful requests, so its suspicion is no "
    "label"
)
SHOWN = 50
"""Most rows without a label that a message names."""
WAYS_OUT = """\
label them: fill decision (answer, answer_with_care, redirect, refuse) or expected (comply, refuse), or say which field holds it,
  in fields of the source: saferflow data add NAME PATH --field expected=THEIRS
or map their categories, in hazards of the source: saferflow data add NAME PATH --field hazard=THEIRS --hazard WORD=S2
or let a planner behind a server label them: plan.writer with kind: endpoint (docs/endpoint.md)
or train on guesses all the same: plan.allow_guessed_labels: true, or saferflow run --allow-guessed-labels; such rows are
  marked, and neither held out nor counted by the gate"""


def mapped(hazard: str, severity: int | None) -> Labels | None:
    """Labels from a category alone; None where the category is not ours.

    Args:
        hazard: the source's word as `hazards` of the source maps it.
    """
    if hazard == NONE:
        return Labels("safety", NONE, 0, "none", "none", "answer", label_source=MAPPED)
    if hazard not in HAZARDS:
        return None
    decision = "redirect" if hazard in REDIRECTED else "refuse"
    return Labels("safety", hazard, max(severity or 2, 1), "text", "none", decision, label_source=MAPPED)


def label_source(row: Row, params: Params) -> str:
    """One of `LABEL_SOURCES`, or empty where stage `plan` stops because the row has no label."""
    if row.labels is not None:
        return row.labels.label_source
    if params.plan.writer.kind == "endpoint":
        return PLANNER
    return GUESSED if params.plan.allow_guessed_labels else ""


def label_origin(row: Row, params: Params) -> str:
    """The origin of the row's label, in words."""
    return LABEL_SOURCES.get(label_source(row, params), UNLABELLED)


def label_notice(origins: Mapping[str, int]) -> str:
    """A notice about missing and guessed labels; empty where every row has a better label.

    Args:
        origins: `label_origin` -> rows.
    """
    missing, guessed = origins.get(UNLABELLED, 0), origins.get(LABEL_SOURCES[GUESSED], 0)
    if missing:
        return f"{_rows(missing)} without a label, and stage plan will stop at them: {RULE_PLANNER}.\n{WAYS_OUT}"
    if guessed:
        return (
            f"WARNING: {_rows(guessed)} with labels that are guessed (plan.allow_guessed_labels): {RULE_PLANNER}. A policy that "
            "learns from them may learn to answer harmful requests. They are marked, and neither held out nor counted by the gate"
        )
    return ""


def unlabelled_error(places: Sequence[str], total: int) -> DataError:
    """The error for rows without a label; it names the remedies.

    Args:
        places: places of the first such rows, as `file:line: id`.
        total: number of such rows.
    """
    lines = [f"  {place:.200}" for place in places[:SHOWN]]
    if total > len(lines):
        lines.append(f"  and {total - len(lines):,} more")
    named = "\n".join(lines)
    return DataError(f"{_rows(total)} without a label:\n{named}\n{RULE_PLANNER}.\n{WAYS_OUT}")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
