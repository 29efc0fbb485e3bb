"""The picture of a plan: every tool and every legal step is on it, and a trace's path with its faults."""

import xml.etree.ElementTree as ET

import pytest

from saferflow.evaluation.drawing import END, START, draw, followers
from saferflow.protocol.plan import Plan
from saferflow.protocol.topologies import KINDS

SVG = "{http://www.w3.org/2000/svg}"
TOOLS = ("VISUAL-SCAN", "JAILBREAK-SENTINEL", "RISK-SCORER", "SAFETY-GATE", "REFUSAL-GENERATOR")
PLAN = Plan("S2", 2, "guardian", TOOLS, "linear")
SCAN = "[VISUAL-SCAN]: objects=lock; setting=a door; confidence=0.9"
GUARD = "[JAILBREAK-SENTINEL]: attack=none"
RISK = "[RISK-SCORER]: hazard=S2; severity=2; confidence=0.8"
GATE = "[SAFETY-GATE]: decision=refuse; reason=a break-in"
REFUSAL = "[REFUSAL-GENERATOR]: reason=not your door; alternative=call a locksmith"
WHOLE = (SCAN, GUARD, RISK, GATE, REFUSAL)


def completion(*calls):
    return "\n".join(["<thinking>", *calls, "</thinking>", "<answer>", "No, a locksmith can.", "</answer>"])


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 (our own output)


def thick(svg):
    return [e for e in ET.fromstring(svg).iter(f"{SVG}path") if e.get("stroke-width") == "3"]  # noqa: S314


def test_what_may_follow_what_in_a_linear_plan():
    assert followers(PLAN) == {
        (START, "VISUAL-SCAN"),
        ("VISUAL-SCAN", "JAILBREAK-SENTINEL"),
        ("JAILBREAK-SENTINEL", "RISK-SCORER"),
        ("RISK-SCORER", "SAFETY-GATE"),
        ("SAFETY-GATE", "REFUSAL-GENERATOR"),
        ("SAFETY-GATE", END),  # after a decision to answer
        ("REFUSAL-GENERATOR", END),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_tool_of_every_topology_is_drawn_once(kind):
    plan = Plan("S2", 2, "guardian", TOOLS, kind)
    shown = [text for text in texts(draw(plan)) if text in (START, *TOOLS, END)]
    assert sorted(shown) == sorted((START, *TOOLS, END))


def test_a_legal_trace_is_a_whole_path_without_a_mark():
    svg = draw(PLAN, completion(*WHOLE))
    assert len(thick(svg)) == len(WHOLE) + 1
    assert not any(element.get("stroke-dasharray") for element in thick(svg))
    assert "✗" not in svg


def test_a_fault_is_dashed_and_named_at_its_step():
    svg = draw(PLAN, completion(SCAN, GUARD, RISK.replace("=2", "=9"), GATE, REFUSAL))
    assert [bool(element.get("stroke-dasharray")) for element in thick(svg)] == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    assert "3 ✗ T203" in texts(svg)


def test_a_tool_that_the_plan_lacks_has_its_own_box():
    svg = draw(PLAN, completion(SCAN, "[MIND-READER]: x", *WHOLE[1:]))
    assert "MIND-READER" in texts(svg)
    assert "2 ✗ T101" in texts(svg)


def test_what_no_call_is_to_blame_for_stands_at_the_foot():
    assert any("T301" in text for text in texts(draw(PLAN, completion(*WHOLE).replace("No, a locksmith can.", ""))))


def test_text_of_a_model_stays_text():
    """A call's name is all of a completion that is drawn, and its alphabet holds no mark-up."""
    svg = draw(PLAN, completion("[VISUAL-SCAN]: objects=<script>alert(1)</script>", "[<B>]: x", *WHOLE[1:]))
    assert "<script" not in svg
    assert "<B>" not in svg
