"""Reading completions: what is legal, and what can still be read from what is not."""

import pytest

from saferflow.protocol.trace import Call, Response, parse, plain, render

TEXT = """<thinking>
[VISUAL-SCAN]: objects=bottle, gloves; setting=kitchen; confidence=0.9
[SAFETY-GATE]: decision=answer; reason=no risk found
</thinking>
<answer>
It is a bottle.
</answer>"""
RESPONSE = Response(
    (
        Call("VISUAL-SCAN", (("objects", "bottle, gloves"), ("setting", "kitchen"), ("confidence", "0.9"))),
        Call("SAFETY-GATE", (("decision", "answer"), ("reason", "no risk found"))),
    ),
    "It is a bottle.",
)


def test_the_surface_form_is_written_as_the_protocol_shows_it():
    assert render(RESPONSE) == TEXT


def test_the_surface_form_is_read_back():
    assert parse(TEXT) == RESPONSE


def test_a_call_gives_its_fields_by_name():
    assert RESPONSE.trace[1].get("decision") == "answer"
    assert RESPONSE.trace[1].get("mood") == ""
    assert RESPONSE.trace[1].get("mood", "none") == "none"


@pytest.mark.parametrize(
    ("thinking", "trace"),
    [
        pytest.param("[X]: seen; a bottle", (Call("X", (), "seen; a bottle"),), id="free text"),
        pytest.param("[X]: one\n\ntwo\n[Y]: three", (Call("X", (), "one\ntwo"), Call("Y", (), "three")), id="lines"),
        pytest.param("[X] : a=1", (Call("X", (("a", "1"),)),), id="space before the colon"),
        pytest.param("[X]:a = 1 ;b=2;", (Call("X", (("a", "1"), ("b", "2"))),), id="loose spacing"),
        pytest.param("[X]: a=1; well", (Call("X", (("a", "1"),), "well"),), id="text beside fields"),
        pytest.param("[X]: a=b=c", (Call("X", (("a", "b=c"),)),), id="an equals sign in a value"),
        pytest.param("[X]: url=[Y]: z", (Call("X", (("url", "[Y]: z"),)),), id="brackets in a value"),
        pytest.param("[X]:", (Call("X"),), id="nothing"),
        pytest.param("[x]: a=1\n- [Y]: b=2", (), id="lower case, and a list"),
        pytest.param("[X]: a\r\n[Y]: b=2\r", (Call("X", (), "a"), Call("Y", (("b", "2"),))), id="carriage returns"),
        pytest.param("[X]: a=1\nprose", (Call("X", (("a", "1"),)),), id="prose after fields is left out"),
    ],
)
def test_a_thinking_block_is_read_line_by_line(thinking, trace):
    assert parse(f"<thinking>\n{thinking}\n</thinking>\n<answer>\nYes.\n</answer>") == Response(trace, "Yes.")


CALL = (Call("X", (), "a"),)


@pytest.mark.parametrize(
    ("text", "response"),
    [
        pytest.param("", Response((), ""), id="nothing"),
        pytest.param("Just words.", Response((), ""), id="no tags"),
        pytest.param("<thinking>[X]: a</thinking>", Response(CALL, ""), id="no answer"),
        pytest.param("<thinking>[X]: a<answer>b</answer>", Response(CALL, "b"), id="thinking never closed"),
        pytest.param("[X]: a</thinking><answer>b</answer>", Response(CALL, "b"), id="thinking never opened"),
        pytest.param("<thinking>[X]: a</thinking><answer>b", Response(CALL, "b"), id="answer never closed"),
        pytest.param("<answer>b</answer><thinking>[X]: a</thinking>", Response(CALL, "b"), id="answer first"),
        pytest.param("<answer>b<thinking>[X]: a</thinking>", Response(CALL, "b"), id="answer first, never closed"),
        pytest.param(
            "<thinking>[X]: a</thinking><thinking>[Y]: c</thinking><answer>b</answer><answer>d</answer>",
            Response(CALL, "b"),
            id="several blocks",
        ),
    ],
)
def test_what_can_be_read_is_read(text, response):
    assert parse(text) == response


def test_plain_keeps_a_value_on_one_line_of_the_form():
    assert plain(" a;\n b <answer>\tc ") == "a, b (answer) c"
