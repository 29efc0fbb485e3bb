"""Training and rollouts of 3B on one GPU: tokens a second, MFU, peak memory, in one JSON, unattended, in nine minutes at most.

    PYTHONPATH=src python benchmarks/gpu.py [--size real|thin] [--device cuda|cpu] [--seconds 530] [--only sft-packed] [--again]

Each part is a process of its own. `benchmarks/gpu.json` is written after each; a part that is in it without an error is not run
again, so that a second call goes on where the time ended the first. Tokens are those of prompts and responses without padding,
over the seconds of a step with its rollouts, as EasyR1 counts; MFU is `training/gauge.py`'s, without and with the vision tower.
Weights are random where the checkpoint is not on this machine. Full fine-tuning where it fits, else the adapter. Source: ours.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "gpu.json"
PARTS = (
    "prepare", "sft-packed", "dpo-packed", "grpo-packed", "rollouts", "attention", "sft-padded", "dpo-padded",
    "grpo-padded", "embedded",
)  # fmt: skip
"""The order: what matters most comes before the time is over."""
LEAST = 20.0
"""Seconds without which no part begins."""
ADAPTER = {"rank": 64, "alpha": 128, "dropout": 0.05, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
SLACK = 12e9
"""Bytes for activations, beside what is counted, where a stage trains in full."""
STEPS = 3
EMBEDDED = ("base", "plan", "validate", "sft", "dpo", "curate", "grpo", "evaluate")
CALLS = 5
"""Of an attention kernel, after one that warms up."""


def run_parts(
    names: Sequence[str], out: Path, seconds: float, again: bool, carry_out: Callable[[str, float], dict]
) -> None:
    """Carry out the parts that the file lacks while there is time, and write it after each.

    Args:
        carry_out: takes a part and the seconds that are left; gives its figures, with `error` where it failed.
    """
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"] if out.is_file() else {}
    ends = time.monotonic() + seconds
    for name in names:
        if not again and name in parts and "error" not in parts[name]:
            continue
        left = ends - time.monotonic()
        if left < LEAST:
            print(f"{name}  not begun: {max(left, 0):.0f} s are left; call again to go on", flush=True)
            continue
        began = time.monotonic()
        parts[name] = carry_out(name, left) | {"part_seconds": round(time.monotonic() - began, 1)}
        print(f"{name}  {parts[name].get('error') or 'done'}"[:300], flush=True)
        half = out.with_suffix(".part")
        half.write_text(json.dumps({"parts": parts}, indent=1) + "\n", encoding="utf-8")
        half.replace(out)
        if name == "prepare" and "error" in parts[name]:
            return


def in_a_process(work: Path, options: argparse.Namespace) -> Callable[[str, float], dict]:
    """A function that runs one part as a process of its own, which ends with the time."""
    from saferflow.rehearsal.run import environ

    variables = environ(ROOT) | ({"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {})

    def carry_out(name: str, left: float) -> dict:
        result = work / f"{name}.json"
        result.unlink(missing_ok=True)
        command = [
            sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--part", name, "--work", str(work),
            "--size", options.size, "--device", options.device,
        ]  # fmt: skip
        command += ["--words", str(options.words)] if options.words else []
        try:
            done = subprocess.run(
                command, cwd=work, env=variables, timeout=left, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"the time was over after {left:.0f} s"}
        if done.returncode or not result.is_file():
            return {"error": "\n".join((done.stdout + done.stderr).splitlines()[-6:])}
        return json.loads(result.read_text(encoding="utf-8"))

    return carry_out


def prepare(work: Path, options: argparse.Namespace) -> dict:
    """The checkpoint and the tables, as a rehearsal makes them."""
    import platform

    import torch

    from benchmarks.rehearsal import with_words_at
    from saferflow.params import load_params
    from saferflow.rehearsal.recipe import rehearsed
    from saferflow.rehearsal.rehearsal import look, starting_checkpoint
    from saferflow.rehearsal.run import Run

    params, machine, thin = load_params(ROOT / "profiles" / "qwen2.5-vl-3b.yaml"), look(), options.size == "thin"
    for left in ("checkpoint", "hub"):
        shutil.rmtree(work / left, ignore_errors=True)
    if options.words:
        params = with_words_at(params, options.words, work / "hub")
    changes = {"launch": {"processes": 1, "strategy": "ddp"}}
    if thin:
        changes |= {"policy": {"min_pixels": 3136, "max_pixels": 12_544}, "grpo": {"rollout_micro_batch": 4}}
    params = _with(params, changes)
    base, where, layers = starting_checkpoint(params, work, thin, print)
    recipe = rehearsed(params, machine, steps=STEPS, tokens=8 if thin else 256, thin=thin, base=base)
    (work / "data" / "sources").mkdir(parents=True, exist_ok=True)
    run = Run(ROOT, work, params, recipe, machine, layers, {})
    for stage in ("base", "plan"):
        if error := run.rehearse_stage(stage).error:
            raise SystemExit(f"{stage}: {error}")
    return {
        "checkpoint": where,
        "size": options.size,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "processor": platform.machine(),
        "torch": torch.__version__,
        "replaced": list(recipe.replaced),
    }


def train(stage: str, packed: bool) -> dict:
    """A few steps of a stage: medians without the first, which warms up."""
    from saferflow.params import load_params
    from saferflow.training.policy import load_model, load_processor

    params = load_params()
    params = _with(params, {"policy": {"packed": packed, "lora": None if _fits(stage, params) else ADAPTER}})
    base, logs = Path("models/base"), []
    model, processor = load_model(base, params.policy, params.launch), load_processor(base, params.policy)
    metrics = _trained(stage, params, model, processor, lambda numbers, step: logs.append(numbers))
    steps = [numbers for numbers in logs if "tokens_per_second" in numbers and "loss" in numbers][1:]
    names = ("tokens_per_second", "mfu", "mfu_with_vision", "loss")
    figures = {name: median(step[name] for step in steps) for name in names if steps and name in steps[0]}
    return figures | {
        "steps": len(steps),
        "seconds": metrics["train_runtime"],
        "peak_memory_gb": metrics["peak_memory_gb"],
        "adapter": params.policy.lora is not None,
    }


def _trained(stage: str, params: Any, model: Any, processor: Any, log: Callable[[dict, int], None]) -> dict:
    from saferflow.data.rows import DPORow, PromptRow, SFTRow
    from saferflow.data.tables import read_table
    from saferflow.judge.choice import judge_of
    from saferflow.rewards.judged import reward_functions
    from saferflow.training.arguments import Job
    from saferflow.training.dpo import train_dpo
    from saferflow.training.grpo import train_grpo
    from saferflow.training.policy import load_model
    from saferflow.training.sft import train_sft

    out = Path("out")
    job = Job(params.policy, params.launch, params.run.seed, out / stage, out / f"{stage}-steps", log)
    recipe = getattr(params, stage).model_copy(update={"save_every": 10**6})
    table = Path("data/tables") / f"{stage}.parquet"
    if stage == "sft":
        return train_sft(stage, model, processor, read_table(table, SFTRow), recipe, job)
    if stage == "dpo":
        reference = None if params.policy.lora else load_model(Path("models/base"), params.policy, params.launch)
        return train_dpo(model, reference, processor, read_table(table, DPORow), recipe, job)
    rows = read_table(table, PromptRow)
    rewards = reward_functions(params.grpo, judge_of(params.judge), rows)
    return train_grpo(model, processor, rows, rewards, recipe, job, out / "rollouts.jsonl")


def _fits(stage: str, params: Any) -> bool:
    """Whether the stage trains in full on what is free."""
    from saferflow.rehearsal.memory import Counts, kinds
    from saferflow.rehearsal.rehearsal import look
    from saferflow.training.policy import load_config

    counts = Counts.of(load_config(Path("models/base")), params.policy)
    return kinds(stage, counts, params, 0).total + SLACK <= look().memory


def rollouts() -> dict:
    """Completions by transformers, as curate draws them: tokens a second, of all completions together."""
    import torch

    from saferflow.data.rows import PromptRow
    from saferflow.data.tables import read_table
    from saferflow.params import load_params
    from saferflow.training.gauge import peak_memory
    from saferflow.training.generate import Prompt, complete
    from saferflow.training.policy import device, load_model, load_processor

    params = load_params()
    model = load_model(Path("models/base"), params.policy).to(device(params.policy))
    processor = load_processor(Path("models/base"), params.policy)
    prompts = [Prompt.of(row) for row in read_table(Path("data/tables/grpo.parquet"), PromptRow)][:8]

    def drawn(tokens: int) -> tuple[int, float]:
        began = time.perf_counter()
        texts = list(
            complete(model, processor, prompts, batch_size=len(prompts), max_tokens=tokens, samples=4, temperature=1.0)
        )
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        length = sum(len(processor.tokenizer(text).input_ids) for several in texts for text in several)
        return length, time.perf_counter() - began

    drawn(1)
    _, reading = drawn(1)
    length, seconds = drawn(params.policy.max_completion_tokens)
    return {
        "prompts": len(prompts),
        "completions": 4 * len(prompts),
        "reading_seconds": reading,
        "seconds": seconds,
        "tokens_per_second": length / seconds,
        "peak_memory_gb": peak_memory() / 1e9,
    }


def attention(small: bool) -> dict:
    """One layer of 3B over a prompt and four completions that share it: SDPA with a mask, and flex attention."""
    import torch
    import torch.nn.functional as F
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    where = "cuda" if torch.cuda.is_available() else "cpu"
    prompt, length = (256, 64) if small else (4096, 512)
    total = prompt + 4 * length
    place = torch.arange(total, device=where)
    owner = torch.where(place < prompt, 0, 1 + (place - prompt) // length)  # (total,): 0 is the prompt

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (query >= key) & ((owner[key] == 0) | (owner[key] == owner[query]))

    mask = sees(None, None, place[:, None], place[None, :])  # (total, total)
    query = torch.randn(1, 16, total, 128, device=where, dtype=torch.bfloat16)
    keys, values = (torch.randn(1, 2, total, 128, device=where, dtype=torch.bfloat16) for _ in range(2))
    if where == "cuda":  # on a CPU flex attention has no backward pass
        for tensor in (query, keys, values):
            tensor.requires_grad_(True)
    blocks = create_block_mask(sees, None, None, total, total, device=where)
    compiled = torch.compile(flex_attention)
    kernels = {
        "sdpa, grouped heads": lambda: F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, enable_gqa=True
        ),
        "sdpa, repeated heads": lambda: F.scaled_dot_product_attention(
            query, keys.repeat_interleave(8, 1), values.repeat_interleave(8, 1), attn_mask=mask
        ),
        "flex": lambda: compiled(query, keys, values, block_mask=blocks, enable_gqa=True),
    }
    figures = {}
    for name, kernel in kernels.items():
        try:
            figures[name] = _timed(kernel, where)
        except (RuntimeError, NotImplementedError, OSError) as error:
            figures[name] = {"error": str(error).splitlines()[0][:300]}
    return {"tokens": total, "backward": where == "cuda", **figures}


def _timed(kernel: Callable[[], Any], where: str) -> dict:
    import torch

    def call() -> None:
        result = kernel()
        if where == "cuda":
            result.sum().backward()
            torch.cuda.synchronize()

    call()
    if where == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    seconds = (time.perf_counter() - began) / CALLS
    return {"seconds": seconds} | ({"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if where == "cuda" else {})


def embedded(work: Path, small: bool) -> dict:
    """The embedded profile from base to its scores; what an earlier call finished stays."""
    from saferflow.params import load_params
    from saferflow.rehearsal.process import carried_out, stage_command
    from saferflow.rehearsal.recipe import rehearsed
    from saferflow.rehearsal.rehearsal import look
    from saferflow.rehearsal.run import environ

    params, folder = load_params(ROOT / "params.yaml"), work / "embedded"
    if small:
        params = rehearsed(params, look(), steps=2, tokens=8, thin=True, base="embedded").params
    (folder / "data" / "sources").mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(params.model_dump(mode="json", by_alias=True), sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    metrics = folder / "metrics"
    seconds = {}
    for stage in EMBEDDED:
        if (metrics / f"{stage}.json").is_file():
            continue
        done = carried_out(stage_command(stage), folder, environ(ROOT))
        if done.status:
            raise SystemExit(f"{stage}: {done.complaint}")
        seconds[stage] = round(done.seconds, 1)
    return {"seconds": seconds, "scores": json.loads((metrics / "evaluate.json").read_text(encoding="utf-8"))}


def _with(params: Any, changes: dict[str, dict]) -> Any:
    """The params with other values in some sections."""
    tree = params.model_dump(mode="json", by_alias=True)
    for section, values in changes.items():
        tree[section] |= values
    return type(params).model_validate(tree)


def part(name: str, work: Path, options: argparse.Namespace) -> dict:
    """The figures of one part, computed in this process."""
    if name == "prepare":
        return prepare(work, options)
    if name == "rollouts":
        return rollouts()
    if name == "attention":
        return attention(options.size == "thin")
    if name == "embedded":
        return embedded(work, options.size == "thin")
    stage, layout = name.split("-")
    return train(stage, layout == "packed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("real", "thin"), default="real")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--words", type=int, help="words of the vocabulary, for less memory; all that are published without"
    )
    parser.add_argument("--seconds", type=float, default=530.0, help="when this is over, no further part begins")
    parser.add_argument("--only", default="", help=f"parts, with commas between: {', '.join(PARTS)}")
    parser.add_argument("--again", action="store_true", help="run parts that are in the file once more")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--work", type=Path, help="the folder for weights and tables; beside --out without")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    work = (options.work or options.out.with_suffix(".work")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if options.part:
        figures = part(options.part, work, options)
        (work / f"{options.part}.json").write_text(json.dumps(figures), encoding="utf-8")
        return
    names = [name for name in PARTS if not options.only or name in {"prepare", *options.only.split(",")}]
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("no GPU is to be seen; run on a GPU node, or try the script with --device cpu --size thin")
    run_parts(names, options.out, options.seconds, options.again, in_a_process(work, options))


if __name__ == "__main__":
    main()
