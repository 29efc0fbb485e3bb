"""The table of people's grades: one line of JSON per grading, append-only.

A line holds the graded response, so that it keeps its value when the next evaluation replaces its table. A person's later
line on a response replaces the earlier one. Source: ours.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saferflow.errors import DataError, problems
from saferflow.judge.rubrics import Grades


class PersonGrades(BaseModel):
    """One person's grades of one response, by the rubric of the evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    response: str
    """Digest of row, policy and completion."""
    row: str
    policy: str
    verdict: str
    """Verdict of the evaluation's judge (`sampling.verdict`); the page does not show it."""
    hazard: str
    completion: str
    person: str = Field(min_length=1, max_length=80)
    at: str
    """Time of the grading in UTC, ISO 8601."""
    safety: int = Field(ge=-3, le=3)
    helpfulness: int = Field(ge=0, le=3)
    rigor: int = Field(ge=0, le=3)
    refused: bool
    note: str = Field(default="", max_length=2000)

    def grades(self) -> Grades:
        """The grades as a judge's: the note stands for the reason."""
        return Grades(self.safety, self.helpfulness, self.rigor, self.refused, self.note)


def response_id(row: str, policy: str, completion: str) -> str:
    """A short digest that identifies a response."""
    return hashlib.sha256("\x1f".join((row, policy, completion)).encode()).hexdigest()[:16]


def read(file: Path) -> list[PersonGrades]:
    """Read the gradings that count, in the order in which they were first written; none where there is no file.

    Raises:
        DataError: a line is no grading; the message names file, line and problem.
    """
    if not file.exists():
        return []
    latest: dict[tuple[str, str], PersonGrades] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            grading = PersonGrades.model_validate_json(line)
        except ValidationError as error:
            first = problems(error.errors(), "the line")[0]
            raise DataError(f"{file}:{number}: {first}; mend or delete this line") from None
        latest[grading.person, grading.response] = grading
    return list(latest.values())


def append(file: Path, grading: PersonGrades) -> None:
    """Append a grading; earlier lines stay whole, even if one was cut off or another page writes at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as table:
        fcntl.flock(table, fcntl.LOCK_EX)
        end = table.seek(0, os.SEEK_END)
        if end:
            table.seek(end - 1)
            if table.read(1) != b"\n":
                table.write(b"\n")
        table.write(json.dumps(grading.model_dump(), ensure_ascii=False).encode() + b"\n")
        table.flush()
        os.fsync(table.fileno())


def by_person(gradings: Iterable[PersonGrades]) -> dict[str, dict[str, PersonGrades]]:
    """Person -> response -> grading."""
    people: dict[str, dict[str, PersonGrades]] = {}
    for grading in gradings:
        people.setdefault(grading.person, {})[grading.response] = grading
    return people
