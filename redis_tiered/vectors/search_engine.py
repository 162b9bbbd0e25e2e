"""The engine for a Redis with the search module: each document a hash, an index over them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from importlib.util import find_spec
from json import loads
from typing import Any, Final, NamedTuple

from redis_tiered.errors import InvalidInput, TierReplyError, TierUnavailable, Unreadable
from redis_tiered.flow import Command, Flow, Redis
from redis_tiered.keys import CollectionKeys
from redis_tiered.vectors import search_query as ask
from redis_tiered.vectors.document import Metric, Row, loaded_metadata
from redis_tiered.vectors.engine import Answer, EngineName, Found, Near, Nearby, Query, Word
from redis_tiered.vectors.filters import Filter
from redis_tiered.vectors.search_schema import (
    CONTENT,
    EF_RUNTIME,
    HEAD,
    VECTOR,
    VERSION,
    Schema,
    id_of,
    key_part,
    require_redisvl,
)

__all__ = ["SearchEngine", "available"]

_TRIES: Final = 5
_PAGE: Final = 1000
_MOST: Final = 1_000_000  # the module gives no more at once
# How far to look for documents as near as the last that is wanted, to take those with the least ids.
_TIES: Final = 256
_SLACK: Final = 1e-5
# Of what is within a distance, the module's 0.01 finds 57 to 98 of 100, and this all, in twice the
# time (10,000 vectors of 64 numbers, random and in clusters).
_EPSILON: Final = 0.3
# Lean documents that are kept decoded: how many, and of how many bytes at most.
_DECODED: Final = 4096
_REMEMBERED: Final = 2048
_FARTHEST: Final = 3e38  # of float32
_NAN: Final = float("nan")
_Commands = tuple[Command, ...]
_ABSENT: Final = re.compile("no such index|unknown index name|index_not_found", re.IGNORECASE)
# valkey-search has the first two, but neither full text nor the third.
_COMMANDS: Final = ("FT.SEARCH", "FT.CREATE", "FT.ALTER", "FT.INFO", "FT.DROPINDEX")


class _Reply(NamedTuple):
    """What was said of the generation that is read."""

    generation: str
    water: int
    replies: list[Any]


class _Hits(NamedTuple):
    """What a query was answered.

    Attributes:
        size: how many entries there were, also of those that are gone since or are not wanted.
        found: those that are wanted, in the order they came.
        last: the value of the last entry; the version of the last document, where a query has none.
    """

    size: int
    found: list[Found]
    last: float


def available(keys: CollectionKeys) -> Flow[bool]:
    """Whether `SearchEngine` can be used: redisvl is installed, and the server's module will do."""
    if find_spec("redisvl") is None:
        return False
    # All nodes of a cluster have the same modules: any will do.
    [known] = yield Redis((("COMMAND", "INFO", *_COMMANDS),), node=0)
    return len(known) == len(_COMMANDS) and all(known)


