"""Logs GRPO's rollouts as a table of their MLflow run: rewards, violations and completions, to read and filter there."""

import json
from pathlib import Path

from saferflow.tracking.runs import client

FILE = "reports/rollouts.jsonl"
MOST = 2000
"""Most rows of the table, sampled evenly over the steps if there are more. The whole file is an artifact beside it."""


def log_table(run: str, file: Path) -> None:
    """Log the rollouts that a stage wrote."""
    with file.open(encoding="utf-8") as lines:
        rollouts = [json.loads(line) for line in lines]
    every = max(1, -(-len(rollouts) // MOST))
    columns = {
        "step": [], "row": [], "reward": [], "valid": [], "violations": [], "corrected": [], "completion": [],
    }  # fmt: skip
    rewards = {f"reward {name}": [] for name in (rollouts[0]["rewards"] if rollouts else ())}
    for rollout in rollouts[::every]:
        for name in ("step", "row", "reward", "corrected", "completion"):
            columns[name].append(rollout[name])
        columns["valid"].append(rollout["violations"] == [])
        columns["violations"].append(" ".join(rollout["violations"] or ()))
        for name, values in rewards.items():
            values.append(rollout["rewards"][name.removeprefix("reward ")])
    client().log_table(run, columns | rewards, "rollouts.json")
