"""Runs DVC experiments: the pipeline with other parameters, in a folder that shares the cache with this checkout."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from saferflow.errors import PipelineError
from saferflow.tracking.graph import DVC, LOADER


def name_of(root: Path, what: str, changes: Mapping[str, Any]) -> str:
    """The name of an experiment: equal for equal pipeline and changes, so that a finished one is found again."""
    lock = (root / "dvc.lock").read_bytes()
    digest = hashlib.sha256(lock + json.dumps(changes, sort_keys=True).encode()).hexdigest()
    return f"{what}-{digest[:8]}"


def command(name: str, changes: Mapping[str, Any]) -> list[str]:
    """The command that runs the experiment; stages that it shares with this checkout come from the cache."""
    return [
        *DVC,
        "exp",
        "run",
        "--temp",
        "--name",
        name,
        *(part for override in overrides(changes) for part in ("-S", override)),
    ]


def overrides(changes: Mapping[str, Any]) -> list[str]:
    """The changes in the grammar of DVC's `-S`, which is Hydra's; a mapping is set to null first, or Hydra would merge it."""
    lines = []
    for key, value in changes.items():
        lines += [f"{key}=null"] if isinstance(value, Mapping) else []
        lines.append(f"{key}={_override(value)}")
    return lines


def revision(root: Path, name: str) -> str | None:
    """The commit of a finished experiment; None where none has that name."""
    refs = _output(root, ["git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"])
    return next((line.split()[0] for line in refs.splitlines() if line.endswith(f"/{name}")), None)


def lock(root: Path, revision: str) -> dict[str, dict[str, Any]]:
    """Stage -> its entry of dvc.lock in an experiment's commit.

    Raises:
        PipelineError: this checkout does not have the commit.
    """
    return yaml.load(_output(root, ["git", "show", f"{revision}:dvc.lock"]), LOADER)["stages"]  # noqa: S506 a safe loader


def fetch(root: Path, revision: str, path: str, to: Path) -> Path:
    """Copy a stage's output of the experiment to `to`.

    Raises:
        PipelineError: neither the cache nor a remote has it.
    """
    _output(root, [*DVC, "get", "-q", "-f", "--rev", revision, "-o", str(to), str(root), path])
    return to


def _override(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{str(key).replace(':', chr(92) + ':')}:{_override(item)}" for key, item in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_override, value)) + "]"
    return json.dumps(value)


def _output(root: Path, command: list[str]) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
