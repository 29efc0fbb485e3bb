"""A profile's parameters with few rows and steps, and everything that takes memory as it is.

Micro batches, groups, samples, batches of prompts, images, adapters and precision are the profile's. An optimiser step has one
micro batch a process, GRPO's one drawing of rollouts. Planner, teacher and judge are the rules. Source: ours.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil, lcm

from saferflow.layout import TRAINED
from saferflow.params import Params

BASE_ROWS = 128
"""The fewest rows for the embedded base policy, since its tokenizer is trained on them."""
SPARE = 24
"""Rows drawn beyond the wanted ones, because rows reach the tables by chance."""
THIN = 2
"""Layers of the language model, and blocks of the vision tower, in a thin model."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The resources of this machine."""

    gpus: int
    memory: int
    """Bytes of one GPU if there is one, else bytes available to processes."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Parameters of a rehearsal, and the sizes of its tables."""

    params: Params
    rows: dict[str, int]
    """Table -> number of rows."""
    replaced: tuple[str, ...]
    """The parts of the profile that are not rehearsed, in words."""


def rehearsed(
    whole: Params, machine: Machine, *, steps: int, tokens: int, thin: bool, base: str, processes: int | None = None
) -> Rehearsed:
    """The parameters of a rehearsal.

    Args:
        whole: the profile.
        steps: optimiser steps of each trainer.
        tokens: of a completion that a policy draws, at most.
        base: where the checkpoint is; `embedded` stays so.
        processes: so many, with the profile's strategy; None for as many as there are GPUs for.
    """
    raw = whole.model_dump(mode="json", by_alias=True)
    replaced = _services(raw) + _launch(raw, whole, machine, processes) + _unwatched(raw)
    world = raw["launch"]["processes"]
    raw["run"] |= {"workers": 1, "nodes": None, "budget_hours": None}
    raw["policy"] |= {
        "base": base,
        "max_completion_tokens": min(tokens, whole.policy.max_completion_tokens),
        "max_cut_share": 1.0,
        "cache_gb": 0,
    }
    rows = _supervised(raw, world, steps, thin)
    rows |= _rollouts(raw, whole, world, steps)
    raw["validate"] |= {"min_rows": 1, "max_hazard_share": 1.0}
    raw["evaluate"] |= {"resamples": 100}
    rows["evaluation"] = whole.evaluate.batch_size
    plan = raw["plan"]
    wanted = max(
        rows["sft"] / plan["sft_share"],
        rows.get("dpo", 1) / plan["pairs_per_prompt"] / plan["dpo_share"],
        rows["grpo"] / plan["grpo_share"],
    )
    scenes = {"kind": "scenes", "train": ceil(1.5 * wanted) + SPARE, "general_train": max(1, rows["sft"] // 8)}
    scenes |= {"evaluation": rows["evaluation"], "general_evaluation": max(1, rows["evaluation"] // 4)}
    raw["data"] |= {"sources": [scenes], "licences": None}
    return Rehearsed(Params.model_validate(raw), rows, tuple(replaced))


def _services(raw: dict) -> list[str]:
    """Replace servers and sources by rules and drawn rows; return the replacements in words."""
    examiner = raw["evaluate"]["judge"]
    sections = [("planner and teacher", raw["plan"]["writer"]), ("judge", raw["judge"])]
    sections += [("the evaluation's judge", judge) for judge in examiner.get("judges", [examiner])]
    replaced = [f"{what} ({section['model']}) by rules" for what, section in sections if section["kind"] != "rules"]
    raw["plan"]["writer"], raw["judge"], raw["evaluate"]["judge"] = ({"kind": "rules"} for _ in range(3))
    paths = [source["path"] for source in raw["data"]["sources"] if "path" in source]
    return replaced + ([f"rows of {', '.join(paths)} by drawn ones"] if paths else [])


def _unwatched(raw: dict) -> list[str]:
    """Have no policy answer rows while it trains; what was left out."""
    watch = raw["watch"]
    stages = [name for name in TRAINED if watch[name] is not None]
    raw["watch"] = {**watch, "share": 0.0, "judge": {"kind": "rules"}, **dict.fromkeys(stages)}
    return [f"what {', '.join(stages)} answer while they train by nothing"] if stages else []


def _launch(raw: dict, whole: Params, machine: Machine, processes: int | None) -> list[str]:
    """Set the number of processes, at most the number of GPUs; return the replacements in words."""
    launch, replaced = whole.launch, []
    shared = launch.strategy != "ddp" and (machine.gpus > 0 or processes) and find_spec("deepspeed") is not None
    processes = processes or min(launch.processes, max(1, machine.gpus))
    strategy = launch.strategy if shared else "ddp"
    if (processes, 1, strategy) != (launch.processes, launch.nodes, launch.strategy):
        before = f"{launch.processes * launch.nodes} processes with {launch.strategy}"
        replaced.append(f"{before} by {processes} with {strategy}")
    raw["launch"] = {"processes": processes, "nodes": 1, "rendezvous": None, "strategy": strategy}
    if not machine.gpus:
        if whole.policy.device == "cuda":
            replaced.append("the GPU by the CPU")
        raw["policy"]["device"] = "auto"
    kind = whole.grpo.engine.kind
    if kind == "vllm_server" or (kind == "vllm" and not (machine.gpus and find_spec("vllm"))):
        replaced.append("rollouts by vLLM by those of transformers")
        raw["grpo"]["engine"] = {"kind": "transformers"}
    return replaced


def _supervised(raw: dict, world: int, steps: int, thin: bool) -> dict[str, int]:
    """Cut base, sft and dpo to the steps; return the rows of their tables."""
    rows = {}
    if raw["base"] is not None:
        raw["base"] |= {"layers": THIN, "vision_layers": THIN} if thin else {}
        batch = raw["base"]["micro_batch_size"]
        raw["base"] |= {"rows": max(BASE_ROWS, steps * batch), "epochs": 1, "batch_size": batch, "save_every": 1000}
    for name in ("sft", "dpo"):
        if raw[name] is not None:
            batch = raw[name]["micro_batch_size"] * world
            raw[name] |= {"epochs": 1, "batch_size": batch, "save_every": steps}
            rows[name] = steps * batch
    return rows


def _rollouts(raw: dict, whole: Params, world: int, steps: int) -> dict[str, int]:
    """Cut curate and grpo to a batch of prompts and to the steps; return the rows of their table."""
    grpo = whole.grpo
    all_processes = whole.launch.processes * whole.launch.nodes
    at_once = (grpo.rollout_micro_batch or grpo.rollout_batch // all_processes) * world
    unit = lcm(grpo.micro_batch_size * world, grpo.group)
    batch = ceil(at_once / unit) * unit
    raw["grpo"] |= {
        "epochs": 1,
        "batch_size": batch,
        "rollout_batch": batch,
        "save_every": steps * grpo.updates,
        "group_filter": None,  # a policy that has learnt nothing gets no signal: that is no fault of the profile
        "collapse_window": 10**6,
        "min_validity": 0.0,
    }
    prompts = max(steps * batch // grpo.group, whole.curate.batch_size)
    raw["curate"] |= {"quality": [0.0, 1.0], "min_instability": 0.0, "harmless_share": 0.5, "keep": 2 * prompts}
    return {"grpo": prompts, "curated": steps * batch // grpo.group}
