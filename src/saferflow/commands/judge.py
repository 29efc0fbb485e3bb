"""`saferflow judge`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project
from saferflow.layout import EVALUATED, EVALUATION

app = single()


@app.command()
def judge(
    misses: Annotated[
        int, typer.Option(metavar="N", help="List so many of the responses that were graded otherwise.")
    ] = 0,
    held_back: Annotated[
        bool, typer.Option("--held-back", help="Only the half of the responses that no rule may be written by.")
    ] = False,
    on: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Evaluated responses instead (data/evaluated.parquet), or people's grades (data/labels.jsonl)."
        ),
    ] = None,
    rows: Annotated[Path, typer.Option(metavar="PARQUET", help="With --on: the rows that were evaluated.")] = EVALUATION,
) -> None:
    """Measure the judge of params.yaml, and the rule judge beside it, on 125 responses whose grades are known.

    Exact agreement, agreement within one point, Krippendorff's alpha and a confusion table for each rubric; then how often a
    judge sees what is there and what a rate that it measures stands for.

    With --on, the judges grade responses that were evaluated: how they agree with the grades that stand there and with each
    other, and every policy's rates by each, with what they stand for by the judge's errors. With --on people's grades, which
    `saferflow label` collects: how people agree with each other and with each judge, and what the evaluated rates are by people.

    Examples:

    `saferflow judge` · `saferflow judge --misses 10` · `saferflow judge --held-back` ·
    `saferflow judge --on data/evaluated.parquet` · `saferflow judge --on data/labels.jsonl`
    """
    _, params = project()
    from rich.console import Console

    if on and on.suffix == ".jsonl":
        from saferflow.cli.label import judge_by_people

        judge_by_people(Console(highlight=False), params, on, EVALUATED, rows)
        return

    from saferflow.cli.judge import judge, judge_answers
    from saferflow.data.rows import Answered, PromptRow
    from saferflow.data.tables import read_table

    if on:
        judge_answers(Console(highlight=False), params, read_table(on, Answered), read_table(rows, PromptRow))
        return
    judge(Console(highlight=False), params, misses=misses, held_back=held_back)
