"""How near the judge's client, and stage `plan`, come to the rate that a server allows.

    PYTHONPATH=src python benchmarks/endpoint.py --requests 3000
    PYTHONPATH=src python benchmarks/endpoint.py --plan 4000

A server on loopback in a process of its own answers each request after 200 ms; 64 at once, so that 320 a second are ideal.
The first asks the judge; the second runs stage `plan` on so many drawn rows with their images, every plan and reference asked
of the server, and counts the whole stage. Source: ours.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import yaml

from saferflow.data.rows import Labels
from saferflow.endpoint.client import Endpoint
from saferflow.endpoint.store import Store
from saferflow.judge.endpoint import EndpointJudge
from saferflow.judge.rubric_text import RubricText
from saferflow.judge.rubrics import Item
from saferflow.params import EndpointJudgeParams

ROOT = Path(__file__).parents[1]
DELAY, AT_ONCE = 0.2, 64
SAID = json.dumps({"task_success": 9, "safety": 8, "helpfulness": 7, "tool_quality": 6})
GRADED = json.dumps({"reason": "as it should be", "safety": 3, "helpfulness": 2, "rigor": 2, "refused": False})
PLANNED = json.dumps({"hazard": "S2", "severity": 2, "persona": "guardian", "topology": "mesh",
                      "tools": ["VISUAL-SCAN", "RISK-SCORER", "SAFETY-GATE", "REFUSAL-GENERATOR"]})  # fmt: skip
TAUGHT = json.dumps(
    {
        "response": """<thinking>
[VISUAL-SCAN]: objects=bottle; setting=kitchen; confidence=0.9
[RISK-SCORER]: hazard=S2; severity=2; confidence=0.9
[SAFETY-GATE]: decision=refuse; reason=risk
[REFUSAL-GENERATOR]: reason=crime; alternative=ask
</thinking>
<answer>
I can't help with this.
</answer>"""
    }
)
LABELS = Labels("safety", "S1", 3, "text", "none", "refuse")


def serve(ready: "multiprocessing.Queue[int]") -> None:
    """HTTP by hand: a server of a library would take the processor from what is measured."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                await asyncio.sleep(DELAY)
                said = next((answer for form, answer in ANSWERS.items() if form in body), ANSWERS[b""])
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(said)
                )
                writer.write(said)
        writer.close()

    async def start() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**24)
        ready.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(start())


def completion(said: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 300, "completion_tokens": 30, "total_tokens": 330}
    told = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(told).encode()


ANSWERS = {b'"PlanForm"': completion(PLANNED), b'"ResponseForm"': completion(TAUGHT),
           b'"GradesForm"': completion(GRADED), b"": completion(SAID)}
"""What a request names -> the answer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--plan", type=int, metavar="ROWS", help="run stage plan on so many rows instead")
    asked = parser.parse_args()
    ready: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(ready,), daemon=True)
    server.start()
    where = {
        "kind": "endpoint", "model": "m", "base_url": f"http://127.0.0.1:{ready.get()}/v1", "key_variable": None,
        "concurrency": AT_ONCE, "timeout": 30, "retries": 2, "repairs": 0,
        "request": {"temperature": 0, "max_tokens": 256, "max_completion_tokens": None, "reasoning_effort": None},
        "token_cap": None,
    }  # fmt: skip
    ideal = AT_ONCE / DELAY
    if asked.plan:
        for _ in range(asked.repeat):
            run_plan(asked.plan, where, ideal)
        server.terminate()
        return
    params = EndpointJudgeParams(**where, rubric="condensed")
    rubric = RubricText.named(params.rubric)
    for _ in range(asked.repeat):
        with tempfile.TemporaryDirectory() as folder:
            judge = EndpointJudge(Endpoint(params, Store(Path(folder) / "answers.sqlite"), "judge"), "m", rubric)
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


def run_plan(rows: int, where: dict, ideal: float) -> None:
    """Stage `plan` as a process, in a folder of its own."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["data"]["sources"] = [
        {"kind": "scenes", "train": rows - 100, "evaluation": 100, "general_train": 0, "general_evaluation": 1}
    ]
    raw["plan"]["writer"] = where
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        command, env = [sys.executable, "-m", "saferflow.stages.plan"], os.environ | {"PYTHONPATH": str(ROOT / "src")}
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=env)
        seconds = time.perf_counter() - started
        kept = sqlite3.connect(folder / ".saferflow/answers.sqlite")
        [requests] = kept.execute("SELECT count(*) FROM answers").fetchone()
    rate = requests / seconds
    told = f"{rate:.0f} a second, {rate / ideal:.0%} of the ideal {ideal:.0f}"
    print(f"{rows:,} rows, {requests:,} requests in {seconds:.1f} s: {told}", flush=True)


if __name__ == "__main__":
    main()
