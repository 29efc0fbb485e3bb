"""The configured sources as parts: some rows each, cheap to name here and made wherever there is a process for it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from saferflow.data.corpora import CORPORA
from saferflow.data.corpora.corpus import Item
from saferflow.data.own import check_hazards, own_records, own_row
from saferflow.data.records import Record
from saferflow.data.rows import BadRow, Row
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.errors import DataError
from saferflow.params import CorpusSource, Params, ScenesSource, Source

PART = 256
"""Rows of a part, where nobody asks for another size."""
SHOWN = 50
"""Bad rows that an error message lists."""
SCENES_LICENCE = "CC0-1.0"
"""Nobody's work is in the drawn corpus but ours."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Scene rows that are still to be drawn."""

    general: bool
    split: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one source, in order."""

    source: int
    """Which of `data.sources`, from 0."""
    content: Drawn | tuple[Record | Item | BadRow, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A row, or why there is none, and where it was read."""

    source: int
    where: str
    found: Row | BadRow


def parts(params: Params, size: int = PART) -> Iterator[Part]:
    """All parts of all sources, in order.

    Args:
        size: rows of a part at most.

    Raises:
        DataError: a source's path, name or mapping is wrong.
    """
    for number, source in enumerate(params.data.sources):
        if isinstance(source, ScenesSource):
            yield from (Part(number, drawn) for drawn in _drawn(source, size))
        else:
            records = _items(source) if isinstance(source, CorpusSource) else own_records(source)
            while some := tuple(islice(records, size)):
                yield Part(number, some)


def _drawn(source: ScenesSource, size: int) -> Iterator[Drawn]:
    counts = (
        (False, "train", source.train),
        (True, "train", source.general_train),
        (False, "evaluation", source.evaluation),
        (True, "evaluation", source.general_evaluation),
    )
    for general, split, count in counts:
        for first in range(0, count, size):
            yield Drawn(general, split, first, min(size, count - first))


def _items(source: CorpusSource) -> Iterator[Item | BadRow]:
    corpus = CORPORA.get(source.name)
    if corpus is None:
        raise DataError(f"data.sources: no corpus {source.name!r}; there are {', '.join(CORPORA)}")
    check_hazards(source.hazards)
    if not corpus.trains and source.evaluation_share not in (None, 1):
        raise DataError(
            f"data.sources: the authors of {corpus.title} do not allow training on it; set its evaluation_share to null"
        )
    if not Path(source.path).exists():
        raise DataError(
            f"{source.path}: no such folder; run saferflow data add {source.name} PATH, or change data.sources"
        )
    return corpus.read(Path(source.path))


def rows_of(part: Part, params: Params) -> list[Placed]:
    """Make the rows of a part: draw them, or read their images and labels."""
    source, seed = params.data.sources[part.source], params.run.seed
    if isinstance(part.content, Drawn):
        make, asked = general_rows if part.content.general else safety_rows, part.content
        drawn = make(asked.count, seed, asked.split, asked.first)
        return [Placed(part.source, "the scenes", row) for row in drawn]
    made = []
    for found in part.content:
        where = f"{found.file}:{found.line if isinstance(found, BadRow) else found.number}"
        if (row := _row(found, source, params)) is not None:
            made.append(Placed(part.source, where, row))
    return made


def _row(found: Record | Item | BadRow, source: Source, params: Params) -> Row | BadRow | None:
    try:
        if isinstance(found, Item):
            row = CORPORA[source.name].row(found, source, params.data, params.run.seed)
        elif isinstance(found, Record):
            row = own_row(found, source, params.data, params.run.seed)
        else:
            return found
    except DataError as error:
        if isinstance(found, Record):
            return found.bad(str(error))
        return BadRow(found.file, found.number, str(error), str(found.question)[:500])
    return row


def licence_of(source: Source) -> str:
    """The SPDX identifier of a source's rows; empty where none is stated."""
    if isinstance(source, ScenesSource):
        return SCENES_LICENCE
    return CORPORA[source.name].licence if isinstance(source, CorpusSource) else source.licence or ""


def refuse_licences(params: Params) -> None:
    """Stop where a source's licence is none that `data.licences` allows.

    Raises:
        DataError: naming the sources and their licences.
    """
    allowed = params.data.licences
    if allowed is None:
        return
    refused = [
        f"{getattr(source, 'path', 'scenes')}: {licence_of(source) or 'not stated'}"
        for source in params.data.sources
        if licence_of(source) not in allowed
    ]
    if refused:
        raise DataError(
            f"data.licences allows {', '.join(allowed)}; {'; '.join(refused)}. Take the source out of data.sources, or add its "
            "licence to data.licences if your use of it allows"
        )


def bad_rows_error(bad: Iterable[BadRow], total: int) -> DataError:
    """Unreadable rows as one error that names the ways out.

    Args:
        bad: all of them, or the first `SHOWN`.
        total: how many there are.
    """
    shown = list(islice(bad, SHOWN))
    lines = [f"  {row.file}:{row.line}: {row.reason}" for row in shown]
    if total > len(shown):
        lines.append(f"  and {total - len(shown):,} more")
    counted = "1 row" if total == 1 else f"{total:,} rows"
    return DataError(
        f"{counted} cannot be read:\n" + "\n".join(lines) + "\nmend them, or set data.on_bad_row: quarantine"
    )
