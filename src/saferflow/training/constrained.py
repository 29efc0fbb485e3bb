"""Constrained decoding by llguidance: a policy cannot leave its plan.

Where the grammar leaves one way, its tokens are given and not drawn, in the tokenizer's own split; they go through the model
together with the next token that has a choice. Elsewhere a token is drawn as if there were no grammar; only where the grammar
forbids it, the mask is computed and the token drawn again among what is allowed. The distribution is that of the mask: with p
of a token, a of all that are allowed, p + (1 - a) p / a = p / a. Source: llguidance's fast-forward tokens; the rest ours.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from transformers import PreTrainedTokenizerFast

from saferflow.errors import PlanError
from saferflow.protocol.grammar import lark, longest
from saferflow.protocol.plan import Plan
from saferflow.training.drafts import LEAST_CHANCE, LONGEST, MOST_TOKENS, Draft, Drafter, beginning


class PlanConstraint:
    """The grammars of a batch's rows, each advanced to the end of its row's text.

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
        """The most tokens of a row: `max_tokens`, or more if its grammar needs more to end."""
        return max(max_tokens, self._longest.get(row, 0))

    def accept(self, row: int, tokens: Sequence[int]) -> bool:
        """Advance a row's grammar by its next tokens, and return whether it allows them; a row without a grammar allows all."""
        matcher = self._matchers.get(row)
        if matcher is None:
            return True
        if tokens[-1] == self._end:
            return self.accept(row, tokens[:-1]) if len(tokens) > 1 else matcher.is_accepting()
        return matcher.try_consume_tokens(list(tokens)) == len(tokens)

    def given(self, row: int) -> list[int]:
        """Advance a row's grammar by the tokens that must follow its text, and return them."""
        matcher = self._matchers.get(row)
        if matcher is None:
            return []
        given = matcher.compute_ff_tokens()
        if given:
            matcher.consume_tokens(given)
        return [*given, self._end] if matcher.is_stopped() else given

    def draft(self, row: int, text: Sequence[int], drafter: Drafter) -> Draft:
        """A draft of a row's next tokens under its grammar: drafted where the grammar leaves a choice, given where not."""
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

    def mask(self, rows: Sequence[int], width: int) -> torch.Tensor:
        """(rows, width) of a vocabulary, bool: the tokens that the grammars of these rows allow next."""
        bits = allocate_token_bitmask(len(rows), self._reader.vocab_size)
        fill_next_token_bitmask_par(self._executor, [(self._matchers[row], n) for n, row in enumerate(rows)], bits)
        allowed = torch.from_numpy(bits)[:, :, None] >> torch.arange(32, dtype=torch.int32) & 1
        known = allowed.flatten(1)[:, :width].bool()
        return torch.nn.functional.pad(known, (0, width - known.shape[1]))


@lru_cache(maxsize=4)
def _reader(tokenizer: PreTrainedTokenizerFast) -> LLTokenizer:
    """llguidance's view of a tokenizer; building it for 150,000 words takes about a second."""
    return from_tokenizer(tokenizer)


def _matcher(reader: LLTokenizer, plan: Plan) -> LLMatcher:
    matcher = LLMatcher(reader, _compiled(plan))
    if problem := matcher.get_error():
        raise PlanError(f"the grammar of plan {plan.topology} does not compile: {problem}")
    return matcher


@lru_cache(maxsize=256)
def _compiled(plan: Plan) -> str:
    return LLMatcher.grammar_from_lark(lark(plan))
