"""A session's log in Redis alone: the window is the log, and both end with their TTL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

from redis_tiered.errors import TierReplyError, TierUnavailable, Unreadable
from redis_tiered.flow import Flow, Redis
from redis_tiered.keys import SessionKeys
from redis_tiered.sessions import scripts
from redis_tiered.sessions.log import Draft, Recent, content_of, fields_of, microseconds
from redis_tiered.sessions.message import Message, unpack
from redis_tiered.sessions.record import Record, State
from redis_tiered.sessions.trust import WITHOUT_DURABLE

__all__ = ["RedisLog", "words_of"]

T = TypeVar("T")
_ATTEMPTS = 20


class _Content(NamedTuple):
    """A whole session."""

    state: State
    records: tuple[Record, ...]


class RedisLog:
    """See `redis_tiered.sessions.log.Log`.

    An append is one step of Redis. Any other change rewrites the session, if nobody else changed
    it meanwhile, else it is tried again.

    Args:
        keys: of the session.
        ttl: milliseconds that the session lives after it was last used.
    """

    def __init__(self, keys: SessionKeys, ttl: int) -> None:
        self._session = keys
        self._ttl = ttl
        self._keys = keys.window(WITHOUT_DURABLE, queued=False)

    # Changes.

    def append(self, drafts: Sequence[Draft]) -> Flow[None]:
        words = [word for draft in drafts for word in words_of(draft)]
        version = microseconds()
        # No message is from before its session.
        now = drafts[0].created if drafts else version // 1000
        counter = drafts[0].counter if drafts else ""
        push = ("EVAL", scripts.PUSH, 3, *self._keys, self._ttl, now, counter, version, *words)
        # Sent again after a lost connection it changes nothing: every message has an id.
        yield Redis((push, self._note(now)), write=True)

    def replace(self, drafts: Sequence[Draft]) -> Flow[None]:
        def change(at: _Content) -> tuple[_Content, None]:
            first = at.state.next
            state = at.state._replace(
                status="active",
                next=first + len(drafts),
                counter=drafts[0].counter if drafts else "",
                summary=None,
                summarized=0,
            )
            records = [draft.record(first + i) for i, draft in enumerate(drafts)]
            return _Content(state, tuple(records)), None

        yield from self._rewrite(change, make=True)

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
        def change(at: _Content) -> tuple[_Content, tuple[Record, ...]]:
            chosen: list[Record] = []
            if id is not None:
                chosen = [record for record in at.records if unpack(record.value).id == id]
            elif index is not None:
                active = [record for record in at.records if not record.archived]
                if -len(active) <= index < len(active):
                    chosen = [active[index]]
            elif oldest is not None:
                chosen = [record for record in at.records if not record.archived][:oldest]
                if among is not None:
                    chosen = list(takewhile(lambda record: id_of(record) in among, chosen))
            else:
                chosen = [record for record in at.records if archived in (None, record.archived)]
            gone = {id_of(record) for record in chosen}
            kept = [
                record._replace(archived=True) if id_of(record) in gone else record
                for record in at.records
                if archive or id_of(record) not in gone
            ]
            state = at.state
            if chosen and not (archive or any(not record.archived for record in kept)):
                state = state._replace(summary=None, summarized=0)
            return _Content(state, tuple(kept)), tuple(chosen)

        found = yield from self._rewrite(change)
        return found or ()

    def edit(self, id: str, draft: Draft) -> Flow[bool]:
        def change(at: _Content) -> tuple[_Content, bool]:
            records = list(at.records)
            for i, old in enumerate(records):
                if id_of(old) == id:
                    new = draft.record(old.sequence)
                    records[i] = new._replace(created=old.created, archived=old.archived)
                    return at._replace(records=tuple(records)), True
            return at, False

        return bool((yield from self._rewrite(change)))

    def touch(self, change: Callable[[State], State], *, make: bool) -> Flow[None]:
        yield from self._rewrite(lambda at: (at._replace(state=change(at.state)), None), make=make)

    def clear(self) -> Flow[None]:
        yield Redis(
            (("DEL", *self._keys), ("ZREM", self._session.index, self._session.session)),
            write=True,
        )

    def close(self) -> Flow[None]:
        # There is nothing but the window: it goes on living as long as it would have.
        yield from self.touch(State.closed, make=False)

    def summarize(self, summary: bytes, since: int, until: int) -> Flow[State | None]:
        def change(at: _Content) -> tuple[_Content, None]:
            if at.state.summarized != since or until <= since:
                return at, None
            return at._replace(state=at.state._replace(summary=summary, summarized=until)), None

        yield from self._rewrite(change, active=False)
        recent = yield from self.recent(0)
        return None if recent is None else recent.state

    def count_again(self, counter: str, tokens: Callable[[Message], int]) -> Flow[None]:
        def change(at: _Content) -> tuple[_Content, None]:
            records = [
                record
                if record.counter == counter
                else record._replace(tokens=tokens(unpack(record.value)), counter=counter)
                for record in at.records
            ]
            return _Content(at.state._replace(counter=counter), tuple(records)), None

        yield from self._rewrite(change, active=False)

    # Reading.

    def recent(self, count: int | None) -> Flow[Recent | None]:
        content = yield from self._read(-1 if count is None else count)
        if content is not None and content[0].archived and count:
            content = yield from self._read(-1)  # some of the newest may be archived
        if content is None:
            return None
        state, records, lead = content
        return Recent(state, [each for each in records if not each.archived], lead, "redis")

    def page(
        self,
        offset: int,
        limit: int | None,
        *,
        newest: bool,
        archived: bool | None,
        before: int | None = None,
    ) -> Flow[tuple[Record, ...]]:
        content = yield from self._read(-1)
        records = [] if content is None else content[1]
        found = [record for record in records if archived in (None, record.archived)]
        if before is not None:
            found = [record for record in found if record.sequence < before]
        if newest:
            found.reverse()
        return tuple(found[offset : None if limit is None else offset + limit])

    def search(self, text: str, offset: int, limit: int) -> Flow[tuple[Record, ...]]:
        content = yield from self._read(-1)
        records = [] if content is None else content[1]
        wanted = text.casefold()
        try:
            found = [record for record in records if wanted in unpack(record.value).text.casefold()]
        except Unreadable as error:
            raise TierReplyError("redis", "unreadable", error.reason) from None
        return tuple(found[::-1][offset : offset + limit])

    def _read(self, count: int) -> Flow[tuple[State, list[Record], Record | None] | None]:
        """Archived messages as well."""
        meta, window, ids = self._keys
        [reply, _] = yield Redis(
            (
                ("EVAL", scripts.READ, 2, meta, window, count, self._ttl, ""),
                ("PEXPIRE", ids, self._ttl),
            )
        )
        try:
            return None if reply is None else content_of(reply)
        except Unreadable as error:
            raise TierReplyError("redis", "unreadable", error.reason) from None

    def _rewrite(
        self,
        change: Callable[[_Content], tuple[_Content, T]],
        *,
        make: bool = False,
        active: bool = True,
    ) -> Flow[T | None]:
        """Put something else in the place of a session; nothing, if there is none to change."""
        try:
            return (yield from self._rewritten(change, make, active))
        except Unreadable as error:
            raise TierReplyError("redis", "unreadable", error.reason) from None

    def _rewritten(
        self, change: Callable[[_Content], tuple[_Content, T]], make: bool, active: bool
    ) -> Flow[T | None]:
        for _ in range(_ATTEMPTS):
            now = microseconds()
            content = yield from self._read(-1)
            if content is None and not make:
                return None
            if content is None:
                before, version = "", now
                state = State(
                    0, 0, "active", None, b"", 0, 0, 0, 0, "", now // 1000, now // 1000, None, 0
                )
                at = _Content(state, ())
            else:
                before = str(version := content[0].version)
                at = _Content(content[0], tuple(content[1]))
            after, result = change(at)
            if after == at and content is not None:
                return result
            counted = after.state._replace(
                version=version + 1,
                messages=0,
                archived=0,
                turns=0,
                tokens=0,
                last_activity=now // 1000 if active else after.state.last_activity,
            )
            shown: list[tuple[Record, Message]] = []
            names = []
            for record in after.records:
                message = unpack(record.value)
                names.append(message.id)
                counted = counted.counted(message.role, record.tokens, archived=record.archived)
                if not record.archived:
                    shown.append((record, message))
            lead = shown[0][0] if shown and shown[0][1].role == "system" else None
            fields = fields_of(counted, lead)
            if lead is None:
                fields += ("s", b"")
            items = [record.item() for record in after.records]
            words = (before, self._ttl, len(fields), *fields, len(items), *items, *names)
            [done, _] = yield Redis(
                (
                    ("EVAL", scripts.REWRITE, 3, *self._keys, *words),
                    self._note(counted.last_activity),
                ),
                write=True,
                idempotent=False,
            )
            if done == 1:
                return result
        raise TierUnavailable("redis", "contended", "the session keeps changing")

    def _note(self, now: int) -> tuple[Any, ...]:
        session = self._session
        return ("EVAL", scripts.INDEX, 1, session.index, session.session, now, self._ttl)


def words_of(draft: Draft) -> tuple[Any, ...]:
    """A message as `scripts.PUSH` and `scripts.ENQUEUE` take it."""
    return (
        draft.message.id,
        draft.record(-1).item(),
        int(draft.archived),
        int(draft.message.role == "human"),
        draft.tokens,
        int(draft.message.role == "system"),
    )


def id_of(record: Record) -> str:
    return unpack(record.value).id
