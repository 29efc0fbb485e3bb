"""The rows of a profile's whole run, and the disk that its stages use. Source: ours."""

from dataclasses import dataclass

from saferflow.layout import TRAINED
from saferflow.params import Params
from saferflow.rehearsal.memory import Counts


def whole_rows(params: Params, prompts: int | None) -> dict[str, int]:
    """Rows of the whole run: from the drawn corpus, else from `prompts` training rows, else from those `curate.keep` needs."""
    scenes = [source for source in params.data.sources if source.kind == "scenes"]
    others = [source for source in params.data.sources if source.kind != "scenes"]
    general = sum(source.general_train for source in scenes)
    held_out = sum(source.evaluation + source.general_evaluation for source in scenes)
    if prompts is None:
        prompts = sum(source.train for source in scenes) or round(
            params.curate.keep / (params.plan.grpo_share or 1) / (1 - params.watch.share)
        )
    if others:
        share = others[0].evaluation_share or 0.0
        held_out += round(prompts * share / (1 - share)) if share < 1 else 0
    plan = params.plan
    prompts, general = (round(number * (1 - params.watch.share)) for number in (prompts, general))
    rows = {
        "sft": round(prompts * plan.sft_share * (1 + 2 * plan.reflection_share)) + general,
        "dpo": round(prompts * plan.dpo_share) * plan.pairs_per_prompt,
        "grpo": round(prompts * plan.grpo_share),
        "evaluation": held_out,
    }
    return rows | {"curated": min(params.curate.keep, rows["grpo"])}


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that a stage writes to disk."""

    policy: float = 0.0
    """Bytes of its policy, which stays."""
    checkpoints: float = 0.0
    """Peak bytes of its checkpoints while it trains."""


def disk(stage: str, counts: Counts, params: Params) -> Disk:
    """The bytes that a stage writes; 0 if it does not train."""
    if stage not in TRAINED:
        return Disk()

    from saferflow.training.checkpoints import KEPT

    full = params.policy.lora is None
    weight = 4 if params.policy.dtype == "float32" or (full and params.launch.strategy == "ddp") else 2
    policy = counts.parameters * weight + (0 if full else 2 * counts.trained)
    state = counts.trained * (12 if full and params.launch.strategy != "ddp" else 8)
    if getattr(params, stage) is None:  # a copy of the policy before it
        return Disk(policy)
    watch = getattr(params.watch, stage, None)
    kept = KEPT + 1 + (watch is not None and watch.keep == "best")
    return Disk(policy, kept * ((counts.parameters * weight if full else 4 * counts.adapter) + state))
