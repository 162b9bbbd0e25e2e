"""How a collection is read: from Redis if that is known to be complete, else from the durable tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import numpy as np

from redis_tiered.errors import InvalidInput, TierError, TierUnavailable, Unreadable
from redis_tiered.flow import Command, Flow, Redis, Sleep, Sql
from redis_tiered.vectors.document import Document, Hit, Row, loaded_metadata, score_of
from redis_tiered.vectors.engine import (
    Answer,
    Engine,
    Found,
    Near,
    Nearby,
    Query,
    content,
    loaded_content,
)
from redis_tiered.vectors.place import PAUSES, Place, milliseconds

if TYPE_CHECKING:
    from redis_tiered.vectors.truth import Known

__all__ = ["Reading"]

_CATCH_UP: Final = 2000  # changes that a reader brings to Redis itself
_CONTENT_MS: Final = 3_600_000
_NAN: Final = float("nan")
_RANK: Final = 60  # of reciprocal rank fusion, as its authors chose it


class _Listed(NamedTuple):
    """What Redis knows of all documents; `size`: how many have not expired."""

    generation: str
    water: int
    size: int
    oldest: list[bytes]


A = TypeVar("A", Answer, Nearby, _Listed)


class Reading:
    """The queries of one collection."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._options = place.options
        self._scope = place.keys.scope

    # Queries.

    def search(self, query: Query) -> Flow[list[Hit]]:
        """By vector, nearest first."""
        return (yield from self._near((yield from self._found(query))))

    def near(self, query: Query) -> Flow[list[Near]]:
        """By vector, of documents that are lean."""
        place = self._place
        nearby = yield from self._from_redis(lambda engine: engine.near(query))
        if nearby is not None:
            place.stats["from redis"] += 1
            return nearby.found
        if not place.durable:
            return []
        near = []
        for row, distance in (yield from self._from_durable(query)):
            try:
                metadata = loaded_metadata(row.metadata)
                near.append(Near(row.id.decode(), 1.0 - distance, row.text.decode(), metadata))
            except (Unreadable, UnicodeDecodeError):
                place.stats["unreadable"] += 1
        return near

    def mmr(self, query: Query, k: int, lambda_mult: float) -> Flow[list[Hit]]:
        """Of what a query by vector finds, `k` that are near and differ."""
        from redis_tiered.vectors.mmr import mmr

        found = yield from self._found(replace(query, vectors=True))
        if not found:
            return []
        matrix = np.stack([np.frombuffer(item.row.vector, "<f4") for item in found])
        assert query.vector is not None
        chosen = mmr(query.vector, matrix, k, lambda_mult)
        best = [found[number] for number in chosen]
        if not query.vectors:
            best = [Found(row._replace(vector=b""), distance) for row, distance in best]
        return (yield from self._near(best))

    def text(self, query: Query) -> Flow[list[Hit]]:
        """By words, best first."""
        found = yield from self._found_by_text(query)
        return (yield from self._hits([(row, score, _NAN) for row, score in found]))

    def hybrid(self, query: Query, k: int, alpha: float) -> Flow[list[Hit]]:
        """By vector and by words, their ranks fused."""
        near = yield from self._found(replace(query, words=None))
        told = yield from self._found_by_text(replace(query, vector=None))
        scores: dict[bytes, float] = {}
        for weight, ordered in ((alpha, near), (1.0 - alpha, told)):
            for rank, item in enumerate(ordered, 1):
                scores[item.row.id] = scores.get(item.row.id, 0.0) + weight / (_RANK + rank)
        rows = {item.row.id: item.row for item in (*told, *near)}
        distances = {item.row.id: item.value for item in near}
        best = sorted((id for id in scores if scores[id] > 0), key=lambda id: (-scores[id], id))[:k]
        ranked = [(rows[id], scores[id], distances.get(id, _NAN)) for id in best]
        return (yield from self._hits(ranked))

    def get(self, ids: Sequence[bytes], *, vectors: bool) -> Flow[list[Document]]:
        """Documents by id, in this order."""
        from redis_tiered.vectors import rows

        now = milliseconds()
        answer = yield from self._from_redis(lambda engine: engine.get(ids, vectors=vectors))
        if answer is not None:
            found = yield from self._completed(answer.found)
        elif self._place.durable:
            held = yield Sql(rows.get(self._scope, ids, now, vectors=vectors))
            found = [Found(row, _NAN) for row in held]
        else:
            found = []
        by_id = {item.row.id: item.row for item in found if not _expired(item.row, now)}
        wanted = [by_id[id] for id in dict.fromkeys(ids) if id in by_id]
        shown = [row if vectors else row._replace(vector=b"") for row in wanted]
        return [item for item in (yield from self._documents(shown)) if item is not None]

    def find(self, query: Query) -> Flow[list[Document]]:
        """By neither vector nor words, oldest first."""
        if self._place.durable and query.native is None:
            from redis_tiered.vectors import rows

            found = yield Sql(
                rows.find(
                    self._scope,
                    query.where,
                    query.ids,
                    query.parents,
                    query.offset,
                    query.k,
                    query.now,
                    vectors=query.vectors,
                )
            )
        else:
            found = [item.row for item in (yield from self._found(query))]
        shown = [row if query.vectors else row._replace(vector=b"") for row in found]
        return [item for item in (yield from self._documents(shown)) if item is not None]

    def ids(self, query: Query) -> Flow[list[bytes]]:
        """Ids of what a query by neither vector nor words finds in Redis."""
        return [item.row.id for item in (yield from self._found(query))]

    def size(self) -> Flow[int]:
        """How many documents there are, without a look at each where Redis has them."""
        listed = yield from self._from_redis(lambda engine: self._listed(engine, 0))
        if listed is not None:
            return listed.size
        return (yield from self.count(Query(now=milliseconds()))) if self._place.durable else 0

    def oldest(self, n: int) -> Flow[list[bytes]]:
        """Ids of those that were written before the others, also of such as expired just now."""
        listed = yield from self._from_redis(lambda engine: self._listed(engine, n))
        if listed is not None:
            return listed.oldest
        if not self._place.durable:
            return []
        from redis_tiered.vectors import rows

        return [row.id for row in (yield Sql(rows.find(self._scope, limit=n, vectors=False)))]

    def _listed(self, engine: Engine, n: int) -> Flow[_Listed | None]:
        keys = self._place.keys
        generation = yield from self._place.generation(engine)
        if generation is None:
            return None
        _, by_version, _, expiring = keys.log(generation)
        commands: list[Command] = [
            ("HMGET", keys.meta, "g", "w", "n"),
            ("ZCOUNT", expiring, "-inf", milliseconds()),
        ]
        if n > 0:
            commands.append(("ZRANGE", by_version, 0, n - 1))
        (read, water, count), expired, *oldest = yield Redis(tuple(commands))
        if read is None:
            return None
        size = max(0, int(count or 0) - expired)
        return _Listed(read.decode(), int(water), size, oldest[0] if oldest else [])

    def count(self, query: Query) -> Flow[int]:
        if self._place.durable and query.native is None:
            from redis_tiered.vectors import rows

            counted: int = yield Sql(
                rows.count(self._scope, query.where, query.now, query.ids, query.parents)
            )
            return counted
        if query.native is not None:
            return len((yield from self._found(query)))
        engine = yield from self._place.engine()
        if (yield from self._place.generation(engine)) is None:
            return 0
        return (yield from engine.count(query)) or 0

    def complete(self) -> Flow[bool]:
        """Whether Redis has every document."""
        place = self._place
        try:
            head = yield from place.truth.ask(anew=True) if place.durable else _nothing()
            if place.durable and head is None:
                return True
            engine = yield from place.engine()
            yield from place.generation(engine)
            [water] = yield Redis((("HGET", place.keys.meta, "w"),))
        except TierError as error:
            place.note(error)
            return False
        return head is None or (water is not None and int(water) >= head.version)

    # What they give.

    def _near(self, found: Sequence[Found]) -> Flow[list[Hit]]:
        metric = self._options.metric
        return (yield from self._hits([(row, score_of(metric, near), near) for row, near in found]))

    def _hits(self, found: Sequence[tuple[Row, float, float]]) -> Flow[list[Hit]]:
        """Of rows with their scores and distances."""
        documents = yield from self._documents([row for row, _, _ in found])
        return [
            Hit(document, score, distance)
            for document, (_, score, distance) in zip(documents, found, strict=True)
            if document is not None
        ]

    def _documents(self, found: Sequence[Row]) -> Flow[list[Document | None]]:
        """Decoded; one that cannot be is asked for where it is kept for good."""
        documents: list[Document | None] = []
        for row in found:
            try:
                documents.append(_document(row))
            except (Unreadable, UnicodeDecodeError):
                self._place.stats["unreadable"] += 1
                documents.append((yield from self._kept(row)))
        return documents

    def _kept(self, spoilt: Row) -> Flow[Document | None]:
        if not self._place.durable:
            return None
        from redis_tiered.vectors import rows

        for row in (yield Sql(rows.get(self._scope, [spoilt.id], milliseconds()))):
            try:
                return _document(row if spoilt.vector else row._replace(vector=b""))
            except (Unreadable, UnicodeDecodeError):
                break
        return None

    # Where they are served.

    def _found(self, query: Query) -> Flow[Sequence[Found]]:
        place = self._place
        if query.k == 0:
            return []
        answer = yield from self._from_redis(lambda engine: engine.search(query))
        if answer is not None:
            place.stats["from redis"] += 1
            return (yield from self._completed(answer.found))
        if not place.durable:
            return []
        if query.native is not None:
            if (yield from self._known(None)).head is None:
                return []
            raise TierUnavailable(
                "redis",
                "incomplete",
                "only Redis understands a filter expression of redisvl, and it has not all documents "
                "now; a redis_tiered.Filter works then, too",
            )
        return (yield from self._from_durable(query))

    def _from_durable(self, query: Query) -> Flow[Sequence[Found]]:
        """By vector."""
        from redis_tiered.vectors import nearest, rows

        place = self._place
        head = yield from place.truth.ask(anew=True)
        if head is None:
            place.stats["from the durable tier"] += 1
            return []
        remembered = yield from self._remembered(query, head.version)
        if remembered is not None:
            ids = [id for id, _, _ in remembered]
            held: dict[bytes, Row] = {
                row.id: row
                for row in (yield Sql(rows.get(self._scope, ids, query.now, vectors=query.vectors)))
            }
            if all(id in held and held[id].version == version for id, version, _ in remembered):
                place.stats["from memory"] += 1
                return [Found(held[id], distance) for id, _, distance in remembered]
        place.stats["from the durable tier"] += 1
        assert query.vector is not None  # `find` asks the durable tier first
        near = yield Sql(
            nearest.search(
                self._scope,
                head,
                query.vector,
                None if query.k is None else query.offset + query.k,
                query.where,
                query.ids,
                query.parents,
                query.now,
                query.max_distance,
                vectors=query.vectors,
            )
        )
        return [Found(row, distance) for distance, row in near[query.offset :]]

    def _remembered(
        self, query: Query, version: int
    ) -> Flow[list[tuple[bytes, int, float]] | None]:
        """From this process's own index, if that is complete: Redis is not needed for it."""
        from redis_tiered.vectors.local_engine import LocalEngine

        engine = self._place.chosen
        if not isinstance(engine, LocalEngine):
            return None
        return (yield from engine.remembered(version, query))

    def _found_by_text(self, query: Query) -> Flow[Sequence[Found]]:
        place = self._place
        if query.k == 0 or not query.words:
            return []
        engine = yield from self._engine_or_none()
        if engine is not None and engine.name == "redisvl" and self._options.payload == "redis":
            answer = yield from self._from_redis(lambda engine: engine.search(query))
            if answer is not None:
                place.stats["text from redis"] += 1
                return answer.found
        elif not place.durable:
            raise InvalidInput(
                "full text needs a durable tier or a server with the search module, and there is "
                "neither"
            )
        if not place.durable:
            return []
        if query.native is not None:
            raise InvalidInput(
                "filter is a redisvl expression, which the durable tier does not understand; "
                "pass a redis_tiered.Filter"
            )
        from redis_tiered.vectors import fulltext

        place.stats["text from the durable tier"] += 1
        found = yield Sql(
            fulltext.search(
                self._scope,
                query.words,
                query.k,
                query.where,
                query.ids,
                query.parents,
                query.now,
                vectors=query.vectors,
            )
        )
        return [Found(row, score) for score, row in found]

    def _engine_or_none(self) -> Flow[Engine | None]:
        try:
            return (yield from self._place.engine())
        except TierError as error:
            if not self._place.durable:
                raise
            self._place.note(error)
            return None

    def _from_redis(self, ask: Callable[[Engine], Flow[A | None]]) -> Flow[A | None]:
        """What Redis says, if it has every change that the durable tier has; else None.

        Raises:
            TierError: Redis failed, and is all there is.
            SchemaError: the collection is there with other options.
        """
        place = self._place
        known: Known | None = None
        for pause in (*PAUSES, None):
            try:
                engine = yield from place.engine()
                generation = yield from place.generation(engine)
                if known is None:
                    known = yield from self._known(generation)
                answer = None if generation is None else (yield from ask(engine))
            except TierError as error:
                if not place.durable or error.tier == "durable":
                    raise
                place.note(error)
                if error.kind == "lost":
                    place.lost = True
                    place.on_absent()
                return None
            if answer is None:
                place.forget_generation()
                if generation is not None:
                    continue  # it is of other options, or gone
                if place.durable and known.head is not None and known.head.version > 0:
                    place.on_absent()
                return None
            if answer.generation != generation:
                place.forget_generation()
                continue  # its layout is not known yet
            if place.durable and not place.truth.holds(known, generation):
                known = yield from self._known(generation, anew=True)
            head = known.head
            if head is None or answer.water >= head.version:
                yield from place.truth.recovered(answer.water)
                return answer
            if head.missed is not None:
                break  # it is not on its way
            if pause is not None:
                yield Sleep(pause)
        return (yield from self._after_catching_up(ask, engine, answer, known))

    def _after_catching_up(
        self,
        ask: Callable[[Engine], Flow[A | None]],
        engine: Engine,
        answer: A | None,
        known: Known | None,
    ) -> Flow[A | None]:
        place = self._place
        if answer is None or known is None or (head := known.head) is None:
            return None
        if head.version - answer.water > _CATCH_UP:
            place.on_absent()
            return None
        try:
            if not (yield from place.catch_up(engine, answer.water, head.version)):
                place.on_absent()
                return None
            again = yield from ask(engine)
        except TierError as error:
            place.note(error)
            return None
        if again is None:
            return None
        if not place.truth.holds(known, again.generation):
            head = (yield from self._known(again.generation, anew=True)).head
        return again if head is None or again.water >= head.version else None

    def _known(self, generation: str | None, *, anew: bool = False) -> Flow[Known]:
        """What the durable tier says; if there is none to ask, Redis is believed."""
        truth = self._place.truth
        if self._place.durable:
            try:
                yield from truth.ask(anew=anew, generation=generation)
            except TierError as error:
                self._place.note(error)
        return truth.known

    # Contents that are kept elsewhere.

    def _completed(self, found: Sequence[Found]) -> Flow[Sequence[Found]]:
        """With texts and payloads, where the engine does not have them."""
        if self._options.payload == "redis":
            return found
        place = self._place
        memory, keys = place.tiers.memory, place.keys
        contents: dict[int, bytes] = {}
        for item in found:
            held = memory.get(keys.content("durable", item.row.version))
            if held is not None:
                contents[item.row.version] = held
        missing = [item.row.version for item in found if item.row.version not in contents]
        if missing:
            contents |= yield from self._contents(missing)
        completed = []
        for row, value in found:
            if row.version in contents:
                text, payload = loaded_content(contents[row.version])
                completed.append(Found(row._replace(text=text, payload=payload), value))
        return completed  # what was removed meanwhile is left out

    def _contents(self, versions: list[int]) -> Flow[dict[int, bytes]]:
        """Of documents, from Redis or the durable tier; kept in the tiers above."""
        from redis_tiered.vectors import rows

        place = self._place
        keys = {version: place.keys.content("durable", version) for version in versions}
        ticket = place.tiers.memory.ticket()
        found: dict[int, bytes] = {}
        try:
            [replies] = yield Redis((("MGET", *keys.values()),))
            found = {v: data for v, data in zip(keys, replies, strict=True) if data is not None}
        except TierError as error:
            place.note(error)
        missing = [version for version in versions if version not in found]
        if missing:
            held: list[Row] = yield Sql(rows.contents(self._scope, missing))
            fresh = {row.version: content(row) for row in held}
            found |= fresh
            commands = tuple(
                ("SET", keys[version], data, "PX", _CONTENT_MS) for version, data in fresh.items()
            )
            try:
                if commands:
                    yield Redis(commands, write=True)
            except TierError as error:
                place.note(error)
        for version, data in found.items():
            place.tiers.memory.put(keys[version], data, ticket)
        return found


def _nothing() -> Flow[None]:
    yield from ()


def _expired(row: Row, now: int) -> bool:
    return row.expires is not None and row.expires <= now


def _document(row: Row) -> Document:
    return Document(
        row.id.decode(),
        np.frombuffer(row.vector, "<f4").astype(np.float32) if row.vector else None,
        row.text.decode(),
        loaded_metadata(row.metadata),
        row.payload,
        row.parent.decode(),
    )
