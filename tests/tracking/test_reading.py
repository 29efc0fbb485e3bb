"""Reads that do not import MLflow give what MLflow's client gives: the same runs, figures, parameters, tags, aliases."""

import math
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.entities import Metric, Param, RunTag

from mlflow import MlflowClient
from saferflow.tracking import environment
from saferflow.tracking.reading import Reading
from saferflow.tracking.sql_reader import REVISION
from tests.flows import cluster

MODEL = "it is a policy"
OTHER = "another"


def fill(client: MlflowClient, artifacts: Path) -> None:
    """Two experiments, runs of every kind among them, and two registered models."""
    experiment = client.create_experiment("align", artifact_location=artifacts.as_uri())
    gone = client.create_experiment("gone")
    client.delete_experiment(gone)
    parent = client.create_run(experiment, start_time=10, run_name="align", tags={"saferflow.git.commit": "a1b2c3d4e5"})
    for number in range(6):
        tags = {
            "mlflow.parentRunId": parent.info.run_id,
            "saferflow.git.commit": "a1b2c3ffff" if number % 2 else "b1b2c3ffff",
            "saferflow.cached": str(number % 3 == 0).lower(),
            "saferflow.dep.data/tables": 'é "quoted" it\'s',
            "empty": "",
        }
        run = client.create_run(
            experiment, start_time=20 - number // 2, run_name=f"stage {number}", tags=tags
        ).info.run_id
        client.log_batch(
            run,
            metrics=[Metric("loss", value, 5, step) for step, value in enumerate((0.5, 1 / 3, number))]
            + [Metric("broken", math.nan, 5, 0), Metric("unbounded", math.inf, 5, 0), Metric("zero", 0.0, 5, 0)],
            params=[Param("grpo.kl", "0.05"), Param(f"only.{number}", "x" * 500)],
            tags=[RunTag("later", "said")],
        )
        if number != 2:
            client.set_terminated(run, "FAILED" if number == 3 else "FINISHED")
        if number == 4:
            client.delete_run(run)
    client.log_text(parent.info.run_id, "what was said", "folder/said.txt")
    client.create_registered_model(MODEL, tags={"saferflow.ledger.000001": "{}"})
    client.create_registered_model(OTHER)
    for number in range(1, 5):
        tags = {"saferflow.model.md5": "same" if number < 3 else str(number), "é": "é"}
        client.create_model_version(
            MODEL, f"runs:/{parent.info.run_id}/m", parent.info.run_id, tags, await_creation_for=0
        )
    client.create_model_version(OTHER, "file:///weights", tags={"saferflow.model.md5": "same"}, await_creation_for=0)
    client.set_model_version_tag(MODEL, "1", "touched", "last")
    client.delete_model_version(MODEL, "4")
    client.set_registered_model_alias(MODEL, "champion", "1")
    client.set_registered_model_alias(MODEL, "candidate", "3")
    client.set_registered_model_alias(OTHER, "champion", "1")


