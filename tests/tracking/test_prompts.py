"""Prompts in a real MLflow store: found by the digest of their text, and registered once."""

import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from mlflow import MlflowClient
from saferflow.judge.endpoint import FENCE
from saferflow.judge.rubric_text import RubricText
from saferflow.params import load_params
from saferflow.planner.endpoint import PLANNING
from saferflow.tracking import prompts

PROFILES = Path(__file__).parents[2] / "profiles"


@pytest.fixture
def client(tmp_path, database, monkeypatch):
    shutil.copy(database, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(prompts, "client", lambda: client)
    return client


def test_prompts_are_registered_once_and_loaded_by_digest(client):
    params = load_params(PROFILES / "qwen2.5-vl-7b.yaml")
    tags = prompts.register(params)
    digest = sha256(PLANNING.encode()).hexdigest()[:8]
    assert tags["saferflow.prompt.planner"] == f"prompts:/{params.gate.registered_model}-planner@sha256-{digest}"
    assert client.load_prompt(tags["saferflow.prompt.planner"]).template == PLANNING
    rubric = params.evaluate.judge.rubric
    grading = client.load_prompt(tags[f"saferflow.prompt.evaluation-judge-{rubric}-grades"])
    assert grading.template == f"{FENCE}\n\n{RubricText.named(rubric).grades}"
    assert {name.removeprefix(prompts.TAG) for name in tags} >= {"teacher", f"judge-{params.judge.rubric}-marks"}
    assert prompts.register(params) == tags
    assert client.load_prompt(tags["saferflow.prompt.planner"]).version == 1


def test_another_text_is_another_version_and_the_former_stays(client, monkeypatch):
    params = load_params(PROFILES / "qwen2.5-vl-7b.yaml")
    before = prompts.register(params)["saferflow.prompt.planner"]
    monkeypatch.setattr("saferflow.planner.endpoint.PLANNING", "Plan otherwise.")
    after = prompts.register(params)["saferflow.prompt.planner"]
    assert client.load_prompt(after).version == 2
    assert client.load_prompt(before).template == PLANNING


def test_rules_have_no_prompts(client):
    assert prompts.register(load_params(PROFILES / "micro.yaml")) == {}
