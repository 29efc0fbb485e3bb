"""Twins across the split: held-out rows that training shows, word for word or nearly.

A row is a twin where both its question and its picture are near duplicates of a training row's; where neither has a
picture, the question alone. A near question about another picture is no twin, nor is another question about a near picture:
often only both together decide. Such rows are counted by themselves. Source: ours.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from saferflow.data.pictures import BITS, Pictures
from saferflow.data.questions import Questions


@dataclass(frozen=True, slots=True)
class Entry:
    """What leakage sees of a row."""

    table: str
    id: str
    question: str
    image: bytes | None


@dataclass(frozen=True, slots=True)
class Twin:
    """A held-out row and the training row that it is a twin of."""

    held_out: str
    table: str
    trained: str
    text: float
    """How near the questions are, in [0, 1]; 1 where the one holds the other."""
    bits: int | None
    """Bits of 63 between the pictures' hashes; None where neither row has a picture."""

    def __str__(self) -> str:
        images = "both without an image" if self.bits is None else f"images {self.bits} of {BITS} bits apart"
        return f"{self.held_out} is a twin of {self.table} row {self.trained} (questions alike to {self.text:.2f}, {images})"


class HeldOut:
    """The held-out rows, made ready to be asked whether a training row is a twin of one of them."""

    def __init__(self, entries: Iterable[Entry], text: float, bits: int):
        """Index the rows; of their pictures only thumbnails and hashes are kept.

        Args:
            text: the least likeness of near questions, see `Questions`.
            bits: the largest distance of near pictures, see `Pictures`.
        """
        self.shown_questions: set[str] = set()
        """Held-out rows whose question a training row had so far, about whatever picture."""
        self.shown_pictures: set[str] = set()
        """Held-out rows whose picture a training row had so far, as a whole, under whatever question."""
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
        """Every held-out row that the training row is a twin of; rows that share one half are noted."""
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
    """The nearest of these rows that one entry is a twin of; None where it is of none.

    Args:
        rows: with pictures that decode.
        text, bits: as in `HeldOut`.
    """
    twins = nearest(HeldOut(rows, text, bits).twins_of(entry)).values()
    return min(twins, key=lambda twin: (twin.bits or 0, -twin.text), default=None)


def nearest(twins: Iterable[Twin]) -> dict[str, Twin]:
    """The nearest twin of every held-out row that has one; of equally near ones the first."""
    best: dict[str, Twin] = {}
    for twin in twins:
        known = best.get(twin.held_out)
        if known is None or (twin.bits or 0, -twin.text) < (known.bits or 0, -known.text):
            best[twin.held_out] = twin
    return best
