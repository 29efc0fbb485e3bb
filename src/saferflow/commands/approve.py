"""`saferflow approve`."""

from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project_folder

app = single()


@app.command()
def approve(
    run: Annotated[
        str | None, typer.Argument(help="The promotion's Prefect run; the one that waits where none is named.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who says so, for the ledger.")] = ...,
    why: Annotated[str, typer.Option(help="The reason, for the ledger.")] = "",
    refuse: Annotated[bool, typer.Option("--refuse", help="Say no: nothing is moved.")] = False,
) -> None:
    """Answer a promotion that waits for a person (`saferflow promote --sign-off`).

    Examples:

    `saferflow approve --by "A. Lovelace"` · `saferflow approve --by "A. Lovelace" --refuse --why "row 17 is wrong"`
    """
    root = project_folder()
    from flows.promote import answer

    answer(root, run, agree=not refuse, by=by, why=why)
