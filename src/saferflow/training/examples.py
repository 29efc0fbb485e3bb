"""Converts table rows to the conversational examples of TRL's trainers."""

from datasets import Dataset, Features, Image, List, Value

from saferflow.data.rows import DPORow, PromptRow, SFTRow
from saferflow.training.conversation import Message, row_prompt

_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_IMAGES = List(Image())


def sft_dataset(rows: list[SFTRow]) -> Dataset:
    """Examples with `prompt`, `completion` and `images`, one per row."""
    columns = {
        "prompt": [row_prompt(row) for row in rows],
        "completion": [_assistant_turn(row.completion) for row in rows],
        "images": [_images(row.image) for row in rows],
    }
    return Dataset.from_dict(columns, Features(prompt=_MESSAGES, completion=_MESSAGES, images=_IMAGES))


def dpo_dataset(rows: list[DPORow]) -> Dataset:
    """Examples with `prompt`, `chosen`, `rejected` and `images`, one per pair."""
    columns = {
        "prompt": [row_prompt(row) for row in rows],
        "chosen": [_assistant_turn(row.chosen) for row in rows],
        "rejected": [_assistant_turn(row.rejected) for row in rows],
        "images": [_images(row.image) for row in rows],
    }
    return Dataset.from_dict(columns, Features(prompt=_MESSAGES, chosen=_MESSAGES, rejected=_MESSAGES, images=_IMAGES))


def grpo_dataset(rows: list[PromptRow]) -> Dataset:
    """Examples with `prompt` and `images`, and the row's columns, which reward functions get beside the completions."""
    columns = {
        "prompt": [row_prompt(row) for row in rows],
        "images": [_images(row.image) for row in rows],
    }
    row_columns = [row.columns() for row in rows]
    columns |= {name: [values[name] for values in row_columns] for name in row_columns[0]}
    strings = {name: Value("string") for name in row_columns[0]}
    return Dataset.from_dict(columns, Features(prompt=_MESSAGES, images=_IMAGES, **strings))


def encoded(dataset: Dataset) -> Dataset:
    """The data set with encoded images, so that reading other columns decodes none."""
    return dataset.cast_column("images", List(Image(decode=False)))


def _assistant_turn(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]


def _images(data: bytes | None) -> list[dict[str, bytes | None]]:
    """The images of a row as `datasets` stores them; it decodes the RGB file when a batch needs it."""
    return [] if data is None else [{"bytes": data, "path": None}]
