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
SPINS = "10000"
"""How often a thread of OpenMP looks for its next work before it sleeps (GNU's own choice is 300,000 or for ever)."""
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Variables by which a user says how threads wait."""
AHEAD = 3
"""Jobs a process that are handed out before the first of them is taken back."""


def bound_waiting() -> None:
    """Let the threads of OpenMP sleep soon where they wait for each other; call it before torch is imported.

    They look for work without pause until the last of them is done. Beside other processes that one waits for a core while its
    siblings burn theirs, and a stage takes many times its share. Nothing is changed where the user has chosen.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = SPINS


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
