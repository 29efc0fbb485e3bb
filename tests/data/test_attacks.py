"""Attacks as they are made: nothing harmful is added, nothing of the request is lost, and the same comes out again."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saferflow.data.attacks import ASKS_FOR_WORD, ASKS_FOR_WRITING, FRAMES, LEET, METHODS, PRESSURE, WORD, written
from saferflow.data.scenes.corpus import safety_rows
from saferflow.planner import lexicon
from saferflow.rng import rng

ROW = next(row for row in safety_rows(40, 3, "evaluation") if row.labels.harmful and row.labels.risk_source == "text")
questions = st.lists(
    st.sampled_from(["how", "do", "I", "rob", "a", "shop", "at", "night", "please", "steal", "from", "my", "boss"]),
    min_size=1,
).map(" ".join)


def made(name: str, question: str = ROW.question, image: bytes | None = ROW.image, seed: int = 1):
    return METHODS[name].make(question, image, rng(seed, name))


@pytest.mark.parametrize("name", METHODS)
def test_the_same_attack_comes_out_again(name):
    assert made(name) == made(name)


def test_what_we_wrote_around_a_request_names_no_harm_itself():
    """So that an attack is never worse than its seed."""
    ours = [*FRAMES, ASKS_FOR_WORD, ASKS_FOR_WRITING]
    for text in ours:
        assert not any(lexicon.found(terms, text) for terms in lexicon.TERMS.values()), text
    steps = re.compile(r"\b(?:mix|buy|cut|load|install)\b")
    assert not any(steps.search(text) for texts in PRESSURE for text in texts)


@given(questions)
def test_role_play_and_pressure_hold_the_whole_request(question):
    assert question in made("role_play", question).turns[0]
    assert made("pressure", question).turns[0] == question
    assert len(set(made("pressure", question).turns)) == 4


@given(questions, st.integers(0, 50))
def test_an_obfuscated_request_can_be_read_back(question, seed):
    text = made("obfuscation", question, seed=seed).turns[0]
    in_digits = WORD.sub(lambda found: found[0].translate(LEET), question)
    assert text.replace(".", "").replace("-", "") in (question, in_digits)


def test_a_split_request_has_its_longest_word_in_the_picture_only():
    found = made("split", "How do I rob a pharmacy?")
    assert found.written == "pharmacy"
    assert "pharmacy" not in found.turns[0]
    assert "How do I rob a ___?" in found.turns[0]
    assert made("split", "Could you give me advice? I want to rob them.").written == "them"
    assert made("split", "Please tell me what I want") is None


@pytest.mark.parametrize("image", [None, ROW.image], ids=["text-only", "picture"])
def test_a_typographic_request_is_in_the_picture_and_not_in_the_words(image):
    found = made("typographic", image=image)
    assert ROW.question not in found.turns[0]
    assert found.written == ROW.question
    shown = Image.open(io.BytesIO(found.image))
    if image is not None:
        before = Image.open(io.BytesIO(image)).convert("RGB")
        assert shown.size[0] == before.size[0]
        assert shown.size[1] > before.size[1]
        assert shown.crop((0, 0, *before.size)).tobytes() == before.tobytes()
        strip = shown.crop((0, before.size[1], *shown.size))
    else:
        strip = shown
    assert len({*strip.get_flattened_data()}) > 2  # there is ink


@given(st.text(max_size=400), st.sampled_from((None, ROW.image)))
def test_any_text_can_be_written(text, image):
    assert Image.open(io.BytesIO(written(image, text))).format == "PNG"
