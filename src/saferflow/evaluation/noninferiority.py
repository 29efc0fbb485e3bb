"""Tests whether a policy is better in one measure and not worse by more than a margin in others, with Holm's correction.

Each claim says that the candidate's improvement over the champion is larger than minus its margin (margin 0: it is better).
Its p is the larger of two. The first is the share of resamples of images that contradict it, as in `intervals`. The second
is exact, because resamples of few images that all agree show no doubt: for margin 0 the sign test over the images that
differ, else the chance that a policy which loses exactly the margin shows so few losses on so many images ((1 - margin)^n
with no loss on n images). Holm's step-down keeps the chance of any false claim under the level. Source: ours; Holm 1979.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from saferflow.data.rows import Answered
from saferflow.evaluation.intervals import resampled_gains
from saferflow.evaluation.measures import LOWER_IS_BETTER

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
    candidate: Sequence[Answered], champion: Sequence[Answered], tests: Sequence[Test], *, resamples: int, seed: int
) -> list[Claim]:
    """One claim per test, in order; both sides must have answered the same rows."""
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
        improvement = -gain.difference if less else gain.difference
        claims.append(Claim(name, margin, gain.rows, improvement, float(seen.std()), p, 1.0))
    adjusted = holm({claim.name: claim.p for claim in claims})
    return [
        Claim(claim.name, claim.margin, claim.rows, claim.improvement, claim.error, claim.p, adjusted[claim.name])
        for claim in claims
    ]


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
