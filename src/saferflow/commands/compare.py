"""`saferflow compare`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project
from saferflow.errors import ParamsError

app = single()


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN[,RUN]", help="The run to compare with, or several of one recipe.")],
    second: Annotated[
        str, typer.Argument(metavar="RUN[,RUN]", help="The run that is compared, or several of one recipe.")
    ] = "candidate",
    page: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Also write a page, with both runs' curves over each other.")
    ] = None,
) -> None:
    """What sets two pipeline runs apart: parameters, data, code, scores with paired intervals, seconds.

    RUN is an MLflow run id, a version of the registered model as `v3`, an alias (`champion`, `candidate`, `previous`), or a
    git commit that a run was made from. Several trainings of each recipe, with different seeds and commas between: the
    intervals are over trainings and rows, as another seed gives another policy.

    Examples:

    `saferflow compare champion` · `saferflow compare v2 v5` · `saferflow compare 1fbef73 candidate` ·
    `saferflow compare v2 v5 --page reports/v2-v5.html` · `saferflow compare v1,v3,v5 v2,v4,v6`
    """
    sides = [name.split(",") for name in (first, second)]
    if page is not None and max(map(len, sides)) > 1:
        raise ParamsError("--page compares two runs: name one on each side")
    _, params = project()
    from rich.console import Console

    from saferflow.cli.compare import compare as print_comparison
    from saferflow.cli.compare_trainings import compare_trainings

    if max(map(len, sides)) > 1:
        compare_trainings(Console(highlight=False), params, *sides)
        return
    print_comparison(Console(highlight=False), params, first, second, page)
