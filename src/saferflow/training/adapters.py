"""Low-rank adapters (PEFT): which modules get one, and how they become weights again.

Source: ours; the adapters are PEFT's.
"""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel, Qwen2_5_VLForConditionalGeneration

from saferflow.errors import PolicyError
from saferflow.params import PolicyParams
from saferflow.training.families import family_of
from saferflow.training.weights import float32_tensors

ALL = "all-linear"
"""PEFT's name for all linear modules except the output head."""


def lora(policy: PolicyParams, model: Qwen2_5_VLForConditionalGeneration) -> LoraConfig | None:
    """The adapter of the params for this model, or None for full fine-tuning.

    Raises:
        PolicyError: a target names no linear module that is trained.
    """
    if policy.lora is None:
        return None
    return LoraConfig(
        r=policy.lora.rank,
        lora_alpha=policy.lora.alpha,
        lora_dropout=policy.lora.dropout,
        target_modules=target_modules(policy, model),
        task_type="CAUSAL_LM",
    )


def target_modules(policy: PolicyParams, model: Qwen2_5_VLForConditionalGeneration) -> list[str]:
    """The full names of the modules that get an adapter; without `train_vision`, none of the vision tower.

    Raises:
        PolicyError: as `lora`.
    """
    tower = f"{family_of(model.config).tower}."
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    trained = [name for name in linear if policy.train_vision or not name.startswith(tower)]
    targets = [target.strip() for target in policy.lora.targets]
    if [target.lower() for target in targets] == [ALL]:
        return trained
    unknown = [target for target in targets if not any(_ends_with(name, target) for name in trained)]
    if unknown or not targets:
        raise PolicyError(_no_such_modules(unknown, linear, trained))
    return [name for name in trained if any(_ends_with(name, target) for target in targets)]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _no_such_modules(unknown: list[str], linear: list[str], trained: list[str]) -> str:
    there = ", ".join(sorted({name.rpartition(".")[2] for name in trained if not name.rpartition(".")[2].isdigit()}))
    frozen = [target for target in unknown if any(_ends_with(name, target) for name in linear)]
    named = (
        f"{', '.join(unknown)[:300]}: no linear module that is trained has this name" if unknown else "they are none"
    )
    why = f" ({', '.join(frozen)}: in the vision tower alone, and policy.train_vision is false)" if frozen else ""
    return f"policy.lora.targets: {named}{why}. There are {there}; or take {ALL}, alone, for all of them"


def merged(model: PeftModel) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """The model without its adapters, and its weights with them, added in float32.

    A weight that gets an adapter's change is float32; rounded to bfloat16 it would lose most of a small change, and again in
    each stage. The change goes onto the weights as the files hold them that the model was loaded from. Others keep their
    values, in bfloat16 where that is enough. The adapters are taken off the model.

    Returns:
        The model, and tensors by their names in it, on the CPU.
    """
    layers = {
        name.removeprefix("base_model.model.") + ".weight": module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    plain = model.unload()
    weights, brief = _as_loaded(plain), plain.dtype != torch.float32
    for name, value in weights.items():
        held = value.detach().cpu()
        layer = layers.pop(name, None)
        weights[name] = held.float() + _change(layer) if layer is not None else _short(held) if brief else held
    if layers:
        raise PolicyError(f"{len(layers)} adapters belong to no weight, as {min(layers)}")
    return plain, weights


def _change(layer: LoraLayer) -> torch.Tensor:
    """What the active adapters add to a layer's weight, in float32."""
    change = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
    return change.detach().cpu()


def _as_loaded(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights before training; a float32 file's value is read again if the model holds it in lower precision."""
    folder, weights = Path(model.name_or_path), model.state_dict()
    if model.dtype != torch.float32 and model.name_or_path and folder.is_dir():
        for name, value in float32_tensors(folder):
            if name not in weights:
                raise PolicyError(f"{folder}: {name} is no tensor of the model that was loaded from it")
            weights[name] = value
    return weights


def _short(value: torch.Tensor) -> torch.Tensor:
    """The tensor in bfloat16, if that changes no value."""
    brief = value.to(torch.bfloat16) if value.dtype == torch.float32 else value
    return brief if torch.equal(brief.to(value.dtype), value) else value
