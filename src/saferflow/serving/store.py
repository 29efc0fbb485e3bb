"""What was asked and answered, kept on this machine where `serve.store` says so: contents by digest, for some days. Source: ours.

One SQLite file, readable by its owner alone. What is redacted or too old is not in it: deleted contents are overwritten.
"""

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saferflow.errors import PipelineError
from saferflow.params import StoreParams

FILE = Path(".saferflow/served.sqlite")
REDACTED = "[redacted]"
"""Stands for the value of a field that `serve.store.redact` names."""
PICTURE = "sha256:"
"""Stands, with the digest behind it, for a picture in a request."""
DAY = 86_400.0
SWEEP = 600.0
"""Seconds between two looks for what is too old, while requests come."""
TABLES = """
CREATE TABLE IF NOT EXISTS contents (digest TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS exchanges (
    id TEXT PRIMARY KEY, at REAL NOT NULL, version INTEGER NOT NULL, decision TEXT NOT NULL, hazard TEXT NOT NULL,
    suspicion TEXT NOT NULL, characters INTEGER NOT NULL, violations TEXT NOT NULL,
    request TEXT NOT NULL, response TEXT NOT NULL, picture TEXT);
CREATE INDEX IF NOT EXISTS exchanges_at ON exchanges (at);
"""


@dataclass(frozen=True, slots=True)
class Served:
    """What drift counts of an exchange."""

    version: int
    decision: str
    """The gate's; empty where the answer was withheld."""
    hazard: str
    """That the trace names, else the plan's."""
    suspicion: str
    """The plan's hazard."""
    characters: int
    """Of all that the user said."""
    violations: str
    """Codes of the rules that the first completion broke, joined by spaces."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer, as they were kept."""

    id: str
    at: float
    """Seconds since 1970."""
    served: Served
    request: dict[str, Any]
    response: dict[str, Any]
    picture: bytes | None
    picture_digest: str | None
    """None where the request had no picture; with a digest and no picture, pictures were not kept."""


class Store:
    """The file; a server writes it, `saferflow incident` and the drift read it.

    Raises:
        PipelineError: the file is no such store, or may not be written.
    """

    def __init__(self, file: Path, params: StoreParams):
        self.file, self._params, self._lock, self._swept = file, params, threading.Lock(), 0.0
        with _explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
            with closing(_connect(file)) as database:
                database.executescript(TABLES)
        self.sweep()

    def keep(self, name: str, raw: bytes, picture: bytes | None, response: dict[str, Any], served: Served) -> None:
        """Keep one exchange; with the disk when this returns.

        Args:
            name: the completion's id.
            raw: the request's body, which is JSON.
            picture: the request's picture, as it came.

        Raises:
            PipelineError: the file cannot be written.
        """
        digest = picture_digest(picture)
        request = redacted(without_pictures(json.loads(raw), digest), self._params.redact)
        bodies = [_encoded(request), _encoded(redacted(response, self._params.redact))]
        keys = [hashlib.sha256(body).hexdigest() for body in bodies]
        contents = list(zip(keys, bodies, strict=True))
        contents += [(digest, picture)] if picture is not None and self._params.pictures else []
        told = (served.version, served.decision, served.hazard, served.suspicion, served.characters, served.violations)
        with self._open() as database:
            database.executemany("INSERT OR IGNORE INTO contents VALUES (?, ?)", contents)
            database.execute(
                "INSERT INTO exchanges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (name, time.time(), *told, *keys, digest),
            )
        if time.time() - self._swept > SWEEP:
            self.sweep()

    def sweep(self) -> None:
        """Delete what is older than `serve.store.days`, and contents that no exchange holds any more."""
        self._swept = time.time()
        with self._open() as database:
            _delete(database, "at < ?", self._swept - self._params.days * DAY)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with _explained(self.file), self._lock, closing(_connect(self.file)) as database, database:
            yield database


