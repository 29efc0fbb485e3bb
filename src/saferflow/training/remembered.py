"""Stores tensors that are computed once: image features of a frozen vision tower, log-probabilities of DPO's reference.

Both follow from weights that no step changes, so they are kept in files under the digest of those weights and of what was
shown to them, and serve other epochs, stages and runs of this checkout. A value is used as it was computed, perhaps in
another batch: it may differ from a fresh one by rounding. Source: ours.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from saferflow.training.packed import UNLABELLED, images_of_rows

SLACK = 0.01
"""The share of the bound that a process writes before it measures again what all processes have written."""


class Remembered:
    """Tensors in files by their keys; beyond the bound, those read or written longest ago are deleted.

    Args:
        folder: made where it is missing; several processes may share it.
        most: bytes of all processes; for a moment it is `SLACK` of it a process more, and a file.
    """

    def __init__(self, folder: Path, most: int):
        self._folder, self._most, self._unseen = folder, most, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._make_room()

    def get(self, key: str) -> torch.Tensor | None:
        """The tensor of a key; None if there is none, or if its file is damaged."""
        path = self._path(key)
        try:
            value = load_file(path)["value"]
            os.utime(path)
        except (FileNotFoundError, SafetensorError, KeyError):
            return None
        return value

    def put(self, key: str, value: torch.Tensor) -> None:
        """Store a tensor; on a full disk nothing is stored, and no error is raised."""
        handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        os.close(handle)
        partial = Path(name)
        try:
            save_file({"value": value.detach().contiguous().cpu()}, partial)
            self._unseen += partial.stat().st_size
            partial.replace(self._path(key))
        except (OSError, SafetensorError):
            partial.unlink(missing_ok=True)
        if self._unseen > SLACK * self._most:
            self._make_room()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"

    def _make_room(self) -> None:
        """Delete the oldest files beyond the bound, down to nine tenths of it."""
        files = []
        for path in self._folder.glob("*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process made room
                continue
            files.append((status.st_mtime_ns, status.st_size, path))
        self._unseen, held = 0, sum(size for _, size, _ in files)
        if held <= self._most:
            return
        for _, size, path in sorted(files):
            if held <= 0.9 * self._most:
                break
            path.unlink(missing_ok=True)
            held -= size


def remember_vision(model: nn.Module, store: Remembered) -> None:
    """Have each frozen vision tower compute an image's features once; a trained tower stays as it is."""
    for module in model.modules():
        frozen = isinstance(module, Qwen2_5_VisionTransformerPretrainedModel) and not any(
            parameter.requires_grad for parameter in module.parameters()
        )
        if frozen:
            module.forward = MethodType(_vision_once(module.forward, digest(module), store), module)


def _vision_once(plain: Callable[..., Any], tower: str, store: Remembered) -> Callable[..., Any]:
    @wraps(plain)
    def forward(
        self: Qwen2_5_VisionTransformerPretrainedModel,
        hidden_states: torch.Tensor,
        grid_thw: torch.Tensor,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        images = hidden_states.split(grid_thw.prod(dim=-1).tolist())
        keys = [_key(tower, image, grid) for image, grid in zip(images, grid_thw, strict=True)]
        known = {key: store.get(key) for key in set(keys)}
        unknown = [key for key in dict.fromkeys(keys) if known[key] is None]
        if unknown:
            numbers = [keys.index(key) for key in unknown]
            grids = grid_thw[numbers]
            seen = plain(torch.cat([images[number] for number in numbers]), grid_thw=grids, **kwargs).pooler_output
            sizes = (grids.prod(dim=-1) // self.spatial_merge_size**2).tolist()
            for key, features in zip(unknown, seen.split(sizes), strict=True):
                known[key] = features
                store.put(key, features)
        features = [known[key].to(hidden_states.device, self.dtype) for key in keys]
        return BaseModelOutputWithPooling(pooler_output=torch.cat(features))

    return forward


def remember_reference(model: nn.Module, store: Remembered) -> None:
    """Have a reference policy compute a row's log-probabilities once."""
    for module in model.modules():
        if isinstance(module, Qwen2_5_VLForConditionalGeneration):
            module.forward = MethodType(_reference_once(module.forward, digest(module), store), module)


def _reference_once(plain: Callable[..., Any], weights: str, store: Remembered) -> Callable[..., Any]:
    @wraps(plain)
    def forward(self: Qwen2_5_VLForConditionalGeneration, *args: Any, **kwargs: Any) -> Any:
        labels = kwargs.get("labels")
        keys = _keys_of_rows(weights, self, **kwargs) if kwargs.get("fused_lm_head") and not args else None
        if keys is None:
            return plain(*args, **kwargs)
        label_mask = labels[:, 1:] != UNLABELLED
        known = [store.get(key) for key in keys]
        if any(tensor is None for tensor in known):
            output = plain(**kwargs)
            for row, key in enumerate(keys):
                store.put(key, output.log_probs[row][label_mask[row]])
            return output
        log_probs = torch.cat(known).to(labels.device)
        return FusedCausalLMOutput(
            log_probs=log_probs.new_zeros(label_mask.shape).masked_scatter(label_mask, log_probs), label_mask=label_mask
        )

    return forward


def _keys_of_rows(
    weights: str,
    model: Qwen2_5_VLForConditionalGeneration,
    *,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    pixel_values: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | None = None,
    **_: Any,
) -> list[str] | None:
    """The key of each row of a padded batch, independent of its padding; None if its images cannot be matched.

    Args:
        input_ids: (rows, tokens); so are `attention_mask` and `labels`.
        pixel_values: (patches, channels), and `image_grid_thw` (images, 3), in the order of the rows.
    """
    if input_ids is None or labels is None or attention_mask is None:
        return None
    grids = image_grid_thw if image_grid_thw is not None else torch.zeros((0, 3), dtype=torch.long)
    tokens = (input_ids == model.config.image_token_id).sum(dim=1).tolist()
    of_row = images_of_rows(tokens, grids, model.model.visual.spatial_merge_size**2)
    if of_row is None:
        return None
    images = pixel_values.split(grids.prod(dim=-1).tolist()) if len(grids) else ()
    keys = []
    for row, seen in enumerate(attention_mask.bool()):
        shown = [tensor for number in of_row[row] for tensor in (images[number], grids[number])]
        keys.append(_key(weights, input_ids[row][seen], labels[row][seen], *shown))
    return keys


def digest(module: nn.Module) -> str:
    """Digest of a module's weights and their names."""
    return _key(*(part for name, value in sorted(module.state_dict().items()) for part in (name, value)))


def _key(*parts: str | torch.Tensor) -> str:
    hasher = hashlib.blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, str):
            hasher.update(part.encode() + b"\0")
        else:
            value = part.detach().cpu().contiguous()
            hasher.update(f"{value.dtype} {tuple(value.shape)}".encode())
            hasher.update(value.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()
