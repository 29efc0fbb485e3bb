"""Runs a command until it ends or until this process's standard input is closed: so it ends with its parent, however that ends.

    python leash.py COMMAND ...

The parent holds the other end of standard input. Unlike a signal at a parent's death this depends on no thread. Source: ours.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

STOP_SECONDS = 30.0
"""That a command has to end by itself."""


def main() -> None:
    for name in (signal.SIGINT, signal.SIGTERM):  # the parent says when; it may be answering its last requests
        signal.signal(name, lambda *_: None)  # not SIG_IGN, which the command would inherit
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    sys.exit(process.wait())


def _end_with_parent(process: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 1024):
        pass
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
