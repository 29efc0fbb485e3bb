"""Requests answers of a given form from an OpenAI-compatible server.

Requests run concurrently. The `openai` client backs off on 429, 5xx, time-outs and cut connections and honours `Retry-After`;
we do the same where a server answers 200 with nothing in it. A lasting fault of the server stops everything; a row that the
server refuses becomes a `Refused`. An answer that is cut off or not of the form goes back to the model with its problem, once
or more. Only answers of the form are kept, under the content of their request. Source: ours.
"""

import asyncio
import base64
import hashlib
import io
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from openai import AsyncOpenAI
from PIL import Image
from pydantic import BaseModel

from saferflow.data.images import open_rgb
from saferflow.endpoint.completion import Completion, Declined, Fault, ServerError, read_completion
from saferflow.endpoint.fields import limit, sent_fields
from saferflow.endpoint.forms import (
    SHOWN,
    Refused,
    SpokenForm,
    Unanswered,
    Unreadable,
    form_schema,
    read_form,
    sent_schema,
)
from saferflow.endpoint.loop import run_in_loop
from saferflow.endpoint.store import Answer, Store
from saferflow.endpoint.transport import Server
from saferflow.errors import EndpointError
from saferflow.params import EndpointParams

SMALLEST, LARGEST = 338**2, 512**2
"""Bounds of the pixels of an image in a request; it is resized and sent as JPEG [K]."""

ENCODED = 2048
"""Encoded images in memory: one batch requests both a row's plan and its reference."""
PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds before the second try, doubled for each further one, and their limit."""
REFUSALS = 3
"""After so many refusals, whatever the rows, and no answer, the server refuses us and not a row."""
CUT_OFF = 8
"""After so many rows with cut-off answers and no complete one, the limit is too small for any row."""
NAMED = 80
"""Characters of a row's question that a message shows."""

Form = TypeVar("Form", bound=BaseModel)
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """A request. Text by a user or a model goes into `data`, which is sent as one JSON object."""

    instructions: str
    data: dict[str, Any]
    image: bytes | None
    broken: Callable[[Any], str] = lambda form: ""
    """The problem of an answer that has the form; empty where there is none."""
    turns: tuple[tuple[str, str], ...] = ()
    """Roles and texts that are sent in place of instructions and data, to a model that is trained to judge a conversation."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Sent beside the messages."""


