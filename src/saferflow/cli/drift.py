"""`saferflow data drift`: how far the tables have moved from a former version of the data, or served requests from the tables."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.data.profile import LARGE, SHIFTED, Shift
from saferflow.errors import PipelineError
from saferflow.params import Params
from saferflow.release import data_versions, pipeline_runs

MOVES = 3
"""The most bins that are named per aspect."""


def tell(root: Path, params: Params, reference: str | None, console: Console) -> list[Shift]:
    """Print how far the data of this checkout lies from another version.

    Args:
        reference: a run as for `saferflow compare`; None: the newest version in MLflow that differs.

    Raises:
        PipelineError: there is no such run, or no version to compare with.
    """
    here = data_versions.profile_in(root)
    run = (
        _validated(pipeline_runs.find(reference, params.gate.registered_model))
        if reference
        else data_versions.former(here)
    )
    if run is None:
        raise PipelineError(
            "MLflow holds no other version of the data; there is one when the sources or params changed"
        )
    shifts = data_versions.shifts(here, run)
    console.print(Text(f"this checkout's tables against those of MLflow run {run}"))
    _print(shifts, "rows", console)
    return shifts


def tell_served(root: Path, params: Params, console: Console) -> list[Shift]:
    """Print how far the requests that the server kept lie from this checkout's training tables.

    Raises:
        PipelineError: none were kept, too few, or there is no profile of the tables.
    """
    from saferflow.serving.drift import shifts_here

    shifts, requests = shifts_here(root, params)
    console.print(Text(f"{requests:,} served requests against this checkout's training tables"))
    _print(shifts, "rows and of the requests", console)
    return shifts


def _print(shifts: list[Shift], whose: str, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("table", "aspect", "index", "", f"what moved most, in percent of the {whose}"):
        table.add_column(name, justify="right" if name == "index" else "left")
    for shift in shifts:
        moved = ", ".join(
            f"{name} {100 * old:.1f} -> {100 * new:.1f}" for name, old, new in shift.moves[:MOVES] if old != new
        )
        table.add_row(shift.table, shift.aspect, f"{shift.index:.3f}", shift.verdict, moved or "nothing")
    console.print(table)
    console.print(Text(f"index: population stability; {SHIFTED} is a shift, {LARGE} a large one"))


def _validated(run: pipeline_runs.PipelineRun) -> str:
    part = run.stages.get("validate")
    if part is None:
        raise PipelineError(f"run {run.run} has no stage validate; name another")
    return part.tags.get(pipeline_runs.lineage.PRODUCED_BY) or part.run
