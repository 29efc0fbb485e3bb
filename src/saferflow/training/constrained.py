"""Constrained decoding: a policy that cannot leave its plan, by llguidance.

Where the grammar leaves one way, its tokens are given and not drawn, in the tokenizer's own split; they go through the model
together with the next token that has a choice. Source: llguidance's fast-forward tokens; the rest ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import (
    allocate_token_bitmask,
    fill_next_token_bitmask_par,
    fill_next_token_bitmask_par_with_draft_tokens,
)
from transformers import PreTrainedTokenizerFast

from saferflow.errors import PlanError
from saferflow.protocol.grammar import lark, longest
from saferflow.protocol.plan import Plan
from saferflow.training.drafts import LEAST_CHANCE, LONGEST, MOST_TOKENS, Draft, Drafter, beginning


class PlanConstraint:
    """The grammars of a batch's rows, each at the end of what its row says so far.

    Args:
        plans: one a row, in the order of the rows; None leaves a row free.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, plans: Sequence[Plan | None]):
        self._reader = _reader(tokenizer)
        self._end = tokenizer.eos_token_id
        self._matchers = {row: _matcher(self._reader, plan) for row, plan in enumerate(plans) if plan is not None}
        self._longest = {row: longest(plan) + 1 for row, plan in enumerate(plans) if plan is not None}
        self._executor = LLExecutor()

    def __contains__(self, row: int) -> bool:
        return row in self._matchers

    def limit(self, row: int, max_tokens: int) -> int:
        """The most tokens of a row: where its grammar ends it, if that is later."""
        return max(max_tokens, self._longest.get(row, 0))

    def advance(self, row: int, tokens: Sequence[int]) -> list[int]:
        """Take in a row's next tokens; what must follow them.

        Raises:
            PlanError: the grammar forbids a token that was drawn under it, which is a bug.
        """
        matcher = self._matchers.get(row)
        if matcher is None or self._end in tokens:
            return []
        if tokens and not matcher.consume_tokens(list(tokens)):
            raise PlanError(f"constrained decoding lost its place at tokens {list(tokens)}: {matcher.get_error()}")
        given = matcher.compute_ff_tokens()
        if given:
            matcher.consume_tokens(given)
        return [*given, self._end] if matcher.is_stopped() else given

    def draft(self, row: int, text: Sequence[int], drafter: Drafter) -> Draft:
        """What may follow a row's text under its grammar: drafted tokens where it leaves a choice, given ones where not."""
        matcher, draft, context, chance = self._matchers[row], Draft(), beginning(text), 1.0
        while len(draft.tokens) < MOST_TOKENS:
            given = matcher.compute_ff_tokens()
            if not given:
                token, share = drafter.next(context) or (self._end, 0.0)
                chance *= share
                if token == self._end or chance < LEAST_CHANCE or not matcher.try_consume_tokens([token]):
                    break
                draft.add(token, chance)
            else:
                matcher.consume_tokens(given)
                for token in given:
                    draft.add(token, chance, given=True)
            context += draft.tokens[len(context) - LONGEST :]
            if matcher.is_stopped():
                draft.add(self._end, chance, given=True)
                break
        matcher.rollback(sum(token != self._end for token in draft.tokens))
        return draft

    def masks(self, drafts: dict[int, Sequence[int]]) -> "Masks":
        """The tokens that are allowed behind each row's text and behind each token of its draft."""
        first, places = {}, 0
        for row, tokens in drafts.items():
            first[row] = places
            places += len(tokens) + 1
        bits = allocate_token_bitmask(places, self._reader.vocab_size)
        plain = [(self._matchers[row], first[row]) for row, tokens in drafts.items() if not tokens]
        drafted = [(self._matchers[row], first[row], list(tokens)) for row, tokens in drafts.items() if tokens]
        if plain:
            fill_next_token_bitmask_par(self._executor, plain, bits)
        if drafted:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, drafted, bits)
        return Masks(torch.from_numpy(bits), first)


@dataclass(frozen=True, slots=True)
class Masks:
    """The tokens that grammars allow, a bit a token."""

    bits: torch.Tensor
    """(places, words of 32 tokens)."""
    first: dict[int, int]
    """The place behind each row's text; those behind its draft's tokens follow."""

    def apply(self, logits: torch.Tensor, rows: Sequence[int], said: Sequence[int]) -> None:
        """Set what is forbidden to minus infinity.

        Args:
            logits: (rows, vocabulary), of some rows, each behind so many tokens of its draft.
        """
        bound = [number for number, row in enumerate(rows) if row in self.first]
        if not bound:
            return
        words = self.bits[[self.first[rows[number]] + said[number] for number in bound]].to(logits.device)
        bits = words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=logits.device) & 1
        known = bits.flatten(1)[:, : logits.shape[1]].bool()
        allowed = torch.nn.functional.pad(known, (0, logits.shape[1] - known.shape[1]))
        logits[bound] = logits[bound].masked_fill(~allowed, -torch.inf)


@lru_cache(maxsize=4)
def _reader(tokenizer: PreTrainedTokenizerFast) -> LLTokenizer:
    """llguidance's view of a tokenizer; takes about a second to make for 150,000 words."""
    return from_tokenizer(tokenizer)


def _matcher(reader: LLTokenizer, plan: Plan) -> LLMatcher:
    matcher = LLMatcher(reader, _compiled(plan))
    if problem := matcher.get_error():
        raise PlanError(f"the grammar of plan {plan.topology} does not compile: {problem}")
    return matcher


@lru_cache(maxsize=256)
def _compiled(plan: Plan) -> str:
    return LLMatcher.grammar_from_lark(lark(plan))
