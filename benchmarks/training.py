"""Our trainers against a plain TRL script, side by side: rows a second and peak memory of SFT, DPO and GRPO. `make bench`

    PYTHONPATH=src python benchmarks/training.py [--only dpo] [--repeat 5]

A Qwen2.5-VL of about 20 M parameters with random weights, rows shaped like the papers': an image of 256 tokens, a prompt of
about 200, responses of 250 +- 80. The plain side is TRL's trainer as its documentation writes it, ours is what the stages
train with; both see the same rows in the same batches, alternating. Times are medians over all steps but the first of each
run. Memory is measured in a process of its own for each side: how far its peak is above what it held before training.
A random policy does not end what it says, so that in rollouts and whole steps every response has 250 tokens: our rows that
leave the batch early win nothing there. The update is measured on prepared responses of 250 +- 80. Source: ours.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback, Qwen2_5_VLForConditionalGeneration, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from saferflow.data.rows import DPORow, PromptRow, SFTRow
from saferflow.params import load_params
from saferflow.training import grpo as our_grpo
from saferflow.training.arguments import Job
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.examples import dpo_dataset, grpo_dataset, sft_dataset

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
VOCABULARY = 8192
PROMPT, RESPONSE, SPREAD, SIDE = 190, 250, 80, 448
SIZES = {
    "hidden_size": 320, "layers": 10, "heads": 8, "kv_heads": 2, "intermediate_size": 1024, "vision_hidden_size": 256,
    "vision_layers": 6, "vision_heads": 8, "vision_intermediate_size": 704, "initializer_range": 0.02,
}  # fmt: skip
BATCH = {"sft": 4, "dpo": 2, "dpo_again": 2, "grpo": 8}
"""Rows of a forward pass: examples, pairs, completions of one group. `dpo_again`: the vision tower frozen on both sides, and rows
that were trained on before, in an earlier epoch or run; ours remembers them (`policy.cache_gb`)."""
STEPS = {"sft": 3, "dpo": 3, "dpo_again": 3, "grpo": 2}
"""Of a run; the first is warm-up."""
TARGETS = {
    "sft": (1.25, 0.8), "dpo": (1.6, 0.7), "grpo_update": (2.5, 0.5), "grpo_rollout": (1.4, None), "grpo_step": (1.8, None),
    "dpo_again": (None, None),
}  # fmt: skip
WORSE = 0.9
"""A speed-up under so much of the committed one is told as a regression."""
MICRO = load_params(ROOT / "profiles" / "micro.yaml")
POLICY = MICRO.policy.model_copy(
    update={"min_pixels": SIDE**2, "max_pixels": SIDE**2, "max_completion_tokens": RESPONSE}
)


class Bench:
    """Model, processor and rows, the same for both sides."""

    def __init__(self) -> None:
        self.tokenizer = train_tokenizer(["a question and an answer"], 300)
        words = [f"<w{number}>" for number in range(VOCABULARY - len(self.tokenizer))]
        self.tokenizer.add_tokens(words)
        self.words = words
        self.processor = build_processor(self.tokenizer, POLICY)
        self.draw = random.Random(7)
        noise = np.random.default_rng(7)
        self.images = []
        for _ in range(8):
            file = io.BytesIO()
            Image.fromarray(noise.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(file, "PNG")
            self.images.append(file.getvalue())

        model = build_model(MICRO.base.model_copy(update=SIZES), self.tokenizer, seed=1)
        model.config.text_config.max_position_embeddings = 4096
        model.save_pretrained("model")

    def model(self) -> Qwen2_5_VLForConditionalGeneration:
        """Read from the disk, where TRL's GRPO looks for its reference policy."""
        return Qwen2_5_VLForConditionalGeneration.from_pretrained("model", dtype=torch.float32)

    def text(self, tokens: int) -> str:
        return "".join(self.draw.choices(self.words, k=tokens))

    def response(self) -> str:
        return self.text(max(40, min(480, round(self.draw.gauss(RESPONSE, SPREAD)))))

    def rows(self, kind: str, count: int) -> list:
        images = [self.images[number % len(self.images)] for number in range(count)]
        if kind == "sft":
            return [
                SFTRow(str(n), "", "safety", image, "", self.text(PROMPT), self.response(), "", "{}")
                for n, image in enumerate(images)
            ]
        if kind.startswith("dpo"):
            return [
                DPORow(str(n), "", image, "", self.text(PROMPT), self.response(), self.response(), "", "", "{}")
                for n, image in enumerate(images)
            ]
        return [
            PromptRow(str(n), "", "safety", image, "", self.text(PROMPT), "", "{}") for n, image in enumerate(images)
        ]


