"""Which rows of a matrix are free, while others read it.

A row that a search may be reading is not written: a document that is put again gets another row,
and the old one is given out only when every search has ended that began before it was left.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Slots"]


class Slots:
    """Numbers of rows, given out lowest first; to be used under the owner's lock.

    Attributes:
        used: rows from here on were never given out.
    """

    def __init__(self, used: int = 0) -> None:
        self.used = used
        self._free: list[int] = []
        self._left: deque[tuple[int, int]] = deque()
        self._readers: dict[int, None] = {}  # in order, as they are numbers of a counter
        self._last = 0

    def take(self) -> int:
        """A row that nobody reads."""
        if self._left:
            oldest = next(iter(self._readers), self._last + 1)
            while self._left and self._left[0][0] < oldest:
                self._free.append(self._left.popleft()[1])
        if self._free:
            return self._free.pop()
        self.used += 1
        return self.used - 1

    def give(self, slot: int) -> None:
        """Leave a row to others, once the searches that now run have ended."""
        if self._readers:
            self._left.append((self._last, slot))
        else:
            self._free.append(slot)

    def enter(self) -> int:
        """A search begins; its ticket is for `leave`."""
        self._last += 1
        self._readers[self._last] = None
        return self._last

    def leave(self, ticket: int) -> None:
        """A search has ended."""
        del self._readers[ticket]

    @property
    def bytes(self) -> int:
        return 8 * len(self._free) + 100 * len(self._left)
