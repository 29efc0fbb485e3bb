"""Memory of a stage's process by kind, from counts of parameters: bytes per parameter by precision, adapter and strategy.

Full fine-tuning in float32, and in bfloat16 with float32 masters (ddp): 4 bytes of weights, 4 of gradients, 8 of AdamW's two
moments. DeepSpeed in bfloat16: 2 of weights, 4 of gradients added up in float32, 12 of masters and moments, the last two
shared by the processes, with ZeRO-3 the first as well. An adapter is float32 on frozen weights. Activations are not counted:
they are in what a measured peak has beyond. Source: ours; the bytes are those of ZeRO (arXiv 1910.02054, section 3.1).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from saferflow.params import Params, PolicyParams

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of a policy's parameters."""

    parameters: int
    trained: int
    adapter: int
    """The parameters among `trained` that an adapter adds; 0 without one."""
    cached: int
    """Numbers that the attention cache holds per token."""

    @classmethod
    def of(cls, config: "Qwen2_5_VLConfig", policy: PolicyParams) -> "Counts":
        """Count them on a model without storage."""
        import torch
        from peft import get_peft_model
        from transformers import Qwen2_5_VLForConditionalGeneration

        from saferflow.training.adapters import lora

        with torch.device("meta"):
            model = Qwen2_5_VLForConditionalGeneration(config)
            whole = model.num_parameters()
            vision = sum(parameter.numel() for parameter in model.model.visual.parameters())
            adapter = 0
            if policy.lora is not None:
                with_adapter = get_peft_model(model, lora(policy, model))
                adapter = sum(p.numel() for p in with_adapter.parameters() if p.requires_grad)
        text = config.text_config
        width = text.hidden_size // text.num_attention_heads
        cached = 2 * text.num_hidden_layers * text.num_key_value_heads * width
        return cls(whole, adapter or whole - (0 if policy.train_vision else vision), adapter, cached)


@dataclass(frozen=True, slots=True)
class Kinds:
    """Bytes of one process by kind: on its GPU, or in its memory if it runs on a CPU."""

    weights: float
    gradients: float = 0.0
    optimiser: float = 0.0
    reference: float = 0.0
    cache: float = 0.0

    @property
    def total(self) -> float:
        """The bytes of all kinds."""
        return self.weights + self.gradients + self.optimiser + self.reference + self.cache


def kinds(stage: str, counts: Counts, params: Params, prompt_tokens: int) -> Kinds:
    """The memory of a process of `stage`: sft, dpo, curate, grpo or evaluate.

    Args:
        prompt_tokens: tokens of the longest prompt; they set the cache's size.
    """
    policy, launch = params.policy, params.launch
    width = 2 if policy.dtype == "bfloat16" else 4
    spoken = _drawn_at_once(stage, params) * (prompt_tokens + policy.max_completion_tokens)
    cache = float(spoken * counts.cached * width)
    if stage in ("curate", "evaluate"):
        return Kinds(counts.parameters * width, cache=cache)
    shared = launch.strategy != "ddp"
    zero3, offload = launch.strategy.startswith("zero3"), launch.strategy.endswith("offload")
    parts = launch.processes * launch.nodes if shared else 1
    weight = 4 if policy.lora is None and not shared else width
    whole = counts.parameters * weight / (parts if zero3 else 1)
    moments = 12 if shared and width == 2 and not counts.adapter else 8
    gone = zero3 and offload
    return Kinds(
        0.0 if gone else whole + 4 * counts.adapter,
        4 * counts.trained / parts,
        0.0 if offload else moments * counts.trained / parts,
        whole if _has_reference(stage, params) and not gone else 0.0,
        cache,
    )


def _has_reference(stage: str, params: Params) -> bool:
    """Whether a process holds a second copy of the weights; with an adapter, the reference is the policy without it."""
    return params.policy.lora is None and (stage == "dpo" or (stage == "grpo" and params.grpo.kl > 0))


def _drawn_at_once(stage: str, params: Params) -> int:
    """Completions that one process draws at once."""
    if stage == "curate":
        return params.curate.batch_size * params.curate.samples
    if stage == "evaluate":
        return params.evaluate.batch_size
    if stage == "grpo":
        world = params.launch.processes * params.launch.nodes
        return params.grpo.rollout_micro_batch or params.grpo.rollout_batch // world
    return 0
