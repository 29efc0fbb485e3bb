"""Keys and values of completions that are at different places, and the attention of their next tokens.

    row 0   . . p p p p | a b c [d e f]        . padding   p prompt   a what is in the cache
    row 1   p p p p p p | a [b c d] . .        [ ] the tokens of this pass: each sees its prompt, its completion and itself

A pass writes the same number of tokens a row, behind what the row keeps; the next pass leaves what it keeps of them, and writes
over the others. Source: ours.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2_5_VLForConditionalGeneration
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

NAME = "saferflow_branched"


class Places:
    """The places of each row's next tokens in the cache: behind its prompt and the cached part of its completion.

    Args:
        prompt_mask: (rows, tokens), of prompts that are padded on the left.
        shift: (rows, 1), from `_shift`.
        heads: query heads that share a key head.
    """

    def __init__(self, prompt_mask: torch.Tensor, shift: torch.Tensor, heads: int):
        self._prompt, self._heads = prompt_mask.bool(), heads
        self._first = prompt_mask.sum(dim=1, keepdim=True) + shift

    def select(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` (rows left,)."""
        self._prompt, self._first = self._prompt[indices], self._first[indices]

    def advance(self, cached: Sequence[int], width: int) -> None:
        """Set places, positions and mask of each row's next `width` tokens.

        `where` (rows, width) are places in the cache, `positions` (3, rows, width) those of the rotary embedding; `mask`
        (rows, 1, heads * width, places) lets a token see its prompt, its completion and itself.
        """
        device = self._prompt.device
        prompt = self._prompt.shape[1]
        offsets = torch.tensor(cached, device=device)[:, None] + torch.arange(width, device=device)  # (rows, width)
        self.extent = prompt + max(cached) + width
        self.where, self.positions = prompt + offsets, (self._first + offsets).expand(3, -1, -1)
        # (rows, width, places): what each token sees, first of completions, then of prompts too
        completion_mask = torch.arange(self.extent - prompt, device=device) <= offsets[:, :, None]
        seen = torch.cat([self._prompt[:, None].expand(-1, width, -1), completion_mask], dim=2)
        self.mask = seen.repeat(1, self._heads, 1)[:, None]


class Branched(DynamicLayer):
    """Keys and values of rows at different places; a step writes its own places and copies nothing before them."""

    def __init__(self, layer: DynamicLayer, places: Places):
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._places = places
        self._keys, self._values = layer.keys, layer.values
        self.keys, self.values = layer.keys, layer.values
        self._index = torch.arange(len(layer.keys), device=layer.device)[:, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values, (rows, heads, width, channels), and return all, (rows, heads, places, channels)."""
        extent, where = self._places.extent, self._places.where
        if extent > self._keys.shape[-2]:
            self._keys, self._values = (_wider(states, extent + GROWTH) for states in (self._keys, self._values))
        # Under autocast keys are float32 and values are not.
        self._keys[self._index, :, where] = key_states.transpose(1, 2).to(self._keys.dtype)
        self._values[self._index, :, where] = value_states.transpose(1, 2).to(self._values.dtype)
        self.keys, self.values = self._keys[..., :extent, :], self._values[..., :extent, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the `indices` of the batch dimension."""
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._index = torch.arange(len(indices), device=self.device)[:, None]


GROWTH = 64
"""Places that are allocated at once for future tokens."""


def _wider(tensor: torch.Tensor, places: int) -> torch.Tensor:
    wide = tensor.new_zeros((*tensor.shape[:-2], places, tensor.shape[-1]))
    wide[..., : tensor.shape[-2], :] = tensor
    return wide


def heads_a_key(model: Qwen2_5_VLForConditionalGeneration) -> int:
    """The number of query heads that share a key head."""
    config = model.config.text_config
    return config.num_attention_heads // config.num_key_value_heads


@contextmanager
def shared_keys(model: Qwen2_5_VLForConditionalGeneration) -> Iterator[None]:
    """Inside, a step's attention reads each key once for all heads that share it; transformers would copy it for each."""
    configs = [model.config.text_config, model.model.language_model.config]
    names = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config, name in zip(configs, names, strict=True):
            config._attn_implementation = name


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a step's tokens: heads that share keys are queries of one head.

    Args:
        query: (rows, heads, tokens, channels); `key` and `value` (rows, key heads, places, channels).
        attention_mask: (rows, 1, heads a key head * tokens, places).

    Returns:
        (rows, tokens, heads, channels), and nothing for the weights.
    """
    rows, heads, tokens, channels = query.shape
    folded = query.reshape(rows, key.shape[1], -1, channels)
    seen = F.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return seen.reshape(rows, heads, tokens, channels).transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
