"""Who graded an evaluation: whether the same judge rewarded the training, and how far several judges agree. Source: ours."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

from saferflow.data.rows import Answered
from saferflow.errors import DataError
from saferflow.evaluation.calibration import RUBRICS, agreement
from saferflow.judge.ensemble import opinions_from_json
from saferflow.judge.members import EVALUATION_JUDGE, members, name_of, names_of, whole_name
from saferflow.params import EvaluationJudgeParams, JudgeParams


@dataclass(frozen=True, slots=True)
class Pair:
    """Two judges on the same rows, in one rubric."""

    judges: tuple[str, str]
    rubric: str
    rows: int
    exact: float
    """Percent of the rows."""
    within_one: float
    """Percent of the rows."""
    alpha: float
    """Krippendorff's, ordinal."""

    def to_dict(self) -> dict:
        """As JSON holds it."""
        return asdict(self)


def shared(reward: JudgeParams, evaluation: EvaluationJudgeParams) -> tuple[str, ...]:
    """The judges that reward and evaluate: the same rules or the same model, whatever the rubric and the server."""
    names = dict.fromkeys(name for one in members(evaluation).values() for name in names_of(one))
    return tuple(name for name in names if name in names_of(reward))


def judge_note(reward: JudgeParams, evaluation: EvaluationJudgeParams) -> str:
    """A sentence for readers of the scores: who rewards, who grades, and what follows where that is the same judge."""
    rewards = name_of(reward)
    grades = " and ".join(dict.fromkeys(whole_name(one) for one in members(evaluation).values()))
    if not shared(reward, evaluation):
        return f"By the parameters, {grades} grades these rows and {rewards} rewards the training."
    which = f"{grades} grades these rows, and {rewards}" if grades != rewards else f"{rewards} grades these rows and"
    return (
        f"By the parameters, {which} rewards the training as well: a policy that has learnt the weak places of its judge is "
        f"measured by them. {EVALUATION_JUDGE} names another."
    )


def pairs(answered: Sequence[Answered]) -> list[Pair]:
    """Every two judges of an ensemble, rubric by rubric, on the safety rows that both graded; nothing for a single judge."""
    opinions = [found for row in answered if row.kind == "safety" and (found := opinions_from_json(row.opinions))]
    judges = dict.fromkeys(judge for found in opinions for judge in found)
    compared = []
    for first, second in combinations(judges, 2):
        both = [(found[first], found[second]) for found in opinions if first in found and second in found]
        try:
            rubrics = agreement([one for one, _ in both], [other for _, other in both])
        except DataError:  # no row that both could grade
            continue
        compared += [
            Pair((first, second), name, one.cases, 100 * one.exact, 100 * one.within_one, one.alpha)
            for name, one in rubrics.items()
        ]
    return compared


def spread(row: Answered) -> int:
    """The widest distance between two judges' grades of a row in one rubric; 0 for a single judge."""
    known = [grades for grades in opinions_from_json(row.opinions).values() if grades.readable]
    given = [[getattr(grades, rubric) for grades in known] for rubric in RUBRICS]
    return max((max(grades) - min(grades) for grades in given if grades), default=0)
