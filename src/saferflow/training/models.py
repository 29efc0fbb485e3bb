"""Prepares the models of a trainer before it trains: packed rows, remembered tensors, and rows without an image.

Source: ours.
"""

from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from saferflow.params import PolicyParams
from saferflow.training.homes import ROOT
from saferflow.training.packed import pack
from saferflow.training.policy import attend_windows_at_once
from saferflow.training.remembered import Remembered, remember_reference, remember_vision


def prepare(trainer: Any, policy: PolicyParams, *, fixed_rows: bool = False) -> None:
    """Prepare the policy of a TRL trainer, and its reference if that is a separate model.

    Args:
        fixed_rows: the reference is asked about the same rows in each epoch, not about what the policy has just said.
    """
    store, pictures = remembered(policy), getattr(trainer, "pictures", None)
    for model in (trainer.model, getattr(trainer, "ref_model", None)):
        if model is None:
            continue
        model = trainer.accelerator.unwrap_model(model)
        if policy.dtype == "bfloat16" and policy.lora is None and not trainer.is_deepspeed_enabled:
            model.float()  # see `policy.needs_masters`; the reference as well, for its numbers to be the policy's at the start
        if policy.packed:
            pack(model)
        for module in model.modules():
            if isinstance(module, Qwen2_5_VLForConditionalGeneration):
                attend_windows_at_once(module, policy)
            if isinstance(module, Qwen2_5_VLModel):
                module.forward = MethodType(_minding_images(module.forward, type(module).forward), module)
                if pictures is not None:
                    pictures.show(module)
        if store is not None:
            remember_vision(model, store)
    if store is not None and fixed_rows and getattr(trainer, "ref_model", None) is not None:
        remember_reference(trainer.accelerator.unwrap_model(trainer.ref_model), store)


def remembered(policy: PolicyParams) -> Remembered | None:
    """This checkout's store of remembered tensors; None if nothing is remembered.

    Nothing is with ZeRO-3, whose processes have to call a model together.
    """
    if not policy.cache_gb or is_deepspeed_zero3_enabled():
        return None
    return Remembered(ROOT / "remembered", int(policy.cache_gb * 1e9))


def _minding_images(plain: Callable[..., Any], signed: Callable[..., Any]) -> Callable[..., Any]:
    """Replace the model's forward; a hook would call the tower before DeepSpeed's own hooks know the model."""

    @wraps(signed)
    def forward(self: Qwen2_5_VLModel, *args: Any, **kwargs: Any) -> Any:
        return plain(*args, **_mind_images(self, kwargs))

    return forward


def _mind_images(module: Qwen2_5_VLModel, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Treat empty pixels as no pixels; with several processes, call the vision tower in each of them.

    TRL cuts a batch of rows with and without an image into micro batches; one without any gets an empty tensor. A process
    whose rows have no image would leave the others waiting: with ZeRO-3 for its part of the tower's weights, else for its
    part of the tower's gradients.
    """
    pixels = kwargs.get("pixel_values")
    if pixels is not None and len(pixels) == 0:
        pixels = None
        kwargs = {**kwargs, "pixel_values": None, "image_grid_thw": None}
    begins = kwargs.get("past_key_values") is None and kwargs.get("inputs_embeds") is None
    if pixels is None and begins and kwargs.get("input_ids") is not None and _needs_the_tower(module):
        embedded = module.get_input_embeddings()(kwargs["input_ids"])
        kwargs = {**kwargs, "inputs_embeds": embedded + 0.0 * _seen_nothing(module, embedded)}
    return kwargs


def _needs_the_tower(module: Qwen2_5_VLModel) -> bool:
    """Whether other processes wait for this one's call of the vision tower."""
    if is_deepspeed_zero3_enabled():
        return True
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in module.visual.parameters())
    return together and trained and torch.distributed.get_world_size() > 1


def _seen_nothing(module: Qwen2_5_VLModel, like: torch.Tensor) -> torch.Tensor:
    """The sum of the vision tower's features of the smallest black image."""
    vision: nn.Module = module.visual
    merge, config = vision.spatial_merge_size, module.config.vision_config
    width = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.zeros(merge**2, width, device=like.device, dtype=like.dtype)
    grid = torch.tensor([[1, merge, merge]], device=like.device)
    return module.get_image_features(pixels, grid, return_dict=True).pooler_output[0].sum()
