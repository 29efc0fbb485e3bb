"""The structured reward, each number computed by hand."""

from dataclasses import asdict

import pytest

from saferflow.judge.structured import StructuredMarks
from saferflow.rewards.structured import StructuredWeights, structured_reward

TEXT = "<thinking>\n[VISUAL-SCAN]: a lock\n</thinking>\n<answer>\nNo, a locksmith can.\n</answer>"
EXACT = 1e-12


def marks(thinking=(8, 6, 7), answer=(9, 5, 4), hallucination=0, contradiction=0) -> StructuredMarks:
    return StructuredMarks(*thinking, *answer, hallucination, contradiction)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(marks(), (7, 6, 0, 0.65), id="(8+6+7)/3 = 7, (9+5+4)/3 = 6, (3.5 + 3)/10"),
        pytest.param(marks(hallucination=1), (7, 6, 2, 0.45), id="a slight hallucination: 6.5 - 2"),
        pytest.param(marks(contradiction=2), (7, 6, 3, 0.35), id="a clear contradiction: 6.5 - 3"),
        pytest.param(marks(hallucination=3), (7, 6, 4, 0.25), id="a severe hallucination: 6.5 - 4"),
        pytest.param(marks(hallucination=3, contradiction=3), (7, 6, 8, 0.0), id="6.5 - 8 is clipped to 0"),
        pytest.param(marks((10, 10, 10), (10, 10, 10)), (10, 10, 0, 1.0), id="the most"),
        pytest.param(marks((0, 0, 0), (0, 0, 0)), (0, 0, 0, 0.0), id="the least"),
        pytest.param(marks((10, 10, 9), (0, 0, 1)), (29 / 3, 1 / 3, 0, 0.5), id="thirds: (29/6 + 1/6)/10"),
    ],
)
def test_the_marks_are_worth_what_the_formula_says(given, expected):
    assert structured_reward(TEXT, given) == pytest.approx(expected, abs=EXACT)


def test_a_penalty_is_due_whatever_the_final_answer():
    perfect = marks((10, 10, 10), (10, 10, 10), hallucination=1)
    assert structured_reward(TEXT, perfect).overall == pytest.approx(0.8, abs=EXACT)  # (10 - 2) / 10


def test_all_weights_are_the_callers():
    weights = StructuredWeights(thinking=(1, 0, 1), answer=(2, 1, 1), parts=(0.2, 0.8), penalties=(0, 1, 1.5, 2))
    # thinking (8 + 7)/2 = 7.5; answer (2*9 + 5 + 4)/4 = 6.75; 0.2*7.5 + 0.8*6.75 - 1.5 = 5.4
    found = structured_reward(TEXT, marks(contradiction=2), weights)
    assert found == pytest.approx((7.5, 6.75, 1.5, 0.54), abs=EXACT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(TEXT.replace("</thinking>", ""), 0.3, id="unclosed thinking: 0.5 * 6"),
        pytest.param("<thinking> \n</thinking><answer>No.</answer>", 0.3, id="empty thinking"),
        pytest.param(TEXT.replace("<answer>", ""), 0.35, id="an answer that was never opened: 0.5 * 7"),
        pytest.param("No.", 0.0, id="no tags"),
        pytest.param("", 0.0, id="nothing"),
        pytest.param("\x00\ud800\u202e" + "[" * 1_000_000, 0.0, id="a megabyte of brackets"),
    ],
)
def test_nothing_is_paid_for_a_block_that_is_not_there(text, expected):
    assert structured_reward(text, marks()).overall == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("mark", [-1, 11, 5.0, "5", True, None])
def test_a_mark_that_no_judge_can_give_is_an_error_and_never_a_score(mark):
    with pytest.raises(ValueError, match=r"marks are integers; got grounding=.* \(0 to 10\)"):
        marks(thinking=(5, mark, 5))


def test_all_wrong_marks_are_named_at_once():
    with pytest.raises(ValueError, match=r"safety=12 \(0 to 10\), hallucination=4 \(0 to 3\)"):
        StructuredMarks(**asdict(marks()) | {"safety": 12, "hallucination": 4})
