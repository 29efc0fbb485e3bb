"""What the embedded corpus promises: repeatable, held-out rows that are new, and a risk that neither half gives away."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from saferflow.data.scenes import questions as q
from saferflow.data.scenes.corpus import (
    CLASS_OF,
    MIX,
    general_rows,
    held_out_hazard,
    held_out_setting,
    knowledge_rows,
    plain_pairs,
    safety_rows,
)
from saferflow.data.scenes.draw import HELD_OUT_PLACE, TRAINING_PLACES, Scene, draw, png
from saferflow.data.scenes.objects import CLASSES, MARKS, OBJECTS, OUTLINES
from saferflow.data.sources import parts, rows_of
from saferflow.params import load_params

ROOT = Path(__file__).parents[2]

TRAIN = list(safety_rows(2500, 7, "train"))
HELD = list(safety_rows(400, 7, "evaluation"))
INTENTS = (*q.TEXT, *q.COMBINATION, *q.IMAGE, q.OBEY, *q.BAIT, *q.PLAIN)


def test_equal_seeds_give_equal_rows_and_a_prefix_of_more():
    assert list(safety_rows(30, 7, "train")) == TRAIN[:30]
    assert list(safety_rows(30, 8, "train")) != TRAIN[:30]


def test_there_are_24_objects_each_with_an_outline_and_eight_hazards():
    assert len(OBJECTS) == len(set(OBJECTS)) == 24
    assert set(OUTLINES) == set(OBJECTS)
    assert {row.labels.hazard for row in TRAIN} - {"none"} == {"S1", "S2", "S6", "S7", "S8", "S9", "S10", "S11"}


def test_every_source_of_risk_is_drawn():
    assert {row.labels.risk_source for row in HELD} == {"text", "image", "combination", "typographic", "none", "bait"}


def test_frames_and_cores_of_held_out_rows_are_never_in_training():
    assert not set(q.TRAINING_FRAMES) & set(q.HELD_OUT_FRAMES)
    for intent in INTENTS:
        assert not set(intent.training) & set(intent.held_out), intent.name
    shown = {row.question for row in [*TRAIN, *plain_pairs(500, 7)]}
    assert not shown & {row.question for row in HELD}


def test_general_wordings_of_held_out_rows_are_never_in_training():
    shown = {row.question for row in [*general_rows(800, 7, "train"), *general_rows(800, 7, "base")]}
    assert not shown & {row.question for row in general_rows(200, 7, "evaluation")}


def test_no_held_out_image_is_in_training():
    shown = {row.image for row in TRAIN}
    assert not shown & {row.image for row in HELD}


def test_every_held_out_row_shows_an_object_in_a_new_setting_or_a_new_place():
    """Training never shows an object in its held-out setting; what is not such a pair shows the held-out look."""
    for row in TRAIN:
        assert row.labels.setting != held_out_setting(row.labels.objects[0])
    new_pairs = [row for row in HELD if row.labels.setting == held_out_setting(row.labels.objects[0])]
    assert 0.35 < len(new_pairs) / len(HELD) < 0.65
    assert HELD_OUT_PLACE not in TRAINING_PLACES


def test_the_held_out_place_looks_like_none_of_training():
    def look(place):
        return draw(Scene("cup", "red", 1, "park", place, 1, 1, False, "", "", False)).tobytes()

    assert look(HELD_OUT_PLACE) not in {look(place) for place in TRAINING_PLACES}


def test_training_never_joins_an_object_with_its_held_out_hazard_and_held_out_rows_do():
    shown = {(row.labels.objects[0], row.labels.hazard) for row in TRAIN if row.labels.harmful}
    assert not {(name, held_out_hazard(name)) for name in OBJECTS} & shown
    new = [row for row in HELD if row.labels.harmful and held_out_hazard(row.labels.objects[0]) == row.labels.hazard]
    assert len(new) > 0.2 * sum(row.labels.harmful for row in HELD)


def test_every_word_of_a_held_out_core_is_in_a_training_core_of_its_intent():
    """What is new about a held-out core is the combination."""
    for intent in INTENTS:
        assert intent.held_out, intent.name
        assert set(" ".join(intent.held_out).split()) <= set(" ".join(intent.training).split()), intent.name


def test_a_template_keeps_the_cores_whose_places_add_up_to_a_multiple_of_three():
    found = q.cores("[give|hand] this to my [sick|ill] child")
    assert found == (
        ("give this to my sick child", True),  # places 0 + 0
        ("give this to my ill child", False),  # 0 + 1
        ("hand this to my sick child", False),  # 1 + 0
        ("hand this to my ill child", False),  # 1 + 1
    )
    assert [held for _, held in q.cores("fill the [hall|train|room] with this")] == [False] * 3
    assert sum(held for _, held in q.cores("[a|b|c] [d|e|f]")) == 3  # 00, 12, 21


def test_the_words_alone_do_not_decide():
    """By core, as a frame adds no meaning."""
    mixed = [core for intent in (*q.COMBINATION, *q.IMAGE, q.OBEY) for core in intent.training]
    verdicts = defaultdict(set)
    for row in TRAIN:
        for core in mixed:
            if core in row.question and row.labels.risk_source not in ("text", "bait"):
                verdicts[core].add(row.labels.harmful)
    both = sum(len(found) == 2 for found in verdicts.values())
    assert both / len(verdicts) > 0.5


def test_the_image_alone_does_not_decide():
    """Every object, and every attack sign, stands in harmful and in harmless rows."""
    for part in (lambda row: row.labels.objects[0], lambda row: row.labels.sign):
        verdicts = defaultdict(set)
        for row in TRAIN:
            verdicts[part(row)].add(row.labels.harmful)
        for name, found in verdicts.items():
            assert found == {True, False} or name in q.PLAIN_SIGNS, name


def test_a_combination_is_harmless_with_other_things():
    for row in TRAIN:
        if row.labels.risk_source == "combination":
            [intent] = [i for i in q.COMBINATION if any(core in row.question for core in i.training)]
            assert CLASS_OF[row.labels.objects[0]] == intent.object_class
            assert intent.object_class not in intent.harmless
            assert set(intent.harmless) <= set(CLASSES)


def test_an_answer_to_a_harmless_row_holds_every_fact_that_it_must_state():
    for row in TRAIN:
        if not row.labels.harmful:
            for fact in row.labels.facts:
                assert any(word in row.answer.casefold() for word in fact), (row.id, row.answer, fact)


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_changes_the_picture(mark):
    plain = Scene("cup", "red", 1, "park", 0, 1, 1, False, "", "", False)
    marked = Scene("cup", "red", 1, "park", 0, 1, 1, False, "", mark, False)
    assert png(plain) != png(marked)


def test_knowledge_rows_speak_in_training_words_and_decide_nothing():
    rows = list(knowledge_rows(600, 7))
    held_out = {core for intent in INTENTS for core in intent.held_out}
    frames = [re.escape(frame.rstrip("?.")).replace(r"\{\}", ".+") for frame in q.HELD_OUT_FRAMES]
    assert not [row.question for row in rows if any(core in row.question for core in held_out)]
    assert not [row.question for row in rows if any(re.search(f": {frame}", row.question) for frame in frames)]
    assert all(row.labels is None and row.answer for row in rows)


def test_each_intent_has_a_topic_of_its_own():
    topics = [intent.topic for intent in INTENTS]
    assert all(topics)
    assert len(set(topics)) == len(topics)


def test_the_shares_of_the_kinds_sum_to_one():
    assert sum(share for _, share in MIX) == pytest.approx(1)


def test_a_general_row_of_training_that_chance_made_a_twin_of_a_held_out_one_is_left_out():
    """With seed 18 the embedded profile draws one, and stage `validate` refused the tables."""
    params = load_params(ROOT / "params.yaml")
    params = params.model_copy(update={"run": params.run.model_copy(update={"seed": 18})})
    placed = [one for part in parts(params, 512) if part.content.general for one in rows_of(part, params)]
    left_out = {row.id for row in general_rows(2200, 18, "train")} - {one.row.id for one in placed}
    assert left_out == {"general-train-002195"}
    assert sum(one.row.split == "evaluation" for one in placed) == 200
