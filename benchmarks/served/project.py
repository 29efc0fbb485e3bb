"""A project's folder with a registry of two versions of one policy, and the servers that `saferflow serve` starts there."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from mlflow import MlflowClient
from saferflow.params import load_params
from saferflow.release.registry import MODEL_DIGEST
from saferflow.release.weights import folder_digest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "saferflow", "serve"]
WEIGHTS = ("*.json", "*.jinja", "*.safetensors")
LIMIT = 300
"""Seconds within which a server must be up."""


class Project:
    """A folder in which `saferflow serve` serves a policy.

    Args:
        policy: a folder with the policy, which is copied twice: versions differ by a file that says which they are.
    """

    def __init__(self, folder: Path, policy: Path):
        self.folder, self.params = folder, load_params(ROOT / "params.yaml")
        self.model = self.params.gate.registered_model
        for name in ("flows", "mlflow", ".saferflow"):
            (folder / name).mkdir()
        shutil.copy(ROOT / "params.yaml", folder)
        shutil.copy(ROOT / "mlflow" / "server.env", folder / "mlflow")
        (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
        self.registry = MlflowClient(f"sqlite:///{folder}/.saferflow/mlflow.db")
        self.registry.create_registered_model(self.model)
        for number in (1, 2):
            self._register(number, policy)
        self.point_to(1)

    def point_to(self, number: int) -> None:
        """Make a version the champion."""
        self.registry.set_registered_model_alias(self.model, "champion", str(number))

    def _register(self, number: int, policy: Path) -> None:
        held = self.folder / f"version{number}"
        held.mkdir()
        for pattern in WEIGHTS:
            for file in policy.glob(pattern):
                shutil.copy(file, held)
        (held / "NOTES").write_text(f"version {number}\n", encoding="utf-8")
        tags = {MODEL_DIGEST: folder_digest(held)}
        self.registry.create_model_version(self.model, held.as_uri(), tags=tags, await_creation_for=0)


class Server:
    """A server process in a project, with as many threads as OMP_NUM_THREADS or torch says."""

    def __init__(self, project: Project, *options: str):
        self.project, self.options, self.port = project, options, _free_port()
        self.start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def memory(self) -> int:
        """Resident bytes of the server and the processes that it started."""
        process = psutil.Process(self._process.pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it ends before.
        """
        environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        with (self.project.folder / f"server-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, *self.options, "--port", str(self.port)],
                cwd=self.project.folder,
                env=environ,
                stdout=log,
                stderr=log,
            )
        limit = time.monotonic() + LIMIT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"the server did not come up; see {log.name}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.base}/v1/models", timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def serving(project: Project, *options: str) -> Iterator[Server]:
    """A server for the block."""
    server = Server(project, *options)
    try:
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
