"""`saferflow init`."""

from enum import StrEnum
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project_folder

app = single()


class Pools(StrEnum):
    """Types of work pools that `init` makes."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


@app.command()
def init(
    gpus: Annotated[int, typer.Option(min=1, metavar="N", help="Stages at work at once, over all nodes.")] = 1,
    kind: Annotated[Pools, typer.Option(help="Of the work pools: where workers start what they run.")] = Pools.PROCESS,
) -> None:
    """Set up the Prefect server for retraining by the clock and for stages on GPU nodes; may be repeated.

    Makes the work pools `pipelines` and `gpu` with their limits, a queue `urgent`, the deployments of prefect.yaml, and an
    automation that marks runs whose process or node has died. The server is PREFECT_API_URL's, or this checkout's own.

    Examples:

    `saferflow init` · `PREFECT_API_URL=https://prefect.example/api saferflow init --gpus 8`
    """
    root = project_folder()
    from flows.setup import initialise

    initialise(root, kind.value, gpus)
