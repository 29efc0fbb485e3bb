"""From rows to rows of the tables."""

from dataclasses import replace
from pathlib import Path

import pytest

from saferflow.data.rows import SFTRow, whole_question
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.params import load_params
from saferflow.planner.tables import fill
from saferflow.planner.writer import RuleWriter

PARAMS = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
TURNS = (("What is this?", "A knife."), ("And where is it?", "In the kitchen."))
SHARES = {"sft": (1.0, 0.0, 0.0), "dpo": (0.0, 1.0, 0.0), "grpo": (0.0, 0.0, 1.0)}


def planned(rows, **plan):
    """The rows of the tables that `fill` makes of rows, by the rule writer."""
    params = PARAMS.model_copy(update={"plan": PARAMS.plan.model_copy(update=plan)})
    return fill(rows, RuleWriter(params.run.seed, params.plan.tool_coverage), params)


@pytest.mark.parametrize("table", [*SHARES, "evaluation"])
def test_earlier_turns_come_through_to_every_table(table):
    shares = dict(zip(("sft_share", "dpo_share", "grpo_share"), SHARES.get(table, SHARES["sft"]), strict=True))
    split = "evaluation" if table == "evaluation" else "train"
    last = next(safety_rows(1, 1, split))
    [made] = planned([replace(last, question=whole_question(TURNS, last.question), earlier=TURNS)], **shares)
    assert made.table == table
    assert made.rows
    assert {(row.turns, row.last_question) for row in made.rows} == {(TURNS, last.question)}


def test_a_general_row_keeps_its_earlier_turns():
    last = next(general_rows(1, 1, "train"))
    [made] = planned([replace(last, question=whole_question(TURNS, last.question), earlier=TURNS)])
    [row] = made.rows
    assert isinstance(row, SFTRow)
    assert (row.turns, row.last_question) == (TURNS, last.question)
