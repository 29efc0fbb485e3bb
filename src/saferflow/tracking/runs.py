"""MLflow runs: one parent a pipeline run, one child a stage."""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saferflow.errors import PipelineError
from saferflow.tracking import environment, lineage
from saferflow.tracking.reading import Reading
from saferflow.tracking.trouble import Explaining, address, explained

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
"""What the page of a run or of an experiment shows as its description."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's page open on curves and registered models; by itself it opens on traces of chats, of which there are none."""
PARAM_CHARS = 6000
"""MLflow's bound on a parameter's value."""
BATCH = 1000
"""Metrics in one request, MLflow's bound."""


@cache
def client() -> "MlflowClient":
    """The client of the configured store; MLflow is imported at the first call that needs it.

    Calls raise `PipelineError` where the store cannot be opened, or its database not be used.
    """
    return Reading(_own_client)


def _own_client() -> "MlflowClient":
    """MLflow's own client of the configured store.

    Raises:
        PipelineError: the package is missing and the project's `mlflow/` folder stands in as an empty namespace; or the
            store cannot be opened.
    """
    import mlflow

    if not hasattr(mlflow, "__version__"):
        raise PipelineError(
            "the package mlflow is not installed; run `make run`, or pip install -c constraints.txt -e ."
        )
    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # it prints tracebacks of what it raises as well
    try:
        return Explaining(mlflow.MlflowClient())
    except Exception as error:
        if (line := explained(error)) is None:
            raise
        raise PipelineError(line) from None


@cache
def experiment() -> str:
    """The experiment's id; made at first use, with the artifact folder of `mlflow/server.env`.

    Raises:
        PipelineError: it was deleted; MLflow then shows none of its runs, and takes no new one.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "align")
    found = client().get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        raise PipelineError(
            f"MLflow's experiment {name} was deleted, and its runs are hidden with it; bring it back: "
            f"MLFLOW_TRACKING_URI={address()} mlflow experiments restore -x {found.experiment_id}"
        )
    if found:
        return found.experiment_id
    local = os.environ.get("MLFLOW_TRACKING_URI", "").startswith("sqlite:")
    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") if local else None
    return client().create_experiment(name, artifact_location=f"{root}/{name}" if root else None, tags=KIND)


def start(name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
    """Open a run and give its id."""
    nested = {PARENT: parent} if parent else {}
    return client().create_run(experiment(), run_name=name, tags={**tags, **nested}).info.run_id


def finish(run: str, status: str = "FINISHED") -> None:
    """Close a run: `FINISHED`, `FAILED` or `KILLED`."""
    client().set_terminated(run, status)


def give_up(run: str, status: str) -> None:
    """Close a run of something that has failed, if the tracker answers at once; the next pipeline closes it otherwise."""
    os.environ.update(environment.HURRIED)
    with suppress(Exception):
        finish(run, status)


def is_away(error: BaseException) -> bool:
    """Whether an error says that the tracking server could not be reached."""
    told = str(error)
    return is_mlflows(error) and ("Max retries exceeded" in told or "Connection" in told)


def is_mlflows(error: BaseException) -> bool:
    """Whether MLflow's client raised it; MLflow is imported then, and not for asking."""
    exceptions = sys.modules.get("mlflow.exceptions")
    return exceptions is not None and isinstance(error, exceptions.MlflowException)


def tag(run: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client().log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])


def log_params(run: str, sections: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    flat = [Param(name, str(value)[:PARAM_CHARS]) for name, value in flatten(sections)]
    for first in range(0, len(flat), 100):
        client().log_batch(run, params=flat[first : first + 100])


def log_numbers(run: str, numbers: Mapping[str, Any]) -> None:
    """Final numbers of a stage; lists (intervals) become `.low` and `.high`, what no row measures (None) is left out."""
    from mlflow.entities import Metric

    points, now = [], int(time.time() * 1000)
    for name, value in flatten(numbers):
        pair = isinstance(value, list | tuple) and len(value) == 2
        named = {f"{name}.low": value[0], f"{name}.high": value[1]} if pair else {name: value}
        points += [Metric(key, float(num), now, 0) for key, num in named.items() if isinstance(num, int | float)]
    for first in range(0, len(points), BATCH):
        client().log_batch(run, metrics=points[first : first + BATCH])


def figures(run: str) -> dict[str, float]:
    """The last value of each metric."""
    return dict(client().get_run(run).data.metrics)


def metric_names(run: str) -> list[str]:
    return sorted(client().get_run(run).data.metrics)


def history(run: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, by step."""
    return sorted((point.step, point.value) for point in client().get_metric_history(run, name))


def log_artifact(run: str, path: Path, under: str | None = None) -> None:
    """Keep a file, or a folder under its own name."""
    if path.is_dir():
        client().log_artifacts(run, str(path), under or path.name)
    else:
        client().log_artifact(run, str(path), under)


def log_text(run: str, text: str, name: str) -> None:
    client().log_text(run, text, name)


def fetch_artifact(run: str, name: str, to: Path) -> Path:
    """A local copy of a run's artifact.

    Raises:
        PipelineError: the run, or the artifact, is not there.
    """
    try:
        return Path(client().download_artifacts(run, name, str(to)))
    except Exception as error:
        if not (is_mlflows(error) or isinstance(error, OSError)):
            raise
        raise PipelineError(f"MLflow run {run} has no artifact {name}: {str(error)[:200]}") from None


def producer(lock_hash: str) -> str | None:
    """The finished run that ran the code behind this lock entry, if the store knows one."""
    found = client().search_runs(
        [experiment()],
        f"tags.`{lineage.LOCK_HASH}` = '{lock_hash}' and tags.`{lineage.CACHED}` = 'false'"
        " and attributes.status = 'FINISHED'",
        max_results=1,
    )
    return found[0].info.run_id if found else None


def close_abandoned(checkout: str) -> list[str]:
    """Mark runs of this checkout that still say RUNNING as killed; call while holding the checkout's lock."""
    left = client().search_runs(
        [experiment()], f"tags.`{lineage.CHECKOUT}` = '{checkout}' and attributes.status = 'RUNNING'"
    )
    for run in left:
        finish(run.info.run_id, "KILLED")
    return [run.info.run_id for run in left]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and leaves of a nested mapping."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
