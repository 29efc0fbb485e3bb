"""Twins across the split: held-out rows that training shows, word for word or nearly.

A row is a twin where both its question and its image are near duplicates of a training row's; where neither has an image,
the question alone. A near question about another picture is no twin: often only both together decide. Questions are
compared by the Jaccard index of their five-character shingles, found by MinHash (rensa) and then computed; images by the
Hamming distance of their perceptual hashes (imagehash, 64 bits). Source: ours.
"""

import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import imagehash
from PIL import Image
from rensa import RMinHash, RMinHashLSH

SHINGLE = 5
PERMUTATIONS = 128
BANDS = 32
"""Of four rows each: questions of Jaccard index 0.8 meet in one with probability above 0.9999, of 0.5 with 0.87."""
SEED = 1


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
    """Jaccard index of the questions, in [0, 1]."""
    bits: int | None
    """Hamming distance of the images' hashes, of 64; None where neither row has an image."""

    def __str__(self) -> str:
        images = "both without an image" if self.bits is None else f"images {self.bits} of 64 bits apart"
        return f"{self.held_out} is a twin of {self.table} row {self.trained} (questions alike to {self.text:.2f}, {images})"


class HeldOut:
    """The held-out rows, made ready to be asked whether a training row is a twin of one of them."""

    def __init__(self, entries: Iterable[Entry], text: float, bits: int):
        """Index the rows; of their images only hashes are kept.

        Args:
            text: the least Jaccard index of near questions.
            bits: the largest distance of near images.
        """
        self._text, self._bits = text, bits
        self._rows: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
        for entry in entries:
            self._rows[plain(entry.question)].append((entry.id, _hash(entry.image)))
        self._questions = list(self._rows)
        self._index = RMinHashLSH(threshold=text, num_perm=PERMUTATIONS, num_bands=BANDS)
        for number, question in enumerate(self._questions):
            self._index.insert(number, _minhash(question))
        self._near = lru_cache(maxsize=10_000)(self._compare)

    def _compare(self, question: str) -> list[tuple[float, str]]:
        met = (self._questions[number] for number in self._index.query(_minhash(question)))
        found = [(likeness(question, other), other) for other in met]
        return [(text, other) for text, other in found if text >= self._text]

    def twins_of(self, trained: Entry) -> list[Twin]:
        """Every held-out row that the training row is a twin of."""
        near = self._near(plain(trained.question))
        if not near:
            return []
        shown, found = _hash(trained.image), []
        for text, question in near:
            for held_out, hidden in self._rows[question]:
                if (shown is None) != (hidden is None):
                    continue
                apart = None if shown is None else (shown ^ hidden).bit_count()
                if apart is None or apart <= self._bits:
                    found.append(Twin(held_out, trained.table, trained.id, text, apart))
        return found


def nearest(twins: Iterable[Twin]) -> dict[str, Twin]:
    """The nearest twin of every held-out row that has one; of equally near ones the first."""
    best: dict[str, Twin] = {}
    for twin in twins:
        known = best.get(twin.held_out)
        if known is None or (twin.bits or 0, -twin.text) < (known.bits or 0, -known.text):
            best[twin.held_out] = twin
    return best


def plain(question: str) -> str:
    """Without case and white space that does not part words."""
    return " ".join(question.casefold().split())


def likeness(one: str, other: str) -> float:
    """Jaccard index of two plain questions' shingles."""
    left, right = _shingles(one), _shingles(other)
    return len(left & right) / len(left | right)


def _hash(image: bytes | None) -> int | None:
    """The perceptual hash of an encoded image, 64 bits."""
    if image is None:
        return None
    with Image.open(io.BytesIO(image)) as opened:
        return int(str(imagehash.phash(opened)), 16)


def _shingles(question: str) -> set[str]:
    return {question[start : start + SHINGLE] for start in range(max(1, len(question) - SHINGLE + 1))}


def _minhash(question: str) -> RMinHash:
    made = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    made.update(list(_shingles(question)))
    return made
