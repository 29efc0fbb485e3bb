"""A trace of each served request, where `serve.traces` is set: written by a thread of its own, so that no answer waits for it."""

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from prometheus_client import CollectorRegistry, Counter, generate_latest

from saferflow.params import TraceParams
from saferflow.serving.answer import Answer, completion, parts, violation_rows
from saferflow.serving.request import Conversation
from saferflow.serving.store import picture_digest, redacted, without_pictures
from saferflow.tracking.traces import Span

WAITING = 1000
"""Traces that wait for the tracking server, at most; later ones are dropped."""
LAST_SECONDS = 20.0
"""In which the traces that wait are written when the server goes down."""
WRITTEN, FAILED, DROPPED = "written", "failed", "dropped"
LOG = logging.getLogger("uvicorn.error")

Write = Callable[[Sequence[Span], dict[str, str]], None]
"""Writes a trace: the whole first, then its parts; and its tags."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was answered."""

    raw: bytes
    """Its body, which is JSON."""
    conversation: Conversation
    answer: Answer


class Tracer:
    """Writes traces in the order of the answers, one after the other; without params it writes none.

    Args:
        write: to the tracking server; what it raises is counted.
    """

    def __init__(self, params: TraceParams | None = None, write: Write | None = None):
        self._params, self._write = params, write
        self._waiting: queue.Queue[Request | None] = queue.Queue(WAITING)
        self._registry = CollectorRegistry()
        self._traces = Counter(
            "saferflow_traces",
            "Traces of requests: written, failed, or dropped because too many waited.",
            ["result"],
            registry=self._registry,
        )
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        if self._on:
            self._thread.start()

    @property
    def account(self) -> dict[str, object]:
        """What `/health` says of the traces."""
        return {"on": True, **self._params.model_dump(mode="json")} if self._on else {"on": False}

    def trace(self, raw: bytes, conversation: Conversation, answer: Answer) -> None:
        """Take a request that has its answer; returns at once."""
        if not self._on:
            return
        try:
            self._waiting.put_nowait(Request(raw, conversation, answer))
        except queue.Full:
            self._traces.labels(DROPPED).inc()

    def close(self) -> None:
        """Write what waits, for `LAST_SECONDS` at most."""
        if self._on:
            threading.Thread(target=self._waiting.put, args=(None,), daemon=True).start()
            self._thread.join(LAST_SECONDS)

    def text(self) -> bytes:
        """The tracer's numbers in Prometheus' text format."""
        return generate_latest(self._registry)

    @property
    def _on(self) -> bool:
        return self._params is not None and self._write is not None

    def _run(self) -> None:
        while request := self._waiting.get():
            try:
                self._write(list(spans(request, self._params.redact)), tags(request.answer))
            except Exception as error:  # the tracking server is a service: its absence costs the trace and nothing else
                self._traces.labels(FAILED).inc()
                if not self._failing:
                    LOG.warning("traces of requests are not written: %s", str(error)[:300])
                self._failing = True
            else:
                self._traces.labels(WRITTEN).inc()
                self._failing = False


def tags(answer: Answer) -> dict[str, str]:
    """By which a trace is searched for."""
    identity = answer.draw.identity
    return {
        "saferflow.completion": answer.id,
        "saferflow.version": identity.name,
        "saferflow.decision": "" if answer.withheld else answer.decision,
        "saferflow.hazard": answer.hazard,
    }


def spans(request: Request, redact: tuple[str, ...]) -> Iterator[Span]:
    """The request as a whole, then plan, generate and check, and redraw and check again where the check refused.

    The time of `generate` holds the wait for a batch; redraw and checks happen within it and stand at its end.

    Args:
        redact: names of fields whose values are left out, as of `serve.store.redact`.
    """
    answer, times = request.answer, request.answer.times
    body = without_pictures(json.loads(request.raw), picture_digest(request.conversation.image))
    asked = {"role": "user", "content": request.conversation.user_text}
    plan = {"plan": asdict(answer.planned.plan)}
    first = answer.draw.first or answer.draw.completion
    refused = answer.draw.redrawn or answer.draw.violations
    steps = [
        ("answer", "CHAIN", body, completion(answer), times.arrived, times.drawn),
        ("plan", "AGENT", asked, {**plan, "planner": answer.planned.planner}, times.arrived, times.planned),
        ("generate", "LLM", plan, parts(first), times.planned, times.drawn),
        ("check", "GUARDRAIL", parts(first), {"violations": violation_rows(refused)}, times.drawn, times.drawn),
    ]
    if answer.draw.redrawn:
        again, left = parts(answer.draw.completion), violation_rows(answer.draw.violations)
        steps.append(("redraw", "LLM", plan, again, times.drawn, times.drawn))
        steps.append(("check", "GUARDRAIL", again, {"violations": left}, times.drawn, times.drawn))
    for name, kind, inputs, outputs, began, ended in steps:
        yield Span(name, kind, redacted(inputs, redact), redacted(outputs, redact), began, ended)
