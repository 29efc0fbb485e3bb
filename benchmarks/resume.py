"""A kill in each training stage of the profile in params.yaml, and how far its weights are then from an undisturbed run's.

    saferflow run && python benchmarks/resume.py [--stage grpo] [--seed 7]

Copies the project to a folder of its own, starts the stage there, sends SIGKILL at a random moment after its first whole
checkpoint, starts it again, and compares with the weights that the pipeline made. The same machine and threads. Source: ours.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

INPUTS = {"sft": "base", "dpo": "sft", "grpo": "dpo"}


def start(stage: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-m", f"saferflow.stages.{stage}"]
    env = {**os.environ, "PYTHONPATH": "src", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("checkpoints/*/*/checkpoint-*/MANIFEST.json"))


def killed(stage: str, folder: Path, draw: random.Random) -> list[str]:
    """Run a stage until a moment after its first checkpoint; the checkpoints that are whole then."""
    process = start(stage, folder)
    begun = time.monotonic()
    while not checkpoints(folder):
        if process.poll() is not None:
            raise SystemExit(f"{stage} ended by itself:\n{process.stdout.read()[-2000:]}")
        time.sleep(0.05)
    time.sleep(draw.uniform(0, time.monotonic() - begun))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return checkpoints(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=INPUTS, action="append")
    parser.add_argument("--seed", type=int, default=7, help="of the moments of the kills")
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    for stage in asked.stage or INPUTS:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            for name in ("src", "data", f"models/{INPUTS[stage]}"):
                shutil.copytree(name, folder / name)
            shutil.copy("params.yaml", folder)
            kept = killed(stage, folder, draw)
            told, _ = start(stage, folder).communicate()
            gone_on = next((line for line in told.splitlines() if "goes on from" in line), "DID NOT GO ON")
            one, other = (load_file(where / "models" / stage / "model.safetensors") for where in (folder, Path()))
            apart = max((one[name] - other[name]).abs().max().item() for name in other)
            print(
                f"{stage}: killed with {', '.join(kept)} whole; {gone_on.strip()}; weights {apart:.3g} apart",
                flush=True,
            )


if __name__ == "__main__":
    main()
