"""What the fields of a record stand for, in the published shape of each form; what a row cannot take is refused by name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.data.forms import reading
from saferflow.data.values import brief, is_empty, whole_number
from saferflow.errors import DataError

PICTURE = {"bytes": b"an encoded file", "path": None}
SKY, BLUE, GREEN = "What color is the sky?", "It is blue.", "It is green."


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def parts(text, *pictures):
    return [*({"type": "image", **picture} for picture in pictures), {"type": "text", "text": text}]


def read(record, **mapping):
    return reading(record, mapping)


FORMS = [
    pytest.param({"prompt": SKY}, "TRL prompt, plain", "", "", id="trl-prompt"),
    pytest.param({"prompt": [user(SKY)]}, "TRL prompt, conversational", "", "", id="trl-prompt-conversational"),
    pytest.param({"prompt": SKY, "completion": BLUE}, "TRL prompt and completion, plain", BLUE, "", id="trl-completion"),
    pytest.param(
        {"prompt": [user(SKY)], "completion": [assistant(BLUE)]},
        "TRL prompt and completion, conversational", BLUE, "", id="trl-completion-conversational",
    ),
    pytest.param(
        {"prompt": SKY, "chosen": BLUE, "rejected": GREEN}, "TRL preference, plain", BLUE, GREEN, id="trl-preference"
    ),
    pytest.param(
        {"prompt": [user(SKY)], "chosen": [assistant(BLUE)], "rejected": [assistant(GREEN)]},
        "TRL preference, conversational", BLUE, GREEN, id="trl-preference-conversational",
    ),
    pytest.param(
        {"chosen": [user(SKY), assistant(BLUE)], "rejected": [user(SKY), assistant(GREEN)]},
        "TRL preference, the prompt inside both sides", BLUE, GREEN, id="trl-implicit-prompt",
    ),
    pytest.param({"messages": [user(SKY), assistant(BLUE)]}, "TRL messages", BLUE, "", id="trl-messages"),
    pytest.param(
        {"prompt": SKY, "prompt_id": "7", "chosen": [user(SKY), assistant(BLUE)],
         "rejected": [user(SKY), assistant(GREEN)], "score_chosen": 8.0},
        "TRL preference, plain", BLUE, GREEN, id="ultrafeedback",
    ),
    pytest.param(
        {"conversations": [{"from": "human", "value": SKY}, {"from": "gpt", "value": BLUE}]},
        "ShareGPT conversations", BLUE, "", id="sharegpt",
    ),
    pytest.param(
        {"conversations": [{"from": "human", "value": SKY}], "chosen": {"from": "gpt", "value": BLUE},
         "rejected": {"from": "gpt", "value": GREEN}},
        "ShareGPT conversations with a pair of answers", BLUE, GREEN, id="llama-factory-preference",
    ),
    pytest.param(
        {"chosen": f"\n\nHuman: {SKY}\n\nAssistant: {BLUE}", "rejected": f"\n\nHuman: {SKY}\n\nAssistant: {GREEN}"},
        "TRL preference, the prompt inside both sides", BLUE, GREEN, id="hh-rlhf",
    ),
    pytest.param({"instruction": SKY, "input": "", "output": BLUE}, "Alpaca instructions", BLUE, "", id="alpaca"),
    pytest.param({"question": SKY, "answer": BLUE}, "question and answer", BLUE, "", id="ours"),
    pytest.param({"Question": SKY, " Answer ": BLUE}, "question and answer", BLUE, "", id="capital-letters"),
    pytest.param({"query": SKY, "response": BLUE}, "question and answer", BLUE, "", id="query-response"),
    pytest.param(
        {"messages": json.dumps([user(SKY), assistant(BLUE)])}, "TRL messages", BLUE, "", id="messages-as-json-of-csv"
    ),
    pytest.param(
        {"prompt": json.dumps([user(SKY)]), "completion": json.dumps([assistant(BLUE)])},
        "TRL prompt and completion, plain", BLUE, "", id="prompt-as-json-of-csv",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("record", "form", "answer", "rejected"), FORMS)
def test_each_published_form_is_recognised(record, form, answer, rejected):
    held = read(record)
    assert (held.form, held.question, held.answer or "", held.rejected or "") == (form, SKY, answer, rejected)
    assert held.earlier == ()
    assert set(held.unused) <= {"prompt_id", "score_chosen"}


def test_fields_under_other_names_are_taken_as_the_user_says():
    record = {"ask": SKY, "good": BLUE, "bad": GREEN, "talk": [user("?"), assistant("!")]}
    held = read(record, question="ask", answer="good", rejected="bad")
    assert (held.question, held.answer, held.rejected, held.unused) == (SKY, BLUE, GREEN, ("talk",))
    assert read(record, conversation="talk").question == "?"


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(
            {"image": PICTURE, "conversations": [
                {"from": "human", "value": f"<image>\n{SKY}"}, {"from": "gpt", "value": BLUE},
                {"from": "human", "value": "And at night?"}, {"from": "gpt", "value": "Black."}]},
            id="llava",
        ),
        pytest.param(
            {"images": [PICTURE], "messages": [
                user(parts(SKY, {})), assistant(parts(BLUE)), user(parts("And at night?")), assistant(parts("Black."))]},
            id="trl-vision",
        ),
        pytest.param(
            {"images": [PICTURE], "prompt": [user(parts(SKY, {})), assistant(parts(BLUE)), user("And at night?")],
             "completion": [assistant("Black.")]},
            id="trl-vision-prompt",
        ),
        pytest.param(
            {"messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": SKY, "index": None},
                    {"type": "image", "text": None, "image": PICTURE}]},
                assistant(BLUE), user("And at night?"), assistant("Black.")]},
            id="picture-in-the-message",
        ),
        pytest.param(
            {"images": PICTURE, "instruction": "And at night?", "output": "Black.", "history": [[SKY, BLUE]]},
            id="history",
        ),
    ],
)  # fmt: skip
def test_several_turns_and_their_picture_are_kept(record):
    held = read(record)
    assert held.earlier == ((SKY, BLUE),)
    assert (held.question, held.answer, held.picture) == ("And at night?", "Black.", PICTURE)
    assert held.unused == ()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"<image>\n{SKY}", SKY), (f"{SKY}\n<image>", SKY), (f"<image>{SKY}", SKY),
        ("Look at <image> here", "Look at here"), (SKY, SKY),
    ],
)  # fmt: skip
def test_the_mark_of_the_picture_leaves_the_text(text, left):
    assert read({"prompt": text, "images": [PICTURE]}).question == left


@pytest.mark.parametrize("images", [None, [PICTURE]])
def test_a_text_about_a_mark_stays_as_it_is(images):
    assert read({"question": "What is <image> in SVG?", "images": images}).question == "What is <image> in SVG?"


def test_a_pair_of_equal_answers_is_no_pair_and_says_so():
    held = read({"prompt": SKY, "chosen": BLUE, "rejected": BLUE})
    assert (held.answer, held.rejected) == (BLUE, None)
    assert held.unused == ("rejected (it is the better answer again)",)


def test_a_field_nested_as_deep_as_a_parser_goes_is_one_more_field():
    assert read({"question": SKY, "deep": json.loads("[" * 900 + "]" * 900), "x": 1}).unused == ("x",)


@pytest.mark.parametrize("nothing", [None, [], [None], {}, "", float("nan"), [{}], {"bytes": None, "path": None}, [""]])
def test_nothing_in_any_of_its_forms_is_no_picture(nothing):
    assert read({"question": SKY, "images": nothing}).picture is None
    assert read({"question": SKY, "images": nothing}).unused == ()


REFUSED = [
    pytest.param({"question": SKY, "images": [PICTURE, PICTURE]}, "'images' holds 2 pictures", id="two-pictures"),
    pytest.param({"messages": [user(parts(SKY, {"image": "a"}, {"image": "b"}))]}, "2 pictures", id="two-in-a-message"),
    pytest.param({"question": SKY, "video": "a.mp4"}, "'video' holds video", id="video"),
    pytest.param({"question": SKY, "videos": ["a.mp4"]}, "'videos' holds video", id="videos"),
    pytest.param({"messages": [user([{"type": "video", "video": "a"}])]}, "holds video", id="video-part"),
    pytest.param({"messages": [user([{"type": "video_url", "video_url": {"url": "a"}}])]}, "holds video", id="video-url"),
    pytest.param({"prompt": "<video>\nWhat?"}, "speaks of video", id="video-mark"),
    pytest.param({"question": SKY, "audios": ["a.wav"]}, "'audios' holds audio", id="audio"),
    pytest.param({"prompt": f"<image>\n{SKY}"}, "<image>, and the row holds no picture", id="mark-without-picture"),
    pytest.param({"messages": [user(parts(SKY, {}))]}, "holds none", id="part-without-picture"),
    pytest.param({"prompt": f"<image><image>{SKY}", "images": [PICTURE]}, "2 times", id="two-marks"),
    pytest.param(
        {"images": [PICTURE], "messages": [user("Hi"), assistant("Hi"), user(parts(SKY, {}))]}, "later turn", id="later"
    ),
    pytest.param({"messages": [assistant("Hi"), user(SKY)]}, "turn 1 of the conversation", id="assistant-first"),
    pytest.param({"messages": [user("Hi"), user(SKY)]}, "turn 2 of the conversation", id="user-twice"),
    pytest.param({"messages": [user(SKY), {"role": "tool", "content": "x"}]}, "message 2 is of 'tool'", id="tool"),
    pytest.param({"messages": [user(SKY), {"role": "assistant", "content": None}]}, "holds no text", id="no-content"),
    pytest.param({"messages": ["Hi", "Ho"]}, "a list of messages is expected", id="list-of-texts"),
    pytest.param(
        {"chosen": [user("A"), assistant("x")], "rejected": [user("B"), assistant("y")]},
        "different conversations", id="pair-of-two",
    ),
    pytest.param({"messages": [user(SKY), assistant("a")], "chosen": "b", "rejected": "c"}, "ends with", id="two-ends"),
    pytest.param({"text": "The sky is blue.", "n": 1}, r"fields are text, n.*--field question=text", id="no-question"),
    pytest.param({"chosen": "It is blue.", "rejected": "It is green."}, "no prompt of their own", id="pair-alone"),
    pytest.param(
        {"conversations": [{"from": "user", "value": "Picture 1: <img>a/b.jpg</img>\nWhat is it?"}]}, "names a picture",
        id="qwen-vl",
    ),
    pytest.param({"prompt": None, "x": "y"}, "'prompt' is missing or empty", id="empty-prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "reason"), REFUSED)
def test_what_a_row_cannot_take_is_refused_by_name(record, reason):
    with pytest.raises(DataError, match=reason):
        read(record)


@pytest.mark.parametrize("record", [
    {f"column {number} " + "x" * 10_000: "y" * 1_000_000 for number in range(200)},
    {"question": "Q?", "images": ["x" * 10_000_000] * 2},
    {"messages": [{"role": "r" * 1_000_000, "content": "c"}]},
    {"messages": [user([{"type": "t" * 1_000_000}])]},
    {"messages": "m" * 1_000_000},
    {"instruction": "Q?", "history": "h" * 1_000_000},
    {"q" * 1_000_000: "x", "video": "v" * 1_000_000},
])  # fmt: skip
def test_every_message_is_bounded(record):
    with pytest.raises(DataError) as error:
        read(record)
    assert len(str(error.value)) < 2000


def test_fields_that_nothing_reads_are_named():
    held = read({"question": SKY, "topic": "sky", "score": 0.0, "tags": [], "note": None, "tools": "[]"})
    assert held.unused == ("topic", "score", "tools")
    assert read({"question": SKY, "": 0}).unused == ("(no name)",), "as a data frame writes its index into CSV"


@pytest.mark.parametrize("column", ['["a.png"]', '{"path": "a.png"}', "a.png"])
def test_a_picture_in_a_field_of_csv_may_be_json(column):
    assert read({"prompt": SKY, "images": column}).picture in ("a.png", {"path": "a.png"})


def test_a_system_prompt_is_named_as_not_used():
    held = read({"messages": [{"role": "system", "content": "Be brief."}, user(SKY)]})
    assert held.question == SKY
    assert held.unused == ("system prompt (the plan writes its own)",)


@pytest.mark.parametrize("verdict", [{"label": False}, {"is_response_safe": "no"}, {"is_safe": False}])
def test_a_response_that_the_file_calls_bad_is_no_reference(verdict):
    held = read({"prompt": SKY, "completion": GREEN} | verdict)
    assert (held.answer, held.rejected) == ("", None)
    assert any(name.startswith("completion (") for name in held.unused)
    good = read({"prompt": SKY, "completion": BLUE, "label": True})
    assert (good.answer, good.unused) == (BLUE, ())


def test_an_empty_name_leaves_a_field_out():
    held = read({"id": "same for all", "question": SKY}, id="")
    assert held.values["id"] is None
    assert held.unused == ("id",)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "type", "text", "image", "bytes", "path"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["prompt", "completion", "chosen", "rejected", "messages", "conversations", "images", "history", "input", "label"]
)


@settings(max_examples=60)
@given(st.dictionaries(FIELDS | st.text("abc", min_size=1, max_size=4), VALUES, max_size=5))
def test_any_record_is_read_or_refused_and_no_field_is_left_out_without_a_word(record):
    try:
        held = reading(record, {})
    except DataError:
        return
    named = {*held.fields.values(), *(note.split(" (")[0] for note in held.unused)}
    assert {name for name, value in record.items() if not is_empty(value)} <= named


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2),
        (2.0, 2),
        ("2", 2),
        ("2.0", 2),
        (2.5, None),
        (True, None),
        ("two", None),
        (float("inf"), None),
        (None, None),
    ],
)
def test_a_whole_number_is_one_however_it_is_written(value, number):
    assert whole_number(value) == number


@given(VALUES, st.integers(10, 200))
def test_a_value_in_a_message_is_short(value, limit):
    assert len(brief(value, limit)) <= limit * 10 + 30
