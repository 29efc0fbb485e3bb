"""`saferflow compare`: the inputs in which two pipeline runs differ, and the difference of their scores."""

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.cli import show
from saferflow.data.rows import Answered
from saferflow.data.tables import atomic, read_table
from saferflow.errors import PipelineError
from saferflow.evaluation.cost import Cost, cost_of, total
from saferflow.evaluation.gate import other_judge
from saferflow.evaluation.intervals import Paired, paired, unmatched
from saferflow.evaluation.report import Curve, Differing, render_report
from saferflow.evaluation.scores import evaluate_metrics
from saferflow.params import Params
from saferflow.release.pipeline_runs import COMMIT, PipelineRun, find
from saferflow.stages.gate import CANDIDATE, EVALUATED
from saferflow.tracking import runs

SECONDS = "stage_seconds"
SHORT = 10
ONE_TRAINING = (
    "one training each: the interval is over rows, and another seed may differ by more; several: saferflow compare v1,v3 v2,v4"
)


CURVES = {
    "sft": ("loss",),
    "dpo": ("loss", "rewards/margins"),
    "grpo": ("reward", "kl", "validity", "completions/mean_length"),
}
"""Stage -> figures of its trainer that the page draws."""


def compare(console: Console, params: Params, first: str, second: str, page: Path | None = None) -> None:
    """Print the differences from the first run to the second.

    Args:
        page: HTML file for the differences, with both runs' curves in one plot; None writes none.

    Raises:
        PipelineError: a run cannot be found; or, for the page, the runs did not answer the same rows.
    """
    before, after = (find(name, params.gate.registered_model) for name in (first, second))
    if before.run == after.run:
        raise PipelineError(f"{first} and {second} are the same pipeline run {before.run}; name two different ones")
    for run in (before, after):
        commit, dirty = run.tags.get(COMMIT, "unknown")[:SHORT], run.tags.get("saferflow.git.dirty") == "true"
        console.print(f"{run.reference}: run {run.run}, commit {commit}{' with uncommitted changes' if dirty else ''}")
    differing = _differing(before, after)
    for section in differing:
        _print_differing(console, section, before.reference, after.reference)
    _print_diff(console, *(run.tags.get(COMMIT, "") for run in (before, after)))
    _scores(console, params, before, after)
    _cost(console, before, after)
    if page is not None:
        _write_page(page, params, before, after, differing)
        console.print(f"page: {page}")


def _differing(before: PipelineRun, after: PipelineRun) -> list[Differing]:
    ours, theirs = before.files, after.files
    paths = {*ours, *theirs}
    data = {path for path in paths if path.startswith(("data/", "models/"))}
    code = {path for path in paths if path.startswith("src/")}
    sections = [_differing_values("Parameters that differ", before.params, after.params)]
    for title, wanted in (("Data and models that differ", data), ("Code that differs", code)):
        sections.append(
            _differing_values(
                title, *({path: side.get(path, "")[:SHORT] for path in wanted} for side in (ours, theirs))
            )
        )
    return sections


