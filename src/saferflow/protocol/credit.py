"""The credit of each step of a trace: whether a call was legal and well typed (process-level reward; ours)."""

from typing import NamedTuple

from saferflow.protocol.surface import find_blocks
from saferflow.protocol.trace import lines
from saferflow.protocol.violation import Violation


class Credit(NamedTuple):
    """One step: a call, or a line of the thinking that should have been one.

    `step` counts the calls from 1 and is 0 for a line that is no call, whose `tool` is empty. `line` is the line of the
    completion, from 1. `legal`: the automaton allows the call there, and for the gate also that the route and the answer
    keep to its decision. `typed`: the fields are as the tool declares them.
    """

    step: int
    line: int
    tool: str
    legal: bool
    typed: bool

    @property
    def earned(self) -> bool:
        """True if the step is legal and well typed."""
        return self.legal and self.typed


def step_credits(text: str, violations: tuple[Violation, ...]) -> tuple[Credit, ...]:
    """The steps of a completion in the order of its lines, judged by `check`'s violations of the same text.

    Never raises; takes time linear in the length of the text. The mean of `earned` is the share of good steps that the
    protocol reward pays. Without a plan (`check(None, text)`), lines that are no call are no steps.
    """
    illegal = {violation.step for violation in violations if not violation.code.startswith("T2")}
    mistyped = {violation.step for violation in violations if violation.code.startswith("T2")}
    prose = {violation.line for violation in violations if violation.code == "T003"}
    steps: list[Credit] = []
    step = 0
    for line in lines(text, find_blocks(text).thinking):
        if line.call:
            step += 1
            steps.append(Credit(step, line.number, line.call.tool, step not in illegal, step not in mistyped))
        elif line.number in prose:
            steps.append(Credit(0, line.number, "", legal=False, typed=False))
    return tuple(steps)
