"""Runs a command in its own process group, and ends the group when the calling process is gone.

`python -m flows.guard COMMAND...`: the caller holds this process's standard input open. When it closes (the caller ended
the stage, or was killed), or on SIGTERM, the whole group gets SIGTERM and, ten seconds later, SIGKILL. With SAFERFLOW_COST it
leaves there, as JSON, what the command used; with SAFERFLOW_SECONDS the command gets SIGTERM after so long, has ten minutes
for its checkpoint, and the exit status is 124.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from flows.meter import Meter

GRACE = 10.0
CHECKPOINT = 600.0
"""Seconds that a command whose time is up has for its last checkpoint."""
COST, SECONDS = "SAFERFLOW_COST", "SAFERFLOW_SECONDS"
TIME_IS_UP = 124
"""Exit status, as timeout(1) has it."""


def main(command: list[str]) -> int:
    """Run the command, and return its exit status, or 128 + the signal that ended it."""
    environ = {name: value for name, value in os.environ.items() if name not in (COST, SECONDS)}
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, env=environ)
    meter = Meter(child.pid) if COST in os.environ else None
    ending, late = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        if not ending.is_set():
            ending.set()
            threading.Thread(target=_end_group, args=(child.pid,), daemon=True).start()

    def time_is_up() -> None:
        late.set()
        threading.Thread(target=_end_group, args=(child.pid, CHECKPOINT), daemon=True).start()

    if SECONDS in os.environ:
        clock = threading.Timer(float(os.environ[SECONDS]), time_is_up)
        clock.daemon = True
        clock.start()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, end)
    threading.Thread(target=lambda: (_wait_for_end_of_input(), end()), daemon=True).start()
    status = child.wait()
    _end_group(child.pid, grace=GRACE if ending.is_set() else 1.0)  # what the command left behind
    if meter:
        with suppress(OSError):
            Path(os.environ[COST]).write_text(json.dumps(meter.read()))
    if late.is_set() and status:
        return TIME_IS_UP
    return status if status >= 0 else 128 - status


def _wait_for_end_of_input() -> None:
    while os.read(
        0, 4096
    ):  # not sys.stdin: a thread that waits there would hold a lock that the interpreter wants at exit
        pass


def _end_group(group: int, grace: float = GRACE) -> None:
    limit = time.monotonic() + grace
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < limit:
            os.killpg(group, 0)
            time.sleep(0.05)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
