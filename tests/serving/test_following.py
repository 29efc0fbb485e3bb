"""The served alias moves: the other version takes over without a lost request, and back."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mlflow import MlflowClient
from saferflow.errors import PipelineError
from saferflow.serving.following import Follower
from saferflow.tracking import runs
from saferflow.tracking.pointer import Pointer
from tests.serving.written import IDENTITY, WrittenPolicy, params_with, question, served

MODEL, ALIAS = IDENTITY.model, "champion"
OFTEN = params_with(follow_seconds=0.02)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A registry with versions 1 to 4."""
    address = f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"
    client = MlflowClient(address)
    client.create_registered_model(MODEL)
    for _ in range(4):
        client.create_model_version(MODEL, "file:///nowhere", await_creation_for=0)
    return address, client


@pytest.fixture
def registry(store, monkeypatch):
    """Its client; the champion is version 3. Whoever asks MLflow's own client for an alias fails."""
    address, client = store
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    monkeypatch.setattr(runs, "client", lambda: pytest.fail("MLflow was imported to read an alias"))
    client.set_registered_model_alias(MODEL, ALIAS, "3")
    return client


def written(number):
    policy = WrittenPolicy()
    policy.identity = replace(IDENTITY, number=number, digest=f"{number}.dir")
    return policy


def follow(system, load=written):
    follower = Follower(system, ALIAS, pointed=Pointer(MODEL, ALIAS).number, load=load)
    follower.start()


def ask(client, text="Hello", **fields):
    response = client.post("chat/completions", json=question(text, **fields))
    return response.status_code, response.json().get("saferflow", {}).get("version")


def health(client):
    return client.get(f"http://{client.base_url.netloc.decode()}/health").json()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_requests_at_work_while_the_champion_changes_keep_their_version_and_later_ones_get_the_new_one(registry):
    old = written(3)
    old.may_go_on.clear()
    with served(old, OFTEN, prepare=follow) as client, ThreadPoolExecutor(3) as callers:
        drawn = callers.submit(ask, client, "in work")
        assert old.started.wait(30)
        waiting = [callers.submit(ask, client, text, model=name) for text, name in (("a", "v3"), ("b", ALIAS))]
        wait_for(lambda: "saferflow_waiting 2.0" in metrics(client))
        registry.set_registered_model_alias(MODEL, ALIAS, "4")
        wait_for(lambda: health(client)["version"] == "saferflow-micro-v4")
        later = callers.submit(ask, client, "c", model=ALIAS)
        old.may_go_on.set()
        assert [future.result() for future in (drawn, *waiting)] == [(200, 3)] * 3
        assert later.result() == (200, 4)
        assert ask(client, model="v3")[0] == 404
        registry.set_registered_model_alias(MODEL, ALIAS, "3")  # the rollback
        wait_for(lambda: ask(client, model=ALIAS) == (200, 3))
        assert 'saferflow_takeovers_total{result="done"} 2.0' in metrics(client)
    assert sorted(text for batch in old.batches for text in batch) == ["a", "b", "in work"]


def test_no_request_of_many_callers_is_lost_while_the_champion_moves_to_and_fro(registry):
    ended, answers = threading.Event(), []

    def call(client):
        while not ended.is_set():
            answers.append(ask(client))

    with served(written(3), OFTEN, prepare=follow) as client, ThreadPoolExecutor(8) as callers:
        for _ in range(8):
            callers.submit(call, client)
        for number in (4, 3, 4, 3):
            registry.set_registered_model_alias(MODEL, ALIAS, str(number))
            wait_for(lambda: answers and answers[-1] == (200, number))  # noqa: B023 the loop waits for it
        ended.set()
    assert set(answers) == {(200, 3), (200, 4)}


def test_a_version_that_cannot_be_loaded_leaves_the_served_one_and_health_says_why(registry):
    def broken(number):
        raise PipelineError("its files are not those that were registered")

    with served(written(3), OFTEN, prepare=lambda system: follow(system, broken)) as client:
        registry.set_registered_model_alias(MODEL, ALIAS, "4")
        wait_for(lambda: health(client)["trouble"])
        assert "version 4, which champion points to, cannot be loaded: its files are not" in health(client)["trouble"]
        assert health(client)["follows"] == ALIAS
        assert ask(client) == (200, 3)
        time.sleep(0.2)  # ten looks
        assert 'saferflow_takeovers_total{result="failed"} 1.0' in metrics(client)  # it is not tried at every look
        registry.set_registered_model_alias(MODEL, ALIAS, "3")
        wait_for(lambda: health(client)["trouble"] is None)


def test_without_a_registry_or_a_champion_the_served_version_stays(registry, monkeypatch):
    with served(written(3), OFTEN, prepare=follow) as client:
        registry.delete_registered_model_alias(MODEL, ALIAS)
        wait_for(lambda: health(client)["trouble"] == "saferflow-micro-v3 stays: champion points to no version")
        assert ask(client) == (200, 3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with served(written(3), OFTEN, prepare=follow) as client:
        wait_for(lambda: "the registry does not say where champion points" in (health(client)["trouble"] or ""))
        assert ask(client) == (200, 3)


def metrics(client):
    return client.get(f"http://{client.base_url.netloc.decode()}/metrics").text
