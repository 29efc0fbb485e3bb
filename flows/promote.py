"""Promotion with a person's agreement: judge, wait for somebody to say yes or no, move. `python -m flows.promote`"""

import argparse
from pathlib import Path
from uuid import UUID

from prefect import flow, pause_flow_run, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.exceptions import FlowPauseTimeout, ObjectNotFound, TerminationSignal
from prefect.flow_runs import resume_flow_run
from prefect.input import RunInput
from pydantic import Field
from rich.console import Console
from rich.text import Text

from flows.bridge import console, reachable
from flows.checkout import prepared
from saferflow.cli import show
from saferflow.cli.promotion import print_judgement
from saferflow.errors import PipelineError, SaferflowError
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


def main(argv: list[str] | None = None) -> int:
    """Promote, or answer one that waits.

    Returns:
        Exit status: 0 done, 1 it may not lead or was refused, 130 after an interrupt.
    """
    parser = argparse.ArgumentParser(prog="python -m flows.promote", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", type=int)
    parser.add_argument("--days", type=float, default=7.0, help="how long to wait for an answer")
    parser.add_argument("--answer", choices=["agree", "refuse"])
    parser.add_argument("--run", help="with --answer: the promotion that waits")
    parser.add_argument("--by", default="")
    parser.add_argument("--why", default="")
    asked = parser.parse_args(argv)
    try:
        prepared(Path.cwd())
        with reachable(Path.cwd()):
            if asked.answer is None:
                return 0 if promote(asked.version, asked.days) else 1
            run = approve(asked.run, agree=asked.answer == "agree", by=asked.by, why=asked.why)
            console.print(Text(f"told promotion {run}: {asked.answer}; it goes on where it waits"))
        return 0
    except SaferflowError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"error: {error}", style="red"))
        return 1
    except (KeyboardInterrupt, TerminationSignal):
        console.print("interrupted; nothing was moved")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
