"""Versions of the data in a real MLflow store: which one is the former, and how far the tables have moved from it."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from mlflow import MlflowClient
from saferflow.cli.drift import tell
from saferflow.errors import PipelineError
from saferflow.params import load_params
from saferflow.release import data_versions, pipeline_runs, registry
from saferflow.tracking import lineage, runs

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
OLD = {"sft": {"hazard": {"S1": 80, "S2": 20}, "source": {"mine": 100}}}
NEW = {"sft": {"hazard": {"S1": 20, "S2": 80}, "source": {"mine": 100}}}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A checkout whose tables are `NEW`; `remember` adds a pipeline run that validated some profile."""
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    made = client.create_experiment("align", artifact_location=(tmp_path / "artifacts").as_uri())
    for module in (data_versions, pipeline_runs, registry, runs):
        monkeypatch.setattr(module, "client", lambda: client, raising=False)
        monkeypatch.setattr(module, "experiment", lambda: made, raising=False)
    (tmp_path / "reports").mkdir()
    (tmp_path / data_versions.PROFILE).write_text(json.dumps(NEW), encoding="utf-8")

    def remember(profile: dict, *, cached: bool = False) -> tuple[str, str]:
        parent = client.create_run(made).info.run_id
        tags = {
            lineage.STAGE: "validate",
            lineage.CACHED: str(cached).lower(),
            "mlflow.parentRunId": parent,
            f"saferflow.out.{data_versions.PROFILE}": str(hash(json.dumps(profile))),
        }
        run = client.create_run(made, tags=tags).info.run_id
        if not cached:
            client.log_text(run, json.dumps(profile), data_versions.PROFILE.name)
        client.set_terminated(run)
        return parent, run

    return tmp_path, remember


def told(root: Path, asked: str | None = None) -> str:
    console = Console(record=True, width=160)
    tell(root, PARAMS, asked, console)
    return console.export_text()


def test_the_former_version_is_the_newest_that_was_made_of_something_else(store):
    root, remember = store
    remember({"sft": {"source": {"other": 1}}})
    _, old = remember(OLD)
    remember(NEW)
    remember(NEW, cached=True)
    assert data_versions.former(NEW) == old
    text = told(root)
    assert old in text
    first = next(line for line in text.splitlines() if line.startswith("sft"))
    assert "large shift" in first
    assert "S1 80.0 -> 20.0" in first
    assert "no shift" in text


def test_a_run_may_be_named(store):
    root, remember = store
    parent, run = remember({"sft": {"hazard": {"S1": 20, "S2": 80}}})
    remember(OLD)
    text = told(root, parent)
    assert run in text
    assert "large" not in text.replace("0.25 a large one", "")


def test_without_another_version_or_a_profile_the_message_says_so(store):
    root, remember = store
    remember(NEW)
    with pytest.raises(PipelineError, match="no other version of the data"):
        told(root)
    (root / data_versions.PROFILE).unlink()
    with pytest.raises(PipelineError, match="saferflow run makes it"):
        told(root)
