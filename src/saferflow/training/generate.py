"""Completions of a policy for a list of prompts, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from saferflow.data.images import open_rgb
from saferflow.training.examples import chat
from saferflow.training.policy import Qwen2_5_VLProcessor


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a policy is asked: a plan's system prompt (or none), a question, an encoded image (or none)."""

    system: str
    question: str
    image: bytes | None


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
) -> Iterator[list[str]]:
    """Each prompt's `samples` completions, in the order of the prompts, as batches finish.

    Args:
        temperature: None decodes greedily.
        seed: of the sampling; greedy decoding does not read it.
    """
    model.eval()
    torch.manual_seed(seed)
    sampling = (
        {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature, "top_k": 0}
    )
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        images = [open_rgb(prompt.image) if prompt.image is not None else None for prompt in batch]
        texts = processor.apply_chat_template(
            [chat(p.system, p.question, image) for p, image in zip(batch, images, strict=True)],
            tokenize=False,
            add_generation_prompt=True,
        )
        shown = [[image] for image in images if image is not None]
        inputs = processor(text=texts, images=shown or None, padding=True, return_tensors="pt").to(model.device)
        output = model.generate(
            **inputs, max_new_tokens=max_tokens, num_return_sequences=samples, use_cache=True, **sampling
        )
        said = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        yield from (said[i : i + samples] for i in range(0, len(said), samples))
