"""The HTTP side: OpenAI's chat completions and models, `/health`, `/metrics`. A request is planned, queued, drawn, checked."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from saferflow.serving.answer import Answer, completion, stream
from saferflow.serving.refusal import Refusal
from saferflow.serving.request import most_bytes
from saferflow.serving.system import System

GONE = 499
"""Status by which a caller who went away is counted; nobody reads it."""
LOG = logging.getLogger("uvicorn.error")


def build_app(system: System, key: str | None) -> FastAPI:
    """The server's application.

    Args:
        key: that a caller must show as a bearer token; None on loopback.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await system.close()

    async def show_key(request: Request) -> None:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if key and not (scheme.lower() == "bearer" and hmac.compare_digest(shown.encode(), key.encode())):
            raise Refusal(401, "invalid_api_key", "the server wants its key as Authorization: Bearer ...")

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    closed = [Depends(show_key)]

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    @app.get("/health")
    async def health() -> dict[str, object]:
        identity = system.policy.identity
        about = {"status": "ok", "version": identity.name, "digest": identity.digest}
        return about | {"follows": system.follows, "trouble": system.trouble, "store": system.record.account,
                        "traces": system.tracer.account}  # fmt: skip

    @app.get("/metrics", dependencies=closed)
    async def metrics() -> Response:
        text = system.metrics.text(system.waiting) + system.record.text() + system.tracer.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", dependencies=closed)
    async def models() -> dict[str, object]:
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "saferflow"}
            for name in system.policy.identity.listed
        ]
        return {"object": "list", "data": rows}

    @app.post("/v1/chat/completions", dependencies=closed)
    async def chat(request: Request) -> Response:
        started, status = time.monotonic(), 500
        try:
            answer, streamed = await _answer(system, request)
            status = GONE if answer is None else 200
        except Refusal as refusal:
            status = refusal.status
            raise
        except ClientDisconnect:
            answer, streamed, status = None, False, GONE
        except Exception as error:
            LOG.exception("a request failed")
            name = type(error).__name__
            raise Refusal(500, "internal_error", f"the request failed ({name}); the server's log says more") from None
        finally:
            system.metrics.request(status, time.monotonic() - started)
        if answer is None:
            return Response(status_code=GONE)
        if streamed:
            return StreamingResponse(stream(answer), media_type="text/event-stream")
        return JSONResponse(completion(answer))

    return app


async def _answer(system: System, request: Request) -> tuple[Answer | None, bool]:
    """The answer, None for a caller who went away, and whether it is to be streamed.

    A stream begins when the check has passed the answer: until then nothing may leave.
    """
    raw = await _body(request, most_bytes(system.params.data))
    conversation = await system.read(raw)
    answer = await _unless_gone(request, lambda: system.answer(conversation))
    if answer is not None:
        await run_in_threadpool(system.record.keep, raw, conversation, answer)
        system.tracer.trace(raw, conversation, answer)
    return answer, conversation.stream


async def _body(request: Request, most: int) -> bytes:
    """The request's body; one that is too long is not read to its end.

    Raises:
        Refusal: 413, or 415 where it is no JSON: a page in a browser may post other kinds without being asked.
        ClientDisconnect: the caller hung up in the middle of it.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "no_json", "the body must be JSON: Content-Type: application/json")
    large = Refusal(
        413, "body_too_large", f"the body has more than {most:,} bytes (data.max_image_bytes and its texts)"
    )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise large
    return bytes(body)


async def _unless_gone(request: Request, work: Callable[[], Awaitable[Answer]]) -> Answer | None:
    """What the work comes to; it is cancelled and None when the caller goes away first."""
    task, gone = asyncio.ensure_future(work()), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
