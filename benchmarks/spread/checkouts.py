"""A checkout for each run, with its own parameters and arithmetic, and a DVC cache that all of them share.

A stage that computes with torch gets one more dependency, `arithmetic.json`: DVC then restores it from another run only where
settings and digits are the same too, as between two variants of the recipe. `plan` and `validate` compute without torch and
come out the same under every arithmetic. Source: ours.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.spread.arithmetics import environment_of
from benchmarks.spread.runs import Benchmark, Run
from saferflow.errors import PipelineError
from saferflow.params import read_values
from saferflow.stages.metrics import write_json
from saferflow.tracking import environment

ANY_ARITHMETIC = ("plan", "validate")
"""Stages that come out the same under every arithmetic."""
ARITHMETIC = Path("arithmetic.json")


def clone(source: Path, commit: str, folder: Path) -> None:
    """A clone at a commit; it appears whole or not at all."""
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for command in (["clone", "-q", str(source), "."], ["checkout", "-q", "--detach", commit]):
        done = subprocess.run(["git", *command], cwd=partial, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PipelineError(f"git {command[0]} of {source} at {commit} failed: {done.stderr.strip()}")
    partial.rename(folder)


def prepare(benchmark: Benchmark, run: Run, folder: Path) -> None:
    """A checkout for a run: its parameters, its arithmetic, the shared cache, and nothing of other runs."""
    fresh = folder.with_name(f"{folder.name}.fresh")
    if fresh.exists():
        shutil.rmtree(fresh)
    clone(benchmark.source, benchmark.commit, fresh)
    params = read_values(fresh / benchmark.params)
    (fresh / "params.yaml").write_text(yaml.safe_dump(changed(params, run.changes), sort_keys=False), encoding="utf-8")
    write_json(fresh / ARITHMETIC, {"settings": dict(run.arithmetic.settings), "digits": run.arithmetic.digest})
    pipeline = yaml.safe_load((fresh / "dvc.yaml").read_text(encoding="utf-8"))
    for name, stage in pipeline["stages"].items():
        if name not in ANY_ARITHMETIC:
            stage["deps"] = [*stage.get("deps", ()), str(ARITHMETIC)]
    (fresh / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    for file in (fresh / "dvc.lock", *fresh.glob("metrics/*.json")):
        file.unlink(missing_ok=True)
    # relative to the file itself, so that the benchmark's folder can be moved
    (fresh / ".dvc" / "config.local").write_text("[cache]\n    dir = ../../../cache\n", encoding="utf-8")
    fresh.rename(folder)


def changed(params: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with values set by their dotted names."""
    params = json.loads(json.dumps(params))
    for name, value in changes.items():
        *path, last = name.split(".")
        node = params
        for part in path:
            node = node[part]
        node[last] = value
    return params


def stage_environment(run: Run, checkout: Path, shell: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run's stages, as the flow gives it, under the run's arithmetic."""
    env = environment_of(run.arithmetic.settings, shell)
    env |= {"PYTHONPATH": str(checkout / "src"), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{shell.get('PATH', '')}"
    environment.prepare(env, root=checkout)
    environment.offline(env)
    return env
