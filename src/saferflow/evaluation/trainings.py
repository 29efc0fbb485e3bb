"""The difference of two recipes, each trained several times, with an interval over trainings and rows.

An interval over rows covers other rows with the same two policies. Another seed gives another policy, which may differ by more
than that. Here both count: the spread over trainings by Student's t (degrees of freedom by Welch), and the spread over rows by
the bootstrap of the difference of means; their variances add up. Source: ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.evaluation.intervals import resampled, unmatched
from saferflow.evaluation.measures import MEASURES, mask_and_hit

LARGE = 1e9
"""Degrees of freedom from which t is the normal distribution."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A measure of two recipes in percent, and the second minus the first in points."""

    first: tuple[float, ...]
    """Value of each training of the first recipe."""
    second: tuple[float, ...]
    difference: float
    low: float
    high: float


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
