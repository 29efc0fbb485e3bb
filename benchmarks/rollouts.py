"""Speed of what a policy says: `generate`, ours without drafts, ours, and ours under the plans' grammars, side by side.

    PYTHONPATH=src python benchmarks/rollouts.py models/grpo data/tables/evaluation.parquet

On a trained policy, which ends by itself and repeats itself (the random one of `benchmarks/training.py` does neither). The sides
alternate on the same prompts; a run begins with an empty memory of drafts, as a stage does. `generate` gets each completion's own
copy of its prompt, as TRL gives it. Source: ours.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from saferflow.data.images import open_rgb
from saferflow.data.rows import PromptRow
from saferflow.data.tables import read_table
from saferflow.params import load_params
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.training.conversation import chat
from saferflow.training.drafts import Drafter
from saferflow.training.generate import Prompt, complete, ends_of
from saferflow.training.policy import load_model, load_processor

WORK = {
    "GRPO, groups of 8, 4 prompts a batch": (16, 4, 8, 1.0),
    "curation, 4 samples, 16 prompts a batch": (32, 16, 4, 1.0),
    "evaluation, greedy, batches of 64": (64, 64, 1, None),
}
"""Prompts, batch size, samples, temperature."""


class NoDrafts(Drafter):
    """Remembers nothing."""

    def learn(self, text: list[int], new: int) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    params = load_params()
    model, processor = load_model(options.policy, params.policy).eval(), load_processor(options.policy, params.policy)
    table = [row for row in read_table(options.table, PromptRow) if row.kind == "safety"]
    most = params.policy.max_completion_tokens

    def ours(
        count: int, batch: int, samples: int, temperature: float | None, seed: int, **options: object
    ) -> list[str]:
        prompts = [Prompt.of(row) for row in table[:count]]
        completions = complete(
            model, processor, prompts, batch_size=batch, max_tokens=most, samples=samples, temperature=temperature,
            seed=seed, **options,
        )  # fmt: skip
        return [text for texts in completions for text in texts]

    def generate(count: int, batch: int, samples: int, temperature: float | None, seed: int) -> list[str]:
        torch.manual_seed(seed)
        texts: list[str] = []
        for start in range(0, count, batch):
            prompts = [Prompt.of(row) for row in table[start : min(start + batch, count)] for _ in range(samples)]
            images = [open_rgb(prompt.image) for prompt in prompts]
            turns = [chat(p.system, p.question, image, p.earlier) for p, image in zip(prompts, images, strict=True)]
            asked = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            inputs = processor(text=asked, images=[[image] for image in images], padding=True, return_tensors="pt")
            drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
            with torch.no_grad():
                output = model.generate(**inputs, max_new_tokens=most, eos_token_id=list(ends_of(model)), **drawn)
            texts += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts

    def constrained(count: int, *rest: object) -> list[str]:
        return ours(count, *rest, plans=[Plan.from_json(row.plan) for row in table[:count]])

    sides: dict[str, Callable[..., list[str]]] = {
        "generate": generate,
        "no drafts": lambda *work: ours(*work, drafter=NoDrafts()),
        "ours": ours,
        "constrained": constrained,
    }
    figures = {name: measure(sides, work, options.repeat, table, processor.tokenizer) for name, work in WORK.items()}
    show(figures, options.repeat)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(sides: dict, work: tuple, repeat: int, table: list, tokenizer: object) -> dict[str, dict]:
    """Milliseconds a token of each side: median, lowest and highest of some runs; the share of valid completions."""
    samples = work[2]
    plans = [Plan.from_json(row.plan) for row in table[: work[0]] for _ in range(samples)]
    costs: dict[str, list[float]] = {side: [] for side in sides}
    valid: dict[str, float] = {}
    for side in sides:
        sides[side](*work, 0)  # caches of plans and kernels
    for seed in range(repeat):
        for side, draw in sides.items():
            started = time.perf_counter()
            texts = draw(*work, seed)
            seconds = time.perf_counter() - started
            costs[side].append(1e3 * seconds / sum(map(len, tokenizer(texts)["input_ids"])))
            valid[side] = sum(not check(plan, text) for plan, text in zip(plans, texts, strict=True)) / len(texts)
    return {
        side: {"median": statistics.median(runs), "lowest": min(runs), "highest": max(runs), "valid": valid[side]}
        for side, runs in costs.items()
    }


def show(figures: dict[str, dict[str, dict]], repeat: int) -> None:
    table = Table("work", *(f"{side}, ms a token" for side in next(iter(figures.values()))), "ours against generate")
    for name, sides in figures.items():
        cells = [
            f"{s['median']:.3f} ({s['lowest']:.3f}-{s['highest']:.3f}), {s['valid']:.0%} valid" for s in sides.values()
        ]
        table.add_row(name, *cells, f"{sides['generate']['median'] / sides['ours']['median']:.2f}x")
    Console(width=170).print(table, f"median (lowest-highest) of {repeat} runs, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
