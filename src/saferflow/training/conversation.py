"""The conversation with a question: the turns before the policy's answer."""

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image as Picture

from saferflow.data.rows import Conversation, Turn

Message = dict[str, str]


def prompt(system: str, question: str, earlier: Sequence[Turn] = ()) -> list[Message]:
    """The conversation before the policy's answer; TRL adds the image to the first turn of the user.

    Args:
        question: what the user says in the last turn.
        earlier: the turns before it.
    """
    messages = [{"role": "system", "content": system}] if system else []
    for user, assistant in earlier:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return [*messages, {"role": "user", "content": question}]


def chat(system: str, question: str, image: Picture | None, earlier: Sequence[Turn] = ()) -> list[dict[str, Any]]:
    """The same conversation for the chat template, with the image in the first turn of the user."""
    messages: list[dict[str, Any]] = [
        message | {"content": [{"type": "text", "text": message["content"]}]} if message["role"] == "user" else message
        for message in prompt(system, question, earlier)
    ]
    if image is not None:
        next(message for message in messages if message["role"] == "user")["content"].insert(0, {"type": "image"})
    return messages


def row_prompt(row: Conversation) -> list[Message]:
    """The conversation of a row before the policy's answer."""
    return prompt(row.system, row.last_question, row.turns)


def spoken(row: Conversation) -> list[str]:
    """The texts of a row's conversation, turn by turn, the system prompt first."""
    return [message["content"] for message in row_prompt(row)]
