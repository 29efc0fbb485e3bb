"""`saferflow rehearse`: a profile's stages for a few steps, and what the whole run would take, as tables."""

from collections.abc import Sequence
from functools import reduce
from operator import getitem
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.cli.show import duration
from saferflow.errors import PipelineError
from saferflow.evaluation.ablation import custom
from saferflow.params import Params
from saferflow.rehearsal.memory import Kinds
from saferflow.rehearsal.rehearsal import Part, Report
from saferflow.rehearsal.rehearsal import rehearse as carry_out
from saferflow.rehearsal.tables import Lengths

NOTHING = "–"
WIDTH = 140
"""Columns of the tables where the terminal has fewer."""


def rehearse(
    console: Console,
    root: Path,
    params: Params,
    settings: Sequence[str],
    *,
    steps: int,
    tokens: int,
    thin: bool,
    prompts: int | None,
) -> None:
    """Rehearse and print.

    Args:
        settings: values of one's own, as `saferflow run --set` takes them.

    Raises:
        ParamsError: a setting is no parameter of the profile, or out of its bounds.
        PipelineError: a stage failed; with its name and what it said.
    """
    tree = params.model_dump(mode="json", by_alias=True)
    for name, value in custom(params, settings).changes.items():
        *path, last = name.split(".")
        reduce(getitem, path, tree)[last] = value
    params = Params.model_validate(tree)
    report = carry_out(
        root, params, steps=steps, tokens=tokens, thin=thin, prompts=prompts, say=lambda line: console.print(Text(line))
    )
    show(console, report)
    if (failed := report.failed) is not None:
        raise PipelineError(f"rehearsal of {report.profile}: stage {failed.stage} failed: {failed.error}")


def show(console: Console, report: Report) -> None:
    wide = Console(width=max(console.width, WIDTH), file=console.file, highlight=False)
    wide.print(_stages(report))
    wide.print(_memory(report))
    for line in _remarks(report):
        console.print(Text(line))


def _stages(report: Report) -> Table:
    table = _table(
        f"{report.profile}, {'thin' if report.thin else 'real'}: {report.checkpoint}",
        "stage|rows|tokens min/median/max|image tokens|a step|stage took|whole run|its disk|outcome",
    )
    for part in report.parts:
        table.add_row(
            part.stage,
            f"{part.rows:,}" if part.tokens else NOTHING,
            _lengths(part.tokens),
            _lengths(part.images),
            f"{part.done.step_seconds:.2f} s" if part.done and part.done.step_seconds is not None else NOTHING,
            duration(part.done.seconds) if part.done else NOTHING,
            _hours(part.whole_seconds),
            _gigabytes(part.whole_disk) if part.whole_disk else NOTHING,
            Text("failed", "red") if part.error else Text("ran", "green"),
        )
    return table


def _memory(report: Report) -> Table:
    table = _table(
        "Memory in GB: measured, of all processes together; by kind, counted for one process",
        "stage|peak|GPU peak|weights|gradients|optimiser|reference|cache|beyond|whole run, a process",
    )
    for part in report.parts:
        kinds, there = part.kinds, part.whole_kinds
        counted = [_gigabytes(value) for value in _values(kinds)] if kinds else [NOTHING] * 5
        beyond = _gigabytes(_beyond(part)) if kinds and part.done else NOTHING
        peak = _gigabytes(part.done.memory) if part.done else NOTHING
        gpu = _gigabytes(part.gpu) if part.gpu else NOTHING
        table.add_row(part.stage, peak, gpu, *counted, beyond, _gigabytes(there.total) if there else NOTHING)
    return table


def _remarks(report: Report) -> list[str]:
    """What the figures are of, and the verdict."""
    hours = [part.whole_seconds for part in report.parts if part.whole_seconds is not None]
    rows = ", ".join(f"{name} {count:,}" for name, count in report.rows.items())
    lines = [f"not rehearsed: {what}" for what in report.replaced]
    lines += [
        f"whole run: rows {rows}; {_hours(sum(hours))} in the stages that were measured, at this machine's pace",
        f"a completion had {report.tokens} tokens at most; curate, grpo and evaluate are told for policy.max_completion_tokens",
    ]
    if report.thin:
        lines.append(f"times of the thin model were multiplied by {report.scaled:.1f}, the ratio of parameters: rough")
    lines += [
        f"{part.stage}: most memory was held after the last step, while the policy was saved"
        for part in report.parts
        if part.done and part.done.peaked_while_saving
    ]
    if report.failed is not None:
        lines.append(f"first to fail: {report.failed.stage}, in the rehearsal")
    lines += [f"the whole run would stop here: {stage}: {why}" for stage, why in report.obstacles]
    if report.failed is None and not report.obstacles:
        lines.append("nothing was found that would stop the whole run on this machine")
    return lines


def _beyond(part: Part) -> float:
    """Activations, libraries, and what else is not counted."""
    return max(0.0, (part.gpu or part.done.memory) - part.kinds.total)


def _values(kinds: Kinds) -> tuple[float, ...]:
    return kinds.weights, kinds.gradients, kinds.optimiser, kinds.reference, kinds.cache


def _lengths(lengths: Lengths | None) -> str:
    if lengths is None or not lengths.most:
        return NOTHING
    return f"{lengths.least:,}/{lengths.middle:,}/{lengths.most:,}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}" if size < 1e10 else f"{size / 1e9:.0f}"


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{seconds / 3600:.1f} h" if seconds >= 360 else duration(seconds)


def _table(title: str, headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings.split("|")):
        table.add_column(heading, justify="right" if number else "left")
    return table
