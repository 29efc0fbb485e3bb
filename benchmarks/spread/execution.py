"""Carries a run out, step by step, in processes that end with this one; goes on after a kill. Source: ours."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.spread.checkouts import prepare, stage_environment
from benchmarks.spread.figures import ORDER
from benchmarks.spread.records import BEGUN, FAILED, Record, metrics_of
from benchmarks.spread.runs import ATTACK, ATTACKS, Benchmark, Run
from flows.process import plain
from flows.reproduce import RAN, RESTORED, RUNNING_SIGN, TAIL, is_hint
from saferflow.tracking.graph import DVC

STOP_SECONDS = 20
"""How long a process that is to end has until it is killed."""


class Watcher(Protocol):
    """Who hears what happens."""

    def ended(self, run: Run, step: str, state: str, seconds: float) -> None: ...

    def failed(self, run: Run, step: str, reason: str) -> None: ...

    def note(self, run: Run, text: str) -> None: ...


def carried_out(benchmark: Benchmark, run: Run, shell: Mapping[str, str], watcher: Watcher) -> Iterator[None]:
    """Do what is left of a run; yields while a process is at work, and ends that process when it is closed."""
    record = Record(benchmark, run)
    if not (steps := record.left(benchmark.steps, benchmark.attacks)):
        return
    while _alive(record.values["process"]):  # the killed benchmark's stage has ten seconds for its checkpoint
        yield
    if record.values["digits"] != run.arithmetic.digest and steps != [ATTACK]:
        watcher.note(run, "was begun on a machine with other digits; begun anew")
        record.begin_anew()
    if not (record.file.exists() and record.checkout.exists()):
        steps = list(benchmark.steps)
        record.begin_anew()
        prepare(benchmark, run, record.checkout)
        record.save()
    env = stage_environment(run, record.checkout, shell)
    for step in steps:
        whole = record.state(step) is None
        log = record.checkout / "logs" / f"{step}.log"
        started = time.monotonic()
        process = _start(command_of(step, benchmark.attacks), record.checkout, env, log)
        try:
            with suppress(psutil.NoSuchProcess):
                record.values["process"] = [process.pid, psutil.Process(process.pid).create_time()]
            record.set(step, BEGUN)
            while process.poll() is None:
                yield
        finally:
            _end(process)
        seconds = time.monotonic() - started
        output = log.read_text(encoding="utf-8", errors="replace")
        if process.returncode:
            record.set(step, FAILED, reason=_last_lines(output))
            watcher.failed(run, step, _last_lines(output))
            return
        state = RESTORED if step != ATTACK and RUNNING_SIGN not in output and whole else RAN
        record.values["metrics"][step] = metrics_of(record.checkout, step)
        count = {"count": benchmark.attacks} if step == ATTACK else {}
        record.set(step, state, seconds=round(seconds, 2), whole=whole, **count)
        watcher.ended(run, step, state, seconds)


def command_of(step: str, attacks: int | None) -> list[str]:
    """What carries a step out."""
    if step == ATTACK:
        options = ["--count", str(attacks), "--out", str(ATTACKS.parent)]
        return [sys.executable, "-m", "saferflow", "attack", *ORDER, *options]
    return [*DVC, "repro", "--single-item", step]


def _start(command: Sequence[str], folder: Path, env: Mapping[str, str], log: Path) -> subprocess.Popen:
    """A command under the guard, which ends it when this process is gone; its output goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.guard", *command],
            cwd=folder, env=dict(env), stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _end(guard: subprocess.Popen) -> None:
    with suppress(BrokenPipeError):
        guard.stdin.close()
    try:
        guard.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def _alive(process: Sequence[float] | None) -> bool:
    """Whether a recorded process, by id and time of birth, is still there."""
    if process is None:
        return False
    try:
        candidate = psutil.Process(int(process[0]))
        return candidate.create_time() == process[1] and candidate.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _last_lines(output: str) -> str:
    lines = [line for line in map(plain, output.splitlines()) if line and not is_hint(line)]
    return "\n".join(lines[-TAIL:])
