"""Asking an OpenAI-compatible server for answers of a given form.

Requests run concurrently; the `openai` client backs off on 429, 5xx, time-outs and cut connections and honours
`Retry-After`. An answer that is not of the form is sent back once or more with what is wrong. Every answer that is, is kept
by the content of its request. Source: ours.
"""

import asyncio
import base64
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeVar

from openai import APIError, AsyncOpenAI
from PIL import Image
from pydantic import BaseModel, ValidationError

from saferflow.data.images import open_rgb
from saferflow.endpoint.store import Answer, Store
from saferflow.errors import EndpointError
from saferflow.params import EndpointParams

SMALLEST, LARGEST = 338**2, 512**2
"""Pixels of an image that is sent: resized into these bounds, as JPEG [K]."""

ENCODED = 2048
"""Images kept as they are sent: a row's plan and its reference are asked for within one batch."""
SHOWN = 2000
"""Characters of what is wrong with an answer."""

Form = TypeVar("Form", bound=BaseModel)
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. What a user or a model wrote goes into `data`, which is sent as one JSON object and nothing else."""

    instructions: str
    data: dict[str, Any]
    image: bytes | None
    broken: Callable[[Any], str] = lambda form: ""
    """What is wrong with an answer that has the form; empty where nothing is."""


class Unreadable(BaseModel):
    """Stands for an answer that was not of the form, however often it was asked for."""

    reason: str


class Endpoint:
    """A server, with a store of what it has said.

    Raises:
        EndpointError: the variable that should hold the key is not set.
    """

    def __init__(self, params: EndpointParams, store: Store):
        key = os.environ.get(params.key_variable) if params.key_variable else "none"
        if not key:
            raise EndpointError(
                f"the key for {params.base_url} is looked for in the environment variable {params.key_variable}, "
                "which is not set; set it, or set key_variable to null where the server wants none"
            )
        self._key, self._params, self._store = key, params, store
        self.spent = 0
        """Tokens paid for by this process."""

    def ask(self, requests: Sequence[Request], form: type[Form]) -> list[Form | Unreadable]:
        """An answer a request, in their order.

        Raises:
            EndpointError: the server could not be reached or refused, or the spending cap was reached. Answers that came
                before are kept.
        """
        keys = [_key(self._params, request, form) for request in requests]
        found: dict[str, Form | Unreadable] = {}
        missing: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key not in found and key not in missing:
                kept = self._store.get(key)
                if kept is None:
                    missing[key] = request
                else:
                    found[key] = _read(kept.text, form, request.broken)
        if missing:
            try:
                asyncio.run(self._fetch(missing, form, found))
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
        return [found[key] for key in keys]

    async def _fetch(self, missing: Mapping[str, Request], form: type[Form], found: dict[str, Any]) -> None:
        waiting = iter(missing.items())
        async with (
            AsyncOpenAI(
                base_url=self._params.base_url,
                api_key=self._key,
                timeout=self._params.timeout,
                max_retries=self._params.retries,
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(min(self._params.concurrency, len(missing))):
                group.create_task(self._some(client, waiting, form, found))

    async def _some(
        self, client: AsyncOpenAI, waiting: Iterator[tuple[str, Request]], form: type[Form], found: dict[str, Any]
    ) -> None:
        """Send one request after the other, of those that nobody has sent yet."""
        for key, request in waiting:
            found[key] = await self._one(client, key, request, form)

    async def _one(self, client: AsyncOpenAI, key: str, request: Request, form: type[Form]) -> Form | Unreadable:
        messages = _messages(request)
        for _ in range(self._params.repairs + 1):
            answer = await self._said(client, messages, form)
            found = _read(answer.text, form, request.broken)
            if not isinstance(found, Unreadable):
                break
            messages = [
                *messages,
                {"role": "assistant", "content": answer.text},
                {
                    "role": "user",
                    "content": f"That is not of the form that was asked for: {found.reason}. Send it anew.",
                },
            ]
        self._store.put(key, answer)
        return found

    async def _said(self, client: AsyncOpenAI, messages: Messages, form: type[Form]) -> Answer:
        cap = self._params.token_cap
        if cap is not None and self.spent >= cap:
            raise EndpointError(
                f"{self.spent:,} tokens were spent at {self._params.base_url}, and token_cap is {cap:,}; what was answered is "
                "kept. Raise the cap and run again to go on"
            )
        try:
            said = (
                await client.post(  # `chat.completions.create` takes twice the time, for types that are not needed here
                    "/chat/completions",
                    cast_to=object,  # the JSON as it came
                    body={
                        "model": self._params.model,
                        "messages": messages,
                        "temperature": 0,
                        "max_tokens": self._params.max_tokens,
                        "response_format": {
                            "type": "json_schema",
                            "json_schema": {"name": form.__name__, "schema": _schema(form), "strict": True},
                        },
                    },
                )
            )
        except APIError as error:
            raise EndpointError(
                f"{self._params.base_url} did not answer for model {self._params.model} after {self._params.retries} retries: "
                f"{type(error).__name__}: {error.message:.200}. What was answered before is kept; see that the server runs "
                "and run again"
            ) from None
        text, tokens = _taken(said)
        self.spent += sum(tokens)
        return Answer(text, *tokens)


def _taken(said: Any) -> tuple[str, tuple[int, int]]:
    """What a completion says, and the tokens asked and answered; whatever is not there is empty, or nothing."""
    said = said if isinstance(said, dict) else {}
    choices, usage = said.get("choices"), said.get("usage")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = first.get("message") if isinstance(first.get("message"), dict) else {}
    text = message.get("content") or message.get("refusal") or ""
    counts = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    asked, answered = (count if isinstance(count, int) else 0 for count in counts)
    return (text if isinstance(text, str) else json.dumps(text)), (asked, answered)


def _messages(request: Request) -> Messages:
    content: list[dict[str, Any]] = [{"type": "text", "text": json.dumps(request.data)}]
    if request.image is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": _jpeg(request.image)}})
    return [{"role": "system", "content": request.instructions}, {"role": "user", "content": content}]


@lru_cache(maxsize=ENCODED)
def _jpeg(image: bytes) -> str:
    """A data address of the image, resized to between `SMALLEST` and `LARGEST` pixels."""
    opened = open_rgb(image)
    pixels = opened.width * opened.height
    scale = (max(SMALLEST, min(LARGEST, pixels)) / pixels) ** 0.5
    if scale != 1:
        size = max(1, round(opened.width * scale)), max(1, round(opened.height * scale))
        opened = opened.resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    opened.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@cache
def _schema(form: type[BaseModel]) -> dict[str, Any]:
    return form.model_json_schema()


def _key(params: EndpointParams, request: Request, form: type[BaseModel]) -> str:
    image = hashlib.sha256(request.image).hexdigest() if request.image is not None else None
    sizes = (SMALLEST, LARGEST)
    words = [request.instructions, request.data]
    asked = [params.model, params.max_tokens, params.repairs, words, image, sizes, _schema(form)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _read(text: str, form: type[Form], broken: Callable[[Any], str]) -> Form | Unreadable:
    try:
        found = form.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        return Unreadable(reason=f"{where}: {first['msg']}"[:SHOWN])
    wrong = broken(found)
    return Unreadable(reason=wrong[:SHOWN]) if wrong else found
