"""Rollouts from one prefill per prompt: image and prompt are read once, then the cache is branched for the whole group.

TRL has `generate` read each completion's own copy of the prompt: a group of eight reads the image eight times, and a batch
goes on until its last row is done. Here rows leave the batch when they are done. The distribution is that of `generate`
with the same temperature and top-p; the draws differ. Source: ours.

    prefill       p p p p -> logits            one row per prompt: (prompts, tokens)
    branch        row 0, 1, 2 of that prompt   the cache is repeated: (rows, ...)
    a pass        row 0   a [b c d]            a in the cache   [ ] read now: what is new (b), then its draft (c d)
                  row 1   a b [c d e]          each row's block has the same width; the rest of it is padding
    verify        the longest part of a draft that the draws repeat is kept, and one more token is drawn behind it

Shapes: `prompts` are the different ones; `rows` are completions, of which `kept` are in the cache; `width` is the number of
tokens of a row in a pass; a place is an index into a completion.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from saferflow.errors import PlanError
from saferflow.training.cache import Branched, Places, heads_a_key, shared_keys
from saferflow.training.drafts import MOST_TOKENS, Draft, Drafter, best_width
from saferflow.training.families import family_of

if TYPE_CHECKING:
    from saferflow.training.constrained import PlanConstraint

LIVE = 0.75
"""The share of unfinished rows at or below which finished rows leave the batch."""


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
    drafter: Drafter | None = None,
    constraint: "PlanConstraint | None" = None,
) -> list[list[int]]:
    """Draw completions, each with its end token if it reaches one, and without the token of an image.

    A forward pass reads the new tokens of each row and a draft of its next ones. Tokens are drawn place by place as long as they
    equal the draft's. Each place of each row has its own random number, so drafts change the number of passes, not the draws.

    Args:
        prompts: the model's inputs for prompts that differ, padded on the left: `input_ids` (prompts, tokens),
            `attention_mask`, and the images' fields.
        branches: (rows,), the prompt's number of each completion.
        temperature: 0 takes the likeliest token.
        ends: tokens after which a completion is done.
        drafter: proposes drafts from earlier completions and learns from these; None starts without any.
        constraint: the grammars of some of the completions; `top_p` must be 1 then.

    Returns:
        One list of token ids per completion, in the order of `branches`.

    Raises:
        ValueError: `top_p` is below 1 under a constraint.
        PlanError: the grammar's mask and its parser disagree.
    """
    if constraint is not None and top_p < 1:
        raise ValueError("a nucleus of what a grammar allows is not implemented: top_p is 1 under a constraint")
    if isinstance(model, PeftModel):
        model = model.get_base_model()  # which has the adapter's layers in it
    device = prompts["input_ids"].device
    first = model(**prompts, use_cache=True, logits_to_keep=1)  # logits (prompts, 1, vocabulary)
    branch = torch.tensor(branches, device=device)  # (rows,)
    cache = first.past_key_values
    cache.batch_select_indices(branch)  # keys and values: (prompts, heads, tokens, channels) to (rows, ...)
    places = Places(prompts["attention_mask"][branch], _shift(model, prompts, device)[branch], heads_a_key(model))
    cache.layers = [Branched(layer, places) for layer in cache.layers]
    rows = _Rows(len(branches), max_tokens, ends, drafter or Drafter(), constraint)
    shape = (len(branches), rows.longest + MOST_TOKENS)
    draw = _Draw(image_token_ids(model.config), temperature, top_p, shape, device, constraint)
    kept = list(range(len(branches)))
    """The rows in the cache, in its order."""
    logits = first.logits[branch, -1]  # (rows, vocabulary)
    turns = [_Turn(row, Draft(), row) for row in kept if not rows.texts[row]]
    while True:
        rows.take(draw.verified(logits, turns, rows))
        drawn = [row for row in kept if not rows.done(row)]
        if not drawn:
            return rows.texts
        if len(drawn) <= LIVE * len(kept):
            # (rows left,): positions of the unfinished rows among those in the cache
            indices = torch.tensor([number for number, row in enumerate(kept) if not rows.done(row)], device=device)
            cache.batch_select_indices(indices)
            places.select(indices)
            kept = drawn
        drafts = rows.drafts(kept, device.type)
        unread = [rows.texts[row][rows.cached[row] :] for row in kept]
        read = _padded([tokens + draft.tokens for tokens, draft in zip(unread, drafts, strict=True)])  # (kept, width)
        width = len(read[0])
        turns = [
            _Turn(row, draft, number * width + len(tokens) - 1)
            for number, (row, draft, tokens) in enumerate(zip(kept, drafts, unread, strict=True))
            if not rows.done(row)
        ]
        places.advance([rows.cached[row] for row in kept], width)
        with shared_keys(model):
            logits = model(
                input_ids=torch.tensor(read, device=device),
                attention_mask=places.mask,
                position_ids=places.positions,
                past_key_values=cache,
                use_cache=True,
            ).logits.flatten(0, 1)  # (kept, width, vocabulary) to (kept * width, vocabulary)


def _padded(rows: Sequence[list[int]]) -> list[list[int]]:
    """Rows padded to one length; the next pass overwrites the padding in the cache."""
    width = max(map(len, rows))
    return [row + [0] * (width - len(row)) for row in rows]


class _Rows:
    """The tokens of the completions so far, and their drafts.

    Args:
        count: the number of completions.
        constraint: the grammars of some of them.
    """

    def __init__(
        self, count: int, max_tokens: int, ends: Collection[int], drafter: Drafter, constraint: "PlanConstraint | None"
    ):
        self._ends, self._drafter, self._constraint = ends, drafter, constraint
        self._limits = [constraint.limit(row, max_tokens) if constraint else max_tokens for row in range(count)]
        self.longest = max(self._limits)
        self.texts = [constraint.given(row) if constraint else [] for row in range(count)]
        self.cached = [0] * count
        """(rows,): tokens of each text that are in the cache."""

    def done(self, row: int) -> bool:
        text = self.texts[row]
        return bool(text) and (text[-1] in self._ends or len(text) >= self._limits[row])

    def goes_on(self, row: int, new: Sequence[int]) -> bool:
        """Whether a row with these new tokens is not done yet."""
        return new[-1] not in self._ends and len(self.texts[row]) + len(new) < self._limits[row]

    def take(self, accepted: dict[int, list[int]]) -> None:
        """Append the next tokens of some rows, and what their grammar gives without a choice."""
        for row, tokens in accepted.items():
            text = self.texts[row]
            # What was read of it before, and all of the new tokens but the last, which no pass has read.
            self.cached[row] = len(text) + len(tokens) - 1
            text += tokens
            given = self._constraint.given(row) if self._constraint and not self.done(row) else []
            text += given
            self._drafter.learn(text, len(tokens) + len(given))

    def drafts(self, rows: Sequence[int], device: str) -> list[Draft]:
        """One draft per row, all cut where a longer one would cost more than it saves; empty for a finished row."""
        long = [Draft() if self.done(row) else self._draft(row) for row in rows]
        width = best_width(long, device)
        return [draft.cut(width) for draft in long]

    def _draft(self, row: int) -> Draft:
        text = self.texts[row]
        if self._constraint and row in self._constraint:
            return self._constraint.draft(row, text, self._drafter)
        return self._drafter.propose(text, min(MOST_TOKENS, self._limits[row] - len(text) - 1))


@dataclass(frozen=True, slots=True)
class _Turn:
    """A row's share of a pass."""

    row: int
    draft: Draft
    start: int
    """The index of its text's last token in the pass's logits; those of its draft follow."""


