"""The looks at a policy while it trains, read from the trainer's log: which is the best, and how long nothing was better.

The log is in every checkpoint, so that a run that goes on from one knows the looks before it. Source: ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCORE = "watch_score"
"""The figure by which looks are compared; a look at which nothing could be graded has none."""


@dataclass(frozen=True, slots=True)
class Look:
    """The watched rows as the policy answered them after a step."""

    step: int
    figures: Mapping[str, float]
    """In percent; `SCORE` among them."""

    @property
    def score(self) -> float:
        """The figure by which looks are compared, in percent."""
        return self.figures[SCORE]


def looks(log: Sequence[Mapping[str, Any]], until: int | None = None) -> list[Look]:
    """The graded looks of a trainer's log, in the order of their steps.

    Args:
        log: `TrainerState.log_history`.
        until: the last step that counts; None for all.
    """
    entries = [entry for entry in log if SCORE in entry and (until is None or entry["step"] <= until)]
    return [Look(entry["step"], {name: entry[name] for name in entry if name != "step"}) for entry in entries]


def best(seen: Sequence[Look]) -> Look | None:
    """The look with the highest score, the earliest of equal ones; None where there is none."""
    return max(seen, key=lambda look: look.score, default=None)


def since_best(seen: Sequence[Look]) -> int:
    """How many looks came after the best one."""
    leading = best(seen)
    return len(seen) - 1 - seen.index(leading) if leading else 0
