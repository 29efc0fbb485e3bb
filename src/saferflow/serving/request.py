"""A chat completion request as a conversation: parsed at the edge, its picture checked before it is decoded."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saferflow.data.images import take_image
from saferflow.data.rows import Turn
from saferflow.errors import DataError
from saferflow.params import DataParams
from saferflow.serving.refusal import Refusal

TEXT_BYTES = 2**20
"""Of a request's body beside its picture; longer texts have more tokens than any policy takes."""
SAMPLING = ("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "reasoning_effort",
            "frequency_penalty", "presence_penalty")  # fmt: skip
"""Fields that are handed on to another model; the policy reads none of them."""
NAMED = 5
"""Problems of a request that its refusal lists."""


class ImageURL(BaseModel):
    url: str


class Part(BaseModel):
    type: Literal["text", "image_url"]
    text: str = ""
    image_url: ImageURL | str | None = None


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""

    @property
    def pictures(self) -> list[str]:
        parts = self.content if isinstance(self.content, list) else []
        return [part.image_url.url if isinstance(part.image_url, ImageURL) else part.image_url or "" for part in parts
                if part.type == "image_url"]  # fmt: skip


class Body(BaseModel):
    """The fields that are read. The policy reads none of sampling: its answers are drawn as they were evaluated, greedily.

    Fields that would change what an answer is are refused.
    """

    model_config = ConfigDict(extra="allow")

    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    n: Literal[1] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    stop: None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a request asks."""

    model: str | None
    stream: bool
    earlier: tuple[Turn, ...]
    """The turns before the last question."""
    question: str
    image: bytes | None
    messages: list[dict[str, Any]]
    """As they came, for another model."""
    sampling: dict[str, Any]
    """Fields of sampling, for another model."""

    @property
    def texts(self) -> list[str]:
        """All that was said, turn by turn."""
        return [text for turn in self.earlier for text in turn] + [self.question]

    @property
    def user_text(self) -> str:
        """All that the user said, a line a turn: what a plan is made from."""
        return "\n".join([user for user, _ in self.earlier] + [self.question])


def most_bytes(params: DataParams) -> int:
    """Of a request's body: a picture of the largest size in base64, and its texts."""
    return params.max_image_bytes * 4 // 3 + TEXT_BYTES


def read_request(raw: bytes, params: DataParams) -> Conversation:
    """The conversation of a request's body.

    A system prompt of the client counts as words of the user, in front of the first: the policy's own system prompt is its plan.

    Raises:
        Refusal: 400 for what is no chat completion request, or asks for what is not done here; 413 for too large a picture.
    """
    try:
        body = Body.model_validate_json(raw)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:NAMED]]
        raise Refusal(
            400, "invalid_request", "the body is no request that is served here: " + "; ".join(problems)
        ) from None
    turns = list(_merged(body.messages))
    if not turns or len(turns) % 2 == 0:
        raise Refusal(400, "invalid_messages", "the messages must begin with the user and end with the user's question")
    image = _picture([url for message in body.messages for url in message.pictures], params)
    if image is None and not turns[-1].strip():
        raise Refusal(400, "invalid_messages", "the last message of the user has neither text nor picture")
    earlier = tuple(zip(turns[:-1:2], turns[1::2], strict=True))
    messages = [message.model_dump(exclude_unset=True) for message in body.messages]
    sampling = {name: value for name, value in (body.model_extra or {}).items() if name in SAMPLING}
    return Conversation(body.model, bool(body.stream), earlier, turns[-1], image, messages, sampling)


def _merged(messages: list[Message]) -> Iterator[str]:
    """The texts of users and assistants in turn; the first is a user's."""
    for number, (assistant, group) in enumerate(groupby(messages, lambda message: message.role == "assistant")):
        if assistant and number == 0:
            yield ""
        yield "\n".join(message.text for message in group)


def _picture(urls: list[str], params: DataParams) -> bytes | None:
    """The one picture of a conversation.

    Raises:
        Refusal: there are several, it is no data URI, broken (400), or too large (413).
    """
    if not urls:
        return None
    if len(set(urls)) > 1:
        raise Refusal(
            400, "several_pictures", f"the messages hold {len(urls)} pictures; the policy reads one a conversation"
        )
    if not re.match(r"(?i)data:image/", urls[0]):  # never a path: take_image would read a file of the server's
        raise Refusal(
            400,
            "invalid_image",
            "image_url is no data URI; send the picture itself as data:image/png;base64,..., no address",
        )
    try:
        return take_image(
            urls[0], root=Path("/nonexistent"), max_bytes=params.max_image_bytes, max_pixels=params.max_image_pixels
        )
    except DataError as error:
        large = ", more than data.max_image" in str(error) or "more pixels than" in str(error)
        raise Refusal(413 if large else 400, "image_too_large" if large else "invalid_image", str(error)) from None
