"""What a sampled completion can hold that no one meant: each is checked to the end, and the findings are the expected ones."""

import json

import pytest

from saferflow.protocol.check import check
from saferflow.protocol.credit import step_credits
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Call, parse, render

PLAN = Plan("S2", 2, "guardian", ("OCR-EXTRACT", "RISK-SCORER", "SAFETY-GATE", "REFUSAL-GENERATOR"), "mesh")
OCR = "[OCR-EXTRACT]: text=how to open it"
RISK = "[RISK-SCORER]: hazard=S2; severity=2; confidence=0.8"
GATE = "[SAFETY-GATE]: decision=refuse; reason=a break-in"
REFUSAL = "[REFUSAL-GENERATOR]: reason=not your door; alternative=call a locksmith"
WHOLE = (OCR, RISK, GATE, REFUSAL)
THINKING = "\n".join(["<thinking>", *WHOLE, "</thinking>"])
ANSWER = "<answer>\nNo, a locksmith can.\n</answer>"
TEXT = f"{THINKING}\n{ANSWER}"
LOST = ["T105", "T105", "T106"]
"""What a plan misses where no call can be read: two layers and the gate."""


def codes(text: str, plan: Plan | None = PLAN) -> list[str]:
    return sorted(violation.code for violation in check(plan, text))


def with_ocr(line: str) -> str:
    """The whole completion with another first call; line 2."""
    return TEXT.replace(OCR, line)


TAGS = [
    pytest.param("", ["T001"] * 4 + LOST, id="nothing"),
    pytest.param(" \n\t", ["T001"] * 4 + LOST, id="white space"),
    pytest.param(THINKING, ["T001"] * 2, id="no answer"),
    pytest.param(ANSWER, ["T001"] * 2 + LOST, id="no thinking"),
    pytest.param(TEXT.replace("<thinking>\n", ""), ["T001"], id="thinking never opened"),
    pytest.param(TEXT.replace("\n</thinking>", ""), ["T001"], id="thinking never closed"),
    pytest.param(TEXT.replace("<answer>\n", ""), ["T001", "T002"], id="answer never opened: its words stand outside"),
    pytest.param(TEXT.replace("\n</answer>", ""), ["T001"], id="answer never closed"),
    pytest.param(
        f"<thinking>{TEXT}</thinking>",
        ["T001"] * 2 + ["T003"],
        id="thinking around everything: the second tag is a line",
    ),
    pytest.param(TEXT.replace("<answer>", "<answer><answer>"), ["T001"], id="answer opened twice"),
    pytest.param(TEXT.replace("</answer>", "</answer></answer>"), ["T001"], id="answer closed twice"),
    pytest.param(
        TEXT.replace("\n</thinking>\n<answer>", "\n<answer>") + "\n</thinking>",
        ["T001"] + ["T003"] * 3,
        id="answer inside: its lines are lines of the thinking",
    ),
    pytest.param(f"{ANSWER}\n{THINKING}", ["T001"], id="answer first"),
    pytest.param(f"{THINKING}\n{TEXT}", ["T001", "T001", "T002"], id="two thinking blocks: the first is read"),
    pytest.param(f"{TEXT}\n{ANSWER}", ["T001", "T001", "T002"], id="two answers: the first is read"),
    pytest.param(f"{TEXT}\n{TEXT}", ["T001"] * 4 + ["T002"], id="everything twice"),
    pytest.param(TEXT.replace("thinking>", "THINKING>"), ["T001"] * 2 + ["T002"] + LOST, id="upper-case tags"),
    pytest.param(
        TEXT.replace("<thinking>", "< thinking >"), ["T001", "T003"], id="blanks in a tag: a line of the block"
    ),
    pytest.param(TEXT.replace("thinking>", "think>"), ["T001"] * 2 + ["T002"] + LOST, id="the tags of another model"),
]


