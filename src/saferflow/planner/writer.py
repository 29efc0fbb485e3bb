"""The writers of plans and reference responses: rules, or a model behind a server. Stage `plan` asks for a batch at once."""

from collections.abc import Sequence

from saferflow.data.rows import Labels
from saferflow.params import EndpointWriterParams, RuleWriterParams
from saferflow.planner import teacher
from saferflow.planner.rules import plan_for
from saferflow.planner.tasks import Task, Writer
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response
from saferflow.rng import rng

RULES = "rules"


class RuleWriter:
    """The rule planner and the rule teacher: deterministic, and only for the drawn corpus."""

    name = RULES

    def __init__(self, seed: int, coverage: float):
        self._seed, self._coverage = seed, coverage

    def labels(self, questions: Sequence[tuple[str, bytes | None]]) -> list[Labels | str | None]:
        """None for each question: rules know no labels."""
        return [None] * len(questions)

    def plans(self, questions: Sequence[tuple[str, bytes | None]]) -> list[Plan | str]:
        """A plan of the rule planner for each question and image."""
        return [plan_for(question, image) for question, image in questions]

    def references(self, tasks: Sequence[Task]) -> list[Response | str]:
        """A response of the rule teacher for each task; it keeps the task's answer where there is one."""
        return [self._reference(task) for task in tasks]

    def _reference(self, task: Task) -> Response:
        random = rng(self._seed, "teach", task.row.id)
        answer = task.row.answer if task.row.drawn else ""
        reference = teacher.write(task.plan, task.row.question, task.labels, answer, random, self._coverage)
        return Response(reference.trace, task.answer) if task.answer else reference


def writer_of(params: RuleWriterParams | EndpointWriterParams, seed: int, coverage: float) -> Writer:
    """The writer that the params name; `coverage` is the chance of an optional tool."""
    if params.kind == "rules":
        return RuleWriter(seed, coverage)

    from saferflow.endpoint.client import Endpoint
    from saferflow.endpoint.store import Store
    from saferflow.planner.endpoint import EndpointWriter

    return EndpointWriter(Endpoint(params, Store(), "plan.writer"), params.model)
