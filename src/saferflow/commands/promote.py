"""`saferflow promote`."""

from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


@app.command()
def promote(
    version: Annotated[
        int | None, typer.Argument(help="A registered version; the candidate where none is named.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Judge it and say what would happen; move nothing.")
    ] = False,
    sign_off: Annotated[
        bool,
        typer.Option("--sign-off", help="Wait for a person to agree, also where gate.sign_off does not ask for it."),
    ] = False,
) -> None:
    """Judge a registered version by the gate and against the champion, and make it the champion if it may be.

    With --sign-off, or gate.sign_off in params.yaml, it waits for a week for somebody to agree: by `saferflow approve`, or on
    the page of the Prefect run.

    Exit status: 0 it is (or would be) the champion, 1 it may not be.

    Examples:

    `saferflow promote --dry-run` · `saferflow promote 3` · `saferflow promote --sign-off`
    """
    root, params = project()
    from rich.console import Console

    if not dry_run and (sign_off or params.gate.sign_off):
        from flows.promote import promote_with_sign_off

        leads = promote_with_sign_off(root, version)
    else:
        from saferflow.cli.promotion import promote as promote_at_once

        leads = promote_at_once(Console(highlight=False), root, params, version, dry_run=dry_run)
    raise typer.Exit(0 if leads else 1)