class _Draw:
    """Draws tokens by their probabilities, with one random number per place of each row.

    Args:
        image_tokens: tokens that are never drawn.
        shape: (rows, places), with the places that a draft may reach behind the longest completion.
        constraint: the grammars of some of the rows.
    """

    def __init__(
        self,
        image_tokens: list[int],
        temperature: float,
        top_p: float,
        shape: tuple[int, int],
        device: torch.device,
        constraint: "PlanConstraint | None",
    ):
        self._image_tokens, self._temperature, self._top_p, self._constraint = (
            image_tokens,
            temperature,
            top_p,
            constraint,
        )
        # (2, rows, places): the second for what is drawn again under a grammar.
        self._numbers = torch.rand((2, *shape), dtype=torch.float64, device=device) if temperature else None

    def verified(self, logits: torch.Tensor, turns: Sequence[_Turn], rows: _Rows) -> dict[int, list[int]]:
        """Row -> its new tokens: the draft's tokens that the draws repeat, and one more.

        Args:
            logits: (rows * width, vocabulary); `_Turn.start` finds a row's in it.
        """
        drawn = [(turn, place) for turn in turns for place in turn.draft.choices()]
        # (places, vocabulary): the place behind each row's text, and those of its draft
        chosen = logits[[turn.start + place for turn, place in drawn]]
        chosen[:, [token for token in self._image_tokens if token < chosen.shape[-1]]] = -torch.inf
        places = [(turn.row, len(rows.texts[turn.row]) + place) for turn, place in drawn]
        tokens = self._drawn(chosen, places, 0)
        number = {place: n for n, place in enumerate(places)}
        new: dict[int, list[int]] = {}
        refused = []
        for turn in turns:
            row, begin = turn.row, len(rows.texts[turn.row])
            new[row] = []
            goes_on = True
            while goes_on:
                n = number[row, begin + len(new[row])]
                if not self._accepts(row, tokens[n : n + 1]):
                    refused.append(n)
                    break
                following = [tokens[n], *turn.draft.given_behind(len(new[row]), tokens[n])]
                if len(following) > 1:
                    self._accepts(row, following[1:])
                new[row] += following
                goes_on = rows.goes_on(row, new[row]) and turn.draft.holds(new[row])
        if refused:
            again = [places[n] for n in refused]
            for (row, _), token in zip(again, self._allowed(chosen[refused], again), strict=True):
                new[row].append(token)
        return new

    def _accepts(self, row: int, tokens: Sequence[int]) -> bool:
        return self._constraint is None or self._constraint.accept(row, tokens)

    def _allowed(self, logits: torch.Tensor, places: Sequence[tuple[int, int]]) -> list[int]:
        """Draw a token at each place among those that the row's grammar allows, and advance the grammar."""
        # (places, vocabulary), bool
        allowed = self._constraint.mask([row for row, _ in places], logits.shape[1]).to(logits.device)
        tokens = self._drawn(logits.masked_fill(~allowed, -torch.inf), places, 1)
        for (row, _), token in zip(places, tokens, strict=True):
            if not self._accepts(row, [token]):
                raise PlanError(
                    f"constrained decoding lost its place: the mask allows token {token}, the grammar does not"
                )
        return tokens

    def _drawn(self, logits: torch.Tensor, places: Sequence[tuple[int, int]], which: int) -> list[int]:
        """Draw a token for each logits row, (places, vocabulary); a place is (row, index of the token in its completion)."""
        numbers = None
        if self._numbers is not None:
            numbers = self._numbers[which, [row for row, _ in places], [place for _, place in places]]  # (places,)
        return _drawn(logits, self._temperature, self._top_p, numbers).tolist()


