"""The ledger: every change of a registered model's aliases, as a line that holds the hash of the line before it.

MLflow keeps where an alias points, not where it pointed. The lines are tags of the registered model, so that every checkout
that shares the registry reads and writes the same ones; a promotion, which moves two aliases, is one line. A changed, lost or
inserted line breaks the chain; lines taken off its end are noticed by every checkout that had seen them (`Witness`).
Source: ours.
"""

import getpass
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from saferflow.errors import PipelineError

KEY = "saferflow.ledger."
"""Prefix of a line's tag; the line's number follows in six digits."""
DONE = "saferflow.ledger_done"
"""Tag with the hash of the last line whose moves are all carried out."""
START = "0" * 64
"""The `previous` hash of the first line, and the value of `DONE` before any line."""

Moves = dict[str, tuple[int | None, int | None]]
"""Alias -> (the version that it pointed to, the version that it points to now); None stands for no version."""


@dataclass(frozen=True, slots=True)
class Line:
    """A change of aliases."""

    moves: Moves
    reason: str
    time: str
    by: str
    previous: str
    """Hash of the line before."""

    @property
    def hash(self) -> str:
        """SHA-256 of the line's fields as sorted JSON, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The line with its hash, as the tag holds it."""
        return json.dumps({**asdict(self), "hash": self.hash}, ensure_ascii=False)


def line_after(lines: list[Line], moves: Moves, reason: str) -> Line:
    """The next line, with the current time and user."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Line(moves, reason, now, user(), lines[-1].hash if lines else START)


def user() -> str:
    """The current user's name, or `uid<number>` if the system has no name for it, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry in passwd; OSError from Python 3.13 on
        return f"uid{os.getuid()}"


def key(number: int) -> str:
    """The tag of a line, by its number from 1."""
    return f"{KEY}{number:06d}"


def read(tags: Mapping[str, str]) -> list[Line]:
    """The lines among a model's tags, the oldest first.

    Raises:
        PipelineError: a line was changed, lost or inserted; the message names it.
    """
    lines: list[Line] = []
    numbered = sorted((name, text) for name, text in tags.items() if name.startswith(KEY))
    for number, (name, text) in enumerate(numbered, 1):
        if name != key(number):
            raise PipelineError(_damaged(number, "it is missing"))
        try:
            body = json.loads(text)
            digest = body.pop("hash")
            line = Line(
                **{**body, "moves": {alias: (before, after) for alias, (before, after) in body["moves"].items()}}
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PipelineError(_damaged(number, "it is no line of a ledger")) from None
        if line.hash != digest:
            raise PipelineError(_damaged(number, "it is not what was written"))
        if line.previous != (lines[-1].hash if lines else START):
            raise PipelineError(_damaged(number, "it does not follow the line before it"))
        lines.append(line)
    return lines


def _damaged(number: int, what: str) -> str:
    return f"ledger line {number}: {what}; set tag {key(number)} of the registered model from a backup of the registry"


@dataclass(frozen=True, slots=True)
class Witness:
    """What this checkout has seen of a ledger, since no single line proves that the ledger is append-only."""

    file: Path
    name: str
    """Of the ledger: the registry's address and the model."""

    def check(self, lines: list[Line]) -> None:
        """Refuse a ledger that has lost lines that this checkout has seen, and remember its current end.

        Raises:
            PipelineError: lines were taken off its end, or replaced.
        """
        known = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
        count, last = known.get(self.name, (0, START))
        if len(lines) < count or (count and lines[count - 1].hash != last):
            raise PipelineError(
                f"the ledger of {self.name} had {count} lines when this checkout last looked, and has lost some of them since; "
                f"set them from a backup of the registry, or delete {self.file} to trust what is there"
            )
        if len(lines) > count:
            known[self.name] = (len(lines), lines[-1].hash)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial = self.file.with_suffix(".partial")
            partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
            partial.replace(self.file)
