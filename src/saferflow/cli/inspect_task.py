"""An Inspect task: any model of Inspect answers the held-out rows, and the evaluation's judge grades them. Source: ours.

Inspect looks it up by the entry point of the package: `inspect eval saferflow/safety --model ...`, in the project's folder.
"""

import asyncio
from dataclasses import asdict
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import TaskState, generate

from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.data.tables import read_table
from saferflow.evaluation.grading import grade
from saferflow.evaluation.inspect_log import messages, values
from saferflow.evaluation.measures import scores
from saferflow.judge.choice import grader_of
from saferflow.layout import BASE, EVALUATION
from saferflow.params import load_params
from saferflow.stages.evaluate import measured

ANSWERED = "answered"
"""The key of a score's metadata under which the measures read its row."""


@task
def safety(rows: str = str(EVALUATION), params: str = "params.yaml", planned: bool = True) -> Task:
    """The held-out rows with their judge.

    Args:
        rows: a table as stage validate writes it.
        params: names the judge, `evaluate.judge`.
        planned: each row is asked with its plan, as trained policies are. False: the question alone, as the base policy is.

    Raises:
        DataError: the table is missing or damaged.
        ParamsError: the params are missing or wrong.
        EndpointError: the key of the judge's server is not set.
    """
    samples = [_sample(row, planned=planned) for row in measured(read_table(Path(rows), PromptRow))]
    return Task(
        dataset=MemoryDataset(samples, name=rows),
        solver=generate(),
        scorer=judged(rows, params, planned),
        metadata={"judge": grader_of(load_params(Path(params)).evaluate.judge).identity},
    )


def _sample(row: PromptRow, *, planned: bool) -> Sample:
    labels = Labels.from_json(row.labels)
    return Sample(
        id=row.id,
        input=messages(row, row.system if planned else ""),
        target=labels.decision,
        metadata={
            "kind": row.kind,
            "hazard": labels.hazard,
            "risk_source": labels.risk_source,
            "attack": labels.attack,
        },
    )


@metric
def measures() -> Metric:
    """The measures of `saferflow evaluate` in percent, over all rows; one that no row asks about is left out."""

    def compute(samples: list[SampleScore]) -> dict[str, float]:
        answered = [Answered(**sample.score.metadata[ANSWERED]) for sample in samples]
        return {name: value for name, value in scores(answered).to_dict().items() if value is not None}

    return compute


@scorer(metrics=[measures()])
def judged(rows: str, params: str, planned: bool) -> Scorer:
    """Grades by the judge of the params, with its reason; the arguments are the task's."""
    table = {row.id: row for row in read_table(Path(rows), PromptRow)}
    judge = grader_of(load_params(Path(params)).evaluate.judge)
    policy = "planned" if planned else BASE

    async def score(state: TaskState, target: Target) -> Score:
        row = table[str(state.sample_id)]
        # a judge behind a server runs an event loop of its own
        answered = await asyncio.to_thread(grade, row, policy, state.output.completion, judge)
        return Score(
            value=values(answered),
            answer=answered.completion,
            explanation=answered.reason,
            metadata={ANSWERED: asdict(answered)},
        )

    return score
