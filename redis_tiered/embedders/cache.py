"""The embedding cache: vectors of texts, by model, through the three tiers.

An entry is named by a digest of model, kind and text; the text itself is not stored. A vector is a
header of six bytes (version, width of a number, four of zero) and little-endian floats. A vector is
rounded when it is made, so that the first caller gets the numbers that all later ones get.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from redis_tiered.checks import integer, text
from redis_tiered.embedders.identity import identify, model_argument
from redis_tiered.embedders.vectors import texts_of, vectors_of
from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.flow import Call, Flow
from redis_tiered.maps.map import Data, Map
from redis_tiered.tiers.tiers import Tiers

__all__ = ["DOCUMENT", "QUERY", "EmbeddingCache", "EmbeddingStats", "Source"]

DOCUMENT: Final = "document"
QUERY: Final = "query"

_VERSION: Final = 1
_HEADER: Final = 6  # behind the map's own, so that numbers are aligned
_TYPES: Final[dict[str, np.dtype[Any]]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_FLOAT32: Final = _TYPES["float32"]
_BY_WIDTH: Final = {kind.itemsize: kind for kind in _TYPES.values()}
# Where the frameworks' classes keep the address of the service.
_ADDRESSES: Final = ("openai_api_base", "api_base", "base_url", "azure_endpoint", "endpoint")
# Where wrappers keep what they wrap: ours, LangChain's and LlamaIndex's.
_WRAPPED: Final = ("wrapped", "underlying_embeddings", "_langchain_embedding")
# Further settings under which one model makes other vectors. What a class of pydantic declares is
# looked at without a list; the last two are what LlamaIndex's OpenAIEmbedding asks, whatever its
# `model_name` became later.
_SHAPING: Final = (
    "text_instruction",
    "output_dimension",
    "dimensionality",
    "model_kwargs",
    "additional_kwargs",
    "_text_engine",
    "_query_engine",
)
# Of declared settings, those under which a model makes the same vectors.
_INDIFFERENT: Final = re.compile(
    "key$|token$|secret|password|timeout|retr(y|ies)|batch|chunk_size|workers|headers|cache|progress"
    "|verbose|client|proxy|device|threads|parallel|concurren|callback|limiter|organization|user$|"
    + "|".join(_ADDRESSES)
)

Rows = list[NDArray[np.float32]]
Make = Callable[[list[str]], Any]


class EmbeddingStats(NamedTuple):
    """What this process did with an embedding cache.

    Attributes:
        hits: texts whose vectors were found, by tier: `"memory"`, `"redis"`, `"durable"`.
        misses: texts that the model embedded.
        unstored: vectors that no tier could be told.
        unreadable: stored vectors of no use: corrupt, or of another length than the model's.
    """

    hits: dict[str, int]
    misses: int
    unstored: int
    unreadable: int

    @property
    def hit_rate(self) -> float:
        """Share of texts that the model was spared; 0.0 before the first."""
        hits = sum(self.hits.values())
        return hits / (hits + self.misses) if hits + self.misses else 0.0


class Source:
    """What makes vectors, as far as the cache must know.

    Args:
        wrapped: the object that embeds: it tells its model's name and settings.
        given: a name in place of those; None: there is none.
    """

    __slots__ = ("_given", "_wrapped", "who")

    def __init__(self, wrapped: object, given: str | None) -> None:
        self._wrapped = wrapped
        self._given = model_argument(given)
        self.who = type(wrapped).__name__

    @property
    def model(self) -> str:
        """What tells models apart; read anew at each access, for settings of the object may change.

        Raises:
            InvalidInput: nothing names the model.
        """
        if self._given is not None:
            return self._given
        return f"{identify(self._wrapped)[0]}{_settings(self._wrapped)}"


class EmbeddingCache:
    """Vectors of embedding models, each made once.

    A call costs one batch read and, for what is new, one batch write. A failing tier is a miss, never
    an exception; what the model raises is raised.

    Args:
        tiers: where vectors live and for which tenant.
        name: caches of different names share nothing.
        dtype: "float32" or "float16", of the stored numbers, and of those that are returned.
        ttl: seconds that vectors stay; None: for ever.
        jitter: up to this share is taken off each TTL at random. 0 to 0.5.
        batch_size: texts that a model is given at a time, each batch stored when it is there; None:
            all at once.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __init__(
        self,
        tiers: Tiers,
        *,
        name: str = "default",
        dtype: str = "float32",
        ttl: float | None = None,
        jitter: float = 0.1,
        batch_size: int | None = None,
    ) -> None:
        if not isinstance(tiers, Tiers):
            raise InvalidInput(f"tiers must be a Tiers or None, got {type(tiers).__name__}")
        text("name", name, least=1)
        if not isinstance(dtype, str) or dtype not in _TYPES:
            raise InvalidInput(f"dtype must be one of {sorted(_TYPES)}, got {dtype!r}")
        self.tiers = tiers
        self.options: dict[str, Any] = {
            "name": name,
            "dtype": dtype,
            "ttl": ttl,
            "jitter": jitter,
            "batch_size": batch_size,
        }
        self._dtype = _TYPES[dtype]
        self._batch = None if batch_size is None else integer("batch_size", batch_size, 1)
        self._map: Map[Any] = Map(tiers, f"embeddings:{name}", _Vectors(), ttl=ttl, jitter=jitter)
        self._counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"EmbeddingCache({self.tiers!r}, name={self.options['name']!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.tiers, self.options)

    def __copy__(self) -> EmbeddingCache:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> EmbeddingCache:
        # Models are copied with their cache; the copy shares its connections and counters.
        return self

    def stats(self) -> EmbeddingStats:
        """What this process did with this object."""
        counts = self._counts
        hits = {tier: counts[tier] for tier in ("memory", "redis", "durable")}
        return EmbeddingStats(hits, counts["miss"], counts["unstored"], counts["unreadable"])

    def clear(self) -> None:
        """Forget the vectors of all models of this cache and tenant.

        Raises:
            TierError: a tier could not be told.
        """
        self._map.clear()

    async def aclear(self) -> None:
        """As `clear`."""
        await self._map.aclear()

    def vectors(
        self, texts: Sequence[str], make: Make, source: Source, *, kind: str = DOCUMENT
    ) -> Rows:
        """One vector per text, in their order.

        Args:
            texts: to be embedded.
            make: asked for those that no tier has; it gets a list of texts, all different.
            source: what `make` belongs to.
            kind: `DOCUMENT` or `QUERY`, kept apart.

        Raises:
            InvalidInput: what was given are no texts, or what came are no vectors.
            Exception: whatever `make` raises.
        """
        flow = self._vectors(texts_of(texts), make, source, kind)
        try:
            return self.tiers.run(flow)
        except TierError as error:
            failure = _own(error)
        raise failure  # out here: what caused it stays as it was

    async def avectors(
        self, texts: Sequence[str], make: Make, source: Source, *, kind: str = DOCUMENT
    ) -> Rows:
        """As `vectors`; `make` may be a coroutine function."""
        flow = self._vectors(texts_of(texts), make, source, kind)
        try:
            return await self.tiers.arun(flow)
        except TierError as error:
            failure = _own(error)
        raise failure

    def known(self, texts: Sequence[str], model: str, *, kind: str = DOCUMENT) -> Flow[Rows]:
        """The vectors that the tiers have of these texts; one of no length where they have none."""
        names = _names(model, kind, texts_of(texts))
        found = yield from self._found(list(dict.fromkeys(names)))
        none = np.zeros(0, np.float32)
        return [found.get(name, none) for name in names]

    def keep(
        self, texts: Sequence[str], vectors: object, source: Source, *, kind: str = DOCUMENT
    ) -> Flow[None]:
        """Store one vector per text, which were made elsewhere.

        Raises:
            InvalidInput: these are no vectors.
        """
        names = _names(source.model, kind, texts_of(texts))
        if not names:
            return self._keep({})
        rows = self._rounded(vectors_of(vectors, len(names), source.who))
        return self._keep(dict(zip(names, rows, strict=True)))

    def forget(self, texts: Sequence[str], model: str, *, kind: str = DOCUMENT) -> Flow[int]:
        """Delete the vectors of these texts; gives how many there were.

        Raises:
            TierError: a tier could not be told.
        """
        names = _names(model, kind, texts_of(texts))
        return self._map.changing(delete=[name.decode() for name in names])

    def _vectors(self, texts: list[str], make: Make, source: Source, kind: str) -> Flow[Rows]:
        if not texts:
            return []
        model = source.model
        names = _names(model, kind, texts)
        wanted = dict(zip(names, texts, strict=True))
        found = yield from self._found(list(wanted))
        missing = [name for name in wanted if name not in found]
        made: dict[bytes, NDArray[Any]] = {}
        while missing:
            step = self._batch or len(missing)
            batch, missing = missing[:step], missing[step:]
            fresh = yield Call("embedder", make, ([wanted[name] for name in batch],))
            exact = vectors_of(fresh, len(batch), source.who)
            rows = self._rounded(exact)
            self._counts["miss"] += len(batch)
            changed = model != source.model
            if not changed:  # else which one made them, nobody can tell
                yield from self._keep(dict(zip(batch, rows, strict=True)))
            for name, row, given in zip(batch, rows, exact, strict=True):
                made[name] = given if row is None else row.astype(np.float32)
            # The model has changed, or has under its name: what it made before does not compare.
            length = len(exact[0])
            stale = [name for name, row in found.items() if changed or len(row) != length]
            for name in stale:
                del found[name]
            self._counts["unreadable"] += len(stale)
            missing += stale
        if len({len(row) for row in made.values()}) > 1:
            raise InvalidInput(f"{source.who} must return vectors of one length, batch by batch")
        found |= made
        return [found[name] for name in names]

    def _found(self, names: list[bytes]) -> Flow[dict[bytes, NDArray[np.float32]]]:
        """What the tiers have, all of one length."""
        values, _, tiers = yield from self._map.reading(names)
        found: dict[bytes, NDArray[np.float32]] = {}
        for name, row in zip(names, values, strict=True):
            if row is None:
                continue
            if len(row):
                found[name] = row
            else:
                self._counts["unreadable"] += 1
        lengths = {len(row) for row in found.values()}
        if len(lengths) > 1:  # which are the model's, it must say
            self._counts["unreadable"] += len(found)
            return {}
        self._counts.update(tiers)
        return found

    def _rounded(self, exact: list[Any]) -> list[NDArray[Any] | None]:
        """As they are stored; None: beyond the range of the type, nothing to keep."""
        rows: list[NDArray[Any] | None] = []
        for given in exact:
            with np.errstate(over="ignore", under="ignore"):
                row = given.astype(self._dtype)
            rows.append(row if np.isfinite(row).all() and row.any() == given.any() else None)
        return rows

    def _keep(self, rows: dict[bytes, NDArray[Any] | None]) -> Flow[None]:
        kept = {name.decode(): row for name, row in rows.items() if row is not None}
        try:
            yield from self._map.changing(kept)
        except TierError:
            self._counts["unstored"] += len(kept)