class SearchEngine:
    """See `redis_tiered.vectors.engine.Engine`.

    Distances of float16 vectors are computed in float16 where the processor can: they are right to
    about 0.001. What is found by HNSW and SVS-VAMANA is approximate; by FLAT it is exact.

    Args:
        keys: of the collection.
        metric: how vectors are compared.
        algorithm: of the index: `"hnsw"`, `"flat"` or `"svs-vamana"`.
        algorithm_options: its numbers, as redisvl calls them; `search_schema.ALGORITHMS` has them.
        dtype: of vectors in Redis: `"float32"` or `"float16"`.
        contents: whether texts and payloads are in Redis; without them there is no full text.
        fields: metadata fields that a native filter may ask for, with their types: `"tag"` (a str,
            a bool or a list of these), `"text"` (a str), `"numeric"` (a number, datetime or date; of
            the last two the seconds since 1970), `"geo"` (a str "longitude,latitude"). Values of
            other types are as if they were missing.
        lean: documents are found by vector and parent alone, and have no payload.

    Raises:
        InvalidInput: one of these is none that there is.
        MissingExtra: redisvl is not installed.
    """

    name: EngineName = "redisvl"
    parts = 1

    def __init__(
        self,
        keys: CollectionKeys,
        metric: Metric,
        *,
        algorithm: str = "hnsw",
        algorithm_options: Mapping[str, int] | None = None,
        dtype: str = "float32",
        contents: bool = True,
        fields: Mapping[str, str] | None = None,
        lean: bool = False,
    ) -> None:
        self._schema = Schema.checked(
            metric,
            algorithm=algorithm,
            dtype=dtype,
            contents=contents,
            fields=fields,
            options=algorithm_options,
            lean=lean,
        )
        require_redisvl()
        self._keys = keys
        self._metric = metric
        self._decoded = lru_cache(_DECODED)(self._schema.lean_document)
        self._generation: str | None = None
        self._known_layout = b""
        # How many candidates HNSW looks at if it is not told.
        self._reach = (
            self._schema.options.get("ef_runtime", EF_RUNTIME) if algorithm == "hnsw" else 0
        )

    def layout(self, dims: int) -> str:
        return self._schema.layout(dims)

    def keys(self, generation: str) -> tuple[bytes, ...]:
        return (self._keys.documents(generation),)

    def words(self, row: Row) -> tuple[Word, ...]:
        return self._schema.words(row)

    # Indexes.

    def create(self, generation: str, dims: int) -> Flow[None]:
        """See `Engine.create`.

        Raises:
            InvalidInput: the server cannot make such an index, or has another one of this name.
        """
        name, prefix = self._keys.index(generation), self._keys.documents(generation)
        try:
            yield Redis((self._schema.definition(name, prefix, dims),), write=True)
        except TierReplyError as error:
            if "already exists" in error.detail:
                [info] = yield Redis((("FT.INFO", name),))
                if other := self._schema.differs(info, prefix, dims):
                    raise InvalidInput(
                        f"the index {name.decode()} is there with another {other}"
                    ) from None
                return
            if error.kind != "reply" or error.detail.startswith("NOPERM"):
                raise
            server = yield from self._server()
            raise InvalidInput(
                f"{server} cannot make an index with algorithm={self._schema.algorithm!r}, "
                f"dtype={self._schema.dtype!r}, dims={dims}: {error.detail}"
            ) from None

    def _server(self) -> Flow[str]:
        try:
            [info] = yield Redis((("INFO", "server"),), node=0)
        except TierReplyError:
            return "the server"
        version = re.search(rb"redis_version:(\S+)", info)
        return f"Redis {version[1].decode()}" if version else "the server"

    def drop(self, generation: str) -> Flow[None]:
        try:
            yield Redis((("FT.DROPINDEX", self._keys.index(generation)),))
        except TierReplyError as error:
            if not _ABSENT.search(error.detail):
                raise
        # Not by the index, which knows only of documents that it took, and would hold up the
        # server until all are deleted.
        log, prefix = self._keys.log(generation), self._keys.documents(generation)
        while True:
            [ids] = yield Redis((("ZRANGE", log[1], 0, _PAGE - 1),))
            if not ids:
                break
            keys = [prefix + key_part(id) for id in ids]
            yield Redis((("UNLINK", *keys), ("ZREM", log[1], *ids)))
        # It may have been one of the other engine, before the collection was made anew for this.
        yield Redis((("UNLINK", *log, *self._keys.local(generation)),))

    # Reading.

    def search(self, query: Query) -> Flow[Answer | None]:
        if query.k == 0 or query.ids == () or query.parents == () or query.words == ():
            reply = yield from self._read(lambda _: ())
            return None if reply is None else Answer(reply.generation, reply.water, [])
        try:
            if query.vector is not None or query.words is not None:
                return (yield from self._ranked(query))
            return (yield from self._listed(query))
        except TierReplyError as error:
            raise _refused(query, error) from None

    def near(self, query: Query) -> Flow[Nearby | None]:
        """Cosines are computed here, of the vectors as they are kept: the module's are wrong by up to
        0.001, and with them the order of one answer in four (1536 dimensions)."""
        vector, k, parents = query.vector, query.k, query.parents
        assert vector is not None
        assert k is not None
        asked, reach = self._schema.numbers(vector), k if 0 < self._reach < k else 0
        reply = yield from self._read(
            lambda generation: (
                ask.nearest(self._keys.index(generation), (HEAD, VECTOR), asked, parents, k, reach),
            )
        )
        if reply is None:
            return None
        _, *entries = reply.replies[0]
        start = len(self._keys.documents(reply.generation))
        read = []
        for key, words in zip(entries[::2], entries[1::2], strict=True):
            fields = dict(zip(words[::2], words[1::2], strict=True)) if words else {}
            if b"__m" not in fields or b"__v" not in fields:
                continue  # it expired while the module was at it
            head = fields[b"__m"]
            known = len(head) <= _REMEMBERED
            decoded = self._decoded if known else self._schema.lean_document
            document, expires = decoded(id_of(key[start:]), head)
            if document is not None and (expires == 0 or expires > query.now):
                read.append((document, fields[b"__v"]))
        cosines = self._schema.cosines([stored for _, stored in read], vector)
        found = [
            Near(id, cosine, text, metadata)
            for ((id, text, metadata), _), cosine in zip(read, cosines, strict=True)
        ]
        found.sort(key=lambda one: (-one.cosine, one.id))
        return Nearby(reply.generation, reply.water, found)

    def count(self, query: Query) -> Flow[int | None]:
        if query.ids == () or query.parents == ():
            reply = yield from self._read(lambda _: ())
            return None if reply is None else 0
        try:
            where, exact = ask.expression(query, self._schema.fields, alive=True)
            if exact:
                reply = yield from self._read(
                    lambda generation: (ask.counted(self._keys.index(generation), where),)
                )
                return None if reply is None else int(reply.replies[0][0])
            every = replace(query, k=None, offset=0)
            answer = yield from self._paged(every, where, (VERSION, HEAD), exact=False)
            return None if answer is None else len(answer.found)
        except TierReplyError as error:
            raise _refused(query, error) from None

    def get(self, ids: Sequence[bytes], *, vectors: bool) -> Flow[Answer | None]:
        names = self._returned(vectors)

        def asked(generation: str) -> _Commands:
            prefix = self._keys.documents(generation)
            return tuple(("HMGET", prefix + key_part(id), *names) for id in ids)

        reply = yield from self._read(asked)
        if reply is None:
            return None
        keys = [name.encode() for name in names]
        found = []
        for id, values in zip(ids, reply.replies, strict=True):
            there = {key: v for key, v in zip(keys, values, strict=True) if v is not None}
            if b"__n" in there and b"__m" in there:
                found.append(Found(self._schema.row(id, there), _NAN))
        return Answer(reply.generation, reply.water, found)

    def _ranked(self, query: Query) -> Flow[Answer | None]:
        """By vector or by words: the best, of which those that are alike come by id."""
        where, exact = ask.expression(query, self._schema.fields)
        asked = (
            self._by_text(query, where) if query.vector is None else self._by_vector(query, where)
        )
        need = None if query.k is None else query.offset + query.k
        # One more than is wanted shows whether the last one has its like.
        size = _PAGE if need is None else need + 1 if exact else 4 * need + 1
        while True:
            size = min(size, _MOST)
            reply = yield from self._read(partial(asked, size))
            if reply is None:
                return None
            hits = self._hits(reply, query, exact)
            if hits.size < size or self._enough(query, hits, need):
                break
            if size == _MOST:
                raise TierReplyError("redis", "reply", f"more than {_MOST} results in one answer")
            if need is None:  # how many there are is known of a range or of words
                size = max(4 * size, int(reply.replies[0][0]) + 1)
            elif len(hits.found) < need:
                size *= 4
            else:
                size = max(4 * size, need + _TIES + 1)
        sign = -1 if query.vector is None else 1
        found = sorted(hits.found, key=lambda one: (sign * one.value, one.row.id))
        return Answer(reply.generation, reply.water, found[query.offset : need])

    def _by_vector(self, query: Query, where: str | None) -> Callable[[int, str], _Commands]:
        assert query.vector is not None
        vector, _ = self._schema.vector(query.vector)
        names = self._returned(query.vectors)
        radius = query.max_distance
        if radius is not None:
            # What the module computes may differ in the last digits; what is beyond is cut later.
            radius = radius * radius if self._metric == "l2" else radius
            radius = min(max(0.0, radius + abs(radius) * _SLACK + _SLACK), _FARTHEST)

        epsilon = None if self._schema.algorithm == "flat" else _EPSILON

        def asked(size: int, generation: str) -> _Commands:
            index = self._keys.index(generation)
            if query.k is None and radius is not None:
                return (ask.within(index, names, vector, where, size, radius, epsilon),)
            reach = size if 0 < self._reach < size else 0
            return (ask.by_vector(index, names, vector, where, size, reach),)

        return asked

    def _by_text(self, query: Query, where: str | None) -> Callable[[int, str], _Commands]:
        if not self._schema.contents:
            raise InvalidInput('full text needs texts in Redis, and payload="durable" keeps none')
        names, words = self._returned(query.vectors), query.words
        assert words is not None
        return lambda size, generation: (
            ask.by_text(self._keys.index(generation), names, words, where, size),
        )

    def _enough(self, query: Query, hits: _Hits, need: int | None) -> bool:
        """Whether more entries could change nothing."""
        by_vector = query.vector is not None
        if by_vector and query.max_distance is not None and hits.last > query.max_distance:
            return True
        if need is None or len(hits.found) < need:
            return False
        edge = hits.found[need - 1].value
        beyond = hits.last > edge if by_vector else hits.last < edge
        return beyond or hits.size > need + _TIES

    def _listed(self, query: Query) -> Flow[Answer | None]:
        """By filter alone, oldest first."""
        where, exact = ask.expression(query, self._schema.fields, alive=True)
        names, k, offset = self._returned(query.vectors), query.k, query.offset
        if not exact or k is None or k > _PAGE or offset + k > _MOST:
            return (yield from self._paged(query, where, names, exact=exact))
        reply = yield from self._read(
            lambda generation: (
                ask.listed(self._keys.index(generation), names, where, 0, offset, k),
            )
        )
        if reply is None:
            return None
        return Answer(reply.generation, reply.water, self._hits(reply, query, exact).found)

    def _paged(
        self, query: Query, where: str | None, names: Sequence[str], *, exact: bool
    ) -> Flow[Answer | None]:
        """The same in pages, each of versions after those of the one before."""
        need = None if query.k is None else query.offset + query.k
        size = _PAGE if need is None else min(need if exact else max(4 * need, 50), _PAGE)
        first: _Reply | None = None
        found: dict[bytes, Found] = {}
        after = idle = 0

        def asked(after: int, size: int, generation: str) -> _Commands:
            return (ask.listed(self._keys.index(generation), names, where, after, 0, size),)

        while True:
            reply = yield from self._read(partial(asked, after, size))
            if reply is None:
                return None
            if first is None:
                first = reply
            elif first.generation != reply.generation:
                first, after = None, 0
                found.clear()
                continue
            hits = self._hits(reply, query, exact)
            for one in hits.found:
                found.pop(one.row.id, None)  # written again, between two pages
                found[one.row.id] = one
            # What expired while the module was at it is gone when it is asked again.
            idle = idle + 1 if math.isnan(hits.last) else 0
            if hits.size < size or (need is not None and len(found) >= need) or idle == _TRIES:
                listed = list(found.values())[query.offset : need]
                return Answer(first.generation, first.water, listed)
            after = after if idle else int(hits.last)
            size = _PAGE

    # One round trip.

    def _read(self, asked: Callable[[str], _Commands]) -> Flow[_Reply | None]:
        """Ask of the generation that is read; which that is comes in the same round trip."""
        which: Command = ("HMGET", self._keys.meta, "g", "w", "l")
        for _ in range(_TRIES):
            generation = self._generation
            absent = False
            try:
                commands = () if generation is None else asked(generation)
                (name, water, layout), *replies = yield Redis((which, *commands))
            except TierReplyError as error:
                if not _ABSENT.search(error.detail):
                    raise
                absent = True
                [(name, water, layout)] = yield Redis((which,))
            if name is None or not self._is_ours(layout):
                self._generation = None
                return None
            self._generation = read = name.decode()
            if read == generation:
                # Somebody dropped the index of what is read: it is as if nothing were there.
                return None if absent else _Reply(read, int(water), replies)
        raise TierUnavailable("redis", "generation", "the collection is made anew all the time")

    def _is_ours(self, layout: bytes) -> bool:
        """Whether documents are as this engine keeps them."""
        if layout != self._known_layout:
            dims = loads(layout).get("dims")
            if type(dims) is not int or self.layout(dims).encode() != layout:
                return False
            self._known_layout = layout
        return True

    def _returned(self, vectors: bool) -> tuple[str, ...]:
        held = self._schema.contents and not self._schema.lean
        names = (VERSION, HEAD, CONTENT) if held else (VERSION, HEAD)
        return (*names, VECTOR) if vectors else names

    def _hits(self, reply: _Reply, query: Query, exact: bool) -> _Hits:
        """Read `[total, key, fields, ...]`; where words were asked for a score follows each key."""
        _, *entries = reply.replies[0]
        by_vector = query.vector is not None
        by_text = not by_vector and query.words is not None
        farthest = query.max_distance if by_vector else None
        step = 3 if by_text else 2
        start = len(self._keys.documents(reply.generation))
        found: list[Found] = []
        last = _NAN
        for at in range(0, len(entries), step):
            words = entries[at + step - 1]
            fields = dict(zip(words[::2], words[1::2], strict=True)) if words else {}
            if b"__n" not in fields or b"__m" not in fields:
                continue  # it expired while the module was at it
            row = self._schema.row(id_of(entries[at][start:]), fields)
            if by_vector:
                last = value = self._distance(fields[ask.DISTANCE])
            elif by_text:
                last = value = float(entries[at + 1])
            else:
                last, value = row.version, _NAN
            if (
                (row.expires is None or row.expires > query.now)
                and (farthest is None or value <= farthest)
                and (exact or _matches(query.where, row))
            ):
                found.append(Found(row, value))
        return _Hits(len(entries) // step, found, last)

    def _distance(self, said: bytes) -> float:
        distance = float(said)
        if self._metric == "ip":
            return distance
        distance = max(0.0, distance)  # equal vectors may have -1e-7
        return math.sqrt(distance) if self._metric == "l2" else distance


def _matches(where: Filter | None, row: Row) -> bool:
    if where is None:
        return True
    try:
        return where.matches(loaded_metadata(row.metadata))
    except Unreadable:
        return False


def _refused(query: Query, error: TierReplyError) -> Exception:
    """What the module's refusal of a query means."""
    if query.native is None or error.kind != "reply":
        return error
    return InvalidInput(f"filter is refused by the search module: {error.detail}")
