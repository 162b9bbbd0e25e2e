"""The hashes of a document store, looked ahead at.

LlamaIndex's pipeline asks for one hash after the other, of documents that are mostly new: a round trip
and a query each. So after a few of these all hashes are read at once and kept, as long as the stamp
they were read under is there, of which memory alone is asked most of the time. Every change of a hash
writes another stamp, and memory is told of that as of any other write.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final

from redis_tiered.errors import TierError
from redis_tiered.flow import Flow
from redis_tiered.maps.map import Map
from redis_tiered.values import Writer

__all__ = ["PREFIX", "Hashes"]

PREFIX: Final = "h/"
_STAMP: Final = "v"
_PAGE: Final = 10_000
_MOST: Final = 100_000
# So many are asked for one by one before all are read, and one more for so many that there are: to
# read one of many costs about a two hundredth of what it costs alone.
_PATIENCE: Final = 2
_SHARE: Final = 200


class Hashes:
    """Those of one store, by ids.

    Args:
        map: where they are.
    """

    def __init__(self, map: Map[Any]) -> None:
        self._map = map
        self._ahead: tuple[str, dict[str, str]] | None = None
        self._patience = self._left = _PATIENCE

    def stamp(self) -> dict[str, bytes]:
        """What must be put together with any change of a hash."""
        return {_STAMP: Writer().dumped(secrets.token_hex(8))}

    def of(self, ids: Sequence[str]) -> Flow[list[str | None]]:
        """Hashes in the order of the ids; None where there is none.

        Raises:
            TierError: some were not found, and a tier that may have them failed.
        """
        if len(ids) == 1:
            known = yield from self._known()
            if known is not None:
                return [known.get(ids[0])]
        return (yield from self._map.having([PREFIX + id for id in ids]))

    def all(self, most: int | None = None) -> Flow[list[tuple[str, str]] | None]:
        """Ids and hashes in the order of the ids; None: there are more."""
        found: list[tuple[str, str]] = []
        after: bytes | None = None
        while True:
            page, after, more = yield from self._map.listing(PREFIX, after, _PAGE)
            found += [(name[len(PREFIX) :], hash) for name, hash in page]
            if most is not None and len(found) > most:
                return None
            if not more:
                return found

    def _known(self) -> Flow[dict[str, str] | None]:
        """All hashes, if they were read and are as they were, or are read now."""
        if self._ahead is not None:
            stamp, known = self._ahead
            if (yield from self._stamp_now()) == stamp:
                return known
            self._ahead = None
        self._left -= 1
        if self._left >= 0:
            return None
        self._left = self._patience
        try:
            stamp = yield from self._stamp_now()
            if stamp is None:  # nothing was ever written
                yield from self._map.changing(self.stamp())
                stamp = yield from self._stamp_now()
            found = yield from self.all(_MOST)
            same = stamp is not None and (yield from self._stamp_now()) == stamp
        except TierError:
            return None  # the one that is asked for may be there all the same
        if found is None:  # not to be tried again soon
            self._left = self._patience = 2 * self._patience
            return None
        if not same:
            return None
        known = dict(found)
        self._left = self._patience = _PATIENCE + len(known) // _SHARE
        self._ahead = stamp, known
        return known

    def _stamp_now(self) -> Flow[Any]:
        [stamp] = yield from self._map.having([_STAMP])
        return stamp
