"""The table of rollouts in a real MLflow store: every column, and of very many an even share."""

import json

import pytest

from mlflow import MlflowClient
from saferflow.tracking import run_tables


@pytest.fixture
def store(tmp_path, monkeypatch):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(run_tables, "client", lambda: client)
    experiment = client.create_experiment("align", artifact_location=str(tmp_path / "artifacts"))
    return client, client.create_run(experiment).info.run_id


def line(step, violations=(), **changed):
    told = {
        "step": step, "row": f"r{step}", "reward": 0.5, "rewards": {"toolkit": 0.75, "mine:brief": None},
        "violations": None if violations is None else list(violations), "corrected": False, "completion": f"<answer>{step}",
    }  # fmt: skip
    return json.dumps({**told, **changed})


def logged(store, tmp_path, lines):
    """The rows of the table as the store keeps them."""
    _, run = store
    file = tmp_path / "rollouts.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    run_tables.log_rollouts(run, file)
    told = json.loads((tmp_path / "artifacts" / run / "artifacts" / "rollouts.json").read_text())
    return [dict(zip(told["columns"], row, strict=True)) for row in told["data"]]


def test_it_has_rewards_and_verdicts(store, tmp_path):
    rows = logged(store, tmp_path, [line(0), line(1, ["T104", "A301"]), line(2, None, corrected=True)])
    assert [row["valid"] for row in rows] == [True, False, False]
    assert [row["violations"] for row in rows] == ["", "T104 A301", ""]
    assert [row["corrected"] for row in rows] == [False, False, True]
    assert rows[0]["reward toolkit"] == 0.75
    assert rows[0]["reward mine:brief"] is None
    assert [row["completion"] for row in rows] == ["<answer>0", "<answer>1", "<answer>2"]


def test_of_very_many_it_holds_an_even_share(store, tmp_path):
    rows = logged(store, tmp_path, [line(step) for step in range(2 * run_tables.MOST + 1)])
    assert [row["step"] for row in rows] == list(range(0, 2 * run_tables.MOST + 1, 3))
    assert len(rows) <= run_tables.MOST
