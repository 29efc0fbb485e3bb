"""Blue and green: the version that an alias points to is loaded beside the one that is served, and takes its place."""

import logging
import threading
import time
from collections.abc import Callable

from saferflow.serving.policy import Policy
from saferflow.serving.system import System

AGAIN = 60.0
"""Seconds after which a version that could not be loaded is tried again; a registry or disk may be back."""
LOG = logging.getLogger("uvicorn.error")


class Follower:
    """Watches an alias in a thread of its own.

    A request is answered by the version that was served when it came; the former version is freed with its last request.
    A version that cannot be loaded leaves the served one in place: `System.trouble`, the log and a metric say so.

    Args:
        pointed: the number of the version that the alias points to; None where it points to none.
        load: a version's policy, ready to answer.
    """

    def __init__(self, system: System, alias: str, *, pointed: Callable[[], int | None], load: Callable[[int], Policy]):
        self._system, self._alias, self._pointed, self._load = system, alias, pointed, load
        self._failed: tuple[int | None, float] = (None, 0.0)
        """The version that could not be loaded, and when."""
        system.follows = alias

    def start(self) -> None:
        """Look every `serve.follow_seconds` until the server goes down."""
        threading.Thread(target=self._run, name="follow", daemon=True).start()

    def look(self) -> None:
        """Look once, and take over what is found."""
        served = self._system.policy.identity
        try:
            number = self._pointed()
        except Exception as error:  # the registry is a service: its absence does not end serving
            self._say(f"{served.name} stays: {error}")
            return
        if number == served.number:
            self._system.trouble = None
        elif number is None:
            self._say(f"{served.name} stays: {self._alias} points to no version")
        elif self._failed[0] != number or time.monotonic() - self._failed[1] > AGAIN:
            self._take_over(number)

    def _run(self) -> None:
        while not self._system.closing.wait(self._system.params.serve.follow_seconds):
            self.look()

    def _take_over(self, number: int) -> None:
        served, started = self._system.policy.identity, time.monotonic()
        try:
            policy = self._load(number)
        except Exception as error:
            self._failed = (number, time.monotonic())
            self._system.metrics.takeover(done=False)
            self._say(f"{served.name} stays: version {number}, which {self._alias} points to, cannot be loaded: {error}")
            return
        self._system.policy, self._system.trouble = policy, None
        self._failed = (None, 0.0)
        self._system.metrics.takeover(done=True)
        seconds = time.monotonic() - started
        LOG.warning("%s takes over from %s, loaded in %.1f s", policy.identity.name, served.name, seconds)

    def _say(self, trouble: str) -> None:
        """Keep a trouble for `/health`; the log gets it once."""
        if trouble != self._system.trouble:
            LOG.warning("%s", trouble)
        self._system.trouble = trouble
