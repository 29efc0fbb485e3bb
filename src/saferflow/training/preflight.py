"""What is refused before training starts."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from saferflow.errors import TrainingError
from saferflow.params import PolicyParams
from saferflow.training.encoding import text_ids


def refuse_cut_off(
    stage: str, tokenizer: PreTrainedTokenizerBase, completions: Sequence[tuple[str, str]], policy: PolicyParams
) -> None:
    """Refuse to teach what the policy could not say to its end.

    Args:
        completions: (row id, completion) of each row to learn.

    Raises:
        TrainingError: more than `policy.max_cut_share` of them, with their end token, are longer than
            `policy.max_completion_tokens`; it counts them and names the longest.
    """
    lengths = [len(ids) + 1 for ids in text_ids(tokenizer, [text for _, text in completions])]
    longer = sum(length > policy.max_completion_tokens for length in lengths)
    if longer > policy.max_cut_share * len(lengths):
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        raise TrainingError(
            f"{stage}: {longer:,} of {len(lengths):,} completions are longer than policy.max_completion_tokens "
            f"({policy.max_completion_tokens}); the longest, row {completions[longest][0]}, has {lengths[longest]} tokens. "
            f"Raise policy.max_completion_tokens to {max(lengths)}, shorten the traces (plan.tool_coverage), or allow it "
            f"with policy.max_cut_share"
        )
