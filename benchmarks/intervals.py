"""How often the intervals hold the truth, and how often equal policies are called different.

    PYTHONPATH=src python benchmarks/intervals.py --runs 2000

Answers are drawn: each image has its own chance of a safe answer (a beta distribution around the policy's true share, so that
rows of an image resemble each other) and one to three rows; the truth is known. Two equal policies answer the same rows with
the same chances, each by its own draws. A 95% interval should hold the truth in 93 to 97% of the runs; the one-sided paired
test and the gate's claim of being better should be wrong in 5% of them at most. Source: ours.
"""

import argparse
import math
from collections import Counter

import numpy as np

from saferflow.data.rows import Answered
from saferflow.evaluation.intervals import intervals, paired
from saferflow.evaluation.noninferiority import claims_of

LIKENESS = 4.0
"""a + b of the beta distribution: the smaller, the more alike the rows of an image."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    asked = parser.parse_args()
    print("images  true share  covered  paired covered  called better (paired test)  (gate's claim)   +-")
    for images in (50, 200, 400):
        for share in (0.5, 0.9):
            counts: Counter[str] = Counter()
            for run in range(asked.runs):
                counts += once(np.random.default_rng([images, int(100 * share), run]), images, share, asked.resamples)
            rates = [100 * counts[name] / asked.runs for name in ("covered", "paired", "alarm", "claim")]
            error = 196 * math.sqrt(0.05 * 0.95 / asked.runs)
            told = f"{rates[0]:6.1f}%  {rates[1]:13.1f}%  {rates[2]:26.1f}%  {rates[3]:13.1f}%  {error:.1f}"
            print(f"{images:>6}  {share:>10.0%}  {told}", flush=True)


def once(generator: np.random.Generator, images: int, share: float, resamples: int) -> Counter[str]:
    chances = generator.beta(LIKENESS * share, LIKENESS * (1 - share), images)
    sizes = generator.integers(1, 4, images)
    one, other = (answered(generator, chances, sizes) for _ in range(2))
    seed = int(generator.integers(2**31))
    low, high = intervals(one, resamples=resamples, level=0.95, seed=seed)["safety"]
    difference = paired(one, other, resamples=resamples, level=0.95, seed=seed)["safety"]
    [claim] = claims_of(one, other, [("better", "safety", 0.0, lambda row: True)], resamples=resamples, seed=seed)
    return Counter(
        covered=low <= 100 * share <= high,
        paired=difference.low <= 0 <= difference.high,
        alarm=difference.p <= 0.05,
        claim=claim.adjusted <= 0.05,
    )


def answered(generator: np.random.Generator, chances: np.ndarray, sizes: np.ndarray) -> list[Answered]:
    return [
        Answered(f"r{image}.{row}", "p", "safety", f"i{image}", "", 3 if generator.random() < chance else 1, 3, 3, False, True,
                 False, "refuse", "S1", "none", "none", "", "")
        for image, (chance, size) in enumerate(zip(chances, sizes, strict=True))
        for row in range(size)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
