"""What a stage on a node gives: another checkout restores it from the remote, with nothing of the node's own."""

import subprocess
import sys

from flows.reproduce import RESTORED, reproduce
from flows.stage import dvc, give
from saferflow.tracking import graph


def test_another_checkout_restores_a_stage_that_was_given_with_its_metrics(project, tmp_path, monkeypatch):
    """Its metrics are like no other stage's: git keeps them, and DVC's own push leaves them out."""
    command = [sys.executable, "-m", "dvc", "remote", "add", "-d", "store", str(tmp_path / "remote")]
    subprocess.run(command, cwd=project.root, check=True, capture_output=True)
    inputs = ["base", "plan", "validate"]
    dvc(project.root, "push", "--run-cache", *inputs)
    give(project.root, "sft")

    other = tmp_path / "other"
    project.commit()
    subprocess.run(["git", "clone", "-q", project.root, other], check=True)
    lock = other / "dvc.lock"
    whole = graph.lock_entries(other)["sft"]
    lock.write_text(before(lock.read_text(), "sft"), encoding="utf-8")
    wanted = (other / "metrics" / "sft.json").read_bytes()
    (other / "metrics" / "sft.json").unlink()
    dvc(other, "pull", *inputs)
    monkeypatch.setenv("PYTHONPATH", str(other / "src"))
    assert reproduce(other, "sft", "", lambda _: None, pull=True) == RESTORED
    assert graph.lock_entries(other)["sft"] == whole
    assert (other / "metrics" / "sft.json").read_bytes() == wanted
    assert (other / "models" / "sft" / "model.safetensors").exists()


def before(lock: str, stage: str) -> str:
    """dvc.lock without a stage and those after it."""
    lines = lock.splitlines(keepends=True)
    return "".join(lines[: lines.index(f"  {stage}:\n")])
