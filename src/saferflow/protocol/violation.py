"""A broken rule, and the codes by which rules are known."""

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
"""Code -> meaning. Codes are stable: one that is dropped is never given to another rule."""

SHOWN = 60
"""Characters of a completion that a message quotes."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: at which call (`step`, from 1; 0 where it is no call's fault), on which line (from 1), what was
    found, and what was legal there."""

    code: str
    step: int
    line: int
    found: str
    legal: tuple[str, ...]

    @property
    def message(self) -> str:
        """The rule, what was found and what was legal there."""
        legal = f"; legal: {', '.join(self.legal)}" if self.legal else ""
        return f"{CODES[self.code]}: found {self.found}{legal}"

    def __str__(self) -> str:
        return f"{self.line}: {self.code} {self.message}"


def quote(words: str) -> str:
    """The beginning of what stands in a completion, for a message."""
    return repr(words[:SHOWN]) + "…" * (len(words) > SHOWN) if words else ""


def clip(name: str) -> str:
    """A name from a completion, for a message; a model can write one of any length."""
    return name[:SHOWN] + "…" * (len(name) > SHOWN)
