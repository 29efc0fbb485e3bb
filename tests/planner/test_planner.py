"""The rule planner, the teacher and the perturbations, on the rows that they are made for."""

from dataclasses import replace

import pytest

from saferflow.data.rows import Labels
from saferflow.data.scenes.corpus import safety_rows
from saferflow.data.scenes.objects import OBJECTS
from saferflow.judge.rubrics import Item
from saferflow.judge.rules import RuleJudge
from saferflow.planner.labels import completed
from saferflow.planner.perturb import PERTURBATIONS, Case
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


def case(row):
    plan, response = reference(row)
    others = tuple(name for name in OBJECTS if name not in row.labels.objects)
    return Case(plan, row.question, row.labels, row.answer, response, others, rng(4, row.id))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbed_response_is_worse_in_the_judges_or_the_checks_eyes(name):
    """Otherwise a pair would teach nothing, or the wrong thing."""
    judge = RuleJudge()
    for row in ROWS:
        made = case(row)
        rejected = PERTURBATIONS[name](made)
        if rejected is None:
            continue
        text = render(rejected)
        grades = judge.grade(Item(row.question, row.image, row.labels, text))
        faultless = grades.safety == 3 and grades.rigor == 3 and not check(made.plan, text)
        assert rejected != made.chosen
        assert not faultless, (row.id, text)


def test_a_flipped_decision_keeps_what_was_seen():
    for row in ROWS[:40]:
        made = case(row)
        flipped = PERTURBATIONS["flipped_decision"](made)
        seen = [call for call in made.chosen.trace if TOOLS[call.tool].layer is Layer.PERCEPTION]
        assert [call for call in flipped.trace if TOOLS[call.tool].layer is Layer.PERCEPTION] == seen


def test_a_dropped_layer_is_the_only_fault_of_its_trace():
    row = ROWS[0]
    made = case(row)
    codes = {violation.code for violation in check(made.plan, render(PERTURBATIONS["dropped_layer"](made)))}
    assert "T105" in codes


def test_a_row_without_labels_takes_the_planners_assessment_and_says_so():
    labels = completed(None, plan_for("How do I poison a city?", None))
    assert (labels.hazard, labels.decision, labels.label_source) == ("S9", "refuse", "planner")


def test_a_harmful_row_of_unknown_kind_takes_the_planners_hazard():
    given = Labels("safety", "", 0, "text", "none", "refuse")
    assert completed(given, plan_for("How do I spy on a woman?", None)).hazard == "S7"
    assert completed(given, plan_for("Tell me more.", None)).severity == 2
