"""What sets two recipes apart, each trained several times: over trainings and over rows.

An interval over rows says what other rows would give of the same two policies. Another seed gives another policy, which may
differ by more than that. Here both count: the spread of a side's trainings by Student's t (degrees of freedom by Welch), and
the rows' by the bootstrap of the means' difference; their variances are added. Source: ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.evaluation.intervals import resampled, unmatched
from saferflow.evaluation.measures import MEASURES, asked_and_hit

LARGE = 1e9
"""Degrees of freedom at which t is the normal distribution."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A measure of two recipes in percent, and the second less the first in points."""

    first: tuple[float, ...]
    """Of each training."""
    second: tuple[float, ...]
    difference: float
    low: float
    high: float


def apart(
    first: Sequence[Sequence[Answered]], second: Sequence[Sequence[Answered]], *, resamples: int, level: float, seed: int
) -> dict[str, Apart]:
    """Measure -> how far the trainings of `second` lie from those of `first`; without measures that no row asks about.

    Args:
        first: the answers of each training, all on the same rows; two trainings at least, as of `second`.

    Raises:
        DataError: a side has one training, or the trainings answered different rows.
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
    found = {}
    for i, name in enumerate(MEASURES):
        before, after = (side[:, i] for side in values)
        if np.isnan([*before, *after]).any():
            continue
        half = _half(before, after, float(np.nanvar(drawn[:, i])), level)
        difference = float(after.mean() - before.mean())
        found[name] = Apart(tuple(before), tuple(after), difference, difference - half, difference + half)
    return found


def _measured(answered: Sequence[Answered]) -> np.ndarray:
    """Percent of each measure; NaN where no row asks."""
    asked, hit = (part.sum(axis=0) for part in asked_and_hit(answered))
    return 100 * np.divide(hit, asked, out=np.full(len(MEASURES), np.nan), where=asked > 0)


def _mean_resampled(
    side: Sequence[Sequence[Answered]], order: Mapping[str, int], resamples: int, seed: int
) -> np.ndarray:
    """`(resamples, measures)`: the mean of the trainings on each drawing of the images, the same drawings for both sides."""
    sorted_rows = [sorted(answered, key=lambda row: order[row.row]) for answered in side]
    return np.mean([resampled(answered, resamples=resamples, seed=seed) for answered in sorted_rows], axis=0)


def _half(before: np.ndarray, after: np.ndarray, by_rows: float, level: float) -> float:
    """Half of the interval, in points."""
    from scipy.special import stdtrit  # scipy.stats has it as well, and takes a second to import

    parts = [(side.var(ddof=1) / len(side), len(side) - 1) for side in (before, after)]
    variance = sum(part for part, _ in parts) + by_rows
    spread = sum(part**2 / free for part, free in parts)
    freedom = variance**2 / spread if spread else inf
    return float(stdtrit(min(freedom, LARGE), (1 + level) / 2)) * sqrt(variance)
