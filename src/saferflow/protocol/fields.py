"""The fields of a plan, before the check for coherence."""

from dataclasses import dataclass

from saferflow.protocol.tools import TOOLS, Layer


@dataclass(frozen=True, slots=True)
class PlanFields:
    """The planner's specification for one image and question [K]; the fields' values are ours.

    `tools` is in the order in which a linear plan calls them. `branches` is for a tree: the paths over the perception
    and reasoning tools other than the root (the first perception tool); empty means one branch per tool. `max_returns`
    is for a loop: how often a trace may go from reasoning back to perception.
    """

    hazard: str
    severity: int
    persona: str
    tools: tuple[str, ...]
    topology: str
    branches: tuple[tuple[str, ...], ...] = ()
    max_returns: int = 1

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