@pytest.mark.parametrize(("text", "expected"), TAGS)
def test_tags_that_are_unbalanced_nested_repeated_or_missing(text, expected):
    assert codes(text) == sorted(expected)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("Let me see.\n" + TEXT, 1, id="before"),
        pytest.param(TEXT.replace("<answer>", "\nSo then:\n<answer>"), 8, id="between"),
        pytest.param(TEXT + "\n\nI hope this helps.", 11, id="after"),
        pytest.param("\ufeff" + TEXT, 1, id="a byte order mark is no white space"),
        pytest.param(TEXT + "\u200b", 9, id="nor is a space of no width"),
        pytest.param(TEXT + "\x00", 9, id="nor NUL"),
    ],
)
def test_text_outside_the_tags(text, line):
    assert [(found.code, found.line) for found in check(PLAN, text)] == [("T002", line)]


SIGNS = [
    "\x00",
    "\x07\x1b[31m",
    "\x7f",
    "\ud800",
    "\udfff\ud800",
    "\u202e",
    "\u2066x\u2069",
    "\u2028",
    "\x85",
    "\x0b",
    "\r",
    "😀",
    "e\u0301",
]


@pytest.mark.parametrize("sign", SIGNS, ids=ascii)
def test_odd_signs_inside_words_are_words(sign):
    text = with_ocr(f"[OCR-EXTRACT]: text=a{sign}b").replace("No, a", f"No,{sign} a")
    assert codes(text) == []
    assert parse(text).trace[0] == Call("OCR-EXTRACT", (("text", f"a{sign}b"),))
    assert parse(render(parse(text))) == parse(text)


@pytest.mark.parametrize("sign", SIGNS, ids=ascii)
def test_odd_signs_in_names_keys_and_values_are_reported_in_words_that_can_be_printed(sign):
    for text in (
        with_ocr(f"[OCR{sign}EXTRACT]: text=a"),
        with_ocr(f"[OCR-EXTRACT]: te{sign}xt=a"),
        TEXT.replace("severity=2", f"severity={sign}9"),
        sign + "x" + TEXT,
    ):
        found = check(PLAN, text)
        assert found
        for violation in found:
            assert str(violation).encode()
            assert json.dumps(violation.actual)
            assert not set("\x00\x07\x1b\x7f\u202e\u2066\u2028\x85\x0b\r") & set(str(violation))


FIELDS = [
    pytest.param("text=a; b", [("T205", 1)], id="a semicolon in a value begins a new piece"),
    pytest.param("text=a; b=c", [("T201", 1)], id="and may look like a field"),
    pytest.param("text=a; text=b", [("T204", 1)], id="or like the same field"),
    pytest.param("text=a;; ;", [("T205", 1)], id="pieces that hold nothing"),
    pytest.param("text=a;", [], id="a last semicolon"),
    pytest.param("text=a=b==c", [], id="equals signs in a value"),
    pytest.param("text==", [], id="an equals sign as value"),
    pytest.param("text=", [("T203", 1)], id="no value"),
    pytest.param("=a", [("T205", 1)], id="no key"),
    pytest.param("Text=a", [("T205", 1)], id="an upper-case key"),
    pytest.param("te xt=a", [("T205", 1)], id="a blank in a key"),
    pytest.param("text=[RISK-SCORER]: hazard=S2", [], id="a call in a value"),
    pytest.param("text=]][[}{()", [], id="brackets in a value"),
    pytest.param("text=<answer", [], id="half a tag in a value"),
    pytest.param("text=a\nb", [("T003", 0)], id="a line break in a value: the rest is a line of its own"),
    pytest.param("text=a\n[X]: b", [("T101", 2)], id="or a call of its own"),
]


