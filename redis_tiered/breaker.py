"""When to stop asking a tier that does not answer, and when to try again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """A circuit breaker: closed, open, or half-open with a single probe.

    Opens at the first failure; while open nobody waits for the tier. After `retry_after` seconds
    (doubled after each failed probe, at most `max_retry_after`) one caller is let through to try.
    Thread-safe; shared by the sync and the async driver.

    Attributes:
        closed: True while requests may pass; read without a lock on every request.
        incarnation: grows each time the tier comes back, or may have, so that what was known
            about its content before the outage can be checked again.
    """

    def __init__(
        self,
        *,
        retry_after: float = 0.1,
        max_retry_after: float = 0.8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.closed = True
        self.incarnation = 0
        self._first_wait = retry_after
        self._max_wait = max_retry_after
        self._clock = clock
        self._lock = threading.Lock()
        self._wait = retry_after
        self._open_until = 0.0
        self._probing = False

    def admit(self) -> bool:
        """Whether the caller may try: always when closed, one caller at a time when due."""
        if self.closed:
            return True
        with self._lock:
            if self.closed:
                return True
            if self._probing or self._clock() < self._open_until:
                return False
            self._probing = True
            return True

    def succeeded(self) -> None:
        """The tier answered."""
        if self.closed:
            return
        with self._lock:
            if not self.closed:
                self.closed = True
                self.incarnation += 1
            self._probing = False
            self._wait = self._first_wait

    def failed(self) -> None:
        """The tier did not answer, or refused every request of the sort."""
        with self._lock:
            if self.closed:
                self.closed = False
                self._wait = self._first_wait
            elif self._probing:
                self._wait = min(self._wait * 2, self._max_wait)
            else:  # a request sent before the breaker opened; its failure is no news
                return
            self._probing = False
            self._open_until = self._clock() + self._wait

    def interrupted(self) -> None:
        """A connection was lost though the tier answers: it may have been down in between."""
        with self._lock:
            self.incarnation += 1

    def abandoned(self) -> None:
        """The probe was cancelled before it learned anything; another caller may try."""
        with self._lock:
            self._probing = False

    def reset_after_fork(self) -> None:
        """Forget a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()
        self._probing = False

    def hint(self) -> None:
        """The tier was seen alive: the next caller may try now."""
        with self._lock:
            if not self.closed:
                self._open_until = 0.0
