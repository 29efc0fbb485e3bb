"""The folders that versions are served from: those of this process and of others stay, and the last one before; others go."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock

VERSION = re.compile(r"[^.].*-v\d+")
"""Names of such folders."""


class ServedFolders:
    """Folders under one home. A process holds a lock on each that it serves from; the kernel lets go of it when it ends.

    Args:
        home: the folder that they lie in; it is made.
    """

    def __init__(self, home: Path):
        self._home = home
        self._held: list[IO[str]] = []
        """Locks of the last two folders that this process served from, the served one last."""
        home.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def serving(self, folder: Path, *, inherited: bool = False) -> Iterator[None]:
        """Hold a folder from the block's beginning on, where its files are written, and remove former ones at its end.

        Where the block fails the folder is let go, and what this process served before stays as it was.

        Args:
            folder: it need not be there yet.
            inherited: a program that takes this process's place goes on holding it.
        """
        with self._alone():
            lock = _lock_file(folder).open("a")
            os.set_inheritable(lock.fileno(), inherited)
            fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            yield
        except BaseException:
            lock.close()
            raise
        os.utime(lock.fileno())  # the last one before is known by it
        for former in self._held[:-1]:
            former.close()
        self._held = [*self._held[-1:], lock]
        self._remove_former()

    def _remove_former(self) -> None:
        """Remove the folders that no process holds, but the one that was served from last of all."""
        with self._alone():
            folders = [one for one in self._home.iterdir() if one.is_dir() and VERSION.fullmatch(one.name)]
            free = sorted((one for one in folders if _is_free(one)), key=_held_at, reverse=True)
            kept = 1 if len(self._held) < 2 else 0  # this process itself holds the one before
            for former in free[kept:]:
                shutil.rmtree(former)
                shutil.rmtree(former.with_name(f".{former.name}.partial"), ignore_errors=True)
                former.with_name(f"{former.name}.jinja").unlink(missing_ok=True)
                _lock_file(former).unlink(missing_ok=True)

    def _alone(self) -> FileLock:
        """So that no folder is removed between the look at its lock and the removal."""
        return FileLock(self._home / ".lock")


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _is_free(folder: Path) -> bool:
    """Whether no process holds it, this one included."""
    if not _lock_file(folder).exists():
        return True
    with _lock_file(folder).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _held_at(folder: Path) -> float:
    """When a process last began to serve from it, seconds since 1970; 0 where nobody knows."""
    return _lock_file(folder).stat().st_mtime if _lock_file(folder).exists() else 0.0
