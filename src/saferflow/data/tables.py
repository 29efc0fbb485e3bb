"""Writes rows to Parquet and reads them back. A file appears whole or not at all."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TypeVar, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from saferflow.errors import DataError

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes | None: pa.binary()}

R = TypeVar("R")
GROUP = 1024
"""Rows in a Parquet row group."""


def schema(row_type: type) -> pa.Schema:
    """The Arrow schema of a row type; only an image may be null."""
    hints = get_type_hints(row_type)
    return pa.schema([pa.field(f.name, _ARROW[hints[f.name]], nullable=f.name == "image") for f in fields(row_type)])


class TableWriter:
    """Writes rows of one type to a Parquet file, with at most one group of rows in memory."""

    def __init__(self, file: Path, row_type: type):
        self._schema = schema(row_type)
        self._file = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._waiting: list = []
        self.rows = 0
        """Rows added so far."""

    def add(self, rows: Iterable) -> None:
        """Add rows; a full group is written at once."""
        for row in rows:
            self._waiting.append(row)
            self.rows += 1
            if len(self._waiting) == GROUP:
                self._write()

    def close(self) -> None:
        """Write the remaining rows and close the file; a table without rows gets an empty group."""
        if self._waiting or not self.rows:
            self._write()
        self._file.close()

    def _write(self) -> None:
        self._file.write_table(pa.Table.from_pylist([asdict(row) for row in self._waiting], schema=self._schema))
        self._waiting.clear()


@contextmanager
def table_writer(path: Path, row_type: type) -> Iterator[TableWriter]:
    """Open a writer; its file appears at `path` if the block succeeds, and not otherwise."""
    with atomic(path) as partial:
        writer = TableWriter(partial, row_type)
        yield writer
        writer.close()


def write_table(path: Path, rows: Iterable[R], row_type: type[R]) -> None:
    """Write rows as Parquet by an atomic rename; equal rows give equal bytes."""
    with table_writer(path, row_type) as writer:
        writer.add(rows)


def read_table(path: Path, row_type: type[R]) -> list[R]:
    """Read a table that `write_table` wrote; trailing columns with a default may be missing.

    Raises:
        DataError: the file is missing or truncated, or has other columns.
    """
    return [row for group in range(groups(path, row_type)) for row in read_group(path, row_type, group)]


def groups(path: Path, row_type: type) -> int:
    """The number of row groups of a table.

    Raises:
        DataError: as `read_table`.
    """
    with _opened(path) as file:
        names, held = [f.name for f in fields(row_type)], file.schema_arrow.names
        lacks = [f for f in fields(row_type)[len(held) :] if f.default is MISSING]
        if held != names[: len(held)] or lacks:
            raise DataError(f"{path}: columns are {held}, expected {names}; run `saferflow run` to remake it")
        return file.num_row_groups


def read_group(path: Path, row_type: type[R], group: int) -> list[R]:
    """Read one row group of a table, numbered from 0.

    Raises:
        DataError: the file is missing or truncated.
    """
    with _opened(path) as file:
        return [row_type(**row) for row in file.read_row_group(group).to_pylist()]


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a readable Parquet table ({error}); run `saferflow run` to make it") from None


@contextmanager
def atomic(path: Path):
    """Yield a temporary path beside `path`; it becomes `path` if the block succeeds and is deleted otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
