"""`saferflow sign`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


@app.command()
def sign(
    version: Annotated[str, typer.Argument(help="A registered version as 3 or v3, or an alias.")] = "candidate",
    key: Annotated[
        Path, typer.Option(metavar="PEM", envvar="SAFERFLOW_SIGNING_KEY", help="The private elliptic-curve key.")
    ] = ...,
) -> None:
    """Sign a registered version's files (OpenSSF model signing), and keep the signature with it.

    With gate.public_key in params.yaml a version leads and is exported only if it is signed. Where SAFERFLOW_SIGNING_KEY is set,
    every run signs what it registers. A password is read from SAFERFLOW_SIGNING_PASSWORD.

    Examples:

    `openssl ecparam -genkey -name prime256v1 -noout -out key.pem && openssl ec -in key.pem -pubout -out key.pub` ·
    `saferflow sign v3 --key key.pem`
    """
    _, params = project()
    from rich.console import Console

    from saferflow.cli.export import sign as write

    write(Console(highlight=False, soft_wrap=True), params, version, key)
