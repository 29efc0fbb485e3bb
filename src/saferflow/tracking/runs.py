"""MLflow runs: one parent per pipeline run, one child per stage."""

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
"""The tag whose value MLflow's page shows as the description of a run or experiment."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's page open on curves and registered models; by default it opens on traces of chats, and there are none."""
PARAM_CHARS = 6000
"""MLflow's bound on a parameter's value."""
BATCH = 1000
"""Metrics in one request, MLflow's bound."""


@cache
def client() -> "MlflowClient":
    """The client of the configured store; MLflow is imported at the first call that needs it.

    Calls raise `PipelineError` where the store cannot be opened or its database cannot be used.
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
    """The experiment's id; the experiment is created at first use, with the artifact folder of `mlflow/server.env`.

    Raises:
        PipelineError: the experiment was deleted; MLflow then hides its runs and takes no new one.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "align")
    known = client().get_experiment_by_name(name)
    if known and known.lifecycle_stage == "deleted":
        raise PipelineError(
            f"MLflow's experiment {name} was deleted, and its runs are hidden with it; bring it back: "
            f"MLFLOW_TRACKING_URI={address()} mlflow experiments restore -x {known.experiment_id}"
        )
    if known:
        return known.experiment_id
    local = os.environ.get("MLFLOW_TRACKING_URI", "").startswith("sqlite:")
    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") if local else None
    return client().create_experiment(name, artifact_location=f"{root}/{name}" if root else None, tags=KIND)


def start(name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
    """Open a run and return its id."""
    nested = {PARENT: parent} if parent else {}
    return client().create_run(experiment(), run_name=name, tags={**tags, **nested}).info.run_id


def finish(run: str, status: str = "FINISHED") -> None:
    """Close a run: `FINISHED`, `FAILED` or `KILLED`."""
    client().set_terminated(run, status)


def give_up(run: str, status: str) -> None:
    """Close a failed run if the tracker answers at once; otherwise the next pipeline closes it."""
    os.environ.update(environment.HURRIED)
    with suppress(Exception):
        finish(run, status)


def is_away(error: BaseException) -> bool:
    """Whether an error says that the tracking server could not be reached."""
    message = str(error)
    return is_mlflows(error) and ("Max retries exceeded" in message or "Connection" in message)


def is_mlflows(error: BaseException) -> bool:
    """Whether MLflow's client raised the error; never imports MLflow."""
    exceptions = sys.modules.get("mlflow.exceptions")
    return exceptions is not None and isinstance(error, exceptions.MlflowException)


def tag(run: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    from mlflow.entities import RunTag

    client().log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])


def log_params(run: str, sections: Mapping[str, Any]) -> None:
    """Log sections of params as dotted names; values are cut to MLflow's bound."""
    from mlflow.entities import Param

    flat = [Param(name, str(value)[:PARAM_CHARS]) for name, value in flatten(sections)]
    for first in range(0, len(flat), 100):
        client().log_batch(run, params=flat[first : first + 100])


def log_numbers(run: str, numbers: Mapping[str, Any]) -> None:
    """Log a stage's final numbers; intervals become `.low` and `.high`, and None (no row measures it) is left out."""
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
    """The names of a run's metrics, sorted."""
    return sorted(client().get_run(run).data.metrics)


def history(run: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, by step."""
    return sorted((point.step, point.value) for point in client().get_metric_history(run, name))


def log_artifact(run: str, path: Path, under: str | None = None) -> None:
    """Log a file, or a folder under its own name."""
    if path.is_dir():
        client().log_artifacts(run, str(path), under or path.name)
    else:
        client().log_artifact(run, str(path), under)


def log_text(run: str, text: str, name: str) -> None:
    """Log a text as the artifact `name`."""
    client().log_text(run, text, name)


def fetch_artifact(run: str, name: str, to: Path) -> Path:
    """Copy a run's artifact into `to` and return the copy's path.

    Raises:
        PipelineError: the run or the artifact does not exist.
    """
    try:
        return Path(client().download_artifacts(run, name, str(to)))
    except Exception as error:
        if not (is_mlflows(error) or isinstance(error, OSError)):
            raise
        raise PipelineError(f"MLflow run {run} has no artifact {name}: {str(error)[:200]}") from None


def producer(lock_hash: str) -> str | None:
    """The id of the finished run that ran the code behind this lock entry; None if the store has none."""
    runs = client().search_runs(
        [experiment()],
        f"tags.`{lineage.LOCK_HASH}` = '{lock_hash}' and tags.`{lineage.CACHED}` = 'false'"
        " and attributes.status = 'FINISHED'",
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


def close_abandoned(checkout: str) -> list[str]:
    """Mark this checkout's runs that are still RUNNING as killed; call while holding the checkout's lock."""
    left = client().search_runs(
        [experiment()], f"tags.`{lineage.CHECKOUT}` = '{checkout}' and attributes.status = 'RUNNING'"
    )
    for run in left:
        finish(run.info.run_id, "KILLED")
    return [run.info.run_id for run in left]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, leaf) of a nested mapping."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
