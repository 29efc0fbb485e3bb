"""Cost of constrained decoding: seconds a token with and without the plan's grammar, side by side.

    PYTHONPATH=src python benchmarks/constrained.py models/grpo data/tables/evaluation.parquet

The same prompts and policy, alternating, medians of `--repeat` runs; rows stop at their end token in both. Validity is
the share of completions without a violation. Source: ours.
"""

import argparse
import statistics
import time
from pathlib import Path

from saferflow.data.rows import PromptRow
from saferflow.data.tables import read_table
from saferflow.params import load_params
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.training.generate import Prompt, complete
from saferflow.training.policy import load_model, load_processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    params = load_params()
    model, processor = load_model(asked.policy, params.policy), load_processor(asked.policy, params.policy)
    rows = [row for row in read_table(asked.table, PromptRow) if row.kind == "safety"][: asked.rows]
    plans = [Plan.from_json(row.plan) for row in rows]
    prompts = [Prompt.of(row) for row in rows]

    def run(constrained: bool) -> tuple[float, int, float]:
        """Seconds, tokens said, share valid."""
        started = time.perf_counter()
        said = [
            text
            for [text] in complete(
                model,
                processor,
                prompts,
                batch_size=params.evaluate.batch_size,
                max_tokens=params.policy.max_completion_tokens,
                plans=plans if constrained else None,
            )
        ]
        seconds = time.perf_counter() - started
        tokens = sum(len(ids) for ids in processor.tokenizer(said)["input_ids"])
        valid = sum(not check(plan, text) for plan, text in zip(plans, said, strict=True))
        return seconds, tokens, valid / len(rows)

    run(True)  # compiles the grammars, which serving does once a plan
    measured = {kind: [] for kind in (False, True)}
    for _ in range(asked.repeat):
        for kind, runs in measured.items():
            runs.append(run(kind))
    cost = {}
    for kind, runs in measured.items():
        cost[kind] = statistics.median(seconds / tokens for seconds, tokens, _ in runs)
        print(
            f"{'constrained' if kind else 'free':<12} {1e3 * cost[kind]:.3f} ms a token, "
            f"{runs[0][1] / len(rows):.0f} tokens a completion, {runs[0][2]:.1%} valid"
        )
    print(f"ratio {cost[True] / cost[False]:.2f}  ({len(rows)} rows, median of {asked.repeat})")


if __name__ == "__main__":
    main()
