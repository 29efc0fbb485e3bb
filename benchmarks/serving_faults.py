"""`saferflow serve` under fire: requests that break servers, a kill, a champion that moves; no answer is lost.

    PYTHONPATH=src python benchmarks/serving_faults.py storm models/grpo --requests 10000
    PYTHONPATH=src python benchmarks/serving_faults.py kill models/grpo
    PYTHONPATH=src python benchmarks/serving_faults.py takeover models/grpo

`storm`: 5% each of broken pictures, connections cut in the body, callers who hang up, over-long texts, hostile texts; every
answer that leaves is held against its plan again, and the server's memory is read as it goes. `kill`: SIGKILL under load, and the
same command again. `takeover`: the registry's champion moves to version 2 and back under load. Exit code 1 where something was
lost. Further options go to `saferflow serve`: --backend vllm --max-model-len 1024. Source: ours.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.served.callers import Outcome, call
from benchmarks.served.project import Project, Server, serving
from benchmarks.served.traffic import ORDINARY, Request, body_of, mixed, problem, rows

SCENES, SEED, WARM = 400, 5, 0.2
"""Scenes to ask of; the seed of the mix; the share of requests after which memory counts: all that is made once is made then."""
MOST_GROWTH = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trial", choices=TRIALS)
    parser.add_argument("policy", type=Path, help="its folder")
    parser.add_argument("--requests", type=int, default=10_000, help="of storm")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--json", type=Path, help="also write the figures here, beside those of other trials")
    options, further = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name, serving(Project(Path(name), options.policy), *further) as server:
        figures = TRIALS[options.trial](server, options)
        figures["load"] = os.getloadavg()
        if figures["problems"]:
            log = next(Path(name).glob("server-*.log")).read_text(encoding="utf-8", errors="replace")
            print(log[-4000:], file=sys.stderr)
    print(json.dumps(figures, indent=1))
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps({**known, " ".join([options.trial, *further]): figures}, indent=1) + "\n")
    if figures["problems"]:
        sys.exit(f"{len(figures['problems'])} problems, see above")


def storm(base: str, count: int, callers: int, memory: Callable[[], int]) -> dict[str, Any]:
    """Figures of a mix of requests; `problems` names each answer that is lost or not as it must be.

    Args:
        memory: bytes that the server holds.
    """
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    held: list[int] = []

    def take(outcome: Outcome) -> None:
        outcomes[f"{outcome.request.kind}: {outcome.status}"] += 1
        if outcome.lost:
            problems.append(f"{outcome.request.kind}: no answer")
        elif wrong := problem(outcome.request, outcome.status, outcome.text):
            problems.append(wrong)
        if outcomes.total() % max(1, count // 100) == 0:
            held.append(memory())

    started = time.monotonic()
    asyncio.run(call(base, mixed(count, SEED, rows(SCENES)), callers, take))
    seconds = time.monotonic() - started
    begin = held[round(WARM * len(held))]
    growth = max(held[-10:]) / begin - 1
    if growth > MOST_GROWTH:
        problems.append(f"memory grew by {growth:.0%}")
    if httpx.get(f"{base}/health", trust_env=False).status_code != 200:
        problems.append("the server does not answer any more")
    megabytes = [round(size / 1e6) for size in held[:: max(1, len(held) // 10)]]
    return {
        "requests": count, "callers": callers, "seconds": round(seconds, 1), "outcomes": dict(sorted(outcomes.items())),
        "memory_growth": round(growth, 4), "memory_mb": megabytes, "problems": problems,
    }  # fmt: skip


def run_storm(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    figures = storm(server.base, options.requests, options.callers, lambda: server.memory)
    metrics = httpx.get(f"{server.base}/metrics", trust_env=False).text.splitlines()
    figures["problems"] += [line for line in metrics if line.startswith('saferflow_requests_total{status="5')]
    names = ("saferflow_requests_total", "saferflow_redrawn_total", "saferflow_withheld_total")
    return {**figures, "metrics": [line for line in metrics if line.startswith(names)]}


class Load:
    """Callers that go on until the block ends; what they got is in `outcomes`."""

    def __init__(self, base: str, callers: int):
        self.outcomes: list[Outcome] = []
        self._ended = threading.Event()
        work = call(base, self._requests(), callers, self.outcomes.append)
        self._thread = threading.Thread(target=asyncio.run, args=(work,))

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def answered(self, more: int, holds: Callable[[Outcome], bool] = lambda outcome: outcome.status == 200) -> float:
        """Wait for so many more outcomes that hold; the seconds that it took."""
        started, begin = time.monotonic(), len(self.outcomes)
        while sum(map(holds, self.outcomes[begin:])) < more:
            time.sleep(0.01)
        return time.monotonic() - started

    def _requests(self) -> Iterator[Request]:
        scenes, number = rows(SCENES), 0
        while not self._ended.is_set():
            row = scenes[number % len(scenes)]
            yield Request(ORDINARY, body_of(row.question, row.image))
            number += 1


def kill(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """SIGKILL under load, and the same command again."""
    with Load(server.base, options.callers) as load:
        load.answered(2 * options.callers)
        killed = time.monotonic()
        server.kill()
        server.start()
        up = time.monotonic()
        load.answered(2 * options.callers)
    lost = [outcome for outcome in load.outcomes if outcome.lost]
    late = [outcome for outcome in lost if outcome.started > up]
    in_flight = [outcome for outcome in lost if outcome.started < killed]
    wrong = [line for outcome in load.outcomes if not outcome.lost and (line := _problem(outcome))]
    return {
        "callers": options.callers, "answers": sum(outcome.status == 200 for outcome in load.outcomes),
        "in_flight_at_the_kill": len(in_flight), "seconds_until_it_serves_again": round(up - killed, 1),
        "problems": [*wrong, *(f"lost {o.started - up:.1f} s after the start" for o in late)],
    }  # fmt: skip


def takeover(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    """The champion moves to version 2 and back under load."""
    seconds: dict[int, float] = {}
    with Load(server.base, options.callers) as load:
        load.answered(2 * options.callers)
        for number in (2, 1):
            server.project.point_to(number)
            seconds[number] = load.answered(1, lambda outcome: f'"version":{number},' in outcome.text)  # noqa: B023 it waits
            load.answered(2 * options.callers)
    wrong = [line for outcome in load.outcomes if (line := _problem(outcome))]
    versions = Counter(json.loads(o.text)["saferflow"]["version"] for o in load.outcomes if o.status == 200)
    waits = sorted(outcome.seconds for outcome in load.outcomes)
    return {
        "callers": options.callers, "answers_by_version": dict(versions), "p50_seconds": round(statistics.median(waits), 2),
        "longest_seconds": round(waits[-1], 2), "seconds_to_the_new_version": round(seconds[2], 1),
        "seconds_back": round(seconds[1], 1), "looks_every_seconds": server.project.params.serve.follow_seconds,
        "problems": wrong,
    }  # fmt: skip


def _problem(outcome: Outcome) -> str | None:
    return "no answer" if outcome.lost else problem(outcome.request, outcome.status or 0, outcome.text)


TRIALS = {"storm": run_storm, "kill": kill, "takeover": takeover}


if __name__ == "__main__":
    main()
