"""Runs of the pipeline, each in a checkout of its own, carried out by DVC stage by stage and gone on with after a kill.

All checkouts of a benchmark share one DVC cache and its run cache. A stage that computes with torch gets one more dependency,
`arithmetic.json`: DVC then restores it from another run only where arithmetic and digits are the same too, as between two
variants of the recipe. `plan` and `validate` compute without torch and come out the same under every arithmetic. What
became of a run stands in a record beside its checkout, `<name>.json`, which is written after every stage. Source: ours.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import yaml

from benchmarks.spread.arithmetics import Arithmetic, environment_of
from benchmarks.spread.figures import ORDER, Outcome
from flows.process import plain
from flows.reproduce import RAN, RESTORED, RUNNING_SIGN, TAIL, is_hint
from saferflow.errors import PipelineError
from saferflow.stages.metrics import write_json
from saferflow.tracking import environment
from saferflow.tracking.graph import DVC

ANY_ARITHMETIC = ("plan", "validate")
"""Stages that come out the same under every arithmetic."""
ARITHMETIC = Path("arithmetic.json")
ATTACK = "attack"
"""The step after the stages, where it is wanted."""
ATTACKS = Path("reports/attack/attacks.json")
BEGUN, FAILED = "begun", "failed"
"""States of a step, beside `RAN` and `RESTORED`."""
POLL = 0.1
"""Seconds between two looks at the processes."""
STOP_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What all runs share."""

    out: Path
    commit: str
    profile: str
    params: Path
    """The parameter file of the profile, relative to a checkout."""
    stages: tuple[str, ...]
    attacks: int | None
    """Requests that `saferflow attack` makes into attacks in each finished run; None for no attacks."""

    @property
    def steps(self) -> tuple[str, ...]:
        return (*self.stages, ATTACK) if self.attacks else self.stages

    @property
    def source(self) -> Path:
        """The clone that the runs' checkouts are cloned from."""
        return self.out / "source"


@dataclass(frozen=True, slots=True)
class Run:
    """One seed of one variant of the recipe under one arithmetic."""

    variant: str
    seed: int
    arithmetic: Arithmetic
    changes: Mapping[str, Any]
    """Dotted name -> value in `params.yaml`, `run.seed` among them."""

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.seed}-{self.arithmetic.name}"


class Watcher(Protocol):
    """Who hears what happens."""

    def ended(self, run: Run, step: str, state: str, seconds: float) -> None: ...

    def failed(self, run: Run, step: str, reason: str) -> None: ...

    def note(self, run: Run, text: str) -> None: ...


class Record:
    """What became of a run, on disk."""

    def __init__(self, benchmark: Benchmark, run: Run):
        self.checkout = benchmark.out / "runs" / run.name
        self.file = self.checkout.with_name(f"{run.name}.json")
        self._identity = {
            "variant": run.variant,
            "seed": run.seed,
            "arithmetic": run.arithmetic.name,
            "settings": dict(run.arithmetic.settings),
            "commit": benchmark.commit,
            "profile": benchmark.profile,
            "changes": dict(run.changes),
        }
        self._fresh = {**self._identity, "digits": run.arithmetic.digest, "machine": machine(run.arithmetic)}
        kept = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else self._fresh
        self.values: dict[str, Any] = {"steps": {}, "metrics": {}, "process": None} | kept

    @property
    def strangers(self) -> list[str]:
        """In what the run on disk is another one than is wanted."""
        wanted = json.loads(json.dumps(self._identity))
        return [
            f"{name} {self.values.get(name)!r} and not {value!r}"
            for name, value in wanted.items()
            if self.values.get(name) != value
        ]

    def left(self, steps: Sequence[str], attacks: int | None) -> list[str]:
        """The steps that are still to be done."""
        return [
            step for step in steps
            if self.state(step) not in (RAN, RESTORED) or (step == ATTACK and self.values["steps"][step]["count"] != attacks)
        ]  # fmt: skip

    def state(self, step: str) -> str | None:
        return self.values["steps"].get(step, {}).get("state")

    def set(self, step: str, state: str, **more: Any) -> None:
        self.values["steps"][step] = {"state": state, **more}
        self.save()

    def save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, self.values)

    def begin_anew(self) -> None:
        """Delete the checkout and all that is recorded of it."""
        self.file.unlink(missing_ok=True)
        if self.checkout.exists():
            shutil.rmtree(self.checkout)
        self.values = {"steps": {}, "metrics": {}, "process": None} | self._fresh

    def outcome(self) -> Outcome:
        """The run's figures."""
        metrics, steps = self.values["metrics"], self.values["steps"]
        measures = {policy: dict(scores) for policy, scores in metrics.get("evaluate", {}).get("policies", {}).items()}
        for policy, successes in attack_figures(metrics.get(ATTACK)).items():
            measures.setdefault(policy, {}).update(successes)
        gate = metrics.get("gate", {})
        return Outcome(
            self.values["variant"], self.values["seed"], self.values["arithmetic"], measures,
            passed=bool(gate["passed"]) if "passed" in gate else None,
            failed_checks=gate.get("failed_checks", []),
            seconds={
                name: step["seconds"] for name, step in steps.items() if step["state"] == RAN and step["whole"]
            },
        )  # fmt: skip


