"""The exceptions that saferflow raises on purpose. Each message says what, where, what was expected and the way out."""

from collections.abc import Iterable, Mapping
from typing import Any


class SaferflowError(Exception):
    """Any error that a user can mend; the command line prints it without a traceback."""


class ParamsError(SaferflowError):
    """The parameter file does not fit its types."""


class PlanError(SaferflowError):
    """A plan that would be incoherent."""


class DataError(SaferflowError):
    """A source, a table or a row that cannot be used."""


class ValidationFailed(SaferflowError):
    """A table that breaks an expectation of its suite."""


class EndpointError(SaferflowError):
    """A server that cannot be reached, refuses, or has cost all that it may."""


class PolicyError(SaferflowError):
    """A model, tokenizer or adapter that cannot be loaded or does not fit."""


class TrainingError(SaferflowError):
    """Training that cannot start, or that stopped making sense."""


class PipelineError(SaferflowError):
    """A stage or a service around it that failed."""


def problems(errors: Iterable[Mapping[str, Any]], whole: str = "(file)") -> list[str]:
    """`place: what is wrong` for each of pydantic's errors; `whole` is the place of those without one."""
    return [f"{'.'.join(map(str, error['loc'])) or whole}: {error['msg']}" for error in errors]
