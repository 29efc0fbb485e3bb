"""Who writes plans and reference responses: rules, or a model behind a server. Stage `plan` asks for all of a kind at once.

A failure is text that says why, in the place of the plan or of the response; the stage moves such rows to quarantine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from saferflow.data.rows import Labels, Row
from saferflow.params import EndpointWriterParams, RuleWriterParams
from saferflow.planner import teacher
from saferflow.planner.rules import plan_for
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response
from saferflow.rng import rng


@dataclass(frozen=True, slots=True)
class Task:
    """A reference response to be written."""

    row: Row
    image: bytes | None
    plan: Plan
    labels: Labels


class Writer(Protocol):
    """Both methods answer in the order in which they are asked."""

    def plans(self, asked: Sequence[tuple[str, bytes | None]]) -> list[Plan | str]:
        """A plan for each question and image; no label is known here."""

    def references(self, tasks: Sequence[Task]) -> list[Response | str]:
        """A response that keeps its plan, for each task."""


class RuleWriter:
    """The rule planner and the rule teacher: deterministic, for the embedded corpus."""

    def __init__(self, seed: int, coverage: float):
        self._seed, self._coverage = seed, coverage

    def plans(self, asked: Sequence[tuple[str, bytes | None]]) -> list[Plan | str]:
        return [plan_for(question, image) for question, image in asked]

    def references(self, tasks: Sequence[Task]) -> list[Response | str]:
        return [
            teacher.write(
                task.plan,
                task.row.question,
                task.labels,
                task.row.answer,
                rng(self._seed, "teach", task.row.id),
                self._coverage,
            )
            for task in tasks
        ]


def writer_of(params: RuleWriterParams | EndpointWriterParams, seed: int, coverage: float) -> Writer:
    """The writer that the params name."""
    if params.kind == "rules":
        return RuleWriter(seed, coverage)

    from saferflow.endpoint.client import Endpoint
    from saferflow.endpoint.store import Store
    from saferflow.planner.endpoint import EndpointWriter

    return EndpointWriter(Endpoint(params, Store()))