def reads(client, folder: Path) -> dict:
    """Everything that the commands read, as plain values."""
    experiment = client.get_experiment_by_name("align").experiment_id
    newest, oldest = ["attributes.start_time DESC"], ["attributes.start_time ASC"]
    found = {
        "deleted": client.get_experiment_by_name("gone").lifecycle_stage,
        "no model": client.search_registered_models("name = 'nobody'", max_results=1),
        "no version": client.search_model_versions("name = 'nobody'"),
    }
    searches = {
        "by commit": ("tags.`saferflow.git.commit` LIKE 'a1b2c3%'", {"order_by": newest, "max_results": 200}),
        "newest": ("tags.`saferflow.cached` = 'false' and attributes.status = 'FINISHED'", {"max_results": 1}),
        "two tags": ("tags.`saferflow.cached` = 'false' and tags.`later` = 'said'", {"order_by": oldest}),
        "at work": ("tags.`later` = 'said' and attributes.status = 'RUNNING'", {}),
        "nothing": ("tags.`later` = 'never'", {}),
    }
    [parent] = [
        run.info.run_id for run in client.search_runs([experiment], "tags.`saferflow.git.commit` = 'a1b2c3d4e5'")
    ]
    searches["children"] = (f"tags.`mlflow.parentRunId` = '{parent}'", {"order_by": oldest})
    for name, (words, options) in searches.items():
        found[name] = [_plain(run) for run in client.search_runs([experiment], words, **options)]
    found["run"] = _plain(client.get_run(parent))
    child = found["children"][0]["id"]
    history = client.get_metric_history(child, "loss")
    found["curve"] = sorted((point.step, point.value) for point in history)
    for model in (MODEL, OTHER):
        [held] = client.search_registered_models(f"name = '{model}'", max_results=1)
        for name, told in (("searched", held), ("asked", client.get_registered_model(model))):
            found[model, name] = (dict(told.tags), {alias: str(number) for alias, number in told.aliases.items()})
        found[model, "versions"] = [_version(one) for one in client.search_model_versions(f"name = '{model}'")]
        same = f"name = '{model}' and tag.`saferflow.model.md5` = 'same'"
        found[model, "same"] = [_version(one) for one in client.search_model_versions(same, max_results=1)]
        found[model, "first"] = _version(client.get_model_version(model, "1"))
    found["artifact"] = Path(client.download_artifacts(parent, "folder/said.txt", str(folder))).read_text()
    found["folder"] = sorted(
        path.name for path in Path(client.download_artifacts(parent, "folder", str(folder))).iterdir()
    )
    found["none"] = client.get_experiment_by_name("nobody's")  # last: a server's fault is left to MLflow's client
    return found


def _plain(run) -> dict:
    metrics = {name: "nan" if math.isnan(value) else value for name, value in run.data.metrics.items()}
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "metrics": metrics,
        "params": dict(run.data.params),
        "tags": dict(run.data.tags),
    }


def _version(one) -> dict:
    return {
        "version": str(one.version),
        "source": one.source,
        "run": one.run_id or "",
        "made": one.creation_timestamp,
        "tags": dict(one.tags),
    }


def never() -> MlflowClient:
    raise AssertionError("MLflow's own client was asked")


class OnlyAtLast:
    """MLflow's client, which may be asked for an experiment that is not there, and for nothing else."""

    def __init__(self, client: MlflowClient):
        self.get_experiment_by_name = client.get_experiment_by_name


@pytest.fixture(scope="module")
def file(database, tmp_path_factory) -> Path:
    """A filled store in SQLite."""
    folder = tmp_path_factory.mktemp("filled store")
    copied = Path(shutil.copy(database, folder / "mlflow.db"))
    fill(MlflowClient(f"sqlite:///{copied}"), folder / "artifacts")
    return copied


def test_sqlite_is_read_as_mlflow_reads_it(file, tmp_path, monkeypatch):
    address = f"sqlite:///{file}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    expected = reads(MlflowClient(address), tmp_path / "theirs")
    assert reads(Reading(never), tmp_path / "ours") == expected


