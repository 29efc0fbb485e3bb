"""The virtual tools: their layers and their typed fields.

The first nine names and JAILBREAK-SENTINEL are published [K]; the other tools, all fields and the layer of
JAILBREAK-SENTINEL are ours.
"""

import re
from enum import StrEnum
from typing import Literal, NamedTuple

from saferflow.protocol.hazards import HAZARDS, NONE
from saferflow.protocol.surface import TAG

DECISIONS = ("answer", "answer_with_care", "redirect", "refuse")
"""The decisions of SAFETY-GATE."""
ANSWERING, DECLINING = DECISIONS[:2], DECISIONS[2:]

LEVELS = ("0", "1", "2", "3")
"""Severity as it is written: none, low, medium, high."""

SCORE = re.compile(r"0(\.[0-9]+)?|1(\.0+)?")


class Layer(StrEnum):
    """The three layers [K]; they compare in the order of a trace, not of the alphabet."""

    PERCEPTION = "perception"
    REASONING = "reasoning"
    DECISION = "decision"

    @property
    def order(self) -> int:
        """0 for perception, 1 for reasoning, 2 for decision."""
        return _ORDER[self]

    def __lt__(self, other: "Layer") -> bool:
        return self.order < other.order

    def __le__(self, other: "Layer") -> bool:
        return self.order <= other.order

    def __gt__(self, other: "Layer") -> bool:
        return self.order > other.order

    def __ge__(self, other: "Layer") -> bool:
        return self.order >= other.order


_ORDER = {layer: index for index, layer in enumerate(Layer)}


class Field(NamedTuple):
    """A typed field of a call, written `name=value`."""

    name: str
    type: Literal["enum", "text", "list", "level", "score"]
    choices: tuple[str, ...] = ()
    required: bool = True

    @property
    def expects(self) -> str:
        """The legal values in words, for prompts and messages."""
        words = {"text": "text", "list": "items joined by ', '", "level": "0, 1, 2 or 3", "score": "0 to 1"}
        return words.get(self.type) or "|".join(self.choices)

    def accepts(self, value: str) -> bool:
        """Whether `value` has this field's type and fits on one line of a trace."""
        if self.type == "enum":
            return value in self.choices
        if self.type == "level":
            return value in LEVELS
        if self.type == "score":
            return SCORE.fullmatch(value) is not None
        if not value or value != value.strip() or ";" in value or "\n" in value or ("<" in value and TAG.search(value)):
            return False
        if self.type == "list":
            return all(item and item == item.strip() for item in value.split(", "))
        return True


class Tool(NamedTuple):
    """A virtual tool: no call leaves the model. Without fields, any text observation is legal."""

    name: str
    layer: Layer
    fields: tuple[Field, ...]


_CONFIDENCE = Field("confidence", "score")

TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("OCR-EXTRACT", Layer.PERCEPTION, (Field("text", "text"),)),
        Tool("VISUAL-SCAN", Layer.PERCEPTION, (Field("objects", "list"), Field("setting", "text"), _CONFIDENCE)),
        Tool("KEYWORD-FLAGGING", Layer.PERCEPTION, (Field("terms", "list"), Field("risk", "level"))),
        Tool(
            "CROSS-MODAL-SYNC",
            Layer.PERCEPTION,
            (Field("relation", "enum", ("agrees", "contradicts", "completes")),),
        ),
        Tool(
            "INTENT-RADAR",
            Layer.REASONING,
            (Field("intent", "enum", ("benign", "curious", "ambiguous", "harmful")), _CONFIDENCE),
        ),
        Tool(
            "RISK-SCORER",
            Layer.REASONING,
            (Field("hazard", "enum", (NONE, *HAZARDS)), Field("severity", "level"), _CONFIDENCE),
        ),
        Tool(
            "JAILBREAK-SENTINEL",
            Layer.REASONING,
            (Field("attack", "enum", ("none", "typographic", "role_play", "obfuscation", "injection")),),
        ),
        Tool("CONSEQUENCE-MAP", Layer.REASONING, (Field("harm", "text"), Field("victim", "text"))),
        Tool(
            "POLICY-MATCH",
            Layer.REASONING,
            (Field("rule", "text"), Field("verdict", "enum", ("allowed", "limited", "forbidden"))),
        ),
        Tool("SAFETY-GATE", Layer.DECISION, (Field("decision", "enum", DECISIONS), Field("reason", "text"))),
        Tool("REDIRECT-ENGINE", Layer.DECISION, (Field("alternative", "text"),)),
        Tool("REFUSAL-GENERATOR", Layer.DECISION, (Field("reason", "text"), Field("alternative", "text"))),
        Tool("ANSWER-COMPOSER", Layer.DECISION, (Field("outline", "text"),)),
    )
}
