"""Requests that wait are taken together, one batch after the other, by one thread or several. Source: ours."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from saferflow.serving.refusal import Refusal

Job = TypeVar("Job")
Result = TypeVar("Result")


class Batcher(Generic[Job, Result]):
    """A queue with a bound.

    Args:
        work: a result a job, in their order.
        batch: jobs taken together, at most.
        queue: jobs that wait, at most.
        gather: seconds for which a batch waits until it is as large as the one before: callers that were answered
            together ask again one shortly after the other. A lone caller waits for nobody.
        seen: is told the size of each batch.
        workers: batches that are at work at the same time.
    """

    def __init__(
        self,
        work: Callable[[list[Job]], Sequence[Result]],
        *,
        batch: int,
        queue: int,
        gather: float,
        seen: Callable[[int], None] = lambda size: None,
        workers: int = 1,
    ):
        self._work, self._batch, self._queue, self._gather, self._seen = work, batch, queue, gather, seen
        self._waiting: deque[tuple[Job, Future[Result]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._before = 1
        """Jobs of the batch before."""
        self._seconds = 1.0
        """That the batch before took."""
        self._threads = [threading.Thread(target=self._run, name="batches", daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that no batch has taken yet."""
        with self._changed:
            return sum(not future.cancelled() for _, future in self._waiting)

    def submit(self, job: Job) -> "Future[Result]":
        """The job's result to come. Cancelled before a batch takes it, it is dropped; later its result is.

        Raises:
            Refusal: 429 where the queue is full, 503 where the server is going down.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise Refusal(503, "going_down", "the server is going down; ask another, or again later", 1)
            if len(self._waiting) >= self._queue:
                self._waiting = deque(pair for pair in self._waiting if not pair[1].cancelled())
            if len(self._waiting) >= self._queue:
                batches = len(self._waiting) / self._batch / len(self._threads)
                seconds = math.ceil((batches + 1) * self._seconds)
                raise Refusal(
                    429,
                    "queue_full",
                    f"{len(self._waiting)} requests wait, as many as serve.queue allows; try again",
                    seconds,
                )
            self._waiting.append((job, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Answer what waits and end the threads; new jobs are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while pairs := self._take():
            live = [pair for pair in pairs if pair[1].set_running_or_notify_cancel()]
            if live:
                self._before = len(live)
                self._seen(len(live))
                started = time.monotonic()
                self._answer(live)
                self._seconds = time.monotonic() - started

    def _take(self) -> list[tuple[Job, "Future[Result]"]]:
        """The jobs of the next batch; none where the server goes down and nobody waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._before > 1:
                self._changed.wait_for(lambda: len(self._waiting) >= self._before or self._closed, self._gather)
            return [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]

    def _answer(self, live: list[tuple[Job, "Future[Result]"]]) -> None:
        try:
            results = self._work([job for job, _ in live])
        except Exception as error:  # a job that cannot be answered must not take the others' answers with it
            if len(live) == 1:
                live[0][1].set_exception(error)
                return
            for pair in live:
                self._answer([pair])
            return
        for (_, future), result in zip(live, results, strict=True):
            future.set_result(result)
