"""Runs a stage as a process, and measures the times of its lines and its memory. Source: ours."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from saferflow.layout import TRAINED

LOOK = 0.1
"""Seconds between two samples of the memory."""
KILLED = 128 + 9
"""Exit status of a process that got SIGKILL."""
TAIL = 12
"""The last lines that stand for a stage's output."""
STEP = re.compile(r"^\w+  step (\d+)/\d+")
LOADED = re.compile(r"\d+ of \d+ tensors loaded")
SPOKE = re.compile(r"^(?:curate|evaluate)  .*\d+ of [\d,]+ (?:rows|prompts)")


@dataclass(frozen=True, slots=True)
class Done:
    """The record of a finished process."""

    status: int
    seconds: float
    lines: tuple[tuple[float, str], ...]
    """(seconds since the start, printed line)."""
    memory: int
    """Peak bytes of the process and its children together."""
    peaked: float
    """Seconds from the start to that peak."""

    @property
    def step_seconds(self) -> float | None:
        """Mean seconds of an optimiser step after the first, which warms up; None if fewer than two were logged."""
        steps = [(when, int(step[1])) for when, line in self.lines if (step := STEP.match(line))]
        if len(steps) < 2:
            return None
        (begun, first), (ended, last) = steps[0], steps[-1]
        return (ended - begun) / (last - first) if last > first else None

    @property
    def peaked_while_saving(self) -> bool:
        """Whether memory peaked after the last optimiser step: with a checkpoint, or while writing the policy."""
        steps = [when for when, line in self.lines if STEP.match(line)]
        return bool(steps) and self.peaked > steps[-1]

    @property
    def speaking_seconds(self) -> float:
        """Seconds from the loading of each policy to its last answer, summed over the policies."""
        total, since = 0.0, None
        for when, line in self.lines:
            if LOADED.search(line):
                since = when
            elif since is not None and SPOKE.match(line):
                total, since = total + when - since, when
        return total

    @property
    def complaint(self) -> str:
        """The stage's own error, else its last lines."""
        texts = [line for _, line in self.lines]
        begins = next((n for n, line in enumerate(texts) if line.startswith("error: ")), None)
        lines = texts[begins:] if begins is not None else texts[-TAIL:]
        killed = self.status == KILLED
        ended = f"killed, as where memory runs out ({self.memory / 1e9:.1f} GB were held); " if killed else ""
        return ended + "\n".join(lines).removeprefix("error: ")


def carried_out(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Done:
    """Run a command to its end, under the guard, which ends it and its children when this process is gone."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.guard", *command],
        cwd=folder, env=dict(environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    lines: list[tuple[float, str]] = []

    def read() -> None:
        for line in process.stdout:
            lines.append((time.monotonic() - started, line.rstrip("\n")))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    most, peaked = 0, 0.0
    try:
        while process.poll() is None:
            if (held := _memory(process.pid)) > most:
                most, peaked = held, time.monotonic() - started
            time.sleep(LOOK)
    finally:
        process.stdin.close()
        process.wait()
    reader.join(timeout=10)
    return Done(process.returncode, time.monotonic() - started, tuple(lines), most, peaked)


def stage_command(stage: str) -> list[str]:
    """The command of a stage, as in dvc.yaml."""
    return [sys.executable, "-W", "ignore", "-m", f"saferflow.stages.{stage}"]


def _memory(pid: int) -> int:
    """Bytes that a process and its descendants hold now."""
    total = 0
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def seconds(stage: str, done: Done) -> float | None:
    """The seconds that scale to the whole run: of one optimiser step of a trainer, else of all drawn completions."""
    return done.step_seconds if stage in TRAINED else done.speaking_seconds or None
