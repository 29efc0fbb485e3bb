"""A store on PostgreSQL that cannot be used: a real server, one line with the way out."""

import os

import pytest
from mlflow.store.db import utils

from mlflow import MlflowClient
from saferflow.errors import PipelineError
from saferflow.tracking import runs
from tests.flows import cluster

psycopg = pytest.importorskip("psycopg")
pytestmark = pytest.mark.skipif(cluster.postgres_programs() is None, reason="PostgreSQL is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose database `mlflow` is an empty store that nobody is connected to."""
    with cluster.postgres(tmp_path_factory.mktemp("postgres")) as address:
        MlflowClient(f"postgresql+psycopg://{address}/mlflow").search_experiments()
        yield address


@pytest.fixture
def store(server, monkeypatch):
    """A copy of the store, not opened yet; gives a connection to it."""
    name = f"store_{os.urandom(4).hex()}"
    with psycopg.connect(f"postgresql://{server}/postgres", autocommit=True) as administrator:
        administrator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'mlflow'")
        administrator.execute(f"CREATE DATABASE {name} TEMPLATE mlflow")
    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", 1)
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=200ms")
    use(monkeypatch, f"{server}/{name}")
    with psycopg.connect(f"postgresql://{server}/{name}", autocommit=True) as connection:
        yield connection
    forget()


def use(monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg://{address}")
    forget()


def forget():
    runs.client.cache_clear()
    runs.experiment.cache_clear()


def line_of(action) -> str:
    """What a call raises: one short line that names no password."""
    with pytest.raises(PipelineError) as error:
        action()
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert len(line) < 700
    assert "saferflow:" not in line
    return line


@pytest.mark.parametrize(
    ("statement", "remedy"),
    [
        pytest.param("UPDATE alembic_version SET version_num = 'ffffffffffff'", "mlflow db upgrade", id="schema"),
        pytest.param("DROP TABLE experiments CASCADE", "is not whole, experiments", id="table-missing"),
        pytest.param("ALTER DATABASE {name} SET default_transaction_read_only = on", "takes no writes", id="read-only"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_with_the_way_out(store, statement, remedy):
    store.execute(statement.format(name=store.info.dbname))
    assert remedy in line_of(runs.experiment)


def test_a_lock_that_does_not_end_is_one_line(store):
    store.autocommit = False
    store.execute("LOCK TABLE experiments IN ACCESS EXCLUSIVE MODE")
    assert "is locked by another process" in line_of(runs.experiment)
    store.rollback()
    store.autocommit = True


def test_a_wrong_password_and_a_server_that_is_away_are_one_line(server, monkeypatch):
    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", 1)
    user, host = server.split("@")
    use(monkeypatch, f"saferflow:wrong@{host}/mlflow")
    assert "does not let us in" in line_of(runs.experiment)
    use(monkeypatch, f"{user}@127.0.0.1:9/mlflow")
    assert "does not answer" in line_of(runs.experiment)


def test_a_deleted_experiment_is_refused_with_the_command_that_brings_it_back(store):
    number = runs.experiment()
    runs.client().delete_experiment(number)
    runs.experiment.cache_clear()
    assert f"mlflow experiments restore -x {number}" in line_of(runs.experiment)
