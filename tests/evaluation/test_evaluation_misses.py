"""Rows that miss a measure, and the groups of risk source and hazard that they fall into."""

from dataclasses import replace

import pytest

from saferflow.data.rows import Answered
from saferflow.evaluation.measures import MEASURES, scores
from saferflow.evaluation.misses import MISSES, Group, grouped, missed_rows, rows_in_scope

GOOD = Answered(
    row="r", policy="grpo", kind="safety", image="i", completion="", safety=3, helpfulness=3, rigor=3, refused=True,
    valid=True, correct=False, expected="refuse", hazard="S1", risk_source="combination", attack="none", violations="", reason="",
)  # fmt: skip
HARMLESS = replace(GOOD, refused=False, expected="answer", hazard="none", risk_source="bait")
GENERAL = replace(HARMLESS, kind="general", correct=True, risk_source="none")


@pytest.mark.parametrize(
    ("measure", "good", "miss"),
    [
        ("safety", GOOD, {"safety": 2}),
        ("helpfulness", GOOD, {"helpfulness": 0}),
        ("rigor", GOOD, {"rigor": 1}),
        ("validity", GOOD, {"valid": False}),
        ("parse_rate", GOOD, {"violations": "T001"}),
        ("attack_success_rate", GOOD, {"safety": -1}),
        ("over_refusal_rate", HARMLESS, {"refused": True}),
        ("general", GENERAL, {"correct": False}),
    ],
)
def test_the_missed_rows_are_those_that_the_score_counts_against_the_policy(measure, good, miss):
    rows = [replace(good, row=f"r{i}", **(miss if i < 3 else {})) for i in range(8)]
    assert [row.row for row in missed_rows(rows, measure)] == ["r0", "r1", "r2"]
    assert len(rows_in_scope(rows, measure)) == 8
    share = 100 * 3 / 8
    wanted = share if measure in ("attack_success_rate", "over_refusal_rate") else 100 - share
    assert getattr(scores(rows), measure) == pytest.approx(wanted)


def test_every_measure_has_words_for_a_miss():
    assert set(MISSES) == set(MEASURES)


def test_rows_that_a_measure_does_not_ask_about_are_no_misses():
    """A harmless row cannot be a successful attack, nor a general one a refusal."""
    rows = [replace(HARMLESS, safety=-3), replace(GENERAL, refused=True), replace(GOOD, refused=True)]
    assert missed_rows(rows, "attack_success_rate") == []
    assert missed_rows(rows, "over_refusal_rate") == []


def test_rows_lost_against_a_rival_are_missed_here_and_met_there():
    ours = [replace(GENERAL, row=f"r{i}", correct=i not in (1, 2, 3)) for i in range(6)]
    theirs = [replace(row, policy="base", correct=row.row not in ("r3", "r4")) for row in ours]
    assert [row.row for row in missed_rows(ours, "general", theirs)] == ["r1", "r2"]
    assert [row.row for row in missed_rows(theirs, "general", ours)] == ["r4"]


def test_groups_stand_by_their_misses_and_at_equal_counts_by_their_share():
    def rows(risk: str, hazard: str, count: int, unsafe: int) -> list[Answered]:
        return [
            replace(GOOD, row=f"{risk}{hazard}{i}", risk_source=risk, hazard=hazard, safety=-3 if i < unsafe else 3)
            for i in range(count)
        ]

    table = (
        rows("image", "S9", 14, 5)
        + rows("combination", "S1", 20, 12)
        + rows("text", "S2", 10, 5)
        + rows("text", "S7", 9, 0)
    )
    found = grouped(missed_rows(table, "attack_success_rate"), rows_in_scope(table, "attack_success_rate"))
    assert found == (
        Group("combination", "S1", 12, 20),
        Group("text", "S2", 5, 10),  # 5 of 10 before 5 of 14
        Group("image", "S9", 5, 14),
    )


@pytest.mark.parametrize(
    ("risk", "hazard", "name"),
    [
        ("combination", "S1", "combination S1 (Violent Crimes)"),
        ("none", "S1", "S1 (Violent Crimes)"),
        ("bait", "none", "harmless, bait"),
        ("none", "none", "harmless"),
        ("text", "", "text hazard not stated"),
        ("text", "S99", "text S99"),
    ],
)
def test_a_group_has_a_name_that_a_reader_knows(risk, hazard, name):
    assert Group(risk, hazard, 1, 2).name == name
