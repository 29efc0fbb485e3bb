"""Estimates how long a stage of the whole run takes, from its rehearsal, with the sum in words. Source: ours."""

from dataclasses import dataclass
from typing import Self

from saferflow.params import Params

SAMPLED = ("curate", "grpo", "evaluate")
"""Stages in which a policy draws completions."""
SHORT = 1
"""Tokens of a completion in the second rehearsal of a stage that draws completions."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a step, or of all completions of a stage, as a straight line over the tokens of a completion."""

    fixed: float
    """Seconds that do not depend on the completion's length: reading prompts and images, start-up."""
    per_token: float = 0.0

    @classmethod
    def through(cls, short: tuple[int, float], long: tuple[int, float]) -> Self | None:
        """The line through two measurements (tokens, seconds); None if the longer completion took no longer."""
        if long[1] <= short[1]:
            return None
        per_token = min((long[1] - short[1]) / (long[0] - short[0]), long[1] / long[0])
        return cls(long[1] - per_token * long[0], per_token)

    def seconds(self, tokens: int) -> float:
        """Seconds for completions of so many tokens."""
        return self.fixed + self.per_token * tokens

    def times(self, factor: float) -> "Pace":
        """The pace with all seconds multiplied."""
        return Pace(self.fixed * factor, self.per_token * factor)


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of a stage of the whole run (None if nothing was measured), and how they were computed, or why not."""

    seconds: float | None
    sum: str


def duration(
    stage: str, pace: Pace, completions: int, params: Params, rehearsed: Params, rows: dict[str, int]
) -> Duration:
    """The duration of a stage of the whole run, if each of its processes is as fast as one here.

    Each completion counts `policy.max_completion_tokens`, so the duration is an upper bound.

    Args:
        pace: of one optimiser step in sft, dpo and grpo; of all completions in curate and evaluate.
        completions: completions drawn in the rehearsal: in one step of grpo, in all of curate and evaluate.
        rows: table -> rows of the whole run.
    """
    world = params.launch.processes * params.launch.nodes
    section = getattr(params, stage)
    if stage in ("sft", "dpo"):
        steps = rows[stage] * section.epochs / (section.micro_batch_size * world)
        return Duration(steps * pace.fixed, f"{steps:,.0f} micro steps x {pace.fixed:.2f} s")
    if stage == "grpo":
        drawn = rows["curated"] * section.group * section.epochs * section.updates / world
        times = drawn * rehearsed.launch.processes / completions
    else:
        drawn = rows["grpo"] * section.samples if stage == "curate" else 4 * rows["evaluation"]
        times = drawn / completions
    tokens = params.policy.max_completion_tokens
    line = f"{times:,.0f} x ({pace.fixed:.2f} s + {tokens:,} tokens x {pace.per_token:.3g} s)"
    return Duration(times * pace.seconds(tokens), line)
