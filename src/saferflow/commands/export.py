"""`saferflow export`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="A folder that is new or empty.")],
    version: Annotated[str, typer.Option(help="A registered version as 3 or v3, or an alias.")] = "champion",
) -> None:
    """Write a registered version to a folder that loads without saferflow: weights, processor, chat template, model card.

    Every file is compared with the hash in the registry first; changed ones are refused.

    Examples:

    `saferflow export served` · `saferflow export old --version v3`
    """
    root, params = project()
    from rich.console import Console

    from saferflow.cli.export import export as write

    write(Console(highlight=False, soft_wrap=True), root, params, version, to)
