"""Better in one measure, and not worse by more than a margin in others: all claims together, Holm-corrected.

Each claim says that the candidate's improvement over the champion is larger than minus its margin (margin 0: that it is
better). Its p is the larger of two: how often a resample of images contradicts it, as in `intervals`; and an exact one, for
resamples of few images that all agree know no doubt. Exact is the sign test over the images that differ where the margin is
0, and else the chance that a policy which loses just the margin shows so few losses on so many images: with no loss on n of
them (1 - margin)^n. Holm's step-down keeps the chance of any false claim under the level. Source: ours; Holm 1979.
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
"""Of the smallest detectable effect, and of the number of rows that a claim would want."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What was found about one claim; improvements in points, positive is better."""

    name: str
    margin: float
    rows: int
    improvement: float | None
    """None where no row measures it."""
    error: float
    """Standard error of the improvement."""
    p: float
    adjusted: float
    """p after Holm's correction."""

    def detectable(self, level: float, claims: int) -> float:
        """The smallest true effect, beyond the margin, that so many rows show with `POWER`."""
        normal = NormalDist()
        return (normal.inv_cdf(1 - (1 - level) / claims) + normal.inv_cdf(POWER)) * self.error

    def rows_needed(self, level: float, claims: int) -> int | None:
        """Rows with which the loss that was seen, or none, would show this claim with `POWER`; None where none would."""
        room = self.margin + min(self.improvement or 0.0, 0.0)
        if not self.margin or room <= 0:
            return None
        by_spread = self.rows * (self.detectable(level, claims) / room) ** 2
        without_loss = math.log((1 - level) / claims) / math.log(1 - self.margin / 100)
        return math.ceil(max(by_spread, without_loss))


Test = tuple[str, str, float, Callable[[Answered], bool]]
"""Name, measure, margin, and the rows that it is about."""


def claims_of(
    candidate: Sequence[Answered], champion: Sequence[Answered], tests: Sequence[Test], *, resamples: int, seed: int
) -> list[Claim]:
    """The claims, in the order of the tests; both sides answered the same rows."""
    theirs = {row.row: row for row in champion}
    found = []
    for name, measure, margin, about in tests:
        ours = [row for row in candidate if about(row)]
        gain = resampled_gains(ours, [theirs[row.row] for row in ours], resamples=resamples, seed=seed)[measure]
        if gain.difference is None:
            found.append(Claim(name, margin, 0, None, 0.0, 1.0, 1.0))
            continue
        less = measure in LOWER_IS_BETTER
        seen = gain.drawn[~np.isnan(gain.drawn)] * (-1.0 if less else 1.0)
        by_resamples = float((1 + (seen <= -margin + 1e-9).sum()) / (1 + len(seen)))
        better, worse = (gain.fewer, gain.more) if less else (gain.more, gain.fewer)
        p = max(by_resamples, exact(better, worse, gain.images, margin / 100))
        improvement = -gain.difference if less else gain.difference
        found.append(Claim(name, margin, gain.rows, improvement, float(seen.std()), p, 1.0))
    adjusted = holm({claim.name: claim.p for claim in found})
    return [
        Claim(one.name, one.margin, one.rows, one.improvement, one.error, one.p, adjusted[one.name]) for one in found
    ]


def exact(better: int, worse: int, images: int, margin: float) -> float:
    """The chance of what was seen, or of more, where the claim is false by a hair.

    Args:
        better: images on which the candidate did better; `worse` likewise, of `images` in all.
        margin: in shares; 0 claims that the candidate is better.
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
