"""Held-out rows that miss a measure, and how many of each risk source and hazard do."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saferflow.data.rows import Answered
from saferflow.evaluation.measures import LOWER_IS_BETTER, MEASURES, asked_and_hit
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
"""Measure -> what is wrong with a row that misses it; the words follow "12 of 20 rows"."""


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one risk source and hazard that a measure asks about."""

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


def asked_rows(rows: Sequence[Answered], measure: str) -> list[Answered]:
    """One policy's rows that a measure asks about."""
    return [row for row, asked, _ in _marked(rows, measure) if asked]


def missed_rows(rows: Sequence[Answered], measure: str, rival: Sequence[Answered] | None = None) -> list[Answered]:
    """One policy's rows that miss a measure.

    Args:
        measure: one of `MEASURES`.
        rival: another policy's answers to the same rows; then only the rows that it does not miss count, which are the rows
            lost against it.
    """
    missed = [row for row, asked, met in _marked(rows, measure) if asked and not met]
    if rival is None:
        return missed
    held = {(row.row, row.image) for row, asked, met in _marked(rival, measure) if asked and met}
    return [row for row in missed if (row.row, row.image) in held]


def grouped(missed: Sequence[Answered], asked: Sequence[Answered]) -> tuple[Group, ...]:
    """The missed rows by risk source and hazard, most rows first; at equal counts the larger share first.

    Args:
        asked: all rows that the measure asks about, for the counts that stand beside.
    """
    misses, rows = (Counter((row.risk_source, row.hazard) for row in side) for side in (missed, asked))
    groups = [Group(*key, count, rows[key]) for key, count in misses.items()]
    return tuple(sorted(groups, key=lambda group: (-group.missed, -group.missed / max(1, group.rows), group.name)))


def _marked(rows: Sequence[Answered], measure: str) -> list[tuple[Answered, bool, bool]]:
    """Each row, whether the measure asks about it, and whether it does well there."""
    place, low = MEASURES.index(measure), measure in LOWER_IS_BETTER
    asked, hit = asked_and_hit(rows)
    return [
        (row, bool(asks), bool(hits) != low)
        for row, asks, hits in zip(rows, asked[:, place], hit[:, place], strict=True)
    ]
