"""A published corpus: how to read it, what its words for harm mean, and what its licence allows."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saferflow.data.images import take_image
from saferflow.data.records import WHOLE
from saferflow.data.rows import BadRow, Labels, Row, content_id
from saferflow.errors import DataError
from saferflow.params import CorpusSource, DataParams
from saferflow.protocol.hazards import NONE, REDIRECTED
from saferflow.rng import rng


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a corpus, before its image is read."""

    file: str
    number: int
    question: str
    image: Any
    """As `take_image` takes it; a path is relative to the corpus's folder."""
    harmful: bool | None
    """None: the corpus does not say what a safe assistant does."""
    word: str = ""
    """The corpus's own name for the harm."""
    severity: int = 2
    """1..3, for a harmful question."""
    risk_source: str = "text"
    attack: str = "none"
    split: Literal["train", "evaluation"] = "evaluation"
    """The authors' split; benchmarks are held out."""
    answer: str = ""
    """A reference answer to a harmless question; harmful questions have none."""
    rejected: str = ""
    """A worse answer, where the corpus has pairs; `answer` is then the better one, whatever the question."""
    decision: str = ""
    """Set only where the default is wrong: `answer` if harmless, else `refuse` or, for some hazards, `redirect`."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A published corpus."""

    name: str
    title: str
    paper: str
    """arXiv number."""
    licence: str
    """SPDX identifier as the authors state it; empty where we found none."""
    layout: str
    """The files to read, in the authors' layout."""
    hazards: Mapping[str, tuple[str, str]]
    """The corpus's word for a harm -> (our code, the reason)."""
    read: Callable[[Path], Iterator[Item | BadRow]]
    trains: bool = True
    """False: its authors do not allow training on it."""

    def hazard(self, word: str, own: Mapping[str, str]) -> str:
        """Map the corpus's word for a harm to our code; empty if neither the source's mapping nor the table has it.

        Words are compared in lower case, without digits and signs. A word that contains a known word counts as that word.
        """
        name, own_codes = plain(word), {plain(key): code for key, code in own.items()}
        table = {plain(key): code for key, (code, _) in self.hazards.items()}
        if name in (known := table | own_codes):
            return known[name]
        return next((code for key, code in table.items() if key in name), "")

    def row(self, item: Item, source: CorpusSource, data: DataParams, seed: int) -> Row | None:
        """Turn an item into a row; None where `share` leaves it out.

        Raises:
            DataError: the question is empty, or the image cannot be used.
        """
        if not isinstance(item.question, str) or not item.question.strip():
            raise DataError("the question is missing or empty")
        image = take_image(
            item.image, root=Path(source.path), max_bytes=data.max_image_bytes, max_pixels=data.max_image_pixels
        )
        identifier = content_id(self.name, item.question, image)
        if rng(seed, "share", identifier).random() >= source.share:
            return None
        split = item.split
        if source.evaluation_share is not None:
            held_out = rng(seed, "split", identifier).random() < source.evaluation_share
            split = "evaluation" if held_out else "train"
        labels = None if item.harmful is None else self._labels(item, source)
        answer, rejected = (text if isinstance(text, str) else "" for text in (item.answer, item.rejected))
        return Row(identifier, self.name, split, item.question, image, labels, answer, rejected, self.licence)

    def _labels(self, item: Item, source: CorpusSource) -> Labels:
        if not item.harmful:
            return Labels("safety", NONE, 0, item.risk_source, item.attack, item.decision or "answer")
        hazard = self.hazard(item.word, source.hazards)
        hazard = "" if hazard == NONE else hazard
        decision = item.decision or ("redirect" if hazard in REDIRECTED else "refuse")
        return Labels("safety", hazard, max(1, min(3, item.severity)), item.risk_source, item.attack, decision)


def plain(word: str) -> str:
    """Lower-case letters with single spaces between words, without a leading number or `O3:`."""
    return " ".join(re.sub(r"[^a-z]+", " ", re.sub(r"^\s*[oO]?\d+\s*[:_-]?", "", str(word)).casefold()).split())


def missing(folder: Path, what: str) -> BadRow:
    """A bad row that reports a missing part of a corpus."""
    return BadRow(str(folder), WHOLE, f"holds no {what}; give data.sources the folder as its authors publish it", "")


def inner(folder: Path, *names: str) -> Path:
    """The first of these folders inside `folder`, else `folder` itself: archives unpack at different depths."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def word_of(values: Mapping[str, Any], *names: str) -> str:
    """The value of the first of these fields that holds text; empty if none does."""
    return next((str(values[name]) for name in names if isinstance(values.get(name), str) and values[name]), "")
