"""From one machine to several, as docs/cluster.md tells: two workers in clones of their own, a remote between them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from saferflow.tracking import graph

from . import cluster as servers
from .conftest import heed_interrupts, make

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(servers.postgres_programs() is None, reason="PostgreSQL is not installed"),
]
ROOT = Path(__file__).parents[2]
ON_NODES = ["sft", "grpo"]
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]


@dataclass
class Field:
    """The clones, and how to start something in one."""

    folder: Path
    cluster: servers.Cluster

    @property
    def orders(self) -> Path:
        return self.folder / "orders"

    def environ(self, where: Path, **more: str) -> dict[str, str]:
        home = str(where / ".saferflow" / "prefect")
        path = {"PYTHONPATH": str(where / "src"), "PWD": str(where), "PREFECT_HOME": home, "COLUMNS": "120"}
        return {**self.cluster.environ, **path, **more}

    def start(self, where: Path, *command: str, log: Path | None = None, **environ: str) -> subprocess.Popen:
        output = log.open("ab") if log else subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=where, env=self.environ(where, **environ),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=not log, start_new_session=True,
            preexec_fn=heed_interrupts,
        )  # fmt: skip

    def run(self, where: Path, *command: str, **environ: str) -> tuple[int, str]:
        process = self.start(where, *command, **environ)
        output, _ = process.communicate(timeout=400)
        return process.returncode, output

    def worker(self, name: str, **environ: str) -> subprocess.Popen:
        where = self.folder / name
        command = ("prefect", "worker", "start", "--pool", "gpu", "--limit", "1", "--name", name)
        return self.start(where, *command, log=self.folder / f"{name}.log", **environ)

    def calls(self, name: str) -> list[str]:
        log = self.folder / name / "calls.log"
        done = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return done

    def mlflow(self):
        from mlflow import MlflowClient

        return MlflowClient(self.cluster.mlflow)

    def change(self, old: str, new: str) -> None:
        file = self.orders / "params.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def flow_runs(self, **state: object) -> list[dict]:
        asked = {"flow_runs": {"name": {"any_": ON_NODES}, **state}, "sort": "START_TIME_DESC"}
        user, _, password = self.cluster.environ["PREFECT_API_AUTH_STRING"].partition(":")
        return httpx.post(f"{self.cluster.prefect}/flow_runs/filter", json=asked, auth=(user, password)).json()


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """The servers; a toy project in a repository, cloned for the pipeline and for two nodes; its first run."""
    folder = tmp_path_factory.mktemp("cluster")
    with servers.cluster(folder) as cluster, pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            patch.setenv(name, cluster.environ[name])
        first = make(folder / "first")
        params = yaml.safe_load((first / "params.yaml").read_text())
        params["run"]["nodes"] = {"deployment": "stage/gpu", "stages": ON_NODES, "queue": None}
        (first / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        shutil.copy(ROOT / "prefect.yaml", first)
        dvc = [sys.executable, "-m", "dvc"]
        subprocess.run([*dvc, "remote", "add", "-d", "store", "s3://dvc/project"], cwd=first, check=True)
        subprocess.run([*dvc, "remote", "modify", "store", "endpointurl", cluster.s3], cwd=first, check=True)
        subprocess.run([*GIT, "commit", "-qam", "a remote, and stages on nodes"], cwd=first, check=True)
        subprocess.run(["git", "add", "prefect.yaml"], cwd=first, check=True)
        subprocess.run([*GIT, "commit", "-qm", "deployments"], cwd=first, check=True)
        subprocess.run(["git", "clone", "-q", "--bare", first, folder / "origin.git"], check=True)
        for name in ("orders", "node-1", "node-2"):
            subprocess.run(["git", "clone", "-q", folder / "origin.git", folder / name], check=True)
        yield Field(folder, cluster)


@pytest.fixture(scope="module")
def ran(field):
    """Set up by `saferflow init`, two workers, one whole run."""
    status, output = field.run(field.orders, "saferflow", "init", "--gpus", "2")
    assert status == 0, output
    workers = [field.worker("node-1"), field.worker("node-2")]
    try:
        status, told = field.run(field.orders, "saferflow", "run")
        assert status == 0, told + "".join((field.folder / f"node-{n}.log").read_text()[-2000:] for n in (1, 2))
    finally:
        for worker in workers:
            servers.end(worker)
    return output, told


def test_nobody_comes_in_without_the_password(field):
    assert httpx.get(f"{field.cluster.mlflow}/api/2.0/mlflow/experiments/search?max_results=1").status_code == 401
    assert httpx.post(f"{field.cluster.prefect}/flow_runs/filter", json={}).status_code == 401
    import psycopg

    host = field.cluster.postgres.rpartition("@")[2]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://saferflow:wrong@{host}/mlflow")


def test_each_stage_ran_once_and_where_it_was_to(field, ran):
    init, told = ran
    assert "work pool gpu (process): 2 at a time" in init
    here, there = field.calls("orders"), [*field.calls("node-1"), *field.calls("node-2")]
    assert here == ["base", "plan", "validate", "dpo", "curate", "evaluate", "gate"]
    assert sorted(there) == sorted(ON_NODES)
    assert "grpo works" in told, "a node's lines come back"
    assert "ran 9 of 9 stages" in told
    assert set(graph.lock_entries(field.orders)) == {*here, *there}
    for out in ("models/sft/model.safetensors", "models/grpo/model.safetensors", "metrics/grpo.json"):
        assert (field.orders / out).is_file()


def test_curves_artifacts_and_the_version_are_on_the_server(field, ran):
    client = field.mlflow()
    [experiment] = [each for each in client.search_experiments() if each.name == "align"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    grpo = runs["grpo"]
    assert len(client.get_metric_history(grpo.info.run_id, "loss")) >= 3, "the node's own process wrote its curve"
    assert grpo.data.tags["saferflow.cached"] == "false"
    assert grpo.info.artifact_uri.startswith("mlflow-artifacts:")
    assert {file.path for file in client.list_artifacts(grpo.info.run_id)} >= {"model", "lineage.json"}
    assert int(client.get_registered_model("saferflow").aliases["champion"]) == 1


def test_a_second_run_has_nothing_to_do(field, ran):
    status, output = field.run(field.orders, "saferflow", "run")
    assert status == 0, output
    assert "nothing to do" in output
    assert field.calls("node-1") + field.calls("node-2") == []


def test_an_interrupt_reaches_the_process_on_the_node(field):
    field.calls("node-1")
    worker = field.worker("node-1", STUB_HANG="grpo")
    try:
        field.change("kl: 0.02", "kl: 0.03")
        flow = field.start(field.orders, "saferflow", "run")
        _until(flow, "hangs")
        hanging = int((field.folder / "node-1" / "hangs.pid").read_text())
        assert psutil.pid_exists(hanging)
        flow.send_signal(signal.SIGINT)
        flow.communicate(timeout=120)
        assert flow.returncode == 130
        _gone(hanging)
        limit = time.monotonic() + 60
        while (state := field.flow_runs()[0]["state_type"]) != "CANCELLED" and time.monotonic() < limit:
            time.sleep(1)
        assert state == "CANCELLED"
    finally:
        servers.end(worker)


def test_a_pipeline_that_was_killed_finds_its_stage_still_at_work(field):
    """kill -9 of the pipeline; the node goes on, and the next run takes what it made."""
    field.calls("node-2")
    field.change("kl: 0.03", "kl: 0.04")
    worker = field.worker("node-2", STUB_SLOW="grpo")
    try:
        flow = field.start(field.orders, "saferflow", "run")
        _until(flow, "grpo works")
        os.kill(flow.pid, signal.SIGKILL)
        flow.communicate()
        status, output = field.run(field.orders, "saferflow", "run")
        assert status == 0, output
        assert field.calls("node-2") == ["grpo"]
        assert "stages: grpo, evaluate" in output
    finally:
        servers.end(worker)


def test_prefects_server_may_be_away_while_a_node_works(field):
    """kill -9 of it; the node goes on, and the pipeline takes the result when the server is back."""
    field.calls("node-2")
    field.change("kl: 0.04", "kl: 0.045")
    worker = field.worker("node-2", STUB_SLOW="grpo")
    flow = field.start(field.orders, "saferflow", "run")
    try:
        _until(flow, "at work on a node")
        field.cluster.prefect_server.kill()
        time.sleep(8)
        field.cluster.prefect_server.start()
        output, _ = flow.communicate(timeout=300)
    finally:
        servers.end(worker)
        servers.end(flow)
    assert flow.returncode == 0, output
    assert field.calls("node-2") == ["grpo"]
    assert field.flow_runs()[0]["state_type"] == "COMPLETED"


def test_a_node_that_goes_away_is_noticed_and_another_takes_over(field):
    """kill -9 of the worker and all that it started: no heartbeat, Crashed, ordered again."""
    for name in ("node-1", "node-2"):
        field.calls(name)
    field.change("kl: 0.045", "kl: 0.05")
    dying = field.worker("node-1", STUB_HANG="grpo")
    flow = field.start(field.orders, "saferflow", "run")
    try:
        _until(flow, "hangs")
        servers.end(dying)
        healthy = field.worker("node-2")
        try:
            output, _ = flow.communicate(timeout=400)
        finally:
            servers.end(healthy)
    finally:
        servers.end(flow)
    assert flow.returncode == 0, output
    assert "preempted; it begins again" in output
    assert field.calls("node-2") == ["grpo"]
    assert [run["state_type"] for run in field.flow_runs()][:2] == ["COMPLETED", "CRASHED"]


def test_a_worker_leaves_somebodys_work_alone(field):
    """A clone in which somebody has changed code is not a node's clone."""
    field.change("kl: 0.05", "kl: 0.06")
    own = field.folder / "node-1" / "stub.py"
    before = own.read_text()
    own.write_text(before + "# mine\n")
    worker = field.worker("node-1")
    try:
        status, output = field.run(field.orders, "saferflow", "run")
        assert status == 1
        assert "a worker wants a clone of its own" in output
        assert own.read_text().endswith("# mine\n")
    finally:
        own.write_text(before)
        servers.end(worker)


def test_code_that_is_not_committed_is_told_before_anything_runs(field):
    own = field.orders / "stub.py"
    before = own.read_text()
    own.write_text(before + "# mine\n")
    try:
        status, output = field.run(field.orders, "saferflow", "run")
        assert status == 1
        assert "nodes check out a commit: commit and push stub.py" in output
    finally:
        own.write_text(before)


def _until(flow: subprocess.Popen, text: str) -> None:
    """Read what a pipeline prints until it prints this."""
    lines = []
    for line in iter(flow.stdout.readline, ""):
        lines.append(line)
        if text in line:
            return
    raise AssertionError("".join(lines))


def _gone(pid: int) -> None:
    limit = time.monotonic() + 60
    while psutil.pid_exists(pid):
        assert time.monotonic() < limit, f"process {pid} is still at work"
        time.sleep(0.5)
