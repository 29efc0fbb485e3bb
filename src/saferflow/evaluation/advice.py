"""Advice on a failed verdict: by how far each check failed, on which rows, and what to try next.

This is pure: rows, verdict and params become a value, and the terminal, the report and the model card render it. Source: ours.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Self

from saferflow.data.rows import Answered
from saferflow.evaluation.gate import TRAININGS, Check, Verdict
from saferflow.evaluation.measures import LOWER_IS_BETTER, MALFORMED, scores
from saferflow.evaluation.misses import MISSES, Group, grouped, missed_rows, rows_in_scope
from saferflow.evaluation.remedies import Facts, Remedy, other_draw, remedies
from saferflow.params import Floors, Params

LOSS, OVER, LOSS_OF_HAZARD = "_loss", "safety_over_", "safety_loss_"
"""Parts of the gate's names for comparisons."""
REGRESSIONS = "attack_regressions"
GENERAL = "general"
INCIDENTS = "incident_regressions"
INCOMPARABLE = ("champion_rows", "same_judge")
"""Checks that fail because there is nothing to compare."""
EVALUATE_BOTH = "saferflow evaluate champion candidate"
COMMANDS = {
    INCIDENTS: "saferflow incident list",
    TRAININGS: "saferflow run --set run.seed=N",
    **dict.fromkeys(INCOMPARABLE, EVALUATE_BOTH),
}
"""Check that no held-out row explains -> the command to run."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A failed check and the rows on which it failed."""

    name: str
    detail: str
    """Measured and required value, in the gate's words."""
    distance: str
    """The distance to the required value, in words."""
    points: float | None
    """The distance in points, in trainings for `trainings`, or in rows for `attack_regressions` and `incident_regressions`; None
    where nothing was measured."""
    measure: str
    """The check's measure; empty where no row can show anything."""
    misses: str
    """The fault of the missed rows; the words follow "12 of 20 rows"."""
    missed: int
    asked: int
    """Number of rows that the check covers."""
    groups: tuple[Group, ...]
    """The missed rows by risk source and hazard, most rows first."""
    violations: tuple[tuple[str, int], ...]
    """(code of a broken rule, its rows), most rows first; for protocol validity."""
    command: str
    """The command that shows the missed rows, or that compares the versions where the gate could not."""


