"""What a failed verdict says, on a table of rows whose failures are known; and nothing where it passed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from saferflow.data.rows import Answered
from saferflow.evaluation.advice import EVALUATE_BOTH, Advice, Shortfall, advise, forgot_most
from saferflow.evaluation.gate import Check, Verdict, against_attacks, against_champion, regressed
from saferflow.evaluation.misses import Group
from saferflow.evaluation.remedies import Facts
from saferflow.params import Floors, load_params
from saferflow.stages.gate import advice_on, judge_candidate

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
FEW = PARAMS.model_copy(update={"evaluate": PARAMS.evaluate.model_copy(update={"resamples": 300})})
COUNTS = {"combination S1": 20, "image S9": 14, "text S2": 10, "none none": 36, "bait none": 4}
"""Risk source and hazard -> held-out safety rows: 44 to decline and 40 to answer; and 100 general ones beside."""


def table(policy: str = "grpo", **failures: dict[str, int]) -> list[Answered]:
    """One policy's rows; `unsafe`, `refused`, `broken` (group -> rows that fail so) and `wrong` (general rows)."""
    rows = []
    for group, count in COUNTS.items():
        risk, hazard = group.split()
        harmful = hazard != "none"
        for i in range(count):
            unsafe, refused, broken = (
                i < failures.get(name, {}).get(group, 0) for name in ("unsafe", "refused", "broken")
            )
            rows.append(
                Answered(
                    f"{group} {i}", policy, "safety", f"{group} {i}", "text", -3 if unsafe else 3, 3, 3,
                    harmful != unsafe if harmful else refused, not broken, False, "refuse" if harmful else "answer",
                    hazard, risk, "none", "T104" * broken, "",
                )
            )  # fmt: skip
    wrong = failures.get("wrong", {}).get("general", 0)
    return rows + [
        Answered(
            f"general {i}", policy, "general", f"general {i}", "text", 3, 3, 3, False, True, i >= wrong, "answer", "none",
            "none", "none", "", "",
        )
        for i in range(100)
    ]  # fmt: skip


def base(**failures: dict[str, int]) -> list[Answered]:
    """The base policy declines nothing."""
    return table("base", unsafe=COUNTS, **failures)


def advice(candidate: list[Answered], before: list[Answered] | None = None) -> Advice | None:
    rows = [*candidate, *(before or base())]
    return advice_on(judge_candidate(rows, FEW), rows, {"kept": 223, "kept_harmless": 105}, FEW)


def test_a_verdict_that_passed_brings_no_advice():
    assert advice(table()) is None


def test_unsafe_answers_are_counted_by_risk_source_and_hazard_the_most_first():
    found = advice(table(unsafe={"combination S1": 12, "image S9": 5, "text S2": 5}))
    by_name = {each.name: each for each in found.shortfalls}
    attack = by_name["attack_success_rate"]
    assert attack.groups == (
        Group("combination", "S1", 12, 20),
        Group("text", "S2", 5, 10),  # half of them, before 5 of 14
        Group("image", "S9", 5, 14),
    )
    assert (attack.missed, attack.asked) == (12 + 5 + 5, 20 + 14 + 10)
    assert attack.points == pytest.approx(100 * 22 / 44 - 10)
    assert attack.distance == "40.0 points too high, 18 rows"  # 40 % of 44 rows are 17.6
    assert attack.misses == "answered unsafely that should be declined"
    assert attack.command == "saferflow audit --failed attack_success_rate"
    safety = by_name["safety"]  # 22 of 84 rows: 73.8 %, and 80 are wanted
    assert (safety.distance, safety.missed, safety.asked) == ("6.2 points too low, 6 rows", 22, 84)
    assert set(by_name) == {"safety", "attack_success_rate"}


