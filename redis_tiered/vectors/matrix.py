"""Documents in the rows of a matrix, with what is known of them beside it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from redis_tiered.vectors.ann import Graph
from redis_tiered.vectors.codes import Codes, Mask
from redis_tiered.vectors.columns import Columns
from redis_tiered.vectors.distances import squares
from redis_tiered.vectors.document import Metric, Vector
from redis_tiered.vectors.filters import Filter
from redis_tiered.vectors.local_values import Kept
from redis_tiered.vectors.slots import Slots

__all__ = ["NEVER", "Rows"]

NEVER: Final = (1 << 63) - 1
_LEAST: Final = 64
_REMOVALS: Final = 1 << 17
_KEPT: Final = 450  # bytes of a document's objects, beside what they hold


class Rows:
    """To be used under the owner's lock.

    A search may go on reading, without the lock, the arrays and the list of ids that it found here,
    at the rows that had documents when it entered `slots`: they are not written before it leaves.

    Attributes:
        slots: which rows are free.
        slot_of: the row of each document.
        ids, matrix, versions: by row; of norm 1 under "cosine".
        kept: by row the document itself; None: the index does not have it.
        squares: of the rows' norms; empty under "cosine".
        alive: which rows have documents.
        largest: no norm is larger; not kept under "cosine".
        graph: for an approximate search.
        touched: rows that were changed since somebody began to build a graph; None: nobody does.
    """

    def __init__(self, dims: int, metric: Metric) -> None:
        self._metric = metric
        self._capacity = _LEAST
        self.slots = Slots()
        self.slot_of: dict[bytes, int] = {}
        self.ids: list[bytes] = [b""] * _LEAST
        self.kept: list[Kept | None] = [None] * _LEAST
        self.matrix: Vector = np.empty((_LEAST, dims), np.float32)
        self.squares: Vector = np.empty(0 if metric == "cosine" else _LEAST, np.float32)
        self.versions: NDArray[np.int64] = np.empty(_LEAST, np.int64)
        self.alive: Mask = np.zeros(_LEAST, np.bool_)
        self.largest = 0.0
        self.graph: Graph | None = None
        self.touched: set[int] | None = None
        self._expires: NDArray[np.int64] = np.empty(_LEAST, np.int64)
        self._soonest = NEVER  # before that nothing expires
        self._columns = Columns(_LEAST)
        self._parents = Codes(_LEAST)
        self._removed: dict[bytes, int] = {}
        self._held = 0

    @property
    def used(self) -> int:
        """Rows from here on have no documents."""
        return self.slots.used

    def put_many(
        self,
        ids: Sequence[bytes],
        versions: Sequence[int],
        vectors: Vector,
        metadata: Sequence[bytes],
        parents: Sequence[bytes],
        expires: Sequence[int],
        kept: Sequence[Kept | None] | None,
    ) -> None:
        """See `Index.put_many`; vectors are of norm 1 under "cosine", and `NEVER` is no end."""
        taken: list[int] = []
        slots: list[int] = []
        for i, id in enumerate(ids):
            if (slot := self._admitted(id, versions[i], len(ids) - i)) is not None:
                taken.append(i)
                slots.append(slot)
                self._columns.put(slot, metadata[i])
                self._parents.numbers[slot] = self._parents.of(parents[i])
                if kept is not None:
                    self.kept[slot] = document = kept[i]
                    self._held += _size(document)
        if not slots:
            return
        self._parents.tidy(self.alive[: self.used])
        if len(taken) < len(ids):
            vectors = vectors[taken]
            expires = [expires[i] for i in taken]
        # Of a document that is there twice the last one counts: numpy assigns in order.
        self.matrix[slots] = vectors
        self._expires[slots] = expires
        self._soonest = min(self._soonest, *expires)
        if self._metric != "cosine":
            norms = squares(vectors)
            with np.errstate(over="ignore"):  # such are not compared in float32
                self.squares[slots] = norms
            self.largest = max(self.largest, float(norms.max()) ** 0.5)

    def _admitted(self, id: bytes, version: int, more: int) -> int | None:
        """A row for a document; None: what is known of it is newer."""
        slot = self.slot_of.get(id)
        if slot is not None:
            if version < self.versions[slot]:
                return None
            self._leave(slot)
        elif id in self._removed:
            if version <= self._removed[id]:
                return None
            del self._removed[id]
        slot = self.slots.take()
        if slot >= self._capacity:
            self._resize(max(self._capacity + self._capacity // 2, slot + more))
        self.slot_of[id] = slot
        self.ids[slot] = id
        self.versions[slot] = version
        self.alive[slot] = True
        self._held += len(id)
        if self.graph is not None:
            self.graph.put(slot)
        if self.touched is not None:
            self.touched.add(slot)
        return slot

    def _leave(self, slot: int) -> None:
        self.alive[slot] = False
        self._columns.drop(slot)
        self.slots.give(slot)
        self._held -= len(self.ids[slot]) + _size(self.kept[slot])
        if self.graph is not None:
            self.graph.drop(slot)
        if self.touched is not None:
            self.touched.add(slot)

    def remove(self, id: bytes, version: int) -> None:
        """See `Index.remove`."""
        slot = self.slot_of.get(id)
        if slot is not None:
            if version < self.versions[slot]:
                return
            self._leave(slot)
            del self.slot_of[id]
        self._removed[id] = max(version, self._removed.pop(id, version))
        if len(self._removed) > _REMOVALS:
            del self._removed[next(iter(self._removed))]
        if _LEAST < self._capacity > 4 * len(self.slot_of):
            self._pack(max(_LEAST, self._capacity // 2))

    def _resize(self, capacity: int) -> None:
        used = self._capacity
        self.matrix = _resized(self.matrix, used, capacity)
        self.versions = _resized(self.versions, used, capacity)
        self._expires = _resized(self._expires, used, capacity)
        alive = np.zeros(capacity, np.bool_)
        alive[:used] = self.alive
        self.alive = alive
        if self._metric != "cosine":
            self.squares = _resized(self.squares, used, capacity)
        self.ids += [b""] * (capacity - used)
        self.kept += [None] * (capacity - used)
        self._columns.resize(capacity)
        self._parents.resize(capacity)
        self._capacity = capacity

    def _pack(self, capacity: int) -> None:
        """Move all documents together, into new arrays."""
        slots = self.alive.nonzero()[0]
        count = len(slots)
        self.ids = [self.ids[slot] for slot in slots.tolist()]
        self.kept = [self.kept[slot] for slot in slots.tolist()]
        self.slot_of = {id: slot for slot, id in enumerate(self.ids)}
        self.ids += [b""] * (capacity - count)
        self.kept += [None] * (capacity - count)
        self.matrix = _resized(self.matrix[slots], count, capacity)
        self.versions = _resized(self.versions[slots], count, capacity)
        self._expires = _resized(self._expires[slots], count, capacity)
        self.alive = np.arange(capacity) < count
        if self._metric != "cosine":
            self.squares = _resized(self.squares[slots], count, capacity)
        self._columns.move(slots, capacity)
        self._parents.move(slots, capacity)
        self._capacity = capacity
        self.slots = Slots(count)
        self.graph = self.touched = None

    def passing(
        self,
        where: Filter | None,
        ids: Collection[bytes] | None,
        parents: Collection[bytes] | None,
        now: int,
    ) -> Mask | None:
        """Which of the rows up to `used` come into question, in a new array; None: all."""
        used = self.used
        alive = self.alive[:used]
        found: Mask | None = None
        if len(self.slot_of) < used:
            found = alive.copy()
        if where is not None:
            found = _both(self._columns.mask(where, alive), found)
        if parents is not None:
            found = _both(self._parents.any(parents, used), found)
        if ids is not None:
            these = np.zeros(used, np.bool_)
            these[[slot for id in ids if (slot := self.slot_of.get(id)) is not None]] = True
            found = _both(these, found)
        if self._soonest <= now:
            ends = self._expires[:used]
            if (soonest := int(ends[alive].min(initial=NEVER))) > now:
                self._soonest = soonest
            else:
                found = _both(ends > now, found)
        return found

    @property
    def bytes(self) -> int:
        """Memory, estimated."""
        arrays = (self.matrix, self.squares, self.versions, self._expires, self.alive)
        return (
            sum(each.nbytes for each in arrays)
            + self._held
            + 65 * len(self.slot_of)  # an id and the number of its row, as objects
            + sys.getsizeof(self.slot_of)
            + sys.getsizeof(self.ids)
            + sys.getsizeof(self.kept)
            + 200 * len(self._removed)
            + self._columns.bytes
            + self._parents.bytes
            + self.slots.bytes
            + (0 if self.graph is None else self.graph.bytes)
        )


def _size(kept: Kept | None) -> int:
    """Bytes of a document, estimated."""
    return 0 if kept is None else _KEPT + 100 * len(kept.metadata) + len(kept.text)


def _both(found: Mask, other: Mask | None) -> Mask:
    return found if other is None else np.logical_and(found, other, out=found)


def _resized(array: Any, used: int, capacity: int) -> Any:
    made = np.empty((capacity, *array.shape[1:]), array.dtype)
    made[:used] = array[:used]
    return made
