"""Judging ahead: the judge reads while the policy writes, within its server's bound, and each completion once."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferflow.data.rows import Labels
from saferflow.endpoint.client import Endpoint
from saferflow.endpoint.store import Store
from saferflow.errors import EndpointError
from saferflow.judge.ahead import read_ahead
from saferflow.judge.endpoint import EndpointJudge
from saferflow.judge.rubric_text import RubricText
from saferflow.judge.rubrics import Item
from saferflow.params import EndpointJudgeParams
from tests.endpoint.request_fields import request_fields

GRADES = {"reason": "sound", "safety": 3, "helpfulness": 2, "rigor": 3, "refused": False}
LABELS = Labels("safety", "S1", 3, "text", "none", "refuse", ("knife",), "kitchen")
WAIT = 30
"""Seconds after which a test fails that waits for two things to happen at once."""


def item(text: str) -> Item:
    return Item("What is this?", None, LABELS, text)


@pytest.fixture
def judge(tmp_path):
    def make(server, concurrency: int = 4) -> EndpointJudge:
        params = EndpointJudgeParams(
            kind="endpoint", model="m", base_url=server.address, key_variable=None, concurrency=concurrency, timeout=30,
            retries=0, repairs=0, request=request_fields(64), token_cap=None, rubric="condensed",
        )  # fmt: skip
        endpoint = Endpoint(params, Store(tmp_path / "answers.sqlite"), "judge")
        return EndpointJudge(endpoint, "m", RubricText.named("condensed"))

    return make


@given(st.lists(st.lists(st.integers(), max_size=3), max_size=40))
def test_batches_come_in_their_order_each_prepared_once(batches):
    prepared = []
    found = []
    for batch in read_ahead(iter(batches), prepared.append):
        assert any(batch is one for one in prepared)
        found.append(batch)
    assert found == batches
    assert sorted(prepared) == sorted(batches)


def test_the_next_batch_is_drawn_while_the_judge_reads():
    """The judge answers the first batch only when the third is drawn: one after the other, nothing would ever come."""
    third = threading.Event()

    def drawn():
        yield 1
        yield 2
        third.set()
        yield 3

    def prepare(batch: int) -> None:
        assert third.wait(WAIT)

    assert list(read_ahead(drawn(), prepare)) == [1, 2, 3]


def test_several_batches_are_with_the_judge_at_the_same_time(serve, judge):
    """The server answers nobody before requests of both batches are there."""
    both = threading.Barrier(8)

    def answer(request, before):
        both.wait(WAIT)
        return 200, {}, json.dumps(GRADES)

    asked = judge(serve(answer), concurrency=8)
    batches = [[item(f"{batch} {number}") for number in range(4)] for batch in range(2)]
    assert list(read_ahead(batches, lambda batch: asked.prepare("grade", batch))) == batches


def test_threads_that_ask_together_keep_the_servers_bound(serve, judge):
    server = serve(lambda request, before: (200, {}, json.dumps(GRADES)), delay=0.02)
    asked = judge(server, concurrency=3)
    batches = [[item(f"{batch} {number}") for number in range(5)] for batch in range(8)]
    list(read_ahead(batches, lambda batch: asked.prepare("grade", batch)))
    assert server.most_at_once == 3
    assert len(server.asked) == 40


def test_the_same_completion_in_several_batches_is_sent_once(serve, judge):
    server = serve(lambda request, before: (200, {}, json.dumps(GRADES)), delay=0.1)
    asked = judge(server, concurrency=16)
    with ThreadPoolExecutor(8) as pool:
        grades = list(pool.map(lambda _: (asked.prepare("grade", [item("same")]), asked.grade(item("same")))[1], range(8)))
    assert [grade.safety for grade in grades] == [3] * 8
    assert len(server.asked) == 1


def test_a_request_whose_sender_failed_is_sent_by_the_one_that_waited_for_it(serve, judge):
    """One ask has the shared request and a broken one, which ends it; the other ask has the shared one alone."""

    def answer(request, before):
        text = json.loads(request["messages"][1]["content"][0]["text"])["response"]
        if text == "broken":
            return 500, {}, ""
        if not before:
            time.sleep(1)  # longer than the other takes to fail
        return 200, {}, json.dumps(GRADES)

    server = serve(answer, delay=0.4)
    asked = judge(server, concurrency=2)
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(asked.prepare, "grade", [item("broken"), item("shared")])
        while len(server.asked) < 2:
            time.sleep(0.005)
        waiting = pool.submit(asked.prepare, "grade", [item("shared")])
        with pytest.raises(EndpointError):
            failing.result(WAIT)
        waiting.result(WAIT)
    assert asked.grade(item("shared")).safety == 3
    assert len(server.asked) == 3


def test_a_judge_that_fails_stops_the_drawing_at_its_batch(serve, judge):
    asked = judge(serve(lambda request, before: (500, {}, "")))
    drawn, failed = [], threading.Event()

    def prepare(batch):
        try:
            asked.prepare("grade", batch)
        finally:
            failed.set()

    def batches():
        for number in range(50):
            drawn.append(number)
            yield [item(str(number))]
            failed.wait(WAIT)

    with pytest.raises(EndpointError, match="did not answer"):
        list(read_ahead(batches(), prepare))
    assert len(drawn) < 50
