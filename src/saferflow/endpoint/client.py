"""Asking an OpenAI-compatible server for answers of a given form.

Requests run concurrently; the `openai` client backs off on 429, 5xx, time-outs and cut connections and honours
`Retry-After`, and so do we where a server answers 200 and says nothing. What stays a fault of the server stops everything;
a row that it refuses is given back as `Refused`. An answer that is not of the form is sent back once or more with what is
wrong. Every answer that is, and no other, is kept by the content of its request. Source: ours.
"""

import asyncio
import base64
import hashlib
import io
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit
from urllib.request import proxy_bypass_environment

import httpx
from openai import APIError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient
from PIL import Image
from pydantic import BaseModel

from saferflow.addresses import PROXIES, api_base, is_local
from saferflow.data.images import open_rgb
from saferflow.endpoint.completion import (
    FILTER,
    TOO_LONG,
    Completion,
    Declined,
    Fault,
    ServerError,
    error_words,
    read_completion,
)
from saferflow.endpoint.forms import Refused, Unanswered, Unreadable, read_form
from saferflow.endpoint.store import Answer, Store
from saferflow.errors import EndpointError
from saferflow.params import EndpointParams

SMALLEST, LARGEST = 338**2, 512**2
"""Pixels of an image that is sent: resized into these bounds, as JPEG [K]."""

