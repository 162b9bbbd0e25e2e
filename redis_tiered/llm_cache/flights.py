"""Single flight: of many callers that miss the same answer, one asks the model."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["Flight", "Flights", "Owner", "current_owner", "on_behalf_of"]

# One owner asks one model at a time, or a completion model for a few prompts; more calls without
# an answer means that they failed.
_PER_OWNER = 32


class Owner:
    """The task, or else the thread, that will call the model; known to be gone when it ended."""

    __slots__ = ("_gone", "_reference", "identity")

    def __init__(self, subject: Any, gone: Callable[[Any], bool]) -> None:
        self.identity = id(subject)
        self._reference = weakref.ref(subject)
        self._gone = gone

    def alive(self) -> bool:
        subject = self._reference()
        return subject is not None and not self._gone(subject)


_behalf: ContextVar[asyncio.Task[Any] | None] = ContextVar("redis_tiered_behalf", default=None)


@contextmanager
def on_behalf_of(task: asyncio.Task[Any] | None) -> Iterator[None]:
    """Have a thread that a task waits for act as the task."""
    token = _behalf.set(task)
    try:
        yield
    finally:
        _behalf.reset(token)


def current_owner() -> Owner:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = _behalf.get()
    if task is not None:
        return Owner(task, asyncio.Task.done)
    return Owner(threading.current_thread(), lambda thread: not thread.is_alive())


class Flight:
    """One model call that others wait for.

    Attributes:
        token: what the lease in Redis holds while this process leads.
        lease: key of the lease, or None when Redis could not be asked.
        holder: what the flight lasts as long as, if not as its owner: a stream, which others may read.
        answer: once landed, the sealed answer; or None: no answer came, somebody else may lead;
            or b"": the answer may not be stored, each caller asks for itself.
        served: why it is the answer, where it was stored for other words; None: it was not.
    """

    __slots__ = (
        "_landed",
        "_lock",
        "_waited_for",
        "answer",
        "deadline",
        "holder",
        "lease",
        "owner",
        "served",
        "token",
    )

    def __init__(self, owner: Owner, token: str, lease: bytes | None, deadline: float) -> None:
        self.owner = owner
        self.token = token
        self.lease = lease
        self.deadline = deadline
        self.holder: Owner | None = None
        self.answer: bytes | None = None
        self.served: Any = None
        self._landed = False
        self._waited_for: Future[None] | None = None  # most flights are not: it is made when needed
        self._lock = threading.Lock()

    def landing(self) -> Future[None]:
        """A future that is done when the flight has landed."""
        with self._lock:
            if self._waited_for is None:
                self._waited_for = Future()
                if self._landed:
                    self._waited_for.set_result(None)
            return self._waited_for

    def land(self, answer: bytes | None) -> None:
        """Called once, by `Flights`."""
        with self._lock:
            self.answer = answer
            self._landed = True
            waited_for = self._waited_for
        if waited_for is not None:
            waited_for.set_result(None)

    def over(self, now: float) -> bool:
        """Whether no answer is to be expected any more."""
        return now >= self.deadline or not (self.holder or self.owner).alive()

    def led_by(self, owner: Owner) -> bool:
        return self.owner.identity == owner.identity and self.owner.alive()


class Flights:
    """The model calls under way in this process, by digest. Thread-safe.

    Args:
        longest: seconds after which a call is no longer waited for.
    """

    def __init__(self, longest: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest = longest
        self._clock = clock
        self._flights: dict[str, Flight] = {}
        self._by_owner: dict[int, dict[str, Flight]] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._pid = 0
        self._process = ""

    def __len__(self) -> int:
        return len(self._flights)

    def token(self) -> str:
        """A new name for a would-be leader, unique over all processes."""
        pid = os.getpid()
        if pid != self._pid:  # at first use, and again in a forked child
            self._process, self._pid = secrets.token_hex(8), pid
        return f"{self._process}{next(self._numbers):x}"

    def find(self, digest: str) -> Flight | None:
        return self._flights.get(digest)

    def lead(self, digest: str, owner: Owner, token: str, lease: bytes | None) -> Flight:
        """Register the caller as leader; whoever was before is landed empty.

        The one exception: without a lease nobody takes over a flight that is not over.
        """
        with self._lock:
            before = self._flights.get(digest)
            if before is not None and lease is None and not before.over(self._clock()):
                return before
            ended = []
            if before is not None:
                ended.append(before)
                self._forget(digest, before)
            mine = self._by_owner.setdefault(owner.identity, {})
            if len(mine) >= _PER_OWNER:
                oldest, forsaken = next(iter(mine.items()))
                ended.append(forsaken)
                self._forget(oldest, forsaken)
            flight = Flight(owner, token, lease, self._clock() + self._longest)
            self._flights[digest] = mine[digest] = flight
        for each in ended:
            each.land(None)
        return flight

    def land(
        self, digest: str, answer: bytes | None, *, flight: Flight | None = None
    ) -> Flight | None:
        """End a flight and wake those who wait for it; returns it, or None if there was none."""
        with self._lock:
            current = self._flights.get(digest)
            if current is None or (flight is not None and flight is not current):
                return None
            self._forget(digest, current)
        current.land(answer)
        return current

    def sweep(self) -> tuple[list[Flight], list[Flight]]:
        """Flights whose leases are to be renewed, and ended ones whose leases are to be released."""
        live: list[Flight] = []
        ended: list[Flight] = []
        for digest, flight in list(self._flights.items()):
            if not flight.over(self._clock()):
                live.append(flight)
            elif self.land(digest, None, flight=flight) is not None:
                ended.append(flight)
        return live, ended

    def reset_after_fork(self) -> None:
        """The parent's calls are not ours to land."""
        self._lock = threading.Lock()
        self._flights = {}
        self._by_owner = {}

    def _forget(self, digest: str, flight: Flight) -> None:
        del self._flights[digest]
        mine = self._by_owner.get(flight.owner.identity)
        if mine is not None and mine.get(digest) is flight:
            del mine[digest]
            if not mine:
                del self._by_owner[flight.owner.identity]
