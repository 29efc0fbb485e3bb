"""Constrained decoding: even an untrained policy cannot leave its plan."""

from pathlib import Path

import pytest

from saferflow.data.scenes.corpus import safety_rows
from saferflow.params import load_params
from saferflow.planner.rules import plan_for
from saferflow.protocol import grammar
from saferflow.protocol.check import check
from saferflow.training import constrained, generate
from saferflow.training.embedded import build_model, build_processor, train_tokenizer

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
    monkeypatch.setattr(generate, "longest", lambda plan: grammar.longest(plan, SHORT))
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
