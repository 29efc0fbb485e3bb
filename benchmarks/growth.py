"""What a GRPO group costs against its size and against the length of its prompt: padded copies, and packed or branched.

    PYTHONPATH=src python benchmarks/growth.py [--repeat 3]

The model and rows of `make bench` (`training.py`): an image of 256 tokens, responses of 250. An update is one forward pass to the
responses' log-probabilities and one backward pass; a rollout is `generate` with a copy of the prompt for each response, against
one prefill that is branched. Medians, the two sides alternating; then seconds = fixed + each * n by least squares.
Writes into `benchmarks/results.json`. Source: ours.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from training import PROMPT, RESPONSE, RESULTS, SIDE, Bench
from trl.trainer.utils import add_fused_lm_head

from saferflow.data.images import open_rgb
from saferflow.training.branching import sample
from saferflow.training.packed import pack

GROUPS = (1, 2, 4, 8, 16)
PROMPTS = (50, 200, 400, 800)
"""Words beside the image's tokens; in groups of eight."""
GROUP = 8


class Case:
    """One prompt, and a group of responses of even length behind it."""

    def __init__(self, bench: Bench, words: int):
        picture = open_rgb(bench.images[0])
        marked = f"<|vision_start|><|image_pad|><|vision_end|>{bench.text(words)}"
        self.prompt = bench.processor(images=[picture], text=[marked], return_tensors="pt")
        self.said = torch.tensor(bench.tokenizer.convert_tokens_to_ids(bench.draw.choices(bench.words, k=RESPONSE)))

    def copies(self, group: int) -> dict[str, torch.Tensor]:
        return {
            name: value.repeat(group, *[1] * (value.dim() - 1))
            for name, value in self.prompt.items()
            if value is not None
        }

    def update(self, model: torch.nn.Module, group: int) -> None:
        asked = self.copies(group)
        said = self.said.repeat(group, 1)
        said[:, 0] = said[:, 0] + torch.arange(group)
        ids = torch.cat([asked["input_ids"], said], dim=1)
        labels = torch.cat([torch.full_like(asked["input_ids"], -100), said], dim=1)
        kinds = {}
        if "mm_token_type_ids" in asked:
            kinds = {"mm_token_type_ids": torch.cat([asked["mm_token_type_ids"], torch.zeros_like(said)], dim=1)}
        model.zero_grad()
        told = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=asked["pixel_values"],
            image_grid_thw=asked["image_grid_thw"],
            labels=labels,
            fused_lm_head=True,
            **kinds,
        )
        told.log_probs.sum().backward()

    def copied_rollout(self, model: torch.nn.Module, group: int) -> None:
        with torch.no_grad():
            model.generate(
                **self.copies(group),
                do_sample=True,
                max_new_tokens=RESPONSE,
                min_new_tokens=RESPONSE,
                eos_token_id=None,
            )

    def branched_rollout(self, model: torch.nn.Module, group: int) -> None:
        sample(model, dict(self.prompt), [0] * group, max_tokens=RESPONSE, temperature=1.0, top_p=1.0, ends=[-5])


def seconds(sides: dict[str, Callable[[], None]], repeat: int) -> dict[str, float]:
    """Medians, the sides alternating."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, work in sides.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in times.items()}


def parts(case: Case, model: torch.nn.Module, group: int) -> dict[str, Callable[[], None]]:
    """The parts of a plain update of a group, each with its backward pass; what of them the copies repeat is in the names."""
    asked = case.copies(group)
    hidden, prompt = model.config.text_config.hidden_size, asked["input_ids"].shape[1]

    def decoder(tokens: int) -> Callable[[], None]:
        embedded = torch.randn(group, tokens, hidden)

        def work() -> None:
            model.zero_grad()
            made = model.model.language_model(inputs_embeds=embedded.clone().requires_grad_(), use_cache=False)
            made.last_hidden_state.sum().backward()

        return work

    def head(tokens: int) -> Callable[[], None]:
        states = torch.randn(group * tokens, hidden)

        def work() -> None:
            model.zero_grad()
            model.lm_head(states).logsumexp(dim=-1).sum().backward()

        return work

    def vision() -> None:
        model.zero_grad()
        model.model.visual(asked["pixel_values"], grid_thw=asked["image_grid_thw"]).pooler_output.sum().backward()

    return {
        f"vision tower, {group} times the same image": vision,
        f"decoder, {group} x {prompt + RESPONSE} tokens": decoder(prompt + RESPONSE),
        f"of it the prompt alone, {group} x {prompt}": decoder(prompt),
        "output head on every token": head(prompt + RESPONSE),
        "of it on the responses alone": head(RESPONSE),
    }


def fitted(at: list[int], took: list[float]) -> dict[str, float]:
    """fixed + each * n, and the share of the variance that the line explains."""
    each, fixed = np.polyfit(at, took, 1)
    left = np.array(took) - (fixed + each * np.array(at))
    explained = 1 - left.var() / np.var(took)
    return {"fixed": round(float(fixed), 4), "each": round(float(each), 6), "r2": round(float(explained), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the model is kept there
        measure(asked.repeat)


def measure(repeat: int) -> None:
    bench, console = Bench(), Console(highlight=False)
    padded, packed = bench.model(), bench.model()
    for model in (padded, packed):
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    pack(packed)
    speaker = bench.model().eval()
    case = Case(bench, PROMPT)
    found: dict = {
        "parts": {name: round(took, 4) for name, took in seconds(parts(case, bench.model(), GROUP), repeat).items()}
    }
    for name, took in found["parts"].items():
        console.print(f"{name}: {took:.3f} s")

    def measured(name: str, at: tuple[int, ...], sides: Callable[[int], dict[str, Callable[[], None]]]) -> None:
        table = Table(title=name, title_justify="left", box=SIMPLE_HEAD)
        for heading in ("n", "plain, s", "ours, s", "ratio"):
            table.add_column(heading, justify="right")
        took: dict[str, list[float]] = {"plain": [], "ours": []}
        seconds(sides(at[0]), 1)  # does not count
        for number in at:
            for side, middle in seconds(sides(number), repeat).items():
                took[side].append(middle)
            last = {side: each[-1] for side, each in took.items()}
            table.add_row(
                str(number), f"{last['plain']:.3f}", f"{last['ours']:.3f}", f"{last['plain'] / last['ours']:.2f}"
            )
        console.print(table)
        fits = {side: fitted(list(at), each) for side, each in took.items()}
        for side, fit in fits.items():
            console.print(f"{side}: {fit['fixed']:.3f} s + {fit['each']:.4f} s * n, R2 {fit['r2']:.3f}")
        rounded = {side: [round(each, 4) for each in times] for side, times in took.items()}
        found[name] = {"n": list(at), "seconds": rounded, "fit": fits}

    measured(
        "update_by_group",
        GROUPS,
        lambda n: {"plain": lambda: case.update(padded, n), "ours": lambda: case.update(packed, n)},
    )
    measured(
        "rollout_by_group",
        GROUPS,
        lambda n: {"plain": lambda: case.copied_rollout(speaker, n), "ours": lambda: case.branched_rollout(speaker, n)},
    )

    def by_prompt(words: int) -> dict[str, Callable[[], None]]:
        other = Case(bench, words)
        return {"plain": lambda: other.update(padded, GROUP), "ours": lambda: other.update(packed, GROUP)}

    measured("update_by_prompt", PROMPTS, by_prompt)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cpu": {}, "gpu": None}
    before["cpu"]["growth"] = {"group": GROUP, "image_tokens": (SIDE // 28) ** 2, "response": RESPONSE, **found}
    RESULTS.write_text(json.dumps(before, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
