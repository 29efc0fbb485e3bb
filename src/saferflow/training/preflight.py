"""Checks before training starts: refuses rows, or leaves them out."""

from collections.abc import Sequence
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from saferflow.data.rows import Conversation
from saferflow.errors import TrainingError
from saferflow.params import PolicyParams
from saferflow.training.conversation import chat
from saferflow.training.encoding import text_ids, token_ids
from saferflow.training.launch import is_main_process
from saferflow.training.order import image_tokens
from saferflow.training.processor import Qwen2_5_VLProcessor

NAMED = 5
"""The most rows that a message names."""
Row = TypeVar("Row", bound=Conversation)


def refuse_cut_off(
    stage: str, tokenizer: PreTrainedTokenizerBase, completions: Sequence[tuple[str, str]], policy: PolicyParams
) -> None:
    """Refuse to train on references too many of which are longer than the policy's completions may be.

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


def fitting(
    stage: str, setting: str, processor: Qwen2_5_VLProcessor, rows: Sequence[Row], most: int | None
) -> list[Row]:
    """The rows whose prompts with images have at most so many tokens; the log counts and names the others.

    Args:
        setting: the parameter that `most` is.
        most: None keeps all.

    Raises:
        TrainingError: none is left.

    Source: the released code leaves out such prompts of its reinforcement learning [K].
    """
    if most is None:
        return list(rows)
    lengths = prompt_tokens(processor, rows)
    longer = sorted((row for row in range(len(rows)) if lengths[row] > most), key=lambda row: -lengths[row])
    if not longer:
        return list(rows)
    named = ", ".join(f"{rows[row].id} ({lengths[row]:,})" for row in longer[:NAMED])
    more = f" and {len(longer) - NAMED:,} more" if len(longer) > NAMED else ""
    count = (
        f"{stage}: {len(longer):,} of {len(rows):,} prompts have more tokens than {setting} ({most:,}): {named}{more}"
    )
    if len(longer) == len(rows):
        raise TrainingError(f"{count}. None is left: raise {setting}, or lower policy.max_pixels")
    if is_main_process():
        print(f"{count}; they are left out", flush=True)
    left_out = set(longer)
    return [row for number, row in enumerate(rows) if number not in left_out]


def prompt_tokens(processor: Qwen2_5_VLProcessor, rows: Sequence[Row]) -> list[int]:
    """(rows,): the tokens of each prompt with template, texts and image."""
    turns = [chat(row.system, row.last_question, row.image, row.turns) for row in rows]
    rendered = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    texts = token_ids(processor.tokenizer, rendered)  # an image is one token there
    images = (image_tokens(processor, row.image) for row in rows)
    return [len(ids) + max(tokens - 1, 0) for ids, tokens in zip(texts, images, strict=True)]
