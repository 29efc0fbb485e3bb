"""Twins across the split: held-out rows that training shows, word for word or nearly.

A row is a twin where both its question and its image are near duplicates of a training row's; where neither has an image,
the question alone. A near question about another picture is no twin: often only both together decide. Questions are
compared by the Jaccard index of their five-character shingles, found by MinHash (rensa) and then computed; images by the
Hamming distance of their perceptual hashes (imagehash, 64 bits). Source: ours.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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


def twins(trained: Iterable[Entry], held_out: Sequence[Entry], text: float, bits: int) -> list[Twin]:
    """The nearest twin of every held-out row that has one, in the order of the held-out rows.

    Args:
        text: the least Jaccard index of near questions.
        bits: the largest distance of near images.
    """
    by_question: dict[str, list[Entry]] = defaultdict(list)
    for entry in trained:
        by_question[plain(entry.question)].append(entry)
    questions = list(by_question)
    index = RMinHashLSH(threshold=text, num_perm=PERMUTATIONS, num_bands=BANDS)
    for number, question in enumerate(questions):
        index.insert(number, _minhash(question))
    near: dict[str, list[tuple[float, str]]] = {}
    for question in {plain(entry.question) for entry in held_out}:
        met = [(likeness(question, questions[number]), questions[number]) for number in index.query(_minhash(question))]
        near[question] = sorted((found for found in met if found[0] >= text), reverse=True)
    hashes = _Hashes()
    found = (_twin(entry, near[plain(entry.question)], by_question, hashes, bits) for entry in held_out)
    return [twin for twin in found if twin is not None]


def plain(question: str) -> str:
    """Without case and white space that does not part words."""
    return " ".join(question.casefold().split())


def likeness(one: str, other: str) -> float:
    """Jaccard index of two plain questions' shingles."""
    left, right = _shingles(one), _shingles(other)
    return len(left & right) / len(left | right)


def _twin(
    entry: Entry,
    near: list[tuple[float, str]],
    by_question: Mapping[str, list[Entry]],
    hashes: "_Hashes",
    most: int,
) -> Twin | None:
    best: Twin | None = None
    for text, question in near:
        for other in by_question[question]:
            if (entry.image is None) != (other.image is None):
                continue
            apart = None if entry.image is None else hashes.apart(entry.image, other.image)
            if apart is not None and apart > most:
                continue
            if best is None or (apart or 0, -text) < (best.bits or 0, -best.text):
                best = Twin(entry.id, other.table, other.id, text, apart)
    return best


class _Hashes:
    """Perceptual hashes of images, each computed once."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def apart(self, one: bytes, other: bytes) -> int:
        return (self._of(one) ^ self._of(other)).bit_count()

    def _of(self, image: bytes) -> int:
        if image not in self._known:
            with Image.open(io.BytesIO(image)) as opened:
                self._known[image] = int(str(imagehash.phash(opened)), 16)
        return self._known[image]


def _shingles(question: str) -> set[str]:
    return {question[start : start + SHINGLE] for start in range(max(1, len(question) - SHINGLE + 1))}


def _minhash(question: str) -> RMinHash:
    made = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    made.update(list(_shingles(question)))
    return made
