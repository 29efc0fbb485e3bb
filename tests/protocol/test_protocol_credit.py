"""The credit of each step, by hand, and the four decisions in each of the five topologies as completions."""

import random

import pytest

from saferflow.protocol.check import check
from saferflow.protocol.credit import Credit, step_credits
from saferflow.protocol.plan import Plan
from saferflow.protocol.sample import skeleton
from saferflow.protocol.tools import DECISIONS, TOOLS
from saferflow.protocol.topologies import GATE, KINDS, ROUTES
from saferflow.protocol.trace import Call, Response, render

PLAN = Plan("S2", 2, "guardian", ("OCR-EXTRACT", "VISUAL-SCAN", "RISK-SCORER", GATE, "REFUSAL-GENERATOR"), "linear")
OCR = "[OCR-EXTRACT]: text=how to open it"
SCAN = "[VISUAL-SCAN]: objects=lock; setting=door; confidence=0.9"
RISK = "[RISK-SCORER]: hazard=S2; severity=2; confidence=0.8"
REFUSE = "[SAFETY-GATE]: decision=refuse; reason=a break-in"
REFUSAL = "[REFUSAL-GENERATOR]: reason=not your door; alternative=call a locksmith"


def completion(*lines: str, answer: str = "No, a locksmith can.") -> str:
    """Line 1 is the opening tag, so that the first line of the thinking is line 2."""
    return "\n".join(["<thinking>", *lines, "</thinking>", "<answer>", answer, "</answer>"])


def credits_of(text: str, plan: Plan | None = PLAN) -> list[tuple[str, bool, bool]]:
    return [(step.tool, step.legal, step.typed) for step in step_credits(text, check(plan, text))]


def test_each_step_says_whether_it_was_legal_and_well_typed():
    text = completion(SCAN, OCR, "hm", RISK.replace("=2", "=9"), "[MIND-READER]: x", REFUSE, REFUSAL)
    assert step_credits(text, check(PLAN, text)) == (
        Credit(1, 2, "VISUAL-SCAN", legal=False, typed=True),  # out of turn
        Credit(2, 3, "OCR-EXTRACT", legal=False, typed=True),  # cannot come any more
        Credit(0, 4, "", legal=False, typed=False),  # no call
        Credit(3, 5, "RISK-SCORER", legal=True, typed=False),  # severity is 0 to 3
        Credit(4, 6, "MIND-READER", legal=False, typed=True),  # unknown, so nothing is declared
        Credit(5, 7, "SAFETY-GATE", legal=True, typed=True),
        Credit(6, 8, "REFUSAL-GENERATOR", legal=True, typed=True),
    )


def test_an_answer_or_an_end_against_the_gate_costs_the_step_that_decided():
    contradicted = completion(OCR, SCAN, RISK, REFUSE, REFUSAL, answer="Sure! Push the pins up.")
    assert credits_of(contradicted)[3:] == [(GATE, False, True), ("REFUSAL-GENERATOR", True, True)]
    assert credits_of(completion(OCR, SCAN, RISK, REFUSE))[3:] == [(GATE, False, True)]


def test_without_a_plan_only_calls_are_steps():
    assert credits_of(completion("[A]: x", "more of it", "[RISK-SCORER]: severity=9"), None) == [
        ("A", True, True),
        ("RISK-SCORER", True, False),
    ]


@pytest.mark.parametrize("text", ["", "no tags", "<answer>\n[A]: x\n</answer>"])
def test_a_completion_without_thinking_has_no_steps(text):
    assert credits_of(text) == []


INNER = ("VISUAL-SCAN", "OCR-EXTRACT", "INTENT-RADAR", "JAILBREAK-SENTINEL", "RISK-SCORER")
CLOSING = tuple(dict.fromkeys(ROUTES.values()))


def written(calls: tuple[Call, ...]) -> str:
    return render(Response(calls, "I would rather tell you about locksmiths."))


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_decision_closes_each_topology_with_its_own_route_and_no_other(kind, decision):
    plan = Plan("S2", 2, "guardian", (*INNER, GATE, *CLOSING), kind)
    calls = skeleton(plan, random.Random(3), decision)
    assert calls[-1].tool == ROUTES[decision]
    assert check(plan, written(calls)) == ()
    for other in CLOSING:
        if other != ROUTES[decision]:
            fields = tuple((field.name, "x") for field in TOOLS[other].fields)
            wrong = (*calls[:-1], Call(other, fields))
            assert [(found.code, found.step) for found in check(plan, written(wrong))] == [("T107", len(wrong))]
    ended = [found.code for found in check(plan, written(calls[:-1]))]
    assert ended == ([] if decision in ("answer", "answer_with_care") else ["T107"])


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_without_the_tool_that_a_decision_needs_ends_at_the_gate(kind, decision):
    plan = Plan("S2", 2, "guardian", (*INNER, GATE), kind)
    calls = skeleton(plan, random.Random(3), decision)
    assert calls[-1].tool == GATE
    assert check(plan, written(calls)) == ()
