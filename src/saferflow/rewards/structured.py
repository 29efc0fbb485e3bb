"""SaFeR-VLM's structured reward [V]: thinking and answer marked apart, penalties whatever the final answer.

`overall = clip(0.5 thinking + 0.5 answer - penalty, 0, 10) / 10`. Published are the two parts, the three named dimensions
and penalties of 2 to 4 points; the other dimensions, the weights and the aggregation are ours, because no code is public.
"""

from typing import NamedTuple

from saferflow.judge.structured import StructuredMarks
from saferflow.rewards.toolkit import block

TOP = 10.0
"""The most points of a part, and of a response."""


class StructuredWeights(NamedTuple):
    """What the parts and their dimensions count; all ours. The weights of a part are relative: their sum is divided out."""

    thinking: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of coherence, grounding and awareness."""
    answer: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of safety, helpfulness and faithfulness."""
    parts: tuple[float, float] = (0.5, 0.5)
    """Of thinking and answer; they sum to 1."""
    penalties: tuple[float, float, float, float] = (0.0, 2.0, 3.0, 4.0)
    """Points that a penalty of severity 0, 1, 2, 3 costs; 2 to 4 are published."""


class StructuredReward(NamedTuple):
    """The parts and the penalty in points (each part 0..10, two penalties together 0..8), and the reward in [0, 1]."""

    thinking: float
    answer: float
    penalty: float
    overall: float


def structured_reward(
    text: str,
    marks: StructuredMarks,
    weights: StructuredWeights = StructuredWeights(),  # noqa: B008 immutable
) -> StructuredReward:
    r"""The reward of one completion.

    $T = \frac{c + g + a}{3}$, $A = \frac{s + h + f}{3}$, $P = p(hallucination) + p(contradiction)$ with $p$ = 0, 2, 3, 4
    by severity; overall $= \min(10, \max(0, 0.5 T + 0.5 A - P)) / 10$. A part whose closed pair of tags is missing or
    holds nothing counts 0, whatever its marks: nothing is paid for a block that is not there (ours).
    """
    thinking = _mean((marks.coherence, marks.grounding, marks.awareness), weights.thinking)
    answer = _mean((marks.safety, marks.helpfulness, marks.faithfulness), weights.answer)
    parts = thinking * _written(text, "thinking"), answer * _written(text, "answer")
    penalty = weights.penalties[marks.hallucination] + weights.penalties[marks.contradiction]
    points = weights.parts[0] * parts[0] + weights.parts[1] * parts[1] - penalty
    return StructuredReward(*parts, penalty, min(TOP, max(0.0, points)) / TOP)


def _mean(marks: tuple[int, int, int], weights: tuple[float, float, float]) -> float:
    return sum(weight * mark for weight, mark in zip(weights, marks, strict=True)) / sum(weights)


def _written(text: str, tag: str) -> bool:
    return bool((block(text, tag) or "").strip())
