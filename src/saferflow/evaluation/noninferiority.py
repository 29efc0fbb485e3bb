"""Better in one measure, and not worse by more than a margin in others: all claims together, Holm-corrected.

Each claim says that the candidate's improvement over the champion is larger than minus its margin (margin 0: that it is
better). Its p is how often a resample of images contradicts it, as in `intervals`. Holm's step-down keeps the chance of any
false claim under the level. Source: ours; Holm 1979.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from saferflow.data.rows import Answered
from saferflow.evaluation.intervals import resampled_gains
from saferflow.evaluation.measures import LOWER_IS_BETTER, MEASURES

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
        """Rows with which equal policies would show this claim with `POWER`; None for a claim of being better."""
        if not self.margin or not self.error:
            return None
        return math.ceil(self.rows * (self.detectable(level, claims) / self.margin) ** 2)


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
        asked, drawn = resampled_gains(ours, [theirs[row.row] for row in ours], resamples=resamples, seed=seed)
        place = MEASURES.index(measure)
        sign = -1.0 if measure in LOWER_IS_BETTER else 1.0
        rows, gain = asked[measure]
        if not rows:
            found.append(Claim(name, margin, 0, None, 0.0, 1.0, 1.0))
            continue
        seen = sign * drawn[:, place]
        seen = seen[~np.isnan(seen)]
        p = float((1 + (seen <= -margin + 1e-9).sum()) / (1 + len(seen)))
        found.append(Claim(name, margin, rows, sign * gain, float(seen.std()), p, 1.0))
    adjusted = holm({claim.name: claim.p for claim in found})
    return [
        Claim(one.name, one.margin, one.rows, one.improvement, one.error, one.p, adjusted[one.name]) for one in found
    ]


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p values."""
    ordered = sorted(values, key=lambda name: values[name])
    adjusted, most = {}, 0.0
    for place, name in enumerate(ordered):
        most = max(most, min(1.0, (len(ordered) - place) * values[name]))
        adjusted[name] = most
    return {name: adjusted[name] for name in values}
