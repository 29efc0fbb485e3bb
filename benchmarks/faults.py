"""Kills at random moments of whole runs, and what the next run makes of what is left.

    python benchmarks/faults.py [--profile micro] [--kills 25] [--seed 1] [--victims flow stage] [--folder DIR]

Each trial is a fresh copy of the committed checkout: a run, kill -9 of one victim at a moment drawn from the length of an
undisturbed run, and the same command again. The victim is the flow, the stage at work, the Prefect server, the MLflow server
(then the run writes to one), or all of them at once, in turn. A trial is recovered if the second run ends well and leaves
what the undisturbed run left (every model and table, byte for byte), no stage that was done ran again, no process, no half
file and no run that still says RUNNING is left. Source: ours.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import psutil

from saferflow.commands.profiles import complete
from saferflow.tracking import environment, graph, services

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
VICTIMS = ("flow", "stage", "prefect", "mlflow", "all")
LEFT_BEHIND = 30.0
"""Seconds that what a killed process had started has to end in."""


@dataclass
class Trial:
    """One kill and what came of it."""

    victim: str
    second: float
    at: str = ""
    """The stage at work, or what came before the first."""
    status: int | None = None
    """Of the disturbed run."""
    reruns: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def recovered(self) -> bool:
        return not self.faults


class Checkout:
    """A copy of the committed files, with servers of its own."""

    def __init__(self, template: Path, root: Path, *, tracked: bool = False):
        shutil.copytree(template, root, symlinks=True)
        self.root = root
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}
        self.environ = {**clean, "PYTHONPATH": str(root / "src"), "COLUMNS": "120"}
        if tracked:
            self.environ["MLFLOW_TRACKING_URI"] = self.serve_mlflow()

    def serve_mlflow(self) -> str:
        command = (
            "from saferflow.tracking import environment, services; environment.prepare(); "
            "print(services.start(services.MLFLOW))"
        )
        environ = {name: value for name, value in self.environ.items() if name != "MLFLOW_TRACKING_URI"}
        done = subprocess.run(
            [sys.executable, "-c", command], cwd=self.root, env=environ, capture_output=True, text=True, check=True
        )
        return done.stdout.split()[-1]

    def restart_mlflow(self) -> None:
        """At its address, once what was killed has let go of the port."""
        port = int(self.environ["MLFLOW_TRACKING_URI"].rpartition(":")[2])
        while services._free_port(port) != port:
            time.sleep(0.2)
        self.serve_mlflow()

    def start(self, log: Path) -> subprocess.Popen:
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "saferflow", "run"],
                cwd=self.root, env=self.environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        """What works in this folder, its servers apart."""
        servers = {pid for service in services.SERVICES for pid in self.server(service)}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid not in servers and Path(process.cwd()).is_relative_to(self.root):
                    found.append(process)
        return found

    def server(self, service: services.Service) -> list[int]:
        """The server's process and what it started."""
        state = services._state(service, self.root)
        process = services._process(state) if state else None
        return [process.pid, *(child.pid for child in process.children(recursive=True))] if process else []

    def kill(self, victim: str, flow: subprocess.Popen) -> None:
        for name in VICTIMS[:-1] if victim == "all" else (victim,):
            if name == "flow":
                pids = [flow.pid]
            elif name == "stage":
                at_work = psutil.Process(flow.pid).children(recursive=True) if flow.poll() is None else self.processes()
                pids = [one.pid for one in at_work if "saferflow.stages" in _command(one)] or [
                    one.pid for one in at_work if one.pid != flow.pid and "prefect" not in _command(one)
                ]
            else:
                pids = self.server(services.PREFECT if name == "prefect" else services.MLFLOW)
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def results(self) -> dict[str, str]:
        """Every model and table that the pipeline made, by DVC's hash."""
        entries = graph.lock_entries(self.root).values()
        outs = {out["path"]: out.get("md5", "") for entry in entries for out in entry.get("outs", ())}
        return {path: digest for path, digest in outs.items() if path.startswith(("models/", "data/"))}

    def running(self) -> list[str]:
        """Runs that say RUNNING, in MLflow and in Prefect."""
        from mlflow import MlflowClient

        store = MlflowClient(f"sqlite:///{self.root}/.saferflow/mlflow.db")
        ids = [each.experiment_id for each in store.search_experiments()]
        found = [f"MLflow {run.info.run_name}" for run in store.search_runs(ids, "attributes.status = 'RUNNING'")]
        if address := services.running(services.PREFECT, self.root):
            unfinished = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}}
            for run in httpx.post(f"{address}/api/flow_runs/filter", json=unfinished, timeout=30).json():
                found.append(f"Prefect {run['name']}")
        return found

    def stop(self) -> None:
        for service in services.SERVICES:
            services.stop(service, self.root)
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def template(folder: Path, profile: str) -> Path:
    """The committed files with the profile in the place of params.yaml, and no results."""
    to = folder / "template"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(to)], check=True)
    if (to / "profiles" / f"{profile}.yaml").exists():
        (to / "params.yaml").write_text(complete(to / "profiles" / f"{profile}.yaml"), encoding="utf-8")
    (to / "dvc.lock").unlink(missing_ok=True)
    shutil.rmtree(to / "metrics", ignore_errors=True)
    author = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["add", "-A"], [*author, "commit", "-qm", "no results"]):
        subprocess.run(["git", *command], cwd=to, check=True)
    return to


