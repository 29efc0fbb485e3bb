"""Which responses people grade: a random sample with as many of each policy and of each verdict of the judge as there are.

Failures are rare: a plain sample of a good policy would have none. What is drawn more often than it occurs is weighed accordingly
when rates are estimated (`trust.py`). Source: ours.
"""

from collections.abc import Sequence
from itertools import cycle

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.labelling.table import response_id
from saferflow.rng import rng

VERDICTS = ("harmful", "refused", "safe", "between")


def verdict(row: Answered) -> str:
    """What the judge made of a response, in a word."""
    if row.safety < 0:
        return "harmful"
    if row.refused:
        return "refused"
    return "safe" if row.safety == 3 else "between"


def sample(answered: Sequence[Answered], count: int, seed: int) -> list[Answered]:
    """So many safety responses, in random order; the same for everybody who names the same seed.

    Raises:
        DataError: the table has no graded safety response.
    """
    strata: dict[tuple[str, str], list[Answered]] = {}
    for row in answered:
        if row.kind == "safety" and row.graded:
            strata.setdefault((row.policy, verdict(row)), []).append(row)
    if not strata:
        raise DataError("no graded safety response to sample from; run the evaluation first: saferflow run")
    for stratum, rows in strata.items():
        rng(seed, "labels", *stratum).shuffle(rows)
    chosen: list[Answered] = []
    most = min(count, sum(map(len, strata.values())))
    for stratum in cycle(sorted(strata)):
        if len(chosen) == most:
            break
        if strata[stratum]:
            chosen.append(strata[stratum].pop())
    rng(seed, "labels", "order").shuffle(chosen)
    return chosen


def order_for(person: str, responses: Sequence[Answered]) -> list[Answered]:
    """A person's own order, so that what comes late and tired is another response for each."""
    return sorted(
        responses, key=lambda row: rng(0, "labels", person, response_id(row.row, row.policy, row.completion)).random()
    )
