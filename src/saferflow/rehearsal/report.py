"""What a rehearsal showed, stage by stage. Source: ours."""

from collections.abc import Mapping
from dataclasses import dataclass

from saferflow.rehearsal.memory import Kinds
from saferflow.rehearsal.pace import Duration
from saferflow.rehearsal.process import Done
from saferflow.rehearsal.tables import Lengths
from saferflow.rehearsal.whole import Disk


@dataclass(frozen=True, slots=True)
class Part:
    """One rehearsed stage."""

    stage: str
    done: Done | None
    """None where it did not start."""
    error: str = ""
    rows: int = 0
    tokens: Lengths | None = None
    images: Lengths | None = None
    kinds: Kinds | None = None
    """By counts, in the rehearsal."""
    whole_kinds: Kinds | None = None
    """By counts, in a process of the whole run."""
    gpu: float | None = None
    """Bytes on the GPU, at most, where there is one and the stage trains."""
    whole: Duration | None = None
    """None where the stage did not come so far."""
    whole_disk: Disk | None = None

    @property
    def beyond(self) -> float:
        """Bytes that are not counted: activations, libraries."""
        return max(0.0, (self.gpu or self.done.memory) - self.kinds.total) if self.kinds and self.done else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a rehearsal showed."""

    profile: str
    thin: bool
    checkpoint: str
    replaced: tuple[str, ...]
    tokens: int
    """Of a completion that was drawn, at most."""
    parts: tuple[Part, ...]
    rows: Mapping[str, int]
    """Of the whole run."""
    scaled: float
    """By how much the times of a thin model were multiplied."""
    obstacles: tuple[tuple[str, str], ...]

    @property
    def failed(self) -> Part | None:
        return next((part for part in self.parts if part.error), None)
