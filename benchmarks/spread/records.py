"""What became of a run: a file beside its checkout, `<name>.json`, that is written after every step. Source: ours."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.spread.arithmetics import Arithmetic
from benchmarks.spread.figures import ORDER, Outcome
from benchmarks.spread.runs import ATTACK, ATTACKS, Benchmark, Run
from flows.reproduce import RAN, RESTORED
from saferflow.stages.metrics import write_json

BEGUN, FAILED = "begun", "failed"
"""States of a step, beside `RAN` and `RESTORED`."""


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
            form = [node[name] for name in ("form", "forms") if node.get(name) and isinstance(node[name], str)]
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
