"""A registered version in MLflow's own ways, in an environment of what it names and without the checkout."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import Distribution, distribution
from pathlib import Path

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from mlflow import MlflowClient
from saferflow.commands.profiles import complete
from saferflow.params import load_params, read_values
from saferflow.release import logged_model, registry
from saferflow.release.weights import folder_digest
from saferflow.tracking import dvc_remote, runs
from saferflow.tracking.dvc_remote import dvc_address
from saferflow.training.chat import load
from tests.flows.cluster import free_port

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
AT_ONCE = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/saferflow@champion")

def completion(question):
    return model.predict(pandas.DataFrame({"question": [question]})).to_dict("records")[0]["completion"]

questions = json.loads(sys.argv[2])
with ThreadPoolExecutor(4) as callers:
    print(json.dumps([list(map(completion, questions)), list(callers.map(completion, questions))]))
"""
EVALUATE = """
import json, sys
import mlflow, pandas
from mlflow.genai.scorers import scorer

mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("align")
questions = json.loads(sys.argv[2])
length = mlflow.models.make_metric(
    eval_fn=lambda predictions, targets: float(sum(map(len, predictions))), greater_is_better=True, name="length"
)
figures = mlflow.models.evaluate(
    "models:/saferflow@champion", pandas.DataFrame({"question": questions, "expected": ["refuse", "answer"]}),
    targets="expected", predictions="completion", extra_metrics=[length],
).metrics
model = mlflow.pyfunc.load_model("models:/saferflow@champion")

@scorer
def length(outputs):
    return len(outputs["completion"])

rows = mlflow.genai.evaluate(
    data=[{"inputs": {"question": question}} for question in questions], scorers=[length],
    predict_fn=lambda question: model.predict(pandas.DataFrame({"question": [question]})).to_dict("records")[0],
)
mlflow.flush_trace_async_logging()
spans = [[span.name for span in trace.data.spans][1:] for trace in mlflow.search_traces(return_type="list")]
print(json.dumps([figures["length"], rows.metrics["length/mean"], spans]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the micro profile's params and a base policy, made by its stage and not trained to speak of."""
    root = tmp_path_factory.mktemp("project")
    raw = read_values(ROOT / "profiles" / "micro.yaml")
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
def store(project, database, tmp_path_factory):
    """The address of a store whose registry has the policy as champion."""
    return registered(project, project / "models" / "base", tmp_path_factory.mktemp("store"), database)


def registered(root: Path, weights: Path, folder: Path, database: Path) -> str:
    """A store in the folder with a champion, whose weights are an artifact; gives its address."""
    shutil.copy(database, folder / "mlflow.db")
    client = MlflowClient(address := f"sqlite:///{folder}/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = begun(client, folder, patch)
        client.log_artifacts(run, str(weights), "model")
        source, digest = f"runs:/{run}/model", folder_digest(weights)
        registry.ensure_model("saferflow")
        logged = logged_model.log(root, "saferflow", run, source, digest)
        version = registry.register("saferflow", source, run, {registry.MODEL_DIGEST: digest}, logged)
        registry.promote(version, "the first", None)
        assert registry.by_alias("saferflow", registry.CHAMPION).source == source
    return address


def begun(client: MlflowClient, folder: Path, patch: pytest.MonkeyPatch) -> str:
    """A run in a store that the modules use while the patch holds."""
    experiment = client.create_experiment("align", artifact_location=(folder / "runs").as_uri())
    for module in (runs, registry, logged_model):
        patch.setattr(module, "client", lambda: client)
    patch.setattr(logged_model, "experiment", lambda: experiment)
    return client.create_run(experiment).info.run_id


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
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in chosen:
            continue
        chosen[key] = distribution(requirement.name)
        brought = [Requirement(line) for line in chosen[key].requires or ()]
        extras = ("", *requirement.extras)
        wanted += [one for one in brought if not one.marker or any(one.marker.evaluate({"extra": e}) for e in extras)]
    return list(chosen.values())


def environ(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    settings = {
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    return own | settings | more


def run(python, folder, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(python), "-I", *command],
        cwd=folder,
        env=environ(),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def predict(python, folder, store: str, model: str, columns: dict) -> tuple[str, list[dict]]:
    done = run(python, folder, "-c", PREDICT, store, model, json.dumps(columns))
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
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


def test_a_logged_model_names_what_it_needs_and_holds_neither_weights_nor_pickle(database, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "params.yaml").write_text(complete(ROOT / "profiles" / "micro.yaml"), encoding="utf-8")
    client = MlflowClient(registered(tmp_path, weights, tmp_path, database))
    version = client.get_model_version_by_alias("saferflow", "champion")
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    folder = Path(logged.artifact_location.removeprefix("file://"))
    model = yaml.safe_load((folder / "MLmodel").read_text())
    assert [column["name"] for column in json.loads(model["signature"]["inputs"])] == ["question", "image"]
    assert json.loads((folder / "input_example.json").read_text())["data"] == [[logged_model.QUESTION]]
    assert model["flavors"]["python_function"]["code"] == "code"
    assert (folder / "code" / "saferflow" / "training" / "chat.py").exists()
    assert not (folder / "code" / "saferflow" / "cli").exists()  # loading needs none of it
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".safetensors")]
    address = json.loads((folder / "artifacts" / "version" / "version.json").read_text())
    assert address["md5"] == folder_digest(weights)
    assert (folder / "requirements.txt").read_text().split() == logged_model.requirements()
    assert [output.model_id for output in client.get_run(version.run_id).outputs.model_outputs] == [logged.model_id]


def test_the_configuration_of_dvc_goes_along_without_its_secrets(tmp_path, monkeypatch):
    monkeypatch.setattr(dvc_remote, "cache_of", lambda root: root / "cache")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "[core]\n    remote = disk\n['remote \"disk\"']\n    url = ../../remote\n"
        "['remote \"bucket\"']\n    url = s3://bucket/dvc\n    endpointurl = http://minio:9000\n    secret_access_key = hush\n"
    )
    (tmp_path / ".dvc" / "config.local").write_text("['remote \"bucket\"']\n    access_key_id = hush\n")
    (tmp_path / "model").mkdir()
    dvc_remote.write_config(tmp_path, tmp_path / "model")
    written = (tmp_path / "model" / ".dvc" / "config").read_text()
    assert "remote = disk" in written
    assert f"url = {tmp_path.parent}/remote" in written
    assert "endpointurl = http://minio:9000" in written
    assert "hush" not in written
    assert dvc_remote.cache_named(tmp_path / "model") == tmp_path / "cache"


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


