"""Stores, servers and checkouts that cannot be used: one line with the way out, and nothing is changed."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from saferflow.errors import PipelineError
from saferflow.tracking import runs, trouble
from tests.flows.cluster import free_port

ROOT = Path(__file__).parents[2]


def executed(file: Path, statement: str) -> sqlite3.Connection:
    store = sqlite3.connect(file, isolation_level=None)
    store.execute(statement)
    return store


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture
def store(database, tmp_path, monkeypatch):
    """A copy of the store that the commands would use."""
    file = Path(shutil.copy(database, tmp_path / "mlflow.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}?timeout=0.1")
    runs.client.cache_clear()
    runs.experiment.cache_clear()
    yield file
    runs.client.cache_clear()
    runs.experiment.cache_clear()


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        pytest.param(lambda file: executed(file, "UPDATE alembic_version SET version_num = 'ffffffffffff'"),
                     "another MLflow (schema ffffffffffff): if by an older one, back it up and run mlflow", id="schema"),
        pytest.param(lambda file: executed(file, "DELETE FROM alembic_version"), "mlflow db upgrade", id="no-schema"),
        pytest.param(lambda file: executed(file, "BEGIN EXCLUSIVE"), "is locked by another process; wait for it", id="locked"),
        pytest.param(cut, "is damaged; restore a backup", id="cut-off"),
        pytest.param(lambda file: file.write_bytes(b"no database" * 99), "is damaged; restore a backup", id="no-database"),
        pytest.param(lambda file: executed(file, "DROP TABLE experiments"), "is not whole, experiments", id="table-missing"),
    ],
)  # fmt: skip
def test_a_database_that_cannot_be_used_is_one_line_with_the_way_out(store, change, remedy):
    held = change(store)
    with pytest.raises(PipelineError) as error:
        runs.experiment()
    assert remedy in str(error.value)
    assert str(store) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 700
    if isinstance(held, sqlite3.Connection):
        held.close()


def test_a_lock_that_comes_later_is_one_line_too(store):
    experiment = runs.experiment()
    held = executed(store, "BEGIN EXCLUSIVE")
    with pytest.raises(PipelineError, match="is locked by another process"):
        runs.client().create_run(experiment)
    held.close()
    assert runs.client().create_run(experiment).info.status == "RUNNING"


def test_a_deleted_experiment_is_refused_with_the_command_that_brings_it_back(store):
    client = runs.client()
    made = runs.experiment()
    client.delete_experiment(made)
    runs.experiment.cache_clear()
    with pytest.raises(PipelineError, match=f"align was deleted.* mlflow experiments restore -x {made}$"):
        runs.experiment()
    client.restore_experiment(made)
    assert runs.experiment() == made


def test_a_server_that_is_away_is_explained_and_other_errors_are_not(monkeypatch):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:secret@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    runs.client.cache_clear()
    with pytest.raises(Exception) as error:  # noqa: PT011 what is raised is MLflow's affair
        runs.client().search_experiments()
    runs.client.cache_clear()
    line = trouble.explained(error.value)
    assert line.startswith(f"MLflow's server http://127.0.0.1:{port} does not answer")
    assert "secret" not in line
    assert trouble.explained(ValueError("database is locked")) is None


@pytest.mark.parametrize("content", ["", '{"a.txt": {"write', "[]", "\0"])
def test_a_list_of_files_in_use_that_was_cut_off_is_named_with_what_to_do(tmp_path, content):
    held = tmp_path / ".dvc" / "tmp" / "rwlock"
    held.parent.mkdir(parents=True)
    held.write_text('{"a.txt": {}}')
    trouble.check_checkout(tmp_path)
    held.write_text(content)
    with pytest.raises(PipelineError, match=r"was cut off.* rm '"):
        trouble.check_checkout(tmp_path)
    assert held.read_text() == content


def test_a_checkout_of_another_user_is_named_with_what_to_do(tmp_path, monkeypatch):
    trouble.check_checkout(tmp_path)  # no repository at all is lineage's affair
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    trouble.check_checkout(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(PipelineError, match=r"belongs to another user.*git config --global --add safe.directory"):
        trouble.check_checkout(tmp_path)


@pytest.mark.parametrize(
    "statement", ["UPDATE alembic_version SET version_num = 'ffffffffffff'", "DROP TABLE experiments"]
)
def test_a_command_ends_with_one_line(store, tmp_path, statement):
    executed(store, statement).close()
    for name in ("dvc.yaml", "params.yaml", "flows", "mlflow", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "saferflow", "compare", "v1", "v2"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: the database sqlite:///")
