"""A bounded memory of derived values: the second request need not parse what the first did."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["Memo"]

K = TypeVar("K")
V = TypeVar("V")


class Memo(Generic[K, V]):
    """Remember values, roughly the most recently used, within two bounds.

    Two generations instead of a linked list: a read of the young one is a single `dict.get`
    and takes no lock; when the young one is full it becomes the old one, and an old entry
    that is asked for again is carried over. Values must be immutable and never None.

    Args:
        entries: at most this many entries are kept.
        weight: at most this much weight (`weigh(key, value)`, summed) is kept.
        weigh: weight of one entry. An entry heavier than a quarter of `weight` is not kept.
    """

    def __init__(self, *, entries: int, weight: int, weigh: Callable[[K, V], int]) -> None:
        self._entries = entries // 2
        self._weight = weight // 2
        self._weigh = weigh
        self._lock = Lock()
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._young_weight = 0

    def get(self, key: K) -> V | None:
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        weight = self._weigh(key, value)
        if weight * 2 > self._weight:
            return
        with self._lock:
            full = len(self._young) >= self._entries or self._young_weight + weight > self._weight
            if full and key not in self._young:
                self._old, self._young, self._young_weight = self._young, {}, 0
            # Replacing an entry counts it twice: the bound stays an upper bound.
            self._young[key] = value
            self._young_weight += weight

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
