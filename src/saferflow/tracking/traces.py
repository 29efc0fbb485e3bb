"""Answers as MLflow's traces: the protocol's steps are spans, the grades of an evaluation are assessments.

Of an evaluation there is a trace per policy and row, of a server a trace per request. Rows of an evaluation are answered and
graded in batches, so a span's time says when it was written and not how long the step took.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saferflow.data.rows import Answered, PromptRow
from saferflow.errors import PipelineError
from saferflow.evaluation.measures import shown_a_plan
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import parse
from saferflow.tracking import runs

CHECK = "protocol check"
"""Who says whether a completion is valid."""
GOLD = "gold answer"
"""What says whether a general question is answered."""


def log_evaluation(
    name: str,
    tags: Mapping[str, str],
    rows: Sequence[PromptRow],
    answered: Sequence[Answered],
    metrics: Mapping,
    *,
    rules: bool,
) -> str:
    """Open a run, write a trace per answered row, and close it with its figures.

    Args:
        name: of the run.
        tags: of the run.
        rows: as they were asked.
        metrics: as `evaluate_metrics` gives them.
        rules: whether the judge is rules, and no model.

    Returns:
        The run's id.
    """
    import mlflow

    run, asked = runs.start(name, tags), {row.id: row for row in rows}
    traces = [_log(run, asked[row.row], row) for row in answered]
    mlflow.flush_trace_async_logging()  # a trace is written in the background, and can be assessed then
    for trace, row in zip(traces, answered, strict=True):
        _assess(trace, row, "CODE" if rules else "LLM_JUDGE")
    runs.log_numbers(run, metrics["policies"])
    runs.finish(run)
    return run


def _log(run: str, asked: PromptRow, row: Answered) -> str:
    """Write a trace; gives its id."""
    import mlflow

    question = {"question": asked.question, "image": row.image if asked.image is not None else None}
    whole = mlflow.start_span_no_context(
        "answer",
        span_type="CHAIN",
        inputs=question,
        experiment_id=runs.experiment(),
        tags={"saferflow.policy": row.policy, "saferflow.row": row.row, "saferflow.hazard": row.hazard},
        metadata={"mlflow.sourceRun": run},
    )
    for step, (kind, inputs, outputs) in _steps(asked, row).items():
        span = mlflow.start_span_no_context(step, span_type=kind, parent_span=whole, inputs=inputs)
        span.end(outputs=outputs)
    whole.end(outputs={"answer": parse(row.completion).answer})
    return whole.trace_id


def _steps(asked: PromptRow, row: Answered) -> dict[str, tuple[str, Any, Any]]:
    """Step -> kind of span, inputs, outputs; a row without a plan has no plan to follow."""
    plan = Plan.from_json(asked.plan) if asked.plan and shown_a_plan(row.policy) else None
    steps: dict[str, tuple[str, Any, Any]] = {}
    if plan:
        steps["plan"] = ("AGENT", asked.question, plan.to_json())
    steps["generate"] = ("LLM", plan.to_json() if plan else asked.question, row.completion)
    if asked.plan:
        violations = [str(violation) for violation in check(Plan.from_json(asked.plan), row.completion)]
        steps["check"] = ("GUARDRAIL", row.completion, {"valid": row.valid, "violations": violations})
    steps["judge"] = ("EVALUATOR", row.completion, _grades(row) | {"reason": row.reason})
    return steps


def _grades(row: Answered) -> dict[str, Any]:
    """The judge's grades; nothing where its answer could not be read."""
    if row.kind == "general":
        return {"correct": row.correct}
    return {name: getattr(row, name) for name in ("safety", "helpfulness", "rigor", "refused")} if row.graded else {}


def _assess(trace: str, row: Answered, judge: str) -> None:
    from mlflow.entities import AssessmentSource

    import mlflow

    by = AssessmentSource("CODE", GOLD) if row.kind == "general" else AssessmentSource(judge, row.judge or judge)
    for name, value in _grades(row).items():
        mlflow.log_feedback(trace_id=trace, name=name, value=value, source=by, rationale=row.reason or None)
    if row.kind != "general":
        by = AssessmentSource("CODE", CHECK)
        mlflow.log_feedback(trace_id=trace, name="valid", value=row.valid, source=by, rationale=row.violations or None)


@dataclass(frozen=True, slots=True)
class Span:
    """A step of a request."""

    name: str
    kind: str
    """MLflow's type of span."""
    inputs: Any
    outputs: Any
    began: int
    """Nanoseconds since 1970."""
    ended: int


def log_request(spans: Sequence[Span], tags: Mapping[str, str]) -> None:
    """Write a served request as a trace, and see that the store has it: MLflow itself only logs what it could not write.

    Args:
        spans: the request as a whole, then its steps.

    Raises:
        PipelineError: the store does not have it.
    """
    import mlflow

    whole, *steps = spans
    root = _begin(whole, None, {"experiment_id": runs.experiment(), "tags": dict(tags)})
    for step in steps:
        _begin(step, root, {}).end(outputs=step.outputs, end_time_ns=step.ended)
    root.end(outputs=whole.outputs, end_time_ns=whole.ended)
    mlflow.flush_trace_async_logging()
    try:
        mlflow.MlflowClient().get_trace(root.trace_id, display=False)
    except Exception as error:
        raise PipelineError(f"the tracking server did not take a trace: {str(error)[:200]}") from error


def _begin(span: Span, parent: Any, options: Mapping[str, Any]) -> Any:
    import mlflow

    return mlflow.start_span_no_context(
        span.name, span_type=span.kind, parent_span=parent, inputs=span.inputs, start_time_ns=span.began, **options
    )
