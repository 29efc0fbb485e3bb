"""Reproduces one stage by DVC in this checkout; classifies its failure."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from flows import guard, process
from saferflow.endpoint.store import Store
from saferflow.errors import PipelineError
from saferflow.tracking import environment, graph, runs

TAIL = 30
"""The last lines of a failed stage's output that its error contains."""
RAN, RESTORED, UNCHANGED = "ran", "restored", "up to date"
RUNNING_SIGN = "Running stage '"
_RESTORED_SIGN = "is cached - skipping run"
_UNCHANGED_SIGN = "didn't change, skipping"


class Failure(StrEnum):
    """Why a stage failed; only the first kind is retried automatically."""

    PREEMPTED = "preempted"
    """It got SIGTERM, or its machine went away; its checkpoint is good."""
    MEMORY = "out of memory"
    KILLED = "killed"
    """It got SIGKILL, from the kernel when memory ran out or from a person."""
    BUDGET = "budget spent"
    """`run.budget_hours` ran out; its checkpoint is good."""
    ERROR = "error"


_SIGNS = {
    Failure.MEMORY: re.compile(r"out of memory|OutOfMemoryError|MemoryError|can't allocate memory"),
    Failure.PREEMPTED: re.compile(r"stopped by SIGTERM|exited with (?:-15|143)\b"),
    Failure.KILLED: re.compile(r"exited with (?:-9|137)\b"),
}


class StageFailed(PipelineError):
    """A stage did not finish."""

    def __init__(self, stage: str, failure: Failure, detail: str):
        super().__init__(f"stage {stage} failed ({failure}){detail}")
        self.failure = failure


def failure_of(output: str) -> Failure:
    """The kind of failure that a stage's last lines show."""
    return next((kind for kind, sign in _SIGNS.items() if sign.search(output)), Failure.ERROR)


def reproduce(
    root: Path,
    stage: str,
    run: str,
    on_line: Callable[[str], None],
    *,
    force: bool = False,
    pull: bool = False,
    seconds: float | None = None,
) -> str:
    """Have DVC bring a stage up to date, and return its outcome: RAN, RESTORED or UNCHANGED.

    Args:
        run: the MLflow run that the stage's process writes its curves to.
        pull: whether results of other checkouts are taken from the remote.
        seconds: after these the stage gets SIGTERM; a training stage writes a checkpoint first.

    What the stage used stands in the MLflow run, as `cost.*`.

    Raises:
        StageFailed: with the stage's last lines.
    """
    options = [*(["--force"] if force else []), *(["--pull"] if pull else [])]
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        if not is_hint(line):
            on_line(line)

    cost = root / environment.HOME / f"{stage}.cost.json"
    cost.unlink(missing_ok=True)
    env = {"MLFLOW_RUN_ID": run, **environment.HURRIED, guard.COST: str(cost)}
    env |= {guard.SECONDS: str(seconds)} if seconds is not None else {}
    before = Store().tokens()
    command = [*graph.DVC, "repro", "--single-item", *options, stage]
    status = process.run(command, root, root / "logs" / f"{stage}.log", env, keep)
    used = json.loads(cost.read_text()) if cost.exists() else {}
    if any(RUNNING_SIGN in line for line in lines):
        with suppress(Exception):  # a figure is no reason to lose a stage
            runs.log_numbers(run, {"cost": used | {"tokens": Store().tokens() - before}})
    if status == guard.TIME_IS_UP:
        raise StageFailed(
            stage, Failure.BUDGET, ": run.budget_hours is spent; its checkpoint is kept, and a run with more goes on"
        )
    if status:
        tail = "\n".join(line for line in lines[-TAIL:] if not is_hint(line))
        raise StageFailed(stage, failure_of(tail), f", exit status {status}. Its last lines:\n{tail}")
    if any(_RESTORED_SIGN in line for line in lines):
        return RESTORED
    return UNCHANGED if any(_UNCHANGED_SIGN in line for line in lines) else RAN


def is_hint(line: str) -> bool:
    """Whether a line is advice that DVC prints after every stage; the flow's closing lines replace it."""
    hints = ("To track the changes", "To enable auto staging", "Use `dvc push`", "git add", "dvc config core.autostage")
    return line.strip().startswith((*hints, "Updating lock file", "Generating lock file", "Data and pipelines are up"))