@dataclass(frozen=True, slots=True)
class Advice:
    """The advice on a failed verdict."""

    shortfalls: tuple[Shortfall, ...]
    remedies: tuple[Remedy, ...]
    other_draw: Remedy

    def to_dict(self) -> dict[str, Any]:
        """As JSON, each remedy with its command."""
        fields = asdict(self)
        for remedy, raw in zip((*self.remedies, self.other_draw), (*fields["remedies"], fields["other_draw"]), strict=True):
            raw["command"] = remedy.command
        return fields

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, also from JSON."""
        shortfalls = (
            Shortfall(**{**entry, "groups": tuple(Group(**group) for group in entry["groups"]),
                         "violations": tuple((code, rows) for code, rows in entry["violations"])})
            for entry in raw["shortfalls"]
        )  # fmt: skip
        return cls(tuple(shortfalls), tuple(map(_remedy, raw["remedies"])), _remedy(raw["other_draw"]))

    def figures(self) -> dict[str, dict[str, float]]:
        """Check -> `points` and `rows` of its failure, for a metrics file."""
        return {
            shortfall.name: {"rows": shortfall.missed}
            | ({} if shortfall.points is None else {"points": round(shortfall.points, 4)})
            for shortfall in self.shortfalls
        }


def advise(
    verdict: Verdict,
    candidate: Sequence[Answered],
    rival: Sequence[Answered],
    params: Params,
    facts: Facts,
    *,
    against: str,
    regressed: Sequence[Answered] = (),
) -> Advice | None:
    """Derive the advice on a verdict; None if it passed.

    Args:
        candidate: the candidate's answers to all held-out rows.
        rival: the answers of the policy that the verdict compares with, to the same rows.
        against: the rival's name, as `saferflow audit --against` takes it.
        regressed: the candidate's rows that check `attack_regressions` counts.
    """
    if verdict.passed:
        return None
    shortfalls = tuple(
        _shortfall(check, candidate, rival, against, regressed) for check in verdict.checks if not check.passed
    )
    facts = replace(facts, unreadable=_unreadable(candidate))
    measures = [shortfall.measure or shortfall.name for shortfall in shortfalls]
    return Advice(shortfalls, tuple(remedies(measures, params, facts)), other_draw(params))


def forgot_most(groups: Mapping[str, Sequence[Answered]]) -> str:
    """The stage that lost most general ability; empty if none lost any.

    Args:
        groups: policy -> its rows, in the order of training.
    """
    known = [(policy, score) for policy, rows in groups.items() if (score := scores(rows).general) is not None]
    losses = {after: before_score - score for (_, before_score), (after, score) in pairwise(known)}
    worst = max(losses, key=losses.__getitem__, default="")
    return worst if worst and losses[worst] > 0 else ""


def _shortfall(
    check: Check,
    candidate: Sequence[Answered],
    rival: Sequence[Answered],
    against: str,
    regressed: Sequence[Answered],
) -> Shortfall:
    points, distance = _distance(check)
    measure = _measure(check)
    if not measure:
        command = COMMANDS.get(check.name, "")
        return Shortfall(check.name, check.detail, distance, points, "", "", 0, 0, (), (), command)
    hazard = check.name.removeprefix(LOSS_OF_HAZARD) if check.name.startswith(LOSS_OF_HAZARD) else ""
    rows = [row for row in candidate if not hazard or row.hazard == hazard]
    compared = LOSS in check.name or check.name == REGRESSIONS
    missed = missed_rows(rows, measure, rival if compared else None)
    misses = MISSES[measure]
    if check.name == REGRESSIONS:
        missed, misses = list(regressed), f"{misses}, as a former champion did and the present one does not"
    elif compared:
        gained = [row for row in missed_rows(rival, measure, rows) if not hazard or row.hazard == hazard]
        misses = f"{misses}, and not with {against} ({len(gained)} the other way)"
    population = rows_in_scope(rows, measure)
    violations = (
        Counter(code for row in missed for code in set(row.violations.split())) if measure == "validity" else {}
    )
    if check.name in Floors.model_fields and points:
        distance += f", {_rows(math.ceil(points * len(population) / 100 - 1e-9))}"
    groups = grouped(missed, population) if measure != GENERAL else ()  # a general question has neither risk nor hazard
    command = f"saferflow audit --failed {measure}"
    command += (f" --against {against}" if compared else "") + (f" --hazard {hazard}" if hazard else "")
    return Shortfall(
        check.name, check.detail, distance, points, measure, misses, len(missed), len(population), groups,
        tuple(sorted(violations.items(), key=lambda item: (-item[1], item[0]))), command,
    )  # fmt: skip


def _measure(check: Check) -> str:
    """The check's measure of the held-out rows; empty where it has none, or where nothing could be compared."""
    if check.value is None or check.name in COMMANDS:
        return ""
    if check.name.startswith((OVER, LOSS_OF_HAZARD)):
        return "safety"
    return "attack_success_rate" if check.name == REGRESSIONS else check.name.removesuffix(LOSS)


def _distance(check: Check) -> tuple[float | None, str]:
    """The distance of a check from its required value, as a number and in words."""
    if check.name in INCOMPARABLE:
        return None, ""
    if check.name == TRAININGS:
        return check.bound - check.value, f"{check.bound - check.value:.0f} too few"
    if check.value is None:
        return None, "bring held-out rows that ask for it (data.sources)"
    if check.name in (REGRESSIONS, INCIDENTS):
        over = check.value - check.bound
        return over, f"{over:.0f} too many"
    if check.name == "general_loss" and check.bound >= 0:
        return check.value - check.bound, f"{_points(check.value - check.bound)} too many"
    if check.name in Floors.model_fields and check.name != "general_loss":
        high = check.name in LOWER_IS_BETTER
        far = check.value - check.bound if high else check.bound - check.value
        return far, f"{_points(far)} too {'high' if high else 'low'}"
    short = max(0.0, check.bound - check.value)
    if check.name.startswith(OVER):
        unshown = "better, and not shown to be" if check.value > 0 else "no better"
        return short, f"{_points(short)} worse" if short else unshown
    return short, f"{_points(short)} beyond the margin" if short else "within the margin, and not shown to be"


def _points(far: float) -> str:
    return "less than 0.1 points" if far < 0.05 else f"{far:.1f} points"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _unreadable(candidate: Sequence[Answered]) -> bool:
    """Whether at least half of the completions that break the protocol lack a tag."""
    broken = missed_rows(candidate, "validity")
    return bool(broken) and 2 * sum(MALFORMED in row.violations.split() for row in broken) >= len(broken)


def _remedy(raw: Mapping[str, Any]) -> Remedy:
    return Remedy(tuple(raw["settings"]), raw["why"], tuple(raw["measures"]))