def machine(arithmetic: Arithmetic) -> dict[str, Any]:
    """This machine, as far as its digits and seconds depend on it."""
    model = "unknown"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": arithmetic.cores,
        "gpus": arithmetic.gpus,
        "torch": arithmetic.torch,
        "threads": arithmetic.threads,
    }


def attack_figures(document: Any) -> dict[str, dict[str, float]]:
    """Policy -> `attack METHOD` -> percent of the attacks that succeeded, from what `saferflow attack` left.

    Any mapping with a policy, a method and a success counts, wherever it stands; the keys above it that are no policies (trained
    and unseen forms, say) and its own `form` come before the method's name.
    """
    figures: dict[str, dict[str, float]] = {}

    def read(node: Any, above: tuple[str, ...]) -> None:
        if isinstance(node, Mapping) and {"policy", "method", "success"} <= node.keys():
            form = [str(node[name]) for name in ("form", "forms") if isinstance(node.get(name), str)]
            name = " ".join((ATTACK, *above, *form, node["method"].replace("_", " ")))
            if isinstance(node["success"], int | float):
                figures.setdefault(node["policy"], {})[name] = node["success"]
        elif isinstance(node, Mapping):
            for key, value in node.items():
                read(value, above if key in ORDER else (*above, key))
        elif isinstance(node, list):
            for value in node:
                read(value, above)

    read(document, ())
    return figures


def clone(source: Path, commit: str, folder: Path) -> None:
    """A clone at a commit; it appears whole or not at all."""
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for command in (["clone", "-q", str(source), "."], ["checkout", "-q", "--detach", commit]):
        done = subprocess.run(["git", *command], cwd=partial, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PipelineError(f"git {command[0]} of {source} at {commit} failed: {done.stderr.strip()}")
    partial.rename(folder)


def prepare(benchmark: Benchmark, run: Run, folder: Path) -> None:
    """A checkout for a run: its parameters, its arithmetic, the shared cache, and nothing of other runs."""
    fresh = folder.with_name(f"{folder.name}.fresh")
    if fresh.exists():
        shutil.rmtree(fresh)
    clone(benchmark.source, benchmark.commit, fresh)
    params = yaml.safe_load((fresh / benchmark.params).read_text(encoding="utf-8"))
    (fresh / "params.yaml").write_text(yaml.safe_dump(changed(params, run.changes), sort_keys=False), encoding="utf-8")
    write_json(fresh / ARITHMETIC, {"settings": dict(run.arithmetic.settings), "digits": run.arithmetic.digest})
    pipeline = yaml.safe_load((fresh / "dvc.yaml").read_text(encoding="utf-8"))
    for name, stage in pipeline["stages"].items():
        if name not in ANY_ARITHMETIC:
            stage["deps"] = [*stage.get("deps", ()), str(ARITHMETIC)]
    (fresh / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    for file in (fresh / "dvc.lock", *fresh.glob("metrics/*.json")):
        file.unlink(missing_ok=True)
    # relative to the file itself, so that the benchmark's folder can be moved
    (fresh / ".dvc" / "config.local").write_text("[cache]\n    dir = ../../../cache\n", encoding="utf-8")
    fresh.rename(folder)


def changed(params: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with values set by their dotted names."""
    params = json.loads(json.dumps(params))
    for name, value in changes.items():
        *path, last = name.split(".")
        node = params
        for part in path:
            node = node[part]
        node[last] = value
    return params


def carried_out(benchmark: Benchmark, run: Run, shell: Mapping[str, str], watcher: Watcher) -> Iterator[None]:
    """Do what is left of a run; yields while a process is at work, and ends that process when it is closed."""
    record = Record(benchmark, run)
    if not (steps := record.left(benchmark.steps, benchmark.attacks)):
        return
    while _alive(record.values["process"]):  # the killed benchmark's stage has ten seconds for its checkpoint
        yield
    if record.values["digits"] != run.arithmetic.digest:
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


def stage_environment(run: Run, checkout: Path, shell: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run's stages, as the flow gives it, under the run's arithmetic."""
    env = environment_of(run.arithmetic.settings, shell)
    env |= {"PYTHONPATH": str(checkout / "src"), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{shell.get('PATH', '')}"
    environment.prepare(env, root=checkout)
    environment.offline(env)
    return env


def command_of(step: str, attacks: int | None) -> list[str]:
    """What carries a step out."""
    if step == ATTACK:
        options = ["--count", str(attacks), "--out", str(ATTACKS.parent)]
        return [sys.executable, "-c", "from saferflow.cli import main; main()", "attack", *ORDER, *options]
    return [*DVC, "repro", "--single-item", step]


def metrics_of(checkout: Path, step: str) -> Any:
    """A finished step's figures; the gate's with the names of the checks that failed. None where it left none."""
    file = checkout / (ATTACKS if step == ATTACK else f"metrics/{step}.json")
    if not file.exists():
        return None
    metrics = json.loads(file.read_text(encoding="utf-8"))
    verdict = checkout / "reports" / "gate.json"
    if step == "gate" and verdict.exists():
        checks = json.loads(verdict.read_text(encoding="utf-8"))["checks"]
        metrics |= {"failed_checks": [check["name"] for check in checks if not check["passed"]]}
    return metrics


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
        found = psutil.Process(int(process[0]))
        return found.create_time() == process[1] and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _last_lines(output: str) -> str:
    lines = [line for line in map(plain, output.splitlines()) if line and not is_hint(line)]
    return "\n".join(lines[-TAIL:])
