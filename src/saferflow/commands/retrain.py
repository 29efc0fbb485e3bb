"""`saferflow retrain`."""

from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project_folder

app = single()


@app.command()
def retrain(
    force: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Run this stage even if nothing changed; may be repeated.")
    ] = None,
) -> None:
    """Look for new data, run what is stale, and tell someone what came of it; nothing new means that nothing runs.

    Sources that `saferflow data add` imported from an address are updated first. A run that fails, or whose version may not
    lead, leaves the champion in place. Where the environment variable SAFERFLOW_WEBHOOK holds an address, `promoted`,
    `rejected` and `failed` are sent there as JSON. Every run, also one with nothing to do, is an MLflow run named retrain.

    Examples:

    `saferflow retrain` · `saferflow retrain --force plan`

    By the clock: the deployment in prefect.yaml, docs/operations.md.
    """
    root = project_folder()
    from flows.retrain import retrain_once

    retrain_once(root, tuple(force or ()))
