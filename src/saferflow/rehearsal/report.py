"""The results of a rehearsal, stage by stage. Source: ours."""

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
    """The stage's process; None if it did not start."""
    error: str = ""
    rows: int = 0
    tokens: Lengths | None = None
    images: Lengths | None = None
    kinds: Kinds | None = None
    """Counted memory of a process of the rehearsal."""
    whole_kinds: Kinds | None = None
    """Counted memory of a process of the whole run."""
    gpu: float | None = None
    """Peak bytes on the GPU; None without a GPU, or if the stage does not train."""
    whole: Duration | None = None
    """Duration in the whole run; None if the stage did not come so far."""
    whole_disk: Disk | None = None

    @property
    def beyond(self) -> float:
        """Bytes beyond the counted ones: activations, libraries."""
        return max(0.0, (self.gpu or self.done.memory) - self.kinds.total) if self.kinds and self.done else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a rehearsal."""

    profile: str
    thin: bool
    checkpoint: str
    replaced: tuple[str, ...]
    tokens: int
    """The most tokens of a drawn completion."""
    parts: tuple[Part, ...]
    rows: Mapping[str, int]
    """Table -> rows of the whole run."""
    scaled: float
    """The factor from the times of a thin model to those of the whole one."""
    obstacles: tuple[tuple[str, str], ...]

    @property
    def failed(self) -> Part | None:
        """The stage that failed; None if none did."""
        return next((part for part in self.parts if part.error), None)
