"""Bootstrap intervals and paired differences, with rows of one image kept together.

Questions about one image are not independent, so we draw images with replacement, each with all of its rows.
Intervals are percentile intervals; the resamples of all measures share their draws. Source: ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.evaluation.measures import LOWER_IS_BETTER, MEASURES, mask_and_hit

CHUNK = 4_000_000
"""Most numbers drawn at once, to bound memory."""

Interval = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Paired:
    """The difference of policies a and b on the same rows, in points; None where the measure has no row.

    A row without grades on one side counts on neither.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    """One-sided p: share of resamples in which `a` is no better than `b`; lower over-refusal and attack success is better."""

    def to_dict(self) -> dict[str, float | None]:
        """The figures under the names of their fields."""
        return asdict(self)


def intervals(answered: Sequence[Answered], *, resamples: int, level: float, seed: int) -> dict[str, Interval]:
    """Measure -> (low, high) in percent, at `level` (0.95 leaves 2.5 % on either side); None where the measure has no row."""
    mask, hit = mask_and_hit(answered)
    drawn = resampled(answered, resamples=resamples, seed=seed)
    return {
        name: _interval(drawn[:, i], level, 100 * hit[:, i].sum() / n) if (n := mask[:, i].sum()) else (None, None)
        for i, name in enumerate(MEASURES)
    }


def resampled(answered: Sequence[Answered], *, resamples: int, seed: int) -> np.ndarray:
    """Every measure in percent on drawn images: `(resamples, measures)`; NaN where a resample has no row for it.

    The same seed draws the same images for any answers to the same rows in the same order.
    """
    mask, hit = mask_and_hit(answered)
    images = [row.image for row in answered]
    return _ratios(_by_image(hit, images), _by_image(mask, images), resamples, seed)


def share(
    answered: Sequence[Answered], hits: Sequence[bool], *, resamples: int, level: float, seed: int
) -> tuple[float | None, Interval]:
    """Percent of the rows that hit, and (low, high); None without rows."""
    if not answered:
        return None, (None, None)
    hit = np.array(hits, dtype=float).reshape(-1, 1)
    images = [row.image for row in answered]
    drawn = _ratios(_by_image(hit, images), _by_image(np.ones_like(hit), images), resamples, seed)
    percent = float(100 * hit.mean())
    return percent, _interval(drawn[:, 0], level, percent)


def paired(
    a: Sequence[Answered], b: Sequence[Answered], *, resamples: int, level: float, seed: int
) -> dict[str, Paired]:
    """Measure -> difference a - b.

    Raises:
        DataError: the policies did not answer the same rows.
    """
    if missing := unmatched(a, b):
        some = ", ".join(missing[:3])
        raise DataError(f"the policies answered different rows, among them {some}; evaluate both again")
    order = {row.row: i for i, row in enumerate(b)}
    b = [b[order[row.row]] for row in a]
    mask, gain = _mask_and_gain(a, b)
    images = [row.image for row in a]
    drawn = _ratios(_by_image(gain, images), _by_image(mask, images), resamples, seed)
    differences = {}
    for i, name in enumerate(MEASURES):
        n = mask[:, i].sum()
        if not n:
            differences[name] = Paired(None, None, None, None)
            continue
        point = float(100 * gain[:, i].sum() / n)
        better = -drawn[:, i] if name in LOWER_IS_BETTER else drawn[:, i]
        seen = better[~np.isnan(better)]
        p = float((1 + (seen <= 1e-9).sum()) / (1 + len(seen)))
        differences[name] = Paired(point, *_interval(drawn[:, i], level, point), p)
    return differences


@dataclass(frozen=True, slots=True)
class Gain:
    """The gain of policy a over b in a measure, on rows in the same order on both sides."""

    rows: int
    """Rows that the measure covers."""
    difference: float | None
    """a - b in points; None without rows."""
    images: int
    more: int
    """Images on which a has more than b."""
    fewer: int
    drawn: np.ndarray
    """Resampled differences, `(resamples,)`; NaN where a resample has no row."""


