"""Sends training curves from a stage's process to its MLflow run while it trains.

MLflow's asynchronous logging drops the points that a tracker refuses; these wait for its return.
"""

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
"""Most points in one request, MLflow's bound."""
LEFT = Path(".saferflow/points")
"""Folder of points that were not sent before their process ended: one file per run."""


def log_metrics(values: dict[str, float], step: int) -> None:
    """Log to the run in MLFLOW_RUN_ID; without one, print a notice once and do nothing.

    Points are sent when there are 200 of them, every two seconds, and at exit. A tracker that cannot be reached never
    stops training: points wait for the next try, and at the process's end in a file for `send_left`.
    """
    global _curve
    with _lock:
        if _curve is None:
            _curve = _Curve(os.environ.get("MLFLOW_RUN_ID"))
            atexit.register(flush)
        _curve.add(values, step)


def send_left(run: str) -> None:
    """Send the points that the run's process left behind; call when the tracker answers."""
    file = LEFT / f"{run}.json"
    if not file.exists():
        return
    curve = _Curve(run)
    curve.take(json.loads(file.read_text(encoding="utf-8")))
    if curve.send():
        file.unlink()


def flush() -> None:
    """Send the waiting points."""
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
        """Send the waiting points; True if none is left. With `last`, the rest goes to a file."""
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
