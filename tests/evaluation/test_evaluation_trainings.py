"""Differences between recipes that were trained several times: what their intervals promise, and what is refused."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, ttest_1samp

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.evaluation.intervals import paired
from saferflow.evaluation.noninferiority import claims_of
from saferflow.evaluation.trainings import Repeated, apart, repeated

SETTINGS = {"resamples": 60, "level": 0.95, "seed": 1}
ROWS = 40


def training(share: float, draw: random.Random) -> list[Answered]:
    """Answers of a policy that is safe on such a share of the rows."""
    return [
        Answered(f"r{i}", "grpo", "safety", f"i{i}", "", 3 if draw.random() < share else -3, 3, 3, False, True, True, "refuse",
                 "none", "none", "none", "", "")
        for i in range(ROWS)
    ]  # fmt: skip


def recipe(draw: random.Random, trainings: int) -> list[list[Answered]]:
    """Trainings of the same recipe, which come out differently: 75 % safe, give or take 12."""
    return [training(min(1.0, max(0.0, draw.gauss(0.75, 0.12))), draw) for _ in range(trainings)]


def test_of_two_equal_recipes_the_interval_holds_no_difference_as_often_as_it_says():
    """60 times three trainings against three. Were each right with 95 %, fewer than 51 would be once in 1,300."""
    draw = random.Random(5)
    right = by_rows = 0
    for _ in range(60):
        first, second = recipe(draw, 3), recipe(draw, 3)
        safety = apart(first, second, **SETTINGS)["safety"]
        right += safety.low <= 0 <= safety.high
        rows_alone = paired(second[0], first[0], **SETTINGS)["safety"]
        by_rows += rows_alone.low <= 0 <= rows_alone.high
    assert right >= 51
    assert by_rows < right  # what one training each says is surer than it may be


def test_the_order_of_rows_and_of_trainings_changes_nothing():
    draw = random.Random(3)
    first, second = recipe(draw, 2), recipe(draw, 3)
    mixed = [draw.sample(answered, len(answered)) for answered in reversed(second)]
    one, other = apart(first, second, **SETTINGS)["safety"], apart(first, mixed, **SETTINGS)["safety"]
    assert (other.difference, other.low, other.high) == pytest.approx((one.difference, one.low, one.high))
    assert one.difference == pytest.approx(sum(one.second) / 3 - sum(one.first) / 2)


def test_trainings_that_came_out_alike_leave_the_spread_of_the_rows():
    draw = random.Random(4)
    first, second = training(0.6, draw), training(0.9, draw)
    safety = apart([first, first], [second, second], **SETTINGS)["safety"]
    rows = paired(second, first, **SETTINGS)["safety"]
    assert safety.difference == pytest.approx(rows.difference)
    assert safety.high - safety.low == pytest.approx(rows.high - rows.low, rel=0.25)


def test_a_measure_that_no_row_asks_about_is_left_out():
    assert "general" not in apart([training(1, random.Random(1))] * 2, [training(1, random.Random(1))] * 2, **SETTINGS)


def test_one_training_and_other_rows_are_refused():
    draw = random.Random(2)
    two = recipe(draw, 2)
    with pytest.raises(DataError, match="at least two trainings on each side"):
        apart(two[:1], two, **SETTINGS)
    with pytest.raises(DataError, match=f"different rows, among them r{ROWS - 1}"):
        apart(two, [two[0], two[1][:-1]], **SETTINGS)


POINTS = st.floats(-20, 20).map(lambda value: round(value, 3))
ERRORS = st.floats(0.01, 10)
BOOTSTRAP = {"resamples": 60, "seed": 1}


@given(st.lists(POINTS, min_size=2, max_size=6), ERRORS, ERRORS, st.floats(0, 10), st.floats(0.001, 0.49))
def test_p_is_the_least_error_of_a_bound_that_shows_the_claim(values, by_trainings, by_rows, margin, tail):
    both = Repeated(tuple(values), by_trainings, by_rows)
    gap = both.mean - both.half(tail) + margin
    if abs(gap) > 1e-6:
        assert (both.p(margin) < tail) == (gap > 0)
    low, high = both.interval(0.9)
    assert (low, high) == pytest.approx((both.mean - both.half(0.05), both.mean + both.half(0.05)))


@given(st.lists(POINTS, min_size=2, max_size=6), ERRORS, ERRORS, st.floats(1, 3))
def test_more_spread_of_trainings_or_of_rows_never_makes_a_gain_surer(values, by_trainings, by_rows, times):
    values = tuple(map(abs, values))
    p = Repeated(values, by_trainings, by_rows).p(0.1)
    assert Repeated(values, by_trainings * times, by_rows).p(0.1) >= p - 1e-9
    assert Repeated(values, by_trainings, by_rows * times).p(0.1) >= p - 1e-9


@given(st.lists(POINTS, min_size=2, max_size=6), ERRORS, st.floats(0, 10))
def test_without_spread_of_trainings_it_is_the_test_over_rows_and_without_that_of_rows_the_t_test(values, error, margin):
    mean = sum(values) / len(values)
    over_rows = Repeated(tuple(values), 0.0, error).p(margin)
    assert over_rows == pytest.approx(norm.sf((mean + margin) / error), abs=1e-6)
    spread = np.std(values, ddof=1) / len(values) ** 0.5
    if spread > 1e-3:
        expected = ttest_1samp(values, -margin, alternative="greater").pvalue
        assert Repeated(tuple(values), spread, 0.0).p(margin) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("room", "p"), [(3.0, 1e-9), (0.0, 1 - 1e-9), (-1.0, 1 - 1e-9)])
def test_without_any_spread_a_gain_is_a_gain(room, p):
    assert Repeated((room, room), 0.0, 0.0).p(0.0) == p


@pytest.mark.parametrize("seed", range(4))
def test_trainings_that_came_out_alike_are_tested_as_their_rows_are(seed):
    draw = random.Random(seed)
    pair = (training(0.85, draw), training(0.7, draw))
    test = ("safety", "safety", 0.0, lambda row: True)
    [rows_alone] = claims_of(*pair, [test], resamples=2000, seed=1)
    same = repeated([pair] * 3, resamples=2000, seed=1)["safety"]
    assert same.by_trainings == 0
    assert (same.mean, same.by_rows) == pytest.approx((rows_alone.improvement, rows_alone.error))
    assert same.p(0.0) == pytest.approx(norm.sf(rows_alone.improvement / rows_alone.error), abs=1e-6)
    [with_trainings] = claims_of(*pair, [test], resamples=2000, seed=1, pairs=[pair] * 3)
    assert with_trainings.p == rows_alone.p  # the exact test of few rows has the last word
    assert with_trainings.few_rows


def elsewhere(answered: list[Answered], seed: int) -> list[Answered]:
    """The same answers to other rows, as where the seed draws the corpus."""
    return [replace(row, row=f"{seed}.{row.row}", image=f"{seed}.{row.image}") for row in answered]


@pytest.mark.parametrize("own_rows", [False, True], ids=["same-rows", "rows-of-each-seed"])
def test_equal_recipes_are_called_better_no_oftener_than_stated(own_rows):
    """100 times three trainings a side, at 5%: were it 5% of the times, more than 12 would be once in 700."""
    draw = random.Random(6)
    alarms = by_rows = 0
    for _ in range(100):
        pairs = list(zip(recipe(draw, 3), recipe(draw, 3), strict=True))
        if own_rows:
            pairs = [tuple(elsewhere(side, seed) for side in pair) for seed, pair in enumerate(pairs)]
        alarms += repeated(pairs, **BOOTSTRAP)["safety"].p(0.0) <= 0.05
        by_rows += paired(*pairs[0], **SETTINGS)["safety"].p <= 0.05
    assert alarms <= 12
    assert by_rows > 12  # rows of one training each are surer than they may be


def test_a_better_recipe_is_shown_with_enough_trainings():
    draw = random.Random(7)
    better = [training(min(1.0, share + 0.25), draw) for share in (0.6, 0.65, 0.7, 0.72)]
    pairs = list(zip(better, (training(share, draw) for share in (0.6, 0.65, 0.7, 0.72)), strict=True))
    over = repeated(pairs, **BOOTSTRAP)["safety"]
    assert over.p(0.0) < 0.05
    assert over.mean == pytest.approx(sum(over.differences) / 4)
    shuffled = [(ours, draw.sample(theirs, len(theirs))) for ours, theirs in pairs]
    assert repeated(shuffled, **BOOTSTRAP)["safety"] == over


def test_trainings_of_a_seed_on_other_rows_are_refused_and_a_measure_of_one_seed_is_left_out():
    draw = random.Random(8)
    [one, other] = recipe(draw, 2)
    with pytest.raises(DataError, match=f"a seed answered different rows, among them r{ROWS - 1}"):
        repeated([(one, other), (one, other[:-1])], **BOOTSTRAP)
    general = [replace(row, kind="general") for row in one]
    assert repeated([(one, other), (general, general)], **BOOTSTRAP) == {}
