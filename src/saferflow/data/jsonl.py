"""A user's own rows: JSON Lines files with their images beside them.

Our names: `id`, `image`, `question`, and the optional `answer`, `kind`, `expected` (refuse, comply), `decision` (one of
the four; wins over `expected`), `hazard` (S1..S14 or none; any other category counts as not given) and `severity`
(0..3). `fields` of the source says under which name a file holds them. Source: ours.
"""

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
    good: list[Row] = []
    bad: list[BadRow] = []
    seen: dict[str, str] = {}
    for file in _files(Path(source.path)):
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = _row(line, file, source, data, seed)
                if row.id in seen:
                    raise DataError(f"id {row.id!r} stands in {seen[row.id]} already")
            except DataError as error:
                bad.append(BadRow(str(file), number, str(error), line[:500].decode("utf-8", "replace")))
                continue
            seen[row.id] = f"{file}:{number}"
            good.append(row)
    if not good:
        reasons = f"; first: {bad[0].file}:{bad[0].line}: {bad[0].reason}" if bad else ""
        raise DataError(f"{source.path}: no readable row among {len(bad)}{reasons}")
    return good, bad


def bad_rows_error(bad: list[BadRow]) -> DataError:
    """All unreadable rows as one error that names the ways out."""
    lines = [f"  {row.file}:{row.line}: {row.reason}" for row in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"  and {len(bad) - SHOWN} more")
    return DataError(
        f"{len(bad)} rows cannot be read:\n" + "\n".join(lines) + "\nmend them, or set data.on_bad_row: quarantine"
    )


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise DataError(f"{path}: no *.jsonl file in this folder; put one there or change data.sources")
        yield from files
    else:
        raise DataError(f"{path}: no such file or folder; change data.sources")


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
        image=read_image(
            image, root=file.parent, max_bytes=data.max_image_bytes, max_pixels=data.max_image_pixels
        )
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
    if not decision:
        return None
    severity = value["severity"] if value["severity"] is not None else 0
    if isinstance(severity, bool) or not isinstance(severity, int) or not 0 <= severity <= 3:
        raise DataError(f"field 'severity' is {json.dumps(severity)[:80]}; 0, 1, 2 or 3 is expected")
    hazard = value["hazard"] if value["hazard"] in (*HAZARDS, NONE) else ""
    if hazard == NONE and decision in ("refuse", "redirect"):
        hazard = ""
    if hazard and hazard != NONE:
        severity = max(severity, 1)
    return Labels("safety", hazard, severity, "none" if decision == "answer" else "text", "none", decision)


def _choice(value: dict[str, Any], name: str, source: JsonlSource, choices: tuple[str, ...]) -> str:
    found = _text(value, name, source)
    if found and found not in choices:
        raise DataError(f"field {source.fields.get(name, name)!r} is {found!r}; one of {', '.join(choices)} is expected")
    return found
