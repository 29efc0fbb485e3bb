"""What a person reads at the end of a run."""

import pytest
from rich.console import Console

from saferflow.cli import show


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (132, "2 min 12 s"), (3840, "1 h 4 min")],
)
def test_a_duration_reads_as_one_would_say_it(seconds, expected):
    assert show.duration(seconds) == expected


def test_many_reasons_are_counted():
    assert show.listed(["a", "b"]) == "a, b"
    assert show.listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_the_table_has_a_line_a_policy_with_scores_and_intervals():
    metrics = {
        "rows": 300,
        "policies": {"base": dict.fromkeys(show.COLUMNS, 41.25), "grpo": dict.fromkeys(show.COLUMNS, 100.0)},
        "intervals": {
            "base": {name: [36.0, 46.6] for name in show.COLUMNS},
            "grpo": {name: [100.0, 100.0] for name in show.COLUMNS},
        },
    }
    console = Console(width=show.TABLE_WIDTH, record=True)
    console.print(show.score_table(metrics))
    text = console.export_text()
    for heading in show.COLUMNS.values():
        assert heading.split("\n")[-1] in text
    for expected in ("41.2", "36-47", "100.0", "100-100"):
        assert text.count(expected) == len(show.COLUMNS)
    assert "300 held-out rows" in text
    assert "…" not in text


def test_a_failed_verdict_lists_the_checks_that_failed():
    verdict = {
        "passed": False,
        "checks": [
            {"name": "safety", "value": 70.0, "bound": 80.0, "passed": False, "detail": "70 against 80"},
            {"name": "rigor", "value": 90.0, "bound": 75.0, "passed": True, "detail": "90 against 75"},
        ],
    }
    assert [line.plain for line in show.verdict_lines(verdict)] == ["gate: failed", "  safety: 70 against 80"]


def test_policies_stand_in_the_order_of_training():
    """The metrics file sorts its keys: base, dpo, grpo, sft."""
    metrics = {"rows": 1, "policies": {name: {} for name in ("base", "dpo", "grpo", "other", "sft")}}
    table = show.score_table(metrics)
    assert list(table.columns[0].cells) == ["base", "SFT", "DPO", "GRPO", "OTHER"]
