"""Rollouts from one prefill a prompt: image and prompt are read once, then the cache is branched for the whole group.

`generate` is asked by TRL for each completion's own copy of the prompt: a group of eight reads the image eight times, and a
batch goes on until its last row is done. Here rows leave the batch when they are done. The distribution is that of
`generate` with the same temperature and top-p; the draws are others. Source: ours.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "saferflow_branched"

LIVE = 0.75
"""Finished rows leave the batch when so small a share of it is left."""


@torch.no_grad()
def sample(
    model: Qwen2_5_VLForConditionalGeneration,
    prompts: dict[str, Any],
    branches: Sequence[int],
    *,
    max_tokens: int,
    temperature: float,
    top_p: float,
    ends: Collection[int],
) -> list[list[int]]:
    """Completions, each with its end token if it came to one; none has the token of an image, for which there would be none.

    Args:
        prompts: the model's inputs for prompts that differ, padded on the left: `input_ids` (prompts, tokens),
            `attention_mask`, and the images' fields.
        branches: for each completion the number of its prompt.
        temperature: 0 takes the likeliest token.
        ends: tokens after which a completion is done.
    """
    if isinstance(model, PeftModel):
        model = model.get_base_model()  # which has the adapter's layers in it
    device = prompts["input_ids"].device
    first = model(**prompts, use_cache=True, logits_to_keep=1)
    branch = torch.tensor(branches, device=device)
    cache = first.past_key_values
    cache.batch_select_indices(branch)
    cache.layers = [_roomy(layer, max_tokens) for layer in cache.layers]
    mask, logits = prompts["attention_mask"][branch], first.logits[branch, -1]
    shift = _shift(model, prompts, device)[branch]
    stops = torch.tensor(sorted(ends), device=device)
    rows = torch.arange(len(branches), device=device)
    unsaid = [token for token in unsayable(model.config) if token < logits.shape[-1]]
    drawn = torch.full((len(branches), max_tokens), -1, dtype=torch.long, device=device)
    for step in range(max_tokens):
        logits[:, unsaid] = -torch.inf
        token = _drawn(logits, temperature, top_p)
        drawn[rows, step] = token
        live = ~torch.isin(token, stops)
        if step + 1 == max_tokens or not live.any():
            break
        if live.float().mean() <= LIVE:
            kept = live.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, token, mask, shift, live = rows[kept], token[kept], mask[kept], shift[kept], live[kept]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = (mask.sum(dim=1, keepdim=True) - 1 + shift).expand(3, -1, -1)
        with _shared_keys(model):
            logits = model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
    return [_until_the_end(row, ends) for row in drawn.tolist()]


@contextmanager
def _shared_keys(model: Qwen2_5_VLForConditionalGeneration) -> Iterator[None]:
    """Within it a step's attention reads each key once for all heads that share it; transformers would copy it for each."""
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
    """Attention of one new token a row: heads that share keys are queries of one head.

    Args:
        query: (rows, heads, 1, channels); `key` and `value` (rows, key heads, places, channels).

    Returns:
        (rows, 1, heads, channels), and nothing for the weights.
    """
    rows, heads, tokens, channels = query.shape
    if tokens != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    folded = query.reshape(rows, key.shape[1], heads // key.shape[1], channels)
    seen = F.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
    return seen.reshape(rows, 1, heads, channels), None


class Roomy(DynamicLayer):
    """Keys and values with room for what will be said: a step writes one place, and does not copy all that stands before it."""

    def __init__(self, layer: DynamicLayer, room: int):
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._most = layer.keys.shape[-2] + room
        self._hold(layer.keys, layer.values)

    def _hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        told = keys.shape[-2]
        self._keys, self._values = (
            each.new_empty((*each.shape[:-2], self._most, each.shape[-1])) for each in (keys, values)
        )
        self._keys[..., :told, :], self._values[..., :told, :] = keys, values
        self.keys, self.values = self._keys[..., :told, :], self._values[..., :told, :]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values, those of the new places among them."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        self._keys[..., start:end, :], self._values[..., start:end, :] = key_states, value_states
        self.keys, self.values = self._keys[..., :end, :], self._values[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Only keep the `indices` in the batch dimension."""
        self._hold(self.keys[indices], self.values[indices])


def _roomy(layer: DynamicLayer, room: int) -> DynamicLayer:
    """The layer with room; one that keeps a window of the past alone stays as it is."""
    return Roomy(layer, room) if type(layer) is DynamicLayer else layer


def unsayable(config: Qwen2_5_VLConfig) -> list[int]:
    """Tokens that stand for pixels; a completion that had one would want an image of its own in the next forward pass."""
    return [config.image_token_id, config.video_token_id]


def _shift(model: Qwen2_5_VLForConditionalGeneration, prompts: dict[str, Any], device: torch.device) -> torch.Tensor:
    """(prompts, 1): how far the position after a prompt is from its count of tokens; an image has fewer positions."""
    if prompts.get("image_grid_thw") is None:
        return torch.zeros(len(prompts["input_ids"]), 1, dtype=torch.long, device=device)
    return model.model.rope_deltas.to(device)


def _drawn(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """A token a row."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    chances = (logits.float() / temperature).softmax(dim=-1)
    if top_p < 1:
        ordered, places = chances.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(dim=-1) - ordered > top_p] = 0
        chances = torch.zeros_like(chances).scatter(-1, places, ordered)
    # By the inverse of the distribution function: `torch.multinomial` is ten times as slow on a CPU.
    reached = chances.double().cumsum(dim=-1)
    drawn = torch.rand(len(reached), 1, dtype=reached.dtype, device=reached.device) * reached[:, -1:]
    return torch.searchsorted(reached, drawn, right=True)[:, 0]


def _until_the_end(row: list[int], ends: Collection[int]) -> list[int]:
    """What was drawn for a row, up to its first end; rows that are done are drawn on while others are not."""
    for place, token in enumerate(row):
        if token in ends:
            return row[: place + 1]
        if token == -1:
            return row[:place]
    return row


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
