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


def names_of(params: JudgeParams) -> tuple[str, ...]:
    """All whose grades count: a guard's, and those of the judge beside it."""
    return (name_of(params), *(names_of(params.rest) if params.kind == "guard" else ()))


def whole_name(params: JudgeParams, plain: str = "") -> str:
    """A judge by its model, and its rubric unless that is `plain`; a guard with the judge beside it."""
    if params.kind == "guard":
        return f"{params.model} with {whole_name(params.rest, plain)}"
    if params.kind == "rules" or params.rubric == plain:
        return name_of(params)
    return f"{params.model} (rubric {params.rubric})"
