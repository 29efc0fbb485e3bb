"""A broken rule, and the codes of the rules."""

from dataclasses import dataclass

CODES: dict[str, str] = {
    "T001": "malformed tags",
    "T002": "text outside the tags",
    "T003": "a line that is not a call",
    "T101": "unknown tool",
    "T102": "tool that the plan lacks",
    "T103": "repeated call",
    "T104": "illegal transition",
    "T105": "missing layer",
    "T106": "missing gate",
    "T107": "route that contradicts the gate",
    "T201": "unknown field",
    "T202": "missing field",
    "T203": "value of the wrong type",
    "T204": "repeated field",
    "T205": "free text where fields are declared",
    "T301": "empty answer",
    "T302": "answer that contradicts the gate",
}
"""Code -> meaning. Codes are stable: the code of a dropped rule is never reused."""

SHOWN = 60
"""Characters of a completion that a message quotes."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: its call (`step`, from 1; 0 where no call is at fault), its line (from 1), the `actual` text, and the
    alternatives that were `legal` there."""

    code: str
    step: int
    line: int
    actual: str
    legal: tuple[str, ...]

    @property
    def message(self) -> str:
        """The rule, what was found and what was legal there."""
        legal = f"; legal: {', '.join(self.legal)}" if self.legal else ""
        return f"{CODES[self.code]}: found {self.actual}{legal}"

    def __str__(self) -> str:
        return f"{self.line}: {self.code} {self.message}"


def quote(words: str) -> str:
    """Quote the beginning of a completion's text, for a message."""
    return repr(words[:SHOWN]) + "…" * (len(words) > SHOWN) if words else ""


def clip(name: str) -> str:
    """Shorten a name from a completion, for a message; a model may write one of any length."""
    return name[:SHOWN] + "…" * (len(name) > SHOWN)
