"""What the whole run of a profile would take, from what a rehearsal measured, and where it would stop first on this machine."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from saferflow.params import EndpointParams, Params
from saferflow.rehearsal.memory import Counts, kinds
from saferflow.rehearsal.recipe import Machine
from saferflow.training.checkpoints import KEPT

PATIENCE = 2.0
"""Seconds that a server has to take a connection."""
TRAINED = ("sft", "dpo", "grpo")


def whole_rows(params: Params, prompts: int | None) -> dict[str, int]:
    """Rows of the whole run: of the drawn corpus, else of `prompts` training rows, else of as many as `curate.keep` needs."""
    scenes = [source for source in params.data.sources if source.kind == "scenes"]
    others = [source for source in params.data.sources if source.kind != "scenes"]
    general = sum(source.general_train for source in scenes)
    held_out = sum(source.evaluation + source.general_evaluation for source in scenes)
    if prompts is None:
        prompts = sum(source.train for source in scenes) or round(params.curate.keep / (params.plan.grpo_share or 1))
    if others:
        share = others[0].evaluation_share or 0.0
        held_out += round(prompts * share / (1 - share)) if share < 1 else 0
    plan = params.plan
    rows = {
        "sft": round(prompts * plan.sft_share * (1 + 2 * plan.reflection_share)) + general,
        "dpo": round(prompts * plan.dpo_share) * plan.pairs_per_prompt,
        "grpo": round(prompts * plan.grpo_share),
        "evaluation": held_out,
    }
    return rows | {"curated": min(params.curate.keep, rows["grpo"])}


@dataclass(frozen=True, slots=True)
class Pace:
    """What one stage of a rehearsal took."""

    step_seconds: float | None
    speaking_seconds: float
    completions: int
    """Drawn in the rehearsal: in one step of grpo, in all of curate and evaluate."""


def whole_seconds(stage: str, pace: Pace, params: Params, rehearsed: Params, rows: dict[str, int]) -> float | None:
    """Seconds of a stage of the whole run, if each of its processes were as fast as one here; None where nothing was measured.

    What a policy says is taken to be `policy.max_completion_tokens` long: an upper bound.
    """
    world = params.launch.processes * params.launch.nodes
    longer = params.policy.max_completion_tokens / rehearsed.policy.max_completion_tokens
    section = getattr(params, stage)
    if stage in TRAINED and pace.step_seconds is None:
        return None
    if stage in ("sft", "dpo"):
        return rows[stage] * section.epochs / (section.micro_batch_size * world) * pace.step_seconds
    if stage == "grpo":
        drawn = rows["curated"] * section.group * section.epochs * section.updates
        return drawn / world * pace.step_seconds * rehearsed.launch.processes / pace.completions * longer
    drawn = rows["grpo"] * section.samples if stage == "curate" else 4 * rows["evaluation"]
    return drawn * pace.speaking_seconds / pace.completions * longer if pace.completions else None


def whole_disk(stage: str, counts: Counts, params: Params) -> float:
    """Bytes that a training stage holds at most: its policy, in the folder and in DVC's cache, and its checkpoints."""
    if stage not in TRAINED:
        return 0.0
    full = params.policy.lora is None
    weight = 4 if params.policy.dtype == "float32" or (full and params.launch.strategy == "ddp") else 2
    policy = counts.parameters * weight + (0 if full else 2 * counts.trained)
    state = counts.trained * (12 if full and params.launch.strategy != "ddp" else 8)
    kept = (KEPT + 1) * ((counts.parameters * weight if full else 4 * counts.adapter) + state)
    return 2 * policy + kept


def obstacles(
    root: Path, params: Params, machine: Machine, counts: Counts, prompt_tokens: int
) -> Iterator[tuple[str, str]]:
    """(stage, what would stop the whole run there and the remedy), in the order of the stages."""
    for source in params.data.sources:
        path = getattr(source, "path", None)
        if path and not (root / path).exists():
            yield "plan", f"{path} is not there; put rows into it (data/sources/README.md), or change data.sources"
    yield from (("plan", why) for why in _unreachable("plan.writer", params.plan.writer))
    launch = params.launch
    if params.policy.device == "cuda" and not machine.gpus:
        yield "sft", "policy.device is cuda and this machine has no GPU; run on a GPU node"
    elif 0 < machine.gpus < launch.processes:
        yield "sft", f"launch.processes is {launch.processes} and this machine has {machine.gpus} GPUs; lower it"
    if launch.strategy != "ddp" and find_spec("deepspeed") is None:
        yield "sft", f"launch.strategy {launch.strategy} needs DeepSpeed; pip install 'saferflow[gpu]'"
    for stage in TRAINED:
        if getattr(params, stage) is not None:
            held = kinds(stage, counts, params, prompt_tokens)
            if held.total > machine.memory and (machine.gpus or params.policy.device == "auto"):
                yield stage, too_large(held.total, machine)
    yield from (("curate", why) for why in _unreachable("judge", params.judge))
    if params.grpo.engine.kind == "vllm" and find_spec("vllm") is None:
        yield (
            "grpo",
            "grpo.engine is vllm, which is not installed; pip install 'saferflow[vllm]', or take kind transformers",
        )
    needed = sum(whole_disk(stage, counts, params) for stage in TRAINED)
    if needed > (free := shutil.disk_usage(root).free):
        yield "sft", f"the run wants {needed / 1e9:.0f} GB of disk and {free / 1e9:.0f} GB are free; make room"


def too_large(needed: float, machine: Machine) -> str:
    """Why a stage cannot begin, and the way out."""
    place = "a GPU has" if machine.gpus else "are available"
    return (
        f"weights, gradients, optimiser, reference and cache alone want {needed / 1e9:.1f} GB a process and "
        f"{machine.memory / 1e9:.1f} GB {place}; set policy.lora, share them over more GPUs (launch.strategy zero3, or "
        "zero3_offload), or rehearse with --size thin"
    )


def _unreachable(name: str, section: object) -> Iterator[str]:
    if not isinstance(section, EndpointParams):
        return
    address = urlsplit(section.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname, port), timeout=PATIENCE):
            return
    except OSError as error:
        yield f"{name}: no server answers at {section.base_url} ({error}); start it, or change {name}.base_url"
