"""What the server counts, as Prometheus reads it."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from saferflow.protocol.check import Violation

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One server's numbers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests, by HTTP status; 499: the caller went away.", "status")
        self._decisions = self._counter("decisions", "Answers that left, by decision and hazard.", "decision", "hazard")
        self._violations = self._counter("violations", "Rules that a first completion broke.", "code")
        self._redrawn = self._counter("redrawn", "Completions that the check refused and that were drawn again.")
        self._withheld = self._counter("withheld", "Completions that the check refused twice.")
        self.fell_back = self._counter("planner_fallback", "Plans by rules in place of a planner that was away.").inc
        self._takeovers = self._counter("takeovers", "Versions taken over, or not, as the alias moved.", "result")
        self._seconds = Histogram(
            "saferflow_request_seconds",
            "From a request's arrival to its answer.",
            registry=self._registry,
            buckets=SECONDS,
        )
        batches = Histogram(
            "saferflow_batch_size", "Requests answered together.", registry=self._registry, buckets=SIZES
        )
        self.batch: Callable[[int], None] = batches.observe
        self._waiting = Gauge("saferflow_waiting", "Requests that no batch has taken yet.", registry=self._registry)

    def request(self, status: int, seconds: float) -> None:
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def takeover(self, *, done: bool) -> None:
        """Another version is served, or could not be."""
        self._takeovers.labels("done" if done else "failed").inc()

    def answer(self, decision: str, hazard: str, refused: Iterable[Violation], *, withheld: bool) -> None:
        """An answer that leaves, or is withheld.

        Args:
            refused: the rules that the first completion broke.
        """
        codes = [violation.code for violation in refused]
        for code in codes:
            self._violations.labels(code).inc()
        self._redrawn.inc(bool(codes))
        self._withheld.inc(withheld)
        if not withheld:
            self._decisions.labels(decision, hazard).inc()

    def text(self, waiting: int) -> bytes:
        """All numbers in Prometheus' text format."""
        self._waiting.set(waiting)
        return generate_latest(self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"saferflow_{name}", meaning, labels, registry=self._registry)
