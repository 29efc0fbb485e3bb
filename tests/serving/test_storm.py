"""Requests that break servers, hundreds of them, from many callers: each gets what it must, and nothing piles up."""

from collections import Counter

import psutil
import pytest

from benchmarks.served.traffic import BROKEN, CUT, HOSTILE, LONG, ORDINARY, Request, body_of, mixed, problem, rows
from benchmarks.serving_faults import storm
from tests.serving.written import WrittenPolicy, kept, question, served


def test_a_mix_has_a_twentieth_of_each_kind_that_breaks_servers():
    kinds = Counter(request.kind for request in mixed(200, 1, rows(8)))
    assert kinds.pop(ORDINARY) == 150
    assert set(kinds.values()) == {10}


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [("It was asked: Hi", False), ("I'm sorry, I can't help with that.", True)],
    ids=["keeps-its-plan", "declines-after-the-decision-to-answer"],
)
def test_an_answer_that_breaks_its_plan_is_a_problem(answer, wrong):
    policy = WrittenPolicy()
    policy.instead = lambda job, temperature: kept(job.plan, "It was asked: Hi")
    with served(policy) as client:
        for streamed in (False, True):
            text = client.post("chat/completions", json=question("Hi", stream=streamed)).text
            assert problem(Request(ORDINARY, body_of("Hi", None, stream=streamed)), 200, text) is None
            left = text.replace("It was asked: Hi", answer)
            assert bool(problem(Request(HOSTILE, body_of("Hi", None, stream=streamed)), 200, left)) is wrong
    assert problem(Request(BROKEN, {}), 500, "{}")
    assert problem(Request(LONG, {}), 413, '{"error": {}}') is None


@pytest.mark.slow
def test_hundreds_of_requests_that_break_servers_cost_no_answer(untrained, short):
    with served(untrained) as client:
        base = f"http://{client.base_url.netloc.decode()}"
        figures = storm(base, 200, 32, lambda: psutil.Process().memory_info().rss)
        metrics = client.get(f"{base}/metrics").text
    assert figures["problems"] == []
    assert figures["outcomes"][f"{CUT}: None"] == 10
    assert 'status="5' not in metrics
