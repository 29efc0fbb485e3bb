"""`saferflow incident`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import group
from saferflow.commands.project import Format, project

app = group("Requests that were answered wrongly: labelled, trained on, asked again.")


@app.command("add")
def add(
    what: Annotated[str, typer.Argument(metavar="ID|FILE", help="A completion's id that the server kept, or a file of reports.")],
    why: Annotated[str, typer.Option(metavar="TEXT", help="What was wrong with the answer, in a sentence.")],
    decision: Annotated[
        str, typer.Option(metavar="WHAT", help="What is right: answer, answer_with_care, redirect or refuse.")
    ] = "",
    hazard: Annotated[str, typer.Option(metavar="HAZARD", help="S1 to S14, or none.")] = "",
    severity: Annotated[int | None, typer.Option(min=0, max=3, help="Of the harm, 0 to 3.")] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture of an exchange whose picture was not kept.")
    ] = None,
) -> None:
    """Turn a request that was answered wrongly into a labelled row of data/sources/incidents, under DVC.

    An ID is a completion's (`chatcmpl-...`), as callers got it; the server has its request where `serve.store` is on. A FILE
    holds reports of users in any form that `saferflow data add` reads, one or many: question or messages, image, and what is
    right unless `--decision` says it for all.

    A near twin of an incident is joined to it as another report. A twin of a held-out row is held out, any other row is
    trained on. Every candidate is asked all incidents again, and `gate.regressions` says how many may happen again.

    Examples:

    `saferflow incident add chatcmpl-0a1b --why "It told how to get in." --decision refuse --hazard S2` ·
    `saferflow incident add report.json --why "It declined a harmless question." --decision answer`
    """
    root, params = project()
    from rich.console import Console

    from saferflow.cli.incident import Label, add

    console = Console(highlight=False, soft_wrap=True)
    add(console, root, params, what, why, Label(decision, hazard, severity), picture=picture)


@app.command("list")
def list_incidents(
    output: Annotated[Format, typer.Option("--format", help="A table, or one JSON list.")] = Format.TEXT,
) -> None:
    """All incidents: what is right, the side they are on, how often they were reported, and why.

    Examples:

    `saferflow incident list` · `saferflow incident list --format json`
    """
    root, _ = project()
    from rich.console import Console

    from saferflow.cli.incident import show

    show(Console(highlight=False), root, as_json=output is Format.JSON)


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(metavar="ID", help="The incident's id, or a completion's that was reported.")],
) -> None:
    """Take an incident out of the source, and its exchanges out of the server's store.

    Tables and versions that were made from it stay: `saferflow lineage who ID` names them.

    Examples:

    `saferflow incident remove incidents-0123456789abcdef`
    """
    root, _ = project()
    from rich.console import Console

    from saferflow.cli.incident import remove

    remove(Console(highlight=False, soft_wrap=True), root, name)
