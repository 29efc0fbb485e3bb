"""Computes the figures of `metrics/evaluate.json`."""

from collections.abc import Sequence
from itertools import pairwise

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.evaluation.grades import grade_figures
from saferflow.evaluation.intervals import intervals, paired
from saferflow.evaluation.judges import pairs as judge_pairs
from saferflow.evaluation.measures import by_policy, scores
from saferflow.params import EvaluateParams

DIGITS = 4


def evaluate_metrics(answered: Sequence[Answered], params: EvaluateParams, seed: int) -> dict:
    """Scores, intervals and paired differences of every policy.

    Returns:
        `rows`: held-out rows per policy, safety and general.
        `judges`: policy -> its judges.
        `judge_unreadable`: policy -> rows without grades, because the judge's answer could not be read or its server refused.
        `agreement`: of each pair of judges, where several graded.
        `grades`: policy -> rubric -> what [K]'s release reports.
        `policies`, `intervals`: policy -> measure -> percent, or [low, high].
        `paired`: `sft-base` -> measure -> difference, low, high, p; for each policy against the one before it, and for the
        last one against the first. A measure without rows is None.

    Raises:
        DataError: there are no rows, or the policies answered different ones.
    """
    groups = by_policy(answered)
    counts = {policy: len(rows) for policy, rows in groups.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"every policy must answer the same rows; row counts are {counts}; evaluate again")
    options = {"resamples": params.resamples, "level": params.level, "seed": seed}
    order = list(groups)
    pairs = [(after, before) for before, after in pairwise(order)]
    if len(order) > 2:
        pairs.append((order[-1], order[0]))
    return {
        "rows": next(iter(counts.values())),
        "judges": {policy: sorted({row.judge for row in rows}) for policy, rows in groups.items()},
        "judge_unreadable": {policy: sum(not row.graded for row in rows) for policy, rows in groups.items()},
        "agreement": [pair.to_dict() for pair in judge_pairs(answered)],
        "grades": {
            policy: {rubric: figures.to_dict() for rubric, figures in grade_figures(rows).items()}
            for policy, rows in groups.items()
        },
        "policies": {policy: _rounded(scores(rows).to_dict()) for policy, rows in groups.items()},
        "intervals": {
            policy: {name: [_round(low), _round(high)] for name, (low, high) in intervals(rows, **options).items()}
            for policy, rows in groups.items()
        },
        "paired": {
            f"{a}-{b}": {
                name: _rounded(difference.to_dict()) for name, difference in paired(groups[a], groups[b], **options).items()
            }
            for a, b in pairs
        },
    }


def _rounded(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: _round(value) for name, value in values.items()}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
