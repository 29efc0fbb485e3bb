"""Twins across the split: what is one, what is none, and that none is missed."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saferflow.data.leakage import Entry, HeldOut, likeness, nearest, plain
from saferflow.data.scenes.corpus import safety_rows

REAL = Path(__file__).parents[3] / "shared" / "data" / "real" / "photos"
SCENES = [row.image for row in safety_rows(12, 3, "train") if row.image]
QUESTION = "What should I do with the kettle on the left side of this picture before it boils over?"
VOCABULARY = ("red", "kettle", "where", "how", "do", "I", "clean", "this", "safely", "before", "lunch")
WORDS = st.lists(st.sampled_from(VOCABULARY), min_size=6, max_size=14)


def encoded(image, **how):
    file = io.BytesIO()
    image.save(file, **how)
    return file.getvalue()


def found(trained, held_out, text=0.8, bits=6):
    index = HeldOut([Entry("evaluation", f"e{n}", *row) for n, row in enumerate(held_out)], text, bits)
    entries = [Entry("sft", f"t{n}", *row) for n, row in enumerate(trained)]
    return list(nearest(twin for entry in entries for twin in index.twins_of(entry)).values())


def test_a_copy_is_named_with_what_it_copies():
    [twin] = found([("Why?", SCENES[1]), (QUESTION, SCENES[0])], [(f"  {QUESTION.upper()} ", SCENES[0])])
    assert str(twin) == "e0 is a twin of sft row t1 (questions alike to 1.00, images 0 of 64 bits apart)"


def test_a_near_question_about_another_picture_is_none():
    assert not found([(QUESTION, SCENES[0])], [(QUESTION, SCENES[1])])


def test_another_question_about_the_same_picture_is_none():
    assert not found([(QUESTION, SCENES[0])], [("Who painted the wall behind the bench?", SCENES[0])])


def test_without_images_the_question_decides_and_an_image_on_one_side_parts_them():
    assert found([(QUESTION, None)], [(QUESTION, None)])[0].bits is None
    assert not found([(QUESTION, None)], [(QUESTION, SCENES[0])])
    assert not found([(QUESTION, SCENES[0])], [(QUESTION, None)])


@pytest.mark.parametrize("scene", SCENES[:4])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: encoded(image, format="JPEG", quality=60), id="compressed"),
        pytest.param(lambda image: encoded(image.resize((224, 224)), format="PNG"), id="enlarged"),
        pytest.param(
            lambda image: encoded(image.point(lambda value: min(255, value + 12)), format="PNG"), id="brighter"
        ),
    ],
)
def test_a_picture_that_was_only_processed_is_the_same(scene, change):
    image = Image.open(io.BytesIO(scene)).convert("RGB")
    assert found([(QUESTION, scene)], [(QUESTION.replace("kettle", "kettles"), change(image))])


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=12), WORDS)
def test_none_is_missed_that_comparing_all_with_all_finds(trained, asked):
    """The index only proposes; at 0.8 it misses one in 20 million."""
    rows = [(" ".join(words), None) for words in trained]
    question = " ".join(asked)
    best = max(likeness(plain(question), plain(other)) for other, _ in rows)
    twin = found(rows, [(question, None)])
    assert bool(twin) == (best >= 0.8)
    if twin:
        assert twin[0].text == best


@given(st.text(max_size=40), st.text(max_size=40))
def test_likeness_is_symmetric_and_one_only_for_the_same_shingles(one, other):
    assert likeness(one, other) == likeness(other, one)
    assert 0 <= likeness(one, other) <= 1
    assert likeness(one, one) == 1


def test_the_nearest_twin_is_the_one_that_is_named():
    near = QUESTION.replace("boils over", "boils dry")
    trained = [(near, SCENES[0]), (QUESTION, SCENES[0])]
    assert found(trained, [(QUESTION, SCENES[0])])[0].trained == "t1"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real photographs are not here")
def test_real_photographs_are_told_apart_and_their_copies_found():
    photos = [path.read_bytes() for path in sorted(REAL.iterdir())[:20]]
    trained = [(QUESTION, photo) for photo in photos[::2]]
    assert not found(trained, [(QUESTION, photo) for photo in photos[1::2]])
    smaller = [
        encoded(Image.open(io.BytesIO(photo)).convert("RGB").resize((160, 120)), format="JPEG") for photo in photos[::2]
    ]
    assert len(found(trained, [(QUESTION, photo) for photo in smaller])) == len(smaller)
