"""Twins across the split: what is one, what is none, and that none is missed."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from saferflow.data.leakage import Entry, HeldOut, nearest
from saferflow.data.pictures import Pictures, print_of, without_frame
from saferflow.data.questions import Questions, read
from saferflow.data.scenes.corpus import safety_rows

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
SCENES = [row.image for row in safety_rows(12, 3, "train") if row.image]
QUESTION = "What should I do with the kettle on the left side of this picture before it boils over?"
VOCABULARY = ("red", "kettle", "where", "how", "do", "I", "clean", "this", "safely", "before", "lunch")
WORDS = st.lists(st.sampled_from(VOCABULARY), min_size=6, max_size=14)


def encoded(image, **how):
    file = io.BytesIO()
    image.save(file, **{"format": "PNG"} | how)
    return file.getvalue()


def decoded(image):
    return Image.open(io.BytesIO(image)).convert("RGB")


def landscape(seed):
    """Light and shade of every size, as a photograph has them: noise whose strength falls with its frequency."""
    rows, columns = np.meshgrid(np.fft.fftfreq(180), np.fft.fftfreq(240), indexing="ij")
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=rows.shape)) / (0.01 + np.hypot(rows, columns)) ** 1.5
    field = np.fft.ifft2(noise).real
    field = (field - field.min()) / np.ptp(field) * 255
    return Image.fromarray(field.astype(np.uint8)).convert("RGB")


def found(trained, held_out, text=0.75, bits=11):
    index = HeldOut([Entry("evaluation", f"e{n}", *row) for n, row in enumerate(held_out)], text, bits)
    entries = [Entry("sft", f"t{n}", *row) for n, row in enumerate(trained)]
    return list(nearest(twin for entry in entries for twin in index.twins_of(entry)).values())


def test_a_copy_is_named_with_what_it_copies():
    [twin] = found([("Why?", SCENES[1]), (QUESTION, SCENES[0])], [(f"  {QUESTION.upper()} ", SCENES[0])])
    assert str(twin) == "e0 is a twin of sft row t1 (questions alike to 1.00, images 0 of 63 bits apart)"


def test_a_near_question_about_another_picture_is_none():
    assert not found([(QUESTION, encoded(landscape(1)))], [(QUESTION, encoded(landscape(2)))])


def test_another_question_about_the_same_picture_is_none():
    assert not found([(QUESTION, SCENES[0])], [("Who painted the wall behind the bench?", SCENES[0])])


def test_rows_that_share_one_half_with_training_are_noted_by_half():
    pictures = [encoded(landscape(seed)) for seed in range(3)]
    held_out = [("Who painted the wall?", pictures[0]), (QUESTION, pictures[1]), ("Where is the bench?", None)]
    index = HeldOut([Entry("evaluation", f"e{n}", *row) for n, row in enumerate(held_out)], 0.75, 11)
    assert not index.twins_of(Entry("sft", "t0", QUESTION, pictures[0]))
    assert not index.twins_of(Entry("sft", "t1", "Where is the bench?", pictures[2]))
    assert (index.shown_pictures, index.shown_questions) == ({"e0"}, {"e1", "e2"})


def test_without_images_the_question_decides_and_an_image_on_one_side_parts_them():
    assert found([(QUESTION, None)], [(QUESTION, None)])[0].bits is None
    assert not found([(QUESTION, None)], [(QUESTION, SCENES[0])])
    assert not found([(QUESTION, SCENES[0])], [(QUESTION, None)])


def cut(image, left, top, right, bottom):
    width, height = image.size
    return image.crop((round(width * left), round(height * top), round(width * right), round(height * bottom)))


def marked(image):
    image = image.copy()
    ImageDraw.Draw(image).text((30, 80), "SAMPLE", fill=(250, 250, 250), font_size=30)
    return image


CHANGES = {
    "compressed": lambda image: decoded(encoded(image, format="JPEG", quality=40)),
    "scaled": lambda image: image.resize((120, 100)),
    "brighter": lambda image: image.point(lambda value: min(255, value + 12)),
    "cut-on-all-sides": lambda image: cut(image, 0.1, 0.1, 0.9, 0.9),
    "cut-at-the-top": lambda image: cut(image, 0, 0.1, 1, 1),
    "framed": lambda image: ImageOps.expand(image, 20, "white"),
    "padded": lambda image: ImageOps.pad(image, (240, 240), color="black"),
    "mirrored": ImageOps.mirror,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "inverted": ImageOps.invert,
    "marked": marked,
    "mirrored-and-cut": lambda image: ImageOps.mirror(cut(image, 0, 0, 0.9, 0.9)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_picture_that_was_only_processed_is_the_same_in_both_directions(change):
    plain = encoded(landscape(5))
    changed = encoded(change(landscape(5)))
    assert found([(QUESTION, plain)], [(QUESTION.replace("kettle", "kettles"), changed)])
    assert found([(QUESTION, changed)], [(QUESTION, plain)])


def test_no_two_of_many_pictures_are_near():
    pictures = [encoded(landscape(seed)) for seed in range(12)]
    index = Pictures(11)
    numbers = [index.add(picture) for picture in pictures]
    assert [set(index.near(picture)) for picture in pictures] == [{number} for number in numbers]


def test_a_plain_picture_is_near_to_plain_ones_only():
    white, ivory = (encoded(Image.new("RGB", (90, 70), colour)) for colour in ("white", "ivory"))
    index = Pictures(11)
    number = index.add(white)
    assert set(index.near(ivory)) == {number}
    assert not index.near(encoded(landscape(1)))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_a_frame_of_one_grey_comes_off_whole(top, bottom, left, right, grey):
    inner = np.random.default_rng(top).integers(0, 256, (20, 30)).astype(np.uint8)
    inner[::3, ::3], inner[1::3, 1::3] = 0, 255  # no row or column of it is plain
    framed = np.pad(inner, ((top, bottom), (left, right)), constant_values=grey)
    left, top, right, bottom = without_frame(framed)
    assert np.array_equal(framed[top:bottom, left:right], inner)


def test_a_print_knows_the_turn_that_made_another_picture():
    plain, turned = (
        print_of(encoded(image)) for image in (landscape(3), landscape(3).transpose(Image.Transpose.ROTATE_270))
    )
    assert int(turned.parts[0]) in plain.turned.tolist()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pictures are not here")
def test_pages_of_other_text_are_told_apart_under_the_same_prompt():
    pages = [path.read_bytes() for path in sorted((REAL / "images" / "figstep").iterdir())[:60]]
    assert not found([(QUESTION, page) for page in pages[::2]], [(QUESTION, page) for page in pages[1::2]])
    assert found([(QUESTION, pages[0])], [(QUESTION, encoded(decoded(pages[0]), format="JPEG"))])


SPELLINGS = {
    "marker": lambda text: f"<image>\n{text}",
    "special-tokens": lambda text: f"<|vision_start|><|image_pad|><|vision_end|>{text}",
    "numbered-marker": lambda text: f"{text} <image_1>",
    "square-marker": lambda text: f"[IMG] {text}",
    "full-width-marker": lambda text: f"＜image＞{text}",
    "markdown": lambda text: f"![photo](a/b.png) {text}",
    "html": lambda text: f'<img src="a.png"/> {text.replace("’", "&#39;")}',
    "zero-width": lambda text: "\u200b".join(text),
    "soft-hyphens": lambda text: text.replace("e", "e\u00ad"),
    "byte-order-mark": lambda text: f"\ufeff{text}",
    "variation-selectors": lambda text: text.replace("s", "s\ufe0f"),
    "curly": lambda text: text.replace("'", "’"),
    "quoted": lambda text: f"“{text}”",
    "full-width": lambda text: "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text),
    "no-break-spaces": lambda text: text.replace(" ", "\u00a0"),
    "bold": lambda text: f"**{text}**",
    "swapped-letters": lambda text: text.replace("neighbour", "nieghbour"),
    "instruction-behind": lambda text: f"{text} Answer briefly.",
    "instruction-before": lambda text: f"Answer in one sentence: {text}",
    "both": lambda text: f"Look at everything.\n{text}\nThink step by step, then answer with one word.",
    "roles": lambda text: f"USER: {text} ASSISTANT:",
    "another-article": lambda text: text.replace(" my ", " our "),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_a_question_in_another_spelling_is_the_same_in_both_directions(spelling):
    question = "How do I stop my neighbour's dog from barking at night?"
    others = [f"Where can I buy my {thing} at night?" for thing in ("bread", "milk", "tea", "salt", "rice", "soap")]
    assert spelling(question) != question
    assert [text for _, text in Questions([*others, question], 0.75).near(spelling(question))] == [question]
    assert found([(question, None)], [(spelling(question), None), *((other, None) for other in others)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("How do I beat my wife?", "How do I beat my wife in checkers?", id="it-goes-on"),
        pytest.param("What's the best way to gut a fish?", "What's the best way to gut a human?", id="object"),
        pytest.param("What is 23 times 45 in this table?", "What is 32 times 45 in this table?", id="number"),
        pytest.param("What is this?", "Somebody gave me a box of seeds. What is this?", id="says-too-little"),
        pytest.param("Who made this table?", "How made this table?", id="short-words-keep-their-order"),
    ],
)
def test_questions_that_differ_in_what_they_ask_are_two(one, other):
    assert not Questions([one], 0.75).near(other)
    assert not Questions([other], 0.75).near(one)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=12), WORDS)
def test_none_is_missed_that_comparing_all_with_all_finds(held_out, asked):
    """The index only proposes: every question that is as near as `least` has one of the rare shingles."""
    texts, question = [" ".join(words) for words in held_out], " ".join(asked)
    index = Questions(texts, 0.75)
    near = {text for _, text in index.near(question)}
    assert {text for text in texts if index.likeness(text, question) >= 0.75} <= near


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_likeness_is_symmetric_and_one_for_the_same_question(one, other):
    index = Questions([one], 0.75)
    assert index.likeness(one, other) == index.likeness(other, one)
    assert 0 <= index.likeness(one, other) <= 1
    assert index.likeness(one, one) == 1
    assert (1.0, one) in index.near(one)


@given(st.text(max_size=60))
def test_every_text_is_read_and_its_breaks_lie_in_it(text):
    question = read(text)
    assert question.words
    assert question.breaks[0] == 0
    assert question.breaks[-1] == len(question.words)
    assert sorted(set(question.breaks)) == list(question.breaks)


def test_the_nearest_twin_is_the_one_that_is_named():
    near = QUESTION.replace("boils over", "boils dry")
    trained = [(near, SCENES[0]), (QUESTION, SCENES[0])]
    assert found(trained, [(QUESTION, SCENES[0])])[0].trained == "t1"
