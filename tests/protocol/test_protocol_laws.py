"""Laws of the protocol, on values that hypothesis draws."""

import random
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.protocol.check import CODES, check
from saferflow.protocol.credit import step_credits
from saferflow.protocol.hazards import HAZARDS
from saferflow.protocol.personas import PERSONAS
from saferflow.protocol.plan import Plan
from saferflow.protocol.sample import sample, skeleton
from saferflow.protocol.surface import TAG, TAGS
from saferflow.protocol.tools import DECISIONS, LEVELS, TOOLS, Field, Layer
from saferflow.protocol.topologies import GATE, GUARDS, KINDS
from saferflow.protocol.trace import Call, Response, parse, plain, render

# An automaton is computed when it is first asked for, which on a busy machine outlasts the default deadline.
LAW = settings(deadline=None)
LAW_IN_FULL = settings(deadline=None, max_examples=300)

ANY = st.characters(codec=None)  # lone surrogates, NUL and marks for right-to-left text included
NAMES = {layer: sorted(tool.name for tool in TOOLS.values() if tool.layer is layer) for layer in Layer}
NEUTRAL = st.sampled_from(["A plain answer.", "It is 42; see [NOTE]: a=b", "好的", "\u202eabc"])


def words(more: str = "") -> st.SearchStrategy[str]:
    """Text that a field can hold."""
    return st.text(ANY, min_size=1, max_size=20).filter(
        lambda text: text == text.strip() and not set(text) & set(";\n" + more) and not TAG.search(text)
    )


