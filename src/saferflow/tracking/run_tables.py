"""Logs files of stages as tables of their MLflow run, to read and filter there: GRPO's rollouts, and every policy's answers."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from saferflow.data.rows import Answered
from saferflow.data.tables import read_table
from saferflow.layout import EVALUATED, ROLLOUTS
from saferflow.tracking.runs import client

MOST = 2000
"""Most rollouts, or held-out rows with all policies, of a table; beyond that, an even sample. The whole file is an artifact."""
COLUMNS = ("step", "row", "reward", "valid", "violations", "corrected", "completion")


def log_rollouts(run: str, file: Path) -> None:
    """Log the rollouts that stage `grpo` wrote: rewards, violations and completions."""
    with file.open(encoding="utf-8") as lines:
        rollouts = [json.loads(line) for line in lines]
    rows = [
        rollout | {"valid": rollout["violations"] == [], "violations": " ".join(rollout["violations"] or ())}
        for rollout in rollouts[:: max(1, -(-len(rollouts) // MOST))]
    ]
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    rewards = {f"reward {name}": [row["rewards"][name] for row in rows] for name in (rows[0]["rewards"] if rows else ())}
    client().log_table(run, columns | rewards, "rollouts.json")


def log_answers(run: str, file: Path) -> None:
    """Log the answers that stage `evaluate` wrote, with their grades."""
    answered = read_table(file, Answered)
    ids = sorted({row.row for row in answered})
    shown = set(ids[:: max(1, -(-len(ids) // MOST))])
    rows = sorted((row for row in answered if row.row in shown), key=lambda row: row.row)
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Answered)}
    client().log_table(run, columns, "evaluated.json")


LOGGED: dict[str, Callable[[str, Path], None]] = {str(ROLLOUTS): log_rollouts, str(EVALUATED): log_answers}
"""Output of a stage -> what logs it."""