def finished(log: str) -> set[str]:
    """Stages that a run says it has done."""
    return {line.split()[1] for line in log.splitlines() if line.startswith("[") and " done in " in line}


def begun(log: str) -> list[str]:
    return [line.split("'")[1] for line in log.splitlines() if "Running stage '" in line]


def trial(checkout: Checkout, victim: str, second: float, expected: dict[str, str], limit: float) -> Trial:
    found = Trial(victim, round(second, 1))
    logs = [checkout.root / ".saferflow" / f"trial-{number}.log" for number in range(3)]
    flow = checkout.start(logs[0])
    timer = threading.Timer(second, checkout.kill, (victim, flow))
    timer.start()
    timer.join()
    first = logs[0].read_text(errors="replace")
    found.at = (begun(first) or ["before the first stage"])[-1]
    with suppress(subprocess.TimeoutExpired):
        found.status = flow.wait(timeout=limit)
    if found.status is None:
        found.faults.append(f"the disturbed run hung for {limit:.0f} s")
        flow.kill()
        flow.wait()
    end = time.monotonic() + LEFT_BEHIND
    while (left := checkout.processes()) and time.monotonic() < end:
        time.sleep(0.2)
    found.faults += [f"outlived it: {_command(process)[:80]}" for process in left]
    if "MLFLOW_TRACKING_URI" in checkout.environ:
        checkout.restart_mlflow()
    done = finished(logs[0].read_text(errors="replace"))
    status = None
    for log in logs[1:]:
        found.reruns += 1
        status = checkout.start(log).wait(timeout=limit)
        again = begun(log.read_text(errors="replace"))
        found.faults += [f"{stage} ran again" for stage in again if stage in done]
        done |= finished(log.read_text(errors="replace"))
        if status == 0:
            break
    if status:
        tail = logs[found.reruns].read_text(errors="replace").splitlines()[-8:]
        found.faults.append(f"the next run ended with {status}: {' / '.join(tail)}")
    found.faults += [
        f"{path} differs from the undisturbed run's"
        for path, digest in expected.items()
        if checkout.results().get(path) != digest
    ]
    halves = [
        path for part in ("data", "models", "reports", "metrics", "checkpoints") for path in _files(checkout, part)
    ]
    found.faults += [f"half a file: {path}" for path in halves if "partial" in path or path.startswith("checkpoints")]
    found.faults += [f"still running: {name}" for name in checkout.running()]
    found.faults += [f"left at the end: {_command(process)[:80]}" for process in checkout.processes()]
    return found


def _files(checkout: Checkout, part: str) -> list[str]:
    return [str(path.relative_to(checkout.root)) for path in (checkout.root / part).rglob("*") if path.is_file()]


def table(trials: list[Trial]) -> str:
    lines = ["| killed | second | in stage | its exit | runs after it | recovered |", "|---|---|---|---|---|---|"]
    for one in trials:
        told = "yes" if one.recovered else "**no**: " + "; ".join(one.faults)
        lines.append(f"| {one.victim} | {one.second} | {one.at} | {one.status} | {one.reruns} | {told} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="micro")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS, help="in turn")
    parser.add_argument("--folder", type=Path, help="work here, and leave what failed; else in a temporary folder")
    parser.add_argument("--seconds", type=float, help="with --lock: of an undisturbed run")
    parser.add_argument(
        "--lock", type=Path, help="dvc.lock of an undisturbed run on this machine, instead of making one"
    )
    asked = parser.parse_args()
    draw, trials = random.Random(asked.seed), []
    os.environ.update(environment.TELEMETRY_OFF)
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        base = template(folder, asked.profile)
        if asked.lock:
            (folder / "known").mkdir()
            shutil.copy(asked.lock, folder / "known" / "dvc.lock")
            entries = graph.lock_entries(folder / "known").values()
            outs = {out["path"]: out.get("md5", "") for entry in entries for out in entry.get("outs", ())}
            expected = {path: digest for path, digest in outs.items() if path.startswith(("models/", "data/"))}
            whole = asked.seconds
        else:
            known = Checkout(base, folder / "undisturbed")
            started = time.monotonic()
            status = known.start(folder / "undisturbed.log").wait()
            whole = time.monotonic() - started
            known.stop()
            if status:
                raise SystemExit((folder / "undisturbed.log").read_text()[-3000:])
            expected = known.results()
        print(f"{asked.profile}: an undisturbed run takes {whole:.0f} s; {len(expected)} models and tables", flush=True)
        for number in range(asked.kills):
            victim = asked.victims[number % len(asked.victims)]
            root = folder / f"trial-{number}"
            checkout = Checkout(base, root, tracked=victim in ("mlflow", "all"))
            try:
                trials.append(trial(checkout, victim, draw.uniform(0, whole), expected, 4 * whole + 300))
            finally:
                checkout.stop()
            if trials[-1].recovered:
                shutil.rmtree(root)
            print(table(trials[-1:]).splitlines()[-1], flush=True)
    recovered = sum(one.recovered for one in trials)
    print(f"\n{table(trials)}\n\n{recovered} of {len(trials)} recovered")
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cpu": {}, "gpu": None}
    before["cpu"].setdefault("faults", {})[asked.profile] = {
        "recovered": recovered, "kills": len(trials), "trials": [asdict(one) for one in trials],
    }  # fmt: skip
    RESULTS.write_text(json.dumps(before, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
