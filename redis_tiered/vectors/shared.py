"""What all objects of one collection have in common in a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.vectors.place import Place, milliseconds
from redis_tiered.vectors.reading import Reading
from redis_tiered.vectors.upkeep import Upkeep
from redis_tiered.vectors.writing import Writing

__all__ = ["Shared"]

_SWEEP: Final = 60.0
_FLUSH: Final = 5.0


class Shared:
    """What is there once in a process for a name and its options, and what it does in background."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.writing = Writing(place)
        self.reading = Reading(place)
        self.upkeep = Upkeep(place)
        self.writing.ids = self.reading.ids
        self._flushes = False
        self._rebuilds = False
        self._sweeps_until = 0
        if place.options.auto_rebuild and place.durable:
            place.on_absent = self._rebuild_later
        place.tiers.on_fork(self)

    def _later(self, job: Callable[[], float | None], after: float) -> None:
        self.place.tiers.housekeeper.submit(job, after=after)

    def _rebuild_later(self) -> None:
        if not self._rebuilds:
            self._rebuilds = True
            self._later(self._rebuild, 0.2)

    def _rebuild(self) -> float | None:
        """Bring Redis up to the durable tier, in the shortest way that will do."""
        self._rebuilds = False
        try:
            self.place.tiers.run(self.upkeep.restore())
        except (TierError, InvalidInput) as error:
            self.place.note(error)  # the next query that finds it so asks again
        return None

    def sweep_later(self, lives: float) -> None:
        """Remove expired documents from time to time, until those that live so long are gone."""
        idle = self._sweeps_until == 0
        self._sweeps_until = max(self._sweeps_until, milliseconds() + int(lives * 1000))
        if idle:
            self._later(self._sweep, min(_SWEEP, lives + 1.0))

    def _sweep(self) -> float | None:
        try:
            while self.place.tiers.run(self.writing.remove_expired()):
                pass
        except TierError as error:
            self.place.note(error)
        if milliseconds() > self._sweeps_until:
            self._sweeps_until = 0
            return None
        return _SWEEP

    def flush_later(self) -> None:
        if not self._flushes and self.place.durable:
            self._flushes = True
            self._later(self._flush, _FLUSH)

    def _flush(self) -> float | None:
        self._flushes = False
        self.flush()
        return None

    def flush(self) -> None:
        """Write what was counted, also before the process ends."""
        if not self.place.options.track_access:
            return
        try:
            self.place.tiers.run(self.upkeep.flush_uses())
        except TierError as error:
            self.place.note(error)

    def reset_after_fork(self) -> None:
        self._flushes = self._rebuilds = False
        self._sweeps_until = 0
        self.place.reset_after_fork()
