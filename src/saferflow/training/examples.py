"""Table rows to the conversational examples that TRL's trainers and the chat template read."""

from typing import Any

from datasets import Dataset, Features, Image, List, Value
from PIL.Image import Image as Picture

from saferflow.data.rows import DPORow, PromptRow, SFTRow

Message = dict[str, str]

_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_IMAGES = List(Image())


def prompt(system: str, question: str) -> list[Message]:
    """The conversation before the policy speaks; TRL adds the image to the user's turn."""
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": question}]


def chat(system: str, question: str, image: Picture | None) -> list[dict[str, Any]]:
    """The same conversation as the chat template reads it, with the image in its place."""
    content = [{"type": "image"}] if image is not None else []
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def sft_dataset(rows: list[SFTRow]) -> Dataset:
    columns = {
        "prompt": [prompt(row.system, row.question) for row in rows],
        "completion": [_said(row.completion) for row in rows],
        "images": [_images(row.image) for row in rows],
    }
    return Dataset.from_dict(columns, Features(prompt=_MESSAGES, completion=_MESSAGES, images=_IMAGES))


def dpo_dataset(rows: list[DPORow]) -> Dataset:
    columns = {
        "prompt": [prompt(row.system, row.question) for row in rows],
        "chosen": [_said(row.chosen) for row in rows],
        "rejected": [_said(row.rejected) for row in rows],
        "images": [_images(row.image) for row in rows],
    }
    return Dataset.from_dict(columns, Features(prompt=_MESSAGES, chosen=_MESSAGES, rejected=_MESSAGES, images=_IMAGES))


def grpo_dataset(rows: list[PromptRow]) -> Dataset:
    """Prompts, with the row's id in column `row`, which a reward function gets beside the completions."""
    columns = {
        "prompt": [prompt(row.system, row.question) for row in rows],
        "images": [_images(row.image) for row in rows],
        "row": [row.id for row in rows],
    }
    return Dataset.from_dict(columns, Features(prompt=_MESSAGES, images=_IMAGES, row=Value("string")))


def _said(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _images(data: bytes | None) -> list[dict[str, bytes | None]]:
    """Tables hold images as RGB files, which `datasets` decodes when a batch needs them."""
    return [] if data is None else [{"bytes": data, "path": None}]
