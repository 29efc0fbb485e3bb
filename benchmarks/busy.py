"""SFT steps of the embedded profile on an idle machine and beside busy processes, by how OpenMP's threads wait.

    PYTHONPATH=src python benchmarks/busy.py [--policy models/base] [--table data/tables/sft.parquet] [--steps 20] [--repeat 3]

Each measurement is a process of its own: the variables are read when torch is loaded. The ways to wait alternate, so that a
change of the machine's speed reaches all of them. Prints seconds a step: median, least and most.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = {
    "as it comes": {},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
"""Environment variables of each way."""
BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, default=Path("models/base"))
    parser.add_argument("--table", type=Path, default=Path("data/tables/sft.parquet"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2, help="processes beside it")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(seconds_a_step(arguments.policy, arguments.table, arguments.steps))
        return
    for busy in (0, arguments.busy):
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        beside = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            for _ in range(arguments.repeat):
                for way, variables in WAYS.items():
                    command = [
                        sys.executable,
                        __file__,
                        "--measure",
                        "--policy",
                        arguments.policy,
                        "--table",
                        arguments.table,
                    ]
                    command += ["--steps", str(arguments.steps)]
                    said = subprocess.run(
                        command, env=os.environ | variables, capture_output=True, text=True, check=True
                    )
                    seconds[way].append(float(said.stdout.splitlines()[-1]))
        finally:
            for process in beside:
                process.kill()
        print(f"beside {busy} busy processes, seconds a step of SFT", flush=True)
        for way, measured in seconds.items():
            least, most = min(measured), max(measured)
            print(f"  {way:22} {statistics.median(measured):.3f}  ({least:.3f} to {most:.3f})", flush=True)


def seconds_a_step(policy: Path, table: Path, steps: int) -> float:
    """Mean seconds of `steps` optimizer steps of SFT, the params' batch each."""
    from saferflow.data.rows import SFTRow
    from saferflow.data.tables import read_table
    from saferflow.params import load_params
    from saferflow.training.arguments import Job
    from saferflow.training.policy import load_model, load_processor
    from saferflow.training.sft import train_sft

    params = load_params()
    rows = read_table(table, SFTRow)[: steps * params.sft.batch_size]
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        job = Job(params.policy, params.launch, params.run.seed, here / "out", here / "checkpoints", lambda *_: None)
        recipe = params.sft.model_copy(update={"epochs": 1.0, "save_every": steps * 10})
        metrics = train_sft(
            "sft", load_model(policy, params.policy), load_processor(policy, params.policy), rows, recipe, job
        )
    return metrics["train_runtime"] / steps


if __name__ == "__main__":
    main()
