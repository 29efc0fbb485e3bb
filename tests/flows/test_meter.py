"""What a stage used: CPU time of everything that it started, GPUs that it was on, and its time when it is up."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from flows import guard, meter

ROOT = Path(__file__).parents[2]
BUSY = "import time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass"
FAMILY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}]); {BUSY}"
TRAINER = """
import signal, sys, time
def checkpoint(*_):
    print("checkpoint", flush=True)
    sys.exit(1)
signal.signal(signal.SIGTERM, checkpoint)
time.sleep(60)
"""


def guarded(*command: str, **environ: str) -> subprocess.CompletedProcess:
    holder = subprocess.Popen(
        [sys.executable, "-m", "flows.guard", *command], cwd=ROOT, env={**os.environ, **environ},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    output, _ = holder.stdout.read(), holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    return subprocess.CompletedProcess(command, holder.returncode, output)


def test_the_cpu_time_of_children_counts(tmp_path):
    cost = tmp_path / "cost.json"
    assert guarded(sys.executable, "-c", FAMILY, **{guard.COST: str(cost)}).returncode == 0
    assert 2.0 <= json.loads(cost.read_text())["cpu_seconds"] < 6.0


def test_a_stage_whose_time_is_up_writes_its_checkpoint_and_says_so():
    done = guarded(sys.executable, "-c", TRAINER, **{guard.SECONDS: "1"})
    assert (done.returncode, done.stdout) == (guard.TIME_IS_UP, "checkpoint\n")


def test_a_stage_that_is_done_in_time_is_done():
    assert guarded(sys.executable, "-c", "pass", **{guard.SECONDS: "30"}).returncode == 0


def test_gpus_count_while_the_family_is_on_them(monkeypatch):
    """A machine with two GPUs, as its library tells it; the family is on the second alone."""
    monkeypatch.setattr(meter, "SECONDS", 0.05)
    child = subprocess.Popen(["sleep", "30"])
    other = os.getppid()
    joules = iter(range(0, 10**6, 5000))

    def on(handle: int) -> list:
        return [SimpleNamespace(pid=child.pid if handle == 1 else other)]

    library = SimpleNamespace(
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetComputeRunningProcesses=on,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(joules),
    )
    measured = meter.Meter(child.pid, library)
    time.sleep(0.5)
    child.kill()
    child.wait()
    found = measured.read()
    assert 0.2 < found["gpu_seconds"] < 1.5
    assert found["joules"] >= 5


def test_a_counter_that_began_anew_is_read_right():
    assert meter._since((900_000, 1_000_000), (100_000, 1_000_000)) == 0.2
