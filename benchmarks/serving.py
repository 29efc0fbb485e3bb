"""`saferflow serve` against the bare server of transformers: answers a second and waiting times, and what plan and check cost.

    PYTHONPATH=src python benchmarks/serving.py models/grpo --json benchmarks/serving.json

Both servers run beside each other on the same weights; one works at a time, and the sides alternate. Both get the same questions
with the same pictures. The bare server gets each plan as the system prompt, as the policy was trained, and `--most` tokens at
most; the system plans by itself, and an answer ends where its grammar ends it. The callers are on the same machine.
Further options go to the system's server: --backend vllm --max-model-len 1024. Source: ours.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.served.callers import Outcome, call
from benchmarks.served.project import Project, Server, serving
from benchmarks.served.traffic import ORDINARY, Request, body_of, problem, rows
from saferflow.data.rows import Row
from saferflow.params import Params
from saferflow.planner.rules import plan_for
from saferflow.protocol.check import check

PER_CALLER = {1: 16, 8: 5, 32: 2}
"""Callers -> requests of each in a round."""
WARMING = 2
"""Requests that each side gets before the first round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="its folder")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--most", type=int, default=160, help="tokens of a bare answer")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options, further = parser.parse_known_args()
    scenes = rows(options.repeat * sum(callers * each for callers, each in PER_CALLER.items()) + WARMING)
    with tempfile.TemporaryDirectory() as name:
        project = Project(Path(name), options.policy)
        shares = overhead(options.policy, project.params, scenes[:24])
        with serving(project, *further) as system, serving(project, "--bare") as bare:
            figures = speed(system, bare, project, scenes, options.repeat, options.most)
    report = {"load": os.getloadavg(), "overhead": shares, "speed": figures}
    show(report, options.repeat)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def speed(
    system: Server, bare: Server, project: Project, scenes: list[Row], repeat: int, most: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Each side's figures by the number of callers."""
    prompt = project.params.plan.prompt_detail
    name = f"{project.model}-v1"

    def asked(side: str, row: Row) -> Request:
        if side == "system":
            return Request(ORDINARY, body_of(row.question, row.image))
        plan = plan_for(row.question, row.image).system_prompt(prompt)
        return Request(ORDINARY, body_of(row.question, row.image, plan, model=name, max_tokens=most))

    sides = {"bare": bare, "system": system}
    rounds: dict[str, dict[int, list[dict[str, float]]]] = {side: {n: [] for n in PER_CALLER} for side in sides}
    for side, server in sides.items():
        run(server, [asked(side, row) for row in scenes[-WARMING:]], 1)  # the bare server loads its model at the first request
    fresh = iter(scenes)  # no question comes twice: the system remembers how it went on
    for _ in range(repeat):
        for callers, each in PER_CALLER.items():
            batch = list(islice(fresh, callers * each))
            for side, server in sides.items():
                rounds[side][callers].append(run(server, [asked(side, row) for row in batch], callers))
    return {
        side: {str(callers): summary(measured) for callers, measured in by_callers.items()}
        for side, by_callers in rounds.items()
    }


def run(server: Server, requests: list[Request], callers: int) -> dict[str, float]:
    """One side's round.

    Raises:
        RuntimeError: a request got no answer.
    """
    outcomes: list[Outcome] = []
    started = time.perf_counter()
    asyncio.run(call(server.base, iter(requests), callers, outcomes.append))
    seconds = time.perf_counter() - started
    for outcome in outcomes:
        if outcome.status != 200 or ('"saferflow"' in outcome.text and problem(outcome.request, 200, outcome.text)):
            raise RuntimeError(f"no answer to measure: status {outcome.status}, {outcome.text[:300]}")
    waits = sorted(outcome.seconds for outcome in outcomes)
    tokens = sum(json.loads(outcome.text)["usage"]["completion_tokens"] for outcome in outcomes)
    return {
        "answers_per_second": len(outcomes) / seconds,
        "p50_seconds": statistics.median(waits),
        "p95_seconds": waits[max(0, round(0.95 * len(waits)) - 1)],
        "tokens_per_answer": tokens / len(outcomes),
    }


def summary(measured: list[dict[str, float]]) -> dict[str, Any]:
    """Mean, lowest and highest of some rounds, a figure a line."""
    return {
        name: {"mean": statistics.mean(values), "lowest": min(values), "highest": max(values), "n": len(values)}
        for name in measured[0]
        for values in [[one[name] for one in measured]]
    }


def overhead(policy: Path, params: Params, scenes: list[Row]) -> dict[str, float]:
    """Milliseconds of a lone request's parts, in this process, medians; and the share of plan and check in them."""
    from saferflow.serving.planning import Planner
    from saferflow.serving.policy import Identity, Job, LoadedPolicy, warm
    from saferflow.training.generate import Prompt

    loaded, planner = LoadedPolicy(policy, Identity("measured", 1, (), ""), params.policy), Planner(params)
    warm(loaded)
    parts: dict[str, list[float]] = {"plan": [], "draw": [], "check": []}
    for row in scenes:
        times = [time.perf_counter()]
        plan = planner.plan(row.question, row.image).plan
        prompt = Prompt(plan.system_prompt(params.plan.prompt_detail), row.question, row.image)
        times.append(time.perf_counter())
        [text] = loaded.complete([Job(plan, prompt)], None)
        times.append(time.perf_counter())
        check(plan, text)
        times.append(time.perf_counter())
        for name, begin, end in zip(parts, islice(times, 3), islice(times, 1, 4), strict=True):
            parts[name].append(1e3 * (end - begin))
    medians = {f"{name}_ms": statistics.median(values) for name, values in parts.items()}
    beside = sum(parts["plan"]) + sum(parts["check"])
    return {**medians, "share": beside / sum(parts["draw"]), "n": len(scenes)}


def show(report: dict[str, Any], repeat: int) -> None:
    table = Table("callers", "bare, answers/s", "system, answers/s", "factor", "bare p50/p95, s", "system p50/p95, s",
                  "tokens an answer")  # fmt: skip
    bare, system = report["speed"]["bare"], report["speed"]["system"]
    for callers in bare:
        sides = [bare[callers], system[callers]]
        rates = [side["answers_per_second"] for side in sides]
        table.add_row(
            callers,
            *(f"{rate['mean']:.2f} ({rate['lowest']:.2f}-{rate['highest']:.2f})" for rate in rates),
            f"{rates[1]['mean'] / rates[0]['mean']:.2f}x",
            *(f"{side['p50_seconds']['mean']:.2f} / {side['p95_seconds']['mean']:.2f}" for side in sides),
            " / ".join(f"{side['tokens_per_answer']['mean']:.0f}" for side in sides),
        )
    parts = report["overhead"]
    Console(width=150).print(
        table,
        f"means (lowest-highest) of {repeat} rounds; a lone request: plan {parts['plan_ms']:.1f} ms, draw "
        f"{parts['draw_ms']:.1f} ms, check {parts['check_ms']:.1f} ms: plan and check add {parts['share']:.1%}; "
        f"load {report['load'][0]:.1f}",
    )


if __name__ == "__main__":
    main()
