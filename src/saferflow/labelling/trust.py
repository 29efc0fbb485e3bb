"""Measures by people's grades how far people agree, how far a judge agrees with them, and what a judge's rates are worth.

A rate is corrected by strata: for each verdict of the judge, the share that people count, weighed by how often the judge
gives that verdict (post-stratification; Cochran, Sampling Techniques, 1977, chapter 5A). The sample may therefore hold more
failures than there are. The interval draws each stratum's share from its Beta posterior under Jeffreys' prior, so that two
responses that agree are no certainty. Source of the combination: ours.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

import krippendorff
import numpy as np

from saferflow.data.rows import Answered
from saferflow.evaluation.calibration import RATES, RUBRICS
from saferflow.judge.rubrics import Grades
from saferflow.labelling.sampling import verdict
from saferflow.labelling.table import PersonGrades, by_person

DRAWS = 4000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of a policy's responses, as the judge and as people see it."""

    judged: float
    """The judge's share."""
    people: float | None
    """The share by people's grades; None where a verdict that occurs has no graded response."""
    low: float | None
    high: float | None
    graded: int
    """Number of responses with people's grades."""


def alpha(people: Mapping[str, Mapping[str, Grades]], rubric: str) -> float | None:
    """Krippendorff's ordinal alpha of all graders; None where no response has two grades.

    Args:
        people: person -> response -> grades; people may have graded different responses.
    """
    responses = sorted({response for graded in people.values() for response in graded})
    table = [
        [float(getattr(graded[response], rubric)) if response in graded else np.nan for response in responses]
        for graded in people.values()
    ]
    counts = Counter(response for graded in people.values() for response in graded)
    if not any(count > 1 for count in counts.values()):
        return None
    scale = [0, 1] if rubric == "refused" else list(RUBRICS[rubric])
    twice = [n for n, response in enumerate(responses) if counts[response] > 1]
    paired = np.array(table)[:, twice]
    if len(set(paired[~np.isnan(paired)])) < 2:
        return 1.0  # nothing varies and all agree
    return float(krippendorff.alpha(paired, level_of_measurement="ordinal", value_domain=np.array(scale)))


def consensus(gradings: Iterable[PersonGrades]) -> dict[str, Grades]:
    """Response -> median of people's grades, the lower one of two; refused where more than half say so."""
    responses: dict[str, list[PersonGrades]] = {}
    for grading in gradings:
        responses.setdefault(grading.response, []).append(grading)
    return {
        response: Grades(
            *(median_low(getattr(grading, rubric) for grading in several) for rubric in RUBRICS),
            refused=2 * sum(grading.refused for grading in several) > len(several),
            reason="",
        )
        for response, several in responses.items()
    }


def hazards(gradings: Sequence[PersonGrades]) -> dict[str, float | None]:
    """Hazard -> alpha of people's safety grades on responses to its rows."""
    return {
        hazard: alpha(
            {
                person: {name: grading.grades() for name, grading in graded.items()}
                for person, graded in by_person(grading for grading in gradings if grading.hazard == hazard).items()
            },
            "safety",
        )
        for hazard in sorted({grading.hazard for grading in gradings})
    }


def estimates(
    answered: Sequence[Answered], gradings: Sequence[PersonGrades], *, seed: int = 0
) -> dict[tuple[str, str], Estimate]:
    """(policy, rate) -> the judge's rate and the rate by people's grades.

    Args:
        answered: all evaluated responses.
        gradings: people's grades of a sample of them.
    """
    middle = consensus(gradings)
    where = {grading.response: (grading.policy, grading.verdict) for grading in gradings}
    results = {}
    for policy in dict.fromkeys(row.policy for row in answered):
        rows = [row for row in answered if row.policy == policy and row.kind == "safety" and row.graded]
        shares = Counter(map(verdict, rows))
        strata = {
            name: [grades for response, grades in middle.items() if where[response] == (policy, name)]
            for name in shares
        }
        if not any(strata.values()):
            continue
        for rate, hits in RATES.items():
            weights = {name: count / len(rows) for name, count in shares.items()}
            results[policy, rate] = Estimate(
                sum(map(hits, rows)) / len(rows),
                *_weighed(strata, weights, hits, np.random.default_rng(seed)),
                sum(map(len, strata.values())),
            )
    return results


def _weighed(
    strata: Mapping[str, Sequence[Grades]],
    weights: Mapping[str, float],
    hits: Callable[[Grades], bool],
    random: np.random.Generator,
) -> tuple[float, float, float] | tuple[None, None, None]:
    """The weighted share over strata with the ends of its interval; None where a stratum has no graded response."""
    if not all(strata[name] for name in weights):
        return None, None, None
    share, drawn = 0.0, np.zeros(DRAWS)
    for name, weight in weights.items():
        counted, graded = sum(map(hits, strata[name])), len(strata[name])
        share += weight * counted / graded
        drawn += weight * random.beta(counted + 0.5, graded - counted + 0.5, DRAWS)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # At 0 and 1 the posterior has its middle within, and the share at its end.
    return share, min(share, float(low)), max(share, float(high))
