"""A function over many jobs in several processes, with the results in order and few of them in memory."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from saferflow.errors import PipelineError

Job = TypeVar("Job")
Result = TypeVar("Result")
AHEAD = 3
"""Jobs a process that are handed out before the first of them is taken back."""


def mapped(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[Result]:
    """`map`, in `workers` processes; in this one where that is 1.

    Args:
        function: of a module, so that another process finds it; what it raises is raised here.

    Raises:
        PipelineError: a process was killed.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    handed = deque()
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            for job in jobs:
                handed.append(pool.submit(function, job))
                if len(handed) >= AHEAD * workers:
                    yield handed.popleft().result()
            while handed:
                yield handed.popleft().result()
        except BrokenProcessPool:
            raise PipelineError(
                "a process at work on the tables was killed, for want of memory most likely; lower run.workers and run again"
            ) from None
        finally:
            for future in handed:
                future.cancel()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it went."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)
