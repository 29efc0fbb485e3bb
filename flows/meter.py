"""What a stage's processes use while they run: CPU seconds, GPU seconds, and energy where the machine measures it."""

import resource
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import psutil

SECONDS = 2.0
"""Seconds between two samples of the GPUs."""
POWERCAP = Path("/sys/class/powercap")
"""Linux's energy counters of CPU packages (RAPL); for root alone on most machines."""


def nvml() -> ModuleType | None:
    """NVIDIA's management library, where there is a GPU and the package nvidia-ml-py."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # a missing driver, library or device are errors of its own
        return None
    return pynvml


class Meter:
    """Measures a process and its descendants, from `__init__` to `read`."""

    def __init__(self, pid: int, gpus: ModuleType | None = None):
        self._pid = pid
        self._nvml = gpus or nvml()
        self._gpu_seconds = 0.0
        self._used: set[int] = set()
        """Numbers of the GPUs that the process has used."""
        self._begun = {number: self._joules_of(number) for number in range(self._count())}
        self._packages = dict(_packages())
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._count():
            self._thread.start()

    def read(self) -> dict[str, float]:
        """Stop, and return `cpu_seconds`, and where the machine measures them `gpu_seconds` and `joules`.

        Joules are those of the GPUs that the process used and of all CPU packages; other processes' use counts too.
        """
        self._end.set()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        readings = {"cpu_seconds": used.ru_utime + used.ru_stime}
        if self._count():
            self._thread.join()
            readings["gpu_seconds"] = self._gpu_seconds
        joules = [self._joules_of(number) - self._begun[number] for number in self._used]
        joules += [_since(before, now) for before, now in _pairs(self._packages, dict(_packages()))]
        if joules:
            readings["joules"] = sum(joules)
        return readings

    def _count(self) -> int:
        return self._nvml.nvmlDeviceGetCount() if self._nvml else 0

    def _joules_of(self, number: int) -> float:
        with suppress(Exception):  # older GPUs have no counter
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._nvml.nvmlDeviceGetHandleByIndex(number)) / 1000
        return 0.0

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._end.wait(SECONDS):
            now = time.monotonic()
            on = self._on()
            self._used |= on
            self._gpu_seconds += len(on) * (now - before)
            before = now

    def _on(self) -> set[int]:
        """GPUs on which the process or one of its descendants works."""
        try:
            first = psutil.Process(self._pid)
            family = {self._pid, *(child.pid for child in first.children(recursive=True))}
        except psutil.NoSuchProcess:
            return set()
        busy = set()
        for number in range(self._count()):
            with suppress(Exception):
                handle = self._nvml.nvmlDeviceGetHandleByIndex(number)
                if family & {process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)}:
                    busy.add(number)
        return busy


def _packages():
    """Each CPU package's counter in microjoules, and the value at which it wraps."""
    for folder in sorted(POWERCAP.glob("intel-rapl:[0-9]")):
        with suppress(OSError, ValueError):
            now = int((folder / "energy_uj").read_text())
            yield folder, (now, int((folder / "max_energy_range_uj").read_text()))


def _pairs(before: dict, after: dict) -> list:
    return [(before[folder], after[folder]) for folder in before if folder in after]


def _since(before: tuple[int, int], now: tuple[int, int]) -> float:
    """Joules between two readings of a counter that wraps at its range; it wraps at most once, since that takes hours."""
    return ((now[0] - before[0]) % now[1]) / 1e6
