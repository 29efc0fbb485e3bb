"""The judge that the params name."""

from saferflow.judge.rubrics import Judge
from saferflow.judge.rules import RuleJudge
from saferflow.params import EndpointJudgeParams, RuleJudgeParams


def judge_of(params: RuleJudgeParams | EndpointJudgeParams) -> Judge:
    """A judge by rules, or by a server with its answers kept in `.saferflow/answers.sqlite`."""
    if params.kind == "rules":
        return RuleJudge()

    from saferflow.endpoint.client import Endpoint
    from saferflow.endpoint.store import Store
    from saferflow.judge.endpoint import EndpointJudge

    return EndpointJudge(Endpoint(params, Store()), params.model)
