"""Fifty experiments in the queue: none lost, their order kept, each comparable.

    python benchmarks/experiment_queue.py [--count 50]

The real flow, server, worker, DVC and MLflow on a pipeline whose stages take no time (tests/flows/stub.py): what is measured is
the queue. Source: ours.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from saferflow.tracking import services  # noqa: E402
from tests.flows.cluster import end  # noqa: E402
from tests.flows.conftest import Project, make  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as made:
        root = make(Path(made) / "project")
        (root / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
        subprocess.run(["git", "add", "prefect.yaml"], cwd=root, check=True)
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"], cwd=root, check=True)
        os.environ["PREFECT_HOME"] = str(root / ".saferflow")
        project = Project(root, services.start(services.PREFECT, root) + "/api")
        place = {
            "PWD": str(root),
            "PREFECT_HOME": str(root / ".saferflow" / "prefect"),
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }
        environ = project.environ(**place)
        worker = None
        try:
            status, output = project.run()
            if status:
                raise SystemExit(output)
            subprocess.run(
                [sys.executable, "-m", "saferflow", "init"], cwd=root, env=environ, check=True, capture_output=True
            )
            values = [round(0.01 + 0.001 * number, 3) for number in range(count)]
            random.Random(1).shuffle(values)
            started = time.monotonic()
            for value in values:
                command = [sys.executable, "-m", "saferflow", "run", "--queue", "--set", f"grpo.kl={value}"]
                subprocess.run(command, cwd=root, env=environ, check=True, capture_output=True)
            ordered = time.monotonic() - started
            print(f"{count} ordered in {ordered:.0f} s", flush=True)
            with (root / ".saferflow" / "worker.log").open("w") as log:
                command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "pipelines", "--limit", "1"]
                worker = subprocess.Popen(
                    command, cwd=root, env=environ, stdout=log, stderr=log, start_new_session=True
                )
            started, done = time.monotonic(), []
            while len(done) < count and time.monotonic() - started < 60 * count:
                time.sleep(5)
                found = project.mlflow().search_runs(["1"], order_by=["attributes.start_time ASC"], max_results=1000)
                done = [
                    run for run in found if "saferflow.experiment" in run.data.tags and run.info.status == "FINISHED"
                ]
            seconds = time.monotonic() - started
            ran = [float(run.data.params["grpo.kl"]) for run in done]
            found = {
                "count": count,
                "done": len(done),
                "in_order": ran == values,
                "comparable": sum("safety" in run.data.metrics for run in done),
                "seconds_each": round(seconds / max(1, len(done)), 1),
                "order_seconds_each": round(ordered / count, 2),
            }
        finally:
            if worker:
                end(worker)
            services.stop(services.PREFECT, root)
    print(found)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cpu": {}, "gpu": None}
    before["cpu"]["queue"] = found
    RESULTS.write_text(json.dumps(before, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
