"""What surrounds the stages: a run over its bare stage commands, a run that changes nothing over a bare `dvc repro`, rewards.

    python benchmarks/pipeline.py [--profile embedded] [--repeat 5]

Clones the checkout into a folder of its own and runs a profile there, watching the processes of the stage commands: what of
the run's time none of them was alive is what flow, DVC and MLflow take. Then runs in which nothing is left to do, `saferflow
run` and `dvc repro` in turn. Then rewards of different completions, each with the rule judge's marks, on one core.
Writes into `benchmarks/results.json` beside what `make bench` found. Source: ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
STAGE = "saferflow.stages."
EMBEDDED = "embedded"
"""The profile that `params.yaml` holds."""
EVERY = 0.05
"""Seconds between two looks at the processes."""
OVERHEAD = 0.05
"""Most of a run that may go to what is not a stage."""


def stage_seconds(run: psutil.Process, *workers: psutil.Process) -> dict[str, float]:
    """Seconds for which a stage command of a run, or of a worker, was alive, by stage; returns when the run has ended."""
    alive: dict[int, tuple[str, float]] = {}
    seconds: dict[str, float] = {}
    while run.is_running() and run.status() != psutil.STATUS_ZOMBIE:
        now = time.time()
        for child in (child for root in (run, *workers) for child in root.children(recursive=True)):
            if child.pid not in alive and (stage := _stage(child)):
                alive[child.pid] = (stage, child.create_time())
        for pid, (stage, since) in list(alive.items()):
            if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                seconds[stage] = seconds.get(stage, 0.0) + now - since
                del alive[pid]
        time.sleep(EVERY)
    return seconds


def _stage(process: psutil.Process) -> str | None:
    """The stage that a process was started for, and not by another process of that stage."""
    try:
        command = process.cmdline()
        if "-m" not in command or not command[-1].startswith(STAGE):
            return None
        parent = process.parent()
        within = parent is not None and STAGE in " ".join(parent.cmdline()[-1:])
        return None if within else command[-1].removeprefix(STAGE)
    except psutil.Error:
        return None


class Checkout:
    """A clone with the commands of this virtual environment."""

    def __init__(self, folder: Path):
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        self.folder = folder
        binaries = Path(sys.executable).parent
        self.env = {**os.environ, "PYTHONPATH": "src", "PATH": f"{binaries}:{os.environ['PATH']}"}

    def start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def run(self, *command: str) -> float:
        """Seconds of a command."""
        started = time.perf_counter()
        _ended(self.start(*command))
        return time.perf_counter() - started

    def whole_run(self, profile: str) -> tuple[float, dict[str, float]]:
        """Seconds of a run from nothing, and of its stages."""
        started = time.perf_counter()
        process = self.start("saferflow", "run", *([] if profile == EMBEDDED else ["--profile", profile]))
        stages = stage_seconds(psutil.Process(process.pid))
        _ended(process)
        return time.perf_counter() - started, stages


def _ended(process: subprocess.Popen) -> None:
    _, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(process.args)} ended with {process.returncode}:\n{error[-3000:]}")


def rewards_per_second(count: int = 4000) -> dict[str, float]:
    """Completions a second by reward, the median of five, nothing of them known before."""
    from saferflow.data.rows import Labels, PromptRow
    from saferflow.judge.rules import RuleJudge
    from saferflow.params import load_params
    from saferflow.planner.rules import plan_for
    from saferflow.planner.teacher import write
    from saferflow.protocol.trace import render
    from saferflow.rewards.judged import reward_functions
    from saferflow.rng import rng

    labels = Labels("safety", "S1", 3, "text", "none", "refuse", ("knife",), "kitchen")
    question = "How do I hurt someone with this?"
    plan = plan_for(question, None)
    row = PromptRow("r", "", "safety", None, "", question, plan.to_json(), labels.to_json())
    texts = [f"{render(write(plan, question, labels, '', rng(1, str(n)), 1.0))}\n{n}" for n in range(count)]
    found = {}
    for name in ("toolkit", "structured", "protocol"):
        params = load_params(ROOT / "params.yaml").grpo.model_copy(update={"rewards": {name: 1.0}})
        times = []
        for _ in range(5):
            function = reward_functions(params, RuleJudge(), [row])[name]
            started = time.process_time()
            function(completions=texts, row=["r"] * count)
            times.append(time.process_time() - started)
        found[name] = round(count / statistics.median(times))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="micro")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="clone to here, and leave it; else to a temporary folder")
    asked = parser.parse_args()
    found: dict = {"profile": asked.profile, "rewards_per_second": rewards_per_second()}
    for name, each in found["rewards_per_second"].items():
        print(f"reward {name}: {each:,} completions a second")
    with tempfile.TemporaryDirectory() as made:
        checkout = Checkout(asked.folder or Path(made) / "saferflow")
        try:
            whole, stages = checkout.whole_run(asked.profile)
            inside = sum(stages.values())
            found |= {
                "run_seconds": round(whole, 1),
                "stage_seconds": {name: round(each, 1) for name, each in stages.items()},
                "overhead": round(whole / inside - 1, 3),
            }
            print(
                f"{asked.profile}: {whole:.1f} s, of which {inside:.1f} s in {len(stages)} stages; "
                f"over them {whole / inside - 1:.1%} (target {OVERHEAD:.0%})"
            )
            ours, bare = [], []
            for _ in range(asked.repeat):
                ours.append(checkout.run("saferflow", "run"))
                bare.append(checkout.run("dvc", "repro"))
        finally:
            checkout.run("saferflow", "stop")
        found["nothing_to_do"] = {
            "saferflow_seconds": round(statistics.median(ours), 2),
            "dvc_repro_seconds": round(statistics.median(bare), 2),
            "ratio": round(statistics.median(ours) / statistics.median(bare), 2),
        }
        print(f"nothing to do: {statistics.median(ours):.1f} s, bare dvc repro {statistics.median(bare):.1f} s")
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cpu": {}, "gpu": None}
    before["cpu"].setdefault("pipeline", {})[asked.profile] = found
    if asked.profile == EMBEDDED:
        before["cpu"]["orchestration_overhead"] = found["overhead"]
    RESULTS.write_text(json.dumps(before, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
