"""One forward pass for rows that share a prompt: image and prompt once, every completion behind them, and no padding.

A DPO pair has one prompt and one image twice, a GRPO group as often as it is large. TRL's trainers ask the model for the
log-probabilities of a padded batch; `pack` has it compute them from one long row instead. The image goes through the
vision tower once, the prompt's tokens stand in the row once, the completions follow, and attention lets each of them see the
prompt and itself. Positions (m-RoPE) are those that the rows have alone. The output head gets only the states that predict a
label. The numbers are the same but for rounding. Rows that share nothing are packed too: without padding.

    padded batch            p p p a a a      two rows, one family: they share the prompt and its images
    (rows, tokens)          p p p b b .      p prompt   a, b completions   . padding

    packed row (1, tokens)  p p p a a a b b
    positions               0 1 2 3 4 5 3 4  b goes on from the prompt, not from a

    who sees whom             p p p a a a b b        Attention computes the two parts apart:
                            p x                        `lines`: causal, one line per prompt (with its completion
                            p x x                        where it has only one): the prompt's rows of this mask
                            p x x x                    `asking`, `seen`, `mask`: one line per completion of a
                            a x x x x                    shared prompt: the completions' rows of this mask
                            a x x x x x              `back` puts the outputs of both into the row's order.
                            a x x x x x x
                            b x x x       x
                            b x x x       x x

Shapes: `rows`, `tokens` (of a row of the padded batch, or of the packed row), `labels` (tokens that are trained on), `lines`
and `places` (of `Sight`), `patches` and `images` (of the vision tower), `heads`, `channels`.

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
"""Devices with a fast kernel for a mask and fewer key heads than query heads; CUDA's only kernel for both stores all scores."""
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""The fields of TRL's fused head with one number per token."""


class Span(NamedTuple):
    """A range of places in the packed row, without its end."""

    start: int
    end: int


@dataclass(frozen=True)
class Sight:
    """Who sees whom, as places in the packed row; the padding at the end of a line is place 0."""

    lines: torch.Tensor
    """(lines, places): prompts, each with its completion if it has only one; a place sees those up to itself in its line"""
    asking: torch.Tensor
    """(completions, places) of completions that share a prompt with others"""
    seen: torch.Tensor
    """(completions, places): the prompt's places, then the completion's own"""
    mask: torch.Tensor
    """(completions, 1, asking places, seen places), bool: True where the asking place sees the other"""
    back: torch.Tensor
    """(tokens,): index of each place of the row among the places of all lines, followed by those of all completions"""


@dataclass(frozen=True)
class Pack:
    """A padded batch as one row."""

    ids: torch.Tensor
    """(1, tokens)"""
    positions: torch.Tensor
    """(3, 1, tokens), of time, height and width"""
    sight: Sight
    pixels: torch.Tensor | None
    """(patches, channels) of the images, each once per family"""
    grids: torch.Tensor | None
    """(images, 3): patches in time, height and width"""
    sees: torch.Tensor
    """(labels,): the place in the packed row whose state predicts each label"""
    labels: torch.Tensor
    """(1, labels)"""
    rows: torch.Tensor
    columns: torch.Tensor
    """`rows` and `columns`, (labels,): each label's place in the padded batch, one column to the left as TRL shifts labels"""
    unpadded_tokens: int
    """Tokens of the padded batch without its padding; a shared prompt counts once per row."""


def pack(model: nn.Module) -> None:
    """Have the model compute TRL's `fused_lm_head` calls from packed rows; all other calls stay as they are.

    Args:
        model: the model with TRL's fused head, also under an adapter.
    """
    for module in model.modules():
        if isinstance(module, Qwen2_5_VLForConditionalGeneration):
            # transformers takes the attention function of this name from the config that a layer holds.
            module.config.text_config._attn_implementation = NAME
            module.model.language_model.config._attn_implementation = NAME
            # Between model and head: TRL's fused head would compute the vocabulary for every state.
            module.model.register_forward_hook(_keep_labelled_states, with_kwargs=True)
            # Around TRL's forward, which has the fused head: it gets the packed row, its caller the padded batch's outputs.
            module.forward = MethodType(_answering(module.forward, type(module).forward), module)


