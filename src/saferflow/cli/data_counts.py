"""Counts and prints what a source holds: its rows by aspect, the origin of its labels, and its first row."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.data.corpora import CORPORA
from saferflow.data.images import open_rgb
from saferflow.data.kinds import by_kind
from saferflow.data.origins import label_notice, label_origin
from saferflow.data.own import named_ids
from saferflow.data.rows import BadRow, Row, whole_question
from saferflow.data.sources import SHOWN, Ids, Placed, licence_of, parts, rows_of
from saferflow.errors import DataError
from saferflow.params import CorpusSource, OwnSource, Params
from saferflow.protocol.hazards import HAZARDS, NONE

ASPECTS = ("taken for", "fields", "not used", "holds", "split", "expected", "hazard", "label from")
NO_LABEL = "(see label)"
LONGEST = 400
"""The most characters of a text of the first row that are printed."""
MOST = 20
"""The most values of an aspect that are printed."""


@dataclass
class Counted:
    """The counts of a source's rows."""

    rows: int = 0
    by: dict[str, Counter] = field(default_factory=lambda: {name: Counter() for name in ASPECTS})
    bad: list[BadRow] = field(default_factory=list)
    bad_count: int = 0
    repeated: int = 0
    """Rows that repeat an earlier row, by an id from their content."""
    unmapped: Counter = field(default_factory=Counter)
    """The words for harm in harmful rows that no table maps to a hazard, with counts."""
    first: Placed | None = None
    """The first readable row."""

    def rename(self, held: str, theirs: str) -> None:
        """Replace the temporary path `held` by the user's path `theirs` in all places."""

        def renamed(text: str) -> str:
            return text.replace(held, theirs)

        self.bad = [replace(row, file=renamed(row.file), reason=renamed(row.reason)) for row in self.bad]
        if self.first is not None:
            self.first = replace(self.first, where=renamed(self.first.where))


def count(source: CorpusSource | OwnSource, params: Params, path: str) -> Counted:
    """Read every row of a source as stage `plan` would, with the same verdict on each.

    Args:
        path: where the source is going to lie, so that it is not compared with itself.
    """
    own = params.model_copy(update={"data": params.data.model_copy(update={"sources": (source,)})})
    counted, ids = Counted(), _ids_of_others(params, path)
    for part in parts(own):
        for item in part.content:
            word = getattr(item, "word", "")
            if word and item.harmful and not CORPORA[source.name].hazard(word, source.hazards):
                counted.unmapped[word] += 1
        for placed in rows_of(part, own):
            _tally(placed, ids, own, counted)
            if (
                placed.hazard
                and isinstance(source, OwnSource)
                and placed.hazard not in {*source.hazards, *HAZARDS, NONE}
            ):
                counted.unmapped[placed.hazard] += 1
    return counted


def _ids_of_others(params: Params, path: str) -> Ids:
    """The row ids of the user's other sources, since stage `plan` takes each id once."""
    ids = Ids()
    for other in params.data.sources:
        if isinstance(other, OwnSource) and other.path != path and Path(other.path).exists():
            try:
                ids.seen |= {name: (where, 0) for name, where in named_ids(other)}
            except DataError:
                continue  # stage plan says what is wrong with that source
    return ids


def _tally(placed: Placed, ids: Ids, params: Params, counted: Counted) -> None:
    first = isinstance(placed.row, Row) and ids.first(placed, params.data.sources[placed.source])
    bad = placed.row if isinstance(placed.row, BadRow) else first if isinstance(first, BadRow) else None
    if bad is not None:
        counted.bad_count += 1
        counted.bad += [bad][: SHOWN - len(counted.bad)]
    elif not first:
        counted.repeated += 1
    else:
        counted.rows += 1
        counted.first = counted.first or placed
        counted.by["label from"][label_origin(placed.row, params)] += 1
        _count_row(placed, placed.row, counted.by)


def _count_row(placed: Placed, row: Row, by: dict[str, Counter]) -> None:
    by["taken for"].update([placed.form] if placed.form else [])
    by["fields"].update(f"{ours} = {theirs}" for ours, theirs in placed.fields)
    by["not used"].update(placed.unused)
    held = {
        "a picture": row.image,
        "an answer": row.answer,
        "a worse answer": row.rejected,
        "earlier turns": row.earlier,
    }
    by["holds"].update(name for name, value in held.items() if value)
    by["split"][row.split] += 1
    by["expected"][row.labels.decision if row.labels else NO_LABEL] += 1
    by["hazard"][(row.labels.hazard or "(the planner says)") if row.labels else NO_LABEL] += 1


