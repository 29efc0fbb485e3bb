"""The judges that the params name."""

from saferflow.judge.members import EVALUATION_JUDGE, JUDGE, members
from saferflow.judge.rubrics import Grader, Judge
from saferflow.judge.rules import RuleJudge
from saferflow.params import EvaluationJudgeParams, JudgeParams


def judge_of(params: JudgeParams, section: str = JUDGE) -> Judge:
    """A judge by rules, or by a server with its answers kept in `.saferflow/answers.sqlite`; a guard, with a judge beside it."""
    if params.kind == "rules":
        return RuleJudge()

    from saferflow.endpoint.client import Endpoint
    from saferflow.endpoint.store import Store
    from saferflow.judge.endpoint import EndpointJudge
    from saferflow.judge.guard import GuardJudge
    from saferflow.judge.rubric_text import RubricText

    endpoint = Endpoint(params, Store(), section)
    if params.kind == "guard":
        return GuardJudge(endpoint, params, judge_of(params.rest, f"{section}.rest"))
    return EndpointJudge(endpoint, params.model, RubricText.named(params.rubric))


def grader_of(params: EvaluationJudgeParams) -> Grader:
    """Who grades the evaluation."""
    if params.kind != "ensemble":
        return judge_of(params, EVALUATION_JUDGE)

    from saferflow.judge.ensemble import Ensemble

    return Ensemble([judge_of(one, section) for section, one in members(params).items()])
