"""The pipeline as DVC sees it: the stages of `dvc.yaml`, what is stale and why, and what `dvc.lock` recorded."""

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from saferflow.errors import PipelineError
from saferflow.tracking import standing

DVC = (sys.executable, "-m", "dvc")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""A lock has a thousand lines and is read after every stage; libyaml, if installed, reads it six times as fast."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A node of `dvc.yaml`."""

    name: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: tuple[str, ...]
    """Outputs that git keeps."""
    params: tuple[str, ...]
    """Sections of `params.yaml`."""

    @property
    def makes(self) -> tuple[str, ...]:
        """All outputs: `outs` and `metrics`."""
        return self.outs + self.metrics


def load_stages(root: Path = Path()) -> dict[str, Stage]:
    """The stages in the order of the file.

    Raises:
        PipelineError: there is no `dvc.yaml` here.
    """
    file = root / "dvc.yaml"
    if not file.exists():
        raise PipelineError(f"{file.absolute()}: no such file; run in the project's folder")
    raw = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    return {
        name: Stage(
            name,
            deps=_names(stage.get("deps")),
            outs=_names(stage.get("outs")),
            metrics=_names(stage.get("metrics")),
            params=_names(stage.get("params")),
        )
        for name, stage in raw.items()
    }


def _names(entries: Iterable[str | dict[str, Any]] | None) -> tuple[str, ...]:
    return tuple(entry if isinstance(entry, str) else next(iter(entry)) for entry in entries or ())


def parents(stage: Stage, stages: dict[str, Stage]) -> set[str]:
    """The stages whose outputs `stage` reads: a dependency is an output, contains one, or lies inside one."""
    return {
        other.name
        for other in stages.values()
        if other.name != stage.name and any(_meet(dep, out) for dep in stage.deps for out in other.makes)
    }


def _meet(left: str, right: str) -> bool:
    a, b = Path(left), Path(right)
    return a == b or a in b.parents or b in a.parents


def with_followers(names: Iterable[str], stages: dict[str, Stage]) -> set[str]:
    """`names` and every stage that depends on them, directly or not."""
    reached = set(names)
    while more := {name for name, stage in stages.items() if parents(stage, stages) & reached} - reached:
        reached |= more
    return reached


def stale(root: Path = Path()) -> dict[str, tuple[str, ...]]:
    """Stage -> reasons why DVC calls it stale. A stage after a stale one may be missing here and still run.

    Raises:
        PipelineError: DVC cannot read the project.
    """
    status = json.loads(standing.status(root) or "{}")
    known = lock_entries(root)
    return {name: tuple(_reasons(changes)) if name in known else ("not run yet",) for name, changes in status.items()}


def _reasons(changes: list[str | dict[str, Any]]) -> Iterable[str]:
    for change in changes:
        if isinstance(change, str):
            yield change
            continue
        for items in change.values():
            for item, how in items.items() if isinstance(items, dict) else [(str(items), "changed")]:
                if isinstance(how, dict):
                    yield from (f"{name} {verb}" for name, verb in how.items())
                else:
                    yield f"{item} {how}"


def lock_entries(root: Path = Path()) -> dict[str, dict[str, Any]]:
    """Stage -> its entry in `dvc.lock`; empty before the first run."""
    file = root / "dvc.lock"
    if not file.exists():
        return {}
    raw = yaml.load(file.read_text(encoding="utf-8"), LOADER)  # noqa: S506 both are safe loaders
    return (raw or {}).get("stages", {})


def lock_hash(entry: dict[str, Any]) -> str:
    """A digest of a stage's command, dependencies, parameters and outputs."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def out_digest(entry: dict[str, Any], path: str) -> tuple[str, int] | None:
    """(MD5 as DVC writes it, size in bytes) of an output; None if the entry lacks it."""
    for out in entry.get("outs", ()):
        if out["path"] == path:
            return out["md5"], int(out.get("size", 0))
    return None
