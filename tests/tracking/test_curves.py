"""A stage's curves as a picture, from a real MLflow store."""

import pytest

from mlflow import MlflowClient
from saferflow.tracking import curves, runs


@pytest.fixture
def run(tmp_path, monkeypatch):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(runs, "client", lambda: client)
    return client, client.create_run(client.create_experiment("curves")).info.run_id


def test_metrics_with_steps_become_curves_and_single_figures_do_not(run):
    client, name = run
    for step in range(5):
        client.log_metric(name, "loss", 1 / (step + 1), step=step)
        client.log_metric(name, "epoch", step, step=step)
    client.log_metric(name, "rows", 12)
    drawn = curves.draw(name)
    assert "loss" in drawn
    assert "<!-- rows -->" not in drawn
    assert "<!-- epoch -->" not in drawn


def test_a_run_without_curves_has_no_picture(run):
    client, name = run
    client.log_metric(name, "rows", 12)
    assert curves.draw(name) is None
