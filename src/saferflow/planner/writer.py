"""Who writes plans and reference responses: rules, or a model behind a server. Stage `plan` asks for all of a kind at once."""

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
    """The rule planner and the rule teacher: deterministic; they know the drawn corpus alone."""

    name = RULES

    def __init__(self, seed: int, coverage: float):
        self._seed, self._coverage = seed, coverage

    def labels(self, asked: Sequence[tuple[str, bytes | None]]) -> list[Labels | str | None]:
        return [None] * len(asked)

    def plans(self, asked: Sequence[tuple[str, bytes | None]]) -> list[Plan | str]:
        return [plan_for(question, image) for question, image in asked]

    def references(self, tasks: Sequence[Task]) -> list[Response | str]:
        return [self._reference(task) for task in tasks]

    def _reference(self, task: Task) -> Response:
        random = rng(self._seed, "teach", task.row.id)
        answer = task.row.answer if task.row.drawn else ""
        made = teacher.write(task.plan, task.row.question, task.labels, answer, random, self._coverage)
        return Response(made.trace, task.answer) if task.answer else made


def writer_of(params: RuleWriterParams | EndpointWriterParams, seed: int, coverage: float) -> Writer:
    """The writer that the params name."""
    if params.kind == "rules":
        return RuleWriter(seed, coverage)

    from saferflow.endpoint.client import Endpoint
    from saferflow.endpoint.store import Store
    from saferflow.planner.endpoint import EndpointWriter

    return EndpointWriter(Endpoint(params, Store(), "plan.writer"), params.model)