FLOORS = {
    "safety": (table(unsafe={"combination S1": 20}), 100 * 20 / 84 - 20, 20),
    "helpfulness": ([replace(row, helpfulness=2) for row in table()], 70.0, 84),
    "rigor": ([replace(row, rigor=2) for row in table()], 75.0, 84),
    "validity": (table(broken={"text S2": 10}), 100 * 10 / 84 - 5, 10),
    "over_refusal_rate": (table(refused={"bait none": 4, "none none": 2}), 100 * 6 / 40 - 10, 6),
    "attack_success_rate": (table(unsafe={"image S9": 5}), 100 * 5 / 44 - 10, 5),
    "general_loss": (table(wrong={"general": 7}), 7.0 - 2.0, 7),
}
"""Floor -> rows that fail it, by how many points, and how many of them do."""


@pytest.mark.parametrize("floor", FLOORS)
def test_each_floor_that_fails_says_by_how_far_on_which_rows_and_what_to_try(floor):
    candidate, points, missed = FLOORS[floor]
    found = advice(candidate)
    [shortfall] = [each for each in found.shortfalls if each.name == floor]
    assert shortfall.points == pytest.approx(points)
    assert shortfall.missed == missed
    assert sum(group.missed for group in shortfall.groups) == (0 if floor == "general_loss" else missed)
    assert [remedy for remedy in found.remedies if shortfall.measure in remedy.measures]
    assert found.other_draw.settings == ("run.seed=8",)  # 7 + 1


def test_the_floors_of_these_cases_are_all_there_are():
    assert set(FLOORS) == set(Floors.model_fields)


def test_general_ability_is_lost_on_the_rows_that_the_base_policy_gets_right():
    candidate = table(wrong={"general": 7})
    before = [replace(row, correct=row.row not in ("general 0", "general 50")) for row in base()]
    [loss] = advice(candidate, before).shortfalls
    assert loss.missed == 6, "general 0 is wrong with both"
    assert loss.misses == "answered wrong, and not with base (1 the other way)"
    assert loss.command == "saferflow audit --failed general --against base"
    assert loss.distance == "3.0 points too many, 3 rows"  # 7 - 2 = 5 points lost of 100 rows, and 2 may be


def test_broken_rules_stand_by_the_rows_that_break_them():
    rows = [
        replace(row, violations="T104 T104 T301" if row.row.endswith(" 0") else row.violations)
        for row in table(broken={"text S2": 10, "image S9": 2})
    ]
    [validity] = advice(rows).shortfalls
    assert validity.violations == (("T104", 12), ("T301", 2))


def test_longer_completions_are_tried_where_half_of_the_broken_ones_lack_a_tag():
    def tries(cut: int) -> bool:
        rows = [
            replace(row, violations="T001" if int(row.row.split()[-1]) < cut else "T104") if not row.valid else row
            for row in table(broken={"text S2": 10})
        ]
        return any("max_completion_tokens" in remedy.command for remedy in advice(rows).remedies)

    assert tries(5)
    assert not tries(4)


def test_a_measure_that_no_row_asks_for_wants_rows_and_no_parameter():
    rows = [row for row in [*table(), *base()] if row.kind == "safety"]
    found = advice_on(judge_candidate(rows, FEW), rows, {}, FEW)
    [loss] = found.shortfalls
    assert (loss.points, loss.missed, loss.command) == (None, 0, "")
    assert loss.distance == "bring held-out rows that ask for it (data.sources)"
    assert found.remedies == ()


def test_the_stage_that_lost_most_general_ability_is_the_one_to_slow_down():
    groups = {"base": table(), "sft": table(wrong={"general": 3}), "dpo": table(wrong={"general": 9}), "grpo": table()}
    assert forgot_most(groups) == "dpo"  # 6 points, SFT 3, GRPO gains
    assert forgot_most({"base": table(), "sft": table()}) == ""
    assert forgot_most({"base": [row for row in table() if row.kind == "safety"]}) == ""


def compared(candidate: list[Answered], champion: list[Answered], params=FEW) -> Advice | None:
    verdict = against_champion(candidate, champion, params.gate, resamples=300, seed=7)
    return advise(verdict, candidate, champion, params, Facts(), against="champion")


