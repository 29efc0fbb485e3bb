"""Runs a command in a process group of its own that ends when whoever asked for it is gone.

`python -m flows.guard COMMAND...`: the caller holds this process's standard input open. When it closes (the caller ended
the stage, or was killed), or on SIGTERM, the whole group gets SIGTERM and, ten seconds later, SIGKILL.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

GRACE = 10.0


def main(command: list[str]) -> int:
    """Run the command; its exit status, or 128 + the signal that ended it."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    ending = threading.Event()

    def end(*_: object) -> None:
        if not ending.is_set():
            ending.set()
            threading.Thread(target=_end_group, args=(child.pid,), daemon=True).start()

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, end)
    threading.Thread(target=lambda: (_wait_for_end_of_input(), end()), daemon=True).start()
    status = child.wait()
    _end_group(child.pid, grace=GRACE if ending.is_set() else 1.0)  # what the command left behind
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
