"""Constrained decoding: even an untrained policy cannot leave its plan."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from saferflow.data.scenes.corpus import safety_rows
from saferflow.params import load_params
from saferflow.planner.rules import plan_for
from saferflow.protocol import grammar
from saferflow.protocol.check import check
from saferflow.training import constrained, generate
from saferflow.training.drafts import Drafter
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from tests.protocol.test_protocol_grammar import filled
from tests.training.published import published

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")

SHORT = grammar.Bounds(text=6, item=4, items=2, answer=12)


@pytest.fixture(scope="module")
def policy():
    """Weights as they were drawn, and a tokenizer that knows little more than letters."""
    tokenizer = train_tokenizer(["what is in the picture"], MICRO.base.vocab_size)
    return build_model(MICRO.base, tokenizer, seed=1), build_processor(tokenizer, MICRO.policy)


@pytest.fixture
def short(monkeypatch):
    """Free text of a few characters, so that rambling ends soon."""
    monkeypatch.setattr(constrained, "lark", lambda plan: grammar.lark(plan, SHORT))
    monkeypatch.setattr(constrained, "longest", lambda plan: grammar.longest(plan, SHORT))
    constrained._compiled.cache_clear()
    yield
    constrained._compiled.cache_clear()


def asked(count):
    rows = list(safety_rows(count, 5, "train"))
    plans = [plan_for(row.question, row.image) for row in rows]
    prompts = [
        generate.Prompt(plan.system_prompt("brief"), row.question, row.image)
        for plan, row in zip(plans, rows, strict=True)
    ]
    return plans, prompts


def test_every_completion_of_an_untrained_policy_obeys_its_plan(policy, short):
    model, processor = policy
    plans, prompts = asked(8)
    drawn = generate.complete(
        model, processor, prompts, batch_size=4, max_tokens=8, samples=2, temperature=1.0, seed=1, plans=plans
    )
    for plan, completions in zip(plans, drawn, strict=True):
        assert len(completions) == 2
        for text in completions:
            assert {violation.code for violation in check(plan, text)} <= {"T302"}, text


def test_a_row_without_a_plan_is_left_free(policy, short):
    model, processor = policy
    plans, prompts = asked(2)
    free = list(generate.complete(model, processor, prompts, batch_size=2, max_tokens=8))
    mixed = list(generate.complete(model, processor, prompts, batch_size=2, max_tokens=8, plans=[None, plans[1]]))
    assert mixed[0][0].startswith(free[0][0][:4])
    assert {violation.code for violation in check(plans[1], mixed[1][0])} <= {"T302"}


def test_a_draft_changes_nothing_of_what_a_grammar_lets_be_drawn(policy, short):
    model, processor = policy
    plans, prompts = asked(4)

    def drawn(drafter):
        return list(
            generate.complete(
                model, processor, prompts, batch_size=4, max_tokens=8, samples=2, temperature=1.0, seed=1, plans=plans,
                drafter=drafter,
            )
        )  # fmt: skip

    known = Drafter()
    first = drawn(known)
    passes = []
    counting = model.register_forward_hook(lambda *_: passes.append(1))
    try:
        assert drawn(known) == first
        drafted = len(passes)
        del passes[:]
        assert drawn(Unable()) == first
    finally:
        counting.remove()
    assert drafted < len(passes)


class Unable(Drafter):
    """Drafts nothing."""

    def next(self, context):
        return None


@pytest.mark.parametrize("kind", ["embedded", "published"])
def test_what_the_grammar_gives_is_split_as_the_tokenizer_splits_it(kind, tmp_path_factory):
    """Along a legal completion: what has a choice is drawn as the tokenizer has it, and all that is given is as well."""
    rows = list(safety_rows(6, 5, "train"))
    plans = [plan_for(row.question, row.image) for row in rows]
    texts = [filled(plan, "refuse", seed) for seed, plan in enumerate(plans)]
    if kind == "embedded":
        tokenizer = train_tokenizer([*texts, *(row.question for row in rows)], MICRO.base.vocab_size)
    else:
        tokenizer = AutoTokenizer.from_pretrained(published(tmp_path_factory.mktemp("hub")))
    saved = 0
    for plan, text in zip(plans, texts, strict=True):
        expected = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        constraint = constrained.PlanConstraint(tokenizer, [plan])
        said = given = constraint.given(0)
        while len(said) < len(expected):
            saved += len(given)
            token = expected[len(said)]
            allowed = constraint.mask([0], len(tokenizer))
            assert allowed[0, token]
            assert allowed.sum() > 1
            assert constraint.accept(0, [token])
            given = constraint.given(0) if token != tokenizer.eos_token_id else []
            said = [*said, token, *given]
        assert said == expected
    assert saved > 10 * len(plans)


def test_a_token_is_accepted_if_the_mask_has_it(policy, short):
    """At each place of a legal completion and for each token of the vocabulary."""
    tokenizer = policy[1].tokenizer
    row = next(iter(safety_rows(1, 5, "train")))
    plan = plan_for(row.question, row.image)
    place, seen = [], 0
    while len(place) < 60:
        now = constrained.PlanConstraint(tokenizer, [plan])
        assert all(now.accept(0, [token]) for token in place)
        place += now.given(0)
        if place and place[-1] == tokenizer.eos_token_id:
            break
        allowed = now.mask([0], len(tokenizer))[0].nonzero()[:, 0].tolist()
        for token in range(len(tokenizer)):
            other = now._matchers[0].deep_copy()
            taken = other.is_accepting() if token == tokenizer.eos_token_id else other.try_consume_tokens([token]) == 1
            assert taken == (token in allowed), (place, token)
        seen += 1
        place.append(allowed[len(place) % len(allowed)])
    assert seen > 10
