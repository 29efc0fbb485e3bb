"""Drift between two versions of the data: the index by hand, its laws, and what is told of it."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferflow.data.profile import drift, length_bin, profile_of, whole
from saferflow.data.profile_plot import draw
from saferflow.data.rows import Labels, SFTRow

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 500), min_size=1)


def index(old: dict, new: dict) -> float:
    [shift] = drift({"sft": {"hazard": old}}, {"sft": {"hazard": new}})
    return shift.index


def test_the_index_by_hand():
    """Shares, half a row added to both bins: 50.5 / 101 and 50.5 / 101 become 80.5 / 101 and 20.5 / 101."""
    old, new = 50.5 / 101, (80.5 / 101, 20.5 / 101)
    expected = (new[0] - old) * math.log(new[0] / old) + (new[1] - old) * math.log(new[1] / old)
    assert index({"S1": 50, "S2": 50}, {"S1": 80, "S2": 20}) == pytest.approx(expected)


@given(COUNTS, COUNTS)
def test_it_is_symmetric_never_negative_and_zero_for_the_same(one, other):
    assert index(one, other) == pytest.approx(index(other, one))
    assert index(one, other) >= 0
    assert index(one, one) == 0


def test_a_hazard_that_goes_and_one_that_comes_are_finite_and_named_first():
    [shift] = drift({"sft": {"hazard": {"S1": 60, "S2": 40}}}, {"sft": {"hazard": {"S1": 60, "S7": 40}}})
    assert shift.verdict == "large shift"
    assert math.isfinite(shift.index)
    assert {name for name, _, _ in shift.moves[:2]} == {"S2", "S7"}
    assert ("S2", 0.4, 0.0) in shift.moves


def test_what_only_one_version_has_is_no_drift():
    assert drift({"sft": {"hazard": {"S1": 1}}}, {"dpo": {"hazard": {"S1": 1}}, "sft": {"source": {"a": 1}}}) == []


@given(st.text(max_size=300))
def test_a_length_falls_into_its_bin(text):
    low, high = map(int, length_bin(text).split("-"))
    assert low <= len(text) <= high


def test_a_profile_counts_every_row_once_in_each_aspect_and_adds_up():
    rows = [
        SFTRow(str(n), "mine", "safety", None, "", "Why?" * n, "x" * 9, "",
               Labels("safety", "S1", 2, "text", "none", "refuse").to_json())
        for n in range(1, 5)
    ]  # fmt: skip
    made = whole(profile_of(rows))
    assert made["hazard"] == {"S1": 4}
    assert made["completion characters"] == {"8-15": 4}
    assert all(sum(bins.values()) == 4 for bins in made.values())
    assert whole(Counter(profile_of(rows[:1])) + Counter(profile_of(rows[1:]))) == made


def test_the_picture_names_what_moved():
    text = draw(drift({"sft": {"hazard": {"S1": 9, "S2": 1}}}, {"sft": {"hazard": {"S1": 1, "S2": 9}}}))
    assert text.startswith("<?xml")
    assert "sft: hazard" in text
    assert draw([]).startswith("<?xml")
