"""One event loop in a thread of its own, so that several threads ask servers at the same time. Source: ours."""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""By process: a forked one has no threads of its parent and starts its own."""
_starting = threading.Lock()


def run_in_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, or what it raises; an interrupt here ends it there."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        if os.getpid() not in _loops:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="endpoint", daemon=True).start()
        return _loops[os.getpid()]
