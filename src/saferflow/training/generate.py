"""Completions of a policy for a list of prompts, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from saferflow.data.images import open_rgb
from saferflow.data.rows import Conversation, Turn
from saferflow.protocol.plan import Plan
from saferflow.training.branching import sample
from saferflow.training.constrained import PlanConstraint
from saferflow.training.conversation import chat
from saferflow.training.drafts import Drafter
from saferflow.training.processor import Qwen2_5_VLProcessor


@dataclass(frozen=True, slots=True)
class Prompt:
    """A policy's prompt: a plan's system prompt (or none), a last question, an encoded image (or none)."""

    system: str
    question: str
    image: bytes | None
    earlier: tuple[Turn, ...] = ()
    """The turns before the last question; the first holds the image."""

    @classmethod
    def of(cls, row: Conversation) -> Self:
        """The prompt of a row."""
        return cls(row.system, row.last_question, row.image, row.turns)


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that are read together."""

    prompts: Sequence[Prompt]
    seed: int = 0
    plans: Sequence[Plan | None] | None = None
    """One plan per prompt, for constrained decoding."""


@torch.inference_mode()
def complete(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    prompts: Sequence[Prompt],
    *,
    batch_size: int,
    max_tokens: int,
    samples: int = 1,
    temperature: float | None = None,
    seed: int = 0,
    plans: Sequence[Plan | None] | None = None,
    drafter: Drafter | None = None,
) -> Iterator[list[str]]:
    """Yield each prompt's `samples` completions, in the order of the prompts, as batches finish.

    Args:
        max_tokens: where a completion is cut off; under a plan, where its grammar ends it, if that is later.
        plans: one per prompt, for constrained decoding; None leaves a prompt free.
        temperature: None decodes greedily.
        seed: of the sampling; greedy decoding does not read it.
        drafter: has learnt completions of earlier calls.
    """
    model.eval()
    torch.manual_seed(seed)
    drafter = drafter or Drafter()
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        images = [open_rgb(prompt.image) if prompt.image is not None else None for prompt in batch]
        texts = processor.apply_chat_template(
            [chat(p.system, p.question, image, p.earlier) for p, image in zip(batch, images, strict=True)],
            tokenize=False,
            add_generation_prompt=True,
        )
        shown = [[image] for image in images if image is not None]
        inputs = processor(text=texts, images=shown or None, padding=True, return_tensors="pt").to(model.device)
        rows = [row for row in range(len(batch)) for _ in range(samples)]
        bound = plans[start : start + batch_size] if plans else []
        output = sample(
            model,
            inputs,
            rows,
            max_tokens=max_tokens,
            temperature=temperature or 0.0,
            top_p=1.0,
            ends=ends_of(model),
            drafter=drafter,
            constraint=PlanConstraint(processor.tokenizer, [bound[row] for row in rows]) if any(bound) else None,
        )
        completions = processor.batch_decode(output, skip_special_tokens=True)
        yield from (completions[i : i + samples] for i in range(0, len(completions), samples))


def ends_of(model: Qwen2_5_VLForConditionalGeneration) -> set[int]:
    """The tokens that end a completion."""
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends}