@pytest.mark.slow
def test_weights_that_dvc_keeps_are_fetched_from_its_remote_where_the_cache_is_not(
    python, project, spoken, tmp_path, monkeypatch
):
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(project / "models" / "base", checkout / "model")
    shutil.copy(project / "params.yaml", checkout)
    for command in (
        ["init", "-q", "--no-scm"],
        ["remote", "add", "-d", "disk", "../remote"],
        ["add", "model"],
        ["push"],
    ):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=checkout, check=True, capture_output=True)
    client = MlflowClient(store := f"sqlite:///{tmp_path}/mlflow.db")
    run_id, digest = begun(client, tmp_path, monkeypatch), folder_digest(checkout / "model")
    logged = logged_model.log(checkout, "saferflow", run_id, dvc_address(digest, "models/grpo"), digest)
    checkout.rename(tmp_path / "gone")
    _, rows = predict(python, elsewhere, store, f"models:/{logged}", {"question": QUESTIONS[:1]})
    assert [row["completion"] for row in rows] == spoken[:1]


@pytest.mark.slow
def test_callers_at_once_get_what_each_gets_alone(python, store, tmp_path):
    done = run(python, tmp_path, "-c", AT_ONCE, store, json.dumps(QUESTIONS * 4))
    assert done.returncode == 0, done.stderr[-3000:]
    alone, at_once = json.loads(done.stdout.splitlines()[-1])
    assert at_once == alone


@pytest.mark.slow
def test_mlflow_evaluates_the_champion_with_a_trace_per_row(python, store, project, tmp_path):
    speaker = load(project / "models" / "base", load_params(project / "params.yaml"))
    lengths = [len(speaker.reply(None, question).completion) for question in QUESTIONS]
    done = run(python, tmp_path, "-c", EVALUATE, store, json.dumps(QUESTIONS))
    assert done.returncode == 0, done.stderr[-3000:]
    total, mean, spans = json.loads(done.stdout.splitlines()[-1])
    assert (total, mean) == (sum(lengths), sum(lengths) / 2)
    assert spans == [["answer", "plan", "generate", "check"]] * 2


@pytest.mark.slow
def test_mlflow_serves_the_champion(python, store, spoken, tmp_path):
    port = free_port()
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
        limit = time.monotonic() + 240
        while True:
            try:
                reply = httpx.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=60)
                break
            except httpx.TransportError:
                assert time.monotonic() < limit, log.read_text()[-3000:]
                assert server.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        assert reply.status_code == 200, reply.text
        [row] = reply.json()["predictions"]
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert row["completion"] == spoken[0]
