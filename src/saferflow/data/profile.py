"""Profiles a table in counts that add up over its parts, and measures the drift between two versions.

The measure is the population stability index over the shares of two versions, sum((new - old) ln(new / old)); below 0.1 is
read as no shift, from 0.25 on as a large one (industry practice in credit scoring; Siddiqi, Credit Risk Scorecards, 2006).
Shares are smoothed by half a row per bin, so that a bin which only one version has counts and nothing divides by zero.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from saferflow.data.rows import Labels
from saferflow.protocol.plan import Plan

SHIFTED, LARGE = 0.1, 0.25
ASPECTS = ("source", "hazard", "decision", "suspicion", "question characters", "completion characters")
Profile = dict[str, dict[str, int]]
"""Aspect -> bin -> rows."""


def profile_of(rows: Iterable[Any]) -> Counter[tuple[str, str]]:
    """Count rows by (aspect, bin). Suspicion is the hazard in a row's plan; bins of lengths double in width."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        labels = Labels.from_json(row.labels)
        completion = getattr(row, "completion", None) or getattr(row, "chosen", None)
        values = (
            row.source,
            labels.hazard,
            labels.decision,
            row.plan and Plan.from_json(row.plan).hazard,
            length_bin(row.question),
            completion and length_bin(completion),
        )
        counts.update((aspect, value) for aspect, value in zip(ASPECTS, values, strict=True) if value)
    return counts


def length_bin(text: str) -> str:
    """The bin of a text's length, as `32-63`."""
    low = 1 << (len(text).bit_length() - 1) if text else 0
    return f"{low}-{max(2 * low - 1, 0)}"


def whole(counts: Mapping[tuple[str, str], int]) -> Profile:
    """Turn counts into a tree with sorted names, as it is written to disk."""
    return {
        aspect: dict(sorted((value, rows) for (name, value), rows in counts.items() if name == aspect))
        for aspect in ASPECTS
        if any(name == aspect for name, _ in counts)
    }


@dataclass(frozen=True, slots=True)
class Shift:
    """The move of one aspect of a table between two versions of the data."""

    table: str
    aspect: str
    index: float
    """Population stability index."""
    moves: list[tuple[str, float, float]]
    """(bin, old share, new share), the largest move first."""

    @property
    def verdict(self) -> str:
        """`no shift`, `shift` (index from 0.1 on) or `large shift` (from 0.25 on)."""
        return "large shift" if self.index >= LARGE else "shift" if self.index >= SHIFTED else "no shift"


def drift(old: Mapping[str, Profile], new: Mapping[str, Profile]) -> list[Shift]:
    """Every aspect of every table that both versions have, the largest shift first."""
    shifts = []
    for table in new:
        for aspect, counts in new[table].items():
            before = old.get(table, {}).get(aspect)
            if before:
                shifts.append(_shift(table, aspect, before, counts))
    return sorted(shifts, key=lambda shift: -shift.index)


def _shift(table: str, aspect: str, old: Mapping[str, int], new: Mapping[str, int]) -> Shift:
    bins = sorted({*old, *new})
    totals = [sum(counts.values()) + len(bins) / 2 for counts in (old, new)]
    index, moves = 0.0, []
    for name in bins:
        was, now = ((counts.get(name, 0) + 0.5) / total for counts, total in zip((old, new), totals, strict=True))
        index += (now - was) * math.log(now / was)
        shares = [counts.get(name, 0) / sum(counts.values()) for counts in (old, new)]
        moves.append((name, *shares))
    return Shift(table, aspect, index, sorted(moves, key=lambda move: -abs(move[2] - move[1])))
