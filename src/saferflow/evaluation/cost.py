"""The cost of the stages behind a version: time, processors, energy, tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

HOUR = 3600.0
KILOWATT_HOUR = 3.6e6
"""Joules."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one stage or of all; None where nothing measured it: no GPU, no energy counter."""

    seconds: float
    cpu_hours: float | None
    gpu_hours: float | None
    kilowatt_hours: float | None
    """Energy of the used GPUs and of the machine's CPU packages."""
    tokens: int
    """Tokens of prompts and completions of judges and teachers."""


def cost_of(figures: Mapping[str, float]) -> Cost:
    """Read a stage's cost from the metrics of its MLflow run."""

    def per(name: str, unit: float) -> float | None:
        return figures[name] / unit if name in figures else None

    return Cost(
        figures.get("stage_seconds", 0.0),
        per("cost.cpu_seconds", HOUR),
        per("cost.gpu_seconds", HOUR),
        per("cost.joules", KILOWATT_HOUR),
        int(figures.get("cost.tokens", 0)),
    )


def total(costs: Mapping[str, Cost]) -> Cost:
    """The sum over stages; stages without a measurement are left out of its sum."""

    def summed(name: str) -> float | None:
        known = [value for value in (getattr(cost, name) for cost in costs.values()) if value is not None]
        return sum(known) if known else None

    return Cost(
        sum(cost.seconds for cost in costs.values()),
        summed("cpu_hours"),
        summed("gpu_hours"),
        summed("kilowatt_hours"),
        sum(cost.tokens for cost in costs.values()),
    )
