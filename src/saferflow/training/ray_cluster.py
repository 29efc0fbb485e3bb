"""Runs jobs over the machines of a Ray cluster: results come in order, and jobs of a lost machine run again.

Ray Data does the dividing: an engine is an actor, a job is a block, and blocks come back in their order. What an actor or a
machine that died had in hand is given to another. Source: ours.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from saferflow.errors import PipelineError, SaferflowError
from saferflow.params import RayParams

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
"""Environment variables without telemetry and without progress bars between a stage's lines."""
AT_ONCE = 2
"""The most jobs of an engine: one that runs and one that waits."""
PATIENCE = 30
"""Seconds in which the head must answer."""
JOB, RESULT, ERROR = "job", "result", "error"


def over_ray(engine: type, arguments: Sequence[Any], jobs: Sequence[Any], params: RayParams, deaths: int) -> Iterator[str]:
    """Yield the result of each job, in the order of the jobs.

    Args:
        engine: made with `arguments` in a process of its own, on any machine of the cluster; a job -> a text.
        deaths: how often an engine may die and begin again.

    Raises:
        PipelineError: no cluster is there, none of its machines has room for an engine, or engines died too often.
        SaferflowError: what an engine raised.
    """
    if not jobs:
        return
    _connect(params)

    from ray.exceptions import RayError

    rows = _dataset(engine, arguments, jobs, params, deaths)
    try:
        for row in rows.iter_rows():
            if row[ERROR]:
                raise PipelineError(row[ERROR])
            yield row[RESULT]
    except RayError as error:
        raise PipelineError(
            f"run.ray: the cluster at {params.address} could not do its part: {str(error)[-2000:]}\nsee `ray status`; what was "
            "done before stays where the stage keeps it"
        ) from None


def _dataset(engine: type, arguments: Sequence[Any], jobs: Sequence[Any], params: RayParams, deaths: int) -> Any:
    """The dataset whose rows are the results."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    most = params.engines
    pool = ray.data.ActorPoolStrategy(
        min_size=1, initial_size=most, max_size=most, max_tasks_in_flight_per_actor=AT_ONCE
    )
    return ray.data.from_items([{JOB: job} for job in jobs], override_num_blocks=len(jobs)).map(
        Worker,
        fn_constructor_args=(engine, tuple(arguments)),
        compute=pool,
        num_cpus=params.cpus,
        num_gpus=params.gpus,
        ray_remote_args_fn=lambda: {"max_restarts": deaths},
    )


class Worker:
    """An engine in its process: it maps a row with a job to a row with its result, or with the engine's error."""

    def __init__(self, engine: type, arguments: Sequence[Any]):
        self._make, self._engine = lambda: engine(*arguments), None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        try:
            # Not when the actor starts: Ray would start it again and again where the policy is missing.
            self._engine = self._engine or self._make()
            return {RESULT: self._engine(row[JOB]), ERROR: ""}
        except SaferflowError as error:
            return {RESULT: "", ERROR: str(error)}


def _connect(params: RayParams) -> None:
    """Join the cluster.

    Raises:
        PipelineError: there is none, or it has no room for an engine.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise PipelineError(
            "run.ray names a cluster and Ray is not installed; pip install 'saferflow[ray]', or set run.ray to null"
        ) from None
    if ray.is_initialized():
        return
    try:
        if params.address != "auto":  # Ray itself takes minutes to find that nobody answers
            host, _, port = params.address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        ray.init(address=params.address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise PipelineError(
            f"run.ray: no cluster answers at {params.address} ({str(error)[:300]}); start one (docs/cluster.md) and have this "
            "machine in it, or set run.ray to null"
        ) from None
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(has.get("CPU", 0) >= params.cpus and has.get("GPU", 0) >= params.gpus for has in machines):
        have = "; ".join(f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs" for has in machines)
        ray.shutdown()
        raise PipelineError(
            f"run.ray: an engine wants {params.cpus:g} CPUs and {params.gpus:g} GPUs, and no machine has them ({have}); change "
            "run.ray.cpus or run.ray.gpus, or add a machine"
        )
