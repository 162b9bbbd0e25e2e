"""Where a collection lies in Redis: which engine, which generation, and how changes get there."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from redis_tiered.errors import (
    InvalidInput,
    SchemaError,
    TierError,
    TierUnavailable,
)
from redis_tiered.flow import Flow, Redis, Sleep, Sql
from redis_tiered.keys import CollectionKeys
from redis_tiered.tiers.tiers import Tiers
from redis_tiered.vectors import scripts
from redis_tiered.vectors.document import Metric, Removal, Row
from redis_tiered.vectors.engine import Engine, Word
from redis_tiered.vectors.truth import Truth

if TYPE_CHECKING:
    from redis_tiered.vectors.local_engine import Copies
    from redis_tiered.vectors.rows import Change

__all__ = ["PAUSES", "Item", "Options", "Place", "milliseconds"]

logger = logging.getLogger("redis_tiered")

PAUSES: Final = (0.002, 0.005, 0.01, 0.02)  # seconds, for a change that is on its way
_SCRIPT: Final = 200  # documents
_SCRIPT_BYTES: Final = 4 << 20
_TRIES: Final = 6
_NEWS: Final = 500  # changes that are brought from the durable tier at once


class Options(NamedTuple):
    """How a process uses a collection; see `Collection`."""

    metric: Metric = "cosine"
    engine: str = "auto"
    algorithm: str = "hnsw"
    algorithm_options: tuple[tuple[str, int], ...] = ()
    dtype: str = "float32"
    payload: str = "redis"
    fields: tuple[tuple[str, str], ...] = ()
    approximate: bool = False
    track_access: bool = False
    auto_rebuild: bool = True
    lean: bool = False  # found by vector, parent and id alone, without payload; see `Neighbours`


class Item(NamedTuple):
    """A change as `scripts.APPLY` gets it; `kind` is `u` for a document, `r` for a removal, and
    `u7` for a document if it is of version 7 now."""

    kind: str
    id: bytes
    version: int
    expires: int
    words: tuple[Word, ...]

    def size(self) -> int:
        return len(self.id) + sum(len(w) if isinstance(w, bytes | str) else 8 for w in self.words)


class Place:
    """One collection in Redis, as one process with its options knows it. Flows raise `TierError`.

    Attributes:
        stats: counts of what was done.
        dims: length of the vectors, once it is known.
        truth: the collection in the durable tier.
        on_absent: called when Redis has not what it should have.
        lost: whether that cannot be told from the water mark.
    """

    def __init__(self, tiers: Tiers, keys: CollectionKeys, options: Options) -> None:
        self.tiers = tiers
        self.keys = keys
        self.options = options
        self.stats: Counter[str] = Counter()
        self.dims: int | None = None
        self.durable = tiers.durable is not None
        self.truth = tiers.shared(
            ("collection truth", keys.scope), lambda: Truth(keys.scope, tiers.guards)
        )
        self.on_absent: Callable[[], None] = lambda: None
        self.lost = False
        self._told: set[str] = set()  # what was a warning once
        self._generation: str | None = None
        self._prepared: dict[int, str] = {}  # generations for first documents, by dimensions
        self._engine: Engine | None = None
        self._copies: Copies | None = None

    # Engine and generation.

    @property
    def chosen(self) -> Engine | None:
        """The engine, once that is known."""
        return self._engine

    def engine(self) -> Flow[Engine]:
        """The engine of this collection; the first time, that may ask the server.

        Raises:
            InvalidInput: the server cannot do what the options ask for.
            MissingExtra: redisvl is asked for, and not installed.
        """
        if self._engine is None:
            self._engine = yield from self._choose()
        return self._engine

    def _choose(self) -> Flow[Engine]:
        from redis_tiered.vectors.local_engine import Copies, LocalEngine

        chosen = self.options
        half, contents = chosen.dtype == "float16", chosen.payload == "redis"
        if chosen.engine != "local":
            from redis_tiered.vectors.search_engine import SearchEngine, available
            from redis_tiered.vectors.search_schema import require_redisvl

            if chosen.engine == "redisvl":
                require_redisvl()
            if (yield from available(self.keys)):
                return SearchEngine(
                    self.keys,
                    chosen.metric,
                    algorithm=chosen.algorithm,
                    algorithm_options=dict(chosen.algorithm_options),
                    dtype=chosen.dtype,
                    contents=contents,
                    fields=dict(chosen.fields),
                    lean=chosen.lean,
                )
            if chosen.engine == "redisvl":
                raise InvalidInput(
                    'engine="redisvl" needs a server with the search module, and this one has '
                    'none; engine="local" works on any'
                )
        self._copies = self.tiers.shared(
            "collection copies", lambda: Copies(self.tiers.settings.index_max_bytes)
        )
        return LocalEngine(
            self.keys,
            self.tiers.memory,
            self._copies,
            chosen.metric,
            half=half,
            contents=contents,
            lean=chosen.lean,
            approximate=chosen.approximate,
            incarnation=self._incarnation,
            numbers=not self.durable,
        )

    def _incarnation(self) -> int:
        return 0 if self.durable else self.tiers.guards.redis_incarnation

    def known_dims(self) -> Flow[int | None]:
        """The length of the vectors; None: there is no such collection yet.

        Raises:
            InvalidInput: the collection has another metric.
        """
        if self.dims is None:
            if self.durable:
                # Anew: that there was none a moment ago says nothing.
                head = yield from self.truth.ask(anew=True)
                dims, metric = (None, "") if head is None else (head.dims, head.metric)
            else:
                [(layout,)] = yield Redis((("HMGET", self.keys.meta, "l"),))
                there = {} if layout is None else json.loads(layout)
                dims, metric = there.get("dims"), there.get("metric", "")
            if dims is not None and metric != self.options.metric:
                raise InvalidInput(
                    f"metric must be {metric!r}, as the collection was made with, "
                    f"got {self.options.metric!r}"
                )
            if dims is None:
                return None  # another thread may know it by now: leave that
            self.dims = dims
        return self.dims

    def generation(self, engine: Engine) -> Flow[str | None]:
        """The generation that is read; None: there is none.

        Raises:
            SchemaError: it was made with other options.
        """
        if self._generation is None:
            [(found, layout)] = yield Redis((("HMGET", self.keys.meta, "g", "l"),))
            if found is not None:
                self._check_layout(engine, layout.decode())
                self._generation = found.decode()
        return self._generation

    def forget_generation(self) -> None:
        """Another one may be read now."""
        self._generation = None

    def _check_layout(self, engine: Engine, layout: str) -> None:
        there = json.loads(layout)
        if self.dims is None:
            self.dims = there["dims"]
        here = json.loads(engine.layout(self.dims))
        differ = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
        if not differ:
            return
        words = ", ".join(f"{n}={there.get(n)!r} (not {here.get(n)!r})" for n in differ)
        migrates = self.durable and not {"metric", "dims"} & set(differ)
        advice = (
            "rebuild() makes it anew with the options of this one"
            if migrates
            else "use the same options, or another collection"
        )
        raise SchemaError(f"the collection is in Redis with {words}: {advice}")

    def begun(self, engine: Engine, dims: int) -> Flow[str]:
        """A new generation, which nobody reads yet.

        Raises:
            InvalidInput: the server cannot do what the options ask for.
        """
        generation = secrets.token_hex(6)
        yield Redis((("SADD", self.keys.generations, generation),), write=True)
        yield from engine.create(generation, dims)
        return generation

    def prepare(self, engine: Engine, dims: int) -> Flow[None]:
        """Make what the first documents will need, so that they are not refused when they are
        written already."""
        if (yield from self.generation(engine)) is None and self._prepared.get(dims) is None:
            self._prepared[dims] = yield from self.begun(engine, dims)

    def dropped(self, engine: Engine, generation: str) -> Flow[None]:
        """Delete a generation, as far as Redis lets us."""
        try:
            yield from engine.drop(generation)
            yield Redis((("SREM", self.keys.generations, generation),))
        except TierError as error:
            self.note(error)  # its name is kept, so that a rebuild deletes it

    def reset_after_fork(self) -> None:
        """In a forked child: what the parent was in the middle of is not known."""
        self._generation = None
        self._prepared = {}
        self._engine = None
        if self._copies is not None:
            self._copies.reset_after_fork()

    # Changes.

    def item(self, engine: Engine, row: Row | Removal) -> Item:
        if isinstance(row, Removal):
            assert row.id is not None
            return Item("r", row.id, row.version, 0, ())
        return Item("u", row.id, row.version, row.expires or 0, engine.words(row))

    def publish(
        self, change: Change, items: Callable[[Engine], Sequence[Item]], *, whole: bool = False
    ) -> Flow[None]:
        """Bring a change that the durable tier has to Redis, or see that nobody believes Redis.

        Args:
            change: as the durable tier has it.
            items: gives all that it is made of, in order.
            whole: not without the changes before it: what it did depends on them.
        """
        try:
            engine = yield from self.engine()
            done = change.after == change.before or (
                yield from self.apply(engine, change.before, change.after, items(engine))
            )
            if done and whole:
                done = yield from self._reached(engine, change.after)
        except (TierError, SchemaError) as error:
            self.note(error)
            done = False
        if not done:
            self.stats["missed"] += 1
            self.on_absent()
            yield from self.truth.missed(change.missed, milliseconds())

    def _reached(self, engine: Engine, version: int) -> Flow[bool]:
        """Whether Redis has every change up to a version, after a moment for those on their way."""
        for pause in PAUSES:
            [water] = yield Redis((("HGET", self.keys.meta, "w"),))
            if water is None or int(water) >= version:
                return True  # what is not there nobody believes
            yield Sleep(pause)
        return (yield from self.catch_up(engine, int(water), version))

    def apply(self, engine: Engine, before: int, after: int, items: Sequence[Item]) -> Flow[bool]:
        """Bring changes, all that have versions in `(before, after]`, to Redis.

        Returns:
            False if Redis has nothing to bring them to.

        Raises:
            SchemaError: the collection is there with other options.
        """
        parts = list(_parts(items)) or [[]]
        for number, part in enumerate(parts):
            until = after if number == len(parts) - 1 else part[-1].version
            done = yield from self._apply(engine, "apply", before, until, part)
            if done is None:
                return False
            before = until
        return True

    def number(self, items: Iterable[tuple[str, bytes, int, tuple[Word, ...]]]) -> Flow[int]:
        """Changes where Redis is all there is and numbers them: kind, id, expires, words.

        Returns:
            How many documents were removed.
        """
        engine = yield from self.engine()
        removed = 0
        for part in _parts([Item(kind, id, 0, exp, words) for kind, id, exp, words in items]):
            numbered = [item._replace(version=i) for i, item in enumerate(part, 1)]
            removed += (yield from self._apply(engine, "number", 0, len(part), numbered)) or 0
        return removed

    def fill(self, engine: Engine, generation: str, items: Sequence[Item]) -> Flow[None]:
        """Bring documents to a generation that nobody reads yet."""
        for part in _parts(items):
            yield self._script(engine, "fill", generation, "", 0, 0, part)

    def _apply(
        self, engine: Engine, mode: str, before: int, after: int, items: Sequence[Item]
    ) -> Flow[int | None]:
        """How many documents were removed; None: there is no generation to bring changes to."""
        generation = yield from self.generation(engine)
        for _ in range(_TRIES):
            make = generation is None
            if generation is None:
                if before > 0 or not any(item.kind == "u" for item in items):
                    return None
                assert self.dims is not None
                generation = self._prepared.pop(self.dims, None)
                if generation is None:
                    generation = yield from self.begun(engine, self.dims)
            [(status, said, removed)] = yield self._script(
                engine, mode, generation, "1" if make else "", before, after, items
            )
            if status in (b"ok", b"done"):
                self._generation = generation
                return int(removed)
            self.forget_generation()
            if make:
                yield from self.dropped(engine, generation)
            if status == b"layout":
                self._check_layout(engine, said.decode())
            generation = yield from self.generation(engine)
        raise TierUnavailable("redis", "generation", "the collection is made anew all the time")

    def _script(
        self,
        engine: Engine,
        mode: str,
        generation: str,
        make: str,
        before: int,
        after: int,
        items: Sequence[Item],
    ) -> Redis:
        assert self.dims is not None
        keys = (self.keys.meta, *self.keys.log(generation), *engine.keys(generation))
        layout = engine.layout(self.dims)
        words: list[Word] = [mode, generation, layout, make, before, after, engine.name]
        for item in items:
            words += (item.kind, item.id, item.version, item.expires, len(item.words))
            words += item.words
        return Redis(
            (("EVAL", scripts.APPLY, len(keys), *keys, *words),),
            write=True,
            idempotent=mode != "number",
        )

    def clear(self, version: int | None) -> Flow[None]:
        """Begin an empty generation; `version` None: where Redis numbers changes.

        Raises:
            SchemaError, InvalidInput: as `engine`.
        """
        engine = yield from self.engine()
        assert self.dims is not None
        generation = yield from self.begun(engine, self.dims)
        words = (generation, engine.layout(self.dims), "" if version is None else version)
        clear = ("EVAL", scripts.CLEAR, 2, self.keys.meta, self.keys.generations, *words)
        [(before, now)] = yield Redis((clear,), write=True, idempotent=False)
        self.forget_generation()
        old = before.decode() if now else generation
        if old:
            yield from self.dropped(engine, old)

    def catch_up(self, engine: Engine, water: int, version: int) -> Flow[bool]:
        """Bring what Redis lacks of the durable tier's changes, up to at least a version.

        Returns:
            False if that takes a rebuild.
        """
        from redis_tiered.vectors import rows

        self.stats["caught up"] += 1
        while water < version:
            news: rows.News = yield Sql(rows.changes(self.keys.scope, water, _NEWS))
            if not news.complete:
                return False
            changes = list(news.changes)
            for number, change in enumerate(changes):
                if isinstance(change, Removal) and change.id is None:
                    yield from self.clear(change.version)
                    water = change.version
                    changes = changes[number + 1 :]  # there is but one
                    break
            items = [self.item(engine, change) for change in changes]
            if not (yield from self.apply(engine, water, news.upto, items)):
                return False
            water = news.upto
        yield from self.truth.recovered(water)
        return True

    def note(self, error: Exception) -> None:
        """Count and log a failure that the user does not see."""
        name = f"{error.tier}.{error.kind}" if isinstance(error, TierError) else "schema"
        self.stats[f"failed {name}"] += 1
        quiet = isinstance(error, TierUnavailable) or name in self._told
        self._told.add(name)
        logger.log(logging.DEBUG if quiet else logging.WARNING, "collection: %s", error)


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


def _parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    """As much at once as may hold up a server for a moment."""
    part: list[Item] = []
    size = 0
    for item in items:
        if part and (len(part) >= _SCRIPT or size + item.size() > _SCRIPT_BYTES):
            yield part
            part, size = [], 0
        part.append(item)
        size += item.size()
    if part:
        yield part
