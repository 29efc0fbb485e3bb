"""Splits the configured sources into parts of some rows each: cheap to describe here, turned into rows by any process."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from pathlib import Path

from saferflow.data.corpora import CORPORA
from saferflow.data.corpora.corpus import Item
from saferflow.data.forms import reading
from saferflow.data.leakage import Entry, HeldOut
from saferflow.data.own import check_hazards, own_records, row_of, text_of
from saferflow.data.records import Record
from saferflow.data.rows import BadRow, Row
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.data.values import brief
from saferflow.errors import DataError
from saferflow.params import CorpusSource, Params, ScenesSource, Source

PART = 256
"""Default size of a part, in rows."""
SHOWN = 50
"""Most bad rows that an error message lists."""
REASON = 400
"""Most characters of a reason that an error message shows."""
SHOWN_PLACES = 5
"""Most places that an error message lists for one reason."""
SCENES_LICENCE = "CC0-1.0"
"""The drawn corpus is entirely our own work."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Scene rows to draw."""

    general: bool
    split: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one source, in order."""

    source: int
    """Index in `data.sources`, from 0."""
    content: Drawn | tuple[Record | Item | BadRow, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A row with the place where it was read, or a bad row with the reason."""

    source: int
    where: str
    row: Row | BadRow
    form: str = ""
    """Form in which its record was read; only for a user's own rows."""
    fields: tuple[tuple[str, str], ...] = ()
    """(our name, the file's name) of each used field."""
    unused: tuple[str, ...] = ()
    """Fields of the record that hold something and were not used."""
    hazard: str = ""
    """The record's own word for the harm; only for a user's own rows."""
    named: bool = False
    """True if the row brings its id, False if the id comes from its content."""


@dataclass
class Ids:
    """The ids read so far. Stage `plan` and `saferflow data add` both judge repeated ids by it."""

    seen: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Id -> (place where it was read, hash of its labels)."""

    def first(self, placed: Placed, source: Source) -> bool | BadRow:
        """True for the first row of an id, False for the same row again, a `BadRow` for another row of that id."""
        row, labels = placed.row, hash(placed.row.labels)
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
    """Yield all parts of all sources, in order.

    Args:
        size: most rows of a part.

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
    """Build the rows of a part: draw them, or read their images and labels."""
    if isinstance(part.content, Drawn):
        rows = _scenes(part.content, params.data.sources[part.source], params)
        return [Placed(part.source, "the scenes", row) for row in rows]
    placed = (_placed(record, part.source, params) for record in part.content)
    return [place for place in placed if place is not None]


def _scenes(drawn: Drawn, source: ScenesSource, params: Params) -> Iterator[Row]:
    """Drawn rows. A general row of training that is a near twin of a held-out one is left out: chance draws one for some seeds.

    Of safety rows none was a twin with six seeds that were looked at; stage `validate` would say so.
    """
    seed, bounds = params.run.seed, params.validation
    if not drawn.general:
        yield from safety_rows(drawn.count, seed, drawn.split, drawn.first)
        return
    held_out = _held_out(source.evaluation, source.general_evaluation, seed, bounds.twin_text, bounds.twin_image_bits)
    for row in general_rows(drawn.count, seed, drawn.split, drawn.first):
        if drawn.split == "evaluation" or not held_out.twins_of(Entry("", row.id, row.question, row.image)):
            yield row


@cache
def _held_out(safety: int, general: int, seed: int, text: float, bits: int) -> HeldOut:
    rows = chain(safety_rows(safety, seed, "evaluation"), general_rows(general, seed, "evaluation"))
    return HeldOut((Entry("evaluation", row.id, row.question, row.image) for row in rows), text, bits)


def _placed(record: Record | Item | BadRow, number: int, params: Params) -> Placed | None:
    """Build a row, or a bad row with the reason; None where a corpus's `share` leaves it out."""
    where = f"{record.file}:{record.line if isinstance(record, BadRow) else record.number}"
    source = params.data.sources[number]
    if isinstance(record, BadRow):
        return Placed(number, where, record)
    try:
        if isinstance(record, Item):
            row = CORPORA[source.name].row(record, source, params.data, params.run.seed)
            return None if row is None else Placed(number, where, row)
        held = reading(record.values, source.fields)
        row = row_of(held, record, source, params.data, params.run.seed)
    except DataError as error:
        if isinstance(record, Record):
            return Placed(number, where, record.bad(str(error)))
        return Placed(number, where, BadRow(record.file, record.number, str(error), str(record.question)[:500]))
    word = text_of(held, "hazard")
    return Placed(number, where, row, held.form, tuple(held.fields.items()), held.unused, word, "id" in held.fields)


def licence_of(source: Source) -> str:
    """The SPDX identifier of a source's rows; empty where the source states none."""
    if isinstance(source, ScenesSource):
        return SCENES_LICENCE
    return CORPORA[source.name].licence if isinstance(source, CorpusSource) else source.licence or ""


def refuse_licences(params: Params) -> None:
    """Refuse sources whose licence `data.licences` does not allow.

    Raises:
        DataError: names the sources and their licences.
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
    """The error for unreadable rows; it names the remedies.

    Args:
        bad: all of them, or the first `SHOWN`.
        total: how many there are.
    """
    shown = list(islice(bad, SHOWN))
    lines, reasons = [], Counter()
    for row in shown:
        reasons[row.reason] += 1
        if reasons[row.reason] <= SHOWN_PLACES:
            lines.append(f"  {row.file}:{row.line}: {_shortened(row.reason)}")
    lines += [
        f"  and {rows - SHOWN_PLACES} more of these {len(shown)}: {_shortened(reason)}"
        for reason, rows in reasons.items()
        if rows > SHOWN_PLACES
    ]
    if total > len(shown):
        lines.append(f"  and {total - len(shown):,} more")
    counted = "1 row" if total == 1 else f"{total:,} rows"
    return DataError(
        f"{counted} cannot be read:\n" + "\n".join(lines) + "\nmend them, or set data.on_bad_row: quarantine"
    )


def _shortened(text: str) -> str:
    """A reason cut to the length that a message shows."""
    return text if len(text) <= REASON else f"{text[:REASON]}..."
