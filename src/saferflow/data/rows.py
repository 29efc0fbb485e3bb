"""One frozen row type per table, and the rows that a source yields."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from saferflow.errors import DataError
from saferflow.protocol.tools import DECLINING

Turn = tuple[str, str]
"""The user's message and the assistant's answer."""

WRONG_ANSWER = "wrong_answer"
"""`perturbation` of a general pair: the rejected side is the answer to another question or picture."""
THEIRS = "theirs"
"""Writer of a response that comes with the source, and perturbation of a rejected side that comes with it."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Gold labels of a question about an image. Judge and teacher may know them; policy and planner may not."""

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
    """Origin of the decision: one of `LABEL_SOURCES` (data/origins.py)."""

    resembles: tuple[str, ...] = ()
    """For a harmless row: hazard, severity and risk source that an over-cautious reader would see; empty if not given."""

    @property
    def harmful(self) -> bool:
        """Whether the request is to be refused or redirected."""
        return self.decision in DECLINING

    def to_json(self) -> str:
        """One line of JSON, as column `labels` of the tables holds it."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        raw["objects"] = tuple(raw["objects"])
        raw["facts"] = tuple(tuple(fact) for fact in raw["facts"])
        raw["resembles"] = tuple(raw.get("resembles", ()))
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class Row:
    """A question, perhaps about an image, as a source yields it."""

    id: str
    source: str
    split: str
    """`train` or `evaluation`."""
    question: str
    """All of the user's messages, one line per turn."""
    image: bytes | None
    """The encoded image file (PNG, JPEG, ...), or None for a text-only row."""
    labels: Labels | None
    answer: str = ""
    """A plain reference answer without protocol, where the source has one."""
    rejected: str = ""
    """A worse answer to the same question, where the source has pairs; `answer` is then the better one."""
    licence: str = ""
    """SPDX identifier; empty where the source states none."""
    earlier: tuple[Turn, ...] = ()
    """The turns before the last one; the policy answers the last one."""
    drawn: bool = False
    """True for rows of the drawn corpus, which alone the rule planner and the rule teacher know."""


def content_id(source: str, question: str, image: bytes | None) -> str:
    """An id from question and image file: equal content gives an equal id, other content another one."""
    digest = hashlib.sha256(question.encode())
    digest.update(b"\0" + hashlib.sha256(image).digest() if image is not None else b"")
    return f"{source}-{digest.hexdigest()[:16]}"


def whole_question(turns: Sequence[Turn], last: str) -> str:
    """All of the user's messages in a conversation, one line per turn; planner, judge and labels refer to this text."""
    return "\n".join([*(user for user, _ in turns), last])


def turns_to_json(turns: Sequence[Turn]) -> str:
    """Turns as column `earlier` holds them: a JSON list of [user, assistant]; empty text for no turn."""
    return json.dumps(list(turns), ensure_ascii=False) if turns else ""


class Conversation:
    """Base of the row types of prompts: gives the turns before the last one."""

    __slots__ = ()

    id: str
    system: str
    question: str
    """All that the user says, one line per turn."""
    image: bytes | None
    earlier: str
    """The turns before the last one, as `turns_to_json` writes them."""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns before the last one.

        Raises:
            DataError: column `earlier` holds no such turns.
        """
        try:
            turns = tuple((user, assistant) for user, assistant in json.loads(self.earlier or "[]"))
        except (ValueError, TypeError):
            turns = ((None, None),)
        if not all(isinstance(text, str) for turn in turns for text in turn):
            raise DataError(
                f"row {self.id}: column earlier is {self.earlier[:80]!r}; a JSON list of [user, assistant] texts is "
                "expected, or nothing"
            )
        return turns

    @property
    def last_question(self) -> str:
        """The user's message in the last turn.

        Raises:
            DataError: the question does not begin with the user's messages of the turns before.
        """
        before = whole_question(self.turns, "")
        if not self.question.startswith(before):
            raise DataError(
                f"row {self.id}: the question does not begin with what the user said before, {before[:80]!r}; "
                "it must hold all that the user says, one line per turn"
            )
        return self.question[len(before) :]


@dataclass(frozen=True, slots=True)
class SFTRow(Conversation):
    """A row of table `sft`: a prompt and its reference completion."""

    id: str
    source: str
    kind: str
    """`safety`, `general`, or `reflection` (on a draft, in the turn after it)."""
    image: bytes | None
    system: str
    """The plan's system prompt; empty for a general row."""
    question: str
    completion: str
    plan: str
    """The plan as JSON; empty for a general row and for a reflection, which follow no plan."""
    labels: str
    """The labels as JSON."""
    earlier: str = ""
    writer: str = ""
    """Writer of the completion: `rules`, a model's name, `theirs` (the source), or `theirs with a trace by` one of the former;
    empty in tables older than this column."""


@dataclass(frozen=True, slots=True)
class DPORow(Conversation):
    """A row of table `dpo`: a prompt, the chosen and the rejected completion."""

    id: str
    source: str
    image: bytes | None
    system: str
    question: str
    chosen: str
    rejected: str
    perturbation: str
    """Fault of the rejected side: the name of a planted fault, or `theirs` where the source brought it."""
    plan: str
    labels: str
    earlier: str = ""
    writer: str = ""
    """Writer of the chosen side, as in `SFTRow`."""
    rejected_writer: str = ""
    """Writer of the rejected side, in the same words; or `policy` for a near miss."""


@dataclass(frozen=True, slots=True)
class PromptRow(Conversation):
    """A prompt without a reference: the rows of GRPO and of the held-out table."""

    id: str
    source: str
    kind: str
    image: bytes | None
    system: str
    question: str
    plan: str
    labels: str
    earlier: str = ""

    def columns(self) -> dict[str, str]:
        """The row's columns that a reward function receives beside a completion."""
        return {"row": self.id, "question": self.question, "plan": self.plan, "labels": self.labels}


TABLES = {"sft": SFTRow, "dpo": DPORow, "grpo": PromptRow, "evaluation": PromptRow}
"""Table of stage `plan` -> type of its rows."""
WATCH = "watch"
"""Table of prompts that are set aside from training, for policies to answer while they train."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, for the table of bad rows."""

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
    """The judge: model and digest of the rubric, or digest of the rules; empty in tables older than this column."""
    graded: bool = True
    """False where the judge's answer could not be read, or its server refused the row; the grades then mean nothing."""
    opinions: str = ""
    """With several judges: the grades of each as JSON; the grades above are their median."""
