"""What must happen a little later: renewing leases, totalling counters, reclaiming memory."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Housekeeper"]

logger = logging.getLogger("redis_tiered")


class Housekeeper:
    """Runs small jobs on one daemon thread, started with the first job, gone when idle.

    A job returns the seconds until it wants to run again, or None when it is done. A job that
    raises is logged and dropped; nothing a user waits for depends on it.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._jobs: list[tuple[float, int, Callable[[], float | None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def submit(self, job: Callable[[], float | None], *, after: float = 0.0) -> None:
        """Run `job` after some seconds; does nothing once stopped."""
        with self._condition:
            if self._stopped:
                return
            heapq.heappush(self._jobs, (time.monotonic() + after, next(self._order), job))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="redis-tiered housekeeping", daemon=True
                )
                self._thread.start()
            else:
                self._condition.notify()

    def stop(self, timeout: float) -> None:
        """Drop all jobs and wait for one that is running, so that it is done with its connections."""
        with self._condition:
            self._stopped = True
            self._jobs.clear()
            self._condition.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _work(self) -> None:
        while True:
            with self._condition:
                while self._jobs and (wait := self._jobs[0][0] - time.monotonic()) > 0:
                    self._condition.wait(wait)
                if not self._jobs:
                    self._thread = None
                    return
                _, _, job = heapq.heappop(self._jobs)
            again = self._attempt(job)
            if again is not None:
                self.submit(job, after=again)

    def _attempt(self, job: Callable[[], float | None]) -> float | None:
        try:
            return job()
        except Exception:
            logger.exception("housekeeping job failed")
            return None
