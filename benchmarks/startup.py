"""Start-up: `status`, `compare`, `promote --dry-run` and a `run` with nothing to do, before and after, on 1,000 runs.

    python benchmarks/startup.py --before REVISION [--runs 1000] [--versions 200] [--repeat 5] [--realtime]

A toy pipeline (tests/flows) runs once; its store is filled with copies of its runs, SQLite. Then each command runs in turn with
the code of the revision and of this checkout, on copies of the same project, its servers up; beside them bare `dvc repro` and
`dvc status`. Each is a process of its own, so that imports count; with --realtime ahead of other processes (`chrt -r 1`).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src"), str(ROOT / "benchmarks")]

from many_runs import fill, newest  # noqa: E402

from saferflow.params import load_params  # noqa: E402
from saferflow.tracking import services  # noqa: E402
from tests.flows.conftest import Project, make  # noqa: E402

OURS = ["-m", "saferflow"]
COMMANDS = {
    "status": [*OURS, "status"],
    "compare v1 candidate": [*OURS, "compare", "v1", "candidate"],
    "promote --dry-run": [*OURS, "promote", "--dry-run"],
    "run, nothing to do": [*OURS, "run"],
    "dvc status": ["-m", "dvc", "status"],
    "dvc repro": ["-m", "dvc", "repro"],
}


def ready(folder: Path, runs: int, versions: int) -> Project:
    """A project whose pipeline has run, with a store of so many runs."""
    project = Project(make(folder / "after" / "project"), "")
    status, output = project.run()
    if status:
        raise SystemExit(output)
    import mlflow

    store = f"sqlite:///{project.root}/.saferflow/mlflow.db"
    os.environ["MLFLOW_TRACKING_URI"] = store
    model = load_params(project.root / "params.yaml").gate.registered_model
    filled = project.root / ".saferflow" / "filled.db"
    fill(
        f"sqlite:///{filled}",
        project.root / ".saferflow" / "filled",
        runs,
        versions,
        model,
        newest(mlflow.MlflowClient(store), model),
    )
    with_digest(filled, project, model)
    (project.root / ".saferflow" / "ledgers.json").unlink(missing_ok=True)  # the filled store has a ledger of its own
    filled.replace(project.root / ".saferflow" / "mlflow.db")
    return project


def with_digest(store: Path, project: Project, model: str) -> None:
    """The newest version is the one that this checkout's pipeline made, so that nothing is left to register."""
    import mlflow
    from saferflow.release import registry
    from saferflow.release.registration import GATE_HASH, MODEL
    from saferflow.tracking import graph

    client, entries = mlflow.MlflowClient(f"sqlite:///{store}"), graph.lock_entries(project.root)
    number = client.search_registered_models(f"name = '{model}'")[0].aliases[registry.CANDIDATE]
    client.set_model_version_tag(model, number, registry.MODEL_DIGEST, graph.out_digest(entries["grpo"], MODEL)[0])
    client.set_model_version_tag(model, number, GATE_HASH, graph.lock_hash(entries["gate"]))


def with_code_of(project: Project, revision: str, folder: Path) -> Project:
    """A copy of the project with the code of a revision."""
    copied = Project(folder / "before" / "project", "")
    shutil.copytree(project.root, copied.root, symlinks=True)
    for name in ("src", "flows"):
        shutil.rmtree(copied.root / name)
    archive = subprocess.run(
        ["git", "archive", revision, "src", "flows"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "x"], cwd=copied.root, check=True, input=archive)
    return copied


def timed(project: Project, command: list[str], ahead: Sequence[str]) -> float:
    """Wall seconds of a command in a project."""
    started = time.monotonic()
    done = subprocess.run(
        [*ahead, sys.executable, *command],
        cwd=project.root,
        env=project.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode and "nothing was moved" not in done.stdout:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    if command[-1] == "run" and "nothing to do" not in done.stdout:
        raise SystemExit(f"a run with nothing to do did something: {done.stdout}{done.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="REVISION")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--realtime", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        after = ready(Path(name), asked.runs, asked.versions)
        services.stop(services.PREFECT, after.root)
        sides = {"before": with_code_of(after, asked.before, Path(name)), "after": after}
        try:
            for project in sides.values():
                subprocess.run([sys.executable, *OURS, "ui"], cwd=project.root, env=project.environ(), check=True)
            measure(sides, asked.repeat, ("chrt", "-r", "1") if asked.realtime else ())
        finally:
            for project in sides.values():
                for service in services.SERVICES:
                    services.stop(service, project.root)


def measure(sides: dict[str, Project], repeat: int, ahead: Sequence[str]) -> None:
    """Print a table: medians and ranges in seconds, and the first time after the files were put there."""
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeat + 1):
        for command, words in COMMANDS.items():
            for side, project in sides.items():
                times.setdefault((command, side), []).append(timed(project, words, ahead))
    print("| command | before | range | first | after | range | first |\n|---|---|---|---|---|---|---|")
    for command in COMMANDS:
        cells = []
        for side in sides:
            first, *later = times[command, side]
            cells += [f"{statistics.median(later):.2f}", f"{min(later):.2f} to {max(later):.2f}", f"{first:.2f}"]
        print(f"| {command} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
