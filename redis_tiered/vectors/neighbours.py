"""`Neighbours`: what is like a text, for other capabilities, as flows that run inside their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from redis_tiered.checks import integer
from redis_tiered.errors import InvalidInput
from redis_tiered.flow import Command, Flow
from redis_tiered.tiers.tiers import Tiers
from redis_tiered.vectors.changes import News
from redis_tiered.vectors.document import (
    Document,
    Vector,
    checked_id,
    checked_vector,
    dumped_metadata,
)
from redis_tiered.vectors.engine import Near, Query
from redis_tiered.vectors.local_engine import LocalEngine
from redis_tiered.vectors.place import Options, Place, milliseconds
from redis_tiered.vectors.shared import Shared

__all__ = ["Near", "Neighbours", "News"]


class Neighbours:
    """Texts by their vectors, each in a scope, under the cosine.

    Everything that a `Collection` promises holds: who begins to look after a change was acknowledged
    sees it, in any process, whatever Redis lost. A user's collection of the same name is another
    one. All objects of a process with the same name and options have one index.

    Engine "local": each process holds everything in memory, and reads nothing of a document that
    it knows. Its question for changes may ride in another round trip to Redis:

        mine, *replies = yield Redis((own, *neighbours.ask()))
        found = yield from neighbours.near(vector, 10, scope, neighbours.told(replies))

    Args:
        tiers: where they are kept.
        name: 1 to 256 characters.
        dims: length of the vectors; they are kept with norm 1, as float16, in all tiers.
        engine: "redisvl", "local", or "auto": the first if the server can, else the second.
        algorithm: of engine "redisvl": "hnsw" or "flat" (exact).

    Raises:
        InvalidInput: an argument cannot be used; the flows raise it, too.
        SchemaError: (flows) Redis has them with other options.
        TierError: (flows) the tier that must answer failed.
    """

    def __init__(
        self,
        tiers: Tiers,
        name: str,
        dims: int,
        *,
        engine: Literal["auto", "local", "redisvl"] = "auto",
        algorithm: Literal["hnsw", "flat"] = "hnsw",
    ) -> None:
        if engine not in ("auto", "local", "redisvl"):
            raise InvalidInput(f"engine must be auto, local or redisvl, got {engine!r:.100}")
        if algorithm not in ("hnsw", "flat"):
            raise InvalidInput(f"algorithm must be hnsw or flat, got {algorithm!r:.100}")
        self.dims = integer("dims", dims, 1, 32_768)
        options = Options(engine=engine, algorithm=algorithm, dtype="float16", lean=True)
        keys = tiers.keys.neighbours(name)
        self._shared = tiers.shared(
            ("neighbours", keys.scope, options), lambda: Shared(Place(tiers, keys, options))
        )
        self._place = self._shared.place
        self._reading = self._shared.reading
        self._writing = self._shared.writing

    # Looking.

    def ask(self) -> tuple[Command, ...]:
        """What to ask Redis in the same round trip as something else, before `near`.

        Nothing where there is nothing to gain: with the search module, or while this process has no
        index yet. All keys are in one cluster slot.
        """
        engine = self._place.chosen
        return engine.ask() if isinstance(engine, LocalEngine) else ()

    def told(self, replies: Sequence[Any]) -> News | None:
        """What `near` is to be given.

        Args:
            replies: to what `ask` gave, in order; they may come late.
        """
        return News(replies) if replies else None

    def near(
        self, vector: Any, k: int, scope: str | None, news: News | None = None
    ) -> Flow[list[Near]]:
        """The nearest in a scope, nearest first; equally near ones by id.

        Args:
            vector: of shape `(dims,)`.
            k: how many at most.
            scope: of those that come into question; None: any.
            news: of `told`; then they are the nearest as of when it was asked.
        """
        if k < 1 or not (yield from self._exists()):
            return []
        query = Query(
            vector=self._direction(vector),
            k=k,
            parents=None if scope is None else (checked_id("scope", scope),),
            now=milliseconds(),
            news=news,
        )
        return (yield from self._reading.near(query))

    def count(self) -> Flow[int]:
        """How many there are, of all scopes."""
        return (yield from self._reading.size()) if (yield from self._exists()) else 0

    def oldest(self, n: int) -> Flow[list[str]]:
        """Ids of those that were put or changed before all others, oldest first; one that expired a
        moment ago may be among them."""
        wanted = integer("n", n, 0)
        if wanted == 0 or not (yield from self._exists()):
            return []
        return [id.decode() for id in (yield from self._reading.oldest(wanted))]

    # Changes.

    def put(
        self,
        id: str,
        vector: Any,
        text: str,
        metadata: Mapping[str, Any],
        scope: str,
        ttl_ms: int | None,
    ) -> Flow[None]:
        """Store a text, or replace the one of that id.

        Args:
            id: at most 1024 bytes of UTF-8.
            vector: of shape `(dims,)`.
            text: any.
            metadata: as a `Document` has it.
            scope: at most 1024 bytes of UTF-8, not empty.
            ttl_ms: milliseconds that it lives; None: for ever.
        """
        checked_id("id", id)
        checked_id("scope", scope)
        # In every tier the same numbers, so that it does not matter which one answers.
        rounded = self._direction(vector).astype(np.float16).astype(np.float32)
        document = Document(id, rounded, text, metadata, parent=scope)
        if ttl_ms is not None:
            ttl_ms = max(1, int(ttl_ms))
            self._shared.sweep_later(ttl_ms / 1000)
        yield from self._writing.upsert([document], self.dims, ttl_ms)

    def change(self, id: str, metadata: Mapping[str, Any]) -> Flow[None]:
        """Give one other metadata: vector, text, scope and expiry stay. If it is gone, so it stays."""
        encoded = dumped_metadata("metadata", metadata)[0]
        yield from self._writing.amend(checked_id("id", id), encoded)

    def remove(self, ids: Sequence[str]) -> Flow[None]:
        """Remove some; what is not there is passed over."""
        wanted = [checked_id(f"ids[{number}]", id) for number, id in enumerate(ids)]
        yield from self._writing.forget(wanted)

    def clear(self) -> Flow[None]:
        """Remove all, of every scope."""
        yield from self._writing.remove_all(counted=False)

    # Details.

    @property
    def stats(self) -> Mapping[str, int]:
        """What this process did; see `Collection.stats`."""
        return self._place.stats

    def _direction(self, vector: Any) -> Vector:
        """A vector with norm 1."""
        if type(vector) is not np.ndarray or vector.dtype != np.float32 or vector.ndim != 1:
            vector = checked_vector("vector", vector, self.dims, "cosine")
        doubles = vector.astype(np.float64)
        square = float(doubles.dot(doubles))
        # Of what has NaN or infinite numbers, or zeros alone, it is not so.
        if not 0.0 < square < math.inf or len(vector) != self.dims:
            checked_vector("vector", vector, self.dims, "cosine")
        doubles /= math.sqrt(square)
        direction: Vector = doubles.astype(np.float32)
        return direction

    def _exists(self) -> Flow[bool]:
        known = self._place.dims
        if known is None:
            known = yield from self._place.known_dims()
            if known is None:
                return False
        if known != self.dims:
            raise InvalidInput(f"dims must be {known}, as the first had, got {self.dims}")
        return True
