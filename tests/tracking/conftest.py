"""A database as this MLflow makes it: it takes seconds, and a copy none."""

from pathlib import Path

import pytest

from mlflow import MlflowClient


@pytest.fixture(scope="session")
def database(tmp_path_factory) -> Path:
    """An empty store; tests work on copies."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file
