"""Reads records of data files: JSON Lines, JSON, CSV, Parquet, and what `datasets` saved.

Readers stream: they hold one line or one batch at a time, except for JSON. A record that cannot be read becomes a `BadRow`
with place and reason, and reading goes on. Source: ours.
"""

import codecs
import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saferflow.data.forms import USUAL
from saferflow.data.rows import BadRow

BATCH = 64
"""Rows of a Parquet file in memory at a time: they hold their images."""
WHOLE = 0
"""Number of a record that stands for its whole file."""
CONTENT = 500
"""Most characters of a bad row that are kept."""
FIELDS = {name for names in USUAL.values() for name in names}
"""Names of row fields: an object with one of them is a row, not a document that holds rows."""
BROKEN = (OSError, EOFError, zlib.error)
"""Exceptions from reading a file that is truncated or not what its name says."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a file."""

    file: str
    number: int
    """Line or row, from 1."""
    values: dict[str, Any]

    def bad(self, reason: str) -> BadRow:
        """This record as a `BadRow` with a reason."""
        return BadRow(self.file, self.number, reason, _shown(self.values))


Found = Iterator[Record | BadRow]


def json_lines(file: Path) -> Found:
    """Yield one record per line; blank lines are skipped."""
    try:
        with opened(file) as lines:
            for number, raw in enumerate(lines, 1):
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                if line.strip():
                    yield _parsed(file, number, line)
    except BROKEN as error:
        yield _unreadable(file, error)


def json_rows(file: Path) -> Found:
    """Yield the rows of a file that holds JSON Lines or one JSON document, whatever its ending.

    A document is a list of rows, or an object in which one field is such a list.
    """
    try:
        with opened(file) as lines:
            first, *more = [*islice((line for line in lines if line.strip()), 2), b""]
    except BROKEN as error:
        yield _unreadable(file, error)
        return
    first = first.removeprefix(codecs.BOM_UTF8).strip()
    rows = _is_row(first, alone=not any(more))
    document = json_document(file) if first and not rows else None
    if isinstance(document, BadRow) and not (first in (b"[", b"{") and any(more)):
        document = None  # lines of which the first is broken: they say where
    if document is None:
        yield from json_lines(file)
    elif isinstance(document, BadRow):
        yield document
    else:
        yield from _entries(file, document)


def _is_row(line: bytes, *, alone: bool) -> bool:
    """Whether the first line of a file is a row, and not a document or a part of one.

    Args:
        alone: no other line comes after it.
    """
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(held, dict) and not (alone and (_container(held) or _is_table(held)))


def _container(document: dict) -> str:
    """The only field of a document that is a list of rows; empty where there is none, or several."""
    lists = [
        name
        for name, value in document.items()
        if name not in FIELDS and isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value)
    ]
    return lists[0] if len(lists) == 1 and not set(document) & FIELDS else ""


def _is_table(document: dict) -> bool:
    """Whether a document holds columns, as a data frame writes them, or nothing."""
    return all(isinstance(value, dict) for value in document.values())


def _entries(file: Path, document: Any) -> Found:
    """The rows of a JSON document."""
    held = document if isinstance(document, dict) else {}
    if isinstance(document, list) and document:
        yield from json_objects(file, document)
    elif name := _container(held):
        yield from json_objects(file, held[name])
    elif held and all(isinstance(row, dict) and set(row) & FIELDS for row in held.values()):
        yield from json_objects(file, ({"id": name} | row for name, row in held.items()))
    elif not _is_table(held):
        yield Record(str(file), 1, held)
    else:
        empty = "an empty list" if document == [] else f"a {type(document).__name__}"
        names = ", ".join(str(name)[:40] for name in list(held)[:20]) or empty
        line = (
            f"import pandas; pandas.read_json('{file.name}').to_json('{file.stem}.jsonl', orient='records', lines=True)"
        )
        yield BadRow(
            str(file),
            1,
            f"a JSON list of objects is expected, or one object a line; this is {names}. Columns of a data frame: "
            f'python -c "{line}"',
            "",
        )


def opened(file: Path) -> Any:
    """Open a file for reading bytes; a file that ends with .gz is unpacked."""
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")


def _parsed(file: Path, number: int, line: bytes) -> Record | BadRow:
    content = line[:CONTENT].decode("utf-8", "replace").rstrip("\r\n")
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
    """The content of a JSON file, or a `BadRow` in its place."""
    try:
        with opened(file) as content:
            return json.loads(content.read().removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except BROKEN as error:
        return _unreadable(file, error)
    except UnicodeDecodeError as error:
        return BadRow(str(file), WHOLE, f"not UTF-8: {error.reason} at byte {error.start}", "")
    except (ValueError, RecursionError) as error:
        return BadRow(str(file), WHOLE, f"not JSON: {error}", "")


def json_objects(file: Path, entries: Iterable[Any]) -> Found:
    """Yield entries of a JSON document as records, numbered from 1."""
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, dict):
            yield Record(str(file), number, entry)
        else:
            yield BadRow(str(file), number, f"an entry is a JSON object; this is a {type(entry).__name__}", "")


