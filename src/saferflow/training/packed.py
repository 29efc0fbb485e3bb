"""One forward pass for rows that share a prompt: image and prompt once, every completion behind them, and no padding.

A DPO pair has one prompt and one image twice, a GRPO group as often as it is large. TRL's trainers ask the model for the
log-probabilities of a padded batch; `pack` answers that question from one long row instead. The image goes through the
vision tower once, the prompt's tokens stand in the row once, the completions follow, and attention lets each of them see the
prompt and itself. Positions (m-RoPE) are those that the rows have alone. The output head sees only the positions that a
label asks about. The numbers are the same but for rounding. Rows that share nothing are packed as well: without padding.

Prefix sharing for preference training: arXiv 2410.20305 (text, a block-sparse mask), arXiv 2506.05433 (text, GRPO). Ours: with
images, for TRL's trainers as they are, by one attention function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "saferflow_packed"
UNLABELLED = -100
SHARES_KEYS_UNDER_A_MASK = frozenset({"cpu"})
"""Devices with a fast kernel for a mask and fewer key heads than query heads; CUDA has only the one that keeps all scores."""
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""What TRL's fused head says of each token."""


class Span(NamedTuple):
    """Places in the packed row, the end not among them."""

    start: int
    end: int


@dataclass(frozen=True)
class Sight:
    """Who sees whom, as places in the packed row; a place at the end of a line that is padding is 0."""

    lines: torch.Tensor
    """(lines, places): prompts, each with its completion where it has only one; a place sees those before it in its line"""
    asking: torch.Tensor
    """(completions, places) of completions that share a prompt with others"""
    seen: torch.Tensor
    """(completions, places): the prompt's and the completion's own"""
    mask: torch.Tensor
    """(completions, 1, asking places, seen places)"""
    back: torch.Tensor
    """(tokens,): where each place of the row is among all lines' and then all completions' places"""


@dataclass(frozen=True)
class Pack:
    """A padded batch as one row."""

    ids: torch.Tensor
    """(1, tokens)"""
    positions: torch.Tensor
    """(3, 1, tokens), of time, height and width"""
    sight: Sight
    pixels: torch.Tensor | None
    """(patches, channels) of the images that differ"""
    grids: torch.Tensor | None
    """(images, 3)"""
    sees: torch.Tensor
    """(labels,): where in the row stands what each label is told from"""
    labels: torch.Tensor
    """(1, labels)"""
    rows: torch.Tensor
    columns: torch.Tensor
    """(labels,): where in the padded batch each label stands, one column to the left as TRL shifts them"""
    unpadded_tokens: int
    """Tokens of the batch without padding, each row's prompt among them."""


def pack(model: nn.Module) -> None:
    """Have the model answer TRL's `fused_lm_head` calls from packed rows; all other calls are as before.

    Args:
        model: as TRL's trainer holds it, with its fused head, perhaps under an adapter.
    """
    for module in model.modules():
        if isinstance(module, Qwen2_5_VLForConditionalGeneration):
            module.config.text_config._attn_implementation = NAME
            module.model.language_model.config._attn_implementation = NAME
            module.model.register_forward_hook(_keep_labelled_states, with_kwargs=True)
            module.forward = MethodType(_answering(module.forward, type(module).forward), module)


def unpack(model: nn.Module) -> None:
    """Give attention its own name back, before the model is saved."""
    for module in model.modules():
        if isinstance(module, Qwen2_5_VLForConditionalGeneration):
            module.config.text_config._attn_implementation = "sdpa"
            module.model.language_model.config._attn_implementation = "sdpa"


def _answering(plain: Callable[..., Any], signed: Callable[..., Any]) -> Callable[..., Any]:
    """The model's forward; with the signature of its class, which `generate` reads."""

    @wraps(signed)
    def forward(self: Qwen2_5_VLForConditionalGeneration, *args: Any, **kwargs: Any) -> Any:
        return _forward(plain, self, args, kwargs)

    return forward


def _forward(
    plain: Callable[..., Any], model: Qwen2_5_VLForConditionalGeneration, args: tuple, kwargs: dict[str, Any]
) -> Any:
    batch = packed(model.model, **kwargs) if kwargs.get("fused_lm_head") and not args else None
    if batch is None:
        return plain(*args, **kwargs)
    labels = kwargs["labels"]
    output = plain(
        input_ids=batch.ids,
        position_ids=batch.positions,
        attention_mask={"full_attention": None},
        pixel_values=batch.pixels,
        image_grid_thw=batch.grids,
        shift_labels=batch.labels,
        fused_lm_head=True,
        packed=batch,
    )
    label_mask = labels[:, 1:] != UNLABELLED
    for name in PER_TOKEN:
        if (values := getattr(output, name)) is not None:
            output[name] = values.new_zeros(label_mask.shape).index_put((batch.rows, batch.columns), values[0])
    output["label_mask"] = label_mask
    return output


