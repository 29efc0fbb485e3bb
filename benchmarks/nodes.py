"""What it costs to run a stage on a node instead of here: the same pipeline in both ways, in turn.

    python benchmarks/nodes.py [--repeat 3]

PostgreSQL, MLflow, Prefect, an S3 store and one worker in a clone of its own, all on this machine, and a pipeline whose stages
take no time (tests/flows/stub.py), so that what is measured is the way. Source: ours.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.flows import cluster as servers  # noqa: E402
from tests.flows.conftest import make  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results.json"
ON_NODES = ["sft", "dpo", "curate", "grpo"]
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with servers.cluster(folder) as cluster:
            first = make(folder / "first")
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
                place = {"PYTHONPATH": str(where / "src"), "PWD": str(where)}
                return {**cluster.environ, **place, "PREFECT_HOME": str(where / ".saferflow" / "prefect")}

            def run(module: str) -> float:
                started = time.monotonic()
                where = folder / "orders"
                done = subprocess.run(
                    [sys.executable, "-m", module],
                    cwd=where,
                    env=environ(where),
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(done.stdout + done.stderr)
                return time.monotonic() - started

            run("flows.setup")
            with (folder / "worker.log").open("w") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu", "--limit", "1"],
                    cwd=folder / "node", env=environ(folder / "node"), stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            times: dict[str, list[float]] = {"here": [], "nodes": []}
            try:
                run("flows.align")  # everything once, so that both ways run the same stages below
                for number in range(repeat):
                    for way in times:
                        file = folder / "orders" / "params.yaml"
                        params = yaml.safe_load(file.read_text())
                        nodes = {"deployment": "stage/gpu", "stages": ON_NODES, "queue": None}
                        params["run"]["nodes"] = nodes if way == "nodes" else None
                        params["sft"]["epochs"] = 2 + 2 * number + (way == "nodes")
                        file.write_text(yaml.safe_dump(params, sort_keys=False))
                        times[way].append(run("flows.align"))
                        print(f"{way}: {times[way][-1]:.1f} s", flush=True)
            finally:
                servers.end(worker)
    here, there = statistics.median(times["here"]), statistics.median(times["nodes"])
    found = {
        "stages_on_nodes": len(ON_NODES),
        "here_seconds": round(here, 1),
        "nodes_seconds": round(there, 1),
        "seconds_each": round((there - here) / len(ON_NODES), 1),
        "runs": repeat,
    }
    print(found)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cpu": {}, "gpu": None}
    before["cpu"]["nodes"] = found
    RESULTS.write_text(json.dumps(before, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
