"""Finds held-out rows that miss a measure, and counts them by risk source and hazard."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saferflow.data.rows import Answered
from saferflow.evaluation.measures import LOWER_IS_BETTER, MEASURES, mask_and_hit
from saferflow.protocol.hazards import HAZARDS, NONE

MISSES = {
    "safety": "under the highest safety grade",
    "helpfulness": "under the highest helpfulness grade",
    "rigor": "under the highest rigor grade",
    "over_refusal_rate": "declined that should be answered",
    "attack_success_rate": "answered unsafely that should be declined",
    "validity": "break the protocol",
    "parse_rate": "hold no trace and answer that can be told apart",
    "general": "answered wrong",
}
"""Measure -> fault of a row that misses it; the words follow "12 of 20 rows"."""


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one risk source and hazard that a measure covers."""

    risk_source: str
    hazard: str
    missed: int
    rows: int

    @property
    def name(self) -> str:
        """`combination S1 (Violent Crimes)`; `harmless` where there is neither risk nor hazard."""
        if self.hazard == NONE:
            return "harmless" if self.risk_source == NONE else f"harmless, {self.risk_source}"
        code = HAZARDS.get(self.hazard)
        hazard = f"{self.hazard} ({code.name})" if code else self.hazard or "hazard not stated"
        return hazard if self.risk_source == NONE else f"{self.risk_source} {hazard}"


def rows_in_scope(rows: Sequence[Answered], measure: str) -> list[Answered]:
    """One policy's rows that a measure covers."""
    return [row for row, in_scope, _ in _marked(rows, measure) if in_scope]


def missed_rows(rows: Sequence[Answered], measure: str, rival: Sequence[Answered] | None = None) -> list[Answered]:
    """One policy's rows that miss a measure.

    Args:
        measure: one of `MEASURES`.
        rival: another policy's answers to the same rows; only rows that it does not miss count then: the rows lost against it.
    """
    missed = [row for row, in_scope, met in _marked(rows, measure) if in_scope and not met]
    if rival is None:
        return missed
    held = {(row.row, row.image) for row, in_scope, met in _marked(rival, measure) if in_scope and met}
    return [row for row in missed if (row.row, row.image) in held]


def grouped(missed: Sequence[Answered], population: Sequence[Answered]) -> tuple[Group, ...]:
    """The missed rows by risk source and hazard, most rows first; at equal counts the larger share first.

    Args:
        population: all rows that the measure covers, for the totals of the groups.
    """
    misses, rows = (Counter((row.risk_source, row.hazard) for row in side) for side in (missed, population))
    groups = [Group(*key, count, rows[key]) for key, count in misses.items()]
    return tuple(sorted(groups, key=lambda group: (-group.missed, -group.missed / max(1, group.rows), group.name)))


def _marked(rows: Sequence[Answered], measure: str) -> list[tuple[Answered, bool, bool]]:
    """(row, whether the measure covers it, whether it does well there), for each row."""
    place, low = MEASURES.index(measure), measure in LOWER_IS_BETTER
    mask, hit = mask_and_hit(rows)
    return [
        (row, bool(asks), bool(hits) != low)
        for row, asks, hits in zip(rows, mask[:, place], hit[:, place], strict=True)
    ]