class Times(TrainerCallback):
    """Seconds of each optimizer step, data and all."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._since = 0.0

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        self._since = self._since or time.perf_counter()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        now = time.perf_counter()
        self.steps.append(now - self._since)
        self._since = now


def arguments(folder: str, kind: str) -> dict:
    """What both sides are told."""
    return {
        "output_dir": folder, "per_device_train_batch_size": BATCH[kind], "gradient_accumulation_steps": 1,
        "max_steps": STEPS[kind],
        "learning_rate": 1e-6, "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "seed": 7,
        "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "dataloader_pin_memory": False,
    }  # fmt: skip


def plain(bench: Bench, kind: str, rows: list, folder: str):
    """TRL's trainer as its documentation has it."""
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    told = arguments(folder, kind)
    common = {"model": frozen(bench.model(), kind), "processing_class": bench.processor}
    if kind == "sft":
        return SFTTrainer(args=SFTConfig(**told, max_length=None), train_dataset=sft_dataset(rows), **common)
    if kind.startswith("dpo"):
        config = DPOConfig(**told, max_length=None)
        return DPOTrainer(args=config, ref_model=frozen(bench.model(), kind), train_dataset=dpo_dataset(rows), **common)
    config = GRPOConfig(**told, **of_grpo())
    return GRPOTrainer(args=config, reward_funcs=[length], train_dataset=grpo_dataset(rows), **common)


def ours(bench: Bench, kind: str, rows: list, folder: str):
    """What the stages train with."""
    from trl import DPOConfig, SFTConfig

    from saferflow.training.dpo import Trainer as DPOWithOurs
    from saferflow.training.models import prepare
    from saferflow.training.sft import Trainer as SFTWithOurs

    told = arguments(folder, kind)
    common = {"model": frozen(bench.model(), kind), "processing_class": bench.processor}
    if kind == "sft":
        made = SFTWithOurs(args=SFTConfig(**told, max_length=None), train_dataset=sft_dataset(rows), **common)
    elif kind.startswith("dpo"):
        config = DPOConfig(**told, max_length=None)
        made = DPOWithOurs(
            args=config, ref_model=frozen(bench.model(), kind), train_dataset=dpo_dataset(rows), **common
        )
    else:
        changed = {
            "batch_size": 8, "micro_batch_size": 8, "rollout_batch": 8, "group": 8, "kl": 0.01, "rewards": {"length": 1.0},
            "learning_rate": 1e-6, "dual_clip": None, "schedule": "linear", "warmup_share": 0.0,
        }  # fmt: skip
        params = MICRO.grpo.model_copy(update=changed)
        job = Job(POLICY, MICRO.launch, 7, Path(folder) / "out", Path(folder) / "steps", lambda *_: None)
        made = our_grpo.grpo_trainer(common["model"], bench.processor, rows, {"length": length}, params, job)
        made.args.max_steps = STEPS[kind]
        return made
    again = kind == "dpo_again"
    prepare(made, POLICY.model_copy(update={"cache_gb": 1.0 if again else 0.0}), fixed_rows=again)
    made.lengths = [1] * len(rows)
    return made


