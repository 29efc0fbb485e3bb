"""How often the intervals hold the truth, and how often equal policies are called different.

    PYTHONPATH=src python benchmarks/intervals.py --runs 2000
    PYTHONPATH=src python benchmarks/intervals.py --runs 2000 --trainings

Answers are drawn: each image has its own chance of a safe answer (a beta distribution around the policy's true share, so that
rows of an image resemble each other) and one to three rows; the truth is known. Two equal policies answer the same rows with
the same chances, each by its own draws. A 95% interval should hold the truth in 93 to 97% of the runs; the one-sided paired
test and the gate's claim of being better should be wrong in 5% of them at most.

With `--trainings` a recipe is trained with several seeds, whose policies differ in their true share by a normal spread. Two equal
recipes are compared by the gate's test over trainings and rows, on the same rows for all seeds and on rows of each seed, and by
the rows of one training each. The former should call one better in 5% of the runs at most. Source: ours.
"""

import argparse
import math
from collections import Counter
from dataclasses import replace

import numpy as np

from saferflow.data.rows import Answered
from saferflow.evaluation.intervals import intervals, paired
from saferflow.evaluation.noninferiority import claims_of
from saferflow.evaluation.trainings import repeated

LIKENESS = 4.0
"""a + b of the beta distribution: the smaller, the more alike the rows of an image."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--trainings", action="store_true")
    asked = parser.parse_args()
    if asked.trainings:
        over_trainings(asked.runs, asked.resamples)
        return
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


def over_trainings(runs: int, resamples: int) -> None:
    print("seeds  spread (points)  rows           called better over trainings  over rows of one training   +-")
    for seeds in (2, 3, 5):
        for spread in (0.0, 0.02, 0.05):
            for own in (False, True):
                counts: Counter[str] = Counter()
                for run in range(runs):
                    counts += compared(np.random.default_rng([seeds, int(100 * spread), own, run]), seeds, spread, own, resamples)
                rates = [100 * counts[name] / runs for name in ("trainings", "rows")]
                error = 196 * math.sqrt(0.05 * 0.95 / runs)
                rows = "of each seed" if own else "the same"
                told = f"{rows:<13}  {rates[0]:27.1f}%  {rates[1]:24.1f}%  {error:.1f}"
                print(f"{seeds:>5}  {100 * spread:>15.0f}  {told}", flush=True)


def compared(generator: np.random.Generator, seeds: int, spread: float, own: bool, resamples: int) -> Counter[str]:
    """Whether the first of two equal recipes, 80% safe, is called better on 200 images."""
    images = 200
    chances, sizes = generator.beta(LIKENESS * 0.8, LIKENESS * 0.2, images), generator.integers(1, 4, images)
    pairs = []
    for seed in range(seeds):
        if own:
            chances, sizes = generator.beta(LIKENESS * 0.8, LIKENESS * 0.2, images), generator.integers(1, 4, images)
        shifts = generator.normal(0, spread, 2)
        sides = [answered(generator, np.clip(chances + shift, 0, 1), sizes) for shift in shifts]
        if own:
            sides = [[replace(row, row=f"{seed}.{row.row}", image=f"{seed}.{row.image}") for row in side] for side in sides]
        pairs.append(tuple(sides))
    number = int(generator.integers(2**31))
    over = repeated(pairs, resamples=resamples, seed=number)["safety"]
    alone = paired(*pairs[0], resamples=resamples, level=0.95, seed=number)["safety"]
    return Counter(trainings=over.p(0.0) <= 0.05, rows=alone.p <= 0.05)


def answered(generator: np.random.Generator, chances: np.ndarray, sizes: np.ndarray) -> list[Answered]:
    return [
        Answered(f"r{image}.{row}", "p", "safety", f"i{image}", "", 3 if generator.random() < chance else 1, 3, 3, False, True,
                 False, "refuse", "S1", "none", "none", "", "")
        for image, (chance, size) in enumerate(zip(chances, sizes, strict=True))
        for row in range(size)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
