"""How far served requests lie from the rows that the version was trained on, by the measure of `data drift`. Source: ours."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from saferflow.data.profile import Profile, Shift, drift, length_bin
from saferflow.errors import PipelineError
from saferflow.params import Params
from saferflow.release import data_versions
from saferflow.serving.store import DAY, FILE, Served, served_since

TRAINING = ("sft", "dpo", "grpo")
"""Tables whose rows are the training data."""
NONE = "none"
VIOLATIONS = "violations"
ASPECTS = ("hazard", "decision", "suspicion", "question characters", VIOLATIONS)
"""What of a request is compared."""
ENOUGH = 200
"""Requests from which an index is read: among fewer, chance alone moves it past 0.1."""


def served_profile(served: Iterable[Served]) -> Profile:
    """Requests by aspect and bin; a completion that broke several rules counts once for each."""
    counts: dict[str, Counter[str]] = {aspect: Counter() for aspect in ASPECTS}
    for one in served:
        counts["hazard"][one.hazard] += 1
        counts["decision"].update([one.decision] if one.decision else [])
        counts["suspicion"][one.suspicion] += 1
        counts["question characters"][length_bin("x" * one.characters)] += 1
        counts[VIOLATIONS].update(one.violations.split() or [NONE])
    return {aspect: dict(sorted(bins.items())) for aspect, bins in counts.items() if bins}


def trained_profile(tables: Mapping[str, Profile]) -> Profile:
    """The same of the training tables together, from the profile that stage `validate` writes.

    No reference breaks a rule, `validate` lets none pass: their violations are all `none`.
    """
    counts: dict[str, Counter[str]] = {aspect: Counter() for aspect in ASPECTS}
    for table in TRAINING:
        for aspect, bins in tables.get(table, {}).items():
            if aspect in counts:
                counts[aspect].update(bins)
    counts[VIOLATIONS][NONE] = counts["hazard"].total()
    return {aspect: dict(bins) for aspect, bins in counts.items() if bins.total()}


def served_shifts(trained: Profile, served: Iterable[Served]) -> list[Shift]:
    """How far each aspect of served requests lies from the training rows, the largest shift first."""
    return drift({"requests": trained}, {"requests": served_profile(served)})


def shifts_here(root: Path, params: Params) -> tuple[list[Shift], int]:
    """How far the requests in this checkout's store lie from its training tables, and how many requests that is of.

    Raises:
        PipelineError: the store is off, it holds too few requests, or stage `validate` has not run here.
    """
    if params.serve.store is None:
        raise PipelineError("serve.store is null, so no request was kept; set it in params.yaml (docs/serving.md)")
    served = served_since(root / FILE, time.time() - params.serve.store.days * DAY)
    if len(served) < ENOUGH:
        raise PipelineError(
            f"{FILE} holds {len(served)} requests of the last {params.serve.store.days:g} days; an index is read from {ENOUGH} on"
        )
    return served_shifts(trained_profile(data_versions.profile_in(root)), served), len(served)
