"""What a server keeps of answered requests: exchanges in the store, where it is on, and their drift in the metrics."""

import logging
import threading
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from saferflow.data.profile import Profile
from saferflow.errors import PipelineError
from saferflow.params import StoreParams
from saferflow.serving.answer import Answer, completion
from saferflow.serving.drift import ENOUGH, served_shifts
from saferflow.serving.request import Conversation
from saferflow.serving.store import Served, Store

WINDOW = 1000
"""The last requests, whose drift the metrics show."""
LOG = logging.getLogger("uvicorn.error")


class Record:
    """One server's record; without a store nothing of a request outlives the process.

    Args:
        trained: the profile of the rows that the served version was trained on; None where nothing holds it any more. Another
            version brings its own.
    """

    def __init__(self, store: Store | None = None, params: StoreParams | None = None, trained: Profile | None = None):
        self._store, self._params, self.trained = store, params, trained
        self._last: deque[Served] = deque(maxlen=WINDOW)
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._unkept = Counter(
            "saferflow_store_failed", "Answers that left and could not be kept.", registry=self._registry
        )
        self._index = Gauge(
            "saferflow_drift_index",
            f"Population stability index of the last {WINDOW} requests against the training rows, from {ENOUGH} on.",
            ["aspect"],
            registry=self._registry,
        )
        self._counted = Gauge("saferflow_drift_requests", "Requests that the index is of.", registry=self._registry)

    @property
    def account(self) -> dict[str, object]:
        """What `/health` says of the store."""
        if self._params is None:
            return {"on": False}
        return {"on": True, **self._params.model_dump(mode="json")}

    def keep(self, raw: bytes, conversation: Conversation, answer: Answer) -> None:
        """Count an answer that is about to leave, and store it; it leaves all the same where it cannot be stored.

        Args:
            raw: the request's body.
        """
        served = served_of(conversation, answer)
        self.count(served)
        if self._store is None:
            return
        try:
            self._store.keep(answer.id, raw, conversation.image, completion(answer), served)
        except PipelineError as error:
            self._unkept.inc()
            LOG.error("an answer was not kept: %s", error)

    def count(self, served: Served) -> None:
        """Take a request into the window of the drift."""
        with self._lock:
            self._last.append(served)

    def text(self) -> bytes:
        """The record's numbers in Prometheus' text format."""
        with self._lock:
            last = list(self._last)
        self._counted.set(len(last))
        if self.trained and len(last) >= ENOUGH:
            for shift in served_shifts(self.trained, last):
                self._index.labels(shift.aspect).set(shift.index)
        return generate_latest(self._registry)


def served_of(conversation: Conversation, answer: Answer) -> Served:
    broken = answer.draw.redrawn or answer.draw.violations
    return Served(
        version=answer.draw.identity.number,
        decision="" if answer.withheld else answer.decision,
        hazard=answer.hazard,
        suspicion=answer.planned.plan.hazard,
        characters=len(conversation.user_text),
        violations=" ".join(violation.code for violation in broken),
    )