def unpack(model: nn.Module) -> None:
    """Restore the name of the attention function, before the model is saved."""
    for module in model.modules():
        if isinstance(module, Qwen2_5_VLForConditionalGeneration):
            module.config.text_config._attn_implementation = "sdpa"
            module.model.language_model.config._attn_implementation = "sdpa"


def _answering(plain: Callable[..., Any], signed: Callable[..., Any]) -> Callable[..., Any]:
    """The packed forward of a model, with the signature of its class, which `generate` reads.

    `plain` is the forward that TRL put on the model (its fused head); `signed` is that of the class.
    """

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
    label_mask = labels[:, 1:] != UNLABELLED  # (rows, tokens - 1), as TRL's head gives it for the padded batch
    for name in PER_TOKEN:  # (1, labels) to (rows, tokens - 1), 0 at tokens without a label
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
    """The packed row of a padded batch; None if it cannot be packed (no mask, no label, an image in a completion).

    Args:
        input_ids: (rows, tokens), padded on either side; so are `attention_mask` and `labels`, which are -100 at tokens that are
            not trained on. A row's prompt is what stands before its first label.
        pixel_values: (patches, channels), and `image_grid_thw` (images, 3), in the order of the rows.
    """
    if input_ids is None or labels is None or attention_mask is None or attention_mask.shape != input_ids.shape:
        return None
    device, image = input_ids.device, model.config.image_token_id
    ids, seen = input_ids.cpu(), attention_mask.cpu().bool()
    labelled = labels.cpu() != UNLABELLED  # (rows, tokens)
    labelled[:, 0] = False  # no state predicts the first token
    grids = image_grid_thw.cpu() if image_grid_thw is not None else torch.zeros((0, 3), dtype=torch.long)
    patches = [0, *grids.prod(dim=1).cumsum(0).tolist()]  # (images + 1,): where each image's patches start
    of_row = images_of_rows((ids == image).sum(dim=1).tolist(), grids, model.visual.spatial_merge_size**2)
    if of_row is None:
        return None
    # Prompt, grids and a number for the pixels -> (row, start, first label, end) of its rows, as columns of the padded batch.
    families: dict[tuple, list[tuple[int, int, int, int]]] = {}
    for row in range(len(ids)):
        if not labelled[row].any():
            continue
        places = seen[row].nonzero()  # (tokens of the row, 1)
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
    """The numbers of each row's images, from its count of image tokens; None if images and tokens do not match.

    Args:
        tokens: (rows,), the image tokens of each row.
        grids: (images, 3), in patches; an image has one token per `merge` patches.
    """
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
    """The number of the family with this key and the row's pixels; a new number if there is none."""
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
    """The packed row of families.

    Args:
        families: the rows of each, as (row, start, first label, end): columns of the padded batch.
        ids: (rows, tokens), on the CPU; so is `labelled`, True at tokens that are trained on.
        labels: (rows, tokens), on `device`.
        pixels: (patches, channels).
        grids: (images, 3), on the CPU.
        patches: (images + 1,): where each image's patches start in `pixels`.
        of_row: the numbers of each row's images.
    """
    # Per family or row, then concatenated: tokens (tokens,), positions (3, tokens), sees, rows and columns (labels,).
    tokens, positions, family_spans, sees, rows, columns = [], [], [], [], [], []
    length = total = 0
    images: list[int] = []
    for members in families:
        row, start, first, _ = members[0]
        prompt = Span(length, length + first - start)
        tokens.append(ids[row, start:first])
        at = _positions(model, ids[row, start:first], grids[of_row[row]])  # (3, prompt's tokens)
        positions.append(at)
        images += of_row[row]
        length, spans = prompt.end, []
        for row, begin, first, end in members:
            span = Span(length, length + end - first)
            spans.append(span)
            tokens.append(ids[row, first:end])
            positions.append((torch.arange(end - first) + int(at.max()) + 1).expand(3, -1))
            places = labelled[row, first:end].nonzero()[:, 0]  # (labels of the row,), from the completion's start
            before = places + span.start - 1  # a state predicts the next token
            before[places == 0] = prompt.end - 1  # and the prompt's last state the first of each completion
            sees.append(before)
            rows.append(torch.full_like(places, row))
            columns.append(places + first - 1)
            length, total = span.end, total + end - begin
        family_spans.append((prompt, spans))
    rows, columns = torch.cat(rows).to(device), torch.cat(columns).to(device)
    shown = torch.cat([pixels[patches[n] : patches[n + 1]] for n in images]) if images else None  # (patches, channels)
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
    """(3, tokens): the positions of a prompt (tokens,) on its own."""
    if not len(grids):
        return torch.arange(len(prompt)).expand(3, -1)
    kinds = (prompt == model.config.image_token_id).int()
    positions, _ = model.get_rope_index(prompt[None], kinds[None], image_grid_thw=grids)
    return positions[:, 0]


