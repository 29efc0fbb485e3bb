"""`saferflow general`: measures general ability by lmms-eval, one column per policy."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.addresses import api_base, unusable_proxies
from saferflow.cli.evaluate import each_once, in_place_of, policy_folder
from saferflow.errors import PipelineError, PolicyError
from saferflow.evaluation.general import Score, command, difference, read_scores
from saferflow.params import Params
from saferflow.tracking import environment

SCORES = "general.json"
SERVER = "openai"
BACKENDS = ("qwen2_5_vl", "vllm")
INSTALL = "pip install lmms-eval==0.7.3, best into an environment of its own that --harness names (its bin/python)"


def general(
    console: Console,
    root: Path,
    params: Params,
    policies: Sequence[str],
    out: Path,
    *,
    tasks: Sequence[str],
    backend: str,
    server: str | None,
    harness: str | None,
    own_tasks: Path | None,
    limit: int | None,
) -> None:
    """Have lmms-eval evaluate each policy, and write its files and all scores to `out`.

    Args:
        policies: policies as for `evaluate`; with a server, the names under which it serves them.
        server: address of an OpenAI-compatible server with the policies; None: the harness loads them.

    Raises:
        PipelineError: lmms-eval is missing, or failed.
        PolicyError: no such policy.
        DataError: the results of lmms-eval cannot be read.
    """
    each_once(policies)
    python = harness or sys.executable
    _require(python)
    with in_place_of(out) as fresh:
        scores_by_policy: dict[str, list[Score]] = {}
        for number, name in enumerate(policies, 1):
            console.print(Text(f"[{number}/{len(policies)}] {name}: {', '.join(tasks)}"))
            place = fresh / str(number)
            if server:
                model = {"base_url": api_base(server), "model_version": name}
                _run(command(python, SERVER, model, tasks, place, own_tasks=own_tasks, limit=limit))
            else:
                with policy_folder(root, params, name) as folder:
                    model = _loaded(backend, folder.absolute(), params)
                    _run(command(python, backend, model, tasks, place, own_tasks=own_tasks, limit=limit))
            scores_by_policy[name] = read_scores(place)
        nested = {name: _nested(scores) for name, scores in scores_by_policy.items()}
        (fresh / SCORES).write_text(json.dumps(nested, indent=2), encoding="utf-8")
    console.print(_table(scores_by_policy, params))
    console.print(f"scores: {out / SCORES}; every sample: {out}/*/*/*_samples_*.jsonl")


def _loaded(backend: str, folder: Path, params: Params) -> dict[str, str]:
    """Arguments of a backend that loads the policy itself, with the image sizes that it was trained on."""
    if backend not in BACKENDS:
        raise PolicyError(f"no backend {backend}; there are {', '.join(BACKENDS)}, and --server URL")
    if backend == "vllm":
        return {"model": str(folder)}
    sizes = {"min_pixels": str(params.policy.min_pixels), "max_pixels": str(params.policy.max_pixels)}
    return {"pretrained": str(folder), **sizes}


def _require(python: str) -> None:
    try:
        there = subprocess.run([python, "-c", "import lmms_eval"], capture_output=True, env=_environ()).returncode == 0
    except OSError as error:
        raise PipelineError(f"{python}: {error.strerror}; --harness names the python of an environment") from None
    if not there:
        raise PipelineError(f"lmms-eval is not installed in the environment of {python}: {INSTALL}")


def _run(arguments: Sequence[str]) -> None:
    """Run the harness, with its progress on this terminal.

    Raises:
        PipelineError: it failed.
    """
    if status := subprocess.run(arguments, env=_environ()).returncode:
        raise PipelineError(f"lmms-eval ended with {status}; what it said stands above. It was: {' '.join(arguments)}")


def _environ() -> dict[str, str]:
    """This process's environment without telemetry and unusable proxies, and with a placeholder key if none is set."""
    usable = {name: value for name, value in os.environ.items() if name not in unusable_proxies(os.environ)}
    return {**usable, **environment.TELEMETRY_OFF, "OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY", "none")}


def _nested(scores: Sequence[Score]) -> dict[str, dict[str, dict[str, float]]]:
    tasks: dict[str, dict[str, dict[str, float]]] = {}
    for score in scores:
        tasks.setdefault(score.task, {})[score.metric] = {"value": score.value, "samples": score.samples}
    return tasks


def _table(scores_by_policy: Mapping[str, Sequence[Score]], params: Params) -> Table:
    names = list(scores_by_policy)
    table = Table(title="General ability (lmms-eval)", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("task", "metric", "samples", *names, *([f"{names[-1]} − {names[0]}"] if len(names) > 1 else [])):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    by = {name: {(score.task, score.metric): score for score in scores} for name, scores in scores_by_policy.items()}
    options = {"resamples": params.evaluate.resamples, "level": params.evaluate.level, "seed": params.run.seed}
    for key, first in by[names[0]].items():
        others = [by[name].get(key) for name in names]
        cells = ["–" if score is None else f"{score.value:.4g}" for score in others]
        if len(names) > 1 and others[-1] is not None:
            apart = difference(others[-1], first, **options)
            cells.append(
                f"{apart.value:+.3g}" + ("" if apart.low is None else f" [{apart.low:+.3g}, {apart.high:+.3g}]")
            )
        table.add_row(first.task, first.metric, str(first.samples), *cells)
    return table
