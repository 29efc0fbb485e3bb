"""How a question is put to a policy: the turns before it speaks."""

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image as Picture

Message = dict[str, str]


def prompt(system: str, question: str) -> list[Message]:
    """The conversation before the policy speaks; TRL adds the image to the user's turn."""
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": question}]


def chat(
    system: str, question: str, image: Picture | None, earlier: Sequence[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """The same conversation as the chat template reads it, with the image in its place, the first turn of the user.

    Args:
        earlier: what was asked and answered before, answers without their traces.
    """
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for asked, answer in (*earlier, (question, None)):
        turns.append({"role": "user", "content": [{"type": "text", "text": asked}]})
        if answer is not None:
            turns.append({"role": "assistant", "content": answer})
    if image is not None:
        next(turn for turn in turns if turn["role"] == "user")["content"].insert(0, {"type": "image"})
    return turns
