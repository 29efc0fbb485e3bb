"""`saferflow rehearse`: runs a profile's stages for a few steps, and prints tables of what the whole run needs."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.cli.show import duration, wide
from saferflow.errors import PipelineError
from saferflow.evaluation.ablation import changed
from saferflow.params import Params
from saferflow.rehearsal.pace import SHORT
from saferflow.rehearsal.rehearsal import rehearse as carry_out
from saferflow.rehearsal.report import Report
from saferflow.rehearsal.tables import Lengths

NOTHING = "–"
WIDTH = 140
"""The fewest terminal columns that the tables use."""


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
    processes: int | None = None,
) -> None:
    """Rehearse a profile, and print its report.

    Args:
        settings: values of one's own, as `saferflow run --set` takes them.

    Raises:
        ParamsError: a setting is no parameter of the profile, or out of its bounds.
        PipelineError: a stage failed; with its name and what it said.
    """
    params, _ = changed(params, settings)
    report = carry_out(
        root, params, steps=steps, tokens=tokens, thin=thin, prompts=prompts, processes=processes,
        say=lambda line: console.print(Text(line)),
    )  # fmt: skip
    show(console, report)
    if (failed := report.failed) is not None:
        raise PipelineError(f"rehearsal of {report.profile}: stage {failed.stage} failed: {failed.error}")


def show(console: Console, report: Report) -> None:
    """Print a report: the stages, their memory, the whole run, and remarks."""
    tables = wide(console, WIDTH)
    tables.print(Text(f"{report.profile}, {'thin' if report.thin else 'real'}: {report.checkpoint}"), soft_wrap=True)
    tables.print(_stages(report))
    tables.print(_memory(report))
    if any(part.whole_kinds for part in report.parts):
        tables.print(_whole(report))
    for line in _remarks(report):
        console.print(Text(line))


def _stages(report: Report) -> Table:
    table = _table(
        "Stages",
        "stage|rows|tokens min/median/max|image tokens|a step|stage took|outcome",
    )
    for part in report.parts:
        table.add_row(
            part.stage,
            f"{part.rows:,}" if part.tokens else NOTHING,
            _lengths(part.tokens),
            _lengths(part.images),
            f"{part.done.step_seconds:.2f} s" if part.done and part.done.step_seconds is not None else NOTHING,
            duration(part.done.seconds) if part.done else NOTHING,
            Text("failed", "red") if part.error else Text("ran", "green"),
        )
    return table


def _memory(report: Report) -> Table:
    table = _table(
        "Memory in GB: peak of all processes together; by kind, counted for one process; beyond = the peak less what is counted",
        "stage|peak|GPU peak|weights|gradients|optimiser|reference|cache|beyond",
    )
    for part in report.parts:
        counted = [_gigabytes(value) for value in astuple(part.kinds)] if part.kinds else [NOTHING] * 5
        beyond = _gigabytes(part.beyond) if part.kinds and part.done else NOTHING
        peak = _gigabytes(part.done.memory) if part.done else NOTHING
        table.add_row(part.stage, peak, _gigabytes(part.gpu) if part.gpu else NOTHING, *counted, beyond)
    return table


def _whole(report: Report) -> Table:
    """The whole run, with how each time was computed."""
    table = _table(
        "The whole run, at this machine's pace; memory without activations",
        "stage|time|computed as|memory, GB a process|disk, GB",
    )
    for part in report.parts:
        if part.whole_kinds is None:
            continue
        disk = part.whole_disk.policy + part.whole_disk.checkpoints if part.whole_disk else 0.0
        table.add_row(
            part.stage,
            _hours(part.whole.seconds) if part.whole else NOTHING,
            part.whole.sum if part.whole else "not measured",
            _gigabytes(part.whole_kinds.total),
            _gigabytes(disk) if disk else NOTHING,
        )
    return table


def _remarks(report: Report) -> list[str]:
    """What the figures describe, and the verdict."""
    measured = [part.whole.seconds for part in report.parts if part.whole and part.whole.seconds is not None]
    rows = ", ".join(f"{name} {count:,}" for name, count in report.rows.items())
    lines = [f"not rehearsed: {what}" for what in report.replaced]
    lines.append(f"rows of the whole run: {rows}")
    if measured:
        lines.append(f"hours of the whole run: {_hours(sum(measured))} in the stages that were measured")
        lines.append(
            f"a completion had {report.tokens} tokens at most, and {SHORT} in a second run: the line through both gives the "
            "seconds of all but the completion (prompts, update) and those of a token"
        )
    if report.thin and report.scaled != 1:
        lines.append(f"times of the thin model were multiplied by {report.scaled:.1f}, the ratio of parameters: rough")
    lines += [
        f"{part.stage}: most memory was held after the last step, while the policy was saved"
        for part in report.parts
        if part.done and part.done.peaked_while_saving
    ]
    return lines + _verdict(report)


def _verdict(report: Report) -> list[str]:
    """The first obstacle, and the obstacles after it."""
    if report.failed is not None:
        return [f"first to fail: {report.failed.stage}, in the rehearsal"]
    if not report.obstacles:
        return ["nothing was found that would stop the whole run on this machine"]
    (stage, why), *others = report.obstacles
    return [f"the first thing that would fail: {stage}: {why}", *(f"then: {stage}: {why}" for stage, why in others)]


def _lengths(lengths: Lengths | None) -> str:
    if lengths is None or not lengths.most:
        return NOTHING
    return f"{lengths.least:,}/{lengths.middle:,}/{lengths.most:,}"


def _gigabytes(size: float) -> str:
    if 0 < size < 1e7:
        return "<0.01"
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
