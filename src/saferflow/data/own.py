"""A user's own rows: JSON, CSV, Parquet, WebDataset, or what `datasets` saved, with their images inside or beside them.

Our names: `id`, `image`, `question`, and the optional `answer`, `rejected` (a worse answer), `conversation` (messages),
`kind`, `expected` (refuse, comply; or unsafe, safe), `decision` (one of the four; wins over `expected`), `hazard` (S1..S14
or none), `severity` (0..3) and `held_out` (true or false; wins over the source's `evaluation_share`). `data.forms` knows the
names that TRL, LLaVA, ShareGPT and Alpaca give them. The source's `fields` maps our names to the file's, its `hazards` maps
the file's words for a hazard to our codes; any other word counts as not given.
If a row has neither `expected` nor `decision`, its hazard becomes its label, marked as `mapped`: `none` is answered, S6 and
S11 are redirected, the others refused. A severity alone is no label. A row without an id gets one from its content.
Source: ours.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saferflow.data.forms import NAMES, Reading, reading
from saferflow.data.images import take_image
from saferflow.data.origins import mapped
from saferflow.data.records import Found, Record, csv_rows, json_rows, parquet_rows, saved_rows
from saferflow.data.rows import Labels, Row, content_id, whole_question
from saferflow.data.shards import TAR, folder_rows, is_hidden, tar_rows
from saferflow.data.values import brief, is_empty, whole_number
from saferflow.errors import DataError
from saferflow.params import DataParams, OwnSource
from saferflow.protocol.hazards import HAZARDS, NONE
from saferflow.protocol.tools import DECISIONS, DECLINING
from saferflow.rng import rng

EXPECTED = {
    "refuse": "refuse", "comply": "answer", "unsafe": "refuse", "safe": "answer", "harmful": "refuse", "harmless": "answer",
}  # fmt: skip
"""Value of the field `expected` -> decision."""
READERS = {"jsonl": json_rows, "json": json_rows, "csv": csv_rows, "parquet": parquet_rows, "webdataset": tar_rows}
ENDINGS = {
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
    "parquet": (".parquet",),
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz"),
    "json": (".json", ".json.gz"),
    "webdataset": TAR,
}
"""Kind of a source -> endings of its files' names."""
SAVED = ("dataset_dict.json", "dataset_info.json")
"""Files in a folder that `datasets` saved."""
TIED = ("webdataset", "datasets")
"""Kinds whose pictures lie under the source's path, not beside the file that names them."""


