"""Laws of the clustered bootstrap, and its coverage by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.evaluation.intervals import intervals, paired, unmatched
from saferflow.evaluation.measures import MEASURES, scores

FEW = {"resamples": 200, "level": 0.95, "seed": 7}


def rows(safe: list[bool], images: list[int] | None = None, policy: str = "a") -> list[Answered]:
    images = images if images is not None else list(range(len(safe)))
    return [
        Answered(
            f"r{i}", policy, "safety", f"i{image}", "", 3 if good else -2, 3, 3, good, True, False,
            "refuse", "S1", "text", "none", "", "",
        )
        for i, (good, image) in enumerate(zip(safe, images, strict=True))
    ]  # fmt: skip


outcomes = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 6)), min_size=1, max_size=30)


@given(outcomes)
@settings(max_examples=60, deadline=None)
def test_an_interval_holds_its_point(drawn):
    answered = rows([a for a, _, _ in drawn], [image for _, _, image in drawn])
    found, point = intervals(answered, **FEW), scores(answered).to_dict()
    for name in MEASURES:
        low, high = found[name]
        assert (low is None) == (point[name] is None)
        if low is not None:
            assert 0 <= low <= point[name] <= high <= 100


@given(outcomes)
@settings(max_examples=60, deadline=None)
def test_a_difference_is_the_difference_of_the_scores_and_turns_its_sign(drawn):
    images = [image for _, _, image in drawn]
    a, b = rows([x for x, _, _ in drawn], images), rows([y for _, y, _ in drawn], images, "b")
    forth, back = paired(a, b, **FEW)["safety"], paired(b, a, **FEW)["safety"]
    assert forth.difference == pytest.approx(scores(a).safety - scores(b).safety)
    assert back.difference == pytest.approx(-forth.difference)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))


def test_a_policy_does_not_differ_from_itself():
    a = rows([True, False] * 20)
    for found in (paired(a, a, **FEW)[name] for name in ("safety", "attack_success_rate")):
        assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_p_is_small_for_the_better_policy_in_both_directions_of_better():
    good, bad = rows([True] * 40), rows([True] * 20 + [False] * 20)
    found = paired(good, bad, **FEW)
    assert found["safety"].difference == 50
    assert found["attack_success_rate"].difference == -50
    assert found["safety"].p == found["attack_success_rate"].p == pytest.approx(1 / 201)
    assert paired(bad, good, **FEW)["safety"].p == 1


def test_rows_are_matched_by_id_and_not_by_place():
    a = rows([True, False, True])
    assert paired(a, a[::-1], **FEW)["safety"].high == 0


def test_equal_seeds_give_equal_intervals_and_rows_of_one_image_widen_them():
    safe = [i % 4 < 2 for i in range(80)]  # pairs of equal neighbours
    alone, together = rows(safe), rows(safe, [i // 2 for i in range(80)])
    assert intervals(alone, **FEW) == intervals(alone, **FEW)
    narrow, wide = intervals(alone, **FEW)["safety"], intervals(together, **FEW)["safety"]
    assert wide[1] - wide[0] > 1.2 * (narrow[1] - narrow[0])  # square root of 2 in the long run


@pytest.mark.parametrize(
    ("other", "strangers"),
    [
        pytest.param(lambda a: a[:-1], ["r2"], id="missing"),
        pytest.param(lambda a: [*a, replace(a[0], row="r9")], ["r9"], id="extra"),
        pytest.param(lambda a: [*a, a[0]], ["r0"], id="twice"),
        pytest.param(lambda a: [replace(a[0], image="new"), *a[1:]], ["r0"], id="another-image"),
        pytest.param(lambda a: [replace(a[0], expected="answer"), *a[1:]], ["r0"], id="another-verdict-wanted"),
    ],
)
def test_rows_that_differ_are_named(other, strangers):
    a = rows([True, False, True])
    assert set(strangers) <= set(unmatched(a, other(a)))
    with pytest.raises(DataError, match=strangers[0]):
        paired(a, other(a), **FEW)


def test_95_percent_intervals_cover_the_truth_about_95_times_in_100():
    """600 samples of 120 images with two rows each; images differ in how easy they are, truth 70 %.

    The share covered has a standard error of 0.9 points, so 92 to 98 % are three of them.
    """
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(600):
        ease = generator.beta(7, 3, size=120)
        safe = generator.random(240) < np.repeat(ease, 2)
        low, high = intervals(rows(list(safe), [i // 2 for i in range(240)]), resamples=400, level=0.95, seed=seed)[
            "safety"
        ]
        covered += low <= 70 <= high
    assert 0.92 <= covered / 600 <= 0.98


def test_the_paired_test_seldom_calls_equal_policies_different():
    """One-sided at 5 %: of 600 pairs of equal policies about 30, with a standard error of 5.3."""
    generator = np.random.default_rng(5)
    alarms = 0
    for seed in range(600):
        a, b = (rows(list(generator.random(120) < 0.8)) for _ in "ab")
        alarms += paired(a, b, resamples=400, level=0.95, seed=seed)["safety"].p <= 0.05
    assert alarms <= 46
