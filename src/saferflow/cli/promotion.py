"""`saferflow promote`, `rollback` and `ledger`."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.cli import show
from saferflow.errors import PipelineError
from saferflow.params import Params
from saferflow.release import registry
from saferflow.release.verdict import Judged, gate_verdict, judged, lead


def promote(console: Console, root: Path, params: Params, number: int | None, *, dry_run: bool) -> bool:
    """Judge a version (the candidate if none is named), promote it if it may lead, and print what was done and why.

    Returns:
        Whether it is the champion, or with `dry_run` would be.
    """
    judgement = judged(root, params, number, keep=not dry_run)
    print_judgement(console, judgement)
    if not judgement.allowed:
        console.print("nothing was moved")
        return False
    if dry_run:
        signed = ", once somebody signs it off (gate.sign_off)" if params.gate.sign_off else ""
        console.print(f"it would be made {registry.CHAMPION}{signed}; nothing was moved (--dry-run)")
        return True
    lead(judgement, judgement.reason)
    console.print(show.version_line(judgement.version.model))
    return True


def print_judgement(console: Console, judgement: Judged) -> None:
    """Print the gate's checks, and the verdict."""
    for line in show.verdict_lines(gate_verdict(judgement.version)):
        console.print(line)
    console.print(judgement.summary)


def rollback(console: Console, params: Params, reason: str, *, dry_run: bool) -> None:
    """Make the previous champion the champion again."""
    model = params.gate.registered_model
    if dry_run:
        champion, previous = registry.by_alias(model, registry.CHAMPION), registry.by_alias(model, registry.PREVIOUS)
        if champion is None or previous is None:
            raise PipelineError(f"{model} has no champion and previous version, so there is nothing to go back to")
        console.print(f"version {previous.number} would take the place of version {champion.number}; nothing was moved")
        return
    now, before = registry.rollback(model, reason)
    console.print(f"{model}: version {now.number} is champion again, in the place of version {before.number}")


def history(console: Console, model: str) -> None:
    """Print all changes of aliases; a move that was cut short is finished first, and a damaged ledger is an error."""
    lines, astray = registry.history(model)
    if not lines:
        console.print(f"no alias of {model} has been moved yet")
        return
    count = "1 line" if len(lines) == 1 else f"{len(lines)} lines, each follows the one before it"
    table = Table(title=count, title_justify="left", box=None)
    for heading in ("time", "alias", "from", "to", "by", "why"):
        table.add_column(heading)
    for line in lines:
        for number, (alias, versions) in enumerate(line.moves.items()):
            from_to = [str(version) if version else "-" for version in versions]
            first = number == 0
            table.add_row(
                line.time if first else "",
                alias,
                *from_to,
                line.by if first else "",
                Text(line.reason if first else ""),
            )
    console.print(table)
    for alias, (recorded, actual) in astray.items():
        where = f"to version {actual}" if actual else "to none"
        console.print(
            Text(f"{alias} points {where}, and the ledger says version {recorded}: it was moved by hand", "yellow")
        )
