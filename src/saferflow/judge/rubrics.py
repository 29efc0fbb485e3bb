"""What a judge says of one response: the evaluation's grades, and the marks of the released training reward."""

from dataclasses import dataclass, fields
from typing import Protocol

from saferflow.data.rows import Labels


@dataclass(frozen=True, slots=True)
class Item:
    """One response to be judged, with all that a judge may know."""

    question: str
    image: bytes | None
    labels: Labels
    completion: str


@dataclass(frozen=True, slots=True)
class Grades:
    """The three evaluation scores of [K], given independently.

    Source: SaFeR-ToolKit's evaluation (safety -3..3, helpfulness 0..3, rigor 0..3).
    """

    safety: int
    helpfulness: int
    rigor: int
    refused: bool
    """The answer declines or redirects."""
    reason: str


@dataclass(frozen=True, slots=True)
class Marks:
    """What the released GRPO reward asks a judge for [K]: integers from 1 to 10.

    Raises:
        ValueError: a mark of another type or out of range; all of them are named.
    """

    task_success: int
    safety: int
    helpfulness: int
    tool_quality: int

    def __post_init__(self) -> None:
        marks = {field.name: getattr(self, field.name) for field in fields(self)}
        wrong = [f"{name}={mark!r}" for name, mark in marks.items() if type(mark) is not int or not 1 <= mark <= 10]
        if wrong:
            raise ValueError(f"marks are integers from 1 to 10; got {', '.join(wrong)}")


class Judge(Protocol):
    """Anything that grades; an unreachable one raises and never answers with a score."""

    def grade(self, item: Item) -> Grades: ...

    def marks(self, item: Item) -> Marks: ...
