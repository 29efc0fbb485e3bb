"""Seconds and memory from scenes to validated tables, and how they grow with the rows.

    PYTHONPATH=src python benchmarks/data_scale.py --rows 31654 --times 10

The paper's shares: a third of the prompts each to SFT, DPO (three pairs a prompt) and GRPO, 3% held out. Stages `plan` and
`validate` run as DVC runs them, each as a process of its own in an empty folder; memory is the sum over that process and
those it started, looked at ten times a second. Then the search for twins is done once more, alone, in as many processes.
Source: ours.
"""

import argparse
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import yaml

from saferflow.data.leakage import Entry, HeldOut
from saferflow.data.rows import TABLES
from saferflow.data.tables import groups, read_group
from saferflow.parallel import mapped
from saferflow.params import load_params

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=31_654)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    seconds = []
    for rows in (asked.rows, asked.rows * asked.times):
        folder = project(rows, asked.workers)
        took, peaks = zip(*(measure(stage, folder) for stage in STAGES), strict=True)
        seconds.append(sum(took))
        told = "  ".join(f"{stage} {took[n]:6.1f} s, {peaks[n] / 2**20:4.0f} MiB" for n, stage in enumerate(STAGES))
        print(f"{rows:>9,} rows  {told}  together {seconds[-1]:.1f} s", flush=True)
        print(f"{'':>14}  {searched(folder, asked.workers)}", flush=True)
    print(f"{asked.times} times the rows take {seconds[1] / seconds[0]:.2f} times the time")


STAGES = ("plan", "validate")


def project(rows: int, workers: int) -> Path:
    """A folder with the params for so many rows."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    held_out = round(0.03 * rows)
    raw["run"]["workers"] = workers
    raw["data"]["sources"] = [
        {
            "kind": "scenes",
            "train": rows - held_out - 1,
            "evaluation": held_out,
            "general_train": 0,
            "general_evaluation": 1,
        }
    ]
    raw["plan"] |= {"sft_share": 0.33, "dpo_share": 0.34, "grpo_share": 0.33, "pairs_per_prompt": 3}
    folder = Path(tempfile.mkdtemp(prefix="saferflow-"))
    (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return folder


def measure(stage: str, folder: Path) -> tuple[float, int]:
    """Run a stage; its seconds, and the most bytes that it and its processes held at once."""
    started, peak = time.perf_counter(), 0
    process = psutil.Popen(
        [sys.executable, "-m", f"saferflow.stages.{stage}"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin"},
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            peak = max(peak, sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"stage {stage} failed in {folder}")
    return time.perf_counter() - started, peak


def searched(folder: Path, workers: int) -> str:
    """Search the training tables for twins, as stage `validate` does; what that takes, processes' start included."""
    tables = folder / "data/tables"
    names = [name for name in TABLES if name != "evaluation"]
    jobs = [(str(tables), name, n) for name in names for n in range(groups(tables / f"{name}.parquet", TABLES[name]))]
    started = time.perf_counter()
    rows, images = zip(*mapped(search, jobs, workers), strict=True)
    seconds = time.perf_counter() - started
    return f"twins alone: {sum(rows):,} rows with {len(set().union(*images)):,} pictures {seconds:.1f} s"


def search(job: tuple[str, str, int]) -> tuple[int, set[int]]:
    """Look for twins of a group's rows; how many rows, and the hashes of their pictures' bytes."""
    tables, name, number = job
    rows = read_group(Path(tables) / f"{name}.parquet", TABLES[name], number)
    held_out = index(tables)
    for row in rows:
        held_out.twins_of(Entry(name, row.id, row.question, row.image))
    return len(rows), {zlib.crc32(row.image) for row in rows if row.image is not None}


@cache
def index(tables: str) -> HeldOut:
    """The held-out rows, indexed once in a process."""
    path = Path(tables) / "evaluation.parquet"
    params = load_params(ROOT / "params.yaml").validation
    rows = (row for n in range(groups(path, TABLES["evaluation"])) for row in read_group(path, TABLES["evaluation"], n))
    entries = (Entry("evaluation", row.id, row.question, row.image) for row in rows)
    return HeldOut(entries, params.twin_text, params.twin_image_bits)


if __name__ == "__main__":
    main()