def _print_diff(console: Console, before: str, after: str) -> None:
    """Print the diff of the commits, if this checkout has both."""
    if before == after:
        return
    command = ["git", "diff", "--stat", before, after, "--", "src", "flows", "dvc.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout.strip():
        console.print(
            Text(f"Lines that differ (git diff {before[:SHORT]} {after[:SHORT]} -- src flows dvc.yaml)", "bold")
        )
        console.print(Text(done.stdout.rstrip()))


def _differing_values(title: str, before: Mapping[str, str], after: Mapping[str, str]) -> Differing:
    names = sorted(name for name in {*before, *after} if before.get(name, "") != after.get(name, ""))
    return Differing(title, tuple((name, before.get(name) or "-", after.get(name) or "-") for name in names))


def _print_differing(console: Console, section: Differing, first: str, second: str) -> None:
    if not section.rows:
        console.print(Text(f"{section.title}: none", "dim"))
        return
    table = Table(title=section.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", first, second):
        table.add_column(heading, overflow="fold")
    for row in section.rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _write_page(
    page: Path, params: Params, before: PipelineRun, after: PipelineRun, differing: Sequence[Differing]
) -> None:
    sides = {before.reference: before, after.reference: after}
    if len(sides) < 2:
        raise PipelineError(f"{before.reference} is named twice; a page compares two runs")
    rows = {name: answers_of(run) for name, run in sides.items()}
    if strangers := unmatched(rows[after.reference], rows[before.reference]):
        raise PipelineError(
            f"no page: {len(strangers)} rows are not the same on both sides, among them {strangers[0]}; compare the runs without "
            "--page, or evaluate both on the same rows: saferflow evaluate"
        )
    answered = [replace(row, policy=name) for name, answers in rows.items() for row in answers]
    metrics = evaluate_metrics(answered, params.evaluate, params.run.seed)
    curves = []
    for stage, figures in CURVES.items():
        for figure in figures:
            lines = {name: run.curve(stage, figure) for name, run in sides.items()}
            curves.append(Curve(f"{stage}: {figure.replace('_', ' ')}", lines))
    title = f"{before.reference} and {after.reference}"
    text = render_report(
        answered, metrics, None, params.evaluate, params.run.seed, differing=differing, curves=curves, title=title
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    with atomic(page) as partial:
        partial.write_text(text, encoding="utf-8")


def _scores(console: Console, params: Params, before: PipelineRun, after: PipelineRun) -> None:
    """Print the measures of both, and their paired difference if both answered the same rows."""
    differences, why = _paired(params, before, after)
    table = Table(title="Scores (percent)", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in (
        before.reference,
        after.reference,
        "difference, 95% interval" if params.gate.level == 0.95 else "difference",
    ):
        table.add_column(heading, justify="right")
    for name in show.COLUMNS:
        sides = [f"{run.metrics[name]:.1f}" if name in run.metrics else "-" for run in (before, after)]
        difference = differences.get(name)
        known = difference is not None and difference.difference is not None
        table.add_row(
            name.replace("_", " "),
            *sides,
            f"{difference.difference:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]" if known else "-",
        )
    console.print(table)
    console.print(Text(why, "yellow") if why else Text(ONE_TRAINING, "dim"))


def _paired(params: Params, before: PipelineRun, after: PipelineRun) -> tuple[dict[str, Paired], str]:
    try:
        theirs, ours = (answers_of(run) for run in (before, after))
    except PipelineError as error:
        return {}, f"no paired differences: {error}"
    if strangers := unmatched(ours, theirs):
        return (
            {},
            f"no paired differences: {len(strangers)} rows are not the same on both sides, among them {strangers[0]}",
        )
    if judges := other_judge(theirs, ours):
        return {}, f"no paired differences: the one was graded by {judges[0]}, the other by {judges[1]}"
    settings = {"resamples": params.evaluate.resamples, "level": params.gate.level, "seed": params.run.seed}
    return paired(ours, theirs, **settings), ""


def answers_of(run: PipelineRun) -> list[Answered]:
    """The answered rows of a run's candidate in its evaluation.

    Raises:
        PipelineError: MLflow no longer holds it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = runs.fetch_artifact(run.run, EVALUATED.name, Path(folder))
        return [row for row in read_table(path, Answered) if row.policy == CANDIDATE]


def _cost(console: Console, before: PipelineRun, after: PipelineRun) -> None:
    """Print the cost of each run's stages when their code ran; a cached stage costs nothing."""
    table = Table(title="What the stages that ran took", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", before.reference, after.reference):
        table.add_column(heading, justify="right" if heading else "left")
    costs: list[dict[str, Cost]] = [
        {stage: cost_of(part.metrics) for stage, part in run.stages.items() if SECONDS in part.metrics}
        for run in (before, after)
    ]
    for stage in dict.fromkeys((*before.stages, *after.stages)):
        table.add_row(stage, *(_spent(side[stage]) if stage in side else "from cache" for side in costs))
    table.add_row("all", *(_spent(total(side)) for side in costs))
    console.print(table)


def _spent(cost: Cost) -> str:
    parts = [show.duration(cost.seconds)]
    for value, unit in ((cost.cpu_hours, "CPU h"), (cost.gpu_hours, "GPU h"), (cost.kilowatt_hours, "kWh")):
        parts += [f"{value:.3g} {unit}"] if value is not None else []
    return ", ".join(parts + ([f"{cost.tokens:,} tokens"] if cost.tokens else []))
