"""A stage's process: its lines as they arrive; it ends when the flow ends, however that happens."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

STOP_SECONDS = 20
held_back: dict[str, str] = {}
"""Environment variables that were removed from this process and are passed to its commands."""


def run(command: list[str], root: Path, log: Path, env: Mapping[str, str], on_line: Callable[[str], None]) -> int:
    """Run a command under the guard; every line goes to `on_line` and to `log`.

    Any exception here, an interrupt among them, ends the command's whole process group before it passes on.

    Returns:
        The exit status.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    python = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PYTHONFAULTHANDLER": "1"}
    guard = subprocess.Popen(
        [sys.executable, "-m", "flows.guard", *command],
        cwd=root,
        env={**os.environ, **held_back, **env, "PATH": path, **python},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        with log.open("w", encoding="utf-8") as file:
            for line in guard.stdout:
                text = plain(line)
                if text:
                    file.write(text + "\n")
                    file.flush()
                    on_line(text)
        return guard.wait()
    except BaseException:
        _end(guard)
        raise


def _end(guard: subprocess.Popen) -> None:
    with suppress(BrokenPipeError):
        guard.stdin.close()
    try:
        guard.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def plain(line: str) -> str:
    """A line without colours and control characters; of a redrawn line, the last text."""
    return _CONTROL.sub("", line.rstrip("\r\n").rpartition("\r")[2]).rstrip()
