"""Reads conversations from data files: TRL's messages, OpenAI's parts, ShareGPT's and LLaVA's `from` and `value`.

Source: the formats as TRL, LLaVA, ShareGPT and LLaMA-Factory publish them; the code is ours.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from saferflow.data.rows import Turn
from saferflow.data.values import brief, is_empty
from saferflow.errors import DataError

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = {
    "user": USER, "human": USER, "prompter": USER, "assistant": ASSISTANT, "gpt": ASSISTANT, "chatgpt": ASSISTANT,
    "model": ASSISTANT, "bot": ASSISTANT, "system": SYSTEM, "developer": SYSTEM,
}  # fmt: skip
"""Names of speakers in data files -> role."""
SPEAKER, CONTENT = ("role", "from"), ("content", "value")
MEDIA = ("video", "audio")
TRANSCRIPT = re.compile(r"\n\n(Human|Assistant): ?")
"""How Anthropic's HH-RLHF writes a conversation as one text."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    text: str
    pictures: tuple[Any, ...] = ()
    """Pictures as `take_image` takes them; None stands for a picture of the row's column."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation, from the user's first turn on."""

    system: str
    earlier: tuple[Turn, ...]
    question: str
    """The user's last message; empty where only an answer is given."""
    answer: str
    """The assistant's answer to it; empty where the user speaks last."""
    pictures: tuple[Any, ...]
    later: bool = False
    """True if a picture belongs to a later turn than the first."""

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Self:
        """Build a dialogue from messages in order.

        Raises:
            DataError: user and assistant do not take turns, or the user says nothing.
        """
        system = "\n".join(message.text for message in messages if message.role == SYSTEM)
        spoken = [message for message in messages if message.role != SYSTEM]
        for number, message in enumerate(spoken, 1):
            expected = USER if number % 2 else ASSISTANT
            if message.role != expected:
                raise DataError(
                    f"turn {number} of the conversation is of the {message.role}, and the {expected}'s is expected: they "
                    "speak by turns and the user begins; mend the row or take it out"
                )
        texts = [message.text for message in spoken]
        if not texts or not all(text.strip() for text in texts[0::2]):
            raise DataError("the conversation has no turn of the user, or an empty one")
        turns = [(user, assistant) for user, assistant in zip(texts[0::2], texts[1::2], strict=False)]
        answered = len(texts) % 2 == 0
        question, answer = turns.pop() if answered else (texts[-1], "")
        pictures = tuple(picture for message in spoken for picture in message.pictures)
        later = any(message.pictures for message in spoken[1:])
        return cls(system, tuple(turns), question, answer, pictures, later)


def is_dialogue(value: Any) -> bool:
    """Whether a value is a list of messages, or one message."""
    return bool(_listed(value))


def messages_of(value: Any, field: str) -> list[Message]:
    """The messages of a field.

    Args:
        value: a list of objects with role and content, or from and value; one such object; or either as JSON.

    Raises:
        DataError: a message has an unknown speaker, or holds something other than text and pictures.
    """
    return [_message(entry, field, number) for number, entry in enumerate(_listed(value), 1)]


def transcript(text: str) -> list[Message]:
    """Split a text whose turns begin with `Human:` and `Assistant:` into messages; none where they do not."""
    before, *rest = TRANSCRIPT.split(text)
    if before.strip() or not rest:
        return []
    roles = {"Human": USER, "Assistant": ASSISTANT}
    return [Message(roles[who], content.strip()) for who, content in zip(rest[0::2], rest[1::2], strict=True)]


def decoded(value: Any) -> Any:
    """Parse text that holds a JSON list or object, as in a CSV field; any other value is returned unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _listed(value: Any) -> list[dict]:
    value = decoded(value)
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not entries:
        return []
    return entries if all(isinstance(entry, dict) and _first(entry, SPEAKER) for entry in entries) else []


def _first(entry: dict, names: Sequence[str]) -> str:
    return next((name for name in names if entry.get(name) is not None), "")


def _message(entry: dict, field: str, number: int) -> Message:
    who = entry[_first(entry, SPEAKER)]
    role = ROLES.get(who.casefold()) if isinstance(who, str) else None
    place = f"field {field!r}, message {number}"
    if role is None:
        raise DataError(f"{place} is of {brief(who)}; {', '.join(ROLES)} are known: mend the row or take it out")
    content = entry.get(_first(entry, CONTENT))
    texts, pictures = [], []
    for part in [content] if isinstance(content, str) else content if isinstance(content, list) else []:
        for text, picture in _part(part, place):
            texts += [] if text is None else [text]
            pictures += [] if text is not None else [picture]
    if not texts and not (role == USER and pictures):
        raise DataError(f"{place} holds no text")
    return Message(role, "\n".join(texts), tuple(pictures))


def _part(part: Any, place: str) -> Iterator[tuple[str | None, Any]]:
    """Yield (text, None) or (None, picture) for one part of a message."""
    if isinstance(part, str):
        yield part, None
        return
    kind = str(part.get("type") or "text") if isinstance(part, dict) else type(part).__name__
    if any(kind.startswith(media) or kind.endswith(media) for media in MEDIA):
        raise DataError(f"{place} holds {kind.split('_')[0]}; a row takes text and one picture: take it out")
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        yield part["text"], None
    elif kind in ("image", "image_url", "input_image"):
        held = next(
            (part[name] for name in ("image", "image_url", "url", "path") if not is_empty(part.get(name))), None
        )
        yield None, held
    else:
        raise DataError(f"{place} has a part of type {brief(kind)}; text and image are expected")
