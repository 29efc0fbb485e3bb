"""Constrained decoding in the transformers loop: a policy that cannot leave its plan, by llguidance."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from saferflow.errors import PlanError
from saferflow.protocol.grammar import lark
from saferflow.protocol.plan import Plan


class PlanConstraint(LogitsProcessor):
    """Leaves each row of a batch only the tokens that its plan's grammar allows next; then only the end token.

    Args:
        plans: one a row of the batch, in the order of the rows; None leaves a row free.
        prompt_tokens: length of the padded prompts, equal for all rows.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, plans: Sequence[Plan | None], prompt_tokens: int):
        reader = _reader(tokenizer)
        self._matchers = [None if plan is None else _matcher(reader, plan) for plan in plans]
        self._seen = prompt_tokens
        self._end = tokenizer.eos_token_id
        self._mask = allocate_token_bitmask(1, reader.vocab_size)
        self._ended = [False] * len(plans)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores `(rows, vocabulary)` with minus infinity where the grammar forbids the token.

        Raises:
            PlanError: the grammar and the tokens that were sampled under it disagree, which is a bug.
        """
        said = input_ids[:, self._seen :].tolist()
        self._seen = input_ids.shape[1]
        for row, matcher in enumerate(self._matchers):
            if matcher is None:
                continue
            for token in said[row]:
                self._ended[row] = self._ended[row] or token == self._end
                if not self._ended[row] and not matcher.consume_token(token):
                    raise PlanError(f"constrained decoding lost its place at token {token}: {matcher.get_error()}")
            scores[row].masked_fill_(~self._allowed(row, matcher, scores.shape[1]).to(scores.device), float("-inf"))
        return scores

    def _allowed(self, row: int, matcher: LLMatcher, vocabulary: int) -> torch.Tensor:
        """`(vocabulary,)`, true for the tokens that may come next."""
        allowed = torch.zeros(vocabulary, dtype=torch.bool)
        if self._ended[row] or matcher.is_stopped():
            allowed[self._end] = True
            return allowed
        fill_next_token_bitmask(matcher, self._mask)
        bits = torch.from_numpy(self._mask[0].copy()).unsqueeze(1) >> torch.arange(32, dtype=torch.int32) & 1
        known = bits.flatten()[:vocabulary].bool()
        allowed[: len(known)] = known
        return allowed


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
