"""Packed rows against padded ones in the trainers of a profile, on its own tables: seconds, tokens a second, and the loss.

    saferflow run && PYTHONPATH=src python benchmarks/packed.py [--repeat 2]

Runs in the project's folder, on models/base and the first rows of each table; a whole short training each, alternating. The
losses of SFT and DPO are to come out the same; GRPO draws other rollouts. Source: ours.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from saferflow.data.rows import DPORow, PromptRow, SFTRow
from saferflow.data.tables import read_table
from saferflow.params import Params, load_params
from saferflow.training.arguments import Job
from saferflow.training.dpo import train_dpo
from saferflow.training.grpo import train_grpo
from saferflow.training.policy import load_model, load_processor
from saferflow.training.sft import train_sft

POLICY = Path("models/base")
ROWS = {"sft": 320, "dpo": 160, "grpo": 24}


def trained(name: str, params: Params, packed: bool) -> dict[str, float]:
    """The metrics of one short training."""
    policy = params.policy.model_copy(update={"packed": packed})
    model, processor = load_model(POLICY, policy), load_processor(POLICY, policy)
    kept = {"save_every": 10**6}
    with tempfile.TemporaryDirectory() as folder:
        job = Job(policy, params.launch, 1, Path(folder), Path(folder) / "steps", lambda *_: None)
        if name == "sft":
            rows = read_table(Path("data/tables/sft.parquet"), SFTRow)[: ROWS[name]]
            return train_sft(name, model, processor, rows, params.sft.model_copy(update=kept), job)
        if name == "dpo":
            rows = read_table(Path("data/tables/dpo.parquet"), DPORow)[: ROWS[name]]
            reference = load_model(POLICY, policy)
            return train_dpo(model, reference, processor, rows, params.dpo.model_copy(update=kept), job)
        rows = read_table(Path("data/tables/grpo.parquet"), PromptRow)[: ROWS[name]]
        recipe = params.grpo.model_copy(update={**kept, "min_validity": 0.0, "rewards": {"length": 1.0}})
        rewards = {"length": lambda completions, **_: [len(each[0]["content"]) % 7 / 7 for each in completions]}
        return train_grpo(model, processor, rows, rewards, recipe, job, Path(folder) / "rollouts.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=2)
    asked = parser.parse_args()
    params = load_params()
    table = Table(title=f"{params.run.profile}, medians of {asked.repeat}", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "padded, s", "packed, s", "ratio", "loss, padded", "loss, packed"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in ROWS:
        found = {packed: [] for packed in (False, True)}
        for _ in range(asked.repeat):
            for packed, runs in found.items():
                runs.append(trained(name, params, packed))
        seconds = {packed: statistics.median(run["train_runtime"] for run in runs) for packed, runs in found.items()}
        ratio = f"{seconds[False] / seconds[True]:.2f}"
        losses = [f"{found[packed][0]['train_loss']:.8g}" for packed in (False, True)]
        table.add_row(name, f"{seconds[False]:.1f}", f"{seconds[True]:.1f}", ratio, *losses)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
