"""Scheduled retraining: look for new data, run what is stale, and tell someone what came of it.

Nothing new means that nothing runs, and the record says so; where served requests lie far from the training rows, someone is told
that rows are missing: the same rows again would give the same policy. A run that fails, or whose version may not lead, leaves the
champion where it is.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.blocks.webhook import Webhook
from pydantic import SecretStr
from rich.text import Text

from flows import process
from flows.align import align
from flows.bridge import console, interruptible, reachable
from flows.checkout import alone, prepared
from saferflow.data.profile import LARGE, Shift
from saferflow.errors import SaferflowError
from saferflow.params import Params, load_params
from saferflow.release import registry
from saferflow.release.registration import Registered, pending
from saferflow.serving.drift import shifts_here
from saferflow.tracking import environment, graph, lineage, runs

WEBHOOK = "SAFERFLOW_WEBHOOK"
"""Environment variable with the webhook's address; it may hold a secret, so no file holds it."""
UNCHANGED, DRIFTED, PROMOTED, WAITING, REJECTED, FAILED = (
    "unchanged", "drifted", "promoted", "waiting", "rejected", "failed",
)  # fmt: skip
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a scheduled run."""

    outcome: str
    reason: str
    changed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Stage -> why it had to run."""
    champion: int | None = None
    champion_days: float | None = None
    """Days since the champion was registered; None without a champion."""
    ran: bool = True
    """Whether any stage ran, or should have run; the webhook is called then, and on drift."""
    served: dict[str, float] = field(default_factory=dict)
    """Aspect -> population stability index of served requests against the training rows; empty if it cannot be computed."""

    def payload(self) -> dict:
        """The JSON body that the webhook gets."""
        return {
            "text": f"saferflow: {self.outcome}: {self.reason}",  # what chat services show
            "outcome": self.outcome,
            "reason": self.reason,
            "changed": {stage: list(why) for stage, why in self.changed.items()},
            "champion": self.champion,
            "champion_days": self.champion_days,
            "served": self.served,
        }


@flow(name="retrain")
def retrain(force: tuple[str, ...] = ()) -> Outcome:
    """One scheduled run: look for new data, run the stale stages, report the outcome."""
    root = Path.cwd()
    environment.prepare(root=root)
    params = load_params(root / "params.yaml")
    try:
        with alone(root):
            runs.close_abandoned(lineage.checkout_id(root))
            outcome = bring_up_to_date(root, params, force)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        if runs.is_away(error):
            tell(Outcome(FAILED, message))
            raise
        failed = _outcome(params, FAILED, message)
        remember(root, params, failed)
        tell(failed)
        raise
    remember(root, params, outcome)
    tell(outcome)
    return outcome


def bring_up_to_date(root: Path, params: Params, force: tuple[str, ...]) -> Outcome:
    """Run the stale stages, if there are any."""
    update_imports(root)
    changed = graph.stale(root)
    shifts = served_shifts(root, params)
    if not changed and not force and not pending(root, params):
        outcome, reason = undisturbed(shifts)
        return replace(_outcome(params, outcome, reason), ran=False, served=_indices(shifts))
    done = align(force).registered
    return replace(_outcome(params, _name(done), done.reason, changed), served=_indices(shifts))


def _name(done: Registered) -> str:
    """The outcome after stages ran."""
    if done.unchanged:
        return UNCHANGED
    return PROMOTED if done.promoted else WAITING if done.waits else REJECTED


def served_shifts(root: Path, params: Params) -> list[Shift]:
    """How far served requests lie from the training rows; if that cannot be computed, print why and return nothing."""
    if params.serve.store is None:
        return []
    try:
        return shifts_here(root, params)[0]
    except SaferflowError as error:
        console.print(Text(f"no drift of served requests: {error}"))
        return []


def undisturbed(shifts: Sequence[Shift]) -> tuple[str, str]:
    """Outcome and reason of a run without new data, code or parameters."""
    reason = "neither data nor code nor parameters changed since the last run"
    large = [shift for shift in shifts if shift.index >= LARGE]
    if not large:
        return UNCHANGED, reason
    listing = "; ".join(f"{shift.aspect} {shift.index:.2f}, {_most(shift)}" for shift in large)
    way = "add rows like them: saferflow incident add, saferflow data add; saferflow data drift --served shows more"
    return DRIFTED, f"{reason}, but served requests lie far from the training rows ({listing}); {way}"


def _most(shift: Shift) -> str:
    name, trained, served = shift.moves[0]
    return f"{name} {100 * trained:.1f}% of the rows and {100 * served:.1f}% of the requests"


def _indices(shifts: Sequence[Shift]) -> dict[str, float]:
    return {shift.aspect: round(shift.index, 4) for shift in shifts}


def update_imports(root: Path) -> None:
    """Update the sources that `dvc import-url` imported from their origins.

    Raises:
        SaferflowError: `dvc update` failed.
    """
    for pointer in sorted((root / "data" / "sources").glob("*.dvc")):
        if "deps:" in pointer.read_text(encoding="utf-8"):
            status = process.run([*graph.DVC, "update", str(pointer)], root, root / "logs" / "update.log", {}, print)
            if status:
                raise SaferflowError(f"{pointer}: dvc update failed (exit status {status}); see logs/update.log")


def _outcome(params: Params, outcome: str, reason: str, changed: dict[str, tuple[str, ...]] | None = None) -> Outcome:
    champion = registry.by_alias(params.gate.registered_model, registry.CHAMPION)
    days = round((time.time() - registry.registered_at(champion)) / DAY, 2) if champion else None
    return Outcome(outcome, reason, changed or {}, champion.number if champion else None, days)


def remember(root: Path, params: Params, outcome: Outcome) -> None:
    """Log the outcome as an MLflow run, so that a week without a pipeline run is recorded too."""
    tags = {
        **lineage.run_tags(root, params.run.profile, ""),
        lineage.PREFIX + "outcome": outcome.outcome,
        runs.NOTE: f"{outcome.outcome}: {outcome.reason}",
    }
    run = runs.start("retrain", tags)
    numbers = {"champion_days": outcome.champion_days} if outcome.champion_days is not None else {}
    numbers |= {f"served_drift_{aspect.replace(' ', '_')}": index for aspect, index in outcome.served.items()}
    runs.log_numbers(run, numbers)
    runs.finish(run, "FAILED" if outcome.outcome == FAILED else "FINISHED")


def tell(outcome: Outcome) -> None:
    """Print the outcome, and send it to the webhook if one is set; an unreachable webhook is reported and stops nothing."""
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    console.print(Text(f"{stamp} {outcome.outcome}: {outcome.reason}"))
    address = os.environ.get(WEBHOOK)
    if address and (outcome.ran or outcome.outcome == DRIFTED):
        try:
            asyncio.run(Webhook(url=SecretStr(address)).call(outcome.payload())).raise_for_status()
        except Exception as error:  # whatever a stranger's server does, the run is what it is
            console.print(Text(f"the webhook in {WEBHOOK} was not reached: {type(error).__name__}", style="red"))


def retrain_once(root: Path, force: tuple[str, ...]) -> None:
    """Run the flow `retrain` here and now; the deployment in `prefect.yaml` runs it on schedule."""
    prepared(root)
    message = "interrupted. Finished stages are kept; the next run goes on with the one that was not."
    with interruptible(message), reachable(root):
        retrain(force)
