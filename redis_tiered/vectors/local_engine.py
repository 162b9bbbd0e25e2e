"""The engine for any Redis: vectors in hashes, an index of them in each process.

Two sorted sets, of ids by version and of removed ids by version, are the log of changes. What is
above the water mark that the index has reached is what it lacks, whether that is the latest write
or, in a new process, everything. To ask rides in the round trip of the query.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, Final

import numpy as np

from redis_tiered.errors import InvalidInput, TierReplyError, TierUnavailable
from redis_tiered.flow import Call, Command, Flow, Redis, Wait
from redis_tiered.keys import CollectionKeys
from redis_tiered.tiers.memory import Memory
from redis_tiered.vectors import scripts
from redis_tiered.vectors.changes import Changes, News, changes_of, scored
from redis_tiered.vectors.document import Metric, Row
from redis_tiered.vectors.engine import (
    Answer,
    EngineName,
    Found,
    Near,
    Nearby,
    Query,
    Word,
)
from redis_tiered.vectors.index import Index
from redis_tiered.vectors.local_values import Apart, Together, Values, kept

__all__ = ["Copies", "LocalEngine"]

_PAGE: Final = 1000
_PATIENCE: Final = 10.0  # seconds that one who needs a copy waits for another who loads it
_TRIES: Final = 3
_DOUBTS: Final = 4
_PER_DOCUMENT: Final = 200  # bytes of the index beside the vector
_PER_ROW: Final = 400  # and beside that, where the index has all of a document
# Numbers in a matrix: above, a search takes so long that it would hold up an event loop.
_INLINE: Final = 2_000_000
_NAN: Final = float("nan")


class _Copy:
    """What this process has of one generation.

    Attributes:
        number: which it is among all of this process.
        water: the version up to which the index has every change.
        heard: the version up to which it knows what was removed; before the first load is done,
            what was removed before that began need not be known.
        incarnation: of Redis, when it was begun.
        loading: done when somebody who loads much is done; None: nobody does.
    """

    _numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, generation: str, heard: int, index: Index, incarnation: int) -> None:
        self.number = next(self._numbers)
        self.generation = generation
        self.incarnation = incarnation
        self.index = index
        self.water = 0
        self.heard = heard
        self.loading: Future[None] | None = None
        self._builder: threading.Thread | None = None

    def build(self) -> None:
        """Have the graph built, which takes a minute; until then searches are exact."""
        if self._builder is None or not self._builder.is_alive():
            self._builder = threading.Thread(
                target=self.index.build_ann, name="redis-tiered graph", daemon=True
            )
            self._builder.start()


class Copies:
    """The indexes of one process, of all collections, within a bound of memory.

    Args:
        max_bytes: the bound.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[LocalEngine, int] = OrderedDict()

    def reset_after_fork(self) -> None:
        """Forget a lock that a thread of the parent may hold; the child has engines of its own."""
        self._lock = threading.Lock()
        self._held = OrderedDict()

    def touched(self, engine: LocalEngine) -> None:
        """An index was used now."""
        with self._lock:
            if engine in self._held:
                self._held.move_to_end(engine)

    def used(self, engine: LocalEngine) -> None:
        """An index was used now, and may have grown."""
        with self._lock:
            self._held[engine] = engine.index_bytes
            self._held.move_to_end(engine)
            surplus = sum(self._held.values()) - self.max_bytes
            while surplus > 0:
                other, size = self._held.popitem(last=False)
                other.drop_copy()
                surplus -= size


