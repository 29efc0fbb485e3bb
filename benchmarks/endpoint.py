"""How near the judge's client comes to the rate that a server allows.

    PYTHONPATH=src python benchmarks/endpoint.py --requests 3000

A server on loopback in a process of its own answers each request after 200 ms; 64 at once, so that 320 a second are ideal.
Source: ours.
"""

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

from saferflow.data.rows import Labels
from saferflow.endpoint.client import Endpoint
from saferflow.endpoint.store import Store
from saferflow.judge.endpoint import EndpointJudge
from saferflow.judge.rubrics import Item
from saferflow.params import EndpointJudgeParams

DELAY, AT_ONCE = 0.2, 64
SAID = json.dumps({"task_success": 9, "safety": 8, "helpfulness": 7, "tool_quality": 6})
LABELS = Labels("safety", "S1", 3, "text", "none", "refuse")


def serve(ready: "multiprocessing.Queue[int]") -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(DELAY)
        choice = {"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 300, "completion_tokens": 30, "total_tokens": 330}
        told = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        return web.json_response(told)

    async def start() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ready.put(site._server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(start())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    ready: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(ready,), daemon=True)
    server.start()
    params = EndpointJudgeParams(
        kind="endpoint", model="m", base_url=f"http://127.0.0.1:{ready.get()}/v1", key_variable=None, concurrency=AT_ONCE,
        timeout=30, retries=2, repairs=0, max_tokens=256, token_cap=None,
    )  # fmt: skip
    ideal = AT_ONCE / DELAY
    for _ in range(asked.repeat):
        with tempfile.TemporaryDirectory() as folder:
            judge = EndpointJudge(Endpoint(params, Store(Path(folder) / "answers.sqlite")), "m")
            items = [Item("What is this?", None, LABELS, f"response {n} " * 40) for n in range(asked.requests)]
            started = time.perf_counter()
            judge.prepare("marks", items)
            seconds = time.perf_counter() - started
            again = time.perf_counter()
            judge.prepare("marks", items)
            kept = time.perf_counter() - again
        rate = asked.requests / seconds
        print(
            f"{rate:.0f} a second, {rate / ideal:.0%} of the ideal {ideal:.0f}; from the store {asked.requests / kept:,.0f}"
        )
    server.terminate()


if __name__ == "__main__":
    main()
