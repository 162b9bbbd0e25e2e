"""A session's log in the durable tier, its newest messages in Redis as well: the window.

A window is of one version of the session, or it is not there. An append commits, then brings the
window from the version before to the one after it; or drops it. Who finds no window leaves a
ticket, reads the log, and fills the window in if the ticket is still there: every change takes
the ticket away. What Redis missed is made unreachable before the change is acknowledged.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence

from redis_tiered.errors import TierError, Unreadable
from redis_tiered.flow import Flow, Redis, Sql
from redis_tiered.keys import SessionKeys
from redis_tiered.sessions import queries, rows, scripts
from redis_tiered.sessions.log import Draft, Recent, content_of, fields_of, microseconds
from redis_tiered.sessions.message import Message
from redis_tiered.sessions.record import Record, State
from redis_tiered.sessions.trust import Grant, Trust
from redis_tiered.tiers.identity import new_token

__all__ = ["DurableLog"]

_ATTEMPTS = 5


class DurableLog:
    """See `redis_tiered.sessions.log.Log`.

    Args:
        keys: of the session.
        trust: whether Redis may be believed.
        ttl: milliseconds that a window lives after it was last used.
        window: messages that a window holds.
    """

    queued = False

    def __init__(self, keys: SessionKeys, trust: Trust, ttl: int, window: int) -> None:
        self._keys = keys
        self._trust = trust
        self._ttl = ttl
        self._window = window

    # Changes.

    def append(self, drafts: Sequence[Draft]) -> Flow[None]:
        now = microseconds()
        change: rows.Change = yield Sql(
            rows.append(self._keys, drafts, new_token(), now), write=True
        )
        yield from self._publish(change)

    def replace(self, drafts: Sequence[Draft]) -> Flow[None]:
        now = microseconds()
        change: rows.Change = yield Sql(
            rows.replace(self._keys, drafts, new_token(), now), write=True
        )
        yield from self._drop(change)

    def remove(
        self,
        *,
        id: str | None = None,
        index: int | None = None,
        oldest: int | None = None,
        among: Collection[str] | None = None,
        archived: bool | None = None,
        archive: bool = False,
    ) -> Flow[tuple[Record, ...]]:
        work = rows.remove(
            self._keys,
            new_token(),
            microseconds(),
            id=id,
            index=index,
            oldest=oldest,
            among=among,
            archived=archived,
            archive=archive,
        )
        change: rows.Change = yield Sql(work, write=True)
        yield from self._drop(change)
        return change.records

    def edit(self, id: str, draft: Draft) -> Flow[bool]:
        work = rows.edit(self._keys, id, draft, new_token(), microseconds())
        change: rows.Change = yield Sql(work, write=True)
        yield from self._drop(change)
        return bool(change.records)

    def touch(self, change: Callable[[State], State], *, make: bool) -> Flow[None]:
        work = rows.touch(self._keys, change, new_token(), microseconds(), make=make)
        done: rows.Change = yield Sql(work, write=True)
        yield from self._publish(done)

    def clear(self) -> Flow[None]:
        change: rows.Change = yield Sql(rows.clear(self._keys, new_token()), write=True)
        yield from self._drop(change)

    def close(self) -> Flow[None]:
        work = rows.touch(self._keys, State.closed, new_token(), microseconds(), make=False)
        change: rows.Change = yield Sql(work, write=True)
        yield from self._drop(change)

    def summarize(self, summary: bytes, since: int, until: int) -> Flow[State | None]:
        work = rows.summarize(self._keys, summary, since, until, new_token())
        change: rows.Change = yield Sql(work, write=True)
        yield from self._publish(change)
        return change.state

    def count_again(self, counter: str, tokens: Callable[[Message], int]) -> Flow[None]:
        after = -1
        while True:
            work = rows.count_again(self._keys, counter, tokens, after, new_token())
            change, after = yield Sql(work, write=True)
            yield from self._drop(change)
            if after < 0:
                return

    def _publish(self, change: rows.Change) -> Flow[None]:
        """Bring the window to the version of a change."""
        if change.state is None or change.before is None:
            # A window that is there is of a session that was cleared; by another host's clock its
            # version may be the later one.
            yield from self._drop(change)
            return
        shown = [record for record in change.records if not record.archived]
        lead = None
        if shown and change.state.messages == len(shown) and _is_system(shown[0]):
            lead = shown[0]
        shown = shown[-self._window :]
        fields = fields_of(change.state, lead)
        words = (
            change.before,
            change.state.version,
            self._ttl,
            self._window,
            len(fields),
            *fields,
            *[record.item() for record in shown],
        )
        yield from self._trust.tell(
            change.epoch,
            lambda epoch: (("EVAL", scripts.APPLY, 2, *self._window_of(epoch), *words),),
        )

    def _drop(self, change: rows.Change) -> Flow[None]:
        """Drop the window, and the ticket of whoever is about to fill it."""
        # Also where there was no session: whoever cleared it may have died before it came so far,
        # or be ourselves, sent again by the driver after it had committed.
        yield from self._trust.tell(change.epoch, lambda epoch: (("DEL", *self._window_of(epoch)),))

    def _window_of(self, epoch: str) -> tuple[bytes, bytes]:
        meta, window, _ = self._keys.window(epoch, queued=self.queued)
        return meta, window

    # Reading.

    def recent(self, count: int | None) -> Flow[Recent | None]:
        for _ in range(_ATTEMPTS):
            ticket = secrets.token_hex(8)
            try:
                grant = yield from self._trust.grant()
                meta, window, _ = self._keys.window(grant.epoch, queued=self.queued)
                asked = -1 if count is None else count
                [reply] = yield Redis(
                    (("EVAL", scripts.READ, 2, meta, window, asked, self._ttl, ticket),)
                )
            except TierError:
                return (yield from self._load(count))
            if not self._trust.holds(grant):
                continue
            if reply is None:
                return (yield from self._fill(grant, ticket, count))
            try:
                return Recent(*content_of(reply), "redis")
            except Unreadable:
                yield from self._forget_window(grant)
        return (yield from self._load(count))

    def page(
        self,
        offset: int,
        limit: int | None,
        *,
        newest: bool,
        archived: bool | None,
        before: int | None = None,
    ) -> Flow[tuple[Record, ...]]:
        work = queries.page(
            self._keys, offset, limit, newest=newest, archived=archived, before=before
        )
        return (yield Sql(work))  # type: ignore[no-any-return]

    def search(self, text: str, offset: int, limit: int) -> Flow[tuple[Record, ...]]:
        return (yield Sql(queries.search(self._keys, text, offset, limit)))  # type: ignore[no-any-return]

    def _fill(self, grant: Grant, ticket: str, count: int | None) -> Flow[Recent | None]:
        found = yield from self._snapshot(max(count or 0, self._window))
        if found is None:
            return None
        fields = fields_of(found.state, found.lead)
        items = [record.item() for record in found.newest[-self._window :]]
        meta, window, _ = self._keys.window(grant.epoch, queued=self.queued)
        words = (ticket, self._ttl, len(fields), *fields, *items)
        try:
            yield Redis((("EVAL", scripts.FILL, 2, meta, window, *words),), write=True)
        except TierError:
            pass  # the next reader tries again
        return Recent(*found, "durable")

    def _load(self, count: int | None) -> Flow[Recent | None]:
        found = yield from self._snapshot(self._window if count is None else count)
        return None if found is None else Recent(*found, "durable")

    def _snapshot(self, limit: int) -> Flow[queries.Snapshot | None]:
        try:
            found: queries.Snapshot | None = yield Sql(queries.load(self._keys, limit))
        except TierError as error:
            if error.kind != "serialization":
                raise
            found = yield Sql(queries.load(self._keys, limit, lock=True), write=True)
        return found

    def _forget_window(self, grant: Grant) -> Flow[None]:
        meta, window, _ = self._keys.window(grant.epoch, queued=self.queued)
        try:
            yield Redis((("DEL", meta, window),))
        except TierError:
            return  # found unreadable by the next reader as well


def _is_system(record: Record) -> bool:
    return record.stored().message.role == "system"
