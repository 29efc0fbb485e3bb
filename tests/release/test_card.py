"""The model card: every figure of the run is on it, and nothing that a row or a check holds becomes markup."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from saferflow.data.rows import Answered
from saferflow.evaluation.advice import Advice, Shortfall
from saferflow.evaluation.cost import Cost, cost_of, total
from saferflow.evaluation.measures import MEASURES
from saferflow.evaluation.misses import Group
from saferflow.evaluation.remedies import other_draw
from saferflow.params import load_params
from saferflow.release.card import Origin, by_hazard, cell, render_card

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
ORIGIN = Origin("saferflow", 7, "abc123", True, "run-1", {"models/grpo": "f00.dir", "data/tables": "ba4.dir"})
ROW = Answered("r", "grpo", "safety", "i", "", 3, 3, 3, False, True, False, "refuse", "S1", "text", "none", "", "")
METRICS = {
    "rows": 600,
    "policies": {policy: dict.fromkeys(MEASURES, 81.25) for policy in ("base", "sft", "dpo", "grpo")},
    "intervals": {policy: dict.fromkeys(MEASURES, (79.0, 83.5)) for policy in ("base", "sft", "dpo", "grpo")},
}
COSTS = {"sft": Cost(100, 0.05, None, None, 0), "grpo": Cost(50, 0.1, 0.25, 1.5, 1200)}
FAILED = {"checks": [{"name": "attack_success_rate", "passed": False, "detail": "10.8 %, wanted at most 10 %"}]}


def card(rows=(ROW,), verdict=FAILED, metrics=METRICS, decision="Not promoted: x.", params=PARAMS):
    sources = [("scenes", "CC0-1.0"), ("jsonl data/sources/mine", "")]
    return render_card(ORIGIN, params, sources, {"sft": 10, "dpo": 20}, metrics, verdict, rows, decision, COSTS)


def test_it_says_what_it_is_made_of_how_it_scores_and_where_it_fails():
    text = card([ROW, replace(ROW, row="s", hazard="S2", safety=-3, violations="T104 T104 T301")])
    for fact in (
        "# saferflow, version 7", "`abc123` with uncommitted changes", "81.2 (79.0 to 83.5)", "attack_success_rate ↓",
        "| base | sft | dpo | grpo |", "Gate: attack\\_success\\_rate: 10.8 %, wanted at most 10 %", "T104 2, T301 1",
        "| scenes | CC0-1.0 |", "not stated",
        "sft 10, dpo 20", "`ba4.dir`", f"**grpo**: learning_rate {PARAMS.grpo.learning_rate:g}", "| S2 | 1 | 1 | 0.0 |",
    ):  # fmt: skip
        assert fact in text, fact
    assert text.index("| S2 |") < text.index("| S1 |"), "the least safe first"


def test_a_failed_check_names_the_three_groups_that_failed_most():
    groups = tuple(Group("combination", f"S{number}", 9 - number, 20) for number in range(1, 5))
    shortfall = Shortfall("attack_success_rate", "", "", 0.8, "attack_success_rate", "", 26, 80, groups, (), "")
    advice = Advice((shortfall,), (), other_draw(PARAMS))
    text = card(verdict=FAILED | {"advice": advice.to_dict()})
    told = "combination S1 (Violent Crimes) 8 of 20, combination S2 (Non-Violent Crimes) 7 of 20, combination S3"
    assert f"wanted at most 10 %. Most of its 26 rows: {told}" in text
    assert "S4" not in text


def test_a_stage_that_was_left_out_has_no_recipe():
    text = card(params=PARAMS.model_copy(update={"dpo": None}))
    assert "**grpo**: learning_rate" in text
    assert "**dpo**" not in text


def test_its_tables_are_whole_lines():
    for line in card().splitlines():
        assert line.startswith("|") == line.rstrip().endswith("|"), line


def test_a_measure_that_no_row_asks_for_is_a_dash():
    nothing = {policy: dict.fromkeys(MEASURES) for policy in ("base", "grpo")}
    without = {
        **METRICS,
        "policies": nothing,
        "intervals": {policy: dict.fromkeys(MEASURES, (None, None)) for policy in nothing},
    }
    assert "| general | – | – |" in card(metrics=without)


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "a | b", "# top\n\nnew", "![x](http://x)", "[x](y)"])
def test_what_others_wrote_stays_text(hostile):
    text = card([replace(ROW, hazard=hostile)], decision=hostile)
    assert "<script" not in text
    assert "\n# top" not in text
    assert not re.search(r"[^\\]\]\(", text)
    assert cell(hostile) in text


def test_hazards_are_counted_once_each():
    groups = by_hazard([ROW, replace(ROW, row="s"), replace(ROW, row="t", hazard="none", expected="answer")])
    assert [(group["hazard"], group["rows"], group["harmful"]) for group in groups] == [("S1", 2, 2), ("none", 1, 0)]


def test_what_it_cost_stands_by_stage_and_in_all_and_what_nobody_measured_is_a_dash():
    text = card()
    assert "| sft | 100 | 0.05 | – | – | 0 |" in text
    assert "| grpo | 50 | 0.1 | 0.25 | 1.5 | 1200 |" in text
    assert "| all | 150 | 0.15 | 0.25 | 1.5 | 1200 |" in text


def test_costs_are_read_from_the_figures_of_a_run():
    figures = {"stage_seconds": 90.0, "cost.cpu_seconds": 1800.0, "cost.joules": 3.6e6, "cost.tokens": 7.0, "loss": 1.0}
    assert cost_of(figures) == Cost(90.0, 0.5, None, 1.0, 7)
    assert cost_of({}) == Cost(0.0, None, None, None, 0)
    assert total({}) == Cost(0, None, None, None, 0)
