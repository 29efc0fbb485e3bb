"""What a benchmark is made of: its runs, and the steps that each of them takes. Source: ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.spread.arithmetics import Arithmetic

ATTACK = "attack"
"""The step after the stages, where it is wanted."""
ATTACKS = Path("reports/attack/attacks.json")
"""What `saferflow attack` leaves in a checkout."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What all runs share."""

    out: Path
    commit: str
    profile: str
    params: Path
    """The parameter file of the profile, relative to a checkout."""
    stages: tuple[str, ...]
    attacks: int | None
    """Requests that `saferflow attack` makes into attacks in each finished run; None for no attacks."""

    @property
    def steps(self) -> tuple[str, ...]:
        return (*self.stages, ATTACK) if self.attacks else self.stages

    @property
    def source(self) -> Path:
        """The clone that the runs' checkouts are cloned from."""
        return self.out / "source"


@dataclass(frozen=True, slots=True)
class Run:
    """One seed of one variant of the recipe under one arithmetic."""

    variant: str
    seed: int
    arithmetic: Arithmetic
    changes: Mapping[str, Any]
    """Dotted name -> value in `params.yaml`, `run.seed` among them."""

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.seed}-{self.arithmetic.name}"
