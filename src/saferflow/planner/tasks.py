"""What a writer of plans and reference responses is asked for, and how it answers.

A failure is text that says why, in the place of the plan or of the response; the stage moves such rows to quarantine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from saferflow.data.rows import Labels, Row
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response


@dataclass(frozen=True, slots=True)
class Task:
    """A reference response to be written."""

    row: Row
    image: bytes | None
    plan: Plan
    labels: Labels
    answer: str = ""
    """The answer that the row's source brings, to be kept word for word; empty where the writer words it."""


class Writer(Protocol):
    """All methods answer in the order in which they are asked."""

    name: str
    """`rules`, or the model."""

    def labels(self, asked: Sequence[tuple[str, bytes | None]]) -> list[Labels | str | None]:
        """What a safe assistant does with each question and image; None where the writer cannot know."""

    def plans(self, asked: Sequence[tuple[str, bytes | None]]) -> list[Plan | str]:
        """A plan for each question and image; no label is known here."""

    def references(self, tasks: Sequence[Task]) -> list[Response | str]:
        """A response that keeps its plan, for each task."""