class LocalEngine:
    """See `redis_tiered.vectors.engine.Engine`.

    Args:
        keys: of the collection.
        memory: where contents of documents are kept beside the index.
        copies: what the index counts among.
        metric: how vectors are compared.
        half: keep vectors in Redis as float16.
        contents: keep texts and payloads in Redis.
        lean: keep each document as one value, and all of it in the index.
        approximate: beyond a size, use an index that may miss some (needs faiss).
        incarnation: counts how often Redis was away, where it is all there is; else constant.
        numbers: whether Redis is all there is.
    """

    name: EngineName = "local"

    def __init__(
        self,
        keys: CollectionKeys,
        memory: Memory,
        copies: Copies,
        metric: Metric,
        *,
        half: bool,
        contents: bool,
        lean: bool = False,
        approximate: bool,
        incarnation: Callable[[], int] = lambda: 0,
        numbers: bool = False,
    ) -> None:
        self._keys = keys
        self._memory = memory
        self._copies = copies
        self._metric: Metric = metric
        self._half = half
        self._contents = contents
        self._values: Values = (
            Together(metric, half=half) if lean else Apart(metric, half=half, contents=contents)
        )
        self._approximate = approximate
        self._incarnation = incarnation
        self._numbers = numbers
        self._copy: _Copy | None = None
        self._generation: str | None = None

    @property
    def index_bytes(self) -> int:
        """Memory of the index in this process."""
        copy = self._copy
        return 0 if copy is None else copy.index.bytes

    def drop_copy(self) -> None:
        """Free the index's memory."""
        self._copy = None

    @property
    def index(self) -> Index | None:
        copy = self._copy
        return None if copy is None else copy.index

    def layout(self, dims: int) -> str:
        return json.dumps(
            {
                "engine": "local",
                "dims": dims,
                "metric": self._metric,
                "dtype": "float16" if self._half else "float32",
                "payload": "redis" if self._contents else "durable",
                **({"values": "together"} if self._values.whole else {}),
            },
            sort_keys=True,
        )

    @property
    def parts(self) -> int:
        return self._values.parts

    def keys(self, generation: str) -> tuple[bytes, ...]:
        return self._keys.local(generation)

    def words(self, row: Row) -> tuple[Word, ...]:
        return self._values.words(row)

    def create(self, generation: str, dims: int) -> Flow[None]:
        yield from ()

    def drop(self, generation: str) -> Flow[None]:
        keys = (*self._keys.log(generation), *self._keys.local(generation))
        yield Redis((("UNLINK", *keys),))
        try:
            # The search module may have made it, before this collection went over to this engine.
            yield Redis((("FT.DROPINDEX", self._keys.index(generation), "DD"),))
        except TierReplyError:
            return  # it did not, or is not there

    # Reading.

    def ask(self) -> tuple[Command, ...]:
        """What to ask Redis where a search soon follows: `News` of the replies is `Query.news`."""
        copy = self._copy
        if copy is None or copy.water == 0 or copy.loading is not None:
            return ()
        _, ids, gone, _ = self._keys.log(copy.generation)
        token = f"{copy.number} {self._incarnation()}"
        since = (f"({copy.water}", f"({copy.heard}", _PAGE, token)
        return (("EVAL", scripts.CHANGES, 3, self._keys.meta, ids, gone, *since),)

    def search(self, query: Query) -> Flow[Answer | None]:
        _check_native(query)
        tries = 0
        while True:
            copy = yield from self._synchronised()
            if copy is None:
                return None
            found = yield from self._found(copy, query)
            rows = yield from self._rows(copy, [id for id, _, _ in found], vectors=query.vectors)
            absent = [(id, v) for (id, v, _), row in zip(found, rows, strict=True) if row is None]
            if not (yield from self._were_removed(copy.generation, dict(absent))):
                continue
            tries += 1
            # What changed since fits together a moment later. If it changes all the time: the
            # documents as they are now, found by what they were.
            if tries == _TRIES or all(
                row is not None and row.version == version
                for (_, version, _), row in zip(found, rows, strict=True)
            ):
                return Answer(
                    copy.generation,
                    copy.water,
                    [
                        Found(row, distance)
                        for (_, _, distance), row in zip(found, rows, strict=True)
                        if row is not None
                    ],
                )

    def near(self, query: Query) -> Flow[Nearby | None]:
        copy = yield from self._synchronised(query.news)
        if copy is None:
            return None
        if _is_quick(copy.index):
            found = _near(copy.index, query)
        else:
            found = yield Call("index", _near, (copy.index, query))
        return Nearby(copy.generation, copy.water, found)

    def remembered(self, version: int, query: Query) -> Flow[list[tuple[bytes, int, float]] | None]:
        """Ids, versions and distances of a search without Redis; None: the index is not complete up
        to that version."""
        copy = self._copy
        if copy is None or copy.water < version:
            return None
        return (yield from self._found(copy, query))

    def count(self, query: Query) -> Flow[int | None]:
        _check_native(query)
        copy = yield from self._synchronised()
        if copy is None:
            return None
        return copy.index.count(
            where=query.where, ids=query.ids, parents=query.parents, now=query.now
        )

    def get(self, ids: Sequence[bytes], *, vectors: bool) -> Flow[Answer | None]:
        which: Command = ("HMGET", self._keys.meta, "g", "l", "w")
        while True:
            generation = self._generation
            asked = () if generation is None else self._asks(generation, ids)
            ticket = self._memory.ticket()
            # Asked first: what follows has all changes up to then. Asked last: it was there.
            (_, _, water), *replies, (name, layout, _) = yield Redis((which, *asked, which))
            if name is None or not self._is_ours(layout.decode()):
                return None
            if generation is None or name.decode() != generation or water is None:
                self._generation = name.decode()
                continue
            rows = self._received(generation, ids, replies, ticket)
            absent = [id for id in ids if id not in rows]
            since = (yield from self._written_since(generation, absent)) if absent else {}
            if since is not None:
                rows |= since
                break
        found = [rows[id] if vectors else rows[id]._replace(vector=b"") for id in ids if id in rows]
        return Answer(generation, int(water), [Found(row, _NAN) for row in found])

    def _written_since(
        self, generation: str, ids: Sequence[bytes]
    ) -> Flow[dict[bytes, Row] | None]:
        """Of documents that were not there those that are now; None: another generation is read by
        now, and what this one lacks says nothing.

        Raises:
            TierReplyError: one should have been.
        """
        by_version = self._keys.log(generation)[1]
        *scores, (expected, count), read = yield Redis(
            (
                *[("ZSCORE", by_version, id) for id in ids],
                ("EVAL", scripts.COUNTED, 2, self._keys.meta, by_version),
                ("HGET", self._keys.meta, "g"),
            )
        )
        if read != generation.encode():
            return None
        if count < expected:
            raise _lost()  # so is what was asked for, perhaps
        listed = {id: int(float(at)) for id, at in zip(ids, scores, strict=True) if at is not None}
        rows = yield from self._fetched(generation, list(listed), vectors=True, known={})
        there = {row.id: row for row in rows if row is not None}
        gone = {id: version for id, version in listed.items() if id not in there}
        return there if (yield from self._were_removed(generation, gone)) else None

    def _were_removed(self, generation: str, absent: Mapping[bytes, int]) -> Flow[bool]:
        """Documents of these versions were listed, and then what they hold was not there: whether they
        were removed; or else the whole generation was.

        Raises:
            TierReplyError: they are listed still, so nobody removed them.
        """
        if not absent:
            return True
        by_version = self._keys.log(generation)[1]
        *scores, read = yield Redis(
            (*[("ZSCORE", by_version, id) for id in absent], ("HGET", self._keys.meta, "g"))
        )
        if read != generation.encode():
            return False
        for version, at in zip(absent.values(), scores, strict=True):
            if at is not None and int(float(at)) == version:
                raise _lost()
        return True

    def _found(self, copy: _Copy, query: Query) -> Flow[list[tuple[bytes, int, float]]]:
        """Ids, versions and distances, from the index alone."""
        if query.vector is None:
            listed = copy.index.listed(
                where=query.where, ids=query.ids, parents=query.parents, now=query.now
            )
            end = None if query.k is None else query.offset + query.k
            return [(id, version, _NAN) for id, version in listed[query.offset : end]]
        if _is_quick(copy.index):
            return _searched(copy.index, query)
        found: list[tuple[bytes, int, float]] = yield Call("index", _searched, (copy.index, query))
        return found

    def _rows(self, copy: _Copy, ids: Sequence[bytes], *, vectors: bool) -> Flow[list[Row | None]]:
        """Documents as they are now: from memory those that the index says have not changed."""
        known: dict[bytes, Row] = {}
        if not vectors:
            for id in ids:
                if (version := copy.index.version_of(id)) is None:
                    continue
                held = self._memory.get(self._keys.content(copy.generation, version))
                if held is not None:
                    known[id] = self._values.remembered(id, held)
        return (yield from self._fetched(copy.generation, ids, vectors=vectors, known=known))

    def _fetched(
        self, generation: str, ids: Sequence[bytes], *, vectors: bool, known: dict[bytes, Row]
    ) -> Flow[list[Row | None]]:
        if missing := [id for id in ids if id not in known]:
            ticket = self._memory.ticket()
            replies = yield Redis(self._asks(generation, missing, vectors=vectors))
            known |= self._received(generation, missing, replies, ticket, vectors=vectors)
        return [known.get(id) for id in ids]

    def _asks(
        self, generation: str, ids: Sequence[bytes], *, vectors: bool = True
    ) -> tuple[Command, ...]:
        return self._values.asks(self._keys.local(generation), ids, vectors=vectors)

    def _received(
        self,
        generation: str,
        ids: Sequence[bytes],
        replies: Sequence[Any],
        ticket: int,
        *,
        vectors: bool = True,
    ) -> dict[bytes, Row]:
        """What `_asks` was answered; a document that is not whole is left out."""
        rows: dict[bytes, Row] = {}
        for row, held in self._values.received(ids, replies, vectors=vectors):
            if held:
                key = self._keys.content(generation, row.version)
                self._memory.put(key, held, ticket)
            rows[row.id] = row
        return rows

    # The log of changes.

    def _synchronised(self, told: News | None = None) -> Flow[_Copy | None]:
        """This process's copy, with every change that Redis had when it was asked.

        Args:
            told: what it said already.
        """
        waited, doubts = False, 0
        while True:
            copy = self._copy
            if copy is not None and copy.loading is not None and not waited:
                waited = True
                yield Wait(copy.loading, _PATIENCE)
                continue
            taken = None if told is None or copy is None else told.take(copy.number)
            if taken is None:
                incarnation = self._incarnation()
                news = changes_of((yield Redis(self._questions(copy))))
            else:
                news, incarnation = taken
            if news is None:
                return None
            if (
                copy is None
                or copy.generation != news.generation
                or copy.heard < news.forgotten
                # Where Redis gives versions and comes back with older data, it gives them again.
                or copy.incarnation != incarnation
                or (copy.water > news.water and self._numbers)
            ):
                if not self._is_ours(news.layout):
                    return None
                dims = json.loads(news.layout)["dims"]
                yield from self._check_size(news.generation, dims)
                index = Index(dims, self._metric, approximate=self._approximate)
                if self._copy is copy:  # nobody else was first
                    self._copy = _Copy(news.generation, news.water, index, incarnation)
                continue
            if news.changed or news.removed or copy.water == 0:
                yield from self._take(copy, news)
                self._copies.used(self)
                if self._approximate and copy.index.needs_build:
                    copy.build()
            else:
                copy.water = copy.heard = max(copy.water, news.water)
                self._copies.touched(self)
            if len(copy.index) == news.documents or doubts == _DOUBTS:
                return copy
            # Somebody changes it at this moment; or the log was evicted, and is not whole.
            doubts += 1
            if doubts == _DOUBTS and self._copy is copy:
                self.drop_copy()

    def _is_ours(self, layout: str) -> bool:
        """Whether documents are as this engine keeps them."""
        return self.layout(json.loads(layout)["dims"]) == layout

    def _check_size(self, generation: str, dims: int) -> Flow[None]:
        """Refuse a collection that has no room in this process.

        Raises:
            TierUnavailable: it is too large.
            TierReplyError: it is not whole.
        """
        keys = (self._keys.meta, self._keys.log(generation)[1])
        [(expected, count)] = yield Redis((("EVAL", scripts.COUNTED, 2, *keys),))
        if count < expected:
            raise _lost()
        size = 4 * dims + _PER_DOCUMENT + (_PER_ROW if self._values.whole else 0)
        if count * size > self._copies.max_bytes:
            raise TierUnavailable(
                "index",
                "memory",
                f"{count} vectors of {dims} dimensions have no room in index_max_bytes="
                f"{self._copies.max_bytes}; the search module needs none",
            )

    def _questions(self, copy: _Copy | None) -> tuple[Command, ...]:
        """What to ask for `changes_of`."""
        which: Command = ("HMGET", self._keys.meta, "g", "l", "w", "f", "n")
        if copy is None:
            return (which,)
        return (which, *self._pages(copy.generation, copy.water, copy.heard))

    def _pages(self, generation: str, changed: int, removed: int) -> list[Command]:
        _, ids, gone, _ = self._keys.log(generation)
        return [
            ("ZRANGEBYSCORE", key, f"({since}", "+inf", "WITHSCORES", "LIMIT", 0, _PAGE)
            for key, since in ((ids, changed), (gone, removed))
        ]

    def _take(self, copy: _Copy, news: Changes) -> Flow[None]:
        """Bring the index up to what Redis had when it was asked."""
        changed, removed = news.changed, news.removed
        loading: Future[None] | None = None
        since, heard = copy.water, copy.heard
        try:
            while True:
                yield from self._load(copy, changed)
                for id, version in removed:
                    copy.index.remove(id, version)
                if len(changed) < _PAGE and len(removed) < _PAGE:
                    break
                if loading is None and copy.loading is None:
                    loading = copy.loading = Future()
                since = changed[-1][1] if changed else since
                heard = removed[-1][1] if removed else heard
                pages = self._pages(copy.generation, since, heard)
                changed, removed = map(scored, (yield Redis(tuple(pages))))
        finally:
            if loading is not None:
                copy.loading = None
                loading.set_result(None)
        # What was changed since has a later version.
        copy.water = max(copy.water, news.water)
        copy.heard = max(copy.heard, news.water)

    def _load(self, copy: _Copy, changed: Sequence[tuple[bytes, int]]) -> Flow[None]:
        wanted = {
            id: version for id, version in changed if (copy.index.version_of(id) or 0) < version
        }
        if not wanted:
            return
        ids = list(wanted)
        values = self._values
        replies = yield Redis(values.loads(self._keys.local(copy.generation), ids))
        held = values.loaded(ids, replies, copy.index.dims)
        whole = {row.id for row, _ in held}
        absent = {id: version for id, version in wanted.items() if id not in whole}
        yield from self._were_removed(
            copy.generation, absent
        )  # if the copy is old, that shows soon
        if held:
            copy.index.put_many(
                [row.id for row, _ in held],
                [row.version for row, _ in held],
                np.stack([vector for _, vector in held]),
                [b"" if values.whole else row.metadata for row, _ in held],
                [row.parent for row, _ in held],
                [row.expires for row, _ in held],
                [kept(row) for row, _ in held] if values.whole else None,
            )


def _lost() -> TierReplyError:
    return TierReplyError("redis", "lost", "documents are not whole in Redis: evicted, perhaps")


def _check_native(query: Query) -> None:
    if query.native is not None:
        raise InvalidInput(
            'filter is an expression of redisvl, which engine "local" does not understand; pass a '
            "redis_tiered.Filter"
        )


def _is_quick(index: Index) -> bool:
    return len(index) * index.dims <= _INLINE


def _near(index: Index, query: Query) -> list[Near]:
    vector = query.vector
    assert vector is not None
    if vector.shape != (index.dims,):
        raise InvalidInput(f"vector must have {index.dims} dimensions, got {len(vector)}")
    return index.near(vector, query.k, query.parents, query.now)


def _searched(index: Index, query: Query) -> list[tuple[bytes, int, float]]:
    assert query.vector is not None
    k = None if query.k is None else query.offset + query.k
    found = index.search(
        query.vector,
        k,
        where=query.where,
        ids=query.ids,
        parents=query.parents,
        now=query.now,
        max_distance=query.max_distance,
    )
    return found[query.offset :]