def _rebuild(tiers: Tiers, options: dict[str, Any]) -> EmbeddingCache:
    return EmbeddingCache(tiers, **options)


def _names(model: str, kind: str, texts: list[str]) -> list[bytes]:
    start = blake2b(digest_size=20)
    start.update(f"{len(model)}:{model}{len(kind)}:{kind}".encode(errors="surrogatepass"))
    names = []
    for each in texts:
        digest = start.copy()
        digest.update(each.encode(errors="surrogatepass"))
        names.append(digest.hexdigest().encode())
    return names


class _Vectors:
    """The codec of vectors: what cannot be read is one of no numbers."""

    def dumped(self, where: str, value: NDArray[Any]) -> bytes:
        header = bytes((_VERSION, value.dtype.itemsize)).ljust(_HEADER, b"\0")
        return header + value.tobytes()

    def loaded(self, data: Data) -> NDArray[np.float32]:
        kind = _BY_WIDTH.get(data[1]) if len(data) > _HEADER and data[0] == _VERSION else None
        if kind is None or (len(data) - _HEADER) % kind.itemsize:
            return np.zeros(0, np.float32)
        row = np.frombuffer(data, kind, offset=_HEADER)
        return row if kind is _FLOAT32 else row.astype(np.float32)


def _settings(wrapped: object) -> str:
    """What else tells models of one name apart, as text that holds no credentials."""
    private = getattr(wrapped, "__pydantic_private__", None) or {}
    held = {**getattr(wrapped, "__dict__", {}), **private}
    declared = getattr(type(wrapped), "model_fields", None)
    told = {
        name: _plain(held[name])
        for name, field in (declared.items() if isinstance(declared, dict) else ())
        if _is_plain(held.get(name)) and held[name] != field.default
        if _shapes(name)
    }
    told |= {name: _plain(held[name]) for name in _SHAPING if _is_plain(held.get(name))}
    listed = "".join(f";{name}={told[name]}" for name in sorted(told))
    settings = f";with={blake2b(listed.encode(), digest_size=8).hexdigest()}" if told else ""
    inner = "".join(_settings(held[name]) for name in _WRAPPED if held.get(name) is not None)
    return f"{settings}{_address(wrapped)}{inner}"


