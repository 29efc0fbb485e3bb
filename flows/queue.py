"""Running and waiting flow runs, in the order in which workers take them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.bridge import console, reachable
from saferflow.tracking import services

AT_WORK = (StateType.RUNNING, StateType.CANCELLING)
UNFINISHED = (*AT_WORK, StateType.PAUSED, StateType.PENDING, StateType.SCHEDULED)
MOST = 200


def waiting(client: SyncPrefectClient) -> list[FlowRun]:
    """Runs of workers, and runs that wait for a person: running ones first, then in the order in which workers take them.

    Of each schedule, only the next run. At most 200 runs.
    """
    chosen = FlowRunFilter.model_validate({"state": {"type": {"any_": [state.value for state in UNFINISHED]}}})
    flow_runs = client.read_flow_runs(flow_run_filter=chosen, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=MOST)
    priorities = {queue.id: queue.priority for queue in client.read_work_queues()}

    def turn(run: FlowRun) -> tuple:
        return run.state_type not in AT_WORK, run.work_pool_name or "", priorities.get(run.work_queue_id, 0)

    return sorted(_next_of_each_schedule(flow_runs), key=turn)


def _next_of_each_schedule(runs: list[FlowRun]) -> Iterator[FlowRun]:
    seen = set()
    for run in runs:
        if run.auto_scheduled and run.state_type == StateType.SCHEDULED:
            if run.deployment_id in seen:
                continue
            seen.add(run.deployment_id)
        yield run


def drawn(runs: list[FlowRun], flows: dict[UUID, str], now: datetime) -> Table:
    """The runs, one row per run; `flows` maps flow ids to names."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("pool", "queue", "state", "what", "since or at", "run"):
        table.add_column(column, overflow="fold")
    for run in runs:
        place = run.work_pool_name or "here", run.work_queue_name or ""
        row = *place, run.state_name or "", f"{flows.get(run.flow_id, '')} {_what(run)}", _when(run, now), str(run.id)
        table.add_row(*map(Text, row))
    return table


def _what(run: FlowRun) -> str:
    settings = run.parameters.get("settings")
    return " ".join(settings) if settings else run.name


def _when(run: FlowRun, now: datetime) -> str:
    moment = run.start_time or run.expected_start_time
    if moment is None:
        return ""
    apart = timedelta(seconds=round(abs((now - moment).total_seconds())))
    return f"in {apart}" if moment > now else f"for {apart}"


def print_queue(root: Path) -> None:
    """Print the queue of the server that is configured, or of this checkout's own.

    Raises:
        PipelineError: the server does not answer.
    """
    if not PREFECT_API_URL.value() and not services.running(services.PREFECT, root):
        console.print("nothing waits: this checkout's Prefect server is not running")
        return
    with reachable(root), get_client(sync_client=True) as client:
        runs = waiting(client)
        flows = {flow.id: flow.name for flow in client.read_flows()}
    if not runs:
        console.print("nothing is at work, and nothing waits")
        return
    console.print(drawn(runs, flows, datetime.now(UTC)))
    console.print("to take one out, or to stop it: prefect flow-run cancel RUN")
