"""Callers at once, each with the next request as soon as its last has an answer."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import httpx

from benchmarks.served.traffic import CANCELLED, CUT, Request

SECONDS = 180
"""For one answer."""
PAUSE = 0.2
"""Seconds until the next request after one that had no connection."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller got.

    Args:
        status: of HTTP; None: its caller hung up, or there was no connection.
        lost: the connection ended before an answer, and not by the caller.
    """

    request: Request
    status: int | None
    text: str
    seconds: float
    started: float
    lost: bool = False


async def call(base: str, requests: Iterator[Request], callers: int, take: Callable[[Outcome], None]) -> None:
    """Ask all requests by so many callers.

    Args:
        take: gets each outcome as it comes.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=callers)
    async with httpx.AsyncClient(base_url=base, timeout=SECONDS, trust_env=False, limits=limits) as client:

        async def caller(number: int) -> None:
            for request in requests:
                take(await _ask(client, base, request, number))

        await asyncio.gather(*(caller(number) for number in range(callers)))


async def _ask(client: httpx.AsyncClient, base: str, request: Request, number: int) -> Outcome:
    started, status, text, lost = time.monotonic(), None, "", False
    try:
        if request.kind == CUT:
            await _cut(base, request)
        elif request.kind == CANCELLED:
            with suppress(httpx.ReadTimeout):
                await client.post("/v1/chat/completions", json=request.body, timeout=0.02 * (1 + number % 8))
        else:
            response = await client.post("/v1/chat/completions", json=request.body)
            status, text = response.status_code, response.text
    except httpx.TransportError:
        lost = request.kind != CANCELLED
        await asyncio.sleep(PAUSE)
    return Outcome(request, status, text, time.monotonic() - started, started, lost)


async def _cut(base: str, request: Request) -> None:
    """Hang up in the middle of the body."""
    body = json.dumps(request.body).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    writer.write(body[: len(body) // 2])
    await writer.drain()
    writer.close()