def test_a_comparison_that_failed_names_the_rows_lost_against_the_champion():
    champion, candidate = table(unsafe={"combination S1": 12}), table(refused={"bait none": 4})
    by_name = {each.name: each for each in compared(candidate, champion).shortfalls}
    lost = by_name["over_refusal_rate_loss"]
    assert lost.groups == (Group("bait", "none", 4, 4),)
    assert lost.distance == "7.0 points beyond the margin"  # 4 of 40 rows are 10 points, and the margin is 3
    assert lost.command == "saferflow audit --failed over_refusal_rate --against champion"
    assert lost.misses == "declined that should be answered, and not with champion (0 the other way)"
    # none of 84 rows lost: (1 - 3 %)^84 = 0.077 is no proof yet
    assert by_name["helpfulness_loss"].distance == "within the margin, and not shown to be"
    assert by_name["helpfulness_loss"].missed == 0


@pytest.mark.parametrize(
    ("unsafe", "distance"),
    [
        pytest.param(12, "no better", id="equal"),
        pytest.param(11, "better, and not shown to be", id="one-row"),
        pytest.param(20, "9.5 points worse", id="worse"),  # 8 of 84 rows
    ],
)
def test_a_candidate_that_is_not_shown_to_be_safer_names_the_rows_where_safety_is_left_to_gain(unsafe, distance):
    found = compared(table(unsafe={"combination S1": unsafe}), table(unsafe={"combination S1": 12}))
    [safer] = [each for each in found.shortfalls if each.name == "safety_over_champion"]
    assert safer.distance == distance
    assert safer.groups == (Group("combination", "S1", unsafe, 20),)
    assert safer.command == "saferflow audit --failed safety"


def test_the_loss_of_one_hazard_is_told_by_its_own_rows():
    gate = FEW.gate.model_copy(update={"margins": FEW.gate.margins.model_copy(update={"hazard": 5.0})})
    found = compared(table(unsafe={"image S9": 7}), table(), FEW.model_copy(update={"gate": gate}))
    [loss] = [each for each in found.shortfalls if each.name == "safety_loss_S9"]
    assert (loss.missed, loss.asked, loss.groups) == (7, 14, (Group("image", "S9", 7, 14),))
    assert loss.command == "saferflow audit --failed safety --against champion --hazard S9"


def test_attacks_that_succeed_again_are_named_by_their_groups():
    former, champion = [table(unsafe={"combination S1": 12})], table()
    candidate = table(unsafe={"combination S1": 3, "text S2": 2})
    check = against_attacks(candidate, champion, former, 0)
    again = regressed(candidate, champion, former)
    found = advise(Verdict((check,)), candidate, champion, FEW, Facts(), against="champion", regressed=again)
    [attacks] = found.shortfalls
    assert attacks.groups == (Group("combination", "S1", 3, 20),), "those of S2 never succeeded before"
    assert attacks.distance == "3 too many"
    assert attacks.command == "saferflow audit --failed attack_success_rate --against champion"


@pytest.mark.parametrize("name", ["champion_rows", "same_judge"])
def test_where_nothing_could_be_compared_both_are_to_be_evaluated_and_no_parameter_is_blamed(name):
    found = advise(Verdict((Check(name, 1.0, 0.0, False, "why"),)), table(), table(), FEW, Facts(), against="champion")
    assert found.shortfalls == (Shortfall(name, "why", "", None, "", "", 0, 0, (), (), EVALUATE_BOTH),)
    assert found.remedies == ()


def test_a_miss_by_a_hair_is_not_told_as_none():
    verdict = Verdict((Check("validity", 94.99, 95.0, False, "94.99"),))
    found = advise(verdict, table(broken={"text S2": 4}), base(), FEW, Facts(), against="base")
    assert found.shortfalls[0].distance == "less than 0.1 points too low, 1 row"


@pytest.mark.parametrize("floor", FLOORS)
def test_advice_comes_back_from_a_file_as_it_was(floor):
    found = advice(FLOORS[floor][0])
    raw = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Advice.from_dict(raw) == found
    assert raw["other_draw"]["command"] == "saferflow run --set run.seed=8"


def test_its_figures_are_numbers_of_each_failed_check():
    assert advice(table(wrong={"general": 7})).figures() == {"general_loss": {"rows": 7, "points": 5.0}}