def _sight(families: Sequence[tuple[Span, Sequence[Span]]], tokens: int, device: torch.device) -> Sight:
    """Who sees whom in a packed row of so many tokens, from each family's prompt and completions."""
    lines, asking, seen = [], [], []  # places (tokens,) of each line, before padding
    for prompt, spans in families:
        alone = len(spans) == 1
        lines.append(torch.arange(prompt.start, spans[0].end if alone else prompt.end))
        for span in () if alone else spans:
            asking.append(torch.arange(*span))
            seen.append(torch.cat([torch.arange(*prompt), asking[-1]]))
    mask = torch.zeros(len(asking), 1, _longest(asking), _longest(seen), dtype=torch.bool)
    for number, (own, seen_places) in enumerate(zip(asking, seen, strict=True)):
        # (own places, seen places): all of the prompt, and the completion up to the asking place
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
    """(lines, places), from lines of places; 0 behind the end of a line."""
    padded = torch.zeros(len(places), _longest(places), dtype=torch.long)
    for number, line in enumerate(places):
        padded[number, : len(line)] = line
    return padded


def _keep_labelled_states(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    """Keep the states that predict a label, so that the head computes no others.

    `last_hidden_state` becomes (1, labels, channels), from (1, tokens, channels).
    """
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
    """Attention of a packed row; without a pack, torch's as transformers calls it.

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
    # (lines, heads, places, channels) each; key and value heads may be fewer. No mask: each line is causal.
    queries, keys, values = (_at(states, sight.lines) for states in (query, key, value))
    outputs = [_flat(attend(queries, keys, values, is_causal=True, enable_gqa=True))]
    if len(sight.asking):
        shares = query.device.type in SHARES_KEYS_UNDER_A_MASK
        heads = 1 if shares else query.shape[1] // key.shape[1]
        # (completions, heads, seen places, channels) against (completions, heads, asking places, channels).
        keys, values = (repeat_kv(_at(states, sight.seen), heads) for states in (key, value))
        queries = _at(query, sight.asking)
        outputs.append(_flat(attend(queries, keys, values, attn_mask=sight.mask, enable_gqa=shares)))
    # (lines * places + completions * asking places, heads, channels) to (1, tokens, heads, channels)
    return torch.cat(outputs)[sight.back][None], None


def _at(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, heads, tokens, channels) at (lines, places): (lines, heads, places, channels)."""
    return states[0].transpose(0, 1)[places].transpose(1, 2)


def _flat(states: torch.Tensor) -> torch.Tensor:
    """(lines, heads, places, channels) as (lines * places, heads, channels)."""
    return states.transpose(1, 2).flatten(0, 1)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