def packed(
    model: Qwen2_5_VLModel,
    *,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    pixel_values: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | None = None,
    **_: Any,
) -> Pack | None:
    """The packed row of a padded batch; None where it cannot be packed (no mask, no label, an image in a completion).

    Args:
        input_ids: (rows, tokens), padded on either side; so are `attention_mask` and `labels`, which are -100 where nothing
            is asked. A row's prompt is what stands before its first label.
        pixel_values: (patches, channels), and `image_grid_thw` (images, 3), in the order of the rows.
    """
    if input_ids is None or labels is None or attention_mask is None or attention_mask.shape != input_ids.shape:
        return None
    device, image = input_ids.device, model.config.image_token_id
    ids, seen = input_ids.cpu(), attention_mask.cpu().bool()
    labelled = labels.cpu() != UNLABELLED
    labelled[:, 0] = False
    grids = image_grid_thw.cpu() if image_grid_thw is not None else torch.zeros((0, 3), dtype=torch.long)
    patches = [0, *grids.prod(dim=1).cumsum(0).tolist()]
    of_row = images_of_rows((ids == image).sum(dim=1).tolist(), grids, model.visual.spatial_merge_size**2)
    if of_row is None:
        return None
    families: dict[tuple, list[tuple[int, int, int, int]]] = {}
    for row in range(len(ids)):
        if not labelled[row].any():
            continue
        places = seen[row].nonzero()
        start, end = int(places[0]), int(places[-1]) + 1
        first = int(labelled[row].nonzero()[0])
        if (ids[row, first:end] == image).any() or not seen[row, start:end].all():
            return None
        key = (tuple(ids[row, start:first].tolist()), *(tuple(grids[n].tolist()) for n in of_row[row]))
        image_number = _same_images(families, key, of_row, row, pixel_values, patches)
        families.setdefault((*key, image_number), []).append((row, start, first, end))
    if not families:
        return None
    return _laid_out(
        model, list(families.values()), ids, labelled, labels, pixel_values, grids, patches, of_row, device
    )


