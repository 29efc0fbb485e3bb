"""Every move of an alias, as a line of a file that is only appended to and whose lines are chained by their hashes.

MLflow keeps where an alias points, not where it pointed. A line is written before the alias is moved, so that a move that
was cut short can be finished; each holds the hash of the line before it, so that a changed, lost or inserted line shows.
Source: ours.
"""

import getpass
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from saferflow.errors import PipelineError

FILE = Path(".saferflow/ledger.jsonl")
START = "0" * 64
"""What the first line has for the hash of the line before it."""


@dataclass(frozen=True, slots=True)
class Move:
    """An alias went from one version to another; None stands for no version."""

    model: str
    alias: str
    before: int | None
    after: int | None
    reason: str
    time: str
    by: str


def move(model: str, alias: str, before: int | None, after: int | None, reason: str) -> Move:
    """A move made now, by whoever runs this."""
    return Move(model, alias, before, after, reason, datetime.now(UTC).isoformat(timespec="seconds"), getpass.getuser())


def append(made: Move, file: Path = FILE) -> None:
    """Add a line, flushed to the disk before this returns.

    Raises:
        PipelineError: the ledger is damaged; nothing is added to it then.
    """
    _, last = _read(file)
    body = {**asdict(made), "previous": last}
    line = json.dumps({**body, "hash": _hash(body)})
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(line + "\n")
        out.flush()
        os.fsync(out.fileno())


def read(file: Path = FILE) -> list[Move]:
    """All moves, the oldest first.

    Raises:
        PipelineError: a line is not the one that was written there; it is named.
    """
    return _read(file)[0]


def _read(file: Path) -> tuple[list[Move], str]:
    if not file.exists():
        return [], START
    moves, last = [], START
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            body = json.loads(line)
            told = body.pop("hash")
            made = Move(**{name: value for name, value in body.items() if name != "previous"})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PipelineError(_damaged(file, number, "it is no line of a ledger")) from None
        if body["previous"] != last:
            raise PipelineError(_damaged(file, number, "it does not follow the line before it"))
        if _hash(body) != told:
            raise PipelineError(_damaged(file, number, "it is not what was written"))
        moves.append(made)
        last = told
    return moves, last


def _damaged(file: Path, number: int, what: str) -> str:
    return f"{file}:{number}: {what}; take the file from a backup, or put it aside to begin a new one"


def _hash(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
