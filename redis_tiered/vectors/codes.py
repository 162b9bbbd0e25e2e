"""Values of documents as small numbers, that numpy compares all at once."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Codes", "Mask"]

Mask = NDArray[np.bool_]

_FEW: Final = 64  # distinct values, of which it does not matter how many are garbage


class Codes:
    """A number for the value of every slot; equal values have the same one.

    Attributes:
        numbers: int32, by slot; 0: none.
        keys: the number of each value, from 1 on.
        listed: the values in the order of their numbers.
    """

    def __init__(self, capacity: int) -> None:
        self.numbers = np.zeros(capacity, np.int32)
        self.keys: dict[Hashable, int] = {}
        self.listed: list[Any] = []
        self._check = _FEW

    def of(self, key: Hashable) -> int:
        """The number of a value, which may be new."""
        number = self.keys.get(key)
        if number is None:
            self.listed.append(key)
            number = self.keys[key] = len(self.listed)
        return number

    def any(self, keys: Iterable[Hashable], used: int) -> Mask:
        """Which of the first `used` slots have one of these values."""
        wanted = [number for key in keys if (number := self.keys.get(key)) is not None]
        return self.one_of(wanted, used)

    def one_of(self, wanted: list[int], used: int) -> Mask:
        """Which of the first `used` slots have one of these numbers."""
        if not wanted:
            return np.zeros(used, np.bool_)
        if len(wanted) == 1:
            found: Mask = self.numbers[:used] == wanted[0]
            return found
        table = np.zeros(len(self.keys) + 1, np.bool_)
        table[wanted] = True
        return self.looked_up(table, used)

    def looked_up(self, table: Mask, used: int) -> Mask:
        """A slot's place in a table, which has one for each number and one for 0."""
        # "clip" spares a check; no number is out of bounds.
        return table.take(self.numbers[:used], mode="clip")

    def resize(self, capacity: int) -> None:
        grown = np.zeros(capacity, np.int32)
        grown[: len(self.numbers)] = self.numbers
        self.numbers = grown

    def move(self, slots: NDArray[np.intp], capacity: int) -> None:
        """What was in `slots[i]` is in slot i from now on, and nothing else is."""
        moved = np.zeros(capacity, np.int32)
        moved[: len(slots)] = self.numbers[slots]
        self.numbers = moved

    def tidy(self, alive: Mask) -> None:
        """Forget values that no slot has any more, if they may be many.

        Args:
            alive: the slots that count, from the first on; what others have is forgotten.
        """
        if len(self.keys) < self._check:
            return
        used = np.zeros(len(self.keys) + 1, np.bool_)
        used[self.numbers[: len(alive)][alive]] = True
        used[0] = False
        count = int(np.count_nonzero(used))
        if 2 * count < len(self.keys):
            renumbered = np.zeros(len(used), np.int32)
            renumbered[used] = np.arange(1, count + 1, dtype=np.int32)
            self.numbers = renumbered.take(self.numbers)
            self.listed = [key for key, number in self.keys.items() if used[number]]
            self.keys = {key: number for number, key in enumerate(self.listed, 1)}
            self.renumbered(renumbered)
        self._check = max(_FEW, 2 * len(self.keys))

    def renumbered(self, renumbered: NDArray[np.int32]) -> None:
        """For what else goes by numbers; 0: forgotten."""

    @property
    def bytes(self) -> int:
        # A key takes 120 to 200 bytes, whatever it is.
        return self.numbers.nbytes + sys.getsizeof(self.keys) + 160 * len(self.keys)