def images_of_rows(tokens: Sequence[int], grids: torch.Tensor, merge: int) -> list[list[int]] | None:
    """The images of each row, by the tokens that it has for them; None where they do not come out even."""
    sizes = (grids.prod(dim=1) // merge).tolist()
    image_lists, image = [], 0
    for remaining in tokens:
        row_images = []
        while remaining > 0 and image < len(sizes):
            remaining -= sizes[image]
            row_images.append(image)
            image += 1
        if remaining:
            return None
        image_lists.append(row_images)
    return image_lists if image == len(sizes) else None


def _same_images(
    families: dict, key: tuple, of_row: list[list[int]], row: int, pixels: torch.Tensor | None, patches: list[int]
) -> int:
    """Which of the families with this key has the same pixels as the row; a new number where none has."""
    number = 0
    while (*key, number) in families:
        first = families[*key, number][0][0]
        pairs = zip(of_row[first], of_row[row], strict=True)
        if all(torch.equal(*(pixels[patches[n] : patches[n + 1]] for n in pair)) for pair in pairs):
            return number
        number += 1
    return number


def _laid_out(
    model: Qwen2_5_VLModel,
    families: list[list[tuple[int, int, int, int]]],
    ids: torch.Tensor,
    labelled: torch.Tensor,
    labels: torch.Tensor,
    pixels: torch.Tensor | None,
    grids: torch.Tensor,
    patches: list[int],
    of_row: list[list[int]],
    device: torch.device,
) -> Pack:
    tokens, positions, family_spans, sees, rows, columns = [], [], [], [], [], []
    length = total = 0
    images: list[int] = []
    for members in families:
        row, start, first, _ = members[0]
        prompt = Span(length, length + first - start)
        tokens.append(ids[row, start:first])
        at = _positions(model, ids[row, start:first], grids[of_row[row]])
        positions.append(at)
        images += of_row[row]
        length, spans = prompt.end, []
        for row, begin, first, end in members:
            span = Span(length, length + end - first)
            spans.append(span)
            tokens.append(ids[row, first:end])
            positions.append((torch.arange(end - first) + int(at.max()) + 1).expand(3, -1))
            places = labelled[row, first:end].nonzero()[:, 0]
            before = places + span.start - 1
            before[places == 0] = prompt.end - 1
            sees.append(before)
            rows.append(torch.full_like(places, row))
            columns.append(places + first - 1)
            length, total = span.end, total + end - begin
        family_spans.append((prompt, spans))
    rows, columns = torch.cat(rows).to(device), torch.cat(columns).to(device)
    shown = torch.cat([pixels[patches[n] : patches[n + 1]] for n in images]) if images else None
    return Pack(
        ids=torch.cat(tokens)[None].to(device),
        positions=torch.cat(positions, dim=1)[:, None].to(device),
        sight=_sight(family_spans, length, device),
        pixels=shown,
        grids=grids[images].to(device) if images else None,
        sees=torch.cat(sees).to(device),
        labels=labels[rows, columns + 1][None],
        rows=rows,
        columns=columns,
        unpadded_tokens=total,
    )


def _positions(model: Qwen2_5_VLModel, prompt: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """(3, tokens) of a prompt, as it has them alone."""
    if not len(grids):
        return torch.arange(len(prompt)).expand(3, -1)
    kinds = (prompt == model.config.image_token_id).int()
    positions, _ = model.get_rope_index(prompt[None], kinds[None], image_grid_thw=grids)
    return positions[:, 0]


def _sight(families: Sequence[tuple[Span, Sequence[Span]]], tokens: int, device: torch.device) -> Sight:
    lines, asking, seen = [], [], []
    for prompt, spans in families:
        alone = len(spans) == 1
        lines.append(torch.arange(prompt.start, spans[0].end if alone else prompt.end))
        for span in () if alone else spans:
            asking.append(torch.arange(*span))
            seen.append(torch.cat([torch.arange(*prompt), asking[-1]]))
    mask = torch.zeros(len(asking), 1, _longest(asking), _longest(seen), dtype=torch.bool)
    for number, (own, seen_places) in enumerate(zip(asking, seen, strict=True)):
        visible = torch.ones(len(own), len(seen_places), dtype=torch.bool).tril(diagonal=len(seen_places) - len(own))
        mask[number, 0, : len(own), : len(seen_places)] = visible
        mask[number, 0, len(own) :, 0] = True  # a query that sees nothing would be no number
    back = torch.zeros(tokens, dtype=torch.long)
    for number, line in enumerate(lines):
        back[line] = torch.arange(len(line)) + number * _longest(lines)
    for number, own in enumerate(asking):
        back[own] = torch.arange(len(own)) + number * _longest(asking) + len(lines) * _longest(lines)
    return Sight(*(tensor.to(device) for tensor in (_padded(lines), _padded(asking), _padded(seen), mask, back)))


def _longest(places: Sequence[torch.Tensor]) -> int:
    return max(map(len, places), default=0)


def _padded(places: Sequence[torch.Tensor]) -> torch.Tensor:
    padded = torch.zeros(len(places), _longest(places), dtype=torch.long)
    for number, line in enumerate(places):
        padded[number, : len(line)] = line
    return padded


def _keep_labelled_states(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Of the last hidden states those that a label is told from, so that the head computes no others."""
    batch = kwargs.get("packed")
    if batch is not None:
        output.last_hidden_state = output.last_hidden_state[:, batch.sees]
    return output


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed: Pack | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a packed row; without a pack it is torch's, as transformers calls it.

    Args:
        query: (1, heads, tokens, channels); `key` and `value` may have fewer heads.

    Returns:
        (1, tokens, heads, channels), and nothing for the weights.
    """
    if packed is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    sight = packed.sight
    attend = partial(F.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    queries, keys, values = (_at(states, sight.lines) for states in (query, key, value))
    outputs = [_flat(attend(queries, keys, values, is_causal=True, enable_gqa=True))]
    if len(sight.asking):
        shares = query.device.type in SHARES_KEYS_UNDER_A_MASK
        heads = 1 if shares else query.shape[1] // key.shape[1]
        keys, values = (repeat_kv(_at(states, sight.seen), heads) for states in (key, value))
        queries = _at(query, sight.asking)
        outputs.append(_flat(attend(queries, keys, values, attn_mask=sight.mask, enable_gqa=shares)))
    return torch.cat(outputs)[sight.back][None], None


def _at(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, heads, tokens, channels) at (lines, places): (lines, heads, places, channels)."""
    return states[0].transpose(0, 1)[places].transpose(1, 2)


def _flat(states: torch.Tensor) -> torch.Tensor:
    """(lines, heads, places, channels) as (lines * places, heads, channels)."""
    return states.transpose(1, 2).flatten(0, 1)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
