"""A checkout that was moved or copied, with a real MLflow store: its artifacts are those that lie in it."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service import utils

from mlflow import MlflowClient
from saferflow.tracking import environment

ROOT = Path(__file__).parents[2]


def prepared(root: Path) -> MlflowClient:
    """What every command does first, then a client of the store as the commands use it."""
    settings = {}
    environment.prepare(settings, root)
    utils._artifact_repos_cache.clear()  # MLflow keeps a run's folder while the process lives; a command is its own process
    return MlflowClient(settings["MLFLOW_TRACKING_URI"])


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory, database):
    """A checkout whose store holds a run with an artifact, and a version whose weights are a folder of the checkout."""
    root = tmp_path_factory.mktemp("original") / "the first place"
    (root / "mlflow").mkdir(parents=True)
    (root / ".saferflow").mkdir()
    shutil.copy(ROOT / "mlflow" / "server.env", root / "mlflow")
    shutil.copy(database, root / ".saferflow" / "mlflow.db")
    client = prepared(root)
    location = (root / ".saferflow" / "mlartifacts" / "align").as_uri()
    run = client.create_run(client.create_experiment("align", artifact_location=location)).info.run_id
    client.log_text(run, "passed", "gate.json")
    client.create_registered_model("saferflow")
    client.create_model_version("saferflow", f"{root.as_uri()}/models/grpo", run_id=run)
    client.create_model_version("saferflow", f"runs:/{run}/model", run_id=run)
    (root / ".saferflow" / "ledgers.json").write_text(f'{{"sqlite:///{root}/.saferflow/mlflow.db saferflow": [0, ""]}}')
    return root, run


@pytest.fixture
def checkout(original, tmp_path):
    """A checkout of the test's own, which is a copy already."""
    root, run = original
    first = Path(shutil.copytree(root, tmp_path / "first place"))
    prepared(first)
    return first, run


def test_a_moved_checkout_finds_its_artifacts_and_makes_nothing_at_the_old_place(checkout, tmp_path):
    first, run = checkout
    second = first.rename(tmp_path / "second")
    client = prepared(second)
    assert Path(client.download_artifacts(run, "gate.json")).read_text() == "passed"
    client.log_text(run, "again", "later.txt")
    experiment = client.get_experiment_by_name("align")
    later = client.create_run(experiment.experiment_id)
    client.log_text(later.info.run_id, "new", "new.txt")
    assert later.info.artifact_uri.startswith(f"{second.as_uri()}/.saferflow/mlartifacts/align/")
    assert [version.source for version in client.search_model_versions("name = 'saferflow'")] == [
        f"runs:/{run}/model",
        f"{second.as_uri()}/models/grpo",
    ]
    assert (second / ".saferflow" / "mlartifacts" / "align" / run / "artifacts" / "later.txt").exists()
    assert str(first) not in (second / ".saferflow" / "ledgers.json").read_text()
    assert not first.exists()


def test_a_copy_is_its_own_and_leaves_the_original_byte_for_byte(checkout, tmp_path):
    first, run = checkout
    before = digests(first)
    second = Path(shutil.copytree(first, tmp_path / "copy"))
    client = prepared(second)
    client.log_text(run, "failed", "gate.json")
    client.log_text(
        client.create_run(client.get_experiment_by_name("align").experiment_id).info.run_id, "new", "new.txt"
    )
    assert digests(first) == before
    assert Path(client.download_artifacts(run, "gate.json")).read_text() == "failed"
    third = Path(shutil.copytree(second, tmp_path / "copy of a copy"))
    assert Path(prepared(third).download_artifacts(run, "gate.json")).read_text() == "failed"
    shutil.rmtree(second)
    assert Path(prepared(third).download_artifacts(run, "gate.json")).read_text() == "failed"
    assert Path(prepared(first).download_artifacts(run, "gate.json")).read_text() == "passed"


def test_artifacts_that_lie_outside_stay_where_they_are(checkout, tmp_path):
    first, _ = checkout
    client = prepared(first)
    elsewhere = {
        "bucket": "s3://bucket/.saferflow/mlartifacts/align",
        "disk": (tmp_path / "disk").as_uri(),
        "beside": f"{first.as_uri()}-of-somebody/artifacts",
    }
    for name, location in elsewhere.items():
        client.create_experiment(name, artifact_location=location)
    client = prepared(first.rename(tmp_path / "second"))
    assert {name: client.get_experiment_by_name(name).artifact_location for name in elsewhere} == elsewhere


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0 and no more"])
def test_a_store_that_cannot_be_read_is_left_as_it_is(tmp_path, content):
    (tmp_path / "mlflow").mkdir()
    shutil.copy(ROOT / "mlflow" / "server.env", tmp_path / "mlflow")
    (tmp_path / ".saferflow").mkdir()
    (tmp_path / ".saferflow" / "mlflow.db").write_bytes(content)
    environment.prepare({}, tmp_path)
    assert (tmp_path / ".saferflow" / "mlflow.db").read_bytes() == content


def test_the_environment_is_prepared_without_loading_mlflow():
    """Every command prepares it, help and errors too: they must come at once."""
    code = "import sys; from saferflow.tracking import environment; print('mlflow' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True)
    assert done.stdout == "False\n"