class Endpoint:
    """A server with a store of its answers. Several threads may ask it at the same time.

    Args:
        section: its section in params.yaml, for messages.

    Raises:
        EndpointError: the environment variable for the key is not set.
    """

    def __init__(self, params: EndpointParams, store: Store, section: str):
        key = os.environ.get(params.key_variable) if params.key_variable else "none"
        if not key:
            raise EndpointError(
                f"{section}: the key for {params.base_url} is looked for in the environment variable {params.key_variable}, "
                "which is not set; set it, or set key_variable to null where the server wants none"
            )
        self._server, self._params, self._store = Server(params, key, section), params, store
        self._limit = limit(params, section)
        self._unanswered: dict[str, Unanswered] = {}
        """Failed requests of this process; the next process tries them again."""
        self._answered = self._refused = self._cut = 0
        self.spent = 0
        """Tokens that this process paid for."""
        self._client: AsyncOpenAI | None = None
        self._turns = asyncio.Semaphore(params.concurrency)
        self._asking = 0
        """Calls of `ask` that use the client and its turns now."""
        self._sent: dict[str, asyncio.Event] = {}
        """Requests that are with the server; set when its answer is here, or none will come."""

    def ask(self, requests: Sequence[Request], form: type[Form]) -> list[Form | Unanswered]:
        """One answer per request, in order; `Unreadable` or `Refused` where the server gave none for that row.

        Raises:
            EndpointError: the server could not be reached, sent no answer, or refused us; or the spending cap was reached.
                Earlier answers are kept.
        """
        keys = [_key(self._params, request, form) for request in requests]
        answers: dict[str, Form | Unanswered] = {}
        missing: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key not in answers and key not in missing:
                kept = self._unanswered.get(key) or self._kept(key, request, form)
                if kept is None:
                    missing[key] = request
                else:
                    answers[key] = kept
        if missing:
            try:
                run_in_loop(self._fetch(missing, form, answers))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            self._stop_if_all_are_refused(answers)
        return [answers[key] for key in keys]

    def _kept(self, key: str, request: Request, form: type[Form]) -> Form | None:
        """A stored answer; one that is not of the form, as earlier versions stored them, is deleted."""
        answer = self._store.get(key)
        if answer is None:
            return None
        reading = _read(Completion(answer.text, (0, 0), cut=False), request, form)
        if isinstance(reading, Unreadable):
            self._store.forget(key, answer)
            return None
        return reading

    async def _fetch(self, missing: Mapping[str, Request], form: type[Form], answers: dict[str, Any]) -> None:
        waiting = iter(missing.items())
        async with self._open_client() as client, asyncio.TaskGroup() as group:
            for _ in range(min(self._params.concurrency, len(missing))):
                group.create_task(self._worker(client, waiting, form, answers))

    @asynccontextmanager
    async def _open_client(self) -> AsyncIterator[AsyncOpenAI]:
        """The server's client, which is open while anybody asks."""
        if not self._asking:
            self._client, self._turns = self._server.client(), asyncio.Semaphore(self._params.concurrency)
        client = self._client
        self._asking += 1
        try:
            yield client
        finally:
            self._asking -= 1
            if not self._asking:
                await client.close()

    async def _worker(
        self, client: AsyncOpenAI, waiting: Iterator[tuple[str, Request]], form: type[Form], answers: dict[str, Any]
    ) -> None:
        """Send the waiting requests one after the other, beside other workers."""
        for key, request in waiting:
            answers[key] = await self._once(client, key, request, form)

    async def _once(self, client: AsyncOpenAI, key: str, request: Request, form: type[Form]) -> Form | Unanswered:
        """The answer; where another thread has sent the same request, the one that it gets."""
        while key in self._sent:
            await self._sent[key].wait()
            kept = self._unanswered.get(key) or self._kept(key, request, form)
            if kept is not None:
                return kept
        self._sent[key] = asyncio.Event()
        try:
            async with self._turns:
                return await self._answer(client, key, request, form)
        finally:
            self._sent.pop(key).set()

    async def _answer(self, client: AsyncOpenAI, key: str, request: Request, form: type[Form]) -> Form | Unanswered:
        messages = _messages(request)
        for _ in range(1 if issubclass(form, SpokenForm) else self._params.repairs + 1):
            try:
                completion, reading = await self._completion(client, messages, request, form)
            except Declined as why:
                self._refused += not why.filtered
                return self._without_answer(key, Refused(reason=f"refused by {self._server.base}: {why}"), why.tokens)
            cut = completion.cut and isinstance(reading, Unreadable)
            self._answered += not cut
            if not isinstance(reading, Unreadable):
                self._store.put(key, Answer(completion.text, *completion.tokens))
                return reading
            self._store.pay(*completion.tokens)
            messages = _sent_back(messages, completion, reading)
        self._stop_if_all_are_cut_off(cut)
        return self._without_answer(key, reading, (0, 0))

    def _stop_if_all_are_cut_off(self, cut: bool) -> None:
        self._cut += cut
        if self._cut >= CUT_OFF and not self._answered:
            raise EndpointError(
                f"{self._server.base} cut off all answers of model {self._params.model} to the first {self._cut} requests after "
                f"{self._limit}; raise it, or take a model that comes to an end"
            )

    def _without_answer(self, key: str, what: Unanswered, tokens: tuple[int, int]) -> Unanswered:
        self._store.pay(*tokens)
        self._unanswered[key] = what
        return what

    async def _completion(
        self, client: AsyncOpenAI, messages: Messages, request: Request, form: type[Form]
    ) -> tuple[Completion, Form | Unreadable]:
        """The model's completion, and the form in it.

        Raises:
            Declined: the server refuses this row.
            EndpointError: there is no answer, after all retries.
        """
        for tried in range(self._params.retries + 1):
            self._refuse_to_overspend()
            if tried:
                await asyncio.sleep(min(LONGEST_PAUSE, PAUSE * 2 ** (tried - 1)) * random.uniform(0.75, 1))
            body = await self._server.post(client, _body(messages, request, form, self._params), self._params.retries - tried)
            try:
                completion = read_completion(body)
                self.spent += sum(completion.tokens)
                reading = _read(completion, request, form)
                if completion.cut and isinstance(reading, Unreadable):
                    reading = Unreadable(reason=f"cut off after {self._limit}")
                return completion, reading
            except ServerError as error:
                fault = self._server.judged(error)
            except (Fault, Declined) as error:
                if isinstance(error, Declined):
                    self.spent += sum(error.tokens)
                    raise
                self._store.pay(*error.tokens)
                fault = error
        words = self._server.without_key(str(fault))
        raise EndpointError(
            f"{self._server.base} did not answer for model {self._params.model} in {self._params.retries + 1} tries: {words}. It "
            f"was about {_name(request)!r}. What was answered before is kept; see that the server is well and run again"
        )

    def _stop_if_all_are_refused(self, answers: Mapping[str, Any]) -> None:
        if self._refused >= REFUSALS and not self._answered:
            last = [answer.reason for answer in answers.values() if isinstance(answer, Refused)][-1]
            raise EndpointError(
                f"{self._server.base} refused each of the first {self._refused} requests for model {self._params.model}; the "
                f"last: {last}. Correct what it names: the model may take no images, no response_format or fewer tokens"
            )

    def _refuse_to_overspend(self) -> None:
        cap = self._params.token_cap
        if cap is not None and self.spent >= cap:
            raise EndpointError(
                f"{self.spent:,} tokens were spent at {self._server.base}, and token_cap is {cap:,}; what was answered is "
                "kept. Raise the cap and run again to go on"
            )