def frozen(model: torch.nn.Module, kind: str) -> torch.nn.Module:
    if kind == "dpo_again":
        model.model.visual.requires_grad_(False)
    return model


def of_grpo() -> dict:
    return {
        "num_generations": 8, "steps_per_generation": 1, "max_completion_length": RESPONSE, "beta": 0.01, "temperature": 1.0,
        "use_bias_correction_kl": False,
    }  # fmt: skip


def length(completions: list, **columns: object) -> list[float]:
    return [len(each[0]["content"]) % 7 / 7 for each in completions]


SIDES = {"plain": plain, "ours": ours}


def one_run(bench: Bench, kind: str, side: str, rows: list, *, prepared: bool) -> dict[str, list[float]]:
    """Seconds of the steps but the first; of GRPO also of its parts.

    Args:
        prepared: GRPO's responses are given, 250 +- 80 tokens each, instead of drawn.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(7)
        trainer = SIDES[side](bench, kind, rows, folder)
        times = Times()
        trainer.add_callback(times)
        parts: dict[str, list[float]] = {"drawn": [], "scored": []}
        if kind == "grpo":
            if prepared:
                drawn = [[bench.tokenizer.convert_tokens_to_ids(word) for word in each] for each in responses(bench)]
                trainer._generate_single_turn = lambda ids, *_: (drawn[: len(ids)], None)
            else:
                trainer.eos_token_ids, trainer.generation_config.eos_token_id = [-5], None
                trainer.generation_kwargs["eos_token_id"] = None
                trainer.model.generation_config.eos_token_id = None
            timed(trainer, "_generate_single_turn", parts["drawn"])
            timed(trainer, "_generate_and_score_completions", parts["scored"])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        steps = times.steps[1:]
        if kind != "grpo":
            return {kind: steps}
        if prepared:
            update = [step - scored for step, scored in zip(steps, parts["scored"][1:], strict=True)]
            return {"grpo_update": update}
        return {"grpo_rollout": parts["drawn"][1:], "grpo_step": steps}


def responses(bench: Bench) -> list[list[str]]:
    draw = random.Random(11)
    sizes = [max(40, min(RESPONSE, round(draw.gauss(RESPONSE - SPREAD, SPREAD)))) for _ in range(8)]
    return [draw.choices(bench.words, k=size) for size in sizes]


def timed(trainer: object, name: str, into: list[float]) -> None:
    method = getattr(trainer, name)

    def run(*args: object, **kwargs: object) -> object:
        started = time.perf_counter()
        found = method(*args, **kwargs)
        into.append(time.perf_counter() - started)
        return found

    setattr(trainer, name, run)


def memory(kind: str, side: str) -> float:
    """Megabytes by which the peak of a process that trains is over what it held before."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "training.py"), "--memory", kind, side]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}
    )
    return float(done.stdout.splitlines()[-1])


def measure_memory(kind: str, side: str) -> None:
    bench = Bench()
    prepared = kind == "grpo"
    rows = bench.rows(kind, BATCH[kind] * STEPS[kind])
    before = _resident("VmRSS")
    one_run(bench, kind, side, rows, prepared=prepared)
    print(_resident("VmHWM") - before)


def _resident(name: str) -> float:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def histogram(sizes: list[int]) -> dict[str, int]:
    counts, edges = np.histogram(sizes, bins=8)
    return {f"{int(low)}-{int(high)}": int(count) for count, low, high in zip(counts, edges, edges[1:], strict=False)}


