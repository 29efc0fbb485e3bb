"""Near duplicates among questions: the same words in another spelling, with an instruction around them, or nearly the same.

Questions are compared by their words alone: without case, signs, invisible characters and markers of images. Three things
make two of them near: the same letters in every word; the one stands whole inside the other, between signs, line ends or
capital letters; or a weighted Jaccard index of three-character shingles, where a shingle weighs the more, the fewer
held-out questions have it (inverse document frequency). Another object makes another question, another article does not:
one word in another's place is overlooked where one of the two carries little of its question's weight.
Source: ours.
"""

import html
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations

SHINGLE = 3
SMALL_WORD = 0.07
"""A word may be exchanged if it carries at most this share of its question's weight."""
LEAST_BYTES = 12
"""A shorter question, in bytes, says too little to be looked for inside another: "What is this?"."""
MAX_BREAKS = 40
"""In a text with more breaks, a question must be at the start or at the end."""
SORTED_FROM = 4
"""Words of at least so many letters are compared as letters in any order: "who" and "how" stay two words."""

_KIND = r"(?:image|img|im_|picture|photo|pic|vision|video)"
MARKER = re.compile(
    rf"<\|[^<>\s]{{1,40}}\|>|!\[[^\]\n]{{0,80}}\]\([^)\s]{{0,300}}\)|<img\b[^<>]{{0,300}}>"
    rf"|[<\[{{]\s*/?\s*[a-z_ ]{{0,24}}{_KIND}[a-z_ -]{{0,24}}\d{{0,3}}\s*/?\s*[>\]}}]",
    re.IGNORECASE,
)
"""Marks for an image in the usual chat templates and corpora, and any special token."""
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800"
"""Invisible characters that Unicode does not class as format characters."""
APOSTROPHE = re.compile("['’‘‛ʼ`´]")
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Question:
    """The parts of a question that are compared."""

    words: tuple[str, ...]
    breaks: tuple[int, ...]
    """Indices of words where an instruction may end and the question start; 0 and the count of words among them."""

    @cached_property
    def letters(self) -> tuple[str, ...]:
        """The words, each as its letters in sorted order."""
        return tuple(
            "".join(sorted(word)) if len(word) >= SORTED_FROM and word.isalpha() else word for word in self.words
        )

    @cached_property
    def numbers(self) -> Counter[str]:
        """The words that hold a digit, with their counts."""
        return Counter(word for word in self.words if any(map(str.isdigit, word)))

    def shingles(self) -> frozenset[str]:
        """All runs of `SHINGLE` characters."""
        text = " ".join(self.words)
        return frozenset(text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1)))

    def parts(self) -> Iterator[tuple[str, ...]]:
        """Yield the runs of words between two breaks that are long enough for a question, the whole among them."""
        letters = self.letters
        ends = combinations(self.breaks, 2)
        if len(self.breaks) > MAX_BREAKS:
            ends = [(0, end) for end in self.breaks[1:]] + [(start, self.breaks[-1]) for start in self.breaks[1:-1]]
        for start, end in ends:
            part = letters[start:end]
            if len("".join(part).encode()) >= LEAST_BYTES:
                yield part


def visible(text: str) -> str:
    """Normalise text to NFKC, without marks for images and invisible characters."""
    text = unicodedata.normalize("NFKC", html.unescape(text))
    if not text.isascii():
        text = "".join(char for char in text if not _invisible(char))
    return MARKER.sub(" \n ", text)


def read(text: str) -> Question:
    """Split a question into words; a question without words or numbers keeps its signs as its only word."""
    text = APOSTROPHE.sub("", visible(text))
    words, breaks, end = [], [0], 0
    for match in WORD.finditer(text):
        word, gap = match.group(), text[end : match.start()]
        if words and (_parts(gap) or (word[0].isupper() and not word[0].isdigit())):
            breaks.append(len(words))
        words.append(word.casefold())
        end = match.end()
    words = words or [" ".join(text.split())]
    return Question(tuple(words), tuple(dict.fromkeys([*breaks, len(words)])))


def _parts(gap: str) -> bool:
    """Whether the text between two words is a break: a line end, or a sign beside white space."""
    return "\n" in gap or (gap.strip() != "" and gap != gap.strip())


