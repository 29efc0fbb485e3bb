"""Stages on other machines: hand one to a work pool, follow its lines, and take its result from the remote."""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from flows.reproduce import RAN, RUNNING_SIGN, Failure, StageFailed, failure_of, reproduce
from flows.stage import SENT, dvc, sources
from saferflow.errors import PipelineError
from saferflow.params import NodesParams
from saferflow.tracking import graph, lineage

POLL = 2.0
"""Seconds between two polls of a stage on a node."""
PATIENCE = 600.0
"""Seconds for which Prefect's server may be away while a node is at work: the node goes on without it."""
PAGE = 200
"""Log lines in one response of the server."""


def require(root: Path, nodes: NodesParams, stages: dict[str, graph.Stage]) -> None:
    """Check, before the first stage runs, that stages can run on nodes.

    Raises:
        PipelineError: something is missing; the message lists all of it, with remedies.
    """
    missing = []
    if strangers := [name for name in nodes.stages if name not in stages]:
        missing.append(f"run.nodes.stages names {', '.join(strangers)}; there are {', '.join(stages)}")
    if not os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        missing.append("nodes write their curves to an MLflow server: set MLFLOW_TRACKING_URI to its address")
    remote = subprocess.run(
        [*graph.DVC, "config", "core.remote"], cwd=root, capture_output=True, text=True, check=False
    )
    if not remote.stdout.strip():
        missing.append("nodes take and give data by a DVC remote: dvc remote add -d NAME ADDRESS")
    if changed := [path for path in lineage.changed(root) if not path.startswith(SENT)]:
        missing.append(f"nodes check out a commit: commit and push {', '.join(changed[:5])}")
    try:
        with get_client(sync_client=True) as client:
            client.read_deployment_by_name(nodes.deployment)
    except ObjectNotFound:
        missing.append(f"the server has no deployment {nodes.deployment}: saferflow init, or name another in run.nodes")
    if missing:
        raise PipelineError("run.nodes is set, and " + "; ".join(missing))


def run_on_node(
    root: Path,
    stages: dict[str, graph.Stage],
    name: str,
    nodes: NodesParams,
    run: str,
    on_line: Callable[[str], None],
    *,
    force: bool = False,
    seconds: float | None = None,
) -> str:
    """Have a worker run a stage, restore its outputs in this checkout, and return its outcome.

    The same order is given once: a run that goes on after a kill finds the node still at work, or done.

    Raises:
        StageFailed: the stage failed there, or its node went away (then as preempted).
        PipelineError: the result did not come back.
    """
    stage = stages[name]
    inputs = sorted(graph.parents(stage, stages))
    if inputs:
        dvc(root, "push", "--run-cache", *inputs, *sources(root, name))
    carried = ["params.yaml", "dvc.lock", *(dep for dep in stage.deps if dep.startswith("metrics/"))]
    files = {path: (root / path).read_text(encoding="utf-8") for path in carried if (root / path).exists()}
    commit, _ = lineage.git_state(root)
    order = {"name": name, "commit": commit, "files": files, "force": force}
    ordered = _order(nodes, order, {"run": run, "seconds": seconds})
    outcome = _followed(ordered, name, on_line)

    def restored_only(line: str) -> None:
        if RUNNING_SIGN in line:
            raise PipelineError(
                f"stage {name} ran on a node, and its result is not in the remote that this checkout reads; "
                f"node and checkout want the same default remote (dvc remote list); to make it anew: saferflow run --force {name}"
            )

    here = reproduce(root, name, run, restored_only, pull=True)
    return RAN if outcome == RAN else here


def _order(nodes: NodesParams, order: dict, besides: dict) -> FlowRun:
    """The flow run of this order: a running or completed one, else a new one; `besides` is not part of the order's identity."""
    digest = hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()
    for attempt in count(1):
        flow_run = run_deployment(
            nodes.deployment,
            parameters={**order, **besides},
            flow_run_name=order["name"],
            timeout=0,
            tags=[f"stage:{order['name']}"],
            idempotency_key=f"{digest}-{attempt}",
            work_queue_name=nodes.queue,
            as_subflow=False,
        )
        usable = not order["force"] and flow_run.state.is_completed()
        if usable or not (flow_run.state.is_final() or flow_run.state.is_cancelling()):
            return flow_run
    raise AssertionError("count has no end")


def _followed(ordered: FlowRun, name: str, on_line: Callable[[str], None]) -> str:
    """Print a node's log lines until it is done, and return the outcome; any exception here cancels the node's run too."""
    state_name, read, reached = "", 0, time.monotonic()
    with get_client(sync_client=True) as client:
        try:
            while True:
                try:
                    state = client.read_flow_run(ordered.id).state
                    while lines := client.read_logs(
                        LogFilter.model_validate({"flow_run_id": {"any_": [str(ordered.id)]}}),
                        limit=PAGE, offset=read, sort=LogSort.TIMESTAMP_ASC,
                    ):  # fmt: skip
                        read += len(lines)
                        for line in lines:
                            stage, bar, text = line.message.partition(" │ ")
                            if bar and stage == name:
                                on_line(text)
                    reached = time.monotonic()
                except httpx.TransportError as error:
                    if time.monotonic() - reached > PATIENCE:
                        raise PipelineError(
                            f"Prefect's server has been away for {PATIENCE:.0f} s ({type(error).__name__}); stage {name} may be "
                            "at work on its node still, and the next run finds it"
                        ) from None
                    time.sleep(POLL)
                    continue
                if state.is_final():
                    break
                if state.name != state_name:
                    state_name = state.name
                    on_line(f"{state_name.lower()} in the work pool" if not state.is_running() else "at work on a node")
                time.sleep(POLL)
        except BaseException:
            with suppress(Exception):
                client.set_flow_run_state(ordered.id, Cancelling(message="the pipeline that ordered it has ended"))
            raise
    message = state.message or ""
    if state.is_completed():
        return message
    if state.is_crashed():
        raise StageFailed(name, Failure.PREEMPTED, f": its node went away: {message}")
    if state.is_cancelled():
        raise PipelineError(f"stage {name} was cancelled in Prefect; run again to begin it anew")
    raise StageFailed(name, failure_of(message), f" on its node: {message}")
