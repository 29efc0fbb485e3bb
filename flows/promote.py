"""Promotion with a person's agreement: judge, wait for somebody to say yes or no, move."""

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
    """What a person is asked for; Prefect's page shows it as a form."""

    agree: bool = Field(description="whether this version may lead")
    by: str = Field(min_length=1, description="who says so")
    why: str = Field(default="", description="for the ledger")


@flow(name="promote")
def promote(version: int | None = None, days: float = 7.0) -> bool:
    """Judge a version, the candidate where none is named; if it may lead, wait for a person to agree, then let it lead.

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
    asked = {"flow_filter": FlowFilter.model_validate({"name": {"any_": [promote.name]}})}
    paused = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}})
    with get_client(sync_client=True) as client:
        return [(str(run.id), run.name) for run in client.read_flow_runs(**asked, flow_run_filter=paused)]


def approve(run: str | None, *, agree: bool, by: str, why: str) -> str:
    """Answer a promotion that waits; the only one where none is named.

    Raises:
        PipelineError: there is none, or several and none was named.
    """
    there = [found for found, _ in waiting()]
    listed = ", ".join(there) or "none"
    if run is None and len(there) != 1:
        raise PipelineError(f"name the promotion to answer; waiting: {listed}")
    chosen = run or there[0]
    if chosen not in there:
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
    """Answer a promotion that waits, and say so.

    Raises:
        PipelineError: as `approve`.
    """
    prepared(root)
    with reachable(root):
        run = approve(run, agree=agree, by=by, why=why)
    console.print(Text(f"promotion {run} was given the answer {'agree' if agree else 'refuse'}; it goes on where it waits"))
