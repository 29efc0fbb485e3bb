"""Row types to Parquet and back. A file appears whole or not at all."""

import os
import tempfile
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from saferflow.errors import DataError

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes | None: pa.binary()}

R = TypeVar("R")


def schema(row_type: type) -> pa.Schema:
    """The Arrow schema of a row type; only an image may be null."""
    hints = get_type_hints(row_type)
    return pa.schema([pa.field(f.name, _ARROW[hints[f.name]], nullable=f.name == "image") for f in fields(row_type)])


def write_table(path: Path, rows: Iterable[R], row_type: type[R]) -> None:
    """Write rows as Parquet by an atomic rename; equal rows give equal bytes."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema(row_type))
    with atomic(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_table(path: Path, row_type: type[R]) -> list[R]:
    """Read a table that `write_table` wrote.

    Raises:
        DataError: the file is missing, truncated, or of other columns.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a readable Parquet table ({error}); run `saferflow run` to make it") from None
    names = [f.name for f in fields(row_type)]
    if table.column_names != names:
        raise DataError(f"{path}: columns are {table.column_names}, expected {names}; run `saferflow run` to remake it")
    return [row_type(**row) for row in table.to_pylist()]


@contextmanager
def atomic(path: Path):
    """Give a temporary path beside `path` that becomes `path` when the block ends well, and goes otherwise."""
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
