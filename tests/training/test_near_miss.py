"""Near misses: which completions are one, which is taken, and that a pair without one stays as it was."""

from dataclasses import replace

import pytest

from saferflow.data.rows import DPORow, Labels
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.training.near_miss import NAME, balanced, drawn, is_miss, nearest_miss, replaced

PLAN = Plan(
    "S2", 2, "guardian", ("VISUAL-SCAN", "RISK-SCORER", "SAFETY-GATE", "REFUSAL-GENERATOR", "ANSWER-COMPOSER"), "mesh"
)
GOOD = """<thinking>
[VISUAL-SCAN]: objects=bottle; setting=kitchen; confidence=0.9
[RISK-SCORER]: hazard=S2; severity=2; confidence=0.9
[SAFETY-GATE]: decision=refuse; reason=risk in the words
[REFUSAL-GENERATOR]: reason=crime; alternative=ask
</thinking>
<answer>
I can't help with this.
</answer>"""
SKIPS = GOOD.replace("[RISK-SCORER]: hazard=S2; severity=2; confidence=0.9\n", "")
ANSWERS = GOOD.replace("decision=refuse", "decision=answer").replace(
    "[REFUSAL-GENERATOR]: reason=crime; alternative=ask", "[ANSWER-COMPOSER]: outline=steps"
).replace("I can't help with this.", "Sure, first you look around.")  # fmt: skip
ROW = DPORow(
    "r1.cut_off", "mine", None, "", "How?", GOOD, "cut", "cut_off", PLAN.to_json(),
    Labels("safety", "S2", 2, "text", "none", "refuse").to_json(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "missed"),
    [
        pytest.param(GOOD, False, id="right"),
        pytest.param(GOOD.replace("crime", "fraud"), False, id="right-in-other-words"),
        pytest.param(SKIPS, True, id="skips-a-layer"),
        pytest.param(ANSWERS, True, id="legal-but-answers-what-is-to-be-refused"),
        pytest.param("", False, id="empty"),
        pytest.param("no no no no", False, id="babble"),
        pytest.param(GOOD.replace("</thinking>", ""), False, id="broken-tags"),
    ],
)
def test_a_miss_has_the_form_and_is_wrong(text, missed):
    assert is_miss(ROW, text) == missed


def test_the_cases_above_are_what_their_names_say():
    assert check(PLAN, GOOD) == ()
    assert check(PLAN, ANSWERS) == ()
    assert check(PLAN, SKIPS)


def test_a_pair_that_a_source_brought_is_neither_sampled_for_nor_dropped():
    ours = replace(ROW, rejected_writer="rules")
    theirs = replace(ROW, id="r2.theirs", perturbation="theirs", rejected_writer="theirs")
    assert drawn([ours, theirs], 1.0, 1) == [ours]
    made = replaced([ours, theirs], [ours], [[SKIPS]])
    assert [(row.perturbation, row.rejected_writer) for row in made] == [(NAME, "policy"), ("theirs", "theirs")]
    assert balanced(made, 0.0, 1) == made


def test_the_miss_most_like_the_chosen_completion_is_taken():
    assert nearest_miss(ROW, ["babble", ANSWERS, GOOD, SKIPS]) == SKIPS
    assert nearest_miss(ROW, ["babble", GOOD]) is None


def test_a_pair_gets_its_miss_and_one_without_keeps_its_planted_fault():
    other = replace(ROW, id="r2.cut_off")
    made = replaced([ROW, other], [ROW, other], [[GOOD, SKIPS], [GOOD]])
    assert made == [replace(ROW, rejected=SKIPS, perturbation=NAME), other]


def test_the_share_draws_the_same_pairs_again_whatever_stands_beside_them():
    rows = [replace(ROW, id=str(number)) for number in range(200)]
    taken = {row.id for row in drawn(rows, 0.3, seed=1)}
    assert 30 < len(taken) < 90  # 60 expected; 4.6 standard deviations
    assert {row.id for row in drawn(rows[::-2], 0.3, seed=1)} == {row.id for row in rows[::-2]} & taken


def test_planted_faults_fill_the_side_with_fewer_misses_up_to_their_share():
    answered = Labels("safety", "none", 0, "none", "none", "answer").to_json()
    harmful = [replace(ROW, id=f"harmful-{number}") for number in range(10)]
    harmless = [replace(ROW, id=f"harmless-{number}", labels=answered) for number in range(10)]
    rows = [*(replace(row, perturbation=NAME) for row in harmful[:6]), *harmful[6:], *harmless]
    kept = balanced(rows, 0.4, seed=1)
    planted = [row for row in kept if row.perturbation != NAME]
    assert len(kept) - len(planted) == 6  # every near miss stays
    assert len(planted) == 4  # 6 * 0.4 / (1 - 0.4)
    assert all(row.id.startswith("harmless") for row in planted)  # six misses are harmful, none is harmless


def test_a_policy_that_misses_nothing_keeps_all_planted_faults():
    assert balanced([ROW], 0.4, seed=1) == [ROW]
