"""The structured reward: hand-computed points, its bounds, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferflow.judge.rubrics import StructuredMarks
from saferflow.rewards.structured import structured_reward

MARKS = st.floats(0, 10)
PENALTY = st.one_of(st.just(0.0), st.floats(2, 4))


@pytest.mark.parametrize(
    ("marks", "overall"),
    [
        pytest.param((10, 10, 10, 10, 10, 10), 1.0, id="all-there-is"),
        pytest.param((0, 0, 0, 0, 0, 0), 0.0, id="nothing"),
        pytest.param((9, 6, 6, 3, 6, 6), (0.5 * 7 + 0.5 * 5) / 10, id="the-parts-are-means"),
        pytest.param((10, 10, 10, 10, 10, 10, 2, 0), (10 - 2) / 10, id="a-hallucination"),
        pytest.param((10, 10, 10, 10, 10, 10, 3, 4), (10 - 3 - 4) / 10, id="both-faults"),
        pytest.param((3, 3, 3, 3, 3, 3, 4, 0), 0.0, id="never-below-nothing"),
    ],
)
def test_points_add_up(marks, overall):
    assert structured_reward(StructuredMarks(*marks)).overall == pytest.approx(overall)


def test_a_fault_in_the_thinking_costs_however_good_the_answer_is():
    good = structured_reward(StructuredMarks(10, 10, 10, 10, 10, 10))
    faulty = structured_reward(StructuredMarks(10, 10, 10, 10, 10, 10, hallucination=2))
    assert faulty.answer == good.answer == 1.0
    assert good.overall - faulty.overall == pytest.approx(0.2)


def test_the_weight_of_the_thinking_is_the_callers():
    marks = StructuredMarks(8, 8, 8, 2, 2, 2)
    assert structured_reward(marks, thinking_weight=1.0).overall == pytest.approx(0.8)
    assert structured_reward(marks, thinking_weight=0.25).overall == pytest.approx((0.25 * 8 + 0.75 * 2) / 10)


@given(st.tuples(*[MARKS] * 6), PENALTY, PENALTY)
def test_the_reward_is_a_share_and_no_penalty_raises_it(marks, hallucination, contradiction):
    clean = structured_reward(StructuredMarks(*marks)).overall
    charged = structured_reward(StructuredMarks(*marks, hallucination, contradiction)).overall
    assert 0 <= charged <= clean <= 1


def test_every_mark_out_of_range_is_named():
    with pytest.raises(ValueError, match="coherence=11") as error:
        StructuredMarks(11, 5, "high", 5, 5, 5, hallucination=1)
    assert "awareness='high'" in str(error.value)
    assert "hallucination=1 (0, or 2 to 4)" in str(error.value)
