"""`status`, `compare` and `promote --dry-run` on a store with 1,000 runs and 200 versions, on SQLite and on PostgreSQL.

    saferflow run && python benchmarks/many_runs.py [--runs 1000] [--versions 200] [--repeat 5]

Beside them, in turn, a script that only imports MLflow, opens the same store and reads one version: what no command can be
quicker than. Fills stores of its own with copies of the checkout's newest pipeline runs (their tags, parameters, figures and
the artifacts that promotion reads); the own store of the checkout is read and left alone. PostgreSQL is left out where it is
not installed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from saferflow.params import load_params  # noqa: E402
from saferflow.tracking import environment  # noqa: E402
from tests.flows import cluster  # noqa: E402

if TYPE_CHECKING:
    from mlflow.entities import Run

    from mlflow import MlflowClient

RESULTS = ROOT / "benchmarks" / "results.json"
OURS = ["-m", "saferflow"]
COMMANDS = {
    "status": [*OURS, "status"],
    "compare": [*OURS, "compare", "v1", "candidate"],
    "promote": [*OURS, "promote", "--dry-run"],
}
BARE = "import mlflow, sys; mlflow.MlflowClient().get_model_version_by_alias(sys.argv[1], 'candidate')"
TARGET = 3.0
NAMES = ("evaluated.parquet", "gate.json")
"""Artifacts of a pipeline run that promotion reads."""


def newest(client: "MlflowClient", model: str) -> tuple:
    """The pipeline run behind the newest version, its stages' runs, and the version."""
    version = max(client.search_model_versions(f"name = '{model}'"), key=lambda one: int(one.version))
    parent = client.get_run(version.tags["saferflow.evaluation_run"])
    ids = [each.experiment_id for each in client.search_experiments()]
    children = client.search_runs(ids, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return version, parent, children


def fill(address: str, artifacts: Path, runs: int, versions: int, model: str, of: tuple) -> None:
    """Copies of one pipeline run until there are so many runs and versions; a champion among them."""
    from mlflow.entities import Metric, Param, RunTag

    import mlflow

    version, parent, children = of
    source = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    client = mlflow.MlflowClient(address)
    experiment = client.create_experiment("align", artifact_location=artifacts.as_uri())

    def copy(run: "Run", parent_id: str | None) -> str:
        made = client.create_run(experiment, run_name=run.info.run_name).info.run_id
        tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
        tags |= {"mlflow.parentRunId": parent_id} if parent_id else {}
        client.log_batch(
            made,
            metrics=[Metric(name, value, 0, 0) for name, value in run.data.metrics.items()],
            params=[Param(*item) for item in list(run.data.params.items())[:100]],
            tags=[RunTag(*item) for item in tags.items()],
        )
        client.set_terminated(made)
        return made

    made: list[str] = []
    for number in range(0, runs, 1 + len(children)):
        made.append(copy(parent, None))
        for child in children[: max(0, runs - number - 1)]:
            copy(child, made[-1])
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            file = source.download_artifacts(parent.info.run_id, name, folder)
            for run in (made[0], made[-1]):
                client.log_artifact(run, file)
    client.create_registered_model(model)
    for number in range(versions):
        run = made[0] if number < versions - 1 else made[-1]
        tags = {**version.tags, "saferflow.evaluation_run": run, "saferflow.model.md5": f"{number:032d}.dir"}
        client.create_model_version(model, f"runs:/{run}/model", run_id=run, tags=tags, await_creation_for=0)
    for alias, number in (("champion", 1), ("candidate", versions)):
        client.set_registered_model_alias(model, alias, str(number))


def timed(command: list[str], address: str) -> float:
    environ = {**os.environ, "MLFLOW_TRACKING_URI": address, "COLUMNS": "120"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - started
    if done.returncode and "may not" not in done.stdout and "nothing was moved" not in done.stdout:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=5)
    asked = parser.parse_args()
    os.chdir(ROOT)
    environment.prepare(root=ROOT)
    import mlflow

    model = load_params().gate.registered_model
    of = newest(mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]), model)
    found: dict = {"runs": asked.runs, "versions": asked.versions, "seconds": {}, "of mlflow alone": {}}
    with ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
        stores = {"sqlite": f"sqlite:///{folder}/mlflow.db"}
        if cluster.postgres_programs():
            stores["postgresql"] = f"postgresql+psycopg://{open_.enter_context(cluster.postgres(folder))}/mlflow"
        for store, address in stores.items():
            started = time.monotonic()
            fill(address, folder / store, asked.runs, asked.versions, model, of)
            print(f"{store}: filled in {time.monotonic() - started:.0f} s", flush=True)
            commands = {"mlflow alone": ["-c", BARE, model], **COMMANDS}
            rounds = [
                {name: timed(command, address) for name, command in commands.items()} for _ in range(asked.repeat)
            ]
            for name in commands:
                times = [each[name] for each in rounds]
                ratio = statistics.median(each[name] / each["mlflow alone"] for each in rounds)
                found["seconds"].setdefault(store, {})[name] = round(statistics.median(times), 2)
                found["of mlflow alone"].setdefault(store, {})[name] = round(ratio, 2)
                print(
                    f"{store} {name}: {statistics.median(times):.2f} s (from {min(times):.2f} to {max(times):.2f}; "
                    f"target {TARGET:.0f}), {ratio:.2f} of MLflow alone",
                    flush=True,
                )
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cpu": {}, "gpu": None}
    before["cpu"]["many_runs"] = found
    RESULTS.write_text(json.dumps(before, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
