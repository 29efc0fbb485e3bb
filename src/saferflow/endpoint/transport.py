"""The transport to an OpenAI-compatible server: its address, a proxy or none, and the meaning of statuses. Source: ours."""

import asyncio
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit, urlunsplit
from urllib.request import proxy_bypass_environment

import httpx
from openai import APIError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient

from saferflow.addresses import PROXIES, api_base, is_local
from saferflow.endpoint.completion import FILTER, TOO_LONG, Declined, Fault, ServerError, reported_error
from saferflow.endpoint.fields import way_out
from saferflow.errors import EndpointError
from saferflow.params import EndpointParams

CALL = "/chat/completions"
VERSION = "/v1"
"""The path of the calls, on servers whose address was given without it."""
PATIENCE_OF_THE_CLIENT = 120.0
"""Longest `Retry-After`, in seconds, for which the `openai` client waits; beyond it gives up at once."""
ROW = "messages"
"""The field of a request that holds the row; no other differs between rows."""
OF_A_ROW = frozenset((400, 413, 414, 415, 422, 431, 451))
"""Statuses that may concern the row and not us."""
LONGEST_WAIT = 900.0
"""Longest wait in seconds, also where a server wants more."""
_MODEL = re.compile(
    r"model[\w ./:'\"`-]{0,200}(?:does not exist|not found|not exist)|model_not_found|unknown model", re.IGNORECASE
)
"""Words of servers, with any status, for a missing model."""


class Server:
    """The server that the params name."""

    def __init__(self, params: EndpointParams, key: str, section: str):
        self._params, self._key, self._section = params, key, section
        self.base = api_base(params.base_url)
        self._call = CALL

    def client(self) -> AsyncOpenAI:
        """Open a client; it reaches a server on this machine without a proxy.

        Raises:
            EndpointError: the environment names a proxy that cannot be used.
        """
        parts = urlsplit(self.base)
        direct = is_local(self.base) or proxy_bypass_environment(parts.hostname or "")
        try:
            http = DefaultAsyncHttpxClient(trust_env=not direct, timeout=self._params.timeout)
        except (ImportError, ValueError) as error:
            named = ", ".join(name for name in PROXIES if os.environ.get(name))
            raise EndpointError(
                f"the proxy that {named} names cannot be used to reach {self.base} ({error!s:.200}); name the server's host in "
                "NO_PROXY, or set an http:// proxy"
            ) from None
        return AsyncOpenAI(
            base_url=urlunsplit(parts._replace(query="")),
            default_query=dict(parse_qsl(parts.query)),
            api_key=self._key,
            timeout=self._params.timeout,
            http_client=http,
        )

    async def post(self, client: AsyncOpenAI, body: Mapping[str, Any], retries: int) -> bytes:
        """Post a request and return the body of the answer, whatever it is.

        Args:
            body: the request without the model's name, which is added.
            retries: further tries after 429, 5xx, a time-out or a cut connection.

        Raises:
            Declined: the server refuses this row.
            EndpointError: the server cannot be reached, fails, or refuses us.
        """
        call, request = self._call, {"model": self._params.model, **body}
        try:
            # `chat.completions.create` takes twice the time, for types that are not needed here
            answer = await client.post(call, cast_to=httpx.Response, body=request, options={"max_retries": retries})
            return answer.content
        except APIStatusError as error:
            if error.status_code in (404, 405) and self._elsewhere(call):
                return await self.post(client, body, retries)
            if retries and (seconds := _retry_after(error.response.headers)) > PATIENCE_OF_THE_CLIENT:
                await asyncio.sleep(min(seconds, LONGEST_WAIT))
                return await self.post(client, body, retries - 1)
            self._refuse(error.status_code, reported_error(error.response.content))
        except APIError as error:
            raise EndpointError(
                f"{self.base} did not answer for model {self._params.model} after {self._params.retries} retries: "
                f"{type(error).__name__}: {error.message:.200} {error.__cause__ or ''!s:.200}. What was answered before is kept; "
                "see that the server runs and run again"
            ) from None

    def _elsewhere(self, call: str) -> bool:
        """Whether another path is worth a try, for an address without a version."""
        if call == CALL and VERSION not in urlsplit(self.base).path:
            self._call = VERSION + CALL
        return self._call != call

    def judged(self, error: ServerError) -> Fault:
        """The fault of an error with status 200: another try may help, unless it concerns the row, the key or the model."""
        about_the_row = FILTER.search(str(error)) or TOO_LONG.search(str(error))
        if error.status in (401, 403, 404) or ((about_the_row or error.field) and (error.status or 400) < 500):
            self._refuse(error.status or 400, error)
        return Fault(self.without_key(str(error)))

    def without_key(self, words: str) -> str:
        """A server's words without the key, which they may repeat."""
        return words.replace(self._key, "<key>") if self._params.key_variable else words

    def _refuse(self, status: int, error: ServerError) -> NoReturn:
        """Raise the error that a status means: for this row, or for all rows."""
        kept, words = "What was answered before is kept", self.without_key(str(error))
        if error.field and not error.field.startswith(ROW) and status < 500:
            raise EndpointError(
                f"model {self._params.model} at {self.base} does not take the field {error.field} as it is sent "
                f"({status}: {words}); {way_out(self._params, self._section, error.field)}. {kept}"
            )
        if FILTER.search(words) and status < 500 and status != 429:
            raise Declined(words, filtered=True)
        if status in (401, 403):
            which = self._params.key_variable
            way = f"put the right key into the environment variable {which}" if which else "name its key in key_variable"
            raise EndpointError(f"{self.base} refuses the key ({status}: {words}); {way}. {kept}")
        if status == 402:
            raise EndpointError(f"{self.base} wants to be paid first ({status}: {words}). {kept}")
        if status in (404, 405) or _MODEL.search(words):
            raise EndpointError(
                f"{self.base} has no model {self._params.model}, or no {self._call} there ({status}: {words}); correct model, "
                f"or base_url, which usually ends in {VERSION}. {kept}"
            )
        if status not in OF_A_ROW:
            raise EndpointError(
                f"{self.base} did not answer for model {self._params.model} after {self._params.retries} retries: {status}: "
                f"{words}. {kept}; see that the server is well and run again"
            )
        raise Declined(f"{status}: {words}")


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait by `Retry-After`, which gives seconds or a date; 0 where it is missing."""
    value = headers.get("retry-after", "")
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
