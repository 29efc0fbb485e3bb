"""Finds where the whole run of a profile would stop on this machine: sources, servers, GPUs, memory, disk. Source: ours."""

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from saferflow.errors import PolicyError
from saferflow.judge.members import JUDGE, members
from saferflow.layout import TRAINED
from saferflow.params import EndpointParams, GuardJudgeParams, Params
from saferflow.rehearsal.memory import Counts, Kinds, kinds
from saferflow.rehearsal.recipe import Machine
from saferflow.rehearsal.whole import disk
from saferflow.training.vllm_program import program

PATIENCE = 2.0
"""Seconds in which a server must accept a connection."""
STAGES = ("base", "plan", "validate", "sft", "dpo", "curate", "grpo", "evaluate")


def obstacles(
    root: Path, params: Params, machine: Machine, counts: Counts, prompt_tokens: int, activations: Mapping[str, float]
) -> list[tuple[str, str]]:
    """(stage, an obstacle to the whole run with its remedy), in the order of the stages.

    Args:
        counts: parameters of the whole model.
        activations: stage -> measured bytes on a GPU beyond the counted ones.
    """
    obstacle_list = [
        *_inputs(root, params),
        *_launch(params, machine),
        *_memory(params, machine, counts, prompt_tokens, activations),
        *_disk(root, params, counts),
        *(("curate", why) for why in _unreachable(JUDGE, params.judge)),
        *(("evaluate", why) for name, judge in members(params.evaluate.judge).items() for why in _unreachable(name, judge)),
    ]
    if params.grpo.engine.kind == "vllm" and find_spec("vllm") is None:
        way = "install it (docs/training.md, Rollouts by vLLM), or take kind transformers"
        obstacle_list.append(("grpo", f"grpo.engine is vllm, which is not installed; {way}"))
    if params.run.vllm is not None:
        try:
            program()
        except PolicyError as error:
            obstacle_list.append(("curate", f"run.vllm is set: {error}"))
    return sorted(obstacle_list, key=lambda obstacle: STAGES.index(obstacle[0]))


def _inputs(root: Path, params: Params) -> Iterator[tuple[str, str]]:
    for source in params.data.sources:
        path = getattr(source, "path", None)
        if path and not (root / path).exists():
            yield "plan", f"{path} is not there; put rows into it (data/sources/README.md), or change data.sources"
    yield from (("plan", why) for why in _unreachable("plan.writer", params.plan.writer))


def _launch(params: Params, machine: Machine) -> Iterator[tuple[str, str]]:
    launch = params.launch
    if params.policy.device == "cuda" and not machine.gpus:
        yield "sft", "policy.device is cuda and this machine has no GPU; run on a GPU node"
    elif 0 < machine.gpus < launch.processes:
        yield "sft", f"launch.processes is {launch.processes} and this machine has {machine.gpus} GPUs; lower it"
    if launch.strategy != "ddp" and find_spec("deepspeed") is None:
        yield "sft", f"launch.strategy {launch.strategy} needs DeepSpeed; pip install 'saferflow[gpu]'"


def _memory(
    params: Params, machine: Machine, counts: Counts, prompt_tokens: int, activations: Mapping[str, float]
) -> Iterator[tuple[str, str]]:
    """Memory obstacles; a GPU must hold activations too. For GPUs that are not on this machine, nothing is known."""
    if params.policy.device == "cuda" and not machine.gpus:
        return
    for stage in TRAINED:
        if getattr(params, stage) is not None:
            held = kinds(stage, counts, params, prompt_tokens)
            if held.total + activations.get(stage, 0.0) > machine.memory:
                yield stage, too_large(held, machine, activations.get(stage, 0.0))


def too_large(held: Kinds, machine: Machine, activations: float = 0.0) -> str:
    """Why a stage does not fit in memory, with the remedy."""
    place = "are free on a GPU" if machine.gpus else "are available"
    alone = f" and activations {activations / 1e9:.1f} GB" if activations else " alone"
    return (
        f"weights, gradients, optimiser, reference and cache{alone} want {(held.total + activations) / 1e9:.1f} GB a process "
        f"and {machine.memory / 1e9:.1f} GB {place}; set policy.lora, share them over more GPUs (launch.strategy zero3, or "
        "zero3_offload), or rehearse with --size thin"
    )


def _disk(root: Path, params: Params, counts: Counts) -> Iterator[tuple[str, str]]:
    """The first stage without room on the disk beside the earlier policies, each in its folder and in DVC's cache."""
    free, kept = shutil.disk_usage(root).free, 0.0
    for stage in TRAINED:
        written = disk(stage, counts, params)
        kept += 2 * written.policy
        if kept + written.checkpoints > free:
            yield stage, no_room(kept + written.checkpoints, free, root, "policies so far and its checkpoints")
            return


def no_room(needed: float, free: float, folder: Path, what: str) -> str:
    """What does not fit on the disk, with the remedy."""
    return (
        f"{what} want {needed / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB are free in {folder}; make room, or put the folder "
        "on a larger disk"
    )


def _unreachable(name: str, section: object) -> Iterator[str]:
    if not isinstance(section, EndpointParams):
        return
    if isinstance(section, GuardJudgeParams):
        yield from _unreachable(f"{name}.rest", section.rest)
    if section.key_variable and not os.environ.get(section.key_variable):
        yield f"{name}: the environment variable {section.key_variable} holds no key; set it, or change {name}.key_variable"
        return
    address = urlsplit(section.base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname, port), timeout=PATIENCE):
            return
    except OSError as error:
        yield f"{name}: no server answers at {section.base_url} ({error}); start it, or change {name}.base_url"
