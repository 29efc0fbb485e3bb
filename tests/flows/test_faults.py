"""What a machine can do to a run: a full disk, a clock set back, a damaged cache, servers and remotes that go away."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.stage import dvc
from saferflow.errors import PipelineError
from saferflow.tracking import graph, services

from .cluster import free_port

pytestmark = pytest.mark.slow
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def running(project) -> list:
    return project.mlflow().search_runs(["1"], "attributes.status = 'RUNNING'")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_fails_the_stage_and_a_run_with_room_again_goes_on(finished, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(file.stat().st_size for file in finished.root.rglob("*") if file.is_file()) + 4 * 2**20
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        project = finished.copy(disk)
        before = graph.lock_entries(project.root)
        project.set("sft.epochs", 7)
        filler = project.root / ".saferflow" / "filler"
        status, output = project.run(STUB_FILL="sft", STUB_FILLER=str(filler))
        assert status != 0
        assert "No space left on device" in output
        filler.unlink()
        entries = graph.lock_entries(project.root)
        assert {name: entries[name] for name in ("base", "plan", "validate")} == {
            name: before[name] for name in ("base", "plan", "validate")
        }
        project.calls()
        status, output = project.run()
        assert status == 0, output
        assert project.calls()[0] == "sft"
        assert running(project) == []
        assert not [file for file in project.root.rglob("*partial*") if ".dvc" not in file.parts]
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("shift", ["-1d", "+400d"])
def test_a_clock_that_was_set_runs_nothing_again_and_loses_nothing(project, shift):
    environ = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    status, output = project.run(**environ)
    assert status == 0, output
    assert "nothing to do" in output
    project.set("grpo.learning_rate", 0.0005)
    status, output = project.run(**environ)
    assert status == 0, output
    assert project.calls() == ["grpo", "evaluate", "gate"]
    assert running(project) == []
    aliases = project.mlflow().get_registered_model("saferflow").aliases
    assert (int(aliases["champion"]), int(aliases["previous"])) == (2, 1)
    status, output = project.run()
    assert status == 0, output
    assert "nothing to do" in output


def test_a_damaged_object_of_the_cache_is_not_trained_on(project):
    """The workspace lost a model, and the cache's copy of it was changed: DVC makes it anew instead of taking that."""
    cache = project.root / ".dvc" / "cache" / "files" / "md5"
    digest, _ = graph.out_digest(graph.lock_entries(project.root)["dpo"], "models/dpo")
    [listed] = json.loads((cache / digest[:2] / digest[2:]).read_text())
    model = project.root / "models" / "dpo" / "model.safetensors"
    good = model.read_bytes()
    shutil.rmtree(model.parent)
    damaged = cache / listed["md5"][:2] / listed["md5"][2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"damaged")
    project.set("grpo.kl", 0.5)
    status, output = project.run()
    print(output)
    assert status == 0, output
    assert model.read_bytes() == good
    assert project.calls()[:2] == ["dpo", "grpo"]


def test_a_remote_that_takes_nothing_is_told_and_what_is_done_stays(project):
    blocked = project.root / ".saferflow" / "blocked"
    blocked.write_text("a file where a folder is wanted")
    command = [sys.executable, "-m", "dvc", "remote", "add", "-d", "blocked", str(blocked)]
    subprocess.run(command, cwd=project.root, check=True, capture_output=True)
    before = (project.root / "dvc.lock").read_bytes()
    with pytest.raises(PipelineError, match="what is done here stays"):
        dvc(project.root, "push", "--run-cache", "sft")
    assert (project.root / "dvc.lock").read_bytes() == before
    assert (project.root / "models" / "sft" / "model.safetensors").exists()


def test_points_that_a_tracker_missed_arrive_when_it_is_back(project, tmp_path):
    """The MLflow server is killed while a stage logs, and comes back before the stage ends."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{project.root}/.saferflow/mlflow.db",
        "--artifacts-destination", str(tmp_path / "artifacts"),
    ]  # fmt: skip

    def start() -> subprocess.Popen:
        server = subprocess.Popen(
            command, env=project.environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        limit = time.monotonic() + 60
        while not services._healthy(f"{address}/health"):
            assert time.monotonic() < limit
            time.sleep(0.2)
        return server

    def kill(server: subprocess.Popen) -> None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    project.set("grpo.kl", 0.5)
    server = start()
    flow = project.start(MLFLOW_TRACKING_URI=address, STUB_POINTS="24")
    try:
        lines = []
        for line in iter(flow.stdout.readline, ""):
            lines.append(line)
            if "point 6" in line:
                kill(server)
            if "point 12" in line:
                server = start()
        flow.wait(timeout=60)
        assert flow.returncode == 0, "".join(lines)
    finally:
        kill(server)
    run = project.stage_runs()["grpo"]
    curve = project.mlflow().get_metric_history(run.info.run_id, "loss")
    assert {point.step for point in curve} >= set(range(24))
    assert run.info.status == "FINISHED"
