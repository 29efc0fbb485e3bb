"""A policy as a stage makes it, and a registry."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlflow import MlflowClient
from saferflow.params import load_params, read_values
from saferflow.release import registry
from saferflow.tracking import runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    """The micro profile's base policy, made by its stage and not trained to speak of."""
    folder = tmp_path_factory.mktemp("weights")
    raw = read_values(ROOT / "profiles" / "micro.yaml")
    raw["base"] |= {"rows": 64}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-m", "saferflow.stages.base"], cwd=folder, env=environ, check=True, capture_output=True
    )
    return folder / "models" / "base"


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Registers weights by their address; the first is the champion."""
    monkeypatch.chdir(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for module in (runs, registry):
        monkeypatch.setattr(module, "client", lambda: client)
    model = load_params(ROOT / "profiles" / "micro.yaml").gate.registered_model
    run = client.create_run(
        client.create_experiment("align", artifact_location=(tmp_path / "runs").as_uri())
    ).info.run_id
    registry.ensure_model(model)

    def register(address: str, digest: str) -> None:
        registry.promote(registry.register(model, address, run, {registry.MODEL_DIGEST: digest}), "the first", None)

    return register
