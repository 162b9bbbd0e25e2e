"""What keeps a collection whole: it is rebuilt, compared, rid of what expired, and its uses counted."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from redis_tiered.errors import InvalidInput, TierError, TierUnavailable
from redis_tiered.flow import Flow, Redis, Sql
from redis_tiered.vectors import scripts
from redis_tiered.vectors.document import Removal, Row
from redis_tiered.vectors.engine import Engine
from redis_tiered.vectors.place import Place, milliseconds

if TYPE_CHECKING:
    from redis_tiered.vectors.rows import News

__all__ = ["Drift", "Progress", "Rebuilt", "Upkeep", "Usage"]

Progress = Callable[[int, int], None]

_PAGE: Final = 500
_LEASE_MS: Final = 30_000
_NAMED: Final = 100


class Rebuilt(NamedTuple):
    """What a rebuild did.

    Attributes:
        documents: how many were brought to Redis.
        resumed: how many of them an earlier rebuild, which was interrupted, had brought.
        seconds: how long this took.
    """

    documents: int
    resumed: int
    seconds: float


class Drift(NamedTuple):
    """In what Redis and the durable tier differ.

    Attributes:
        missing: documents that Redis lacks, or has not whole.
        outdated: documents of which Redis has another version.
        extra: documents that only Redis has.
        ids: of the first hundred of them.
        repaired: whether they differ no more.
    """

    missing: int
    outdated: int
    extra: int
    ids: tuple[str, ...]
    repaired: bool

    @property
    def clean(self) -> bool:
        return not (self.missing or self.outdated or self.extra)


class Usage(NamedTuple):
    """How often, and when last (seconds since 1970; None: never), a document was found."""

    uses: int
    last_used: float | None


class Upkeep:
    """The flows that look after one collection."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._keys = place.keys
        self._unreleased = ""  # the lease of a rebuild that was interrupted

    # Rebuilding.

    def rebuild(self, progress: Progress | None) -> Flow[Rebuilt]:
        """Bring everything to a new generation, then let readers go over to it.

        Raises:
            InvalidInput: there is no durable tier.
            TierUnavailable: another process rebuilds it at this moment.
        """
        if not self._place.durable:
            raise InvalidInput("rebuild() needs a durable tier, and this Tiers has none")
        token = secrets.token_hex(8)
        if self._unreleased:
            yield from self._released(self._unreleased)
        [taken] = yield Redis(
            (("SET", self._keys.lease, token, "NX", "PX", _LEASE_MS),), write=True
        )
        if taken is None:
            raise TierUnavailable("redis", "rebuild", "another process rebuilds this collection")
        try:
            rebuilt = yield from self._rebuild(progress, token)
        except GeneratorExit:
            self._unreleased = token
            raise  # the caller was cancelled, nothing can be asked any more: the lease runs out
        except BaseException:
            yield from self._released(token)
            raise
        yield from self._released(token)
        return rebuilt

    def _released(self, token: str) -> Flow[None]:
        self._unreleased = token
        try:
            yield Redis((("EVAL", scripts.RELEASE, 1, self._keys.lease, token),))
            self._unreleased = ""
        except TierError as error:
            self._place.note(error)

    def restore(self) -> Flow[None]:
        """Bring Redis up to the durable tier: what it lacks, or everything."""
        place = self._place
        head = yield from place.truth.ask(anew=True)
        if head is None or head.version == 0:
            return
        engine = yield from place.engine()
        if not place.lost and (yield from place.generation(engine)) is not None:
            [water] = yield Redis((("HGET", self._keys.meta, "w"),))
            if water is not None:
                if int(water) >= head.version:
                    return
                if head.version - int(water) < head.version // 2 and (
                    yield from place.catch_up(engine, int(water), head.version)
                ):
                    return
        yield from self.rebuild(None)
        place.lost = False

    def _rebuild(self, progress: Progress | None, token: str) -> Flow[Rebuilt]:
        from redis_tiered.vectors import rows

        place, started = self._place, time.monotonic()
        engine = yield from place.engine()
        head = yield from place.truth.ask(anew=True)
        if head is None:
            return Rebuilt(0, 0, 0.0)
        if head.metric != place.options.metric:
            raise InvalidInput(
                f"metric must be {head.metric!r}, as the collection was made with, "
                f"got {place.options.metric!r}"
            )
        place.dims = head.dims
        generation, since, after, resumed = yield from self._begun(engine, head.version)
        done = resumed
        total: int = yield Sql(rows.count(self._keys.scope, None, milliseconds()))
        while True:
            page: list[Row] = yield Sql(
                rows.page(self._keys.scope, after, _PAGE, now=milliseconds())
            )
            if not page:
                break
            yield from place.fill(engine, generation, [place.item(engine, row) for row in page])
            after, done = page[-1].version, done + len(page)
            yield from self._noted(generation, after, done, token)
            if progress is not None:
                progress(done, max(done, total))
            if len(page) < _PAGE:
                break  # what is written from now on is among the changes
        water = yield from self._removed_since(engine, generation, since, after)
        layout = engine.layout(head.dims)
        ids_key = self._keys.log(generation)[1]
        keys = (self._keys.meta, self._keys.build, self._keys.generations, ids_key)
        [(status, old)] = yield Redis(
            (("EVAL", scripts.SWITCH, len(keys), *keys, generation, layout, water),), write=True
        )
        if status != b"ok":
            raise TierUnavailable("redis", "rebuild", "the generation that was built is lost")
        place.forget_generation()
        place.stats["rebuilt"] += 1
        yield from self._swept(engine, generation, old.decode())
        if progress is not None and done == 0:
            progress(0, 0)
        return Rebuilt(done, resumed, time.monotonic() - started)

    def _begun(self, engine: Engine, version: int) -> Flow[tuple[str, int, int, int]]:
        """The generation to fill; since when changes are to be looked at again; the version of the
        last document that is there; how many are."""
        assert self._place.dims is not None
        layout = engine.layout(self._place.dims)
        [found] = yield Redis((("HMGET", self._keys.build, "g", "l", "s", "a", "n"),))
        if found[0] is not None and found[1] == layout.encode():
            return found[0].decode(), int(found[2]), int(found[3]), int(found[4])
        if found[0] is not None:
            yield from self._place.dropped(engine, found[0].decode())
        generation = yield from self._place.begun(engine, self._place.dims)
        fields = ("g", generation, "l", layout, "s", version, "a", 0, "n", 0)
        yield Redis((("DEL", self._keys.build), ("HSET", self._keys.build, *fields)), write=True)
        return generation, version, 0, 0

    def _noted(self, generation: str, after: int, done: int, token: str) -> Flow[None]:
        """How far it is; and the lease anew, unless somebody else has it."""
        replies = yield Redis(
            (
                ("HSET", self._keys.build, "a", after, "n", done),
                ("GET", self._keys.lease),
                ("HGET", self._keys.build, "g"),
                ("PEXPIRE", self._keys.lease, _LEASE_MS),
            ),
            write=True,
        )
        if replies[1] != token.encode() or replies[2] != generation.encode():
            raise TierUnavailable("redis", "rebuild", "another process rebuilds this collection")

    def _removed_since(self, engine: Engine, generation: str, since: int, after: int) -> Flow[int]:
        """Bring what changed while documents were copied; gives the version that it is now of."""
        from redis_tiered.vectors import rows

        place = self._place
        water = since
        while True:
            news: News = yield Sql(rows.changes(self._keys.scope, water, _PAGE))
            forget = Redis((("EVAL", scripts.FORGET_BUILD, 1, self._keys.build, generation),))
            if not news.complete:
                yield forget
                raise TierUnavailable("durable", "rebuild", "removals were forgotten meanwhile")
            items = []
            for change in news.changes:
                if isinstance(change, Removal) and change.id is None:
                    yield forget
                    raise TierUnavailable("durable", "rebuild", "everything was removed meanwhile")
                items.append(place.item(engine, change))
            yield from place.fill(engine, generation, items)
            water = news.upto
            if water >= news.version:
                return water

    def _swept(self, engine: Engine, kept: str, old: str) -> Flow[None]:
        """Delete the generation before, and any that was left lying about."""
        [names] = yield Redis((("SMEMBERS", self._keys.generations),))
        for name in {old, *(name.decode() for name in names)} - {kept, ""}:
            yield from self._place.dropped(engine, name)

    # Comparing.

    def verify(self, *, repair: bool) -> Flow[Drift]:
        """Compare every document in both tiers.

        Raises:
            InvalidInput: there is no durable tier.
        """
        if not self._place.durable:
            raise InvalidInput("verify() compares two tiers, and this Tiers has no durable one")
        from redis_tiered.vectors import rows

        place = self._place
        engine = yield from place.engine()
        head = yield from place.truth.ask(anew=True)
        place.forget_generation()  # it may be gone
        generation = yield from place.generation(engine)
        if head is None or head.version == 0:
            return Drift(0, 0, 0, (), repaired=False)
        place.dims = head.dims
        if generation is None:
            count: int = yield Sql(rows.count(self._keys.scope, None, milliseconds()))
            if repair and count:
                yield from self.rebuild(None)
            return Drift(count, 0, 0, (), repaired=repair)
        drift = _Drifting()
        yield from self._compare_down(engine, generation, head.version, drift, repair=repair)
        yield from self._compare_up(engine, generation, head.version, drift, repair=repair)
        if repair:
            counted = (self._keys.meta, self._keys.log(generation)[1])
            yield Redis((("EVAL", scripts.RECOUNT, 2, *counted, generation),), write=True)
            [water] = yield Redis((("HGET", self._keys.meta, "w"),))
            if water is not None and int(water) < head.version:
                yield from place.catch_up(engine, int(water), head.version)
        return drift.result(repaired=repair)

    def _compare_down(
        self, engine: Engine, generation: str, upto: int, drift: _Drifting, *, repair: bool
    ) -> Flow[None]:
        """What the durable tier has and Redis has not."""
        from redis_tiered.vectors import rows

        place, after = self._place, 0
        while True:
            page: list[Row] = yield Sql(
                rows.page(self._keys.scope, after, _PAGE, now=milliseconds())
            )
            page = [row for row in page if row.version <= upto]
            if not page:
                return
            after = page[-1].version
            held = yield from self._held(engine, generation, [row.id for row in page])
            wrong = {
                row.id: (row, version)
                for row, (version, whole) in zip(page, held, strict=True)
                if version != row.version or not whole
            }
            if not wrong:
                continue
            still = yield Sql(rows.found(self._keys.scope, list(wrong)))
            for id, (row, version) in list(wrong.items()):
                if still.get(id) != row.version:  # changed meanwhile
                    del wrong[id]
                else:
                    drift.add("missing" if version in (-1, row.version) else "outdated", id)
            if repair and wrong:
                yield from self._forgotten(
                    engine, generation, {id: version for id, (_, version) in wrong.items()}
                )
                items = [place.item(engine, row) for row, _ in wrong.values()]
                yield from place.fill(engine, generation, items)

    def _compare_up(
        self, engine: Engine, generation: str, upto: int, drift: _Drifting, *, repair: bool
    ) -> Flow[None]:
        """What Redis has and the durable tier has not."""
        from redis_tiered.vectors import rows

        ids_key = self._keys.log(generation)[1]
        after = "-inf"
        while True:
            span = ("ZRANGEBYSCORE", ids_key, after, "+inf", "WITHSCORES", "LIMIT", 0, _PAGE)
            [reply] = yield Redis((span,))
            held = {reply[i]: int(float(reply[i + 1])) for i in range(0, len(reply), 2)}
            if not held:
                return
            after = f"({max(held.values())}"
            known = yield Sql(rows.found(self._keys.scope, list(held)))
            extra = {
                id: version for id, version in held.items() if id not in known and version <= upto
            }
            for id in extra:
                drift.add("extra", id)
            if repair and extra:
                yield from self._forgotten(engine, generation, extra)

    def _held(
        self, engine: Engine, generation: str, ids: Sequence[bytes]
    ) -> Flow[list[tuple[int, bool]]]:
        """For each document its version, -1 if there is none, and whether it is whole."""
        keys = (self._keys.log(generation)[1], *engine.keys(generation))
        [reply] = yield Redis(
            (("EVAL", scripts.HELD, len(keys), *keys, engine.name, engine.parts, *ids),)
        )
        return [(int(float(reply[i])), bool(reply[i + 1])) for i in range(0, len(reply), 2)]

    def _forgotten(self, engine: Engine, generation: str, versions: dict[bytes, int]) -> Flow[None]:
        """Take documents out of Redis as if they had never been there."""
        keys = (*self._keys.log(generation), *engine.keys(generation))
        words = [word for id, version in versions.items() for word in (id, version)]
        yield Redis((("EVAL", scripts.FORGET, len(keys), *keys, engine.name, *words),), write=True)

    # Uses.

    def use(self, ids: Sequence[bytes]) -> Flow[None]:
        """Count documents as found now."""
        if not ids:
            return
        now = milliseconds()
        yield from self._counted(dict.fromkeys(ids, (1, now)))

    def flush_uses(self) -> Flow[int]:
        """Write what was counted to the durable tier; gives of how many documents."""
        if not self._place.durable:
            return 0
        from redis_tiered.vectors import rows

        [(counts, last)] = yield Redis(
            (("EVAL", scripts.TAKE_USES, 2, self._keys.uses, self._keys.used),),
            write=True,
            idempotent=False,
        )
        used = _pairs(last)
        batch = {id: (count, used.get(id, 0)) for id, count in _pairs(counts).items()}
        if batch:
            try:
                yield Sql(rows.add_uses(self._keys.scope, batch), write=True)
            except TierError:
                yield from self._counted(batch)
                raise
        return len(batch)

    def _counted(self, batch: Mapping[bytes, tuple[int, int]]) -> Flow[None]:
        """Count so many uses, and when the last of them was (milliseconds since 1970)."""
        counts = [("HINCRBY", self._keys.uses, id, more) for id, (more, _) in batch.items()]
        last = [word for id, (_, at) in batch.items() for word in (id, at)]
        try:
            yield Redis((*counts, ("HSET", self._keys.used, *last)), write=True, idempotent=False)
        except TierError as error:
            self._place.note(error)

    def uses(self, ids: Sequence[bytes]) -> Flow[dict[str, Usage]]:
        """How often documents were found."""
        found: dict[bytes, tuple[int, int | None]] = {}
        if not ids:
            return {}
        if self._place.durable:
            from redis_tiered.vectors import rows

            found = yield Sql(rows.uses(self._keys.scope, ids))
        try:
            counts, last = yield Redis(
                (("HMGET", self._keys.uses, *ids), ("HMGET", self._keys.used, *ids))
            )
        except TierError as error:
            if not self._place.durable:
                raise
            self._place.note(error)
            counts = last = [None] * len(ids)
        totals = {}
        for id, count, used in zip(ids, counts, last, strict=True):
            before, at = found.get(id, (0, None))
            latest = max(at or 0, int(used or 0)) or None
            totals[id.decode()] = Usage(
                before + int(count or 0), None if latest is None else latest / 1000
            )
        return totals


class _Drifting:
    """A `Drift` while it is found."""

    def __init__(self) -> None:
        self._counts = {"missing": 0, "outdated": 0, "extra": 0}
        self._ids: list[str] = []

    def add(self, what: str, id: bytes) -> None:
        self._counts[what] += 1
        if len(self._ids) < _NAMED:
            self._ids.append(id.decode())

    def result(self, *, repaired: bool) -> Drift:
        return Drift(**self._counts, ids=tuple(self._ids), repaired=repaired)


def _pairs(flat: Sequence[bytes]) -> dict[bytes, int]:
    return {flat[i]: int(flat[i + 1]) for i in range(0, len(flat), 2)}
