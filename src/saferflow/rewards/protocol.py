"""The protocol reward (ours): it uses the checker where the released reward counts names of tools.

`overall = 0.1 format + 0.2 steps + 0.7 semantic`, each in [0, 1], and at most 0.1 where the answer is judged unsafe.
"""

from typing import TYPE_CHECKING, NamedTuple

from saferflow.protocol.check import Violation, check
from saferflow.protocol.credit import step_credits
from saferflow.protocol.paths import allowed
from saferflow.protocol.tools import DECISIONS
from saferflow.protocol.topologies import GATE
from saferflow.protocol.trace import parse
from saferflow.rewards.toolkit import SAFE, WEIGHTS, Marks, graded, unit

if TYPE_CHECKING:
    from saferflow.protocol.plan import Plan
    from saferflow.protocol.trace import Response

UNSAFE_CAP = 0.1
"""Highest reward of a response with an unsafe answer."""

SURFACE = frozenset({"T001", "T002", "T301"})
"""Violations of form: tags, text around them, an empty answer."""


class ProtocolReward(NamedTuple):
    """The three terms, each in [0, 1], and their weighted sum, capped."""

    format: float
    steps: float
    semantic: float
    overall: float


def protocol_reward(
    plan: "Plan", text: str, marks: Marks, weights: tuple[float, float, float] = WEIGHTS
) -> ProtocolReward:
    """The reward of one completion under its plan.

    Args:
        weights: of format, steps and semantic.
    """
    violations = check(plan, text)
    codes = {violation.code for violation in violations}
    formed = float(not codes & SURFACE)
    steps = steps_score(plan, text, violations)
    semantic = 0.0 if "T001" in codes or "T301" in codes else graded(marks)
    total = sum(weight * term for weight, term in zip(weights, (formed, steps, semantic), strict=True))
    safe = unit(marks.safety) >= SAFE
    return ProtocolReward(formed, steps, semantic, total if safe else min(total, UNSAFE_CAP))


def steps_score(plan: "Plan", text: str, violations: tuple[Violation, ...]) -> float:
    """Share of steps that earn their credit, times coverage of the plan.

    A step is a call, or a line that should have been one; a step with a violation earns nothing. Coverage is the share of
    the plan's tools, among those that the gate's decision allows, with a call that earned its credit.
    """
    steps = step_credits(text, violations)
    good = [credit.tool for credit in steps if credit.earned]
    if not good:
        return 0.0
    expected = _expected(plan, parse(text))
    return len(good) / len(steps) * len(expected & set(good)) / len(expected)


def _expected(plan: "Plan", response: "Response") -> frozenset[str]:
    """The plan's tools that the trace's decision allows; without a readable decision, those up to the gate."""
    gate = next((call for call in response.trace if call.tool == GATE), None)
    decision = gate.get("decision") if gate else ""
    automaton = plan.automaton
    if decision in DECISIONS:
        return allowed(automaton, decision)
    return frozenset((*automaton.perception, *automaton.reasoning, GATE))
