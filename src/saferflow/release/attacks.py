"""Outcomes of `saferflow attack` on a registered version; the version's evaluation run keeps them for `gate.attacks`."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saferflow.errors import PipelineError
from saferflow.evaluation.adversarial import Outcome
from saferflow.evaluation.gate import Verdict, against_attack_floors
from saferflow.params import AttackFloors
from saferflow.release import registry
from saferflow.tracking import runs

FILE = "attacks.json"


def record(version: registry.Version, outcomes: Sequence[Outcome]) -> None:
    """Store the outcomes of a version; the outcomes of methods that were not tried this time stay."""
    run = version.tags.get(registry.EVALUATION_RUN)
    if run is None:
        return
    new = [asdict(outcome) for outcome in outcomes]
    methods = {entry["method"] for entry in new}
    kept = [entry for entry in recorded(version) if entry["method"] not in methods]
    runs.log_text(run, json.dumps([*kept, *new], indent=2), FILE)


def recorded(version: registry.Version) -> list[dict[str, Any]]:
    """The outcomes that `record` stored; an empty list if no attack was run on the version."""
    run = version.tags.get(registry.EVALUATION_RUN)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return json.loads(runs.fetch_artifact(run, FILE, Path(folder)).read_text(encoding="utf-8")) if run else []
        except PipelineError:
            return []


def attack_verdict(version: registry.Version, floors: AttackFloors) -> Verdict:
    """The version's recorded attacks against `gate.attacks`."""
    return Verdict(tuple(against_attack_floors(recorded(version), floors)))
