"""A user's own rows: JSON Lines or Parquet files, or what `datasets` saved, with their images inside or beside them.

Our names: `id`, `image`, `question`, and the optional `answer`, `kind`, `expected` (refuse, comply), `decision` (one of
the four; wins over `expected`), `hazard` (S1..S14 or none) and `severity` (0..3). `fields` of the source says under which
name a file holds them, `hazards` which of its words for a hazard stands for which of ours; any other word counts as not
given. Where a row says neither `expected` nor `decision`, its hazard is its label, marked as `mapped`: what is none is
answered, S6 and S11 are redirected, the others refused. A severity alone is no label.
A row without an id gets one from its content. Source: ours.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saferflow.data.images import take_image
from saferflow.data.origins import mapped
from saferflow.data.records import Found, Record, json_lines, parquet_rows, saved_rows
from saferflow.data.rows import Labels, Row, content_id
from saferflow.errors import DataError
from saferflow.params import DataParams, OwnSource
from saferflow.protocol.hazards import HAZARDS, NONE
from saferflow.protocol.tools import DECISIONS
from saferflow.rng import rng

NAMES = ("id", "image", "question", "answer", "kind", "expected", "decision", "hazard", "severity")
EXPECTED = {"refuse": "refuse", "comply": "answer"}
READERS = {"jsonl": json_lines, "parquet": parquet_rows}


def own_records(source: OwnSource) -> Found:
    """What the source's files hold, record by record.

    Raises:
        DataError: the path or the mapping of fields or hazards is wrong.
    """
    if unknown := sorted(set(source.fields) - set(NAMES)):
        raise DataError(f"data.sources fields name {', '.join(unknown)}; known are {', '.join(NAMES)}")
    check_hazards(source.hazards)
    path = Path(source.path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; change data.sources")
    if source.kind == "datasets":
        return saved_rows(path)
    return (record for file in _files(path, source.kind) for record in READERS[source.kind](file))


def check_hazards(mapping: dict[str, str]) -> None:
    """Refuse a mapping to hazards that there are none of."""
    if wrong := sorted(set(mapping.values()) - {*HAZARDS, NONE}):
        raise DataError(f"data.sources hazards name {', '.join(wrong)}; known are {', '.join(HAZARDS)} and {NONE}")


def _files(path: Path, kind: str) -> Iterator[Path]:
    files = [path] if path.is_file() else sorted(file for file in path.glob(f"*.{kind}") if file.is_file())
    if not files:
        raise DataError(f"{path}: no *.{kind} file in this folder; put one there or change data.sources")
    return iter(files)


def own_row(record: Record, source: OwnSource, data: DataParams, seed: int) -> Row:
    """A record as a row.

    Raises:
        DataError: saying what is wrong with it.
    """
    value = {name: record.values.get(source.fields.get(name, name)) for name in NAMES}
    file = Path(source.path) if source.kind == "datasets" else Path(record.file)
    root = file if source.kind == "datasets" else file.parent
    given = _text(value, "id", source)
    question = _text(value, "question", source, required=True)
    image = take_image(value["image"], root=root, max_bytes=data.max_image_bytes, max_pixels=data.max_image_pixels)
    identifier = given or content_id(file.stem, question, image)
    evaluation = rng(seed, "split", identifier).random() < source.evaluation_share
    return Row(
        id=identifier,
        source=file.stem,
        split="evaluation" if evaluation else "train",
        question=question,
        image=image,
        labels=_labels(value, source),
        answer=_text(value, "answer", source),
        licence=source.licence or "",
    )


def _text(value: dict[str, Any], name: str, source: OwnSource, *, required: bool = False) -> str:
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


def _labels(value: dict[str, Any], source: OwnSource) -> Labels | None:
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
        return mapped(hazard, severity)
    harmful = decision in ("refuse", "redirect")
    if hazard not in (*HAZARDS, NONE) or (hazard == NONE and harmful):
        hazard = ""
    if severity is None:
        severity = 2 if harmful else 1
    severity = 0 if hazard in (NONE, "") and not harmful else max(severity, 1)
    return Labels("safety", hazard, severity, "none" if decision == "answer" else "text", "none", decision)


def _severity(value: dict[str, Any], source: OwnSource) -> int | None:
    found = value["severity"]
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= 3):
        field = source.fields.get("severity", "severity")
        raise DataError(f"field {field!r} is {json.dumps(found)[:80]}; 0, 1, 2 or 3 is expected")
    return found


def _choice(value: dict[str, Any], name: str, source: OwnSource, choices: tuple[str, ...]) -> str:
    found = _text(value, name, source)
    if found and found not in choices:
        raise DataError(
            f"field {source.fields.get(name, name)!r} is {found!r}; one of {', '.join(choices)} is expected"
        )
    return found