def csv_rows(file: Path, columns: Iterable[str] = ()) -> Found:
    """Yield the rows of a CSV file whose header has at least these columns; a row's number is its last line.

    The separator is comma, semicolon, tab or bar, whichever the header uses.
    """
    csv.field_size_limit(sys.maxsize)
    try:
        with opened(file) as binary:
            lines = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline="")
            rows = csv.DictReader(lines, strict=True, delimiter=_delimiter(lines))
            if twice := [name for name, times in Counter(rows.fieldnames or ()).items() if times > 1]:
                yield BadRow(str(file), WHOLE, f"has several columns {', '.join(twice)[:200]}; name each otherwise", "")
                return
            if missing := sorted(set(columns) - set(rows.fieldnames or ())):
                held = ", ".join(rows.fieldnames or ()) or "none"
                yield BadRow(str(file), WHOLE, f"has no column {', '.join(missing)}; its columns are {held}", "")
                return
            for row in rows:
                record = Record(str(file), rows.line_num, row)
                try:
                    "".join(value for value in row.values() if isinstance(value, str)).encode()
                except UnicodeEncodeError:
                    yield record.bad("not UTF-8; iconv -f WINDOWS-1252 -t UTF-8 converts what a spreadsheet wrote")
                    continue
                whole = None not in row and None not in row.values()
                yield record if whole else record.bad(f"has not the {len(rows.fieldnames or ())} fields of the header")
    except BROKEN as error:
        yield _unreadable(file, error)
    except csv.Error as error:
        yield BadRow(str(file), WHOLE, f"not CSV: {error}", "")


def _delimiter(lines: io.TextIOWrapper) -> str:
    header = lines.readline()
    lines.seek(0)
    try:
        return csv.Sniffer().sniff(header, delimiters=",;\t|").delimiter
    except csv.Error:
        return ","


def parquet_rows(file: Path, columns: Iterable[str] = ()) -> Found:
    """Yield the rows of a Parquet file that has at least these columns."""
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            held = table.schema_arrow.names
            if missing := sorted(set(columns) - set(held)):
                yield BadRow(str(file), WHOLE, f"has no column {', '.join(missing)}; its columns are {held}", "")
                return
            name = _class_names(table.schema_arrow)
            for batch in table.iter_batches(batch_size=BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(str(file), number, name(values))
    except (OSError, pa.ArrowException) as error:
        yield BadRow(str(file), WHOLE, f"not a readable Parquet file, after {number} rows: {error}", "")


def saved_rows(folder: Path) -> Found:
    """Yield the rows of a dataset that `datasets` saved, all splits included; images stay encoded."""
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        yield BadRow(str(folder), WHOLE, f"not readable by datasets.load_from_disk: {error}", "")
        return
    for name, split in dataset.items() if isinstance(dataset, DatasetDict) else [("", dataset)]:
        table, named = split.with_format("arrow"), _names_of(split.features)
        for start in range(0, len(table), BATCH):
            for number, values in enumerate(table[start : start + BATCH].to_pylist(), start + 1):
                yield Record(str(folder / name), number, named(values))


Naming = Callable[[dict[str, Any]], dict[str, Any]]
"""Replaces numbers of classes in a row by their names."""


def _class_names(schema: pa.Schema) -> Naming:
    """The naming for a Parquet file by `datasets`, which stores ClassLabel columns as numbers, with the names beside."""
    if b"ClassLabel" not in (schema.metadata or {}).get(b"huggingface", b""):
        return lambda values: values
    from datasets import Features

    return _names_of(Features.from_arrow_schema(schema))


def _names_of(features: Any) -> Naming:
    from datasets import ClassLabel

    lists = {name: getattr(feature, "feature", feature) for name, feature in features.items()}
    classes = {name: feature.names for name, feature in lists.items() if isinstance(feature, ClassLabel)}

    def name_of(names: list[str], number: Any) -> Any:
        if isinstance(number, list):
            return [name_of(names, item) for item in number]
        return names[number] if isinstance(number, int) and 0 <= number < len(names) else None

    def named(values: dict[str, Any]) -> dict[str, Any]:
        return values | {name: name_of(names, values[name]) for name, names in classes.items()}

    return named


def _unreadable(file: Path, error: Exception) -> BadRow:
    return BadRow(str(file), WHOLE, f"cannot be read: {getattr(error, 'strerror', None) or error}", "")


def _shown(values: dict[str, Any]) -> str:
    """The beginning of a record's content, for the table of bad rows."""
    plain = {}
    for name, value in islice(((name, value) for name, value in values.items() if value is not None), CONTENT):
        short = value[:CONTENT] if isinstance(value, str) else value
        plain[str(name)[:CONTENT]] = (
            short if isinstance(value, str | int | float | bool) else f"({type(value).__name__})"
        )
    return json.dumps(plain, ensure_ascii=False)[:CONTENT].encode("utf-8", "replace").decode()
