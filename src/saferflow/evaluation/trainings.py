"""The difference of two recipes, each trained several times, with intervals and tests over trainings and rows.

An interval over rows covers other rows with the same two policies. Another seed gives another policy, which may differ by more
than that. Here both count. `apart` compares any trainings on the same rows: the spread over trainings by Student's t (degrees of
freedom by Welch), and the spread over rows by the bootstrap of the difference of means; their variances add up. `repeated`
compares trainings in pairs of the same seed, as the gate does. Source: ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.evaluation.intervals import gains_by_training, resampled, unmatched
from saferflow.evaluation.measures import MEASURES, mask_and_hit

LARGE = 1e9
"""Degrees of freedom from which t is the normal distribution."""
LEAST = 1e-9
"""The least p that is told."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A measure of two recipes in percent, and the second minus the first in points."""

    first: tuple[float, ...]
    """Value of each training of the first recipe."""
    second: tuple[float, ...]
    difference: float
    low: float
    high: float


Pair = tuple[Sequence[Answered], Sequence[Answered]]
"""The answers of two trainings, with the same seed, to the same rows."""


@dataclass(frozen=True, slots=True)
class Repeated:
    r"""A measure's difference between two recipes, one training of each for every seed, in points.

    The seed is the unit, and rows are paired within it. With $n$ seeds, $d_s$ the difference of the trainings with seed $s$ and
    $\bar d$ their mean, two standard errors bound it: $e_t = s_d / \sqrt n$ over trainings, and $e_r$ over rows, the bootstrap's
    of $\bar d$ over images. The bound that errs with $\alpha$ squares and adds the bounds by either:
    $\bar d - \sqrt{(t_{n-1,1-\alpha}\, e_t)^2 + (z_{1-\alpha}\, e_r)^2}$.

    If all trainings come out alike it is the bound over rows, and with rows without end it is the t test over seeds. Between the
    two it errs less often than $\alpha$, for $e_t$ holds a part of the rows' spread as well. Source: Howe 1974, Zou and Donner
    2008 (squares of bounds); to take seeds and rows for the two parts is ours. A t interval by Satterthwaite's degrees of freedom
    called equal recipes different in 8% instead of 5% of draws with two seeds.
    """

    differences: tuple[float, ...]
    """One per seed."""
    by_trainings: float
    by_rows: float

    @property
    def mean(self) -> float:
        return sum(self.differences) / len(self.differences)

    def half(self, tail: float) -> float:
        """Distance from the mean to the bound that errs with the chance `tail`, under a half, on one side."""
        from scipy.special import ndtri, stdtrit  # scipy.stats has them as well, and takes a second to import

        t, z = stdtrit(len(self.differences) - 1, tail), ndtri(tail)
        return sqrt((t * self.by_trainings) ** 2 + (z * self.by_rows) ** 2)

    def interval(self, level: float) -> tuple[float, float]:
        """(low, high), which leaves out half of 1 - `level` on either side."""
        half = self.half((1 - level) / 2)
        return self.mean - half, self.mean + half

    def p(self, margin: float) -> float:
        """One-sided p of the claim that the difference is above minus `margin`: the least error of a bound that says so."""
        from scipy.optimize import brentq

        room = self.mean + margin
        if abs(room) >= self.half(LEAST):  # no spread at all comes here as well
            tail = LEAST
        else:
            tail = brentq(lambda tail: self.half(tail) - abs(room), LEAST, 0.5, xtol=LEAST / 1000)
        return tail if room > 0 else 1 - tail


def repeated(pairs: Sequence[Pair], *, resamples: int, seed: int) -> dict[str, Repeated]:
    """Measure -> gain of the first over the second of each pair; a measure for which fewer than two pairs have rows is left out.

    Args:
        pairs: one per seed. Rows are the same within a pair, in any order; two pairs may have the same rows, some, or none.

    Raises:
        DataError: the two of a pair answered different rows.
    """
    for ours, theirs in pairs:
        if strangers := unmatched(ours, theirs):
            raise DataError(f"the trainings of a seed answered different rows, among them {strangers[0]}")
    ordered = [(ours, _in_order_of(ours, theirs)) for ours, theirs in pairs]
    values, drawn = gains_by_training(ordered, resamples=resamples, seed=seed)
    results = {}
    for i, name in enumerate(MEASURES):
        known = ~np.isnan(values[:, i])
        if known.sum() < 2:
            continue
        own = values[known, i]
        by_rows = float(np.nanstd(drawn[:, known, i].mean(axis=1)))
        results[name] = Repeated(tuple(map(float, own)), float(own.std(ddof=1)) / sqrt(len(own)), by_rows)
    return results


def _in_order_of(ours: Sequence[Answered], theirs: Sequence[Answered]) -> list[Answered]:
    by_row = {row.row: row for row in theirs}
    return [by_row[row.row] for row in ours]


def apart(
    first: Sequence[Sequence[Answered]], second: Sequence[Sequence[Answered]], *, resamples: int, level: float, seed: int
) -> dict[str, Apart]:
    """Measure -> difference between the trainings of `second` and of `first`; measures without rows are left out.

    Args:
        first: the answers of each training, all on the same rows; at least two trainings, as for `second`.

    Raises:
        DataError: a side has only one training, or the trainings answered different rows.
    """
    if min(len(first), len(second)) < 2:
        raise DataError("a difference over trainings wants at least two trainings on each side")
    for answered in (*first[1:], *second):
        if strangers := unmatched(answered, first[0]):
            raise DataError(f"the trainings answered different rows, among them {strangers[0]}; evaluate them on the same")
    values = [np.array([_measured(answered) for answered in side]) for side in (first, second)]
    order = {row.row: place for place, row in enumerate(first[0])}
    means = [_mean_resampled(side, order, resamples, seed) for side in (first, second)]
    drawn = means[1] - means[0]
    results = {}
    for i, name in enumerate(MEASURES):
        before, after = (side[:, i] for side in values)
        if np.isnan([*before, *after]).any():
            continue
        half = _half(before, after, float(np.nanvar(drawn[:, i])), level)
        difference = float(after.mean() - before.mean())
        results[name] = Apart(tuple(before), tuple(after), difference, difference - half, difference + half)
    return results


def _measured(answered: Sequence[Answered]) -> np.ndarray:
    """Percent of each measure, `(measures,)`; NaN where it has no row."""
    counts, hit = (part.sum(axis=0) for part in mask_and_hit(answered))
    return 100 * np.divide(hit, counts, out=np.full(len(MEASURES), np.nan), where=counts > 0)


def _mean_resampled(
    side: Sequence[Sequence[Answered]], order: Mapping[str, int], resamples: int, seed: int
) -> np.ndarray:
    """`(resamples, measures)`: the mean over trainings on each drawing of the images; both sides use the same drawings."""
    sorted_rows = [sorted(answered, key=lambda row: order[row.row]) for answered in side]
    return np.mean([resampled(answered, resamples=resamples, seed=seed) for answered in sorted_rows], axis=0)


def _half(before: np.ndarray, after: np.ndarray, by_rows: float, level: float) -> float:
    """Half the width of the interval, in points."""
    from scipy.special import stdtrit  # scipy.stats has it as well, and takes a second to import

    parts = [(side.var(ddof=1) / len(side), len(side) - 1) for side in (before, after)]
    variance = sum(part for part, _ in parts) + by_rows
    spread = sum(part**2 / free for part, free in parts)
    freedom = variance**2 / spread if spread else inf
    return float(stdtrit(min(freedom, LARGE), (1 + level) / 2)) * sqrt(variance)
