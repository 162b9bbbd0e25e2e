"""`Collection`: documents with vectors, as the user sees them."""

from __future__ import annotations

import warnings
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, TypeVar

from redis_tiered.checks import integer, seconds, text
from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.flow import Flow
from redis_tiered.tiers.tiers import Tiers
from redis_tiered.vectors.document import (
    METRICS,
    Document,
    Hit,
    Metric,
    checked_id,
    checked_vector,
)
from redis_tiered.vectors.engine import Query
from redis_tiered.vectors.filters import Filter
from redis_tiered.vectors.place import Options, Place, milliseconds
from redis_tiered.vectors.shared import Shared
from redis_tiered.vectors.upkeep import Drift, Progress, Rebuilt, Usage
from redis_tiered.vectors.words import words

__all__ = ["Collection", "CollectionInfo"]

T = TypeVar("T")

_MAX_K: Final = 100_000
_ENGINES: Final = ("auto", "local", "redisvl")
_ALGORITHMS: Final = ("hnsw", "flat", "svs-vamana")
_DTYPES: Final = ("float32", "float16")
_PAYLOADS: Final = ("redis", "durable")


class CollectionInfo(NamedTuple):
    """What is known of a collection.

    Attributes:
        name: of the collection.
        engine: which engine serves it; "" if Redis cannot be asked.
        dims: length of its vectors; None: nothing was ever stored.
        metric: how they are compared.
        documents: how many there are.
        complete: whether Redis has all of them.
        index_bytes: memory of the index in this process; 0 with the search module.
    """

    name: str
    engine: str
    dims: int | None
    metric: Metric
    documents: int
    complete: bool
    index_bytes: int


