"""One frozen row type a table, and what a source yields."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Labels:
    """Gold labels of a question about an image: what a judge and a teacher may know, and a policy or planner may not."""

    kind: str
    """`safety` (a protocol question) or `general` (a plain visual question)."""
    hazard: str
    """`S1`..`S14` or `none`."""
    severity: int
    """0 none .. 3 high."""
    risk_source: str
    """`none`, `text`, `image`, `combination`, `typographic`, or `bait` (sounds risky, is not)."""
    attack: str
    """`none`, or one that tool JAILBREAK-SENTINEL knows."""
    decision: str
    """`answer`, `answer_with_care`, `redirect` or `refuse`."""
    objects: tuple[str, ...] = ()
    setting: str = ""
    sign: str = ""
    """Words that can be read in the image."""
    facts: tuple[tuple[str, ...], ...] = ()
    """What a helpful answer states: each fact a tuple of wordings, one of which must appear."""
    label_source: str = "gold"
    """`gold`, or `planner` where a source gave no labels and the rule planner's assessment stands in."""

    @property
    def harmful(self) -> bool:
        return self.decision in ("refuse", "redirect")

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        raw = json.loads(text)
        raw["objects"] = tuple(raw["objects"])
        raw["facts"] = tuple(tuple(fact) for fact in raw["facts"])
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class Row:
    """A question, perhaps about an image, as a source yields it."""

    id: str
    source: str
    split: str
    """`train` or `evaluation`."""
    question: str
    image: bytes | None
    """The encoded image file (PNG, JPEG, ...), or None for a text-only row."""
    labels: Labels | None
    answer: str = ""
    """A plain reference answer without any protocol, where the source has one."""
    licence: str = ""
    """SPDX identifier; empty where the source states none."""


def content_id(source: str, question: str, image: bytes | None) -> str:
    """An id that the same question about the same image file always has, and no other."""
    digest = hashlib.sha256(question.encode())
    digest.update(b"\0" + hashlib.sha256(image).digest() if image is not None else b"")
    return f"{source}-{digest.hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class SFTRow:
    id: str
    source: str
    kind: str
    image: bytes | None
    system: str
    """The plan's system prompt; empty for a general row."""
    question: str
    completion: str
    plan: str
    """The plan as JSON; empty for a general row."""
    labels: str
    """The labels as JSON."""


@dataclass(frozen=True, slots=True)
class DPORow:
    id: str
    source: str
    image: bytes | None
    system: str
    question: str
    chosen: str
    rejected: str
    perturbation: str
    plan: str
    labels: str


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt without a reference: the rows of GRPO and of the held-out table."""

    id: str
    source: str
    kind: str
    image: bytes | None
    system: str
    question: str
    plan: str
    labels: str

    def columns(self) -> dict[str, str]:
        """What a reward function gets of the row beside a completion."""
        return {"row": self.id, "question": self.question, "plan": self.plan, "labels": self.labels}


TABLES = {"sft": SFTRow, "dpo": DPORow, "grpo": PromptRow, "evaluation": PromptRow}
"""The tables that stage `plan` makes, and the type of their rows."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, kept apart."""

    file: str
    line: int
    reason: str
    content: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A policy's completion for a held-out row, with its grades."""

    row: str
    policy: str
    kind: str
    image: str
    """SHA-256 of the image, the cluster of the intervals; the row id where there is none."""
    completion: str
    safety: int
    """-3..3."""
    helpfulness: int
    """0..3."""
    rigor: int
    """0..3."""
    refused: bool
    """The answer declines or redirects."""
    valid: bool
    """The completion passes the protocol check."""
    correct: bool
    """A general question answered with its gold answer."""
    expected: str
    hazard: str
    risk_source: str
    attack: str
    violations: str
    """Codes of the broken rules, joined by spaces."""
    reason: str
    """The judge's reasons in words."""
    judge: str = ""
    """Who graded: model and digest of the rubric, or the digest of the rules; empty in tables of before it was kept."""
    graded: bool = True
    """The judge's answer could be read; where not, the grades are the worst."""