def show(counted: Counted, name: str, source: CorpusSource | OwnSource, held: Path, console: Console) -> None:
    """Print what a source holds.

    Args:
        held: where it lies now.
    """
    console.print(Text(f"{name}: {counted.rows:,} rows, licence {licence_of(source) or 'not stated'}"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for aspect, values in counted.by.items():
        for first, (value, rows) in enumerate(values.most_common(MOST)):
            table.add_row("" if first else aspect, Text(printable(value, 80)), f"{rows:,}")
        if len(values) > MOST:
            table.add_row("", f"and {len(values) - MOST:,} others", "")
    console.print(table)
    if notice := label_notice(counted.by["label from"]):
        console.print(Text(notice, "bold"))
    for line in _remarks(counted, source, held):
        console.print(Text(line))
    if counted.first is not None:
        console.print(Text("\n" + "\n".join(_rendered(counted.first, counted.first.row)) + "\n"))


def _remarks(counted: Counted, source: CorpusSource | OwnSource, held: Path) -> list[str]:
    lines = []
    if counted.repeated:
        lines.append(f"{counted.repeated:,} rows are the same as one before, and count once")
    if counted.unmapped:
        words = ", ".join(f"{printable(word, 60)} ({rows:,})" for word, rows in counted.unmapped.most_common(10))
        lines.append(
            f"words for harm that no table maps, left to the planner: {words}; map them in hazards of the source"
        )
    if isinstance(source, OwnSource):
        lines += [
            f"field {theirs[:80]!r} holds nothing in any row; it was to stand for {ours}"
            for ours, theirs in source.fields.items()
            if theirs and f"{ours} = {theirs}" not in counted.by["fields"]
        ]
    if isinstance(source, OwnSource) and held.is_dir():
        if splits := sorted({split for file in held.rglob("*") for split in _splits(str(file.relative_to(held)))}):
            lines.append(
                f"files are named as splits ({', '.join(splits)}), and none is kept as one: rows are held out by their ids, "
                f"evaluation_share {source.evaluation_share:g}. Add what was to be trained on, and it alone, if that matters"
            )
        kinds = by_kind([str(file.relative_to(held)) for file in held.rglob("*") if file.is_file()])
        others = {kind: files for kind, files in kinds.items() if kind != source.kind}
        if others and source.kind not in ("webdataset", "datasets"):
            files = ", ".join(f"{files:,} of --kind {kind}" for kind, files in others.items())
            lines.append(f"files that are not read, for the source is of kind {source.kind}: {files}")
    return lines


def _splits(path: str) -> list[str]:
    """The evaluation splits that a path names."""
    return [match[1] for match in re.finditer(r"(?:^|/)(test|validation|val|dev|eval)(?=[-_./]|$)", path.casefold())]


def _rendered(placed: Placed, row: Row) -> list[str]:
    """The first row as it was read, one line per part."""
    turns = [part for user, assistant in row.earlier for part in (("user", user), ("assistant", assistant))]
    last = row.question[len(whole_question(row.earlier, "")) :]
    label = (
        f"{row.labels.decision}, hazard {row.labels.hazard or 'not given'}, {row.labels.label_source}"
        if row.labels
        else ""
    )
    parts = [
        ("id", row.id), ("picture", _picture(row.image)), *turns, ("user", last), ("answer", row.answer or "none"),
        *([("worse answer", row.rejected)] if row.rejected else []), ("label", label or "none"),
    ]  # fmt: skip
    return [f"first row, {placed.where}", *(f"  {name:<12}  {printable(text, LONGEST)}" for name, text in parts)]


def _picture(image: bytes | None) -> str:
    if image is None:
        return "none"
    width, height = open_rgb(image).size
    return f"{width} x {height}, {len(image):,} bytes"


def printable(text: str, limit: int) -> str:
    """A text for a terminal: on one line, without control characters, and cut."""
    short = "".join(sign if sign.isprintable() else " " for sign in text[:limit])
    return short if len(text) <= limit else f"{short}... ({len(text):,} characters)"