def value(field: Field, decision: str) -> st.SearchStrategy[str]:
    """A legal value of a field; the gate's decision is given."""
    return {
        "enum": st.just(decision) if field.name == "decision" else st.sampled_from(field.choices or ("",)),
        "level": st.sampled_from(LEVELS),
        "score": st.sampled_from(["0", "1", "1.0", "0.5", "0.123456"]),
        "list": st.lists(words(","), min_size=1, max_size=3).map(", ".join),
        "text": words(),
    }[field.type]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A coherent plan of any topology."""
    kind = draw(st.sampled_from(KINDS))
    looks = draw(st.lists(st.sampled_from(NAMES[Layer.PERCEPTION]), min_size=1, max_size=3, unique=True))
    thoughts = draw(st.lists(st.sampled_from(NAMES[Layer.REASONING]), min_size=1, max_size=3, unique=True))
    thoughts += [guard for guard in GUARDS if kind == "shield" and guard not in thoughts]
    routes = draw(st.lists(st.sampled_from([t for t in NAMES[Layer.DECISION] if t != GATE]), unique=True))
    branches: tuple[tuple[str, ...], ...] = ()
    if kind == "tree" and len(looks) > 1 and draw(st.booleans()):
        branches = ((*looks[1:2], thoughts[0]), *((tool,) for tool in looks[2:] + thoughts[1:]))
    hazard = draw(st.sampled_from(["none", *HAZARDS]))
    severity = 0 if hazard == "none" else draw(st.integers(1, 3))
    persona = draw(st.sampled_from(sorted(PERSONAS)))
    returns = draw(st.integers(0, 2))
    return Plan(hazard, severity, persona, (*looks, *thoughts, GATE, *routes), kind, branches, returns)


@st.composite
def legal(draw: st.DrawFn) -> tuple[Plan, str, Response]:
    """A plan, a decision and a sampled trace whose fields are filled with legal values."""
    plan, decision = draw(plans()), draw(st.sampled_from(DECISIONS))
    names = sample(plan, random.Random(draw(st.integers(0, 99))), decision, draw(st.sampled_from([0.0, 0.5, 1.0])))
    trace = tuple(
        Call(name, tuple((field.name, draw(value(field, decision))) for field in TOOLS[name].fields)) for name in names
    )
    return plan, decision, Response(trace, draw(NEUTRAL))


def free_calls() -> st.SearchStrategy[Call]:
    """Calls in the released form: custom tools and free text, some of it over several lines."""
    name = st.text("ABCXYZ019-_", min_size=1, max_size=8)
    line = st.text(ANY, min_size=1, max_size=20).filter(
        lambda text: text == text.strip() and not set(text) & set("=\n[") and not TAG.search(text)
    )
    return st.builds(lambda tool, rows: Call(tool, (), "\n".join(rows)), name, st.lists(line, max_size=3))


FRAGMENTS = [*TAGS, "[SAFETY-GATE]: decision=refuse", "[X]:", "[", "]", "=", ";", "\n", " ", "\x00", "\ud800", "Sure"]
completions = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(ANY, max_size=5)), max_size=30).map("".join)


@LAW
@given(legal())
def test_parsing_a_rendered_response_gives_it_back(drawn):
    _, _, response = drawn
    assert parse(render(response)) == response


@LAW
@given(st.lists(free_calls(), max_size=4), words())
def test_parsing_a_rendered_response_in_the_released_form_gives_it_back(calls, answer):
    response = Response(tuple(calls), answer)
    assert parse(render(response)) == response
    assert check(None, render(response)) == ()


@LAW_IN_FULL
@given(legal())
def test_every_sampled_and_filled_trace_passes_the_check(drawn):
    plan, _, response = drawn
    assert check(plan, render(response)) == ()


@LAW
@given(legal())
def test_rendering_a_parsed_legal_text_gives_it_back(drawn):
    text = render(drawn[2])
    assert render(parse(text)) == text


@st.composite
def loosely(draw: st.DrawFn) -> tuple[Plan, str]:
    """A legal text as a model may write it: other white space, fields in another order, a `;` too many or too few."""
    plan, _, response = draw(legal())
    gap = st.sampled_from(["", " ", "\t", "  "])
    lines = []
    for call in response.trace:
        pairs = [f"{key}{draw(gap)}={draw(gap)}{value}" for key, value in draw(st.permutations(call.fields))]
        lines.append(f"{draw(gap)}[{call.tool}]{draw(gap)}:{draw(gap)}" + f";{draw(gap)}".join(pairs) + draw(gap))
        lines.append(draw(st.sampled_from(["", " ", "\r"])))
    body = "\n".join(lines)
    return plan, f" <thinking>{body}</thinking>\n\n<answer>{response.answer}</answer>\n"


@LAW
@given(loosely())
def test_a_legal_text_in_loose_form_is_legal_and_comes_back_in_the_exact_one(drawn):
    plan, text = drawn
    assert check(plan, text) == ()
    response = parse(text)
    assert parse(render(response)) == response
    assert check(plan, render(response)) == ()


@LAW_IN_FULL
@given(st.one_of(st.none(), plans()), completions)
def test_whatever_passes_the_check_is_read_and_written_without_loss(plan, text):
    response = parse(text)
    if plan is not None and not check(plan, text):
        assert parse(render(response)) == response


@LAW_IN_FULL
@given(plans(), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]))
def test_every_drawn_skeleton_passes_the_check_as_it_is(plan, seed, coverage):
    text = render(Response(skeleton(plan, random.Random(seed), coverage=coverage), "A plain answer."))
    assert check(plan, text) == ()


@LAW
@given(plans(), st.integers(0, 99), st.sampled_from(DECISIONS))
def test_a_skeleton_calls_what_a_sample_of_the_same_seed_calls(plan, seed, decision):
    calls = skeleton(plan, random.Random(seed), decision)
    assert tuple(call.tool for call in calls) == sample(plan, random.Random(seed), decision)
    assert [call.get("decision") for call in calls if call.tool == GATE] == [decision]


@LAW
@given(plans(), st.integers(0, 99))
def test_without_a_decision_one_is_drawn(plan, seed):
    drawn = random.Random(seed)
    decision = drawn.choice(DECISIONS)
    assert sample(plan, random.Random(seed)) == sample(plan, drawn, decision)


@LAW
@given(st.one_of(st.none(), plans()), completions)
def test_every_call_has_its_credit_and_every_violation_costs_the_step_it_names(plan, text):
    violations = check(plan, text)
    steps = step_credits(text, violations)
    assert [step.tool for step in steps if step.step] == [call.tool for call in parse(text).trace]
    named = {violation.step for violation in violations if violation.step}
    assert {step.step for step in steps if step.step and not step.earned} == named
    assert sum(not step.step for step in steps) == sum(violation.code == "T003" for violation in violations)


@LAW
@given(plans(), st.sampled_from(DECISIONS), st.integers(0, 99))
def test_a_sample_calls_every_tool_that_the_decision_allows(plan, decision, seed):
    route = {"refuse": "REFUSAL-GENERATOR", "redirect": "REDIRECT-ENGINE"}.get(decision, "ANSWER-COMPOSER")
    expected = {tool for tool in plan.tools if TOOLS[tool].layer is not Layer.DECISION or tool in (GATE, route)}
    assert set(sample(plan, random.Random(seed), decision)) == expected


@LAW
@given(plans(), st.sampled_from(DECISIONS), st.integers(0, 99))
def test_a_sample_is_fixed_by_its_seed(plan, decision, seed):
    draws = {sample(plan, random.Random(seed), decision, 0.5) for _ in range(2)}
    assert len(draws) == 1


@LAW_IN_FULL
@given(st.one_of(st.none(), plans()), completions)
def test_the_check_is_total_and_names_places_that_exist(plan, text):
    for violation in check(plan, text):
        assert violation.code in CODES
        assert 1 <= violation.line <= text.count("\n") + 1
        assert 0 <= violation.step <= len(parse(text).trace)
        assert str(violation)


@LAW
@given(completions)
def test_parsing_what_was_read_from_any_text_changes_nothing_but_the_order_of_free_text(text):
    calls = parse(text).trace
    assert [call.tool for call in parse(render(Response(calls, "a"))).trace][: len(calls)] == [c.tool for c in calls]


@LAW
@given(st.text(ANY))
def test_plain_makes_any_text_fit_a_text_field(text):
    kept = plain(text)
    assert not kept or Field("reason", "text").accepts(kept)


@LAW
@given(plans())
def test_a_plan_comes_back_from_its_json(plan):
    assert Plan.from_json(plan.to_json()) == plan


@LAW
@given(plans())
def test_no_legal_beginning_of_a_trace_is_a_dead_end(plan):
    automaton, rng = plan.automaton, random.Random(0)
    state = automaton.start
    while not automaton.accepting(state):
        state = rng.choice(automaton.edges(state)).target


def _function_calls(text: str) -> int:
    count = 0

    def tick(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(tick)
    try:
        check(PLAN, text)
    finally:
        sys.setprofile(None)
    return count


PLAN = Plan("S1", 2, "guardian", ("VISUAL-SCAN", "RISK-SCORER", GATE), "mesh")
WORST = ["<thinking>", "</thinking>x", "<answer>\n", "[", "[X]:\n", "[VISUAL-SCAN]: a=1;\n", "a=1;", " ", "x\n"]


def test_the_work_of_a_check_grows_no_faster_than_the_text():
    for unit in WORST:
        for start in ("", "<thinking>", "<thinking>[VISUAL-SCAN]: "):
            small, large = (_function_calls(start + unit * count) for count in (500, 2000))
            assert large <= 4 * small + 100, (unit, start)  # four times the text: at most four times the calls


def test_a_quarter_of_a_megabyte_of_any_repeated_piece_is_checked():
    for unit in WORST:
        check(PLAN, "<thinking>" + unit * (250_000 // len(unit)))
