"""Training curves, from the process of a stage to its MLflow run while it trains."""

import atexit
import json
import math
import os
import sys
import threading
import time
from pathlib import Path

POINTS = 200
SECONDS = 2.0
BATCH = 1000
"""Points in one request, MLflow's bound."""
LEFT = Path(".saferflow/points")
"""Where points wait that could not be sent before their process ended: a file a run."""


def log_metrics(values: dict[str, float], step: int) -> None:
    """Log to the run named by MLFLOW_RUN_ID; without one, say so once and do nothing.

    Points wait until there are 200 or two seconds have passed, and go at exit. A tracker that cannot be reached
    never stops training: the points wait for the next try, and after the process has ended in a file for `send_left`.
    """
    global _curve
    with _lock:
        if _curve is None:
            _curve = _Curve(os.environ.get("MLFLOW_RUN_ID"))
            atexit.register(flush)
        _curve.add(values, step)


def send_left(run: str) -> None:
    """Send what the run's process could not send any more; call when the tracker answers."""
    file = LEFT / f"{run}.json"
    if not file.exists():
        return
    curve = _Curve(run)
    curve.take(json.loads(file.read_text(encoding="utf-8")))
    if curve.send():
        file.unlink()


def flush() -> None:
    """Send what waits."""
    with _lock:
        if _curve is not None:
            _curve.send(last=True)


class _Curve:
    def __init__(self, run: str | None):
        self._run = run
        self._client = None
        self._waiting = []
        self._sent = time.monotonic()
        self._complained = False
        if run is None:
            print("no MLFLOW_RUN_ID: training curves are not kept (they are under `saferflow run`)", file=sys.stderr)
        else:
            import mlflow  # noqa: F401 here, because it cannot be imported any more when the process ends

    def add(self, values: dict[str, float], step: int) -> None:
        if self._run is None:
            return
        now = int(time.time() * 1000)
        self._waiting += [(name, float(value), now, step) for name, value in values.items() if math.isfinite(value)]
        if len(self._waiting) >= POINTS or time.monotonic() - self._sent >= SECONDS:
            self.send()

    def take(self, points: list) -> None:
        self._waiting += points

    def send(self, *, last: bool = False) -> bool:
        """Whether nothing waits any more; what waits at the end goes to a file."""
        if not self._waiting:
            return True
        try:
            from mlflow.entities import Metric

            import mlflow

            self._client = self._client or mlflow.MlflowClient()
            while self._waiting:
                batch = [Metric(*point) for point in self._waiting[:BATCH]]
                self._client.log_batch(self._run, metrics=batch)
                del self._waiting[:BATCH]
        except Exception as error:  # the tracker is a service: its absence costs a curve, not a training run
            if last or not self._complained:
                print(f"{len(self._waiting)} points of the curves wait: MLflow says {error!r:.200}", file=sys.stderr)
                self._complained = True
            if last:
                LEFT.mkdir(parents=True, exist_ok=True)
                (LEFT / f"{self._run}.json").write_text(json.dumps(self._waiting), encoding="utf-8")
        self._sent = time.monotonic()
        return not self._waiting


_curve: _Curve | None = None
_lock = threading.Lock()
