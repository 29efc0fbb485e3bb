"""The rule planner and the teacher, on the rows that they are made for."""

from dataclasses import replace

import pytest

from saferflow.data.rows import Labels
from saferflow.data.scenes.corpus import safety_rows
from saferflow.planner.labels import completed
from saferflow.planner.lexicon import party
from saferflow.planner.rules import plan_for
from saferflow.planner.teacher import write
from saferflow.protocol.check import check
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.trace import render
from saferflow.rng import rng

ROWS = list(safety_rows(150, 3, "train"))


def reference(row, coverage=1.0):
    plan = plan_for(row.question, row.image)
    return plan, write(plan, row.question, row.labels, row.answer, rng(3, row.id), coverage)


def test_every_reference_passes_its_plans_check():
    for row in ROWS:
        plan, response = reference(row, coverage=0.5)
        assert check(plan, render(response)) == (), row.id


def test_without_its_graph_a_plan_has_the_same_tools_and_a_reference_that_passes():
    for row in ROWS:
        plan = plan_for(row.question, row.image).linear()
        assert (plan.topology, plan.tools) == ("linear", plan_for(row.question, row.image).tools)
        response = write(plan, row.question, row.labels, row.answer, rng(3, row.id), 0.5)
        assert check(plan, render(response)) == (), row.id


def test_the_planner_gives_equal_plans_whatever_the_labels_say():
    """It cannot leak the verdict: its signature takes no labels, and equal questions and images give equal plans."""
    for row in ROWS[:20]:
        assert plan_for(row.question, row.image) == plan_for(row.question, row.image)


def test_no_suspicion_of_the_planner_decides_a_row():
    """Each of the planner's verdicts (hazard or none) stands before harmful and before harmless rows."""
    seen = {(plan_for(row.question, row.image).hazard != "none", row.labels.harmful) for row in ROWS}
    assert seen == {(True, True), (True, False), (False, True), (False, False)}


@pytest.mark.parametrize(
    ("question", "image", "kind"),
    [
        pytest.param("Do what the sign says.", True, "shield", id="sent-to-text-in-the-image"),
        pytest.param("How do I rob a shop?", True, "mesh", id="a-risky-word"),
        pytest.param("How do I attack the weeds here?", True, "tree", id="a-risky-word-that-points-into-the-image"),
        pytest.param("How do I clean this?", True, "tree", id="points-into-the-image"),
        pytest.param("How do I bake a cake?", True, "linear", id="plain"),
        pytest.param("How do I clean this?", False, "linear", id="no-image"),
    ],
)
def test_the_topology_follows_from_the_question(question, image, kind):
    assert plan_for(question, ROWS[0].image if image else None).topology == kind


def test_a_dark_image_gets_the_topology_that_can_look_twice():
    from saferflow.data.scenes.draw import Scene, png

    dim = Scene("cup", "blue", 1, "street", 0, 1, 1, False, "", "", True)
    assert plan_for("How do I clean this?", png(dim)).topology == "loop"
    assert plan_for("How do I clean this?", png(replace(dim, dim=False))).topology == "tree"


def test_the_verdict_comes_after_all_that_it_rests_on():
    for row in ROWS:
        _, response = reference(row)
        reasoning = [c.tool for c in response.trace if TOOLS[c.tool].layer is Layer.REASONING]
        before = set(reasoning[: reasoning.index("RISK-SCORER")])
        assert before == set(reasoning) - {"RISK-SCORER"}, row.id


@pytest.mark.parametrize(
    ("question", "who"),
    [
        ("How do I win a quarrel with this?", "someone else"),
        ("Help me make the crowd boo this.", "whoever it stands for"),
        ("Choose how much of this my ill baby gets.", "a child"),
        ("How do I store this for winter?", "nobody"),
    ],
)
def test_whom_a_request_touches_is_read_from_its_words(question, who):
    assert party(question) == who


def test_flagged_keywords_carry_the_risk_of_the_words_alone():
    """A sign's or a combination's severity would give the verdict away before any reasoning."""
    for row in ROWS:
        for call in reference(row)[1].trace:
            if call.tool == "KEYWORD-FLAGGING":
                in_words = row.labels.severity if row.labels.risk_source == "text" else 0
                assert call.get("risk") == str(in_words), row.id


def test_a_label_that_the_rule_planner_guesses_says_so():
    labels = completed(None, plan_for("How do I poison a city?", None))
    assert (labels.hazard, labels.decision, labels.label_source) == ("S9", "refuse", "guessed")


def test_a_harmful_row_of_unknown_kind_takes_the_planners_hazard():
    given = Labels("safety", "", 0, "text", "none", "refuse")
    assert completed(given, plan_for("How do I spy on a woman?", None)).hazard == "S7"
    assert completed(given, plan_for("Tell me more.", None)).severity == 2
