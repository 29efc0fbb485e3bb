"""The automaton against the topologies' definitions, written a second time as plain predicates over sequences."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from saferflow.protocol.paths import required, resume, states
from saferflow.protocol.plan import Plan
from saferflow.protocol.sample import sample
from saferflow.protocol.tools import DECISIONS, Layer
from saferflow.protocol.topologies import GATE, KINDS, Automaton, Edge, State, _compile

LOOK, READ = "VISUAL-SCAN", "OCR-EXTRACT"
INTENT, JAILBREAK, RISK = "INTENT-RADAR", "JAILBREAK-SENTINEL", "RISK-SCORER"
REFUSE, REDIRECT, COMPOSE = "REFUSAL-GENERATOR", "REDIRECT-ENGINE", "ANSWER-COMPOSER"
ROUTES = (REFUSE, REDIRECT, COMPOSE)
PERCEPTION = (LOOK, READ)


def plan(kind: str, inner: tuple[str, ...], routes: tuple[str, ...] = ROUTES, **more: object) -> Plan:
    return Plan("S2", 1, "guardian", (*inner, GATE, *routes), kind, **more)


def accepts(subject: Plan, names: tuple[str, ...], decision: str) -> bool:
    state = subject.automaton.start
    for name in names:
        state = subject.automaton.step(state, name, (("decision", decision),) if name == GATE else ())
        if state is None:
            return False
    return subject.automaton.accepting(state)


def layers(names: tuple[str, ...]) -> str:
    return "".join("P" if name in PERCEPTION else "R" for name in names)


def forwards(names: tuple[str, ...]) -> bool:
    return "PR" in layers(names) and "RP" not in layers(names)


def once(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names)


def is_linear(names):
    return names == (LOOK, READ, INTENT, RISK)


def is_tree(names):
    return names[:1] == (LOOK,) and sorted(names) == sorted((LOOK, READ, INTENT, RISK)) and forwards(names)


def is_branched(names):  # READ > INTENT is one branch, RISK the other, and RISK first would leave reasoning backwards
    return names == (LOOK, READ, INTENT, RISK)


def is_mesh(names):
    return once(names) and forwards(names)


def is_shield(names):
    return is_mesh(names) and names[-2:] == (JAILBREAK, RISK) and not {JAILBREAK, RISK} & set(names[:-2])


def is_loop(returns):
    def legal(names):
        turns = [i for i in range(1, len(names)) if layers(names)[i - 1 : i + 1] == "RP"]
        passes = [names[i:j] for i, j in zip([0, *turns], [*turns, len(names)], strict=True)]
        twice = all(names.count(name) <= 2 for name in names)
        return len(turns) <= returns and twice and all(once(one) and "PR" in layers(one) for one in passes)

    return legal


CASES = [
    pytest.param(plan("linear", (LOOK, READ, INTENT, RISK)), is_linear, 5, id="linear"),
    pytest.param(plan("tree", (LOOK, READ, INTENT, RISK)), is_tree, 5, id="tree"),
    pytest.param(
        plan("tree", (LOOK, READ, INTENT, RISK), branches=((RISK,), (READ, INTENT))), is_branched, 5, id="tree-branches"
    ),
    pytest.param(plan("mesh", (LOOK, READ, INTENT, RISK)), is_mesh, 5, id="mesh"),
    pytest.param(plan("shield", (LOOK, READ, INTENT, JAILBREAK, RISK)), is_shield, 6, id="shield"),
    pytest.param(plan("loop", (LOOK, READ, INTENT), max_returns=0), is_loop(0), 7, id="loop-0"),
    pytest.param(plan("loop", (LOOK, READ, INTENT)), is_loop(1), 8, id="loop-1"),
    pytest.param(plan("loop", (LOOK, READ, INTENT), max_returns=2), is_loop(2), 8, id="loop-2"),
    pytest.param(plan("loop", (LOOK, INTENT, RISK), max_returns=2), is_loop(2), 8, id="loop-2-thoughts"),
]


GUARDED = (*DECISIONS, "")
"""What can guard a step from the gate; "" is a decision that cannot be read."""


def tails(decision: str, routes: tuple[str, ...]) -> set[tuple[str, ...]]:
    """What may follow the gate, from the definition."""
    tool = {"refuse": REFUSE, "redirect": REDIRECT}.get(decision)
    if tool:
        return {(tool,)} if tool in routes else {()}
    if not decision:
        return {(), *((route,) for route in routes)}
    return {(), (COMPOSE,)} if COMPOSE in routes else {()}


Word = tuple[tuple[str, str], ...]
"""Tools, each with the decision that guards it."""


def is_legal(legal, routes: tuple[str, ...], word: Word) -> bool:
    """Whether a whole trace is legal, from the definition: legal before the gate, and after it as it decided."""
    names = tuple(tool for tool, _ in word)
    if GATE not in names:
        return False
    at = names.index(GATE)
    before, after = names[:at], names[at + 1 :]
    return not {*before} & {*ROUTES} and bool(legal(before)) and after in tails(word[at][1], routes)


def takes(automaton: Automaton, word: Word) -> bool:
    state = automaton.start
    for tool, decision in word:
        state = automaton.after(state, tool, decision)
        if state is None:
            return False
    return automaton.accepting(state)


@pytest.mark.parametrize(("subject", "legal", "longest"), CASES)
def test_the_automaton_accepts_exactly_the_orders_that_the_definition_allows(subject, legal, longest):
    inner, automaton = subject.tools[: subject.tools.index(GATE)], subject.automaton
    endings = [((GATE, decision), *((tool, "") for tool in tail)) for decision in GUARDED for tail in TAILS]
    seen = 0
    for length in range(longest + 1):
        for names in product(inner, repeat=length):
            seen += legal(names)
            start = tuple((name, "") for name in names)
            for ending in endings if legal(names) else [(), *endings[:1]]:
                word = start + ending
                assert takes(automaton, word) == is_legal(legal, ROUTES, word), word
    assert seen  # a predicate that allows nothing would agree with an automaton that does


TAILS = [(), (REFUSE,), (REDIRECT,), (COMPOSE,), (REFUSE, REFUSE), (COMPOSE, COMPOSE), (LOOK,), (GATE,)]


@pytest.mark.parametrize(("subject", "legal", "longest"), CASES)
def test_the_automaton_is_deterministic_and_compiles_to_the_same_states_and_edges_each_time(subject, legal, longest):
    first, second = (
        subject.automaton,
        _compile.__wrapped__(
            subject.topology,
            tuple(subject.layer(layer) for layer in Layer),
            subject.paths,
            subject.max_returns if subject.topology == "loop" else 0,
        ),
    )
    for state in states(first):
        symbols = [(edge.tool, edge.decision) for edge in first.edges(state)]
        assert len(symbols) == len(set(symbols))
    assert [(state, first.edges(state)) for state in states(first)] == [
        (state, second.edges(state)) for state in states(second)
    ]


def ways(automaton: Automaton) -> tuple[dict[State, Word], dict[State, Word]]:
    """A shortest word to each state, and from each state to an end."""
    to: dict[State, Word] = {automaton.start: ()}
    for state in states(automaton):  # nearest first
        for edge in automaton.edges(state):
            to.setdefault(edge.target, (*to[state], (edge.tool, edge.decision)))
    on: dict[State, Word] = {state: () for state in to if automaton.accepting(state)}
    while len(on) < len(to):
        for state in to:
            for edge in automaton.edges(state):
                if edge.target in on:
                    on.setdefault(state, ((edge.tool, edge.decision), *on[edge.target]))
    return to, on


def mutants(automaton: Automaton) -> Iterator[tuple[Automaton, Word]]:
    """The automaton with one edge less or one edge more, each with a word through that edge."""
    to, on = ways(automaton)
    edges = {state: automaton.edges(state) for state in to}
    symbols = [(tool, decision) for tool in automaton.tools for decision in (GUARDED if tool == GATE else ("",))]

    def mutant(state: State, changed: tuple[Edge, ...]) -> Automaton:
        return replace(automaton, _edges={**edges, state: changed}, _steps={}, _legal={})

    for state, there in edges.items():
        for edge in there:
            word = (*to[state], (edge.tool, edge.decision), *on[edge.target])
            yield mutant(state, tuple(other for other in there if other is not edge)), word
        for tool, decision in symbols:
            if not any((edge.tool, edge.decision) == (tool, decision) for edge in there):
                for target in to:
                    word = (*to[state], (tool, decision), *on[target])
                    yield mutant(state, (*there, Edge(tool, decision, target))), word


@pytest.mark.parametrize(("subject", "legal", "longest"), CASES)
def test_one_edge_less_or_more_is_noticed(subject, legal, longest, record_property):
    """Every mutant disagrees with the definition on a word, so that the test above would fail on it or on longer words."""
    tried = 0
    for mutant, word in mutants(subject.automaton):
        assert takes(mutant, word) != is_legal(legal, ROUTES, word), word
        tried += 1
    assert tried
    record_property("mutants", tried)
    print(f"{subject.topology}: {tried} mutants of one edge, all noticed")


@pytest.mark.parametrize("routes", [ROUTES, (), (REFUSE,), (COMPOSE, REDIRECT)], ids=lambda routes: f"{len(routes)}")
@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_gate_depends_on_its_decision_in_every_topology(kind, decision, routes):
    subject = plan(kind, (LOOK, JAILBREAK, RISK), routes)
    start = (LOOK, JAILBREAK, RISK, GATE)
    every = [tail for length in range(3) for tail in product((*ROUTES, GATE, LOOK, RISK), repeat=length)]
    found = {tail for tail in every if accepts(subject, (*start, *tail), decision)}
    assert found == tails(decision, routes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_whose_decision_cannot_be_read_leaves_every_route_open(kind):
    subject = plan(kind, (LOOK, JAILBREAK, RISK))
    start = (LOOK, JAILBREAK, RISK, GATE)
    assert all(accepts(subject, (*start, *tail), "perhaps") for tail in [(), (REFUSE,), (REDIRECT,), (COMPOSE,)])


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        # 4 after the gate with three routes: refuse due, redirect due, composer open, end; 5 with the unreadable one
        pytest.param("linear", 1 + 4 + 5, id="linear: start, one a call"),
        pytest.param("mesh", 1 + 3 + 3 + 5, id="mesh: start, subsets of 2 looks, subsets of 2 thoughts"),
        pytest.param("loop", 1 + 3 * 4 + 3 * 4 + 5, id="loop: start, looks x thoughts (none too), in two passes"),
    ],
)
def test_the_automaton_keeps_only_what_bears_on_the_future(kind, count):
    assert len(states(plan(kind, (LOOK, READ, INTENT, RISK)).automaton)) == count


def test_plans_that_differ_in_what_no_order_depends_on_share_one_automaton():
    subject = plan("mesh", (LOOK, RISK))
    assert Plan("none", 0, "helper", subject.tools, "mesh").automaton is subject.automaton
    assert plan("tree", (LOOK, RISK)).automaton is not subject.automaton


def test_a_shield_requires_its_guards_and_a_mesh_only_the_gate():
    inner = (LOOK, READ, INTENT, JAILBREAK, RISK)
    assert required(plan("shield", inner).automaton, "refuse") == {JAILBREAK, RISK, GATE, REFUSE}
    assert required(plan("mesh", inner).automaton, "answer") == {GATE}


def test_after_a_skipped_tool_the_trace_is_picked_up_behind_it():
    automaton = plan("linear", (LOOK, READ, RISK)).automaton
    after = resume(automaton, automaton.start, READ, "")
    assert automaton.legal(after) == (RISK,)
    assert resume(automaton, after, LOOK, "") is None  # LOOK cannot come any more


def test_a_loop_is_sampled_with_and_without_a_second_look():
    subject = plan("loop", (LOOK, INTENT))
    looks = {sample(subject, random.Random(seed), "answer").count(LOOK) for seed in range(40)}
    assert looks == {1, 2}


def test_low_coverage_leaves_optional_tools_out_and_keeps_every_layer():
    subject = plan("mesh", (LOOK, READ, INTENT, RISK))
    trace = sample(subject, random.Random(0), "answer", coverage=0.0)
    assert len(trace) == 3  # one look, one thought, the gate
    assert trace[0] in PERCEPTION
    assert trace[-1] == GATE


def test_a_decision_that_does_not_exist_cannot_be_sampled():
    with pytest.raises(ValueError, match="one of answer"):
        sample(plan("mesh", (LOOK, RISK)), random.Random(0), "maybe")


def test_a_sample_does_not_use_up_its_tools_before_the_end():
    subject = plan("loop", (LOOK, READ, INTENT, RISK), max_returns=2)
    for seed in range(100):  # INTENT alone may be wanted: after its second call no step back is left
        assert sample(subject, random.Random(seed), "answer", coverage=0.3)[-1] in (GATE, COMPOSE)
