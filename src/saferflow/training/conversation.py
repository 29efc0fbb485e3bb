"""How a question is put to a policy: the turns before it speaks."""

from typing import Any

from PIL.Image import Image as Picture

Message = dict[str, str]


def prompt(system: str, question: str) -> list[Message]:
    """The conversation before the policy speaks; TRL adds the image to the user's turn."""
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": question}]


def chat(system: str, question: str, image: Picture | None) -> list[dict[str, Any]]:
    """The same conversation as the chat template reads it, with the image in its place."""
    content = [{"type": "image"}] if image is not None else []
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": [*content, {"type": "text", "text": question}]}]
