"""Tests whether a policy is better in one measure and not worse by more than a margin in others, with Holm's correction.

Each claim says that the candidate's improvement over the champion is larger than minus its margin (margin 0: it is better).
Its p is the larger of two. The first is the share of resamples of images that contradict it, as in `intervals`. The second
is exact, because resamples of few images that all agree show no doubt: for margin 0 the sign test over the images that
differ, else the chance that a policy which loses exactly the margin shows so few losses on so many images ((1 - margin)^n
with no loss on n images). Where both sides were trained with several seeds, a third test is over trainings and rows
(`trainings.Repeated`): the policy is better, and so is its recipe. Holm's step-down keeps the chance of any false claim under the
level. Source: ours; Holm 1979.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from saferflow.data.rows import Answered
from saferflow.evaluation.intervals import resampled_gains
from saferflow.evaluation.measures import LOWER_IS_BETTER
from saferflow.evaluation.trainings import Pair, Repeated, repeated

POWER = 0.8
"""Power of the test, for the smallest detectable effect and for the number of rows that a claim needs."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The result for one claim; improvements in points, positive is better."""

    name: str
    margin: float
    rows: int
    improvement: float | None
    """None where the measure has no row."""
    error: float
    """Standard error of the improvement."""
    p: float
    adjusted: float
    """p after Holm's correction."""
    trainings: Repeated | None = None
    """The improvement over trainings and rows; None where fewer than two seeds have rows for the measure."""

    @property
    def few_rows(self) -> bool:
        """Whether the rows of this policy leave more doubt than the trainings do, so that more rows would help."""
        return self.trainings is None or self.trainings.p(self.margin) < self.p

    def detectable(self, level: float, claims: int) -> float:
        """The smallest true effect beyond the margin, in points, that these rows show with `POWER`."""
        normal = NormalDist()
        return (normal.inv_cdf(1 - (1 - level) / claims) + normal.inv_cdf(POWER)) * self.error

    def rows_needed(self, level: float, claims: int) -> int | None:
        """Number of rows that would show this claim with `POWER`, at the observed loss or none; None where no number would."""
        room = self.margin + min(self.improvement or 0.0, 0.0)
        if not self.margin or room <= 0:
            return None
        by_spread = self.rows * (self.detectable(level, claims) / room) ** 2
        without_loss = math.log((1 - level) / claims) / math.log(1 - self.margin / 100)
        return math.ceil(max(by_spread, without_loss))


Test = tuple[str, str, float, Callable[[Answered], bool]]
"""(name, measure, margin in points, function that selects the rows)."""


def claims_of(
    candidate: Sequence[Answered],
    champion: Sequence[Answered],
    tests: Sequence[Test],
    *,
    resamples: int,
    seed: int,
    pairs: Sequence[Pair] = (),
) -> list[Claim]:
    """One claim per test, in order; both sides must have answered the same rows.

    Args:
        pairs: trainings of the candidate's and of the champion's recipe with the same seed, for each seed that both have.
    """
    theirs = {row.row: row for row in champion}
    claims = []
    for name, measure, margin, about in tests:
        ours = [row for row in candidate if about(row)]
        gain = resampled_gains(ours, [theirs[row.row] for row in ours], resamples=resamples, seed=seed)[measure]
        if gain.difference is None:
            claims.append(Claim(name, margin, 0, None, 0.0, 1.0, 1.0))
            continue
        less = measure in LOWER_IS_BETTER
        seen = gain.drawn[~np.isnan(gain.drawn)] * (-1.0 if less else 1.0)
        by_resamples = float((1 + (seen <= -margin + 1e-9).sum()) / (1 + len(seen)))
        better, worse = (gain.fewer, gain.more) if less else (gain.more, gain.fewer)
        p = max(by_resamples, exact(better, worse, gain.images, margin / 100))
        trainings = _over_trainings(pairs, measure, about, resamples=resamples, seed=seed)
        p = max(p, trainings.p(margin)) if trainings else p
        improvement = -gain.difference if less else gain.difference
        claims.append(Claim(name, margin, gain.rows, improvement, float(seen.std()), p, 1.0, trainings))
    adjusted = holm({claim.name: claim.p for claim in claims})
    return [replace(claim, adjusted=adjusted[claim.name]) for claim in claims]


def _over_trainings(
    pairs: Sequence[Pair], measure: str, about: Callable[[Answered], bool], *, resamples: int, seed: int
) -> Repeated | None:
    """The improvement of the first over the second of each pair on the rows that the test is about."""
    parts = [tuple([row for row in side if about(row)] for side in pair) for pair in pairs]
    if measure in LOWER_IS_BETTER:
        parts = [(theirs, ours) for ours, theirs in parts]
    parts = [part for part in parts if part[0]]
    return repeated(parts, resamples=resamples, seed=seed).get(measure) if len(parts) > 1 else None


def exact(better: int, worse: int, images: int, margin: float) -> float:
    """The chance of the observed result or a better one, if the claim is just false.

    Args:
        better: images on which the candidate did better; `worse` likewise, of `images` in all.
        margin: as a share; 0 claims that the candidate is better.
    """
    from scipy.special import bdtr, bdtrc  # scipy.stats has them as well, and takes a second to import

    if not margin:
        return float(bdtrc(better - 1, better + worse, 0.5))
    return float(bdtr(max(0, worse - better), images, margin))


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p values."""
    ordered = sorted(values, key=lambda name: values[name])
    adjusted, most = {}, 0.0
    for place, name in enumerate(ordered):
        most = max(most, min(1.0, (len(ordered) - place) * values[name]))
        adjusted[name] = most
    return {name: adjusted[name] for name in values}
