"""A real policy that knows nothing, and grammars that end it soon."""

import pytest

from saferflow.protocol import grammar
from saferflow.serving.policy import LoadedPolicy
from saferflow.training import constrained
from tests.serving.written import IDENTITY, MICRO, save_untrained

SHORT = grammar.Bounds(text=6, item=4, items=2, answer=12)


@pytest.fixture(scope="package")
def untrained(tmp_path_factory):
    return LoadedPolicy(save_untrained(tmp_path_factory.mktemp("policy")), IDENTITY, MICRO.policy)


@pytest.fixture
def short(monkeypatch):
    """Free text of a few characters, so that rambling ends soon."""
    monkeypatch.setattr(constrained, "lark", lambda plan: grammar.lark(plan, SHORT))
    monkeypatch.setattr(constrained, "longest", lambda plan: grammar.longest(plan, SHORT))
    constrained._compiled.cache_clear()
    yield
    constrained._compiled.cache_clear()
