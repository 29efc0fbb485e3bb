"""The grammar says exactly what the automaton says: llguidance accepts every legal completion and lets nothing else out."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from saferflow.protocol.check import check
from saferflow.protocol.grammar import Bounds, lark, lark_without_plan, longest, vllm_request
from saferflow.protocol.hazards import HAZARDS
from saferflow.protocol.plan import Plan
from saferflow.protocol.sample import sample
from saferflow.protocol.tools import DECISIONS, TOOLS, Layer
from saferflow.protocol.topologies import GATE, GUARDS, KINDS
from saferflow.protocol.trace import Call, Response, render

BYTES = LLTokenizer("byte")
LAW = settings(deadline=None, max_examples=60)
FULL, SHORT = Bounds(), Bounds(text=6, item=4, items=2, answer=12)
NAMES = {layer: sorted(tool.name for tool in TOOLS.values() if tool.layer is layer) for layer in Layer}
VALUES = {"text": "a word", "list": "cup, red pen", "level": "2", "score": "0.85"}


@st.composite
def plans(draw):
    kind = draw(st.sampled_from(KINDS))
    looks = draw(st.lists(st.sampled_from(NAMES[Layer.PERCEPTION]), min_size=1, max_size=3, unique=True))
    thoughts = draw(st.lists(st.sampled_from(NAMES[Layer.REASONING]), min_size=1, max_size=3, unique=True))
    thoughts += [guard for guard in GUARDS if kind == "shield" and guard not in thoughts]
    routes = draw(st.lists(st.sampled_from([t for t in NAMES[Layer.DECISION] if t != GATE]), unique=True))
    return Plan("S2", 2, "guardian", (*looks, *thoughts, GATE, *routes), kind, (), draw(st.integers(0, 1)))


def matcher(plan, bounds=FULL):
    made = LLMatcher(BYTES, LLMatcher.grammar_from_lark(lark(plan, bounds)))
    assert not made.get_error()
    return made


def filled(plan, decision, seed=0):
    """A legal completion with plain values in every field."""
    calls = []
    for name in sample(plan, random.Random(seed), decision):
        pairs = []
        for field in TOOLS[name].fields:
            choice = decision if field.name == "decision" else (field.choices or ("",))[0]
            pairs.append((field.name, choice if field.type == "enum" else VALUES[field.type]))
        calls.append(Call(name, tuple(pairs)))
    return render(Response(tuple(calls), "No.\nA locksmith can; ask [one]."))


def accepts(made, text):
    tokens = list(text.encode())
    return made.validate_tokens(tokens) == len(tokens) and made.consume_tokens(tokens) and made.is_accepting()


def walk(made, dice, limit):
    """A random completion under the grammar, byte by byte; None where it is not over within the limit."""
    said = bytearray()
    while not made.is_stopped():
        mask = made.compute_bitmask()
        allowed = [token for token in range(256) if mask[token // 8] >> token % 8 & 1]
        if not allowed:
            break
        token = dice.choice(allowed)
        said.append(token)
        assert made.consume_token(token)
        if len(said) > limit:
            return None
    return said.decode()


@LAW
@given(plans(), st.sampled_from(DECISIONS), st.integers(0, 99))
def test_every_legal_completion_is_in_the_grammar(plan, decision, seed):
    text = filled(plan, decision, seed)
    assert check(plan, text) == ()
    assert accepts(matcher(plan), text)


@LAW
@given(plans(), st.integers(0, 9999))
def test_whatever_is_written_under_the_grammar_is_legal_and_ends_in_time(plan, seed):
    text = walk(matcher(plan, SHORT), random.Random(seed), longest(plan, SHORT))
    assert text is not None
    assert {violation.code for violation in check(plan, text)} <= {"T302"}, (
        "an answer's words are no grammar's business"
    )


def without_plan(bounds=FULL):
    made = LLMatcher(BYTES, LLMatcher.grammar_from_lark(lark_without_plan(bounds)))
    assert not made.get_error()
    return made


@LAW
@given(plans(), st.sampled_from(DECISIONS), st.integers(0, 99))
def test_the_grammar_without_a_plan_holds_what_every_plan_allows(plan, decision, seed):
    assert accepts(without_plan(), filled(plan, decision, seed))


@LAW
@given(st.integers(0, 9999))
def test_what_is_written_without_a_plan_breaks_no_rule_of_form_or_of_fields(seed):
    """Whatever plan it is held against: only the order can be wrong, and what the answer says."""
    text = walk(without_plan(SHORT), random.Random(seed), 20_000)
    assert text is not None
    plan = Plan("S2", 2, "guardian", ("VISUAL-SCAN", "RISK-SCORER", GATE), "linear")
    assert {violation.code[:2] for violation in check(plan, text)} <= {"T1", "T3"}
    assert {violation.code for violation in check(None, text)} <= {"T302"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decision", DECISIONS)
def test_an_illegal_completion_is_not_in_the_grammar(kind, decision):
    tools = ("VISUAL-SCAN", "INTENT-RADAR", "JAILBREAK-SENTINEL", "RISK-SCORER", GATE, "REFUSAL-GENERATOR")
    plan = Plan("S2", 2, "guardian", tools, kind)
    text = filled(plan, decision)
    lines = text.split("\n")
    assert accepts(matcher(plan), text)
    for fault in (
        "\n".join(line for line in lines if not line.startswith(f"[{GATE}]")),  # no gate
        "\n".join([lines[0], lines[1], *lines[1:]]),  # a repeated call
        text.replace("severity=2", "severity=9"),
        text.replace(f"decision={decision}", "decision=perhaps"),
        text + "\nmore",
        text.replace("[VISUAL-SCAN]", "[MIND-READER]"),
    ):
        assert check(plan, fault)
        assert not accepts(matcher(plan), fault), fault


def test_the_request_to_vllm_holds_the_same_grammar():
    plan = Plan("none", 0, "helper", ("VISUAL-SCAN", "RISK-SCORER", GATE), "linear")
    assert vllm_request(plan) == {"structured_outputs": {"grammar": lark(plan)}}


def test_plans_that_differ_in_hazard_alone_have_one_grammar():
    tools = ("VISUAL-SCAN", "RISK-SCORER", GATE)
    assert len({lark(Plan(code, 2, "guardian", tools, "linear")) for code in HAZARDS}) == 1
