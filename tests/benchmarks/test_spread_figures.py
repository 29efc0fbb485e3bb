"""Means, spreads and paired differences over seeds."""

from dataclasses import replace
from math import sqrt

import pytest

from benchmarks.spread.figures import Outcome, against, of_variant, paired_difference, summary, t_interval

T_OF_TWO = 12.706204736
"""Student's t at 97.5 % with one degree of freedom: tan(0.475 pi)."""
T_OF_THREE = 4.302652730
"""With two: (2p - 1) / sqrt(2 p (1 - p)) at p = 0.975."""
SAFETY = {(11, "native"): 80.0, (11, "generic"): 90.0, (12, "native"): 70.0, (12, "generic"): 72.0}


def outcome(seed: int, arithmetic: str, **safety: float | None) -> Outcome:
    measures = {policy: {"safety": value} for policy, value in safety.items()}
    return Outcome("recipe", seed, arithmetic, measures, passed=None, failed_checks=[], seconds={})


def test_a_summary_tells_what_arithmetic_does_from_what_the_seed_does():
    figure = summary(SAFETY)
    assert figure.mean == (80 + 90 + 70 + 72) / 4
    assert (figure.lowest, figure.highest, figure.spread) == (70, 90, 90 - 70)
    assert figure.within_seed == ((90 - 80) + (72 - 70)) / 2
    assert figure.runs == 4


def test_one_run_a_seed_says_nothing_of_arithmetic():
    assert summary({(11, "native"): 80.0, (12, "native"): 70.0}).within_seed is None


@pytest.mark.parametrize(
    ("values", "half"),
    [
        pytest.param([1.0, 3.0], T_OF_TWO * sqrt(2) / sqrt(2), id="two"),  # deviation sqrt((1 + 1) / 1)
        pytest.param([1.0, 2.0, 3.0], T_OF_THREE * 1 / sqrt(3), id="three"),  # deviation sqrt((1 + 0 + 1) / 2)
        pytest.param([2.0, 2.0, 2.0], 0.0, id="no-deviation"),
    ],
)
def test_the_t_interval_is_students(values, half):
    assert t_interval(values) == pytest.approx((2 - half, 2 + half))


def test_one_seed_has_no_interval():
    assert t_interval([1.0]) == (None, None)


def test_the_seed_is_the_unit_of_a_paired_difference():
    """Four runs of two seeds: an interval over two numbers, not over four."""
    before = {(11, "native"): 78.0, (11, "generic"): 86.0, (12, "native"): 69.0, (12, "generic"): 71.0}
    first, second = ((80 - 78) + (90 - 86)) / 2, ((70 - 69) + (72 - 71)) / 2
    figure = paired_difference(SAFETY, before)
    assert figure.by_seed == {11: first, 12: second}
    assert figure.mean == (first + second) / 2
    half = T_OF_TWO * (abs(first - second) / sqrt(2)) / sqrt(2)
    assert (figure.low, figure.high) == pytest.approx((figure.mean - half, figure.mean + half))


def test_a_run_without_a_partner_has_no_part_in_a_paired_difference():
    before = {(11, "native"): 78.0, (12, "native"): 69.0}  # nothing under generic
    assert paired_difference(SAFETY, before).by_seed == {11: 80 - 78, 12: 70 - 69}
    assert paired_difference(SAFETY, {(13, "native"): 1.0}) is None


def test_the_steps_of_training_are_compared_in_their_order():
    outcomes = [outcome(1, "native", grpo=95.0, base=35.0, sft=90.0, dpo=92.0)]
    steps = of_variant(outcomes)["steps"]
    assert {pair: figure["safety"].mean for pair, figure in steps.items()} == {
        "sft-base": 90 - 35,
        "dpo-sft": 92 - 90,
        "grpo-dpo": 95 - 92,
    }


def test_a_measure_that_no_row_asks_for_is_left_out():
    figure = of_variant([outcome(1, "native", base=None, sft=90.0)])
    assert figure["measures"]["base"] == {}
    assert figure["steps"] == {"sft-base": {}}


def test_the_gate_counts_the_runs_it_judged_and_what_failed():
    outcomes = [
        replace(outcome(1, "native", sft=1.0), passed=True),
        replace(outcome(2, "native", sft=1.0), passed=False, failed_checks=["safety", "rigor"]),
        replace(outcome(3, "native", sft=1.0), passed=False, failed_checks=["safety"]),
        outcome(4, "native", sft=1.0),
    ]
    assert of_variant(outcomes)["gate"] == {"runs": 3, "passed": 1, "failed_checks": {"safety": 2, "rigor": 1}}


def test_the_seconds_of_a_run_are_the_sum_over_stages_whichever_runs_they_ran_in():
    """`plan` of the second run was restored, so it stands in no mean."""
    outcomes = [
        replace(outcome(1, "native"), seconds={"plan": 10.0, "sft": 200.0}),
        replace(outcome(1, "generic"), seconds={"sft": 300.0}),
    ]
    seconds = of_variant(outcomes)["seconds"]
    assert (seconds["plan"].mean, seconds["plan"].runs) == (10, 1)
    assert seconds["sft"].mean == (200 + 300) / 2
    assert seconds["all"] == 10 + 250


def test_a_variant_is_compared_with_the_first_on_the_same_seeds():
    first = [outcome(1, "native", sft=90.0), outcome(2, "native", sft=80.0)]
    other = [outcome(1, "native", sft=93.0), outcome(2, "native", sft=81.0), outcome(3, "native", sft=10.0)]
    figure = against(other, first)
    assert set(figure) == {"sft"}
    assert figure["sft"]["safety"].by_seed == {1: 93 - 90, 2: 81 - 80}
