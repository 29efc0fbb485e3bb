"""The configured sources as parts: some rows each, cheap to name here and made wherever there is a process for it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from saferflow.data.corpora import CORPORA
from saferflow.data.corpora.corpus import Item
from saferflow.data.forms import reading
from saferflow.data.own import check_hazards, own_records, row_of, text_of
from saferflow.data.records import Record
from saferflow.data.rows import BadRow, Row
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.data.values import brief
from saferflow.errors import DataError
from saferflow.params import CorpusSource, Params, ScenesSource, Source

PART = 256
"""Rows of a part, where nobody asks for another size."""
SHOWN = 50
"""Bad rows that an error message lists."""
REASON = 400
"""Characters of a reason that an error message shows."""
ALIKE = 5
"""Places that an error message lists for one reason."""
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
    form: str = ""
    """What its record was taken for; empty but for rows of one's own."""
    fields: tuple[tuple[str, str], ...] = ()
    """Our names and the file's, of the fields that were used."""
    unused: tuple[str, ...] = ()
    """Fields of its record that hold something and were not used."""
    hazard: str = ""
    """Its record's own word for the harm, in rows of one's own."""
    named: bool = False
    """It has an id of its own, not one from its content."""


@dataclass
class Ids:
    """Which ids were read: the one verdict on a repeated id, for stage `plan` and for `saferflow data add`."""

    seen: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Id -> where it was read, and a hash of its labels."""

    def first(self, placed: Placed, source: Source) -> bool | BadRow:
        """Whether a readable row is the first of its id; False for the same row again, a bad row for another one."""
        row, labels = placed.found, hash(placed.found.labels)
        if row.id not in self.seen:
            self.seen[row.id] = placed.where, labels
            return True
        where, others = self.seen[row.id]
        if isinstance(source, CorpusSource) or (not placed.named and labels == others):
            return False  # the id is the content: a second time, it is the same row
        file, _, line = placed.where.rpartition(":")
        reason = f"id {brief(row.id)} stands in {where} already; give each row its own, or none: --field id= takes the content's"
        if not placed.named:
            reason = f"the same question and answer stand in {where} already, with other labels; take one out"
        return BadRow(file, int(line), reason, row.question[:500])


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
    if isinstance(part.content, Drawn):
        make, asked = general_rows if part.content.general else safety_rows, part.content
        drawn = make(asked.count, params.run.seed, asked.split, asked.first)
        return [Placed(part.source, "the scenes", row) for row in drawn]
    placed = (_placed(found, part.source, params) for found in part.content)
    return [one for one in placed if one is not None]


def _placed(found: Record | Item | BadRow, number: int, params: Params) -> Placed | None:
    """A row of a source, or why there is none; None where `share` of a corpus leaves it out."""
    where = f"{found.file}:{found.line if isinstance(found, BadRow) else found.number}"
    source = params.data.sources[number]
    if isinstance(found, BadRow):
        return Placed(number, where, found)
    try:
        if isinstance(found, Item):
            row = CORPORA[source.name].row(found, source, params.data, params.run.seed)
            return None if row is None else Placed(number, where, row)
        held = reading(found.values, source.fields)
        row = row_of(held, found, source, params.data, params.run.seed)
    except DataError as error:
        if isinstance(found, Record):
            return Placed(number, where, found.bad(str(error)))
        return Placed(number, where, BadRow(found.file, found.number, str(error), str(found.question)[:500]))
    word = text_of(held, "hazard")
    return Placed(number, where, row, held.form, tuple(held.fields.items()), held.unused, word, "id" in held.fields)


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
    lines, reasons = [], Counter()
    for row in shown:
        reasons[row.reason] += 1
        if reasons[row.reason] <= ALIKE:
            lines.append(f"  {row.file}:{row.line}: {_shortened(row.reason)}")
    lines += [
        f"  and {rows - ALIKE} more of these {len(shown)}: {_shortened(reason)}"
        for reason, rows in reasons.items()
        if rows > ALIKE
    ]
    if total > len(shown):
        lines.append(f"  and {total - len(shown):,} more")
    counted = "1 row" if total == 1 else f"{total:,} rows"
    return DataError(
        f"{counted} cannot be read:\n" + "\n".join(lines) + "\nmend them, or set data.on_bad_row: quarantine"
    )


def _shortened(text: str) -> str:
    """A reason as a message shows it, however long it is."""
    return text if len(text) <= REASON else f"{text[:REASON]}..."
