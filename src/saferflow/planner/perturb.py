"""Perturbations of a good response: each plants one kind of fault and gives the rejected side of a DPO pair.

`[K]` names two families, errors of tool selection and of tool execution; the operators and what each plants are ours.
An operator proposes changed completions. We take the first one whose violations are exactly those that the operator plants,
so that no pair teaches something else by accident.
"""

from collections.abc import Iterable

from saferflow.planner import execution, selection
from saferflow.planner.operator import Case, Operator
from saferflow.protocol.check import check
from saferflow.protocol.trace import render

PERTURBATIONS: dict[str, Operator] = {
    operator.name: operator for operator in (*selection.OPERATORS, *execution.OPERATORS)
}


def perturb(name: str, case: Case) -> str | None:
    """Plant a fault; returns the completion, or None where the operator does not apply to this response."""
    operator = PERTURBATIONS[name]
    chosen = render(case.chosen)
    for proposed in operator.propose(case):
        text = proposed if isinstance(proposed, str) else render(proposed)
        if text != chosen and {violation.code for violation in check(case.plan, text)} == operator.plants:
            return text
    return None


def unknown(names: Iterable[str]) -> list[str]:
    """The names that belong to no operator."""
    return sorted(set(names) - set(PERTURBATIONS))
