"""The type of a perturbation: its name, the fault that it plants, and the function that proposes it."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from saferflow.data.rows import Labels
from saferflow.protocol.plan import Plan
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.trace import Call, Response


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a perturbation may use."""

    plan: Plan
    question: str
    labels: Labels
    answer: str
    chosen: Response
    objects: tuple[str, ...]
    """Other objects that a wrong observation can name."""
    rng: random.Random

    def layer(self, layer: Layer) -> tuple[Call, ...]:
        """The chosen trace's calls of one layer, in order."""
        return tuple(call for call in self.chosen.trace if TOOLS[call.tool].layer is layer)


Propose = Callable[[Case], Iterable[Response | str]]
"""Yields changed responses, the best first; a completion as text where no response can express the fault."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of fault."""

    name: str
    family: Literal["selection", "execution"]
    propose: Propose
    plants: frozenset[str] = frozenset()
    """Codes of exactly the violations that the rejected completion has."""
    lowers: frozenset[str] = frozenset()
    """The judge's grades that may fall (`safety`, `helpfulness`, `rigor`); at least one does fall if the check cannot see
    the fault."""


def replaced(trace: tuple[Call, ...], place: int, *calls: Call) -> tuple[Call, ...]:
    """The trace with the call at `place` (from 0) replaced by `calls`."""
    return (*trace[:place], *calls, *trace[place + 1 :])


def shuffled(case: Case, places: Iterable) -> list:
    """The places in an order drawn from the case's random numbers."""
    order = list(places)
    case.rng.shuffle(order)
    return order
