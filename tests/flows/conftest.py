"""A toy pipeline under the real flow: real Prefect, DVC and MLflow, and stages that take no time."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
import yaml
from filelock import FileLock

from saferflow.tracking import environment, services

ROOT = Path(__file__).parents[2]
PARAMS = {
    "base": ["base"],
    "plan": ["plan"],
    "validate": ["validate"],
    "sft": ["sft"],
    "dpo": ["dpo"],
    "curate": ["curate"],
    "grpo": ["run.seed", "grpo"],
    "evaluate": ["evaluate"],
    "gate": ["gate"],
}


def heed_interrupts() -> None:
    """A shell starts what it puts into the background with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Project:
    """A checkout in a folder of its own."""

    root: Path
    api: str

    def environ(self, **more: str) -> dict[str, str]:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_", "STUB_"))
        }
        clean |= environment.TELEMETRY_OFF
        api = {"PREFECT_API_URL": self.api} if self.api else {}
        return {**clean, **api, "PYTHONPATH": str(self.root / "src"), "COLUMNS": "120", **more}

    def copy(self, folder: Path) -> Self:
        """The same state in another folder; its log of calls begins anew."""
        shutil.copytree(self.root, folder / "project", symlinks=True)
        copied = Project(folder / "project", self.api)
        copied.calls()
        return copied

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen:
        """The flow as a process, its output in a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "saferflow", "run", *arguments],
            cwd=self.root,
            env=self.environ(**environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heed_interrupts,
        )

    def run(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Run the flow to its end: exit status and output."""
        process = self.start(*arguments, **environ)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    def calls(self) -> list[str]:
        """Stages whose code ran, in order, since the last time this was asked."""
        log = self.root / "calls.log"
        done = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return done

    def set(self, name: str, value: object) -> None:
        """Change one parameter, named with dots."""
        file = self.root / "params.yaml"
        tree = yaml.safe_load(file.read_text())
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node[part]
        node[last] = value
        file.write_text(yaml.safe_dump(tree, sort_keys=False))

    def commit(self) -> None:
        """Commit everything."""
        for command in (["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "more"]):
            subprocess.run(["git", *command], cwd=self.root, check=True)

    def mlflow(self):
        """A client of the project's store."""
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.root}/.saferflow/mlflow.db")

    def stage_runs(self) -> dict[str, object]:
        """The newest run of each name, the parent's too."""
        found = self.mlflow().search_runs(["1"], order_by=["attributes.start_time ASC"])
        return {run.info.run_name: run for run in found}


@pytest.fixture(scope="session")
def api(tmp_path_factory) -> Iterator[str]:
    """One Prefect server for all tests: the first start of one takes long."""
    root = tmp_path_factory.mktemp("prefect")
    home = root / ".saferflow"
    home.mkdir()
    before = os.environ.get("PREFECT_HOME")
    os.environ["PREFECT_HOME"] = str(home)
    try:
        yield services.start(services.PREFECT, root) + "/api"
    finally:
        services.stop(services.PREFECT, root)
        os.environ.pop("PREFECT_HOME")
        if before:
            os.environ["PREFECT_HOME"] = before


@pytest.fixture(scope="session")
def finished(shared_folder, api) -> Project:
    """A toy project whose pipeline has run once, in whichever worker wants it first; tests copy it."""
    project = Project(shared_folder / "toy", api)
    output_file = project.root / "output.txt"
    with FileLock(shared_folder / "toy.lock"):
        if not output_file.exists():
            make(project.root)
            status, output = project.run()
            assert status == 0, output
            output_file.write_text(output)
    return project


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A copy of the project that has run once."""
    return finished.copy(tmp_path)


@pytest.fixture(scope="session")
def better(finished, tmp_path_factory) -> Project:
    """A copy whose GRPO was run again, with answers that are safe on every row."""
    return _changed(finished, tmp_path_factory, "grpo.learning_rate", 0.0005)


@pytest.fixture(scope="session")
def unimproved(finished, tmp_path_factory) -> Project:
    """A copy whose GRPO was run again to other weights, with the same answers."""
    return _changed(finished, tmp_path_factory, "grpo.kl", 0.5)


def _changed(finished: Project, tmp_path_factory, name: str, value: object) -> Project:
    copied = finished.copy(tmp_path_factory.mktemp("changed"))
    copied.set(name, value)
    status, output = copied.run()
    assert status == 0, output
    (copied.root / "output.txt").write_text(output)
    return copied


def make(root: Path) -> Path:
    """A git checkout with the real flow and parameters, and stub.py for every stage."""
    root.mkdir(parents=True)
    for name in ("flows", "mlflow", "src"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("params.yaml", ".gitignore", ".dvcignore", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    for name in (".dvc/config", ".dvc/.gitignore", ".saferflow/.gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    raw = yaml.safe_load((root / "params.yaml").read_text())
    raw["gate"]["clean_tree"] = False  # tests change parameters and commit nothing
    (root / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    shutil.copy(Path(__file__).with_name("stub.py"), root / "stub.py")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": toy_stages()}, sort_keys=False))
    with (root / ".gitignore").open("a") as ignored:
        ignored.write("calls.log\nhangs.pid\noutput.txt\n")
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "toy"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def toy_stages() -> dict:
    """The real stages' data files, without their code."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        stage["cmd"] = f"python stub.py {name}"
        left_out = ("src/", "data/sources", "rubrics")
        stage["deps"] = [dep for dep in stage.get("deps", []) if not dep.startswith(left_out)]
        stage["deps"] = [dep if not dep.startswith("data/tables/") else "data/tables" for dep in stage["deps"]]
        stage["params"] = PARAMS[name]
    return stages
