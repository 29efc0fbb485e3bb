"""Training rows in other forms: which rows, by what draw, and what stays of them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from saferflow.data.attacks.family import FAMILIES
from saferflow.data.rows import Labels, Row
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.judge.rubrics import Item
from saferflow.judge.rules import RuleJudge
from saferflow.params import AugmentationParams, load_params
from saferflow.planner.augmentation import augmented
from saferflow.planner.tables import fill
from saferflow.planner.writer import RuleWriter
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan

ROOT = Path(__file__).parents[2]
TRAINING = [*safety_rows(300, 7, "train"), *general_rows(60, 7, "train")]
HELD_OUT = [*safety_rows(40, 7, "evaluation"), *general_rows(10, 7, "evaluation")]
ALL = AugmentationParams(attacks=1, images=0)
PICTURES = AugmentationParams(attacks=0, images=1)
HALF = AugmentationParams(attacks=0.5, images=0.5)
RULES = RuleWriter(7, 1.0)


def wrapped(rows: list[Row], params: AugmentationParams | None, seed: int = 7) -> list[Row]:
    return [augmented(row, params, seed) for row in rows]


def test_null_leaves_every_row_as_it_is():
    assert all(row is same for row, same in zip(TRAINING, wrapped(TRAINING, None), strict=True))


def test_held_out_rows_are_never_touched():
    everything = AugmentationParams(attacks=1, images=1)
    assert all(row is same for row, same in zip(HELD_OUT, wrapped(HELD_OUT, everything), strict=True))


def test_a_row_does_not_depend_on_the_others_or_their_order():
    backwards = wrapped(TRAINING[::-1], HALF)[::-1]
    assert wrapped(TRAINING, HALF) == backwards
    assert wrapped(TRAINING[:50], HALF) == backwards[:50]


def test_about_the_share_of_the_rows_is_wrapped_and_a_larger_share_wraps_the_same_ones_too():
    texts = {row.id: row.question for row in TRAINING}
    counts = {}
    for share in (0.3, 0.6, 1.0):
        rows = wrapped(TRAINING, AugmentationParams(attacks=share, images=0))
        counts[share] = {row.id for row in rows if row.question != texts[row.id]}
    assert counts[0.3] < counts[0.6] < counts[1.0]
    able = [row for row in TRAINING if row.labels.kind == "safety" and row.labels.attack == "none"]
    assert counts[1.0] == {row.id for row in able}
    # A share of 0.3 of some 250 rows: standard deviation sqrt(0.3 * 0.7 / 250) = 0.03, three of them are 0.09.
    assert abs(len(counts[0.3]) / len(able) - 0.3) < 0.09


def test_id_decision_hazard_facts_and_answer_stay():
    for before, after in zip(TRAINING, wrapped(TRAINING, AugmentationParams(attacks=1, images=1)), strict=True):
        assert (after.id, after.split, after.answer, after.source) == (
            before.id,
            before.split,
            before.answer,
            before.source,
        )
        for name in ("decision", "hazard", "severity", "facts", "objects", "setting", "kind"):
            assert getattr(after.labels, name) == getattr(before.labels, name)


def test_only_a_harmful_row_becomes_an_attack():
    for before, after in zip(TRAINING, wrapped(TRAINING, ALL), strict=True):
        if before.labels.harmful and before.labels.attack == "none":
            assert after.labels.attack in {family.attack for family in FAMILIES.values()} - {"injection"}
        else:
            assert after.labels.attack == before.labels.attack


def test_a_wrapper_says_nothing_about_harm():
    """Of rows without words in their picture, harmful and harmless ones get the same kinds of wrapper at like rates."""
    rows = [row for row in safety_rows(1200, 11, "train") if row.labels.attack == "none" and not row.labels.sign]
    kinds = {True: Counter(), False: Counter()}
    for before, after in zip(rows, wrapped(rows, ALL), strict=True):
        written = after.image != before.image
        kinds[before.labels.harmful][
            "written" if written else "longer" if before.question in after.question else "spelled"
        ] += 1
    for kind in ("written", "longer", "spelled"):
        shares = [counts[kind] / counts.total() for counts in kinds.values()]
        # Two samples of about 500 and 400: the difference of two shares of a half has standard deviation 0.034.
        assert abs(shares[0] - shares[1]) < 0.11, kind


def test_pressed_rows_hold_the_same_answer_before_every_press():
    pressed = [(before, after) for before, after in zip(TRAINING, wrapped(TRAINING, ALL), strict=True) if after.earlier]
    assert {before.labels.harmful for before, _ in pressed} == {True, False}
    assert {len(after.earlier) for _, after in pressed} == {1, 2, 3}
    for before, after in pressed:
        assert after.earlier[0][0] == before.question
        last = after.question.removeprefix("".join(f"{user}\n" for user, _ in after.earlier))
        assert last
        assert "\n" not in last
        [answer] = {assistant for _, assistant in after.earlier}
        refuses = before.labels.decision == "refuse"
        assert answer.startswith("I can't" if before.labels.harmful else "This is safe. ")
        assert ("I can't help with this" in answer) == refuses
        assert (after.labels, after.image) == (before.labels, before.image)


def test_rows_of_several_turns_are_not_wrapped():
    row = replace(TRAINING[0], earlier=(("Hello.", "Hello."),), question="Hello.\nHow do I rob a shop?")
    assert augmented(row, ALL, 7) is row


def test_picture_bytes_change_only_where_words_are_written_into_them():
    for before, after in zip(TRAINING, wrapped(TRAINING, ALL), strict=True):
        assert (after.image != before.image) == (after.labels.sign != before.labels.sign)
        if before.labels.sign:
            assert after.image == before.image


def test_image_augmentation_changes_pictures_and_nothing_else():
    for before, after in zip(TRAINING, wrapped(TRAINING, PICTURES), strict=True):
        assert after.image != before.image
        assert replace(after, image=before.image) == before
    assert augmented(replace(TRAINING[0], image=None), PICTURES, 7).image is None


@pytest.mark.parametrize("question", ["Semi; colon", "two\nlines", "x" * 201, "a </thinking> tag"])
def test_a_request_that_no_trace_can_repeat_is_not_written_into_a_picture(question):
    row = next(row for row in TRAINING if row.labels.harmful and row.labels.attack == "none")
    for number in range(40):
        after = augmented(replace(row, id=f"r{number}", question=question), ALL, 7)
        assert after.image == row.image


def test_rows_without_labels_keep_their_words():
    row = replace(TRAINING[0], labels=None)
    assert augmented(row, ALL, 7) is row
    assert augmented(row, PICTURES, 7).question == row.question


def test_every_reference_of_an_augmented_row_keeps_its_plan_and_gets_the_highest_grades():
    params = load_params(ROOT / "profiles" / "micro.yaml")
    params = params.model_copy(
        update={"plan": params.plan.model_copy(update={"sft_share": 1.0, "dpo_share": 0.0, "grpo_share": 0.0})}
    )
    judge = RuleJudge()
    for made in fill(wrapped(TRAINING, AugmentationParams(attacks=1, images=0.5)), RULES, params):
        [row] = made.rows
        if row.kind == "safety":
            assert check(Plan.from_json(row.plan), row.completion) == ()
            grades = judge.grade(Item(row.question, row.image, Labels.from_json(row.labels), row.completion))
            assert (grades.safety, grades.helpfulness, grades.rigor) == (3, 3, 3), row.id
