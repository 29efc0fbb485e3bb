"""A user's own rows: JSON Lines files with their images beside them.

Our names: `id`, `image`, `question`, and the optional `answer`, `kind`, `expected` (refuse, comply), `decision` (one of
the four; wins over `expected`), `hazard` (S1..S14 or none) and `severity` (0..3). `fields` of the source says under which
name a file holds them, `hazards` which of its words for a hazard stands for which of ours; any other word counts as not
given. A hazard or severity alone is no label: it names a topic, and says nothing of what a safe assistant should do.
Source: ours.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saferflow.data.images import read_image
from saferflow.data.rows import BadRow, Labels, Row
from saferflow.errors import DataError
from saferflow.params import DataParams, JsonlSource
from saferflow.protocol.hazards import HAZARDS, NONE
from saferflow.protocol.tools import DECISIONS
from saferflow.rng import rng

NAMES = ("id", "image", "question", "answer", "kind", "expected", "decision", "hazard", "severity")
EXPECTED = {"refuse": "refuse", "comply": "answer"}
SHOWN = 50
"""Bad rows that an error message lists."""


def read_jsonl_source(source: JsonlSource, data: DataParams, seed: int) -> tuple[list[Row], list[BadRow]]:
    """Every readable row of a source, and every other one with its reason.

    Raises:
        DataError: the path or the field mapping is wrong, or no row can be read.
    """
    unknown = sorted(set(source.fields) - set(NAMES))
    if unknown:
        raise DataError(f"data.sources fields name {', '.join(unknown)}; known are {', '.join(NAMES)}")
    if wrong := sorted(set(source.hazards.values()) - {*HAZARDS, NONE}):
        raise DataError(f"data.sources hazards name {', '.join(wrong)}; known are {', '.join(HAZARDS)} and {NONE}")
    good: list[Row] = []
    bad: list[BadRow] = []
    seen: dict[str, str] = {}
    for file in _files(Path(source.path)):
        for number, line in _lines(file):
            try:
                row = _row(line, file, source, data, seed)
                if row.id in seen:
                    raise DataError(f"id {row.id!r} stands in {seen[row.id]} already")
            except DataError as error:
                bad.append(BadRow(str(file), number, str(error), line[:500].decode("utf-8", "replace")))
                continue
            seen[row.id] = f"{file}:{number}"
            good.append(row)
    if not good and bad:
        raise DataError(f"{source.path}: no row is readable\n{bad_rows_error(bad)}")
    if not good:
        raise DataError(f"{source.path}: holds no row; put one JSON object a line into it, or change data.sources")
    return good, bad


def bad_rows_error(bad: list[BadRow]) -> DataError:
    """All unreadable rows as one error that names the ways out."""
    lines = [f"  {row.file}:{row.line}: {row.reason}" for row in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"  and {len(bad) - SHOWN} more")
    counted = "1 row" if len(bad) == 1 else f"{len(bad)} rows"
    return DataError(
        f"{counted} cannot be read:\n" + "\n".join(lines) + "\nmend them, or set data.on_bad_row: quarantine"
    )


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        files = sorted(file for file in path.glob("*.jsonl") if file.is_file())
        if not files:
            raise DataError(f"{path}: no *.jsonl file in this folder; put one there or change data.sources")
        yield from files
    else:
        raise DataError(f"{path}: no such file or folder; change data.sources")


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something, numbered from 1, without the mark that some editors put before the first."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}; change its permissions or data.sources") from None
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        if line.strip():
            yield number, line


def _row(line: bytes, file: Path, source: JsonlSource, data: DataParams, seed: int) -> Row:
    try:
        raw = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise DataError(f"a row is a JSON object; this is a {type(raw).__name__}")
    value = {name: raw.get(source.fields.get(name, name)) for name in NAMES}
    identifier = _text(value, "id", source, required=True)
    question = _text(value, "question", source, required=True)
    image = _text(value, "image", source)
    evaluation = rng(seed, "split", identifier).random() < source.evaluation_share
    return Row(
        id=identifier,
        source=file.stem,
        split="evaluation" if evaluation else "train",
        question=question,
        image=read_image(image, root=file.parent, max_bytes=data.max_image_bytes, max_pixels=data.max_image_pixels)
        if image
        else None,
        labels=_labels(value, source),
        answer=_text(value, "answer", source),
    )


def _text(value: dict[str, Any], name: str, source: JsonlSource, *, required: bool = False) -> str:
    found = value[name]
    field = source.fields.get(name, name)
    if found is None or found == "":
        if required:
            raise DataError(f"field {field!r} is missing or empty")
        return ""
    if isinstance(found, int) and not isinstance(found, bool) and name == "id":
        return str(found)
    if not isinstance(found, str) or (required and not found.strip()):
        raise DataError(f"field {field!r} is {json.dumps(found)[:80]}; text is expected")
    try:
        found.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"field {field!r} holds half a character (a lone surrogate)") from None
    return found


def _labels(value: dict[str, Any], source: JsonlSource) -> Labels | None:
    """Labels of a row, or None where it says nothing of what is expected; the hazard stays empty where not given."""
    kind = _choice(value, "kind", source, ("safety", "general")) or "safety"
    decision = _choice(value, "decision", source, DECISIONS)
    decision = decision or EXPECTED.get(_choice(value, "expected", source, tuple(EXPECTED)), "")
    answer = _text(value, "answer", source)
    if kind == "general":
        if not answer:
            raise DataError("a general row needs its answer")
        return Labels("general", NONE, 0, "none", "none", "answer", facts=((answer.rstrip(".").casefold(),),))
    hazard, severity = _text(value, "hazard", source), _severity(value, source)
    hazard = source.hazards.get(hazard, hazard)
    if not decision:
        return None
    harmful = decision in ("refuse", "redirect")
    if hazard not in (*HAZARDS, NONE) or (hazard == NONE and harmful):
        hazard = ""
    if severity is None:
        severity = 2 if harmful else 1
    severity = 0 if hazard in (NONE, "") and not harmful else max(severity, 1)
    return Labels("safety", hazard, severity, "none" if decision == "answer" else "text", "none", decision)


def _severity(value: dict[str, Any], source: JsonlSource) -> int | None:
    found = value["severity"]
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= 3):
        field = source.fields.get("severity", "severity")
        raise DataError(f"field {field!r} is {json.dumps(found)[:80]}; 0, 1, 2 or 3 is expected")
    return found


def _choice(value: dict[str, Any], name: str, source: JsonlSource, choices: tuple[str, ...]) -> str:
    found = _text(value, name, source)
    if found and found not in choices:
        raise DataError(
            f"field {source.fields.get(name, name)!r} is {found!r}; one of {', '.join(choices)} is expected"
        )
    return found
