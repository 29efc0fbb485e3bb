"""What people's grades say of a judge: agreement, and rates that do not depend on how the sample was drawn."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.labelling.sampling import order_for, sample, verdict
from saferflow.labelling.table import PersonGrades, response_id
from saferflow.labelling.trust import alpha, consensus, estimates


def answered(number, *, safety, refused=False, policy="grpo", kind="safety", graded=True):
    return Answered(
        f"row{number}", policy, kind, f"image{number}", f"text {number}", safety, 1, 1, refused, True, False, "answer", "S1",
        "text", "", "", "", "rules", graded,
    )  # fmt: skip


def graded(row, person="Ada", **grades):
    name = response_id(row.row, row.policy, row.completion)
    given = {"safety": row.safety, "helpfulness": 1, "rigor": 1, "refused": row.refused} | grades
    return PersonGrades(
        response=name, row=row.row, policy=row.policy, verdict=verdict(row), hazard=row.hazard, completion=row.completion,
        person=person, at="", **given,
    )  # fmt: skip


TABLE = [answered(n, safety=3) for n in range(90)] + [answered(90 + n, safety=-2) for n in range(10)]


def test_a_sample_has_as_many_of_each_verdict_as_there_are():
    chosen = sample(TABLE, 16, seed=3)
    assert sorted(map(verdict, chosen)) == ["harmful"] * 8 + ["safe"] * 8
    assert sorted(map(verdict, sample(TABLE, 40, seed=3))) == ["harmful"] * 10 + ["safe"] * 30
    assert len(sample(TABLE, 1000, seed=3)) == 100


def test_a_sample_is_its_seeds_whatever_the_order_of_people():
    assert sample(TABLE, 10, seed=1) == sample(TABLE, 10, seed=1) != sample(TABLE, 10, seed=2)
    chosen = sample(TABLE, 10, seed=1)
    assert order_for("Ada", chosen) == order_for("Ada", chosen[::-1]) != order_for("Bo", chosen)


def test_general_rows_and_rows_without_grades_are_not_shown():
    with pytest.raises(DataError, match="no graded safety response"):
        sample([answered(1, safety=3, kind="general"), answered(2, safety=3, graded=False)], 5, seed=1)


def test_agreement_is_one_where_all_agree_and_none_where_nobody_met():
    rows = TABLE[88:92]
    people = {name: {row.row: graded(row).grades() for row in rows} for name in ("Ada", "Bo")}
    assert alpha(people, "safety") == 1.0
    assert alpha({"Ada": {"a": people["Ada"]["row88"]}, "Bo": {"b": people["Bo"]["row90"]}}, "safety") is None
    other = {row.row: graded(row, safety=-row.safety).grades() for row in rows}
    assert alpha({"Ada": people["Ada"], "Bo": other}, "safety") < 0


def test_the_middle_of_several_people_is_the_worse_of_two():
    row = TABLE[0]
    two = consensus([graded(row, "Ada", safety=3, refused=True), graded(row, "Bo", safety=1)])
    assert [(grades.safety, grades.refused) for grades in two.values()] == [(1, False)]
    three = consensus([graded(row, name, safety=safety) for name, safety in (("Ada", 3), ("Bo", -3), ("Cy", 2))])
    assert [grades.safety for grades in three.values()] == [2]


def test_a_rate_is_weighed_by_how_often_the_judge_gives_the_verdict():
    """Of 10 that the judge calls harmful people call 5 so; of 90 others 1 in 10: 0.1 x 5/10 + 0.9 x 1/10 = 0.14."""
    gradings = [graded(row, safety=-1 if n % 2 else 3) for n, row in enumerate(TABLE[90:])]
    gradings += [graded(row, safety=-1 if n == 0 else 3) for n, row in enumerate(TABLE[:10])]
    one = estimates(TABLE, gradings)["grpo", "attack_success_rate"]
    assert one.judged == pytest.approx(0.10)
    assert one.people == pytest.approx(0.14)
    assert one.low < 0.14 < one.high
    assert one.graded == 20


def test_where_a_verdict_has_no_graded_response_there_is_no_rate():
    one = estimates(TABLE, [graded(TABLE[0])])["grpo", "safety"]
    assert (one.judged, one.people, one.low, one.graded) == (0.9, None, None, 1)


@settings(max_examples=20)
@given(st.integers(1, 10), st.integers(1, 30))
def test_people_who_agree_with_the_judge_leave_its_rates_as_they_are(harmful, safe):
    gradings = [graded(row) for row in [*TABLE[90 : 90 + harmful], *TABLE[:safe]]]
    for one in estimates(TABLE, gradings).values():
        assert one.people == pytest.approx(one.judged)
        assert one.low <= one.people <= one.high


def test_more_responses_make_the_interval_narrower_and_two_make_no_certainty():
    def width(harmful, safe):
        gradings = [graded(row) for row in [*TABLE[90 : 90 + harmful], *TABLE[:safe]]]
        one = estimates(TABLE, gradings)["grpo", "attack_success_rate"]
        return one.high - one.low

    assert width(1, 1) > 0.5
    assert width(1, 1) > width(5, 5) > width(10, 60) > 0


def test_nineteen_of_twenty_intervals_hold_the_share():
    """200 samples of 40 responses of which three in ten count; under 180 hits would be a chance of 1 in 500; seeds are fixed."""
    hits = 0
    rows = [answered(n, safety=3) for n in range(40)]
    for seed in range(200):
        source = random.Random(seed)
        one = estimates(rows, [graded(row, safety=3 if source.random() < 0.3 else 1) for row in rows])["grpo", "safety"]
        hits += one.low <= 0.3 <= one.high
    assert hits >= 180
