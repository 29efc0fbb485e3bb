"""`saferflow rollback`."""

from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


@app.command()
def rollback(
    why: Annotated[str, typer.Option(help="The reason, for the ledger.")] = "rolled back by hand",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; move nothing.")] = False,
) -> None:
    """Make the previous champion the champion again; a second rollback takes it back."""
    _, params = project()
    from rich.console import Console

    from saferflow.cli import promotion

    promotion.rollback(Console(highlight=False), params, why, dry_run=dry_run)