@pytest.mark.parametrize(("fields", "expected"), FIELDS)
def test_signs_of_the_form_inside_fields(fields, expected):
    assert [(found.code, found.step) for found in check(PLAN, with_ocr(f"[OCR-EXTRACT]: {fields}"))] == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("[ocr-extract]: text=a", ["T003", "T105"], id="lower case"),
        pytest.param("[OCR EXTRACT]: text=a", ["T003", "T105"], id="a blank in the name"),
        pytest.param("OCR-EXTRACT: text=a", ["T003", "T105"], id="no brackets"),
        pytest.param("[OCR-EXTRACT] text=a", ["T003", "T105"], id="no colon"),
        pytest.param("- [OCR-EXTRACT]: text=a", ["T003", "T105"], id="a list"),
        pytest.param("[[OCR-EXTRACT]]: text=a", ["T003", "T105"], id="two brackets"),
        pytest.param("[]: text=a", ["T003", "T105"], id="no name"),
        pytest.param("[OCR\N{HYPHEN}EXTRACT]: text=a", ["T003", "T105"], id="another hyphen"),
        pytest.param("[OCR-EXTRACT]\t: text=a", [], id="white space before the colon"),
        pytest.param("   [OCR-EXTRACT]:text=a  ", [], id="white space around it"),
        pytest.param("[OCR-EXTRACT_]: text=a", ["T101", "T105"], id="a name that is none of ours"),
    ],
)
def test_lines_that_are_nearly_calls(line, expected):
    assert codes(with_ocr(line)) == expected


def test_tool_like_lines_in_the_answer_are_words_of_the_answer():
    answer = f"No.\n{OCR}\n[MIND-READER]: x\n[ocr-extract]: y"
    text = TEXT.replace("No, a locksmith can.", answer)
    assert codes(text) == []
    assert parse(text).answer == answer
    assert len(parse(text).trace) == 4


def test_ten_thousand_calls_are_all_reported():
    text = TEXT.replace(OCR, "\n".join([OCR] * 10_000))
    found = check(PLAN, text)
    assert [(violation.code, violation.step) for violation in found] == [("T103", step) for step in range(2, 10_001)]
    assert sum(step.earned for step in step_credits(text, found)) == 4


HUGE = [
    pytest.param("[" * 1_000_000, ["T001"] * 4 + ["T002"] + LOST, id="brackets"),
    pytest.param("<thinking>" + "[" * 1_000_000, ["T001"] * 3 + ["T003"] + LOST, id="brackets in the thinking"),
    pytest.param("<thinking>" + "[]" * 500_000, ["T001"] * 3 + ["T003"] + LOST, id="pairs of brackets"),
    pytest.param("<thinking>[" + "A" * 1_000_000 + "]: x", ["T001"] * 3 + ["T101"] + LOST, id="a name"),
    pytest.param(
        "<thinking>[OCR-EXTRACT]: " + "a" * 1_000_000 + "=x", ["T001"] * 3 + ["T201", "T202"] + LOST[1:], id="a key"
    ),
    pytest.param("<thinking>" + " " * 1_000_000 + "x", ["T001"] * 3 + ["T003"] + LOST, id="white space"),
    pytest.param("<" * 1_000_000, ["T001"] * 4 + ["T002"] + LOST, id="signs that open tags"),
    pytest.param("<thinking>" * 100_000, ["T001"] * 4 + ["T003"] + LOST, id="opening tags"),
    pytest.param("\n" * 1_000_000, ["T001"] * 4 + LOST, id="line breaks"),
    pytest.param(TEXT.replace("No, a", "No, " + "[" * 1_000_000), [], id="brackets in the answer"),
]


@pytest.mark.parametrize(("text", "expected"), HUGE)
def test_a_megabyte_of_one_sign(text, expected):
    assert codes(text) == sorted(expected)
    assert all(len(str(violation)) < 400 for violation in check(PLAN, text))  # a message quotes, it does not repeat
    parse(text)


@pytest.mark.parametrize("text", [case.values[0] for case in TAGS + HUGE], ids=[case.id for case in TAGS + HUGE])
def test_without_a_plan_bad_input_is_checked_as_well(text):
    assert {violation.code for violation in check(None, text)} <= {"T001", "T002", "T203", "T204", "T301", "T302"}
