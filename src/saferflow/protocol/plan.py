"""A plan: hazard, severity, persona, tools and topology. It cannot exist incoherent."""

import json
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Literal

from saferflow.errors import PlanError
from saferflow.protocol.coherence import problems
from saferflow.protocol.fields import PlanFields
from saferflow.protocol.prompt import render_prompt
from saferflow.protocol.topologies import Automaton, compile_plan


@dataclass(frozen=True, slots=True)
class Plan(PlanFields):
    """The fields of a plan, coherent.

    Raises:
        PlanError: lists everything that is incoherent.
    """

    def __post_init__(self) -> None:
        faults = problems(self)
        if faults:
            raise PlanError("the plan is incoherent:\n" + "\n".join(f"  {problem}" for problem in faults))

    def linear(self) -> "Plan":
        """The linear plan of the same tools, in the same order."""
        return replace(self, topology="linear", branches=())

    @property
    def automaton(self) -> Automaton:
        """The legal traces of this plan."""
        return compile_plan(self)

    def system_prompt(self, detail: Literal["brief", "full"]) -> str:
        """The plan as the responder reads it: a few lines (`brief`), or with fields, form and rules (`full`)."""
        return render_prompt(self, self.automaton, detail)

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
            rest = PlanFields(**{field.name: given.get(field.name, field.default) for field in fields(cls)})
            lines += [f"  {problem}" for problem in problems(rest) if problem.partition(":")[0] not in missing]
            raise PlanError("the JSON does not fit Plan:\n" + "\n".join(lines))
        return cls(**given)


def _tuples(value: object) -> object:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
