"""Judging ahead: while a policy draws the next completions, the judge reads the ones before. Source: ours."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

READERS = 16
"""Batches that are with the judge at the same time; its server's `concurrency` bounds their requests together."""

Batch = TypeVar("Batch")


def read_ahead(batches: Iterable[Batch], prepare: Callable[[Batch], None]) -> Iterator[Batch]:
    """Each batch, in order, once it is prepared; the next batches are drawn meanwhile, here.

    Args:
        prepare: called in threads, several batches at a time. It waits for a server; with a rule judge it does nothing.

    Raises:
        Exception: what `prepare` raises, at its batch; batches that wait are then not prepared.
    """
    pool = ThreadPoolExecutor(READERS, "judge")
    waiting: deque[tuple[Batch, Future]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(prepare, batch)))
            while waiting and waiting[0][1].done():
                yield _prepared(waiting)
        while waiting:
            yield _prepared(waiting)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _prepared(waiting: deque[tuple[Batch, Future]]) -> Batch:
    batch, preparing = waiting.popleft()
    preparing.result()
    return batch
