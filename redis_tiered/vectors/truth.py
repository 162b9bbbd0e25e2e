"""What one process knows of a collection in the durable tier, and for how long it holds.

A reader believes what Redis has if that is complete up to the version that the durable tier named
at most `LEASE` seconds ago. A change is acknowledged when Redis has it; one that Redis missed,
when no reader's lease is from before it. Such a change leaves a mark in the durable tier, and while
the mark is there nobody has a lease: then only the first such change waits.

A lease holds for the generation that was read when it was asked for, and until Redis is seen to have
been away: what was acknowledged before another generation took over, or before Redis came back with
older data, may not be there, and only the durable tier knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from redis_tiered.errors import TierError
from redis_tiered.flow import Flow, Guards, Sleep, Sql

if TYPE_CHECKING:
    from redis_tiered.vectors.rows import Head

__all__ = ["LEASE", "Known", "Truth"]

LEASE: Final = 0.25
# What two processes' clocks may differ in how fast they run, and more.
_MARGIN: Final = 0.05
_NEVER: Final = float("-inf")


class Known(NamedTuple):
    """What the durable tier said.

    Attributes:
        head: the collection's row; None: there was no such collection.
        generation: the one that was known to be read before that; None: none was.
        incarnation: of Redis, before that.
        asked: when.
        until: when the lease ends.
    """

    head: Head | None
    generation: str | None
    incarnation: int
    asked: float
    until: float


class Truth:
    """One per collection and process.

    Attributes:
        known: what was said last.
    """

    def __init__(
        self, scope: str, guards: Guards, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scope = scope
        self._guards = guards
        self._clock = clock
        self._missing: tuple[int, float] | None = None  # the mark, and since when it is there
        self.known = Known(None, None, -1, _NEVER, _NEVER)

    def ask(self, *, anew: bool = False, generation: str | None = None) -> Flow[Head | None]:
        """The collection's row; None: there is none.

        Args:
            anew: also if it was asked for a moment ago.
            generation: the one that Redis was seen to read.

        Raises:
            TierError: the durable tier failed.
        """
        from redis_tiered.vectors import rows

        incarnation = self._guards.redis_incarnation
        known = self.known
        if not anew and incarnation == known.incarnation and self._clock() <= known.until:
            return known.head
        asked = self._clock()
        head: Head | None = yield Sql(rows.head(self._scope))
        until = asked + LEASE
        if head is None or head.missed is None:
            self._missing = None
        else:
            until = _NEVER
            if self._missing is None or self._missing[0] != head.missed:
                self._missing = head.missed, self._clock()
        if asked >= self.known.asked:  # nobody asked later, and was answered first
            self.known = Known(head, generation, incarnation, asked, until)
        return head

    def holds(self, known: Known, generation: str) -> bool:
        """Whether a lease holds for what was read; to be asked after that.

        Args:
            known: as it was before.
            generation: the one that was read.
        """
        return (
            known.generation == generation and known.incarnation == self._guards.redis_incarnation
        )

    def missed(self, marked: int | None, now: int) -> Flow[None]:
        """Return when no reader believes Redis from before a change that it missed.

        Args:
            marked: what the change itself read of the mark.
            now: milliseconds since 1970.

        Raises:
            TierError: the durable tier failed; then the change must not be acknowledged.
        """
        from redis_tiered.vectors import rows

        missing = self._missing
        if marked is None:
            yield Sql(rows.miss(self._scope, now), write=True)
            missing = now, self._clock()
        elif missing is None or missing[0] != marked:  # it was taken away, and made again, maybe
            missing = marked, self._clock()
        self._missing = missing
        self._distrust()
        if (remaining := missing[1] + LEASE + _MARGIN - self._clock()) > 0:
            yield Sleep(remaining)

    def recovered(self, water: int) -> Flow[None]:
        """Take the mark away if Redis has every change."""
        from redis_tiered.vectors import rows

        if self._missing is None:
            return
        try:
            yield Sql(rows.recovered(self._scope, water), write=True)
        except TierError:
            return  # it stays, and costs only time
        self._distrust()

    def _distrust(self) -> None:
        self.known = self.known._replace(until=_NEVER)