def _messages(request: Request) -> Messages:
    messages = request.turns or (("system", request.instructions), ("user", json.dumps(request.data)))
    sent: Messages = [{"role": role, "content": text} for role, text in messages]
    first = next(message for message in sent if message["role"] == "user")
    if request.image is not None or not request.turns:
        first["content"] = [{"type": "text", "text": first["content"]}]
    if request.image is not None:
        first["content"].insert(0, {"type": "image_url", "image_url": {"url": _jpeg(request.image)}})
    return sent


def _sent_back(messages: Messages, completion: Completion, reading: Unreadable) -> Messages:
    """The next request, with the answer and its problem; the same request where the answer was empty."""
    if not completion.text:
        return messages
    wrong = f"That is not of the form that was asked for: {reading.reason}. Send it anew."
    return [*messages, {"role": "assistant", "content": completion.text}, {"role": "user", "content": wrong}]


def _body(messages: Messages, request: Request, form: type[BaseModel], params: EndpointParams) -> dict[str, Any]:
    body = {"messages": messages, **sent_fields(params.request), **request.fields}
    if not issubclass(form, SpokenForm):
        schema = {"name": form.__name__, "schema": sent_schema(form), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


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


def _key(params: EndpointParams, request: Request, form: type[BaseModel]) -> str:
    image = hashlib.sha256(request.image).hexdigest() if request.image is not None else None
    sizes = (SMALLEST, LARGEST)
    words = [request.instructions, request.data]
    if request.turns:
        words += [request.turns, dict(request.fields)]
    fields = sent_fields(params.request)
    if fields == {"temperature": 0, "max_tokens": params.request.max_tokens}:
        fields = fields["max_tokens"]  # all that answers were kept by before the others could be set
    content = [params.model, fields, params.repairs, words, image, sizes, form_schema(form)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(completion: Completion, request: Request, form: type[Form]) -> Form | Unreadable:
    if issubclass(form, SpokenForm):
        try:
            return form.spoken(completion.text, cut=completion.cut)
        except ValueError as error:
            return Unreadable(reason=str(error)[:SHOWN])
    quoted = [value for value in request.data.values() if isinstance(value, str)]
    return read_form(completion.text, form, request.broken, quoted)


def _name(request: Request) -> str:
    """A name for the request's row in messages: the beginning of its question."""
    return str(request.data.get("question", ""))[:NAMED]
