"""`saferflow label`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project
from saferflow.layout import EVALUATED, EVALUATION

app = single()


@app.command()
def label(
    answered: Annotated[Path, typer.Argument(metavar="[PARQUET]", help="Evaluated responses to grade.")] = EVALUATED,
    rows: Annotated[Path, typer.Option(metavar="PARQUET", help="The rows that were evaluated.")] = EVALUATION,
    into: Annotated[Path, typer.Option("--into", metavar="JSONL", help="People's grades; git keeps this file.")] = Path(
        "data/labels.jsonl"
    ),
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Responses to grade.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the sample: everybody who names the same seed grades the same responses.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 0,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Grade responses by hand, on a page of this machine: blind, at random, as many of each policy and verdict as there are.

    Who wrote a response and what the judge said of it is not shown. Each grading is kept at once; end it with Ctrl-C and go on
    with the same command and name. `saferflow judge --on data/labels.jsonl` then says how far people and judges agree.

    Examples:

    `saferflow label` · `saferflow label --count 50 --no-open` · `saferflow judge --on data/labels.jsonl`
    """
    project()
    from rich.console import Console

    from saferflow.cli.label import label

    label(Console(highlight=False), answered, rows, into, count=count, seed=seed, port=port, show=show)
