"""What several runs of one pipeline come to: means, spreads, and paired differences over seeds. Pure functions.

A seed is the unit: the runs of one seed under several arithmetics share their data and their order, so they are averaged before
an interval is computed, and the interval is Student's t over the seeds. Source: ours.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit  # scipy.stats has it as well, and takes a second to import

ORDER = ("base", "sft", "dpo", "grpo")
"""Policies in the order of training."""
LEVEL = 0.95
"""Of the intervals."""

RunKey = tuple[int, str]
"""Seed and arithmetic."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A figure over runs."""

    mean: float
    lowest: float
    highest: float
    spread: float
    """Highest minus lowest."""
    within_seed: float | None
    """The mean over seeds of the spread of one seed's runs; None where no seed has two."""
    runs: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference over seeds, in the figure's unit."""

    mean: float
    low: float | None
    """Of the t interval at `LEVEL`; None with fewer than two seeds."""
    high: float | None
    by_seed: Mapping[int, float]


def summary(values: Mapping[RunKey, float]) -> Summary:
    """Mean, range and spread of a figure that is known in at least one run."""
    seeds = grouped(values)
    spreads = [max(group) - min(group) for group in seeds.values() if len(group) > 1]
    lowest, highest = min(values.values()), max(values.values())
    within = fmean(spreads) if spreads else None
    return Summary(fmean(values.values()), lowest, highest, highest - lowest, within, len(values))


def paired_difference(values: Mapping[RunKey, float], others: Mapping[RunKey, float]) -> Difference | None:
    """values - others over the runs that have both; None where there are none."""
    gains = {key: values[key] - others[key] for key in values if key in others}
    if not gains:
        return None
    by_seed = {seed: fmean(group) for seed, group in grouped(gains).items()}
    return Difference(fmean(by_seed.values()), *t_interval(list(by_seed.values())), by_seed)


def t_interval(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    r"""$\bar x \pm t_{(1+level)/2,\,n-1}\, s / \sqrt n$; (None, None) for fewer than two values."""
    if len(values) < 2:
        return None, None
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def grouped(values: Mapping[RunKey, float]) -> dict[int, list[float]]:
    """Seed -> the figures of its runs."""
    seeds: dict[int, list[float]] = {}
    for (seed, _), value in values.items():
        seeds.setdefault(seed, []).append(value)
    return seeds


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of one run."""

    variant: str
    seed: int
    arithmetic: str
    measures: Mapping[str, Mapping[str, float | None]]
    """Policy -> measure -> percent, the successes of attacks among them; None where no row asks for the measure."""
    passed: bool | None
    """Whether the gate let it through; None where the gate has not run."""
    failed_checks: Sequence[str]
    seconds: Mapping[str, float]
    """Of each stage that ran from its beginning to its end in this run, and was not restored from another one."""

    @property
    def key(self) -> RunKey:
        return self.seed, self.arithmetic


def of_variant(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One variant's figures over its runs.

    Returns:
        `runs` (their number), `measures` (policy -> measure -> `Summary`), `steps` (`sft-base` and so on -> measure ->
        `Difference`), `gate` (runs that it judged, runs that it let through, failed checks with the number of runs), and
        `seconds` (stage -> `Summary`, and `all`, the sum of the means).
    """
    policies = [name for name in ORDER if any(name in outcome.measures for outcome in outcomes)]
    judged = [outcome for outcome in outcomes if outcome.passed is not None]
    checks = [name for outcome in judged for name in outcome.failed_checks]
    stages = {name: None for outcome in outcomes for name in outcome.seconds}
    seconds = {
        stage: summary({outcome.key: outcome.seconds[stage] for outcome in outcomes if stage in outcome.seconds})
        for stage in stages
    }
    return {
        "runs": len(outcomes),
        "measures": {
            policy: {name: summary(values) for name, values in _measures(outcomes, policy)} for policy in policies
        },
        "steps": {
            f"{after}-{before}": _differences(outcomes, after, outcomes, before) for before, after in pairwise(policies)
        },
        "gate": {
            "runs": len(judged),
            "passed": sum(bool(outcome.passed) for outcome in judged),
            "failed_checks": {name: checks.count(name) for name in dict.fromkeys(checks)},
        },
        "seconds": {**seconds, "all": sum(figure.mean for figure in seconds.values())} if seconds else {},
    }


def against(outcomes: Sequence[Outcome], first: Sequence[Outcome]) -> dict[str, dict[str, Difference]]:
    """Policy -> measure -> how much a variant differs from the first one, paired over seeds."""
    return {policy: gains for policy in ORDER if (gains := _differences(outcomes, policy, first, policy))}


def _differences(
    outcomes: Sequence[Outcome], policy: str, others: Sequence[Outcome], other_policy: str
) -> dict[str, Difference]:
    before = dict(_measures(others, other_policy))
    pairs = {
        name: paired_difference(values, before[name])
        for name, values in _measures(outcomes, policy)
        if name in before
    }  # fmt: skip
    return {name: difference for name, difference in pairs.items() if difference}


def _measures(outcomes: Sequence[Outcome], policy: str) -> Iterator[tuple[str, dict[RunKey, float]]]:
    """Each measure of a policy with its figures by run, where there are any."""
    names = {name: None for outcome in outcomes for name in outcome.measures.get(policy, {})}
    for name in names:
        values = {
            outcome.key: value
            for outcome in outcomes
            if (value := outcome.measures.get(policy, {}).get(name)) is not None
        }
        if values:
            yield name, values
