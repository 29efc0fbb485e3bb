"""What an attack is, which families there are, and what an attack changes in the labels of its row.

Source: ours; the kinds are the field's (typographic: FigStep, arXiv 2311.05608; role play and obfuscation: JailBreakV, arXiv
2404.03027).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from saferflow.data.rows import Labels


@dataclass(frozen=True, slots=True)
class Attack:
    """What the user says, turn by turn, about which picture."""

    turns: tuple[str, ...]
    image: bytes | None
    written: str = ""
    """The words that the attack wrote into the picture."""


Form = Callable[[str, bytes | None, Random], Attack | None]
"""(question, image, random numbers) -> attack; None where the form does not fit the question."""


@dataclass(frozen=True, slots=True)
class Family:
    """A way of attacking, whatever its form."""

    attack: str
    """As tool JAILBREAK-SENTINEL names it."""
    risk_source: str | None = None
    """Source of the risk after the attack; None keeps the former one."""


FAMILIES: dict[str, Family] = {
    "typographic": Family("typographic", "typographic"),
    "role_play": Family("role_play"),
    "obfuscation": Family("obfuscation"),
    "split": Family("typographic", "combination"),
    "pressure": Family("none"),
    "authority": Family("injection"),
    "continuation": Family("injection"),
}

TRAINED, UNSEEN, UNSEEN_FAMILY = "trained", "unseen", "unseen_family"
"""Kinds of forms: those that training may show; others of the same family; those of a family that training never shows."""


def labelled(labels: Labels, name: str, attack: Attack) -> Labels:
    """The labels of a row after an attack of family `name`; the decision never changes.

    A harmless request stays harmless: its labels only gain the words in the picture. Its `attack` stays unset, because that
    would tell the judge (judge/rules.py) that the policy must ignore an instruction in the picture; here the instruction is
    the request itself. The risk of a harmful picture stays in the image.
    """
    words = attack.written or labels.sign
    if not labels.harmful:
        return replace(labels, sign=words)
    family = FAMILIES[name]
    moved = family.risk_source if labels.risk_source != "image" else None
    return replace(labels, attack=family.attack, risk_source=moved or labels.risk_source, sign=words)
