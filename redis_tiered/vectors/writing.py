"""How a collection is changed: the durable tier first, then Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.flow import Flow, Redis, Sql
from redis_tiered.vectors.document import Document, Draft, Row, drafted
from redis_tiered.vectors.engine import Engine, Query
from redis_tiered.vectors.place import Item, Place, milliseconds

if TYPE_CHECKING:
    from redis_tiered.vectors.rows import Change

__all__ = ["Writing"]

_TRANSACTION: Final = 1000  # documents
_PRUNED: Final = 50_000  # versions, after which the durable tier forgets old removals


class Writing:
    """The changes of one collection.

    Attributes:
        ids: the flow that finds ids in Redis.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._scope = place.keys.scope
        self.ids: Callable[[Query], Flow[list[bytes]]]

    def upsert(
        self, documents: Sequence[Document], dims: int | None, lives: int | None
    ) -> Flow[tuple[str, ...]]:
        """Store documents.

        Args:
            documents: what the user gave.
            dims: length of the vectors, if that was said.
            lives: milliseconds; None: for ever.
        """
        place = self._place
        metric, now = place.options.metric, milliseconds()
        known = yield from place.known_dims()
        if known is not None and dims is not None and known != dims:
            raise InvalidInput(f"dims must be {known}, as the collection was made with, got {dims}")
        expires = None if lives is None else now + lives
        ids, drafts = drafted(documents, known or dims, metric, now, expires)
        if not drafts:
            return ids
        length = len(drafts[0].vector) // 4
        engine = yield from self._allowed(length)
        # Before anything is written: the engine may refuse a document.
        made = {} if engine is None else {d.id: place.item(engine, _row(d)) for d in drafts}
        if not place.durable:
            place.dims = length
            yield from place.number(
                (item.kind, item.id, item.expires, item.words) for item in made.values()
            )
            return ids
        from redis_tiered.vectors import rows

        for start in range(0, len(drafts), _TRANSACTION):
            part = drafts[start : start + _TRANSACTION]
            change: Change = yield Sql(
                rows.upsert(self._scope, part, length, metric, now, indexed=not place.options.lean),
                write=True,
            )
            place.dims = length
            yield from self._published(change, made)
            if change.index_due:
                from redis_tiered.vectors import pgvector

                self._later(Sql(pgvector.index(self._scope)))
        return ids

    def _published(
        self, change: Change, made: Mapping[bytes, Item] = MappingProxyType({})
    ) -> Flow[None]:
        """Bring written documents to Redis.

        Args:
            change: what wrote them.
            made: what they are there, if that is known.
        """
        place = self._place
        yield from place.publish(
            change,
            lambda engine: [
                made[row.id]._replace(version=row.version) if made else place.item(engine, row)
                for row in change.rows
            ],
        )

    def amend(self, id: bytes, metadata: bytes) -> Flow[None]:
        """Give a document other metadata, if it is there; vector, text and expiry stay."""
        place = self._place
        if (yield from place.known_dims()) is None:
            return
        engine = yield from self._allowed()
        if place.durable:
            from redis_tiered.vectors import rows

            work = rows.amend(self._scope, id, metadata, milliseconds())
            yield from self._published((yield Sql(work, write=True)))
            return
        assert engine is not None
        answer = yield from engine.get([id], vectors=True)
        for row, _ in () if answer is None else answer.found:
            item = place.item(engine, row._replace(metadata=metadata))
            # One that was changed meanwhile was so after this.
            kind = f"{item.kind}{row.version}"
            yield from place.number([(kind, item.id, item.expires, item.words)])

    def _later(self, step: Sql) -> None:
        """Have the durable tier do what may take long and nobody waits for."""
        tiers = self._place.tiers

        def job() -> None:
            try:
                tiers.run(_once(step))
            except TierError as error:
                self._place.note(error)

        tiers.housekeeper.submit(job)

    def remove(self, query: Query) -> Flow[int]:
        """Remove what a query by neither vector nor words finds."""
        place = self._place
        if (yield from place.known_dims()) is None:
            return 0
        yield from self._allowed()
        if query.native is not None or not place.durable:
            found = yield from self.ids(query)
            if not place.durable:
                removed = yield from place.number(("r", id, 0, ()) for id in found)
                if found and place.options.track_access:
                    keys = (place.keys.uses, place.keys.used)
                    yield Redis(tuple([("HDEL", key, *found) for key in keys]), write=True)
                return removed
            query = Query(ids=tuple(found))
        if query.ids is not None and not query.ids:
            return 0
        from redis_tiered.vectors import rows

        total = 0
        while True:
            work = rows.remove(
                self._scope,
                milliseconds(),
                ids=query.ids,
                parents=query.parents,
                where=query.where,
                limit=_TRANSACTION,
            )
            removed = yield from self._removed((yield Sql(work, write=True)), whole=True)
            total += removed
            if removed < _TRANSACTION:
                return total

    def forget(self, ids: Sequence[bytes]) -> Flow[None]:
        """Remove documents by id, without asking first which are there."""
        if self._place.durable:
            yield from self.remove(Query(ids=tuple(ids)))
        elif ids and (yield from self._place.known_dims()) is not None:
            yield from self._place.number(("r", id, 0, ()) for id in ids)

    def remove_expired(self) -> Flow[int]:
        """Remove some of what nobody sees any more; gives how many."""
        place, now = self._place, milliseconds()
        if (yield from place.known_dims()) is None:
            return 0
        if place.durable:
            from redis_tiered.vectors import rows

            work = rows.remove(self._scope, now, expired_before=now, limit=_TRANSACTION)
            return (yield from self._removed((yield Sql(work, write=True))))
        generation = yield from place.generation((yield from place.engine()))
        if generation is None:
            return 0
        expiring = place.keys.log(generation)[3]
        span = ("ZRANGEBYSCORE", expiring, "-inf", now, "LIMIT", 0, _TRANSACTION)
        [found] = yield Redis((span,))
        # Unless it was written again since.
        return (yield from place.number(("r", id, now, ()) for id in found))

    def _removed(self, change: Change, *, whole: bool = False) -> Flow[int]:
        if whole or change.after > change.before:
            items = [
                Item("r", id, version, 0, ())
                for version, id in enumerate(change.removed, change.before + 1)
            ]
            yield from self._place.publish(change, lambda engine: items, whole=whole)
        if change.before // _PRUNED < change.after // _PRUNED:
            from redis_tiered.vectors import rows

            self._later(Sql(rows.prune(self._scope), write=True))
        return len(change.removed)

    def remove_all(self, *, counted: bool = True) -> Flow[int]:
        """Remove every document; gives how many there were, or 0 if that is not wanted."""
        place = self._place
        if (yield from place.known_dims()) is None:
            return 0
        yield from self._allowed()
        if not place.durable:
            total = len((yield from self.ids(Query(now=milliseconds())))) if counted else 0
            yield from place.clear(None)
            yield Redis((("DEL", place.keys.uses, place.keys.used),), write=True)
            return total
        from redis_tiered.vectors import rows

        change, total = yield Sql(rows.remove_all(self._scope, milliseconds()), write=True)
        if change.after == change.before:
            return (yield from self._removed(change, whole=True))
        try:
            yield from place.clear(change.after)
        except TierError as error:
            place.note(error)
            place.on_absent()
            yield from place.truth.missed(change.missed, milliseconds())
        return int(total)

    def _allowed(self, dims: int | None = None) -> Flow[Engine | None]:
        """Raise what Redis would say of this process's options, before anything is written.

        Args:
            dims: of documents that are to be written.

        Returns:
            The engine; None: Redis is away, and not all there is.
        """
        place = self._place
        try:
            engine = yield from place.engine()
            if (yield from place.generation(engine)) is None and dims is not None:
                yield from place.prepare(engine, dims)
        except TierError as error:
            if not place.durable:
                raise
            place.note(error)
            return None
        return engine


def _once(step: Sql) -> Flow[None]:
    yield step


def _row(draft: Draft) -> Row:
    return Row(
        0,
        draft.id,
        draft.vector,
        draft.metadata,
        draft.text,
        draft.payload,
        draft.parent,
        draft.expires,
    )