def shapes(bench: Bench) -> dict:
    """What the rows are like, without which no figure means anything."""
    rows = bench.rows("dpo", 256)
    count = [len(ids) for ids in bench.tokenizer([row.chosen for row in rows])["input_ids"]]
    asked = [len(ids) for ids in bench.tokenizer([row.question for row in rows])["input_ids"]]
    batches = [count[i : i + 8] for i in range(0, len(count), 8)]
    whole = sum(8 * (max(batch) + 446) for batch in batches)
    return {
        "prompt_tokens": histogram(asked), "image_tokens": {"256": len(rows)}, "response_tokens": histogram(count),
        "padding": round(1 - (sum(count) + 446 * len(count)) / whole, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BATCH, action="append")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # what is remembered is remembered there
        if asked.memory:
            return measure_memory(*asked.memory)
        return compare(asked)


def compare(asked: argparse.Namespace) -> None:
    bench, console = Bench(), Console(highlight=False)
    size = bench.model().num_parameters()
    console.print(f"{size:,} parameters, {torch.get_num_threads()} threads, {asked.repeat} runs a side, alternating")
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cpu": {}, "gpu": None}
    committed = dict(before["cpu"])
    for kind in asked.only or BATCH:
        seconds: dict[str, dict[str, list[float]]] = {}
        peaks: dict[str, dict[str, float]] = {}
        rows = bench.rows(kind, BATCH[kind] * STEPS[kind])
        if kind == "dpo_again":
            one_run(bench, kind, "ours", rows, prepared=False)
        for number in range(asked.repeat):
            for side in SIDES:
                for prepared in (True, False) if kind == "grpo" else (False,):
                    for name, found in one_run(bench, kind, side, rows, prepared=prepared).items():
                        seconds.setdefault(name, {}).setdefault(side, []).extend(found)
            console.print(f"{kind}  run {number + 1}/{asked.repeat}", style="dim")
        if kind != "dpo_again":
            peaks["grpo_update" if kind == "grpo" else kind] = {side: memory(kind, side) for side in SIDES}
        before["cpu"] |= {name: figures(sides, peaks.get(name)) for name, sides in seconds.items()}
        write(before, bench, size)
    show(console, before["cpu"], committed)
    console.print(f"written to {RESULTS.relative_to(ROOT)}")


def figures(sides: dict[str, list[float]], peaks: dict[str, float] | None) -> dict:
    """What is told of one kind of work."""
    middle = {side: statistics.median(times) for side, times in sides.items()}
    return {
        "speedup": round(middle["plain"] / middle["ours"], 3),
        "memory": round(peaks["ours"] / peaks["plain"], 3) if peaks else None,
        "seconds": {side: round(value, 3) for side, value in middle.items()},
        "spread": {side: [round(min(times), 3), round(max(times), 3)] for side, times in sides.items()},
        "megabytes": {side: round(value) for side, value in peaks.items()} if peaks else None,
        "steps": len(sides["ours"]),
    }


def write(told: dict, bench: Bench, size: int) -> None:
    """After each kind of work, so that one that fails loses nothing of the others."""
    config = json.dumps([SIZES, BATCH, VOCABULARY, PROMPT, RESPONSE, SPREAD, SIDE])
    told |= {
        "rows": shapes(bench),
        "config": hashlib.sha256(config.encode()).hexdigest()[:12],
        "parameters": size,
        "machine": f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    RESULTS.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def show(console: Console, found: dict, before: dict) -> None:
    table = Table(title="Ours against a plain TRL script", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "seconds a step, plain", "ours", "rows/s", "target", "peak memory", "target", "committed"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (speed, room) in TARGETS.items():
        if name not in found:
            continue
        each = found[name]
        former = before.get(name, {}).get("speedup")
        worse = former is not None and each["speedup"] < WORSE * former
        table.add_row(
            name,
            f"{each['seconds']['plain']:.2f}",
            f"{each['seconds']['ours']:.2f}",
            f"{each['speedup']:.2f}x",
            f"{speed:g}x" if speed else "-",
            f"{each['memory']:.2f}" if each["memory"] else "-",
            f"{room:g}" if room else "-",
            "-" if former is None else f"{former:.2f}x" + (" REGRESSION" if worse else ""),
        )
    console.print(table)


if __name__ == "__main__":
    main()
