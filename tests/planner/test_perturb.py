"""Each perturbation plants exactly the fault that it names, and changes nothing else."""

from collections import Counter
from difflib import SequenceMatcher

import pytest

from saferflow.data.scenes.corpus import safety_rows
from saferflow.data.scenes.objects import OBJECTS
from saferflow.judge.rubrics import Item
from saferflow.judge.rules import RuleJudge
from saferflow.planner.operator import Case
from saferflow.planner.perturb import PERTURBATIONS, perturb, unknown
from saferflow.planner.rules import plan_for
from saferflow.planner.teacher import write
from saferflow.protocol.check import check
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.trace import Call, Response, parse, render
from saferflow.rng import rng

ROWS = list(safety_rows(150, 3, "train"))
JUDGE = RuleJudge()
GRADES = ("safety", "helpfulness", "rigor")

# Operator -> share of the rows to which it applies, at least; calls that differ from the chosen trace, at most;
# whether the answer changes.
REACH = {
    "dropped_layer": (0.95, 5, False),
    "wrong_tool": (0.5, 2, False),
    "foreign_tool": (0.95, 1, False),
    "illegal_order": (0.7, 1, False),
    "needless_repeat": (0.95, 1, False),
    "skipped_gate": (0.95, 1, False),
    "wrong_observation": (0.95, 2, None),
    "contradiction": (0.9, 2, False),
    "flipped_decision": (0.95, 3, True),
    "over_refusal": (0.3, 8, True),
    "under_refusal": (0.4, 8, True),
    "contradicting_answer": (0.7, 0, True),
    "mistyped_field": (0.95, 1, False),
    "cut_off": (0.95, 8, True),
}


def case(row):
    plan = plan_for(row.question, row.image)
    response = write(plan, row.question, row.labels, row.answer, rng(3, row.id), 1.0)
    others = tuple(name for name in OBJECTS if name not in row.labels.objects)
    return Case(plan, row.question, row.labels, row.answer, response, others, rng(4, row.id))


def grades(row, text):
    found = JUDGE.grade(Item(row.question, row.image, row.labels, text))
    return {name: getattr(found, name) for name in GRADES}


def made(name):
    """(row, case, rejected completion) for the rows to which an operator applies."""
    cases = [(row, case(row)) for row in ROWS]
    found = [(row, given, perturb(name, given)) for row, given in cases]
    return [(row, given, text) for row, given, text in found if text is not None]


def test_every_operator_is_measured_here():
    assert set(REACH) == set(PERTURBATIONS)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_an_operator_applies_to_the_rows_that_can_have_its_fault(name):
    assert len(made(name)) >= REACH[name][0] * len(ROWS)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_check_sees_exactly_the_planted_violations(name):
    for row, given, text in made(name):
        assert check(given.plan, render(given.chosen)) == ()
        assert {violation.code for violation in check(given.plan, text)} == PERTURBATIONS[name].plants, (row.id, text)


@pytest.mark.parametrize("name", [name for name, operator in PERTURBATIONS.items() if operator.lowers])
def test_a_fault_that_the_check_cannot_see_lowers_the_grades_that_it_names_and_no_other(name):
    for row, given, text in made(name):
        before, after = grades(row, render(given.chosen)), grades(row, text)
        fallen = {grade for grade in GRADES if after[grade] < before[grade]}
        assert before == dict.fromkeys(GRADES, 3), row.id
        assert fallen, (row.id, text)
        assert fallen <= PERTURBATIONS[name].lowers, (row.id, text)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_nothing_else_changes(name):
    _, most, answer_changes = REACH[name]
    for row, given, text in made(name):
        chosen, rejected = given.chosen, parse(text)
        blocks = SequenceMatcher(None, chosen.trace, rejected.trace, autojunk=False).get_matching_blocks()
        changed = max(len(chosen.trace), len(rejected.trace)) - sum(block.size for block in blocks)
        assert changed <= most, (row.id, text)
        if answer_changes is not None:
            assert (rejected.answer != chosen.answer) == answer_changes, (row.id, text)


@pytest.mark.parametrize("name", ["flipped_decision", "over_refusal", "under_refusal"])
def test_a_wrong_verdict_stands_on_what_was_rightly_seen(name):
    """How picture and words relate is a judgement, and may be as wrong as the verdict."""

    def seen(response: Response) -> list[Call]:
        return [
            c for c in response.trace if TOOLS[c.tool].layer is Layer.PERCEPTION and c.tool != "CROSS-MODAL-SYNC"
        ]

    for row, given, text in made(name):
        assert seen(parse(text)) == seen(given.chosen), row.id


def test_over_refusal_is_for_harmless_rows_and_under_refusal_for_harmful_ones():
    assert {row.labels.harmful for row, _, _ in made("over_refusal")} == {False}
    assert {row.labels.harmful for row, _, _ in made("under_refusal")} == {True}


def test_a_harmless_row_is_refused_for_the_hazard_that_it_resembles():
    """A control of the combination is taken for what its words would be with another thing, and not for any hazard."""
    controls = [row for row in safety_rows(600, 3, "train") if row.labels.resembles]
    assert {row.labels.resembles[2] for row in controls} == {"combination"}
    for row in controls:
        text = perturb("over_refusal", case(row))
        scored = [call for call in parse(text).trace if call.tool == "RISK-SCORER"]
        assert {(call.get("hazard"), call.get("severity")) for call in scored} <= {row.labels.resembles[:2]}, row.id


def test_a_harmless_row_that_resembles_nothing_is_refused_for_a_hazard_that_its_object_lends_itself_to():
    feared = {"knife": {"S1", "S11"}, "pills": {"S6", "S9"}, "letter": {"S2", "S7"}, "flag": {"S8", "S10"}}
    seen = set()
    for row in safety_rows(3000, 3, "train"):
        given, name = case(row), row.labels.objects[0]
        if name in feared and not row.labels.resembles and not row.labels.harmful and given.plan.hazard == "none":
            text = perturb("over_refusal", given)
            seen |= {(name, call.get("hazard")) for call in parse(text).trace if call.tool == "RISK-SCORER"}
    assert seen == {(name, hazard) for name, hazards in feared.items() for hazard in hazards}


def test_equal_random_numbers_give_equal_faults():
    for name in PERTURBATIONS:
        assert [perturb(name, case(row)) for row in ROWS[:20]] == [perturb(name, case(row)) for row in ROWS[:20]]


def test_both_families_are_there():
    assert Counter(operator.family for operator in PERTURBATIONS.values()) == {"selection": 6, "execution": 8}


def test_unknown_names_are_told():
    assert unknown(["cut_off", "typo", "dropped_layer"]) == ["typo"]
