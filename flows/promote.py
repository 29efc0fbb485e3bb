"""Promotion with a person's approval: judge the version, wait for a yes or no, move the alias."""

from pathlib import Path
from uuid import UUID

from prefect import flow, pause_flow_run, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.exceptions import FlowPauseTimeout, ObjectNotFound
from prefect.flow_runs import resume_flow_run
from prefect.input import RunInput
from pydantic import Field
from rich.text import Text

from flows.bridge import console, interruptible, reachable
from flows.checkout import prepared
from saferflow.cli import show
from saferflow.cli.promotion import print_judgement
from saferflow.errors import PipelineError
from saferflow.params import load_params
from saferflow.release import registry
from saferflow.release.verdict import judged, lead
from saferflow.tracking import lineage

DAY = 86_400
POLL = 2


class SignOff(RunInput):
    """The form that a person fills in; Prefect's page shows it."""

    agree: bool = Field(description="whether this version may lead")
    by: str = Field(min_length=1, description="who says so")
    why: str = Field(default="", description="for the ledger")


@flow(name="promote")
def promote(version: int | None = None, days: float = 7.0) -> bool:
    """Judge a version (the candidate if none is named); if it may lead, wait for a person's approval, then promote it.

    Returns:
        Whether it is the champion.

    Raises:
        PipelineError: nobody answered in time, or another version has become champion since.
    """
    root = Path.cwd()
    params = load_params(root / "params.yaml")
    judgement = judged(root, params, version)
    print_judgement(console, judgement)
    if not judgement.allowed:
        console.print("nothing was moved")
        return False
    run = runtime.flow_run.id
    console.print(Text(f"waiting for a person: the Prefect page of run {run}, or"))
    console.print(Text(f"  saferflow approve {run} --by NAME    (or --refuse)"))
    form = SignOff.with_initial_data(description=f"**May it lead?** {judgement.summary}")
    try:
        sign_off = pause_flow_run(wait_for_input=form, timeout=int(days * DAY), poll_interval=POLL)
    except FlowPauseTimeout:
        raise PipelineError(f"nobody answered for {days:g} days; nothing was moved") from None
    answer = f"signed off by {sign_off.by}" if sign_off.agree else f"refused by {sign_off.by}"
    reason = f"{judgement.reason}; {answer}" + (f": {sign_off.why}" if sign_off.why else "")
    registry.retag(judgement.version, {lineage.PREFIX + "sign_off": reason})
    if not sign_off.agree:
        console.print(Text(f"{answer}; nothing was moved"))
        return False
    lead(judgement, reason)
    console.print(show.version_line(judgement.version.model))
    return True


def waiting() -> list[tuple[str, str]]:
    """(id, name) of promotions that wait for a person."""
    of_this_flow = {"flow_filter": FlowFilter.model_validate({"name": {"any_": [promote.name]}})}
    paused = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}})
    with get_client(sync_client=True) as client:
        return [(str(run.id), run.name) for run in client.read_flow_runs(**of_this_flow, flow_run_filter=paused)]


def approve(run: str | None, *, agree: bool, by: str, why: str) -> str:
    """Answer a waiting promotion; if none is named, the only one.

    Raises:
        PipelineError: there is none, or several and none was named.
    """
    run_ids = [run_id for run_id, _ in waiting()]
    listed = ", ".join(run_ids) or "none"
    if run is None and len(run_ids) != 1:
        raise PipelineError(f"name the promotion to answer; waiting: {listed}")
    chosen = run or run_ids[0]
    if chosen not in run_ids:
        raise PipelineError(f"no promotion {chosen} waits for an answer; waiting: {listed}")
    try:
        resume_flow_run(UUID(chosen), run_input={"agree": agree, "by": by, "why": why})
    except ObjectNotFound:
        raise PipelineError(f"promotion {chosen} has ended") from None
    return chosen


def promote_with_sign_off(root: Path, version: int | None, days: float = 7.0) -> bool:
    """Carry out the flow `promote`; the process waits with it.

    Returns:
        Whether the version is the champion.
    """
    prepared(root)
    with reachable(root), interruptible("interrupted; nothing was moved"):
        return promote(version, days)


def answer(root: Path, run: str | None, *, agree: bool, by: str, why: str) -> None:
    """Answer a waiting promotion, and print that.

    Raises:
        PipelineError: as `approve`.
    """
    prepared(root)
    with reachable(root):
        run = approve(run, agree=agree, by=by, why=why)
    console.print(Text(f"promotion {run} was given the answer {'agree' if agree else 'refuse'}; it goes on where it waits"))
