"""Calibration of stated confidence, on rows worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferflow.data.rows import Answered
from saferflow.evaluation.confidence import reliability, stated_confidence

FEW = {"resamples": 100, "level": 0.95, "seed": 7}


def row(number: int, confidence: str, hazard: str = "S1", kind: str = "safety") -> Answered:
    call = f"[RISK-SCORER]: hazard={hazard}; severity=2; confidence={confidence}"
    text = f"<thinking>\n{call}\n</thinking>\n<answer>\nNo.\n</answer>"
    return Answered(
        f"r{number}", "p", kind, f"i{number}", text, 3, 3, 3, True, True, False, "refuse", "S1", "text", "none", "", "",
    )  # fmt: skip


def test_bins_hold_what_was_stated_and_how_often_it_was_right():
    rows = [row(i, "0.9", "S1" if i < 6 else "S2") for i in range(8)]  # 75% right where 90% was said
    rows += [row(10 + i, "0.25", "s1" if i < 1 else "none") for i in range(4)]  # 25% where 25% was said
    rows += [row(20, "1.0"), row(21, "sure"), row(22, "1.5"), row(23, "0.9", kind="general")]
    found = reliability({"p": rows}, **FEW)["p"]
    assert [(one.low, one.rows, one.stated, one.right) for one in found.bins] == [
        (0.2, 4, 25.0, 25.0), (0.9, 9, pytest.approx(100 * (8 * 0.9 + 1) / 9), pytest.approx(100 * 7 / 9)),
    ]  # fmt: skip
    assert (found.rows, found.unstated) == (13, 2)
    assert found.error == pytest.approx(9 / 13 * abs(100 * (8 * 0.9 + 1) / 9 - 100 * 7 / 9))


def test_a_policy_without_traces_states_nothing():
    found = reliability({"base": [row(1, "")]}, **FEW)["base"]
    assert (found.bins, found.rows, found.unstated, found.error) == ((), 0, 1, None)


@given(st.text(max_size=200))
def test_whatever_a_policy_writes_is_read_or_left_out(text):
    for completion in (text, f"<thinking>\n[RISK-SCORER]: hazard=S1; confidence={text}\n</thinking>"):
        stated = stated_confidence(completion)
        assert stated is None or 0 <= stated[1] <= 1
