"""The plan of a request: by the planner that planned the training rows, or by the rules where its server is away."""

from collections.abc import Callable
from dataclasses import dataclass

from saferflow.errors import EndpointError
from saferflow.params import EndpointWriterParams, Params
from saferflow.planner.rules import plan_for
from saferflow.planner.writer import RULES, writer_of
from saferflow.protocol.plan import Plan
from saferflow.serving.refusal import Refusal

RETRY_AFTER = 10
"""Seconds after which a planner that was away may be back."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and who wrote it."""

    plan: Plan
    planner: str


class Planner:
    """`plan.writer` of the params, asked once a request.

    Args:
        fell_back: is called when the rules plan in its place.
    """

    def __init__(self, params: Params, fell_back: Callable[[], None] = lambda: None):
        self._params, self._fell_back = params, fell_back
        writer = params.plan.writer
        if isinstance(writer, EndpointWriterParams):
            writer = writer.model_copy(update={"timeout": params.serve.planner_seconds, "retries": 0})
        self._writer = writer_of(writer, params.run.seed, params.plan.tool_coverage)

    def plan(self, user_text: str, image: bytes | None) -> Planned:
        """A plan from what the policy sees; no label is known.

        Raises:
            Refusal: 503 where the planner has none and `serve.planner_away` is `refuse`.
        """
        try:
            [plan] = self._writer.plans([(user_text, image)])
        except EndpointError as error:
            plan = str(error)
        name = self._writer.name
        if isinstance(plan, str):
            if self._params.serve.planner_away == "refuse":
                raise Refusal(503, "planner_away", f"the planner {name} has no plan: {plan}", RETRY_AFTER)
            self._fell_back()
            plan, name = plan_for(user_text, image), RULES
        return Planned(plan if self._params.plan.topologies else plan.linear(), name)
