"""What each call of a completion is worth: whether it was legal where it stands, and whether it is well typed."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from saferflow.protocol.check import check
from saferflow.protocol.trace import parse
from saferflow.protocol.violation import Violation

if TYPE_CHECKING:
    from saferflow.protocol.plan import Plan
    from saferflow.protocol.trace import Call


class Credit(NamedTuple):
    """The verdict on one call."""

    step: int
    """From 1, as in `Violation.step`."""
    tool: str
    legal: bool
    """No rule of order names the call, and the answer does not contradict it (codes T1.. and T3..)."""
    typed: bool
    """No rule of fields names it (codes T2..)."""

    @property
    def value(self) -> float:
        """1 for a legal, well-typed call, else 0."""
        return float(self.legal and self.typed)


def step_credits(plan: "Plan | None", text: str) -> tuple[Credit, ...]:
    """The credit of every call in a completion, in order; total and linear as `check` is. Source: ours."""
    return credited(parse(text).trace, check(plan, text))


def credited(trace: "tuple[Call, ...]", violations: Iterable[Violation]) -> tuple[Credit, ...]:
    """The credit of the calls of a trace, from the violations of its completion."""
    families: dict[int, set[str]] = defaultdict(set)
    for violation in violations:
        families[violation.step].add(violation.code[1])
    return tuple(
        Credit(step, call.tool, not families[step] & {"1", "3"}, "2" not in families[step])
        for step, call in enumerate(trace, 1)
    )
