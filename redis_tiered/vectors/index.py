"""The vectors of a collection in this process, and what is nearest to one.

Searches are exact: their answer is that of distances in float64 over all documents, in order of
(distance, id). Any number of threads may use an index. One lock guards what it knows of its
documents; a search holds it while it looks which documents come into question (a filter's first
use of a field decodes the metadata of all), and no longer: the rows that it then multiplies are
not written while it runs (see `slots`).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike

from redis_tiered.errors import InvalidInput
from redis_tiered.vectors.ann import CROSSOVER, Graph, require
from redis_tiered.vectors.distances import Product, unit
from redis_tiered.vectors.document import METRICS, Metric, Vector
from redis_tiered.vectors.engine import Near
from redis_tiered.vectors.filters import Filter
from redis_tiered.vectors.local_values import Kept
from redis_tiered.vectors.matrix import NEVER, Rows
from redis_tiered.vectors.screening import View, candidates, nearest

__all__ = ["Index"]


class Index:
    """Documents' ids, versions, vectors and metadata.

    It takes changes in any order as long as a later change of a document has a higher version:
    what is older than what it has, or than a removal, is ignored. (It knows the last 131,072
    removals.)

    Args:
        dims: length of the vectors; their numbers are finite.
        metric: how they are compared; see `Hit` for the distances.
        approximate: search a graph, which may miss some of the nearest, where it is worth it and
            `build_ann` has made one.
        crossover: from how many numbers (rows times `dims`) on it is worth it.

    Raises:
        MissingExtra: `approximate` without faiss.
    """

    def __init__(
        self, dims: int, metric: Metric, *, approximate: bool = False, crossover: int = CROSSOVER
    ) -> None:
        if metric not in METRICS:
            raise InvalidInput(f"metric must be one of {METRICS}, got {metric!r}")
        if approximate:
            require()
        self.dims = dims
        self.metric: Metric = metric
        self.approximate = approximate
        self._crossover = crossover
        self._lock = threading.RLock()
        self._product = Product()
        self._rows = Rows(dims, metric)

    def __len__(self) -> int:
        return len(self._rows.slot_of)

    def __contains__(self, id: object) -> bool:
        return id in self._rows.slot_of

    def version_of(self, id: bytes) -> int | None:
        """The version of a document; None: it is not here."""
        with self._lock:
            slot = self._rows.slot_of.get(id)
            return None if slot is None else int(self._rows.versions[slot])

    # Changes.

    def put(
        self,
        id: bytes,
        version: int,
        vector: ArrayLike,
        metadata: bytes,
        parent: bytes = b"",
        expires: int | None = None,
    ) -> None:
        """Add or replace a document.

        Args:
            id: of the document.
            version: of the change that wrote it.
            vector: of shape `(dims,)`.
            metadata: encoded; what cannot be decoded has no fields.
            parent: id of its source; empty: none.
            expires: milliseconds since 1970; None: never.
        """
        vectors = np.asarray(vector, np.float32)[None]
        self.put_many((id,), (version,), vectors, (metadata,), (parent,), (expires,))

    def put_many(
        self,
        ids: Sequence[bytes],
        versions: Sequence[int],
        vectors: ArrayLike,
        metadata: Sequence[bytes],
        parents: Sequence[bytes],
        expires: Sequence[int | None],
        kept: Sequence[Kept | None] | None = None,
    ) -> None:
        """As `put` one after the other; a search sees all of it or nothing.

        Args:
            ids, versions, metadata, parents, expires: of each document.
            vectors: of shape `(len(ids), dims)`.
            kept: what `near` is to give of each.
        """
        given = np.ascontiguousarray(vectors, np.float32)
        if given.shape != (len(ids), self.dims):
            raise InvalidInput(
                f"vectors must have shape {(len(ids), self.dims)}, got {given.shape}"
            )
        if not len(ids) == len(versions) == len(metadata) == len(parents) == len(expires):
            raise InvalidInput("ids, versions, metadata, parents and expires must be as many")
        if self.metric == "cosine":
            given = unit(given)
        ends = [NEVER if end is None else end for end in expires]
        with self._lock:
            self._rows.put_many(ids, versions, given, metadata, parents, ends, kept)

    def remove(self, id: bytes, version: int) -> None:
        """Take a document away.

        Args:
            id: of the document, which need not be here.
            version: of the change that removed it.
        """
        with self._lock:
            self._rows.remove(id, version)

    def clear(self) -> None:
        """Forget everything, removals too."""
        with self._lock:
            self._rows = Rows(self.dims, self.metric)

    # Questions.

    def search(
        self,
        vector: ArrayLike,
        k: int | None,
        *,
        where: Filter | None = None,
        ids: Collection[bytes] | None = None,
        parents: Collection[bytes] | None = None,
        now: int = 0,
        max_distance: float | None = None,
    ) -> list[tuple[bytes, int, float]]:
        """The nearest documents: ids, versions and distances, in order of (distance, id).

        Args:
            vector: of shape `(dims,)`.
            k: how many at most; None: all.
            where: what metadata must satisfy.
            ids, parents: the only ones wanted; None: any.
            now: milliseconds since 1970; what expires then or before is not found.
            max_distance: how far at most; None: any.
        """
        query = self._query(vector)
        view = self._view(where, ids, parents, now)
        try:
            found = nearest(self.metric, view, query, k, max_distance)
            versions = view.versions[[slot for _, _, slot in found]].tolist() if found else []
            return [
                (id, version, distance)
                for (distance, id, _), version in zip(found, versions, strict=True)
            ]
        finally:
            self._leave(view)

    def near(
        self, vector: Vector, k: int | None, parents: Collection[bytes] | None, now: int
    ) -> list[Near]:
        """As `search` under "cosine", of the documents that were kept; cosines are right to 2e-7.

        Args:
            vector: float32, of shape `(dims,)` and of norm 1.
        """
        view = self._view(None, None, parents, now)
        try:
            slots, distances = candidates(self.metric, view, vector, k)
            found = sorted(zip(distances, slots, strict=True))
            if len(set(distances)) < len(distances):  # not before, as it costs to look at objects
                found.sort(key=lambda one: (one[0], view.ids[one[1]]))
            return [
                Near(kept.id, 1.0 - distance, kept.text, kept.metadata)
                for distance, slot in found[:k]
                if (kept := view.kept[slot]) is not None
            ]
        finally:
            self._leave(view)

    def _query(self, vector: ArrayLike) -> Vector:
        query: Vector = np.ascontiguousarray(vector, np.float32)
        if query.shape != (self.dims,):
            raise InvalidInput(f"vector must have shape {(self.dims,)}, got {query.shape}")
        return unit(query[None])[0] if self.metric == "cosine" else query

    def _leave(self, view: View) -> None:
        with self._lock:
            view.slots.leave(view.ticket)

    def _view(
        self,
        where: Filter | None,
        ids: Collection[bytes] | None,
        parents: Collection[bytes] | None,
        now: int,
    ) -> View:
        with self._lock:
            rows = self._rows
            passing = rows.passing(where, ids, parents, now)
            return View(
                rows.matrix,
                rows.squares,
                rows.ids,
                rows.kept,
                rows.versions,
                rows.largest,
                rows.used,
                passing,
                rows.used if passing is None else int(np.count_nonzero(passing)),
                None if rows.graph is None else rows.graph.neighbours(),
                self._product,
                rows.slots,
                rows.slots.enter(),
            )

    def listed(
        self,
        *,
        where: Filter | None = None,
        ids: Collection[bytes] | None = None,
        parents: Collection[bytes] | None = None,
        now: int = 0,
    ) -> list[tuple[bytes, int]]:
        """Documents by filter alone: ids and versions, lowest version first; see `search`."""
        with self._lock:
            rows = self._rows
            passing = rows.passing(where, ids, parents, now)
            slots = np.arange(rows.used) if passing is None else passing.nonzero()[0]
            slots = slots[rows.versions[slots].argsort(kind="stable")]
            found = [rows.ids[slot] for slot in slots.tolist()]
            return list(zip(found, rows.versions[slots].tolist(), strict=True))

    def count(
        self,
        *,
        where: Filter | None = None,
        ids: Collection[bytes] | None = None,
        parents: Collection[bytes] | None = None,
        now: int = 0,
    ) -> int:
        """How many documents `listed` would list."""
        with self._lock:
            passing = self._rows.passing(where, ids, parents, now)
            return self._rows.used if passing is None else int(np.count_nonzero(passing))

    def vectors(self, ids: Sequence[bytes]) -> Vector:
        """Vectors of shape `(len(ids), dims)`, of norm 1 under "cosine".

        What is not here (any more) has zeros: that is like nothing.
        """
        made: Vector = np.zeros((len(ids), self.dims), np.float32)
        with self._lock:
            for i, id in enumerate(ids):
                if (slot := self._rows.slot_of.get(id)) is not None:
                    made[i] = self._rows.matrix[slot]
        return made

    # The graph of an approximate search.

    @property
    def needs_build(self) -> bool:
        """Whether `build_ann` would make searches faster."""
        with self._lock:
            rows = self._rows
            return (
                self.approximate
                and rows.touched is None
                and 0 < len(self) * self.dims >= self._crossover
                and (rows.graph is None or rows.graph.changed > 0.1)
            )

    def build_ann(self) -> bool:
        """Build the graph of an approximate search; it takes up to minutes and blocks only its caller.

        Returns:
            Whether there is a new graph: not if another thread builds one, there are no documents,
            or the index was cleared, or packed to be smaller, meanwhile.

        Raises:
            MissingExtra: faiss is not installed.
        """
        require()
        with self._lock:
            rows = self._rows
            if rows.touched is not None or not rows.slot_of:
                return False
            rows.touched = touched = set[int]()
            matrix, slots = rows.matrix, rows.alive.nonzero()[0]
        graph = None
        try:
            graph = Graph(matrix, slots, self.metric)
        finally:
            with self._lock:
                wanted = rows is self._rows and rows.touched is touched
                if rows.touched is touched:
                    rows.touched = None
                if wanted and graph is not None:
                    graph.install(len(rows.alive), rows.alive[: rows.used], touched)
                    rows.graph = graph
        return wanted

    @property
    def bytes(self) -> int:
        """Memory, estimated: arrays as they are, and what Python needs around the rest."""
        with self._lock:
            return self._rows.bytes
