"""Which tickets there must be, by what was acknowledged; and what is wrong with what was looked up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from demo.messages import Filed, Looked
from demo.tickets import SHOWN, direction, place

__all__ = ["Mistakes", "Register"]

# Far above the rounding of float32 numbers, far below the distance of one ticket from the next.
_ALIKE = 1e-6


class Mistakes(NamedTuple):
    """How many tickets of lookups are not as they should be.

    Attributes:
        missing: acknowledged before the lookup began and nearer than what it gave, and not given.
        foreign: given, and another company's or nobody's.
    """

    missing: int = 0
    foreign: int = 0


class Register:
    """All tickets of all workers, whose clocks are one.

    Args:
        filed: every ticket; one that was not acknowledged may be there or not.

    Attributes:
        acknowledged: names of the tickets that must be there.
    """

    def __init__(self, filed: Iterable[Filed]) -> None:
        by_tenant: dict[str, list[Filed]] = defaultdict(list)
        for each in filed:
            by_tenant[each.ask.tenant].append(each)
        self._shelves = {tenant: _Shelf(tickets) for tenant, tickets in by_tenant.items()}
        self.acknowledged = {
            each.name for tickets in by_tenant.values() for each in tickets if not each.error
        }

    def lost(self, names: Iterable[str]) -> int:
        """How many tickets that must be there are not among these, which are all there are."""
        return len(self.acknowledged.difference(names))

    def mistakes(self, looked: Looked) -> Mistakes:
        """Look at what one lookup gave."""
        given = set(looked.names)  # the same ticket twice is but one
        shelf = self._shelves.get(looked.ask.tenant)
        if shelf is None:
            return Mistakes(0, len(given))
        rows = [shelf.rows[name] for name in given if name in shelf.rows]
        distances = 1.0 - shelf.places @ direction(looked.ask.question)
        # With fewer than could be given there was room for all.
        farthest = distances[rows].max() if len(given) >= SHOWN and rows else np.inf
        due = (shelf.since <= looked.began) & (distances < farthest - _ALIKE)
        due[rows] = False
        return Mistakes(int(due.sum()), len(given) - len(rows))


class _Shelf:
    """One company's tickets, a row for each.

    Attributes:
        rows: by name.
        since: when each was acknowledged, by `time.monotonic()`; infinite: never.
        places: vectors of length 1.
    """

    def __init__(self, tickets: Sequence[Filed]) -> None:
        self.rows = {each.name: row for row, each in enumerate(tickets)}
        self.since = np.array(
            [np.inf if each.error else each.began + each.seconds for each in tickets]
        )
        places = np.array([place(each.ask, each.name) for each in tickets])
        self.places = places / np.linalg.norm(places, axis=1, keepdims=True)
