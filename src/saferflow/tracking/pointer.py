"""Reads an alias of a registered model every few seconds, by the readers, so that MLflow need not be imported."""

from functools import cached_property
from typing import Any

from saferflow.errors import PipelineError
from saferflow.tracking import reading, runs
from saferflow.tracking.records import Unread


class Pointer:
    """An alias of a registered model in the configured store."""

    def __init__(self, model: str, alias: str):
        self._model, self._alias = model, alias

    def number(self) -> int | None:
        """The version that the alias points to now; None if it points to none.

        Raises:
            PipelineError: the registry gives no answer.
        """
        try:
            models = self._store.search_registered_models(f"name = '{self._model}'")
        except (Unread, KeyError, TypeError, ValueError) as error:
            raise PipelineError(f"the registry does not say where {self._alias} points: {error}"[:300]) from error
        number = models[0].aliases.get(self._alias) if models else None
        return int(number) if number else None

    @cached_property
    def _store(self) -> Any:
        """A reader, or MLflow's client for a store that has none."""
        return reading.configured() or runs.client()