@lru_cache(maxsize=4096)
def _invisible(char: str) -> bool:
    category = unicodedata.category(char)
    hidden = category == "Cf" or (category == "Cc" and not char.isspace())
    return hidden or char in FILLERS or "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


class Questions:
    """An index of held-out questions that finds those near to another question."""

    def __init__(self, texts: Iterable[str], least: float):
        """Index the questions.

        Args:
            texts: repeated ones count once.
            least: the weighted Jaccard index from which two questions are near, in (0.5, 1].
        """
        self._least = least
        self._texts = list(dict.fromkeys(texts))
        self._read = [read(text) for text in self._texts]
        self._shingles = [question.shingles() for question in self._read]
        self._weights = self._frequencies(self._shingles)
        self._words = self._frequencies(set(question.words) for question in self._read)
        self._unseen = math.log(1 + len(self._texts))
        self._sums = [self._sum(shingles) for shingles in self._shingles]
        self._whole, self._parts, self._rare = defaultdict(list), defaultdict(list), defaultdict(list)
        for number, question in enumerate(self._read):
            self._whole[question.letters].append(number)
            for part in question.parts():
                self._parts[part].append(number)
            for shingle in self._prefix(number):
                self._rare[shingle].append(number)
        self.near = lru_cache(maxsize=10_000)(self._near)

    def likeness(self, left: str, right: str) -> float:
        """Weighted Jaccard index of two questions' shingles, in [0, 1]."""
        return self._likeness(read(left).shingles(), read(right).shingles())

    def _near(self, text: str) -> list[tuple[float, str]]:
        """The held-out questions that a question is near to, each with how near it is; 1 where one holds the other."""
        question = read(text)
        best = dict.fromkeys(self._holding(question), 1.0)
        shingles, numbers = question.shingles(), question.numbers
        total = self._sum(shingles)
        met = {number for shingle in shingles for number in self._rare.get(shingle, ())}
        for number in sorted(met - best.keys()):
            low, high = sorted((total, self._sums[number]))
            if low < self._least * high or numbers != self._read[number].numbers:
                continue
            common = self._sum(shingles & self._shingles[number])
            index = common / (total + self._sums[number] - common)
            if index >= self._least or self._small_change(question.words, self._read[number].words):
                best[number] = index
        return [(index, self._texts[number]) for number, index in best.items()]

    def _holding(self, question: Question) -> Iterator[int]:
        yield from self._whole.get(question.letters, ())
        for part in question.parts():
            yield from self._whole.get(part, ())
        if len("".join(question.words).encode()) >= LEAST_BYTES:
            yield from self._parts.get(question.letters, ())

    def _prefix(self, number: int) -> list[str]:
        """The rarest shingles; a question with none of them has less in common than `least` needs."""
        shingles = sorted(self._shingles[number], key=lambda shingle: (-self._weights[shingle], shingle))
        rest, enough = self._sums[number], self._least * self._sums[number] * (1 - 1e-9)
        for count, shingle in enumerate(shingles):
            if rest < enough:
                return shingles[:count]
            rest -= self._weights[shingle]
        return shingles

    def _small_change(self, left: tuple[str, ...], right: tuple[str, ...]) -> bool:
        """Whether one word alone differs, and one of the two carries little."""
        if len(left) != len(right):
            return False
        differing = [pair for pair in zip(left, right, strict=True) if pair[0] != pair[1]]
        if len(differing) != 1:
            return False
        smaller = min(self._words.get(word, self._unseen) for word in differing[0])
        weight = min(math.fsum(self._words.get(word, self._unseen) for word in words) for words in (left, right))
        return smaller <= SMALL_WORD * weight

    def _frequencies(self, held: Iterable[Iterable[str]]) -> dict[str, float]:
        """The weight of everything that the questions hold."""
        counts = Counter(part for parts in held for part in parts)
        return {part: math.log(1 + len(self._texts) / count) for part, count in counts.items()}

    def _likeness(self, left: frozenset[str], right: frozenset[str]) -> float:
        common = self._sum(left & right)
        return common / (self._sum(left) + self._sum(right) - common)

    def _sum(self, shingles: frozenset[str]) -> float:
        return math.fsum(self._weights.get(shingle, self._unseen) for shingle in shingles)