def test_the_schema_that_is_read_is_the_one_that_this_mlflow_writes(database):
    """Another MLflow in constraints.txt: look at its tables, then set REVISION."""
    with closing(sqlite3.connect(database)) as store:
        assert store.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISION,)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("UPDATE alembic_version SET version_num = 'ffffffffffff'", id="another-schema"),
        pytest.param("UPDATE registered_models SET workspace = 'other' WHERE name = 'another'", id="a-workspace"),
        pytest.param("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO nan", id="a-column-less"),
    ],
)
def test_a_store_that_is_another_is_left_to_mlflow(file, tmp_path, monkeypatch, change):
    copied = shutil.copy(file, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(copied)) as store, store:
        [(run,)] = store.execute("SELECT run_uuid FROM runs WHERE start_time = 10")
        store.execute("PRAGMA foreign_keys = OFF")
        store.execute(change)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copied}")
    with pytest.raises(AssertionError, match="MLflow's own client was asked"):
        Reading(never).get_run(run)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.search_runs(["1"], "params.a = 'b'"), id="another-filter"),
        pytest.param(lambda client: client.search_runs(["1"], "tags.`a` LIKE '%b%'"), id="another-pattern"),
        pytest.param(
            lambda client: client.search_runs(["1"], "tags.`a` = 'b and c'"), id="a-value-that-looks-like-two"
        ),
        pytest.param(lambda client: client.search_runs(["1", "2"], "tags.`a` = 'b'"), id="two-experiments"),
        pytest.param(lambda client: client.search_runs(["1"], "tags.`a` = 'b'", page_token=None), id="page-by-page"),
        pytest.param(
            lambda client: client.search_runs(["1"], "tags.`a` = 'b'", order_by=["metrics.a"]), id="another-order"
        ),
        pytest.param(lambda client: client.search_model_versions("run_id = 'a'"), id="versions-of-a-run"),
        pytest.param(lambda client: client.get_run("0" * 32), id="a-run-that-is-not-there"),
        pytest.param(lambda client: client.set_tag("0" * 32, "a", "b"), id="a-write"),
    ],
)
def test_what_is_not_surely_read_as_mlflow_does_is_left_to_it(file, monkeypatch, call):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    with pytest.raises(AssertionError, match="MLflow's own client was asked"):
        call(Reading(never))


def test_an_artifact_that_a_folder_does_not_hold_needs_no_mlflow(file, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    reading = Reading(never)
    [run] = reading.search_runs(["1"], "tags.`saferflow.git.commit` = 'a1b2c3d4e5'")
    with pytest.raises(FileNotFoundError):
        reading.download_artifacts(run.info.run_id, "nothing.txt", str(tmp_path))


def test_reading_imports_neither_mlflow_nor_dvc(file):
    script = (
        "import sys; from saferflow.release import registry; from saferflow.tracking import graph, runs\n"
        f"assert registry.by_alias({MODEL!r}, 'champion').number == 1\n"
        "assert runs.producer('nobody') is None\n"
        "assert not {'mlflow', 'dvc', 'sqlalchemy'} & set(sys.modules), 'imported'"
    )
    environ = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{file}"}
    subprocess.run([sys.executable, "-c", script], env=environ, check=True)


@pytest.mark.slow
@pytest.mark.skipif(cluster.postgres_programs() is None, reason="PostgreSQL is not installed")
def test_postgresql_is_read_as_mlflow_reads_it(tmp_path, monkeypatch):
    pytest.importorskip("psycopg")
    with cluster.postgres(tmp_path) as server:
        address = f"postgresql+psycopg://{server}/mlflow"
        fill(MlflowClient(address), tmp_path / "artifacts")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        expected = reads(MlflowClient(address), tmp_path / "theirs")
        assert reads(Reading(never), tmp_path / "ours") == expected


@pytest.mark.slow
def test_a_server_is_read_as_mlflow_reads_it(database, tmp_path, monkeypatch):
    """Its artifacts come by way of the server, and so do those of an experiment in a folder of this machine."""
    store = shutil.copy(database, tmp_path / "mlflow.db")
    fill(MlflowClient(f"sqlite:///{store}"), tmp_path / "artifacts")
    address = f"http://127.0.0.1:{cluster.free_port()}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--workers", "1",
        "--backend-store-uri", f"sqlite:///{store}", "--artifacts-destination", str(tmp_path / "served"),
    ]  # fmt: skip
    environ = {**os.environ, **environment.TELEMETRY_OFF}
    with cluster.started("mlflow", command, f"{address}/health", environ, tmp_path):
        client = MlflowClient(address)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        expected = reads(client, tmp_path / "theirs")
        assert reads(Reading(lambda: OnlyAtLast(client)), tmp_path / "ours") == expected
        run = client.create_run(client.create_experiment("served")).info.run_id
        client.log_text(run, "what was served", "folder/served.txt")
        copied = Reading(never).download_artifacts(run, "folder/served.txt", str(tmp_path / "copied"))
        assert Path(copied).read_text() == "what was served"
        with pytest.raises(AssertionError, match="MLflow's own client was asked"):
            Reading(never).get_experiment_by_name("nobody's")
