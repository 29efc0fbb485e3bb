"""The judges that the params name: where each stands, and what a reader knows it by. Source: ours."""

from saferflow.params import EvaluationJudgeParams, JudgeParams

JUDGE, EVALUATION_JUDGE = "judge", "evaluate.judge"
"""Where they stand in params.yaml."""


def members(params: EvaluationJudgeParams) -> dict[str, JudgeParams]:
    """Each judge of the evaluation by where it stands in params.yaml."""
    if params.kind != "ensemble":
        return {EVALUATION_JUDGE: params}
    return {f"{EVALUATION_JUDGE}.judges.{place}": one for place, one in enumerate(params.judges)}


def name_of(params: JudgeParams) -> str:
    """A judge as a reader knows it: its model, whatever its rubric."""
    return "the rule judge" if params.kind == "rules" else params.model
