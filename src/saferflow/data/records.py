"""Records of data files in the formats that corpora come in: JSON Lines, JSON, CSV, Parquet, what `datasets` saved.

A reader streams: it holds a line or a batch at a time, but for JSON. What cannot be read is a `BadRow` with its place and
reason, and the records after it are read all the same. Source: ours.
"""

import codecs
import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saferflow.data.rows import BadRow

BATCH = 64
"""Rows of a Parquet file that are held at once: they carry their images."""
WHOLE = 0
"""Number of a record that stands for its whole file."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a file holds at one place."""

    file: str
    number: int
    """Line, or row, from 1."""
    values: dict[str, Any]

    def bad(self, reason: str) -> BadRow:
        return BadRow(self.file, self.number, reason, _shown(self.values))


Found = Iterator[Record | BadRow]


def json_lines(file: Path) -> Found:
    """One object a line; lines that hold nothing are passed over."""
    try:
        with file.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                if line.strip():
                    yield _parsed(file, number, line)
    except OSError as error:
        yield _unreadable(file, error)


def _parsed(file: Path, number: int, line: bytes) -> Record | BadRow:
    content = line[:500].decode("utf-8", "replace").rstrip("\r\n")
    try:
        raw = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(str(file), number, f"not UTF-8: {error.reason} at byte {error.start}", content)
    except (ValueError, RecursionError) as error:
        return BadRow(str(file), number, f"not JSON: {error}", content)
    if not isinstance(raw, dict):
        return BadRow(str(file), number, f"a row is a JSON object; this is a {type(raw).__name__}", content)
    return Record(str(file), number, raw)


def json_document(file: Path) -> Any:
    """The whole of a JSON file, or a `BadRow` that stands for it."""
    try:
        return json.loads(file.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except OSError as error:
        return _unreadable(file, error)
    except UnicodeDecodeError as error:
        return BadRow(str(file), WHOLE, f"not UTF-8: {error.reason} at byte {error.start}", "")
    except (ValueError, RecursionError) as error:
        return BadRow(str(file), WHOLE, f"not JSON: {error}", "")


def json_objects(file: Path, entries: Iterable[Any]) -> Found:
    """Entries of a JSON document as records, numbered from 1."""
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict):
            yield Record(str(file), number, entry)
        else:
            yield BadRow(str(file), number, f"an entry is a JSON object; this is a {type(entry).__name__}", "")


def csv_rows(file: Path, columns: Iterable[str]) -> Found:
    """The rows under a header that has at least these columns; a row's number is the line on which it ends."""
    csv.field_size_limit(sys.maxsize)
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            rows = csv.DictReader(lines, strict=True)
            if missing := sorted(set(columns) - set(rows.fieldnames or ())):
                held = ", ".join(rows.fieldnames or ()) or "none"
                yield BadRow(str(file), WHOLE, f"has no column {', '.join(missing)}; its columns are {held}", "")
                return
            for row in rows:
                record = Record(str(file), rows.line_num, row)
                try:
                    "".join(value for value in row.values() if isinstance(value, str)).encode()
                except UnicodeEncodeError:
                    yield record.bad("not UTF-8")
                    continue
                whole = None not in row and None not in row.values()
                yield record if whole else record.bad(f"has not the {len(rows.fieldnames or ())} fields of the header")
    except OSError as error:
        yield _unreadable(file, error)
    except csv.Error as error:
        yield BadRow(str(file), WHOLE, f"not CSV: {error}", "")


def parquet_rows(file: Path, columns: Iterable[str] = ()) -> Found:
    """The rows of a Parquet file that has at least these columns."""
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            held = table.schema_arrow.names
            if missing := sorted(set(columns) - set(held)):
                yield BadRow(str(file), WHOLE, f"has no column {', '.join(missing)}; its columns are {held}", "")
                return
            for batch in table.iter_batches(batch_size=BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(str(file), number, values)
    except (OSError, pa.ArrowException) as error:
        yield BadRow(str(file), WHOLE, f"not a readable Parquet file, after {number} rows: {error}", "")


def saved_rows(folder: Path) -> Found:
    """The rows of a dataset, or of all its splits, that `datasets` saved to disk; images stay encoded."""
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        yield BadRow(str(folder), WHOLE, f"not readable by datasets.load_from_disk: {error}", "")
        return
    for name, split in found.items() if isinstance(found, DatasetDict) else [("", found)]:
        table = split.with_format("arrow")
        for start in range(0, len(table), BATCH):
            for number, values in enumerate(table[start : start + BATCH].to_pylist(), start + 1):
                yield Record(str(folder / name), number, values)


def _unreadable(file: Path, error: OSError) -> BadRow:
    return BadRow(str(file), WHOLE, f"cannot be read: {error.strerror or error}", "")


def _shown(values: dict[str, Any]) -> str:
    """The first of what a record holds, for the table of bad rows."""
    plain = {name: value if isinstance(value, str | int | float | bool) else f"({type(value).__name__})"
             for name, value in values.items() if value is not None}  # fmt: skip
    return json.dumps(plain, ensure_ascii=False)[:500].encode("utf-8", "replace").decode()
