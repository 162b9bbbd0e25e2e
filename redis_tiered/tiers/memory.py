"""L1: this process's memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future

__all__ = ["Memory"]

# What Python needs for one item beside key and value: measured with tracemalloc, rounded up.
_OVERHEAD = 300
_REMEMBERED_DROPS = 4096


class Memory:
    """An LRU of bytes, bounded in bytes, with a TTL, coherent with Redis.

    It holds anything only while `coherent`, that is while somebody delivers the invalidations of
    other processes. A fill takes a ticket before it reads Redis; an invalidation that arrives
    between ticket and `put` wins. Thread-safe.

    Args:
        max_bytes: bound on keys, values and their overhead; 0 keeps nothing.
        ttl: seconds after which an item is read from Redis again even if nothing invalidated it.
    """

    def __init__(
        self, max_bytes: int, ttl: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_bytes = max_bytes
        self.ttl = ttl
        self._clock = clock
        self._lock = threading.Lock()
        self._items: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._coherent = False
        self._now = 0
        self._floor = 0
        self._drops: OrderedDict[bytes, int] = OrderedDict()
        self._watchers: dict[bytes, list[Future[None]]] = {}

    @property
    def coherent(self) -> bool:
        return self._coherent

    @property
    def size(self) -> int:
        """Bytes held now."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            item = self._items.get(key)
            if item is None:
                return None
            if item[1] <= self._clock():
                self._remove(key)
                return None
            self._items.move_to_end(key)
            return item[0]

    def ticket(self) -> int:
        """To be taken before the read whose result will be `put`."""
        return self._now

    def put(self, key: bytes, value: bytes, ticket: int, *, ttl: float | None = None) -> bool:
        """Keep a value that was read after `ticket` was taken.

        Args:
            key: full Redis key.
            value: what was read.
            ticket: from `ticket()`.
            ttl: seconds, if the value expires before the tier's own TTL.

        Returns:
            False if it was not kept: invalidated meanwhile, too large, or not coherent.
        """
        size = len(key) + len(value) + _OVERHEAD
        seconds = self.ttl if ttl is None else min(ttl, self.ttl)
        if size > self.max_bytes or seconds <= 0:
            return False
        with self._lock:
            if not self._coherent or ticket < self._floor or self._drops.get(key, 0) > ticket:
                return False
            if key in self._items:
                self._remove(key)
            self._items[key] = (value, self._clock() + seconds)
            self._bytes += size
            while self._bytes > self.max_bytes:
                self._remove(next(iter(self._items)))
            return True

    def invalidate(self, keys: Iterable[bytes]) -> None:
        """Drop keys that were written or expired, here or in another process."""
        woken: list[Future[None]] = []
        with self._lock:
            self._now += 1
            for key in keys:
                if key in self._items:
                    self._remove(key)
                self._drops[key] = self._now
                self._drops.move_to_end(key)
                if self._watchers:
                    woken += self._watchers.pop(key, ())
            while len(self._drops) > _REMEMBERED_DROPS:
                _, self._floor = self._drops.popitem(last=False)
        _resolve(woken)

    def flush(self, *, coherent: bool) -> None:
        """Drop everything.

        Args:
            coherent: whether invalidations will be delivered from now on.
        """
        with self._lock:
            self._coherent = coherent
            woken = self._drop_all()
        _resolve(woken)

    def empty(self) -> None:
        """Drop everything; invalidations go on being delivered, or not, as before."""
        with self._lock:
            woken = self._drop_all()
        _resolve(woken)

    def watch(self, key: bytes) -> Future[None]:
        """A future that is done when the key is next invalidated or everything is dropped."""
        future: Future[None] = Future()
        with self._lock:
            self._watchers.setdefault(key, []).append(future)
        return future

    def unwatch(self, key: bytes, future: Future[None]) -> None:
        with self._lock:
            futures = self._watchers.get(key)
            if futures is not None and future in futures:
                futures.remove(future)
                if not futures:
                    del self._watchers[key]

    def reset_after_fork(self) -> None:
        """Start empty in a child: nobody delivers invalidations here yet."""
        self._lock = threading.Lock()
        self._watchers = {}
        self.flush(coherent=False)

    def _drop_all(self) -> list[Future[None]]:
        self._now += 1
        self._floor = self._now
        self._items.clear()
        self._drops.clear()
        self._bytes = 0
        woken = [future for futures in self._watchers.values() for future in futures]
        self._watchers.clear()
        return woken

    def _remove(self, key: bytes) -> None:
        value, _ = self._items.pop(key)
        self._bytes -= len(key) + len(value) + _OVERHEAD


def _resolve(futures: Iterable[Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
