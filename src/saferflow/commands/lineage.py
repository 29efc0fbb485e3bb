"""`saferflow lineage`."""

from typing import Annotated

import typer

from saferflow.commands.application import group
from saferflow.commands.project import Format, project

app = group("Versions and the rows that they saw, whatever data came since.")


@app.command()
def who(
    row: Annotated[str, typer.Argument(help="A row's id, as in the tables and on the audit pages.")],
    output: Annotated[Format, typer.Option("--format", help="Lines, or one JSON object.")] = Format.TEXT,
) -> None:
    """Which models saw this record: what a request for deletion needs.

    Every table that any run has read is asked, those of former data too, from DVC's cache or remote; where one is gone, that
    is said.

    Examples:

    `saferflow lineage who scenes-train-000004`
    """
    _, params = project()
    from rich.console import Console

    from saferflow.cli.lineage import print_who
    from saferflow.cli.lineage import who as ask

    print_who(Console(highlight=False, soft_wrap=True), params, ask(params, row), as_json=output is Format.JSON)


@app.command()
def why(
    version: Annotated[str, typer.Argument(help="A registered version as 3 or v3, or an alias.")],
    row: Annotated[str, typer.Argument(help="A row's id.")],
    output: Annotated[Format, typer.Option("--format", help="Lines, or one JSON object.")] = Format.TEXT,
) -> None:
    """What a version was shown of a row, stage by stage, and what it answers where the row is held out.

    Examples:

    `saferflow lineage why champion scenes-evaluation-000003` · `saferflow lineage why v2 scenes-train-000004 --format json`
    """
    _, params = project()
    from rich.console import Console

    from saferflow.cli.lineage import why as tell

    tell(Console(highlight=False, soft_wrap=True), params, version, row, as_json=output is Format.JSON)
