"""Stage `grpo`: the DPO policy improves on its own rollouts, judged and rewarded.

Reads models/dpo, data/curated.parquet. Writes models/grpo, reports/rollouts.jsonl.

Simplifies SaFeR-VLM: no reflection inside the rollout.
"""

import json
from pathlib import Path

from saferflow.params import load_params
from saferflow.stages.entry import run_stage
from saferflow.stages.metrics import write_metrics

POLICY = Path("models/dpo")
TABLE = Path("data/curated.parquet")
OUT = Path("models/grpo")
ROLLOUTS = Path("reports/rollouts.jsonl")


def main() -> None:
    params = load_params()

    from saferflow.data.rows import PromptRow
    from saferflow.data.tables import atomic, read_table
    from saferflow.judge.rules import RuleJudge
    from saferflow.rewards.judged import judged_reward
    from saferflow.tracking.live import log_metrics
    from saferflow.training.grpo import train_grpo
    from saferflow.training.policy import load_model, load_processor

    rows = read_table(TABLE, PromptRow)
    model, processor = load_model(POLICY, params.policy), load_processor(POLICY, params.policy)
    with atomic(ROLLOUTS) as partial, partial.open("w", encoding="utf-8") as file:

        def record(row: str, completion: str, reward: float) -> None:
            file.write(json.dumps({"row": row, "reward": round(reward, 6), "completion": completion}) + "\n")

        metrics = train_grpo(
            model,
            processor,
            rows,
            judged_reward(params.grpo, RuleJudge()),
            params.grpo,
            params.policy,
            params.run.seed,
            OUT,
            log_metrics,
            record,
        )
    write_metrics("grpo", {"rows": len(rows), **metrics})


if __name__ == "__main__":
    run_stage(main)