def exchange(file: Path, name: str) -> Exchange:
    """The exchange of this id.

    Raises:
        PipelineError: there is no store, or no such exchange in it.
    """
    with reading(file) as database:
        row = database.execute("SELECT * FROM exchanges WHERE id = ?", (name,)).fetchone()
        if row is None:
            raise PipelineError(
                f"{file} holds no exchange {name[:80]!r}: it was answered while serve.store was off, is older than "
                "serve.store.days, or was never answered here; bring the request as a file instead"
            )
        body = {key: _content(database, key) for key in row[-3:] if key}
    request, response, picture = row[-3:]
    told = (json.loads(body[request]), json.loads(body[response]), body.get(picture), picture)
    return Exchange(row[0], row[1], Served(*row[2:8]), *told)


def served_since(file: Path, since: float) -> list[Served]:
    """What drift counts of every exchange from a moment on, oldest first; empty where there is no store.

    Args:
        since: seconds since 1970.
    """
    if not file.exists():
        return []
    with reading(file) as database:
        rows = database.execute(
            "SELECT version, decision, hazard, suspicion, characters, violations FROM exchanges WHERE at >= ? ORDER BY at",
            (since,),
        ).fetchall()
    return [Served(*row) for row in rows]


def holds(file: Path, name: str) -> bool:
    """Whether an exchange of this id is in the store; False where there is none."""
    if not name or not file.exists():
        return False
    with reading(file) as database:
        return database.execute("SELECT 1 FROM exchanges WHERE id = ?", (name,)).fetchone() is not None


def forget(file: Path, name: str) -> bool:
    """Delete one exchange and the contents that no other holds; whether there was one."""
    if not file.exists():
        return False
    with _explained(file), closing(_connect(file)) as database, database:
        return _delete(database, "id = ?", name)


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """An open store.

    Raises:
        PipelineError: there is none, or it cannot be read.
    """
    if not file.exists():
        raise PipelineError(
            f"{file}: nothing was kept here; serve.store in params.yaml switches it on (docs/serving.md)"
        )
    with _explained(file), closing(_connect(file)) as database:
        yield database


def picture_digest(picture: bytes | None) -> str | None:
    """SHA-256 of a picture; None where there is none."""
    return hashlib.sha256(picture).hexdigest() if picture is not None else None


def without_pictures(value: Any, digest: str | None) -> Any:
    """A request with its picture's digest in the place of each data URI."""
    if isinstance(value, dict):
        return {key: without_pictures(inner, digest) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_pictures(inner, digest) for inner in value]
    is_picture = isinstance(value, str) and value[:11].casefold() == "data:image/"
    return f"{PICTURE}{digest}" if is_picture else value


def redacted(value: Any, names: tuple[str, ...]) -> Any:
    """The value with `REDACTED` in each field of these names, however deep it lies."""
    if isinstance(value, dict):
        return {key: REDACTED if key in names else redacted(inner, names) for key, inner in value.items()}
    return [redacted(inner, names) for inner in value] if isinstance(value, list) else value


def _delete(database: sqlite3.Connection, where: str, value: float | str) -> bool:
    done = database.execute(f"DELETE FROM exchanges WHERE {where}", (value,))  # noqa: S608 conditions of ours
    if done.rowcount:
        held = " UNION ".join(f"SELECT {name} FROM exchanges" for name in ("request", "response"))  # noqa: S608
        held += " UNION SELECT picture FROM exchanges WHERE picture IS NOT NULL"
        database.execute(f"DELETE FROM contents WHERE digest NOT IN ({held})")  # noqa: S608 names of ours
    return bool(done.rowcount)


def _content(database: sqlite3.Connection, digest: str) -> bytes | None:
    found = database.execute("SELECT body FROM contents WHERE digest = ?", (digest,)).fetchone()
    return bytes(found[0]) if found else None


def _connect(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=60)
    database.execute("PRAGMA secure_delete=ON")
    return database


def _encoded(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise PipelineError(
            f"{file}, where served requests are kept, cannot be used: {error!s:.200}. Mend its rights, or put it aside"
        ) from None