ENCODED = 2048
"""Images kept as they are sent: a row's plan and its reference are asked for within one batch."""
CALL = "/chat/completions"
VERSION = "/v1"
"""Where the calls are, on servers whose address was given without it."""
PATIENCE_OF_THE_CLIENT = 60.0
"""Seconds up to which the `openai` client waits as `Retry-After` says; beyond them it gives up at once."""
LONGEST_WAIT = 900.0
PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds before the second try, doubled for each more."""
REFUSALS = 3
"""So many refusals, of rows of any content, and not one answer: the server refuses us and not a row."""
NAMED = 80
"""Characters of a row's question by which a message names it."""

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
        self._base = api_base(params.base_url)
        self._call = CALL
        self._unanswered: dict[str, Unanswered] = {}
        """For this process: what did not come is asked for again by the next one."""
        self._answered = self._refused = 0
        self.spent = 0
        """Tokens paid for by this process."""

    def ask(self, requests: Sequence[Request], form: type[Form]) -> list[Form | Unanswered]:
        """An answer a request, in their order; `Unreadable` or `Refused` where the server had none for that row.

        Raises:
            EndpointError: the server could not be reached, answered without an answer, or refused us; or the spending cap was
                reached. Answers that came before are kept.
        """
        keys = [_key(self._params, request, form) for request in requests]
        found: dict[str, Form | Unanswered] = {}
        missing: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key not in found and key not in missing:
                kept = self._unanswered.get(key) or self._kept(key, request, form)
                if kept is None:
                    missing[key] = request
                else:
                    found[key] = kept
        if missing:
            try:
                asyncio.run(self._fetch(missing, form, found))
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
            self._stop_if_all_are_refused(found)
        return [found[key] for key in keys]

    def _kept(self, key: str, request: Request, form: type[Form]) -> Form | None:
        """An answer of before; one that is not of the form, as earlier versions kept them, is forgotten."""
        answer = self._store.get(key)
        if answer is None:
            return None
        found = _read(answer.text, request, form)
        if isinstance(found, Unreadable):
            self._store.forget(key, answer)
            return None
        return found

    async def _fetch(self, missing: Mapping[str, Request], form: type[Form], found: dict[str, Any]) -> None:
        waiting = iter(missing.items())
        async with self._client() as client, asyncio.TaskGroup() as group:
            for _ in range(min(self._params.concurrency, len(missing))):
                group.create_task(self._some(client, waiting, form, found))

    def _client(self) -> AsyncOpenAI:
        """A client that asks a server on this machine without a proxy.

        Raises:
            EndpointError: the environment names a proxy that cannot be used.
        """
        parts = urlsplit(self._base)
        direct = is_local(self._base) or proxy_bypass_environment(parts.hostname or "")
        try:
            http = DefaultAsyncHttpxClient(trust_env=not direct, timeout=self._params.timeout)
        except (ImportError, ValueError) as error:
            named = ", ".join(name for name in PROXIES if os.environ.get(name))
            raise EndpointError(
                f"the proxy that {named} names cannot be used to reach {self._base} ({error!s:.200}); name the server's host in "
                "NO_PROXY, or set an http:// proxy"
            ) from None
        return AsyncOpenAI(
            base_url=urlunsplit(parts._replace(query="")),
            default_query=dict(parse_qsl(parts.query)),
            api_key=self._key,
            timeout=self._params.timeout,
            http_client=http,
        )

    async def _some(
        self, client: AsyncOpenAI, waiting: Iterator[tuple[str, Request]], form: type[Form], found: dict[str, Any]
    ) -> None:
        """Send one request after the other, of those that nobody has sent yet."""
        for key, request in waiting:
            found[key] = await self._one(client, key, request, form)

    async def _one(self, client: AsyncOpenAI, key: str, request: Request, form: type[Form]) -> Form | Unanswered:
        messages = _messages(request)
        for _ in range(self._params.repairs + 1):
            try:
                completion, found = await self._completion(client, messages, request, form)
            except Declined as why:
                self._refused += not why.filtered
                return self._without_answer(key, Refused(reason=f"refused by {self._base}: {why}"), why.tokens)
            self._answered += 1
            if not isinstance(found, Unreadable):
                self._store.put(key, Answer(completion.text, *completion.tokens))
                return found
            self._store.pay(*completion.tokens)
            messages = [
                *messages,
                {"role": "assistant", "content": completion.text},
                {
                    "role": "user",
                    "content": f"That is not of the form that was asked for: {found.reason}. Send it anew.",
                },
            ]
        return self._without_answer(key, found, (0, 0))

    def _without_answer(self, key: str, what: Unanswered, tokens: tuple[int, int]) -> Unanswered:
        self._store.pay(*tokens)
        self._unanswered[key] = what
        return what

    async def _completion(
        self, client: AsyncOpenAI, messages: Messages, request: Request, form: type[Form]
    ) -> tuple[Completion, Form | Unreadable]:
        """What the model said, and the form in it.

        Raises:
            Declined: the server refuses this row.
            EndpointError: there is no answer, after all retries.
        """
        for tried in range(self._params.retries + 1):
            self._refuse_to_overspend()
            if tried:
                await asyncio.sleep(min(LONGEST_PAUSE, PAUSE * 2 ** (tried - 1)) * random.uniform(0.75, 1))
            body = await self._body(client, messages, form, self._params.retries - tried)
            try:
                completion = read_completion(body)
                self.spent += sum(completion.tokens)
                found = _read(completion.text, request, form)
                if completion.cut and isinstance(found, Unreadable):
                    raise Fault(f"cut off after max_tokens ({self._params.max_tokens}); raise max_tokens")
                return completion, found
            except ServerError as error:
                fault = self._judged(error)
            except (Fault, Declined) as error:
                if isinstance(error, Declined):
                    self.spent += sum(error.tokens)
                    raise
                self._store.pay(*error.tokens)
                fault = error
        raise EndpointError(
            f"{self._base} did not answer for model {self._params.model} in {self._params.retries + 1} tries: {fault}. It was "
            f"about {_name(request)!r}. What was answered before is kept; see that the server is well and run again"
        )

    async def _body(self, client: AsyncOpenAI, messages: Messages, form: type[Form], retries: int) -> bytes:
        """The body of the server's answer, whatever it is.

        Raises:
            Declined: the server refuses this row.
            EndpointError: it cannot be reached, fails, or refuses us.
        """
        body = {
            "model": self._params.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self._params.max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": form.__name__, "schema": _schema(form), "strict": True},
            },
        }
        call = self._call
        try:
            # `chat.completions.create` takes twice the time, for types that are not needed here
            return (await client.post(call, cast_to=httpx.Response, body=body, options={"max_retries": retries})).content
        except APIStatusError as error:
            if error.status_code in (404, 405) and self._elsewhere(call):
                return await self._body(client, messages, form, retries)
            if retries and (seconds := _asked_to_wait(error.response.headers)) > PATIENCE_OF_THE_CLIENT:
                await asyncio.sleep(min(seconds, LONGEST_WAIT))
                return await self._body(client, messages, form, retries - 1)
            self._refuse(error.status_code, error_words(error.response.content))
        except APIError as error:
            raise EndpointError(
                f"{self._base} did not answer for model {self._params.model} after {self._params.retries} retries: "
                f"{type(error).__name__}: {error.message:.200}. What was answered before is kept; see that the server runs "
                "and run again"
            ) from None

    def _elsewhere(self, call: str) -> bool:
        """Whether another place is worth a try, for an address without a version."""
        if call == CALL and VERSION not in urlsplit(self._base).path:
            self._call = VERSION + CALL
        return self._call != call

    def _judged(self, error: ServerError) -> Fault:
        """An error that came with status 200: another try may help, unless it speaks of the row, the key or the model."""
        about_the_row = FILTER.search(str(error)) or TOO_LONG.search(str(error))
        if error.status in (401, 403, 404) or (about_the_row and (error.status or 400) < 500):
            self._refuse(error.status or 400, str(error))
        return Fault(str(error))

    def _refuse(self, status: int, words: str) -> NoReturn:
        """Raise what an error's status means: for this row, or for all of them."""
        kept = "What was answered before is kept"
        if FILTER.search(words) and status < 500 and status != 429:
            raise Declined(words, filtered=True)
        if status in (401, 403):
            which = self._params.key_variable
            way = f"put the right key into the environment variable {which}" if which else "name its key in key_variable"
            raise EndpointError(f"{self._base} refuses the key ({status}: {words}); {way}. {kept}")
        if status == 402:
            raise EndpointError(f"{self._base} wants to be paid first ({status}: {words}). {kept}")
        if status in (404, 405) or _MODEL.search(words):
            raise EndpointError(
                f"{self._base} has no model {self._params.model}, or no {self._call} there ({status}: {words}); correct model, "
                f"or base_url, which usually ends in {VERSION}. {kept}"
            )
        if status in (408, 409, 429) or status >= 500:
            raise EndpointError(
                f"{self._base} did not answer for model {self._params.model} after {self._params.retries} retries: {status}: "
                f"{words}. {kept}; see that the server is well and run again"
            )
        raise Declined(f"{status}: {words}")

    def _stop_if_all_are_refused(self, found: Mapping[str, Any]) -> None:
        if self._refused >= REFUSALS and not self._answered:
            last = [one.reason for one in found.values() if isinstance(one, Refused)][-1]
            raise EndpointError(
                f"{self._base} refused each of the first {self._refused} requests for model {self._params.model}; the last was "
                f"{last}. Correct what it names: the model may take no images, no response_format or fewer tokens"
            )

    def _refuse_to_overspend(self) -> None:
        cap = self._params.token_cap
        if cap is not None and self.spent >= cap:
            raise EndpointError(
                f"{self.spent:,} tokens were spent at {self._base}, and token_cap is {cap:,}; what was answered is "
                "kept. Raise the cap and run again to go on"
            )


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


_MODEL = re.compile(
    r"model[\w ./:'\"`-]{0,200}(?:does not exist|not found|not exist)|model_not_found|unknown model", re.IGNORECASE
)
"""Words by which servers say, with any status, that they have no such model."""


def _read(text: str, request: Request, form: type[Form]) -> Form | Unreadable:
    quoted = [value for value in request.data.values() if isinstance(value, str)]
    return read_form(text, form, request.broken, quoted)


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds until a server wants to be asked again, by `Retry-After` in seconds or as a date; 0 where it does not say."""
    value = headers.get("retry-after", "")
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def _name(request: Request) -> str:
    """The row, as far as a request knows it: how its question begins."""
    return str(request.data.get("question", ""))[:NAMED]
