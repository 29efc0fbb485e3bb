"""Lineage of a run as tags: commit, profile, hashes of every dependency and output, the Prefect flow run."""

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saferflow.tracking.graph import lock_hash

PREFIX = "saferflow."
DIRTY = PREFIX + "git.dirty"
LOCK_HASH = PREFIX + "lock_hash"
CACHED = PREFIX + "cached"
PRODUCED_BY = PREFIX + "produced_by"
CHECKOUT = PREFIX + "checkout"
STAGE = PREFIX + "stage"
OWN_OUTPUT = ("dvc.lock", "metrics/", "logs/")
"""Files that a run itself changes; they do not count as uncommitted work."""


def checkout_id(root: Path) -> str:
    """Identify this checkout on this machine, so that checkouts with one tracking server stay apart."""
    return hashlib.sha256(f"{platform.node()}:{root.resolve()}".encode()).hexdigest()[:16]


def git_state(root: Path) -> tuple[str, bool]:
    """The commit, and whether anything but a run's own output differs from it; `("none", True)` outside git."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return "none", True
    return commit.strip(), any(not path.startswith(OWN_OUTPUT) for path in changed(root))


def changed(root: Path) -> list[str]:
    """Files that differ from the commit or that git does not know."""
    status = _git(root, "status", "--porcelain", "--untracked-files=normal") or ""
    return [line[3:].strip('"') for line in status.splitlines()]


def missing(tags: Mapping[str, str], stages: Iterable[str], *, clean_tree: bool) -> list[str]:
    """The gaps in a version's lineage, in words; empty where its lineage is complete.

    Args:
        stages: the stages behind the version.
        clean_tree: True requires that it was made from committed files.
    """
    gaps = []
    commit = tags.get(PREFIX + "git.commit", "none")
    if commit == "none":
        gaps.append("no commit")
    if clean_tree and tags.get(DIRTY) != "false":
        gaps.append("files that were not committed (commit them and run again: what is up to date is not made anew)")
    for stage in stages:
        gaps += [f"no {name} of {stage}" for name in ("lock_hash", "run") if not tags.get(f"{PREFIX}{stage}.{name}")]
    gaps += [
        f"no hash of {name.removeprefix(PREFIX + 'out.')}"
        for name, value in tags.items()
        if name.startswith(PREFIX + "out.") and not value
    ]
    return gaps


def _git(root: Path, *command: str) -> str | None:
    done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def run_tags(root: Path, profile: str, flow_run: str) -> dict[str, str]:
    """Tags of every run of one pipeline run."""
    commit, dirty = git_state(root)
    return {
        PREFIX + "git.commit": commit,
        DIRTY: str(dirty).lower(),
        PREFIX + "profile": profile,
        PREFIX + "prefect.flow_run": flow_run,
        CHECKOUT: checkout_id(root),
    }


def stage_tags(entry: dict[str, Any]) -> dict[str, str]:
    """Tags of a stage's run from its `dvc.lock` entry: one hash of the whole, and DVC's hash of each file or folder."""
    tags = {LOCK_HASH: lock_hash(entry)}
    for kind in ("deps", "outs"):
        tags |= {f"{PREFIX}{kind[:-1]}.{item['path']}": item.get("md5", "") for item in entry.get(kind, ())}
    return tags


def version_tags(entries: dict[str, dict[str, Any]], stage_runs: dict[str, str]) -> dict[str, str]:
    """Tags of a registered version: for every stage behind it, its hash, its run and the hashes of its outputs."""
    tags = {}
    for stage, entry in entries.items():
        tags[f"{PREFIX}{stage}.lock_hash"] = lock_hash(entry)
        tags |= {f"{PREFIX}out.{out['path']}": out.get("md5", "") for out in entry.get("outs", ())}
    tags |= {f"{PREFIX}{stage}.run": run for stage, run in stage_runs.items()}
    return tags