def own_records(source: OwnSource) -> Found:
    """Yield the records of the source's files.

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
        return saved_rows(saved_in(path))
    files = files_of(path, source.kind)
    if source.kind == "webdataset" and not files:
        return folder_rows(path)
    if not files:
        raise DataError(
            f"{path}: no *.{source.kind} file in this folder; put one there, or change the source's kind in data.sources"
        )
    return (record for file in files for record in READERS[source.kind](file))


def files_of(path: Path, kind: str) -> list[Path]:
    """The files of a source, in order: the path itself, or all of this kind in a folder and the folders in it."""
    if path.is_file():
        return [path]
    files = (file for file in path.rglob("*") if file.name.casefold().endswith(ENDINGS[kind]) and file.is_file())
    return sorted(file for file in files if not is_hidden(str(file.relative_to(path))))


def check_hazards(mapping: dict[str, str]) -> None:
    """Refuse a mapping to unknown hazards.

    Raises:
        DataError: names the unknown hazards and the known ones.
    """
    if wrong := sorted(set(mapping.values()) - {*HAZARDS, NONE}):
        raise DataError(f"data.sources hazards name {', '.join(wrong)}; known are {', '.join(HAZARDS)} and {NONE}")


def saved_in(path: Path) -> Path:
    """The folder that `datasets` saved: the path itself, or the first such folder inside it, as archives may have it."""
    places = [place.parent for name in SAVED for place in sorted(path.rglob(name), key=lambda place: len(place.parts))]
    return path if any((path / name).exists() for name in SAVED) else next(iter(places), path)


def named_ids(source: OwnSource) -> Iterator[tuple[str, str]]:
    """Yield (id, place) for each record with an id of its own; bad records have none."""
    for record in own_records(source):
        try:
            held = reading(record.values, source.fields) if isinstance(record, Record) else None
            given = text_of(held, "id") if held else ""
        except DataError:
            continue
        if given:
            yield given, f"{record.file}:{record.number}"


def own_row(record: Record, source: OwnSource, data: DataParams, seed: int) -> Row:
    """Read a record and turn it into a row.

    Raises:
        DataError: names what is wrong with the record.
    """
    return row_of(reading(record.values, source.fields), record, source, data, seed)


def row_of(held: Reading, record: Record, source: OwnSource, data: DataParams, seed: int) -> Row:
    """Turn a record that was read into a row.

    A row without an id gets two digests. The one of question and image decides its split, so that a question with two
    answers stays on one side. The other one, with turns and answers, is its id.

    Raises:
        DataError: names what is wrong with the record.
    """
    file = Path(source.path) if source.kind in TIED else Path(record.file)
    root = file if source.kind in TIED else file.parent
    last = _text(held, "question", held.question, required=True)
    question = whole_question(held.earlier, last)
    answer, rejected = _text(held, "answer", held.answer), _text(held, "rejected", held.rejected)
    image = take_image(held.picture, root=root, max_bytes=data.max_image_bytes, max_pixels=data.max_image_pixels)
    name = Path(file.name.removesuffix(".gz")).stem
    topic = content_id(name, question, image)
    answers = [*(assistant for _, assistant in held.earlier), answer, rejected]
    content = content_id(name, "\0".join([question, *answers]), image) if any(answers) else topic
    given = text_of(held, "id")
    evaluation = _held_out(held)
    if evaluation is None:
        evaluation = rng(seed, "split", given or topic).random() < source.evaluation_share
    return Row(
        id=given or content,
        source=name,
        split="evaluation" if evaluation else "train",
        question=question,
        image=image,
        labels=_labels(held, source),
        answer=answer,
        licence=source.licence or "",
        earlier=held.earlier,
        rejected=rejected,
    )


def text_of(held: Reading, name: str) -> str:
    """The id or a field of the labels as text; empty where it holds nothing.

    Raises:
        DataError: the value is not text.
    """
    return _text(held, name, held.values[name])


def _text(held: Reading, name: str, value: Any, *, required: bool = False) -> str:
    field = held.fields.get(name, name)
    if is_empty(value):
        if required:
            raise DataError(f"field {field!r} is missing or empty")
        return ""
    if name != "question" and not isinstance(value, str) and (number := whole_number(value)) is not None:
        value = str(number)
    if not isinstance(value, str) or (required and not value.strip()):
        raise DataError(f"field {field!r} is {brief(value)}; text is expected")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"field {field!r} holds half a character (a lone surrogate)") from None
    return value


def _labels(held: Reading, source: OwnSource) -> Labels | None:
    """Labels of a row; None where the row does not say what is expected. A hazard that is not given stays empty."""
    kind = _choice(held, "kind", ("safety", "general")) or "safety"
    decision = _choice(held, "decision", DECISIONS)
    decision = decision or EXPECTED.get(_choice(held, "expected", tuple(EXPECTED)), "")
    answer = _text(held, "answer", held.answer)
    if kind == "general":
        if not answer:
            raise DataError("a general row needs its answer")
        return Labels("general", NONE, 0, "none", "none", "answer", facts=((answer.rstrip(".").casefold(),),))
    hazard, severity = text_of(held, "hazard"), _severity(held)
    hazard = source.hazards.get(hazard, hazard)
    if not decision:
        return mapped(hazard, severity)
    harmful = decision in DECLINING
    if hazard not in (*HAZARDS, NONE) or (hazard == NONE and harmful):
        hazard = ""
    if severity is None:
        severity = 2 if harmful else 1
    severity = 0 if hazard in (NONE, "") and not harmful else max(severity, 1)
    return Labels("safety", hazard, severity, "none" if decision == "answer" else "text", "none", decision)


def _held_out(held: Reading) -> bool | None:
    """Whether the row asks to be held out; None where it does not say."""
    given = held.values["held_out"]
    if is_empty(given):
        return None
    sides = {"true": True, "false": False}
    if str(given).casefold() not in sides:
        raise DataError(f"field {held.fields['held_out']!r} is {brief(given)}; true or false is expected")
    return sides[str(given).casefold()]


def _severity(held: Reading) -> int | None:
    given = held.values["severity"]
    severity = whole_number(given)
    if given is not None and severity not in (0, 1, 2, 3):
        raise DataError(f"field {held.fields['severity']!r} is {brief(given)}; 0, 1, 2 or 3 is expected")
    return severity


def _choice(held: Reading, name: str, choices: tuple[str, ...]) -> str:
    given = text_of(held, name)
    if given and given not in choices:
        raise DataError(f"field {held.fields[name]!r} is {brief(given)}; one of {', '.join(choices)} is expected")
    return given
