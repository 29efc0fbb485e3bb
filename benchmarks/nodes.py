"""What it costs to run a stage on a node instead of here: the same pipeline in both ways, in turn.

    python benchmarks/nodes.py [--repeat 3] [--profile embedded]

PostgreSQL, MLflow, Prefect, an S3 store and one worker in a clone of its own, all on this machine, and a pipeline whose stages
take no time (tests/flows/stub.py), so that what is measured is the way. With a profile, its own stages instead, once and over
the worker alone: the run's time, and for how much of it a stage command was alive, as `benchmarks/pipeline.py` counts it for
a run here. Source: ours.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.faults import template  # noqa: E402
from benchmarks.pipeline import stage_seconds  # noqa: E402
from tests.flows import cluster as servers  # noqa: E402
from tests.flows.conftest import make  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results.json"
ON_NODES = ["sft", "dpo", "curate", "grpo"]
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--profile", help="micro, embedded: real stages")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with servers.cluster(folder) as cluster:
            first = template(folder, asked.profile) if asked.profile else make(folder / "first")
            shutil.copy(ROOT / "prefect.yaml", first)
            dvc = [sys.executable, "-m", "dvc", "remote"]
            subprocess.run([*dvc, "add", "-d", "store", "s3://dvc/project"], cwd=first, check=True, capture_output=True)
            subprocess.run([*dvc, "modify", "store", "endpointurl", cluster.s3], cwd=first, check=True)
            subprocess.run(["git", "add", "-A"], cwd=first, check=True)
            subprocess.run([*GIT, "commit", "-qm", "cluster"], cwd=first, check=True)
            subprocess.run(["git", "clone", "-q", "--bare", first, folder / "origin.git"], check=True)
            for name in ("orders", "node"):
                subprocess.run(["git", "clone", "-q", folder / "origin.git", folder / name], check=True)

            def environ(where: Path) -> dict[str, str]:
                path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
                place = {"PYTHONPATH": str(where / "src"), "PWD": str(where), "PATH": path}
                return {**cluster.environ, **place, "PREFECT_HOME": str(where / ".saferflow" / "prefect")}

            def run(command: str, watch: bool = False) -> tuple[float, dict[str, float]]:
                """Seconds, and of the stage commands if they are watched."""
                where, told = folder / "orders", folder / "run.log"
                started = time.monotonic()
                with told.open("w") as output:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "saferflow", command], cwd=where, env=environ(where), stdout=output, stderr=output
                    )
                stages = stage_seconds(psutil.Process(process.pid), psutil.Process(worker.pid)) if watch else {}
                if process.wait():
                    raise SystemExit(told.read_text())
                return time.monotonic() - started, stages

            def choose(way: str, epochs: float | None = None) -> None:
                file = folder / "orders" / "params.yaml"
                params = yaml.safe_load(file.read_text())
                nodes = {"deployment": "stage/gpu", "stages": ON_NODES, "queue": None}
                params["run"]["nodes"] = nodes if way == "nodes" else None
                if epochs is not None:
                    params["sft"]["epochs"] = epochs
                file.write_text(yaml.safe_dump(params, sort_keys=False))

            run("init")
            with (folder / "worker.log").open("w") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu", "--limit", "1"],
                    cwd=folder / "node", env=environ(folder / "node"), stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            times: dict[str, list[float]] = {"here": [], "nodes": []}
            try:
                if asked.profile:
                    choose("nodes")
                    seconds, stages = run("run", watch=True)
                    keep(f"nodes_{asked.profile}", {
                        "run_seconds": round(seconds, 1),
                        "stage_seconds": {name: round(each, 1) for name, each in stages.items()},
                        "over_the_stages": round(seconds - sum(stages.values()), 1),
                    })  # fmt: skip
                    return
                run("run")  # everything once, so that both ways run the same stages below
                for number in range(asked.repeat):
                    for way in times:
                        choose(way, epochs=2 + 2 * number + (way == "nodes"))
                        times[way].append(run("run")[0])
                        print(f"{way}: {times[way][-1]:.1f} s", flush=True)
            finally:
                servers.end(worker)
    here, there = statistics.median(times["here"]), statistics.median(times["nodes"])
    keep("nodes", {
        "stages_on_nodes": len(ON_NODES),
        "here_seconds": round(here, 1),
        "nodes_seconds": round(there, 1),
        "seconds_each": round((there - here) / len(ON_NODES), 1),
        "runs": asked.repeat,
    })  # fmt: skip


def keep(name: str, found: dict) -> None:
    print(found)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cpu": {}, "gpu": None}
    before["cpu"][name] = found
    RESULTS.write_text(json.dumps(before, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
