"""Differences between recipes that were trained several times: what their intervals promise, and what is refused."""

import random

import pytest

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.evaluation.intervals import paired
from saferflow.evaluation.trainings import apart

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
