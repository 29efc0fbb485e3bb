"""One-time setup of a Prefect server: work pools, queues, deployments, and a watch on dead runs."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import WorkPoolFilter
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from rich.text import Text

from flows.bridge import console, reachable
from flows.checkout import prepared
from saferflow.errors import PipelineError

PIPELINES, GPU = "pipelines", "gpu"
"""Work pools: one for pipelines, one for their stages. In a shared pool a pipeline would hold the slot its stage waits for."""
URGENT = "urgent"
"""The queue of the GPU pool that workers take first."""
ZOMBIES = "saferflow: runs without a heartbeat have crashed"
SILENCE = timedelta(seconds=120)
"""Four heartbeats of prefect.yaml."""


def set_up(root: Path, kind: str, gpus: int) -> list[str]:
    """Create or update work pools, queue, automation and deployments, and return what there is now, one line each.

    Args:
        kind: of the work pools: process, docker or kubernetes.
        gpus: stages that may be at work at once, over all nodes.

    Raises:
        PipelineError: `prefect deploy` failed.
    """
    with get_client(sync_client=True) as client:
        _pool(client, PIPELINES, kind, 1)
        _pool(client, GPU, kind, gpus)
        _queue(client, URGENT)
    _watch_for_the_dead()
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=root, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        raise PipelineError(f"prefect deploy --all failed:\n{(done.stdout + done.stderr)[-1500:]}")
    return [
        f"work pool {PIPELINES} ({kind}): one pipeline at a time, a second one waits",
        f"work pool {GPU} ({kind}): {gpus} at a time; queue {URGENT} goes before the others",
        "deployments retrain/weekly (Mondays at three, UTC), experiment/queued and stage/gpu",
        f"a run that is silent for {SILENCE.seconds} s is marked Crashed",
    ]


def _pool(client: SyncPrefectClient, name: str, kind: str, limit: int) -> None:
    there = client.read_work_pools(work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [name]}}))
    if not there:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, concurrency_limit=limit))
        return
    if there[0].type != kind:
        raise PipelineError(
            f"work pool {name} is of type {there[0].type}, not {kind}; delete it (prefect work-pool delete {name}), or name "
            f"its type: saferflow init --kind {there[0].type}"
        )
    client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))


def _queue(client: SyncPrefectClient, name: str) -> None:
    try:
        client.read_work_queue_by_name(name, work_pool_name=GPU)
    except ObjectNotFound:
        client.create_work_queue(name=name, work_pool_name=GPU, priority=1)


def _watch_for_the_dead() -> None:
    """Create the automation that marks a killed run as crashed when its heartbeat ends; the server alone does not."""
    try:
        Automation.read(name=ZOMBIES)
        return
    except ValueError:
        pass
    ended = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")]
    Automation(
        name=ZOMBIES,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ended},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat: its process or its node is gone")],
    ).create()


def initialise(root: Path, kind: str, gpus: int) -> None:
    """Set the server up, and print what to start next.

    Args:
        kind: of the work pools: process, docker or kubernetes.
        gpus: stages at work at once, over all nodes.

    Raises:
        PipelineError: the server does not answer.
    """
    prepared(root)
    with reachable(root):
        for line in set_up(root, kind, gpus):
            console.print(Text(line))
        console.print(Text("next, on each machine, in a clone of its own:"))
        console.print(Text(f"  export PREFECT_API_URL={PREFECT_API_URL.value()}"))
    console.print(Text(f"  prefect worker start --pool {GPU} --limit 1         # a node: stages"))
    console.print(Text(f"  prefect worker start --pool {PIPELINES} --limit 1   # one machine: retraining by the clock"))
