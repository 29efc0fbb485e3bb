"""A checkout before anything runs in it: its parameters, its environment, and one pipeline at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from flows import process
from saferflow.addresses import unusable_proxies
from saferflow.errors import PipelineError
from saferflow.params import Params, load_params
from saferflow.release.registration import pending
from saferflow.tracking import environment, graph, lineage, runs

console = Console(highlight=False, soft_wrap=True)
"""The terminal of a flow."""


def prepared(root: Path) -> Params:
    """The project's parameters, with the environment set for its servers; offline where nothing is fetched from a hub."""
    params = load_params(root / "params.yaml")
    environment.prepare(root=root)
    if params.policy.base == "embedded" or Path(params.policy.base).exists():
        environment.offline()
    return params


def hold_back_proxies() -> None:
    """Free this process of proxies that would end Prefect's client, which asks a server on this machine; stages keep them."""
    for name, value in unusable_proxies(os.environ).items():
        process.held_back[name] = value
        del os.environ[name]


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Let one pipeline run at a time in a checkout; the lock goes with its holder, however it ends.

    Raises:
        PipelineError: another one is at work; the message names its process.
    """
    lock, holder = root / environment.HOME / "run.lock", root / environment.HOME / "run.pid"
    try:
        with FileLock(lock, timeout=0):
            holder.write_text(str(os.getpid()))
            yield
            with suppress(FileNotFoundError):
                holder.unlink()
    except Timeout:
        other = holder.read_text() if holder.exists() else "unknown"
        raise PipelineError(
            f"another pipeline is at work in this checkout (process {other}); wait for it, or end it with: kill {other}"
        ) from None


def close_abandoned(root: Path) -> None:
    """Close the MLflow runs of pipelines that were killed; call while holding the checkout's lock."""
    for run in runs.close_abandoned(lineage.checkout_id(root)):
        console.print(f"MLflow run {run} was left by a pipeline that did not end; it is marked KILLED")


def nothing_to_do(root: Path, params: Params) -> bool:
    """Say so if every stage is up to date and its policy registered."""
    if pending(root, params):
        return False
    console.print(f"nothing to do: all {len(graph.load_stages(root))} stages up to date")
    return True