@cache
def _shapes(name: str) -> bool:
    return not _INDIFFERENT.search(name)


def _is_plain(value: object) -> bool:
    """Whether it is a setting, and says something."""
    plain = isinstance(value, str | int | float | dict | list | tuple | set | frozenset | Enum)
    return plain and value not in ("", {}, [], (), set())


def _plain(value: object) -> str:
    """The same in every process."""
    if isinstance(value, dict):
        return repr(sorted((str(key), _plain(each)) for key, each in value.items()))
    if isinstance(value, list | tuple):
        return repr([_plain(each) for each in value])
    if isinstance(value, set | frozenset):
        return repr(sorted(map(_plain, value)))
    return ascii(value).partition(" at 0x")[0]


def _address(wrapped: object) -> str:
    """Where the model is served, without credentials: a name may mean another model elsewhere."""
    for name in _ADDRESSES:
        value = getattr(wrapped, name, None)
        if value and not callable(value):
            _, _, rest = str(value).rpartition("://")
            place, *_ = re.split("[?#]", rest)
            host, slash, path = place.partition("/")
            return f";at={host.rpartition('@')[2]}{slash}{path}".rstrip("/")
    return ""


def _own(error: TierError) -> BaseException:
    """What the model raised, if it was the model."""
    return error.__cause__ if error.tier == "embedder" and error.__cause__ else error
