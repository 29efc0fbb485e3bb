"""DVC experiments: the pipeline with other parameters, in a folder of its own that shares the cache with this checkout."""

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
    """The same for the same pipeline and the same changes, so that what was run is found again."""
    lock = (root / "dvc.lock").read_bytes()
    digest = hashlib.sha256(lock + json.dumps(changes, sort_keys=True).encode()).hexdigest()
    return f"{what}-{digest[:8]}"


def command(name: str, changes: Mapping[str, Any]) -> list[str]:
    """What runs the experiment; stages that it shares with this checkout come from the cache."""
    return [
        *DVC,
        "exp",
        "run",
        "--temp",
        "--name",
        name,
        *(part for each in overrides(changes) for part in ("-S", each)),
    ]


def overrides(changes: Mapping[str, Any]) -> list[str]:
    """The changes in the grammar of DVC's `-S`, which is Hydra's; it would merge a mapping into the one that is there."""
    found = []
    for key, value in changes.items():
        found += [f"{key}=null"] if isinstance(value, Mapping) else []
        found.append(f"{key}={_override(value)}")
    return found


def revision(root: Path, name: str) -> str | None:
    """The commit of a finished experiment; None where there is none of that name."""
    told = _told(root, ["git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"])
    return next((line.split()[0] for line in told.splitlines() if line.endswith(f"/{name}")), None)


def lock(root: Path, revision: str) -> dict[str, dict[str, Any]]:
    """What dvc.lock says in an experiment's commit, a stage each.

    Raises:
        PipelineError: this checkout has no such commit.
    """
    return yaml.load(_told(root, ["git", "show", f"{revision}:dvc.lock"]), LOADER)["stages"]  # noqa: S506 a safe loader


def fetch(root: Path, revision: str, path: str, to: Path) -> Path:
    """A stage's output as the experiment made it.

    Raises:
        PipelineError: neither the cache nor a remote has it.
    """
    _told(root, [*DVC, "get", "-q", "-f", "--rev", revision, "-o", str(to), str(root), path])
    return to


def _override(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{str(key).replace(':', chr(92) + ':')}:{_override(each)}" for key, each in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_override, value)) + "]"
    return json.dumps(value)


def _told(root: Path, command: list[str]) -> str:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