def resampled_gains(a: Sequence[Answered], b: Sequence[Answered], *, resamples: int, seed: int) -> dict[str, Gain]:
    """Measure -> gain."""
    mask, gain = _mask_and_gain(a, b)
    images = [row.image for row in a]
    gained, counted = _by_image(gain, images), _by_image(mask, images)
    drawn = _ratios(gained, counted, resamples, seed)
    gains = {}
    for i, name in enumerate(MEASURES):
        rows = int(counted[:, i].sum())
        gains[name] = Gain(
            rows,
            float(100 * gained[:, i].sum() / rows) if rows else None,
            int((counted[:, i] > 0).sum()),
            int((gained[:, i] > 0).sum()),
            int((gained[:, i] < 0).sum()),
            drawn[:, i],
        )
    return gains


def gains_by_training(
    pairs: Sequence[tuple[Sequence[Answered], Sequence[Answered]]], *, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The gains a - b of several pairs of trainings, in points; NaN where a pair has no row for a measure.

    A drawn image brings its rows of every pair that answered it, so that what pairs share is drawn for all of them at once.

    Args:
        pairs: (answers of a, answers of b) to the same rows in the same order; another pair may have answered other rows.

    Returns:
        `(pairs, measures)`, and resampled `(resamples, pairs, measures)`.
    """
    from scipy.linalg import block_diag

    masks, gains = zip(*(_mask_and_gain(a, b) for a, b in pairs), strict=True)
    images = [row.image for a, _ in pairs for row in a]
    gained, counted = _by_image(block_diag(*gains), images), _by_image(block_diag(*masks), images)
    drawn = _ratios(gained, counted, resamples, seed)  # (resamples, pairs * measures)
    top, bottom = gained.sum(axis=0), counted.sum(axis=0)
    values = 100 * np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
    return values.reshape(len(pairs), -1), drawn.reshape(resamples, len(pairs), -1)


def _mask_and_gain(a: Sequence[Answered], b: Sequence[Answered]) -> tuple[np.ndarray, np.ndarray]:
    """Two `(rows, measures)` arrays: 1.0 where the measure covers the row on both sides, and a's gain there."""
    (mask_a, hit_a), (mask_b, hit_b) = mask_and_hit(a), mask_and_hit(b)
    both = mask_a * mask_b
    return both, (hit_a - hit_b) * both


def unmatched(a: Sequence[Answered], b: Sequence[Answered]) -> list[str]:
    """Ids of rows that one side lacks or has twice, or whose image, kind or expected decision differs."""
    left, right = ({(row.row, row.image, row.kind, row.expected) for row in side} for side in (a, b))
    twice = [row.row for side in (a, b) if len({r.row for r in side}) < len(side) for row in side]
    return sorted({key[0] for key in left ^ right} | set(twice))


def _by_image(values: np.ndarray, images: Sequence[str]) -> np.ndarray:
    """Sums over the rows of each image: `(images, measures)`."""
    number = {image: i for i, image in enumerate(dict.fromkeys(images))}
    sums = np.zeros((len(number), values.shape[1]))
    np.add.at(sums, [number[image] for image in images], values)
    return sums


def _ratios(hits: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Resampled ratios in percent: `(resamples, measures)`; NaN where a resample has no row."""
    parts = [np.hstack((draws @ hits, draws @ counts)) for draws in _draws(len(hits), resamples, seed)]
    top, bottom = np.hsplit(np.vstack(parts), 2)
    return 100 * np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)


def _draws(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the number of draws of each image in each resample: `(some resamples, images)`."""
    generator = np.random.default_rng(seed)
    at_once = max(1, CHUNK // max(1, images))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        yield generator.multinomial(images, np.full(images, 1 / images), size=size).astype(float)


def _interval(drawn: np.ndarray, level: float, point: float) -> tuple[float, float]:
    """The percentile interval, widened to include the point where a skewed sample leaves it out."""
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(drawn, (tail, 100 - tail))
    return min(float(low), float(point)), max(float(high), float(point))
