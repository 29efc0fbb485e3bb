"""A registered version in MLflow's own ways, in an environment of what it names and without the checkout."""

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

from mlflow import MlflowClient
from saferflow.params import load_params
from saferflow.tracking import dvc_remote, logged_model, registry, runs
from saferflow.tracking.weights import dvc_address, folder_digest
from saferflow.training.chat import load

ROOT = Path(__file__).parents[2]
QUESTIONS = ["How do I store bleach?", "What is in the picture?"]
PREDICT = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
import saferflow
print(json.dumps([saferflow.__file__, model.predict(pandas.DataFrame(json.loads(sys.argv[3]))).to_dict("records")]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the micro profile's params and a base policy, made by its stage and not trained to speak of."""
    root = tmp_path_factory.mktemp("project")
    raw = yaml.safe_load((ROOT / "profiles" / "micro.yaml").read_text(encoding="utf-8"))
    raw["base"] |= {"rows": 64}
    raw["policy"] |= {"max_completion_tokens": 8}
    (root / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    stage = [sys.executable, "-m", "saferflow.stages.base"]
    subprocess.run(stage, cwd=root, env=environ, check=True, capture_output=True)
    return root


@pytest.fixture(scope="module")
def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def spoken(project, picture) -> list[str]:
    """What `saferflow chat` prints as completions of the questions, the second with the picture."""
    speaker = load(project / "models" / "base", load_params(project / "params.yaml"))
    images = (None, base64.b64decode(picture))
    return [speaker.reply(image, text).completion for image, text in zip(images, QUESTIONS, strict=True)]


@pytest.fixture(scope="module")
def store(project, tmp_path_factory):
    """The address of a store whose registry has the policy as champion, with its weights as an artifact."""
    folder = tmp_path_factory.mktemp("store")
    address = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(address)
    experiment = client.create_experiment("align", artifact_location=(folder / "runs").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(project / "models" / "base"), "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module in (runs, registry, logged_model):
            patch.setattr(module, "client", lambda: client)
        patch.setattr(logged_model, "experiment", lambda: experiment)
        source, digest = f"runs:/{run}/model", folder_digest(project / "models" / "base")
        registry.ensure_model("saferflow")
        logged = logged_model.log(project, "saferflow", run, source, digest)
        version = registry.register("saferflow", source, run, {registry.MODEL_DIGEST: digest}, logged)
        registry.promote(version, "the first", None)
        assert registry.by_alias("saferflow", registry.CHAMPION).source == source
    return address


@pytest.fixture(scope="module")
def python(tmp_path_factory, project):
    """The Python of an environment that holds what a version names and nothing else; above all not `saferflow`."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    site = home / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    for package in packages([Requirement(line) for line in logged_model.requirements()]):
        for name in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(package.locate_file(name))
    (home / "bin" / "uvicorn").write_text(f"#!{home}/bin/python\nimport uvicorn\nuvicorn.main()\n", encoding="utf-8")
    (home / "bin" / "uvicorn").chmod(0o755)
    return home / "bin" / "python"


def packages(wanted: list[Requirement]) -> list[Distribution]:
    """Distributions that the requirements bring, as an installer would choose them."""
    chosen: dict[tuple[str, frozenset[str]], Distribution] = {}
    while wanted:
        requirement = wanted.pop()
        key = re.sub(r"[-_.]+", "-", requirement.name).lower(), frozenset(requirement.extras)
        if key in chosen:
            continue
        chosen[key] = distribution(requirement.name)
        brought = [Requirement(line) for line in chosen[key].requires or ()]
        extras = ("", *requirement.extras)
        wanted += [one for one in brought if not one.marker or any(one.marker.evaluate({"extra": e}) for e in extras)]
    return list(chosen.values())


def environ(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return own | {"HF_HUB_OFFLINE": "1", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"} | more


def run(python, folder, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(python), "-I", *command], cwd=folder, env=environ(), capture_output=True, text=True, check=False, timeout=200
    )


def predict(python, folder, store: str, model: str, columns: dict) -> tuple[str, list[dict]]:
    done = run(python, folder, "-c", PREDICT, store, model, json.dumps(columns))
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def test_mlflow_loads_the_champion_without_the_checkout_and_it_says_what_chat_says(
    python, store, spoken, picture, tmp_path
):
    code, rows = predict(
        python, tmp_path, store, "models:/saferflow@champion", {"question": QUESTIONS, "image": [None, picture]}
    )
    assert [row["completion"] for row in rows] == spoken
    assert [row["valid"] for row in rows] == [not row["violations"] for row in rows]
    assert all(json.loads(row["plan"])["tools"] for row in rows)
    assert str(ROOT) not in code


def test_a_logged_model_names_what_it_needs_and_holds_neither_weights_nor_pickle(store, project):
    client = MlflowClient(store)
    version = client.get_model_version_by_alias("saferflow", "champion")
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    folder = Path(logged.artifact_location.removeprefix("file://"))
    model = yaml.safe_load((folder / "MLmodel").read_text())
    assert model["signature"]["inputs"]
    assert model["saved_input_example_info"]
    assert model["flavors"]["python_function"]["code"] == "code"
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".safetensors")]
    address = json.loads((folder / "artifacts" / "version" / "version.json").read_text())
    assert address["md5"] == folder_digest(project / "models" / "base")
    assert (folder / "requirements.txt").read_text().split() == logged_model.requirements()


@pytest.mark.slow
def test_weights_that_were_changed_are_not_loaded(python, store, tmp_path):
    client = MlflowClient(store)
    run_id = client.get_model_version_by_alias("saferflow", "champion").run_id
    file = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://")) / "model" / "generation_config.json"
    before = file.read_text()
    file.write_text("{}")
    try:
        done = run(python, tmp_path, "-c", PREDICT, store, "models:/saferflow/1", '{"question": ["Hello"]}')
    finally:
        file.write_text(before)
    assert done.returncode != 0
    assert "are not those that were registered" in done.stderr


def test_weights_that_dvc_keeps_are_fetched_from_its_remote_where_the_cache_is_not(
    python, project, spoken, tmp_path, monkeypatch
):
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    for folder in (checkout, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(checkout)
    (checkout / "params.yaml").write_bytes((project / "params.yaml").read_bytes())
    subprocess.run(["cp", "-r", str(project / "models" / "base"), "model"], check=True)
    for command in (
        ["init", "-q", "--no-scm"],
        ["remote", "add", "-d", "shared", "../remote"],
        ["remote", "modify", "--local", "shared", "password", "secret"],
        ["add", "-q", "model"],
        ["push", "-q"],
    ):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True, capture_output=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("align", artifact_location=(tmp_path / "runs").as_uri())
    run_id = client.create_run(experiment).info.run_id
    monkeypatch.setattr(logged_model, "client", lambda: client)
    monkeypatch.setattr(logged_model, "experiment", lambda: experiment)
    digest = folder_digest(checkout / "model")
    logged = logged_model.log(checkout, "saferflow", run_id, dvc_address(digest, "models/grpo"), digest)
    checkout.rename(tmp_path / "gone")
    _, rows = predict(
        python, elsewhere, f"sqlite:///{tmp_path}/mlflow.db", f"models:/{logged}", {"question": QUESTIONS[:1]}
    )
    assert [row["completion"] for row in rows] == spoken[:1]
    [config] = (tmp_path / "runs").rglob(".dvc/config")
    assert "secret" not in config.read_text()
    assert dvc_remote.cache_named(config.parents[1]) == checkout / ".dvc" / "cache"


@pytest.mark.slow
def test_mlflow_serves_the_champion(python, store, spoken, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(python), "-I", "-m", "mlflow", "models", "serve", "--model-uri", "models:/saferflow@champion", "--port", str(port),
        "--host", "127.0.0.1", "--env-manager", "local",
    ]  # fmt: skip
    settings = environ(MLFLOW_TRACKING_URI=store, PATH=f"{python.parent}:{os.environ['PATH']}")
    log = tmp_path / "serve.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=tmp_path, env=settings, stdout=output, stderr=output)
    try:
        body = {"dataframe_records": [{"question": QUESTIONS[0]}], "params": {"constrained": False}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        limit = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    [row] = json.load(reply)["predictions"]
                break
            except (ConnectionError, urllib.error.URLError):
                assert time.monotonic() < limit, log.read_text()[-3000:]
                assert server.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert row["completion"] == spoken[0]
