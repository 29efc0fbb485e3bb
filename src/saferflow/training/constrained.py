"""Constrained decoding in the transformers loop: a policy that cannot leave its plan, by llguidance."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
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
        self._running = {row: _matcher(reader, plan) for row, plan in enumerate(plans) if plan is not None}
        self._seen = prompt_tokens
        self._end = tokenizer.eos_token_id
        self._executor = LLExecutor()
        self._mask = allocate_token_bitmask(len(plans), reader.vocab_size)
        self._bits = np.left_shift(1, np.arange(32, dtype=np.uint32), dtype=np.uint32).view(np.int32)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores `(rows, vocabulary)` with minus infinity where the grammar forbids the token.

        Raises:
            PlanError: the grammar and the tokens that were sampled under it disagree, which is a bug.
        """
        said = input_ids[:, self._seen :].tolist()
        self._seen = input_ids.shape[1]
        for row, matcher in list(self._running.items()):
            for token in said[row]:
                if token != self._end and not matcher.consume_token(token):
                    raise PlanError(f"constrained decoding lost its place at token {token}: {matcher.get_error()}")
            if matcher.is_stopped() or self._end in said[row]:
                del self._running[row]
                self._mask[row] = 0
                self._mask[row, self._end // 32] = self._bits[self._end % 32]
        if self._running:
            running = [(matcher, row) for row, matcher in self._running.items()]
            fill_next_token_bitmask_par(self._executor, running, self._mask)
        allowed = (self._mask[:, :, None] & self._bits != 0).reshape(len(self._mask), -1)[:, : scores.shape[1]]
        width = allowed.shape[1]
        scores[:, :width].masked_fill_(~torch.from_numpy(allowed).to(scores.device), float("-inf"))
        scores[:, width:] = float("-inf")
        return scores


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
