"""`saferflow compare v1,v3 v2,v4`: two recipes, each trained several times with different seeds."""

from collections.abc import Sequence
from statistics import mean

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.cli import show
from saferflow.cli.compare import answers_of
from saferflow.errors import PipelineError
from saferflow.evaluation.gate import other_judge
from saferflow.evaluation.intervals import unmatched
from saferflow.evaluation.trainings import Apart, apart
from saferflow.params import Params
from saferflow.release.pipeline_runs import PipelineRun, find


def compare_trainings(console: Console, params: Params, first: Sequence[str], second: Sequence[str]) -> None:
    """Print each measure of both sides, and their difference with its interval over trainings and rows.

    Args:
        first, second: at least two runs of one recipe each, named as for `saferflow compare`.

    Raises:
        PipelineError: a side has one run or one run twice, a run is not found, or the runs answered different rows or were
            graded by different judges.
    """
    sides = tuple([find(name, params.gate.registered_model) for name in names] for names in (first, second))
    _refuse_repeated(sides)
    answered = [[answers_of(run) for run in side] for side in sides]
    every = [answers for side in answered for answers in side]
    for other in every[1:]:
        if strangers := unmatched(other, every[0]):
            raise PipelineError(
                f"{len(strangers)} rows are not the same in all runs, among them {strangers[0]}; evaluate all on the same "
                "rows: saferflow evaluate"
            )
        if judges := other_judge(other, every[0]):
            raise PipelineError(f"the runs were graded by different judges, {judges[0]} and {judges[1]}")
    differences = apart(*answered, resamples=params.evaluate.resamples, level=params.gate.level, seed=params.run.seed)
    console.print(_table(differences, sides, params.gate.level))
    for side in sides:
        if names := _other_recipes(side):
            console.print(Text(f"{_names(side)} are not one recipe: they differ in {', '.join(names)}", "yellow"))


def _refuse_repeated(sides: Sequence[Sequence[PipelineRun]]) -> None:
    for side in sides:
        if len(side) < 2:
            raise PipelineError(
                f"{side[0].reference} is one training, and a difference over trainings wants two at least on each side; name "
                "more, with commas between, or one on each side"
            )
    every = [run for side in sides for run in side]
    twice = [run.reference for place, run in enumerate(every) if run.run in {other.run for other in every[:place]}]
    if twice:
        raise PipelineError(f"{twice[0]} is the same pipeline run as another that is named; name each once")


def _other_recipes(side: Sequence[PipelineRun]) -> list[str]:
    """Parameters, except the seed, in which the trainings of a side differ."""
    names = {name for run in side for name in run.params if name.rpartition(".")[2] != "seed"}
    return sorted(name for name in names if len({run.params.get(name) for run in side}) > 1)


def _table(differences: dict[str, Apart], sides: Sequence[Sequence[PipelineRun]], level: float) -> Table:
    title = "Scores (percent): mean of the trainings (lowest-highest)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", *map(_names, sides), f"difference, {level:.0%} interval over trainings and rows"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in show.COLUMNS:
        if (measure := differences.get(name)) is not None:
            difference = f"{measure.difference:+.1f} [{measure.low:+.1f}, {measure.high:+.1f}]"
            table.add_row(name.replace("_", " "), *map(_spread, (measure.first, measure.second)), difference)
    return table


def _names(side: Sequence[PipelineRun]) -> str:
    return ", ".join(run.reference for run in side)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"
