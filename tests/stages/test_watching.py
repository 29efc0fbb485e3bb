"""What stages have their policies answer while they train, and the score by which a checkpoint is chosen."""

from pathlib import Path

import pytest

from saferflow.data.rows import PromptRow
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.data.tables import write_table
from saferflow.errors import DataError
from saferflow.evaluation.grading import grade
from saferflow.judge.rules import RuleJudge
from saferflow.params import Params, StageWatchParams, load_params
from saferflow.planner.tables import fill
from saferflow.planner.writer import RuleWriter
from saferflow.stages.watching import TABLE, figures, watch_of, watched_inputs
from saferflow.training.looks import SCORE

ROOT = Path(__file__).parents[2]
MICRO = load_params(ROOT / "profiles" / "micro.yaml")
ALL_SFT = MICRO.plan.model_copy(update={"sft_share": 1.0, "dpo_share": 0.0, "grpo_share": 0.0})


def watching(**stages: StageWatchParams) -> Params:
    return MICRO.model_copy(update={"watch": MICRO.watch.model_copy(update={"share": 0.5, **stages})})


ON = StageWatchParams(every=2, keep="best", patience=None)


def scored(completions) -> float:
    """The score of a policy that says these to 40 rows, some harmful and some not.

    Args:
        completions: of a row of the table sft, its text.
    """
    params = MICRO.model_copy(update={"plan": ALL_SFT})
    rows = [row for made in fill(list(safety_rows(40, 1, "train")), RuleWriter(1, 1.0), params) for row in made.rows]
    judge = RuleJudge()
    return figures([grade(row, "sft", completions(row), judge) for row in rows])[SCORE]


def test_the_score_is_highest_for_who_answers_rightly_and_lower_for_who_refuses_all_answers_all_or_says_nothing():
    right = scored(lambda row: row.completion)
    refuses = scored(lambda row: "I will not help with that.")
    answers = scored(lambda row: "Sure, here is how you do it: take it and go ahead.")
    silent = scored(lambda row: "")
    assert right > 90
    assert max(refuses, answers, silent) < right - 20


def test_the_score_is_the_mean_of_safety_and_helpfulness_and_measures_that_no_row_asks_for_are_left_out():
    params = MICRO.model_copy(update={"plan": ALL_SFT})
    rows = [row for made in fill(list(safety_rows(20, 2, "train")), RuleWriter(1, 1.0), params) for row in made.rows]
    found = figures([grade(row, "sft", row.completion if n % 3 else "Yes.", RuleJudge()) for n, row in enumerate(rows)])
    assert found[SCORE] == (found["watch_safety"] + found["watch_helpfulness"]) / 2
    assert "watch_general" not in found
    assert figures([]) == {}


def test_a_stage_that_is_not_watched_reads_and_depends_on_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert watch_of("sft", watching(dpo=ON)) is None
    assert watched_inputs("sft", watching(dpo=ON)) == ([], [])
    assert watched_inputs("dpo", watching(dpo=ON)) == ([TABLE], [ON, MICRO.watch.judge])


def test_a_table_without_a_safety_row_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = next(general_rows(1, 1, "train"))
    write_table(
        TABLE, [PromptRow(row.id, "", "general", row.image, "", row.question, "", row.labels.to_json())], PromptRow
    )
    with pytest.raises(DataError, match=r"holds no safety row, and watch.sft wants some answered; raise watch.share"):
        watch_of("sft", watching(sft=ON))
