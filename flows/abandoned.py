"""Prefect runs that a killed flow left behind: a dead process cannot close its own."""

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
from prefect.states import Crashed

MOST = 200
"""The most runs that the server returns to one request."""
_LEFT = {"type": {"any_": ["RUNNING", "PENDING"]}}


def close_flow_runs(checkout: str) -> int:
    """Mark this checkout's unfinished flow runs and their tasks as crashed; call while holding the checkout's lock."""
    message = "the flow's process ended without closing its run"
    unfinished_runs = FlowRunFilter.model_validate({"tags": {"all_": [f"checkout:{checkout}"]}, "state": _LEFT})
    with get_client(sync_client=True) as client:
        flow_runs = client.read_flow_runs(flow_run_filter=unfinished_runs, sort=FlowRunSort.ID_DESC, limit=MOST)
        for run in flow_runs:
            unfinished_tasks = TaskRunFilter.model_validate({"flow_run_id": {"any_": [str(run.id)]}, "state": _LEFT})
            for task_run in client.read_task_runs(
                task_run_filter=unfinished_tasks, sort=TaskRunSort.ID_DESC, limit=MOST
            ):
                client.set_task_run_state(task_run.id, Crashed(message=message), force=True)
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
    return len(flow_runs)
