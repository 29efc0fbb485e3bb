"""Experiments with values of one's own: beside the checkout, compared, found again, and in a queue that keeps their order."""

import os
import subprocess
import sys
import time

import pytest

from saferflow.errors import ParamsError
from saferflow.evaluation.ablation import custom
from saferflow.params import load_params

from .cluster import end
from .conftest import ROOT

PARAMS = load_params(ROOT / "params.yaml")


def python(project, *command: str, **environ: str) -> tuple[int, str]:
    process = subprocess.run(
        [sys.executable, *command], cwd=project.root, env=project.environ(**environ), check=False, timeout=280,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return process.returncode, process.stdout


def experiments(project) -> list:
    """The runs of experiments, the oldest first."""
    found = project.mlflow().search_runs(["1"], order_by=["attributes.start_time ASC"])
    return [run for run in found if "saferflow.experiment" in run.data.tags]


def test_values_are_read_as_yaml_and_held_against_the_params():
    one = custom(PARAMS, ["grpo.kl=0.05", "dpo=null", "grpo.rewards={protocol: 1.0}"])
    assert one.changes == {"grpo.kl": 0.05, "dpo": None, "grpo.rewards": {"protocol": 1.0}}
    assert one.what == "grpo.kl=0.05, dpo=null, grpo.rewards={protocol: 1.0}"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("grpo.kll=1", "names like it: grpo.kl"),
        ("grpo.kl", "is no parameter and value"),
        ("nothing.at.all=1", "is no parameter and value"),
        ("grpo.kl=much", "grpo.kl: Input should be a valid number"),
        ("grpo.kl=[", "is no value of YAML"),
    ],
)
def test_what_is_no_parameter_or_no_value_is_told(setting, told):
    with pytest.raises(ParamsError, match=told):
        custom(PARAMS, [setting])


@pytest.mark.parametrize("command", ["queue", "init"])
def test_a_server_that_does_not_answer_is_named_with_the_way_out(command, tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PREFECT_API_URL": "http://127.0.0.1:9/api", "COLUMNS": "400"}
    for name in ("params.yaml", "dvc.yaml", "mlflow", "flows"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-m", "saferflow", command], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: Prefect's server at http://127.0.0.1:9/api" in done.stderr
    assert "unset PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_an_experiment_leaves_the_checkout_and_is_compared_and_found_by_its_name(project):
    before = {name: (project.root / name).read_bytes() for name in ("params.yaml", "dvc.lock")}
    status, output = python(project, "-m", "saferflow", "run", "--set", "grpo.learning_rate=0.0005")
    assert status == 0, output
    assert "grpo.learning_rate=0.0005" in output
    assert {name: (project.root / name).read_bytes() for name in before} == before
    [run] = experiments(project)
    name = run.data.tags["saferflow.experiment"]
    assert run.data.params == {"grpo.learning_rate": "0.0005"}
    [version] = project.mlflow().search_model_versions()
    assert run.data.tags["saferflow.seed"] == version.tags["saferflow.seed"]
    assert run.data.tags["saferflow.recipe"] != version.tags["saferflow.recipe"]
    status, output = python(project, "-m", "saferflow", "compare", "champion", name)
    assert status == 0, output
    assert "grpo.learning_rate" in output
    assert "models/grpo" in output
    assert "safety" in output
    branched = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "branch", name, "better"], cwd=project.root, env=project.environ(), check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert branched.returncode == 0, branched.stderr


@pytest.mark.slow
def test_queued_experiments_run_one_after_the_other_in_their_order(project):
    (project.root / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    place = {"PWD": str(project.root), "PREFECT_HOME": str(project.root / ".saferflow" / "prefect")}
    status, output = python(project, "-m", "saferflow", "init", **place)
    assert status == 0, output
    values = [0.03, 0.04, 0.05]
    for value in values:
        status, output = python(project, "-m", "saferflow", "run", "--set", f"grpo.kl={value}", "--queue", **place)
        assert status == 0, output
        assert "ordered: grpo.kl=" in output
    status, told = python(project, "-m", "saferflow", "queue", **place)
    assert status == 0, told
    places = [told.index(f"experiment grpo.kl={value}") for value in values]
    assert places == sorted(places)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "pipelines", "--limit", "1"]
    with (project.root / ".saferflow" / "worker.log").open("w") as log:
        environ = project.environ(**place, PREFECT_WORKER_QUERY_SECONDS="2")
        worker = subprocess.Popen(
            command, cwd=project.root, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        limit = time.monotonic() + 200
        while len([run for run in experiments(project) if run.info.status == "FINISHED"]) < len(values):
            assert time.monotonic() < limit, (project.root / ".saferflow" / "worker.log").read_text()[-3000:]
            time.sleep(1)
    finally:
        end(worker)
    found = experiments(project)
    assert [float(run.data.params["grpo.kl"]) for run in found] == values
    assert {run.info.status for run in found} == {"FINISHED"}
    assert all("safety" in run.data.metrics for run in found)
    limit = time.monotonic() + 120  # the server plans ahead once a minute
    while " retrain " not in (told := python(project, "-m", "saferflow", "queue", **place)[1]):
        assert time.monotonic() < limit, told
        time.sleep(5)
    assert told.count(" retrain ") == 1, "the next by the clock, and none of those after it"