def image_token_ids(config: Qwen2_5_VLConfig) -> list[int]:
    """Ids of tokens that stand for pixels; a completion with one would need an image in the next forward pass."""
    return family_of(config).placeholder_ids(config)


def _shift(model: Qwen2_5_VLForConditionalGeneration, prompts: dict[str, Any], device: torch.device) -> torch.Tensor:
    """(prompts, 1): the position after a prompt minus its count of tokens; an image has fewer positions than tokens."""
    if prompts.get("image_grid_thw") is None:
        return torch.zeros(len(prompts["input_ids"]), 1, dtype=torch.long, device=device)
    return model.model.rope_deltas.to(device)


def _drawn(logits: torch.Tensor, temperature: float, top_p: float, numbers: torch.Tensor | None) -> torch.Tensor:
    """(places,): one token per row of `logits` (places, vocabulary), by `numbers` (places,) in [0, 1), else the likeliest."""
    if numbers is None:
        return logits.argmax(dim=-1)
    chances = (logits.float() / temperature).softmax(dim=-1)  # (places, vocabulary)
    if top_p < 1:
        ordered, places = chances.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(dim=-1) - ordered > top_p] = 0  # the likelier tokens alone reach top-p
        chances = torch.zeros_like(chances).scatter(-1, places, ordered)
    # By the inverse of the distribution function: `torch.multinomial` is ten times as slow on a CPU.
    reached = chances.double().cumsum(dim=-1)  # (places, vocabulary); the last column is the sum, 1 without top-p
    return torch.searchsorted(reached, numbers[:, None] * reached[:, -1:], right=True)[:, 0]
