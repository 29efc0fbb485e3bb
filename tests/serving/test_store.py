"""The store of served requests: off unless switched on, without what is redacted, and without what is too old."""

import base64
import hashlib
import json
import sqlite3
import stat

import pytest

from saferflow.errors import PipelineError
from saferflow.params import StoreParams
from saferflow.serving import store as stored
from saferflow.serving.record import Record
from saferflow.serving.store import DAY, REDACTED, Served, Store, exchange, forget, served_since
from tests.serving.test_served_system import DECLINE, picture
from tests.serving.written import WrittenPolicy, kept, question, served

PARAMS = StoreParams(days=30, pictures=True, redact=("user", "reasoning_content"))
SERVED = Served(3, "answer", "none", "none", 5, "")


def record(file, **changed):
    params = PARAMS.model_copy(update=changed)
    return Record(Store(file, params), params)


def contents(file):
    with sqlite3.connect(file) as database:
        return database.execute("SELECT count(*) FROM contents").fetchone()[0]


def test_without_the_switch_nothing_is_kept_and_health_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with served(WrittenPolicy()) as client:
        assert client.post("chat/completions", json=question("Where is it?")).status_code == 200
        assert client.get(f"http://{client.base_url.netloc.decode()}/health").json()["store"] == {"on": False}
    assert list(tmp_path.rglob("*")) == []


def test_request_answer_and_picture_are_kept_under_the_completions_id_without_redacted_fields(tmp_path):
    file, shown = tmp_path / "served.sqlite", picture()
    with served(WrittenPolicy(), record=record(file)) as client:
        body = client.post("chat/completions", json=question("What is this?", shown, user="a name")).json()
        health = client.get(f"http://{client.base_url.netloc.decode()}/health").json()
    assert health["store"] == {"on": True, "days": 30, "pictures": True, "redact": ["user", "reasoning_content"]}
    held = exchange(file, body["id"])
    whole = base64.b64decode(shown.partition(",")[2])
    assert held.picture == whole
    digest = f"sha256:{hashlib.sha256(whole).hexdigest()}"
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": digest}}]
    assert held.request == {"messages": [{"role": "user", "content": parts}], "user": REDACTED}
    message = held.response["choices"][0]["message"]
    assert message == {**body["choices"][0]["message"], "reasoning_content": REDACTED}
    assert held.served == Served(3, "answer", "none", "none", len("What is this?"), "")
    raw = file.read_bytes()
    assert b"a name" not in raw
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_streamed_answer_is_kept_under_its_own_id(tmp_path):
    file = tmp_path / "served.sqlite"
    with served(WrittenPolicy(), record=record(file)) as client:
        lines = client.post("chat/completions", json=question("Where?", stream=True)).text.splitlines()
    assert exchange(file, json.loads(lines[0].removeprefix("data: "))["id"]).served.characters == len("Where?")


def test_without_pictures_the_digest_alone_is_kept(tmp_path):
    file = tmp_path / "served.sqlite"
    with served(WrittenPolicy(), record=record(file, pictures=False)) as client:
        name = client.post("chat/completions", json=question("What is this?", picture())).json()["id"]
    held = exchange(file, name)
    assert held.picture is None
    assert held.picture_digest == hashlib.sha256(base64.b64decode(picture().partition(",")[2])).hexdigest()


def test_an_answer_that_was_withheld_is_kept_with_the_rules_that_it_broke(tmp_path):
    file, policy = tmp_path / "served.sqlite", WrittenPolicy()
    policy.instead = lambda job, temperature: kept(job.plan, DECLINE)
    with served(policy, record=record(file)) as client:
        name = client.post("chat/completions", json=question("Where is it?")).json()["id"]
    assert exchange(file, name).served == Served(3, "", "none", "none", len("Where is it?"), "T302")


def test_the_same_content_is_held_once_and_goes_with_its_last_exchange(tmp_path, monkeypatch):
    file = tmp_path / "served.sqlite"
    now = 1_000_000_000.0
    monkeypatch.setattr(stored.time, "time", lambda: now)
    store = Store(file, PARAMS)
    raw = json.dumps(question("Where?")).encode()
    store.keep("old", raw, b"picture", {"text": "an old answer"}, SERVED)
    now += 20 * DAY
    store.keep("new", raw, b"picture", {"text": "a new answer"}, SERVED)
    assert contents(file) == 4  # one request, two answers, one picture
    now += 10 * DAY + 1  # the old one is 30 days and a second old, the new one 10 days
    store.keep("last", raw, None, {"text": "a last answer"}, SERVED)
    assert contents(file) == 4
    with pytest.raises(PipelineError, match=r"holds no exchange 'old'.*serve\.store\.days"):
        exchange(file, "old")
    assert b"an old answer" not in file.read_bytes()  # overwritten, not only unlinked
    assert len(served_since(file, now - 11 * DAY)) == 2
    assert forget(file, "new")
    assert not forget(file, "new")
    assert contents(file) == 2
    assert b"a new answer" not in file.read_bytes()


def test_an_answer_leaves_though_the_store_fails_and_the_metrics_say_so(tmp_path):
    file = tmp_path / "served.sqlite"
    with served(WrittenPolicy(), record=record(file)) as client:
        with sqlite3.connect(file) as database:
            database.execute("DROP TABLE exchanges")
        assert client.post("chat/completions", json=question("Where?")).status_code == 200
        text = client.get(f"http://{client.base_url.netloc.decode()}/metrics").text
    assert "saferflow_store_failed_total 1.0" in text


def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(tmp_path):
    file = tmp_path / "served.sqlite"
    file.write_text("no database, and longer than the header of one: " + "x" * 100)
    before = file.read_bytes()
    with pytest.raises(PipelineError, match="cannot be used"):
        Store(file, PARAMS)
    assert file.read_bytes() == before
