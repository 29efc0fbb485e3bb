"""Rows whose labels the rule planner guessed: no policy is asked them, and what was answered counts nowhere."""

from dataclasses import replace

from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.stages import evaluate, gate

GOLD = Labels("safety", "S1", 3, "text", "none", "refuse")
ROWS = [
    PromptRow(name, "mine", "safety", None, "", "Why?", "", replace(GOLD, label_source=name).to_json())
    for name in ("gold", "mapped", "planner", "guessed")
]


def test_no_policy_is_asked_a_row_whose_label_is_a_guess(capsys):
    assert [row.id for row in evaluate.measured(ROWS)] == ["gold", "mapped", "planner"]
    assert "1 rows with guessed labels are left out" in capsys.readouterr().out


def test_the_gate_counts_no_row_whose_label_is_a_guess():
    grades = 3, 3, 3, True, True, False
    answered = [
        Answered(row.id, "grpo", "safety", row.id, "x", *grades, "refuse", "S1", "text", "none", "", "") for row in ROWS
    ]
    assert [one.row for one in gate.counted(answered, ROWS)] == ["gold", "mapped", "planner"]
