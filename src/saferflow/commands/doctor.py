"""`saferflow doctor`."""

from pathlib import Path

import typer

from saferflow.commands.application import single

app = single()


@app.command()
def doctor() -> None:
    """Is everything that this machine needs there? What is missing comes with the way to get it."""
    from saferflow.cli.doctor import examine

    raise typer.Exit(0 if examine(Path.cwd()) else 1)
