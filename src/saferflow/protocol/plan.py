"""A plan: hazard, severity, persona, tools and topology. It cannot exist incoherent."""

import json
from dataclasses import MISSING, asdict, dataclass, fields, replace
from types import SimpleNamespace
from typing import Literal

from saferflow.errors import PlanError
from saferflow.protocol.coherence import problems
from saferflow.protocol.prompt import render_prompt
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.topologies import Automaton, compile_plan


@dataclass(frozen=True, slots=True)
class Plan:
    """What the planner specifies for one image and question [K]; the fields' values are ours.

    `tools` is in the order in which a linear plan calls them. `branches` is for a tree: the paths over the perception
    and reasoning tools other than the root (the first perception tool); empty means one branch a tool. `max_returns`
    is for a loop: how often a trace may go from reasoning back to perception.

    Raises:
        PlanError: listing everything that is incoherent.
    """

    hazard: str
    severity: int
    persona: str
    tools: tuple[str, ...]
    topology: str
    branches: tuple[tuple[str, ...], ...] = ()
    max_returns: int = 1

    def __post_init__(self) -> None:
        found = problems(self)
        if found:
            raise PlanError("the plan is incoherent:\n" + "\n".join(f"  {problem}" for problem in found))

    def layer(self, layer: Layer) -> tuple[str, ...]:
        """The plan's tools of one layer, in the plan's order."""
        return tuple(tool for tool in self.tools if TOOLS[tool].layer is layer)

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The branches of a tree, with the default filled in; empty for every other kind."""
        if self.topology != "tree":
            return ()
        rest = self.layer(Layer.PERCEPTION)[1:] + self.layer(Layer.REASONING)
        return self.branches or tuple((tool,) for tool in rest)

    def linear(self) -> "Plan":
        """The same tools without a graph of their own: one after the other, in the plan's order."""
        return replace(self, topology="linear", branches=())

    @property
    def automaton(self) -> Automaton:
        """The legal traces of this plan."""
        return compile_plan(self)

    def system_prompt(self, detail: Literal["brief", "full"]) -> str:
        """The configuration as the responder reads it: a few lines, or with fields, form and rules."""
        return render_prompt(self, detail)

    def to_json(self) -> str:
        """One line of JSON; `from_json` is its inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read `to_json`'s form.

        Raises:
            PlanError: the text is no JSON object with a plan's fields, or the plan is incoherent.
        """
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"a plan is a JSON object; this is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise PlanError(f"a plan is a JSON object; got {type(row).__name__}")
        given = {name: _tuples(value) for name, value in row.items()}
        names = [field.name for field in fields(cls)]
        missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in row]
        unknown = sorted(row.keys() - set(names))
        if missing or unknown:
            lines = [f"  {name}: missing" for name in missing]
            lines += [f"  {name}: not a field of a plan; there are {', '.join(names)}" for name in unknown]
            rest = SimpleNamespace(**{field.name: given.get(field.name, field.default) for field in fields(cls)})
            lines += [f"  {problem}" for problem in problems(rest) if problem.partition(":")[0] not in missing]
            raise PlanError("the JSON does not fit Plan:\n" + "\n".join(lines))
        return cls(**given)


def _tuples(value: object) -> object:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
