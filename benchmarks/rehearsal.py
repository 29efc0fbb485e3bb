"""Thin policies of the published widths through every stage: time and peak memory of each combination, or why it stopped.

    PYTHONPATH=src python benchmarks/rehearsal.py [--only 3b,lora] [--words 8000] [--again] [--list]

A cell is one `saferflow rehearse`: 3B or 7B of two layers, one process or two with ddp, ZeRO-2 or ZeRO-3, full or LoRA, vision
tower trained or not, small pictures (0.05 MP) or large ones (0.05, 0.8 and 12 MP in turn), bfloat16. Batches are small, so that
the model is what takes memory. `benchmarks/rehearsal.json` is written after each cell; a cell that is in it is not run again.
Source: ours.
"""

import argparse
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from saferflow.errors import SaferflowError
from saferflow.evaluation.ablation import changed
from saferflow.params import Params, load_params
from saferflow.rehearsal import checkpoint
from saferflow.rehearsal.rehearsal import drawn_texts, rehearse
from saferflow.rehearsal.report import Part

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "rehearsal.json"
ADAPTER = "policy.lora={rank: 8, alpha: 16, dropout: 0.0, targets: [q_proj, k_proj, v_proj, o_proj]}"
SMALL = ("grpo.rollout_micro_batch=4", "curate.batch_size=2", "curate.samples=2", "evaluate.batch_size=2")
PIXELS = {"0.05MP": (3136, 50_176), "12MP": (50_176, 12_845_056)}
"""Smallest and largest picture; the geometric mean comes between them."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination."""

    size: str
    launch: str
    """`1xddp`: processes and strategy."""
    adapter: str
    vision: str
    pixels: str

    @property
    def name(self) -> str:
        return f"{self.size} {self.launch} {self.adapter} {self.vision} {self.pixels}"

    @property
    def settings(self) -> tuple[str, ...]:
        least, most = PIXELS[self.pixels]
        launch = (f"launch.processes={self.launch[0]}", f"launch.strategy={self.launch[2:]}")
        pictures = (f"policy.min_pixels={least}", f"policy.max_pixels={most}")
        tower = f"policy.train_vision={str(self.vision == 'vision').lower()}"
        return (*launch, *pictures, tower, *SMALL, ADAPTER if self.adapter == "lora" else "policy.lora=null")


Rehearse = Callable[[Cell, int | None], dict]


def cells() -> list[Cell]:
    """All combinations that the params allow, the ones that take least first; an adapter with ZeRO-3 is refused by the params."""
    sizes, launches = ("3b", "7b"), ("1xddp", "2xddp", "2xzero2", "2xzero3")
    kinds = itertools.product(PIXELS, sizes, launches, ("lora", "full"), ("frozen", "vision"))
    matrix = [Cell(size, launch, adapter, vision, pixels) for pixels, size, launch, adapter, vision in kinds]
    return [cell for cell in matrix if (cell.adapter, cell.launch) != ("lora", "2xzero3")]


def carried_out(cell: Cell, words: int | None) -> dict:
    """Rehearse a cell; its figures.

    Args:
        words: of the vocabulary, beside the added tokens; None for all that are published.
    """
    params, _ = changed(load_params(ROOT / "profiles" / f"qwen2.5-vl-{cell.size}.yaml"), cell.settings)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if words is not None:
            params = with_words_at(params, words, Path(folder) / "hub")
        try:
            report = rehearse(
                ROOT, params, steps=2, tokens=16, thin=True, prompts=None, processes=params.launch.processes, say=print
            )
        except SaferflowError as error:
            return {"error": str(error), "stages": {}, "seconds": round(time.monotonic() - began, 1)}
    failed = report.failed
    return {
        "error": f"{failed.stage}: {failed.error}" if failed else None,
        "seconds": round(time.monotonic() - began, 1),
        "peak_gb": max((round(part.done.memory / 1e9, 2) for part in report.parts if part.done), default=None),
        "stages": {part.stage: _figures(part) for part in report.parts if part.done},
    }


def with_words_at(params: Params, words: int, folder: Path) -> Params:
    """The profile with a checkpoint of random weights, two layers and so many words, which is written to the folder."""
    config = checkpoint.with_words(checkpoint.cut(checkpoint.published_config(params.policy.base, None)), words)
    checkpoint.write_checkpoint(folder, config, None, drawn_texts(params), params.run.seed)
    return params.model_copy(update={"policy": params.policy.model_copy(update={"base": str(folder)})})


def _figures(part: Part) -> dict:
    return {
        "seconds": round(part.done.seconds, 1),
        "step_seconds": round(part.done.step_seconds, 3) if part.done.step_seconds is not None else None,
        "peak_gb": round(part.done.memory / 1e9, 2),
        "gpu_peak_gb": round(part.gpu / 1e9, 2) if part.gpu else None,
        "most_tokens": part.tokens.most if part.tokens else None,
        "most_image_tokens": part.images.most if part.images else None,
    }


def run(wanted: Sequence[Cell], out: Path, words: int | None, again: bool, carry_out: Rehearse) -> None:
    """Carry out the cells that the file lacks, and write it after each."""
    results = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"machine": machine(), "cells": {}}
    for number, cell in enumerate(wanted, 1):
        name = cell.name if words is None else f"{cell.name} {words} words"
        if name in results["cells"] and not again:
            print(f"[{number}/{len(wanted)}] {name}: done before")
            continue
        print(f"[{number}/{len(wanted)}] {name}", flush=True)
        results["cells"][name] = carry_out(cell, words)
        part = out.with_suffix(".part")
        part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        part.replace(out)


def machine() -> dict:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="words that a cell's name has, all of them, with commas between")
    parser.add_argument(
        "--words", type=int, help="words of the vocabulary, for less memory; all that are published without"
    )
    parser.add_argument("--again", action="store_true", help="run cells that are in the file once more")
    parser.add_argument("--list", action="store_true", help="print the cells and end")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    needed = set(filter(None, options.only.split(",")))
    wanted = [cell for cell in cells() if needed <= set(cell.name.split())]
    if options.list:
        print("\n".join(cell.name for cell in wanted))
    else:
        run(wanted, options.out, options.words, options.again, carried_out)


if __name__ == "__main__":
    main()