class Collection:
    """Documents with vectors: durable in L3, searched in Redis. Made by `Tiers.collection`.

    Every method has a twin whose name begins with `a`, to be awaited. A document is acknowledged
    when the durable tier has it, and no reader misses it from then on: what Redis lacks is brought
    there, or the query is served by the durable tier, which `stats()` counts.

    Engine "redisvl" needs the search module (Redis 8, Redis Stack, Redis Cloud). Engine "local" runs
    on any Redis: each process that searches holds all vectors of the collection, `4 * dims` bytes and
    about 200 more per document, and finds exactly the nearest.

    Args:
        tiers: where it is kept.
        name: of the collection, 1 to 256 characters; tenants do not share names.
        dims: length of the vectors; None: that of the first.
        metric: "cosine", "ip" (inner product) or "l2" (Euclidean distance).
        engine: "redisvl", "local", or "auto": the first if the server can, else the second.
        algorithm: of engine "redisvl": "hnsw", "flat" (exact) or "svs-vamana".
        algorithm_options: its numbers, as `{"m": 16, "ef_construction": 200, "ef_runtime": 10}`.
        dtype: of vectors in Redis, "float32" or "float16"; the durable tier keeps float32.
        payload: "redis", or "durable": Redis keeps vectors and metadata only, texts come from the
            durable tier by way of Redis and process memory, where they stay an hour.
        ttl: seconds that documents live; None: for ever.
        fields: metadata fields that the search module indexes by their own names, for redisvl's filter
            expressions: names to "tag", "numeric", "text" or "geo". Our own filters need no
            declaration.
        track_access: count how often, and when last, each document was found.
        approximate: of engine "local": above 38 million numbers, search an HNSW graph (needs faiss).
        auto_rebuild: rebuild in the background what Redis has lost.

    Raises:
        InvalidInput: an argument cannot be used. Methods raise it before anything is read or
            written.
        SchemaError: (methods) Redis has the collection with other options: the error says how to
            migrate.
        TierError: (methods) the tier that must answer failed.
    """

    def __init__(
        self,
        tiers: Tiers,
        name: str,
        dims: int | None = None,
        metric: Metric = "cosine",
        *,
        engine: Literal["auto", "local", "redisvl"] = "auto",
        algorithm: Literal["hnsw", "flat", "svs-vamana"] = "hnsw",
        algorithm_options: Mapping[str, int] | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        payload: Literal["redis", "durable"] = "redis",
        ttl: float | None = None,
        fields: Mapping[str, str] | None = None,
        track_access: bool = False,
        approximate: bool = False,
        auto_rebuild: bool = True,
    ) -> None:
        if not isinstance(tiers, Tiers):
            raise InvalidInput(f"tiers must be a Tiers, got {type(tiers).__name__}")
        for argument, value, accepted in (
            ("metric", metric, METRICS),
            ("engine", engine, _ENGINES),
            ("algorithm", algorithm, _ALGORITHMS),
            ("dtype", dtype, _DTYPES),
            ("payload", payload, _PAYLOADS),
        ):
            if value not in accepted:
                raise InvalidInput(f"{argument} must be one of {accepted}, got {value!r:.100}")
        for argument, flag in (
            ("track_access", track_access),
            ("approximate", approximate),
            ("auto_rebuild", auto_rebuild),
        ):
            if not isinstance(flag, bool):
                raise InvalidInput(f"{argument} must be a bool, got {type(flag).__name__}")
        if payload == "durable" and tiers.durable is None:
            raise InvalidInput('payload="durable" needs a durable tier, and this Tiers has none')
        self.tiers = tiers
        self.name = name
        self.metric: Metric = metric
        self._dims = None if dims is None else integer("dims", dims, 1, 32_768)
        self._ttl = None if ttl is None else _ttl(ttl)
        options = Options(
            metric,
            engine,
            algorithm,
            _pairs("algorithm_options", algorithm_options, int),
            dtype,
            payload,
            _pairs("fields", fields, str),
            approximate,
            track_access,
            auto_rebuild,
        )
        keys = tiers.keys.collection(name)
        self._shared = tiers.shared(
            ("collection", keys.scope, options), lambda: Shared(Place(tiers, keys, options))
        )
        self._place = self._shared.place
        self._writing = self._shared.writing
        self._reading = self._shared.reading
        self._upkeep = self._shared.upkeep

    def __repr__(self) -> str:
        return f"Collection({self.name!r}, metric={self.metric!r}, tiers={self.tiers!r})"

    # Changes.

    def upsert(self, documents: Sequence[Document], *, ttl: float | None = None) -> tuple[str, ...]:
        """Store documents; one whose id is there is replaced.

        They are written in transactions of a thousand: if one fails, those before it are stored, and
        all can be sent again. Of documents with the same id the last one counts.

        Args:
            documents: with their vectors; without an id they get one.
            ttl: seconds that they live; None: as the collection's.

        Returns:
            Their ids, in order.
        """
        return self._run(self._upsert(documents, ttl))

    async def aupsert(
        self, documents: Sequence[Document], *, ttl: float | None = None
    ) -> tuple[str, ...]:
        """As `upsert`."""
        return await self._arun(self._upsert(documents, ttl))

    def _upsert(self, documents: Sequence[Document], ttl: float | None) -> Flow[tuple[str, ...]]:
        lives = self._ttl if ttl is None else _ttl(ttl)
        if lives is not None:
            self._shared.sweep_later(lives / 1000)
        return (yield from self._writing.upsert(documents, self._dims, lives))

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Filter | Any | None = None,
        parents: Sequence[str] | None = None,
    ) -> int:
        """Remove the documents that meet all criteria; at least one must be given.

        Args:
            ids: of documents; what is not there is passed over.
            filter: on metadata.
            parents: of documents.

        Returns:
            How many were removed.
        """
        return self._run(self._delete(ids, filter, parents))

    async def adelete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Filter | Any | None = None,
        parents: Sequence[str] | None = None,
    ) -> int:
        """As `delete`."""
        return await self._arun(self._delete(ids, filter, parents))

    def _delete(self, ids: object, filter: object, parents: object) -> Flow[int]:
        if ids is None and filter is None and parents is None:
            raise InvalidInput(
                "delete needs ids, filter or parents; delete_all removes every document"
            )
        query = _query(filter, ids, parents)
        if query.native is not None and str(query.native).strip() == "*":
            raise InvalidInput(
                "filter is a redisvl expression that every document meets (redisvl makes that of "
                "empty values); delete_all removes every document"
            )
        return self._writing.remove(query)

    def delete_all(self) -> int:
        """Remove every document.

        Returns:
            How many there were.
        """
        return self._run(self._writing.remove_all())

    async def adelete_all(self) -> int:
        """As `delete_all`."""
        return await self._arun(self._writing.remove_all())

    # Reading.

    def get(self, ids: Sequence[str], *, with_vectors: bool = False) -> tuple[Document, ...]:
        """Documents by id, in this order; what is not there is left out."""
        return self._run(self._get(ids, with_vectors))

    async def aget(self, ids: Sequence[str], *, with_vectors: bool = False) -> tuple[Document, ...]:
        """As `get`."""
        return await self._arun(self._get(ids, with_vectors))

    def _get(self, ids: object, vectors: bool) -> Flow[tuple[Document, ...]]:
        wanted = _ids("ids", ids)
        if not wanted:
            return ()
        found = yield from self._reading.get(wanted, vectors=vectors)
        yield from self._used(found)
        return tuple(found)

    def find(
        self,
        filter: Filter | Any | None = None,
        *,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
        limit: int | None = 100,
        offset: int = 0,
        with_vectors: bool = False,
    ) -> tuple[Document, ...]:
        """Documents that meet all criteria, those that were written first before the others.

        Args:
            filter: on metadata.
            ids, parents: the only ones wanted.
            limit: how many at most; None: all.
            offset: how many to leave out first.
            with_vectors: whether to give vectors, too.
        """
        return self._run(self._find(filter, ids, parents, limit, offset, with_vectors))

    async def afind(
        self,
        filter: Filter | Any | None = None,
        *,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
        limit: int | None = 100,
        offset: int = 0,
        with_vectors: bool = False,
    ) -> tuple[Document, ...]:
        """As `find`."""
        return await self._arun(self._find(filter, ids, parents, limit, offset, with_vectors))

    def _find(
        self, filter: object, ids: object, parents: object, limit: object, offset: object, v: bool
    ) -> Flow[tuple[Document, ...]]:
        query = replace(
            _query(filter, ids, parents),
            k=None if limit is None else integer("limit", limit, 0),
            offset=integer("offset", offset, 0),
            vectors=v,
        )
        return tuple((yield from self._reading.find(query)))

    def count(self, filter: Filter | Any | None = None) -> int:
        """How many documents there are, or meet a filter."""
        return self._run(self._reading.count(_query(filter)))

    async def acount(self, filter: Filter | Any | None = None) -> int:
        """As `count`."""
        return await self._arun(self._reading.count(_query(filter)))

    def search(
        self,
        vector: Any,
        k: int | None = 4,
        *,
        filter: Filter | Any | None = None,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
        max_distance: float | None = None,
        min_score: float | None = None,
        with_vectors: bool = False,
    ) -> tuple[Hit, ...]:
        """The documents nearest to a vector, nearest first; equally near ones by id.

        Args:
            vector: of shape `(dims,)`.
            k: how many at most; None, with a bound: all within it.
            filter: what metadata must satisfy: a `redis_tiered.Filter`; on engine "redisvl" also one
                of redisvl's filter expressions, over the declared `fields`.
            ids, parents: the only ones wanted.
            max_distance: how far at most, in the metric's distance; see `Hit`.
            min_score: how low a score at most; instead of `max_distance`.
            with_vectors: whether to give vectors, too.
        """
        return self._run(
            self._search(vector, k, filter, ids, parents, max_distance, min_score, with_vectors)
        )

    async def asearch(
        self,
        vector: Any,
        k: int | None = 4,
        *,
        filter: Filter | Any | None = None,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
        max_distance: float | None = None,
        min_score: float | None = None,
        with_vectors: bool = False,
    ) -> tuple[Hit, ...]:
        """As `search`."""
        return await self._arun(
            self._search(vector, k, filter, ids, parents, max_distance, min_score, with_vectors)
        )

    def _search(
        self,
        vector: object,
        k: object,
        filter: object,
        ids: object,
        parents: object,
        max_distance: object,
        min_score: object,
        vectors: bool,
    ) -> Flow[tuple[Hit, ...]]:
        bound = self._bound(max_distance, min_score)
        if k is None and bound is None:
            raise InvalidInput("k=None needs max_distance or min_score")
        base = _query(filter, ids, parents)
        compared = yield from self._compared(vector)
        query = replace(
            base,
            vector=compared,
            k=None if k is None else integer("k", k, 0, _MAX_K),
            max_distance=bound,
            vectors=vectors,
        )
        return (yield from self._seen(self._reading.search(query)))

    def mmr(
        self,
        vector: Any,
        k: int = 4,
        *,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | Any | None = None,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
        with_vectors: bool = False,
    ) -> tuple[Hit, ...]:
        """Documents that are near to a vector and differ from each other, by maximal marginal
        relevance over their vectors, in the order in which they were chosen.

        Args:
            vector, filter, ids, parents, with_vectors: as for `search`.
            k: how many at most.
            fetch_k: from how many nearest to choose; at least `k`.
            lambda_mult: 1: only nearness counts; 0: only difference.
        """
        return self._run(
            self._mmr(vector, k, fetch_k, lambda_mult, filter, ids, parents, with_vectors)
        )

    async def ammr(
        self,
        vector: Any,
        k: int = 4,
        *,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | Any | None = None,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
        with_vectors: bool = False,
    ) -> tuple[Hit, ...]:
        """As `mmr`."""
        return await self._arun(
            self._mmr(vector, k, fetch_k, lambda_mult, filter, ids, parents, with_vectors)
        )

    def _mmr(
        self,
        vector: object,
        k: object,
        fetch_k: object,
        lambda_mult: object,
        filter: object,
        ids: object,
        parents: object,
        vectors: bool,
    ) -> Flow[tuple[Hit, ...]]:
        count = integer("k", k, 0, _MAX_K)
        base = _query(filter, ids, parents)
        weight = _share("lambda_mult", lambda_mult)
        fetched = max(count, integer("fetch_k", fetch_k, 0, _MAX_K))
        compared = yield from self._compared(vector)
        if count == 0:
            return ()
        query = replace(base, vector=compared, k=fetched, vectors=vectors)
        return (yield from self._seen(self._reading.mmr(query, count, weight)))

    def text_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Filter | Any | None = None,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
    ) -> tuple[Hit, ...]:
        """Documents whose text has words of a query, best first.

        The search module finds them, or the durable tier; scores of the two are of different
        scales. Any word may match, whole and without regard to case.

        Args:
            query: plain words; nothing in it is syntax.
            k: how many at most.
            filter, ids, parents: as for `search`.

        Raises:
            InvalidInput: there is neither a search module nor a durable tier.
        """
        return self._run(self._text_search(query, k, filter, ids, parents))

    async def atext_search(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Filter | Any | None = None,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
    ) -> tuple[Hit, ...]:
        """As `text_search`."""
        return await self._arun(self._text_search(query, k, filter, ids, parents))

    def _text_search(
        self, query: object, k: object, filter: object, ids: object, parents: object
    ) -> Flow[tuple[Hit, ...]]:
        asked = replace(
            _query(filter, ids, parents),
            words=words(text("query", query)),
            k=integer("k", k, 0, _MAX_K),
        )
        return (yield from self._seen(self._reading.text(asked)))

    def hybrid(
        self,
        vector: Any,
        query: str,
        k: int = 4,
        *,
        alpha: float = 0.5,
        fetch_k: int | None = None,
        filter: Filter | Any | None = None,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
    ) -> tuple[Hit, ...]:
        """Documents by vector and by words, fused by reciprocal rank.

        Args:
            vector, filter, ids, parents: as for `search`.
            query: as for `text_search`.
            k: how many at most.
            alpha: 1: only the vector counts; 0: only words.
            fetch_k: how many of each to fuse; None: `4 * k`, at least 20.
        """
        return self._run(self._hybrid(vector, query, k, alpha, fetch_k, filter, ids, parents))

    async def ahybrid(
        self,
        vector: Any,
        query: str,
        k: int = 4,
        *,
        alpha: float = 0.5,
        fetch_k: int | None = None,
        filter: Filter | Any | None = None,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
    ) -> tuple[Hit, ...]:
        """As `hybrid`."""
        return await self._arun(
            self._hybrid(vector, query, k, alpha, fetch_k, filter, ids, parents)
        )

    def _hybrid(
        self,
        vector: object,
        query: object,
        k: object,
        alpha: object,
        fetch_k: object,
        filter: object,
        ids: object,
        parents: object,
    ) -> Flow[tuple[Hit, ...]]:
        count = integer("k", k, 0, _MAX_K)
        fetched = (
            max(20, 4 * count)
            if fetch_k is None
            else max(count, integer("fetch_k", fetch_k, 1, _MAX_K))
        )
        weight = _share("alpha", alpha)
        asked = words(text("query", query))
        base = _query(filter, ids, parents)
        compared = yield from self._compared(vector)
        if count == 0:
            return ()
        both = replace(base, vector=compared, words=asked, k=fetched)
        return (yield from self._seen(self._reading.hybrid(both, count, weight)))

    # Upkeep.

    def rebuild(self, progress: Progress | bool | None = None) -> Rebuilt:
        """Bring everything from the durable tier to Redis anew, in bounded memory.

        Queries go on meanwhile, served by what was there before or by the durable tier. One that was
        interrupted goes on where it was. It is also how a collection gets other options: its
        engine, algorithm, dtype, payload or fields.

        Args:
            progress: a function of (documents done, documents in all), or True for a bar.

        Raises:
            InvalidInput: there is no durable tier.
            TierUnavailable: a tier failed, or another process rebuilds the collection.
        """
        with _Shown(progress) as shown:
            return self._run(self._upkeep.rebuild(shown))

    async def arebuild(self, progress: Progress | bool | None = None) -> Rebuilt:
        """As `rebuild`."""
        with _Shown(progress) as shown:
            return await self._arun(self._upkeep.rebuild(shown))

    def verify(self, *, repair: bool = False) -> Drift:
        """Compare both tiers, document by document, in bounded memory.

        Args:
            repair: bring Redis to what the durable tier has.

        Raises:
            InvalidInput: there is no durable tier.
        """
        return self._run(self._upkeep.verify(repair=repair))

    async def averify(self, *, repair: bool = False) -> Drift:
        """As `verify`."""
        return await self._arun(self._upkeep.verify(repair=repair))

    def info(self) -> CollectionInfo:
        """What is known of it."""
        return self._run(self._info())

    async def ainfo(self) -> CollectionInfo:
        """As `info`."""
        return await self._arun(self._info())

    def _info(self) -> Flow[CollectionInfo]:
        dims = yield from self._place.known_dims()
        documents = yield from self._reading.count(_query(None))
        complete = yield from self._reading.complete()
        engine = self._place.chosen
        return CollectionInfo(
            self.name,
            "" if engine is None else engine.name,
            dims,
            self.metric,
            documents,
            complete,
            getattr(engine, "index_bytes", 0),
        )

    def usage(self, ids: Sequence[str]) -> dict[str, Usage]:
        """How often, and when last, documents were found; counted with `track_access`."""
        return self._run(self._upkeep.uses(_ids("ids", ids) or ()))

    async def ausage(self, ids: Sequence[str]) -> dict[str, Usage]:
        """As `usage`."""
        return await self._arun(self._upkeep.uses(_ids("ids", ids) or ()))

    def stats(self) -> dict[str, int]:
        """What this process did with the collection: queries by where they were served ("from
        redis", "from memory", "from the durable tier"), repairs and failures."""
        return dict(sorted(self._place.stats.items()))

    # Details.

    def _run(self, flow: Flow[T]) -> T:
        return self.tiers.run(flow)

    def _arun(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        return self.tiers.arun(flow)

    def _compared(self, vector: object) -> Flow[Any]:
        dims = self._dims
        try:
            dims = (yield from self._place.known_dims()) or dims
        except TierError as error:
            self._place.note(error)  # who answers will say
        return checked_vector("vector", vector, dims, self.metric)

    def _bound(self, max_distance: object, min_score: object) -> float | None:
        if max_distance is not None and min_score is not None:
            raise InvalidInput("max_distance and min_score say the same: give one of them")
        if max_distance is not None:
            return _number("max_distance", max_distance)
        if min_score is None:
            return None
        score = _number("min_score", min_score)
        if self.metric != "l2":
            return 1.0 - score
        return float("inf") if score <= 0 else 1.0 / score - 1.0

    def _seen(self, search: Flow[list[Hit]]) -> Flow[tuple[Hit, ...]]:
        hits = yield from search
        yield from self._used([hit.document for hit in hits])
        return tuple(hits)

    def _used(self, found: Sequence[Document]) -> Flow[None]:
        if self._place.options.track_access and found:
            yield from self._upkeep.use([document.id.encode() for document in found])
            self._shared.flush_later()


class _Shown:
    """Progress as a function, or as a bar."""

    def __init__(self, progress: object) -> None:
        if progress not in (None, True, False) and not callable(progress):
            raise InvalidInput(
                f"progress must be a function, True or None, got {type(progress).__name__}"
            )
        self._wanted = progress
        self._bar: Any = None

    def __enter__(self) -> Progress | None:
        if self._wanted is True:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a notebook has no widgets: the bar is plain
                from tqdm.auto import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(unit=" documents", desc="rebuild")
            return self._show
        return self._wanted if callable(self._wanted) else None

    def _show(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _query(filter: object = None, ids: object = None, parents: object = None) -> Query:
    where = filter if isinstance(filter, Filter) else None
    native = None if where is filter else filter
    if native is not None and not hasattr(native, "_filter"):
        raise InvalidInput(
            "filter must be a redis_tiered.Filter, or a filter expression of redisvl, got "
            f"{type(native).__name__}"
        )
    return Query(
        where=where,
        native=native,
        ids=_ids("ids", ids),
        parents=_ids("parents", parents),
        now=milliseconds(),
    )


def _ids(name: str, ids: object) -> tuple[bytes, ...] | None:
    if ids is None:
        return None
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence):
        raise InvalidInput(f"{name} must be a sequence of str, got {type(ids).__name__}")
    return tuple([checked_id(f"{name}[{i}]", id) for i, id in enumerate(ids)])


def _ttl(value: object) -> int:
    return max(1, int(seconds("ttl", value) * 1000))


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise InvalidInput(f"{name} must be a number, got {value!r:.100}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidInput(f"{name} must be a number that a float can hold") from None


def _share(name: str, value: object) -> float:
    number = _number(name, value)
    if not 0.0 <= number <= 1.0:
        raise InvalidInput(f"{name} must be from 0 to 1, got {number}")
    return number


def _pairs(name: str, given: object, kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    if given is None:
        return ()
    if not isinstance(given, Mapping) or not all(
        isinstance(key, str) and type(value) is kind for key, value in given.items()
    ):
        raise InvalidInput(
            f"{name} must be a mapping of str to {kind.__name__}, got {given!r:.200}"
        )
    return tuple(sorted(given.items()))
