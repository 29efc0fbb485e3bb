"""`saferflow verify`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single

app = single()


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A folder that saferflow export wrote.")],
    key: Annotated[Path, typer.Option(metavar="PEM", help="The public key of whom it is to be signed by.")] = ...,
) -> None:
    """Hold an exported folder against its signature: every file as it was signed, none added, none lost.

    README.md and saferflow.json are not among the signed files. Exit status: 0 it holds, 1 it does not.

    Examples:

    `saferflow verify served --key key.pub`
    """
    from rich.console import Console

    from saferflow.cli.export import verify as hold

    hold(Console(highlight=False, soft_wrap=True), folder, key)
