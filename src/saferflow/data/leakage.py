"""Finds twins across the split: held-out rows that training shows exactly or nearly.

Two rows are twins if both question and picture are near duplicates; without pictures, the question alone decides. A near
question about another picture makes no twin, nor does another question about a near picture: often only both together
decide the label. Such rows are counted separately. Source: ours.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from saferflow.data.pictures import BITS, Pictures
from saferflow.data.questions import Questions


@dataclass(frozen=True, slots=True)
class Entry:
    """The fields of a row that leakage compares."""

    table: str
    id: str
    question: str
    image: bytes | None


@dataclass(frozen=True, slots=True)
class Twin:
    """A held-out row and its twin in training."""

    held_out: str
    table: str
    trained: str
    text: float
    """Likeness of the questions, in [0, 1]; 1 where one contains the other."""
    bits: int | None
    """Bits of 63 between the pictures' hashes; None where neither row has a picture."""

    def __str__(self) -> str:
        images = "both without an image" if self.bits is None else f"images {self.bits} of {BITS} bits apart"
        return f"{self.held_out} is a twin of {self.table} row {self.trained} (questions alike to {self.text:.2f}, {images})"


class HeldOut:
    """An index of the held-out rows that finds the twins of a training row."""

    def __init__(self, entries: Iterable[Entry], text: float, bits: int):
        """Index the rows; only thumbnails and hashes of their pictures are kept.

        Args:
            text: the least likeness of near questions, see `Questions`.
            bits: the largest distance of near pictures, see `Pictures`.
        """
        self.shown_questions: set[str] = set()
        """Held-out rows whose question some training row has had so far, about any picture."""
        self.shown_pictures: set[str] = set()
        """Held-out rows whose whole picture some training row has had so far, under any question."""
        self._settled: set[int] = set()
        self._rows: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
        self._ids: dict[int, list[str]] = defaultdict(list)
        self._pictures = Pictures(bits)
        for entry in entries:
            picture = None if entry.image is None else self._pictures.add(entry.image)
            self._rows[entry.question].append((entry.id, picture))
            if picture is not None:
                self._ids[picture].append(entry.id)
        self._questions = Questions(self._rows, text)

    def twins_of(self, trained: Entry) -> list[Twin]:
        """Every held-out twin of a training row; rows that share only question or picture are noted on `self`."""
        near = [
            (text, row, picture)
            for text, question in self._questions.near(trained.question)
            for row, picture in self._rows[question]
        ]
        self.shown_questions.update(row for _, row, _ in near)
        if trained.image is None:
            return [Twin(row, trained.table, trained.id, text, None) for text, row, picture in near if picture is None]
        same = self._pictures.same(trained.image, self._settled)
        self._settled.update(same)
        self.shown_pictures.update(row for picture in same for row in self._ids[picture])
        wanted = {picture for _, _, picture in near if picture is not None}
        bits = {picture: self._pictures.distance(trained.image, picture) for picture in wanted}
        return [
            Twin(row, trained.table, trained.id, text, bits[picture])
            for text, row, picture in near
            if bits.get(picture) is not None
        ]


def near_twin(entry: Entry, rows: Iterable[Entry], text: float, bits: int) -> Twin | None:
    """The nearest of these rows that is a twin of `entry`; None where none is.

    Args:
        rows: with pictures that decode.
        text, bits: as in `HeldOut`.
    """
    twins = nearest(HeldOut(rows, text, bits).twins_of(entry)).values()
    return min(twins, key=lambda twin: (twin.bits or 0, -twin.text), default=None)


def nearest(twins: Iterable[Twin]) -> dict[str, Twin]:
    """Held-out row -> its nearest twin; the first one of equally near twins."""
    best: dict[str, Twin] = {}
    for twin in twins:
        known = best.get(twin.held_out)
        if known is None or (twin.bits or 0, -twin.text) < (known.bits or 0, -known.text):
            best[twin.held_out] = twin
    return best
