"""A tenant's sessions, all together."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from redis_tiered.checks import integer
from redis_tiered.errors import InvalidInput, TierError, Unreadable
from redis_tiered.flow import Flow, Redis, Sql
from redis_tiered.keys import SessionKeys
from redis_tiered.sessions import scripts
from redis_tiered.sessions.conversation import stored
from redis_tiered.sessions.log import content_of
from redis_tiered.sessions.message import Stored
from redis_tiered.sessions.record import SessionInfo
from redis_tiered.sessions.trust import WITHOUT_DURABLE
from redis_tiered.tiers.tiers import Tiers

__all__ = ["Page", "Rejected", "Sessions"]

_MOST = 1000
_MOMENTS = range(1 << 63)


class Page(NamedTuple):
    """Some of a tenant's sessions.

    Attributes:
        sessions: the latest active first.
        next: what `list(after=...)` takes to go on; None: these were the last.
    """

    sessions: tuple[SessionInfo, ...]
    next: str | None


class Rejected(NamedTuple):
    """A message that the durable tier refused; it is kept in Redis.

    Attributes:
        session: its id; empty if not even that can be read.
        reason: what was wrong.
        message: None if it cannot be read.
    """

    session: str
    reason: str
    message: Stored | None


class Sessions:
    """The sessions of one tenant.

    Args:
        tiers: where they live and for which tenant.
    """

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers

    def list(
        self,
        *,
        tenant: str | None = None,
        status: Literal["active", "closed"] | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """One page of sessions, the latest active first.

        Without a durable tier these are the ones in Redis; a session with `durability="none"` beside
        a durable tier is not listed.

        Args:
            tenant: whose; None: those of this `Tiers`.
            status: only those that are active, or closed.
            limit: 1 to 1000.
            after: `Page.next` of the page before.

        Raises:
            InvalidInput: an argument has the wrong type or range.
            TierError: the tier that knows failed.
        """
        return self._tiers.run(self._of(tenant)._list(status, limit, _position(after)))

    async def alist(
        self,
        *,
        tenant: str | None = None,
        status: Literal["active", "closed"] | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page:
        """As `list`."""
        return await self._tiers.arun(self._of(tenant)._list(status, limit, _position(after)))

    def drain(self) -> int:
        """Write what sessions with `durability="behind"` have waiting; gives how many messages.

        Not needed in normal service: whoever appends drains a moment later. A process that starts
        after a crash may call it to write at once what the one before it left.

        Raises:
            TierError: a tier failed; what was not written waits.
        """
        return self._tiers.run(self._drain())

    async def adrain(self) -> int:
        """As `drain`."""
        return await self._tiers.arun(self._drain())

    def rejected(self) -> Sequence[Rejected]:
        """Messages accepted with `durability="behind"` that the durable tier refused.

        Raises:
            TierError: Redis failed.
        """
        return self._tiers.run(self._rejected())

    async def arejected(self) -> Sequence[Rejected]:
        """As `rejected`."""
        return await self._tiers.arun(self._rejected())

    def _of(self, tenant: str | None) -> Sessions:
        return self if tenant is None else Sessions(self._tiers.tenant(tenant))

    def _list(self, status: object, limit: object, after: tuple[int, str] | None) -> Flow[Page]:
        if status not in (None, "active", "closed"):
            raise InvalidInput(f"status must be 'active', 'closed' or None, got {status!r:.100}")
        limit = integer("limit", limit, 1, _MOST)
        assert status is None or isinstance(status, str)
        if self._tiers.durable is None:
            return (yield from self._list_redis(status, limit, after))
        from redis_tiered.sessions import queries

        keys, tenant = self._tiers.keys.sessions, self._tiers.keys.tenant
        found = yield Sql(queries.listing(keys.scope, status, limit + 1, after))
        page = tuple([at.info(SessionKeys.name(session), tenant) for session, at in found[:limit]])
        if len(found) <= limit:
            return Page(page, None)
        session, last = found[limit - 1]
        return Page(page, _cursor(last.last_activity, session))

    def _list_redis(
        self, status: str | None, limit: int, after: tuple[int, str] | None
    ) -> Flow[Page]:
        keys = self._tiers.keys
        infos: list[SessionInfo] = []
        last = 0, ""
        first, passed = ("+inf" if after is None else after[0]), 0
        while True:
            # Of one millisecond, the last by name come first.
            within = (keys.sessions.index, first, 0, "WITHSCORES", "LIMIT", passed, limit)
            [names] = yield Redis((("ZREVRANGEBYSCORE", *within),))
            passed += limit
            places = [
                (int(score), name.decode())
                for name, score in zip(names[::2], names[1::2], strict=True)
            ]
            wanted = [place for place in places if after is None or place < after]
            windows = [
                keys.session_of(session).window(WITHOUT_DURABLE, queued=False)
                for _, session in wanted
            ]
            replies = []
            if windows:
                replies = yield Redis(
                    tuple([("EVAL", scripts.READ, 2, *names[:2], 0, 0, "") for names in windows])
                )
            for (last_activity, session), reply in zip(wanted, replies, strict=True):
                try:
                    state = None if reply is None else content_of(reply)[0]
                except Unreadable:
                    continue
                if state is None or status not in (None, state.status):
                    continue
                if len(infos) == limit:
                    return Page(tuple(infos), _cursor(*last))
                infos.append(state.info(SessionKeys.name(session), keys.tenant))
                last = last_activity, session
            if len(places) < limit:
                return Page(tuple(infos), None)

    def _drain(self) -> Flow[int]:
        if self._tiers.durable is None:
            return 0
        from redis_tiered.sessions.queued_log import queues_of

        return (yield from queues_of(self._tiers).drain_all())

    def _rejected(self) -> Flow[tuple[Rejected, ...]]:
        from redis_tiered.sessions.queued_log import queues_of

        found = yield from queues_of(self._tiers).set_aside()
        rejected = []
        for session, reason, record in found:
            try:
                rejected.append(Rejected(session, reason, stored((record,))[0]))
            except TierError:
                rejected.append(Rejected(session, reason, None))
        return tuple(rejected)


def _cursor(last_activity: int, session: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([last_activity, session]).encode()).decode()


def _position(cursor: object) -> tuple[int, str] | None:
    if cursor is None:
        return None
    try:
        if not isinstance(cursor, str):
            raise TypeError
        last_activity, session = json.loads(base64.urlsafe_b64decode(cursor))
        if type(last_activity) is not int or type(session) is not str:
            raise TypeError
        # What else no database takes: NUL, lone surrogates, more than 64 bits.
        if not session.isprintable() or not session.isascii() or last_activity not in _MOMENTS:
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise InvalidInput("after must be Page.next of the page before") from None
    return last_activity, session
