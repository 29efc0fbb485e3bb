"""How far a benchmark is, in plain lines: run, stage, seconds, the time so far and about how much is to come. Source: ours."""

import time
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console
from rich.text import Text

from benchmarks.spread.records import Record
from benchmarks.spread.runs import Benchmark, Run
from flows.reproduce import RESTORED
from saferflow.cli.show import duration


class Progress:
    """Prints what happens to the runs."""

    def __init__(self, console: Console, benchmark: Benchmark, runs: Sequence[Run], jobs: int):
        self._console, self._jobs, self._started = console, jobs, time.monotonic()
        self._numbers = {run.name: f"[{number}/{len(runs)}]" for number, run in enumerate(runs, 1)}
        self._seconds: dict[tuple[str, str], list[float]] = {}
        """(variant, step) -> seconds of every time that it was seen."""
        self._left: dict[tuple[str, str], Run] = {}
        """(run, step) -> the run; what is still to come."""
        for run in runs:
            record = Record(benchmark, run)
            left = record.left(benchmark.steps, benchmark.attacks)
            self._left |= {(run.name, step): run for step in left}
            for step in set(benchmark.steps) - set(left):
                self._seconds.setdefault((run.variant, step), []).append(record.values["steps"][step]["seconds"])

    def ended(self, run: Run, step: str, state: str, seconds: float) -> None:
        self._seconds.setdefault((run.variant, step), []).append(seconds)
        self._left.pop((run.name, step), None)
        how = "restored in" if state == RESTORED else "ran in"
        clock = f"{duration(time.monotonic() - self._started)} so far, {self.to_come()}"
        self._console.print(f"{self._numbers[run.name]} {run.name}  {step}  {how} {seconds:.1f} s  ({clock})")

    def failed(self, run: Run, step: str, reason: str) -> None:
        for name, later in [key for key in self._left if key[0] == run.name]:
            self._left.pop((name, later))
        self._console.print(
            Text(f"{self._numbers[run.name]} {run.name}  {step}  failed; its last lines:\n{reason}", "red")
        )

    def note(self, run: Run, text: str) -> None:
        self._console.print(f"{self._numbers[run.name]} {run.name}  {text}")

    def to_come(self) -> str:
        """About how long the rest takes, by the steps that were seen."""
        seconds = [self._expected(run.variant, step) for (_, step), run in self._left.items()]
        known = [value for value in seconds if value is not None]
        if len(known) < len(seconds):
            return f"at least {duration(sum(known) / self._jobs)} to come"
        return f"about {duration(sum(known) / self._jobs)} to come"

    def _expected(self, variant: str, step: str) -> float | None:
        of_others = [value for (_, name), values in self._seconds.items() if name == step for value in values]
        values = self._seconds.get((variant, step)) or of_others
        return fmean(values) if values else None
