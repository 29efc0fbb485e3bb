"""What the policies of `sft`, `dpo` and `grpo` answer while they are trained, where the params have them watched.

The score by which a checkpoint is chosen is the mean of safety and helpfulness: the shares of the safety rows with the best
grade [K]. Refusals of harmless requests lower the one, answers to harmful ones the other, and a text that says nothing both.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from saferflow.data.rows import Answered, PromptRow
from saferflow.data.tables import read_table
from saferflow.errors import DataError
from saferflow.layout import TABLES
from saferflow.params import Params, Section
from saferflow.stages.entry import imports

if TYPE_CHECKING:
    from saferflow.training.watch import Watching

TABLE = TABLES / "watch.parquet"


def watched_inputs(stage: str, params: Params) -> tuple[list[Path], list[Section]]:
    """Files and parameters that a stage's policy depends on because it is watched; none where it is not."""
    chosen = getattr(params.watch, stage)
    return ([TABLE], [chosen, params.watch.judge]) if chosen is not None else ([], [])


def watch_of(stage: str, params: Params) -> "partial[Watching] | None":
    """What begins to watch a stage's trainer; None where the params do not want it.

    Raises:
        DataError: no safety row was set aside.
    """
    chosen = getattr(params.watch, stage)
    if chosen is None:
        return None
    rows = read_table(TABLE, PromptRow)
    if not any(row.kind == "safety" for row in rows):
        raise DataError(
            f"{TABLE} holds no safety row, and watch.{stage} wants some answered; raise watch.share, which is "
            f"{params.watch.share:g}, or set watch.{stage} to null"
        )
    with imports():
        from saferflow.evaluation.grading import grade, item
        from saferflow.judge.choice import judge_of
        from saferflow.training.watch import Watch, Watching

    judge = judge_of(params.watch.judge, "watch.judge")

    def graded(rows: Sequence[PromptRow], completions: Sequence[str]) -> list[Answered]:
        pairs = list(zip(rows, completions, strict=True))
        judge.prepare("grade", [item(row, text) for row, text in pairs])
        return [grade(row, stage, text, judge) for row, text in pairs]

    tokens = params.policy.max_completion_tokens
    return partial(Watching, Watch(rows, chosen, params.watch.batch_size, tokens, graded, figures))


def figures(answered: Sequence[Answered]) -> dict[str, float]:
    """The measures of watched rows that any row asks for, and their score, by the names of their curves."""
    from saferflow.evaluation.measures import scores
    from saferflow.training.looks import SCORE

    found = scores(answered)
    known = {f"watch_{name}": value for name, value in found.to_dict().items() if value is not None}
    if found.safety is None or found.helpfulness is None:
        return known
    return known | {SCORE: (found.safety + found.helpfulness) / 2}
