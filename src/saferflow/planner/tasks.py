"""The interface of a writer of labels, plans and reference responses.

A failure is a text with the reason in place of the result; the stage moves such rows to quarantine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from saferflow.data.rows import Labels, Row
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response


@dataclass(frozen=True, slots=True)
class Task:
    """A reference response to write."""

    row: Row
    image: bytes | None
    plan: Plan
    labels: Labels
    answer: str = ""
    """The answer that the row's source brings, to keep word for word; empty where the writer words it."""


class Writer(Protocol):
    """All methods return results in the order of their arguments."""

    name: str
    """`rules`, or the model."""

    def labels(self, questions: Sequence[tuple[str, bytes | None]]) -> list[Labels | str | None]:
        """Labels for each question and image; None where the writer cannot know."""

    def plans(self, questions: Sequence[tuple[str, bytes | None]]) -> list[Plan | str]:
        """A plan for each question and image, without any label."""

    def references(self, tasks: Sequence[Task]) -> list[Response | str]:
        """A response that follows its plan, for each task."""
