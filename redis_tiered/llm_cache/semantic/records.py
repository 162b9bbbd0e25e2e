"""What is known of a cache as a whole, by name: in the durable tier, with a copy in Redis."""

from __future__ import annotations

from redis_tiered.errors import TierError
from redis_tiered.flow import Flow, Redis, Sql
from redis_tiered.keys import LLMKeys
from redis_tiered.tiers.tiers import Tiers

__all__ = ["Records"]

# Redis is asked, and the durable tier if Redis does not know: that there is nothing is kept, too.
_NOTHING = b"-"
_KEPT_MS = 86_400_000


class Records:
    """The records of one cache of one tenant."""

    def __init__(self, tiers: Tiers, keys: LLMKeys) -> None:
        self._tiers = tiers
        self._keys = keys

    @property
    def told(self) -> bool:
        """Whether this process is told when a record changes."""
        return self._tiers.memory.coherent

    def remembered(self, name: str) -> bool:
        """Whether this process knows the record as it is: it would have been told of a change."""
        return self._tiers.memory.get(self._keys.record(name)) is not None

    def load(self, name: str) -> Flow[bytes | None]:
        """A record; None: there is none.

        Raises:
            TierError: neither tier can tell.
        """
        key = self._keys.record(name)
        ticket = self._tiers.memory.ticket()
        try:
            [held] = yield Redis((("GET", key),))
        except TierError:
            if self._tiers.durable is None:
                raise
            held = None
        if held is None and self._tiers.durable is not None:
            from redis_tiered.llm_cache import rows

            held = yield Sql(rows.record(self._keys.scope, name))
            copy = _NOTHING if held is None else held
            try:
                yield Redis((("SET", key, copy, *self._end(), "NX"),), write=True)
            except TierError:
                pass  # the durable tier is asked again next time
        held = _NOTHING if held is None else held
        self._tiers.memory.put(key, held, ticket)
        return None if held == _NOTHING else held

    def save(self, name: str, value: bytes) -> Flow[None]:
        """Store a record, durable tier first; every process is told.

        Raises:
            TierError: a tier could not be told.
        """
        if self._tiers.durable is not None:
            from redis_tiered.llm_cache import rows

            yield Sql(rows.save_record(self._keys.scope, name, value), write=True)
        key = self._keys.record(name)
        yield Redis((("SET", key, value, *self._end()),), write=True)
        self._tiers.memory.invalidate((key,))

    def _end(self) -> tuple[str | int, ...]:
        # Redis is all there is: then it keeps them for good.
        return () if self._tiers.durable is None else ("PX", _KEPT_MS)
