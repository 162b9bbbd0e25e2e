"""A session's log in the durable tier, written behind: messages wait in a Redis Stream meanwhile.

Sessions of a tenant share sixteen streams. What is accepted into one is drained from it into the
durable tier by whoever holds its lease, oldest first, in batches of one transaction each. A drainer
that dies is followed by another that begins with what the first had not acknowledged; a message that
was written twice is there once, for it has an id. So the log keeps the order of the stream.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from redis_tiered.errors import TierError, TierReplyError, TierUnavailable, Unreadable
from redis_tiered.flow import Command, Flow, Redis, Sleep, Sql
from redis_tiered.keys import SessionKeys
from redis_tiered.sessions import epochs, queries, rows, scripts
from redis_tiered.sessions.durable_log import DurableLog
from redis_tiered.sessions.log import Draft, Recent, microseconds
from redis_tiered.sessions.message import Message
from redis_tiered.sessions.record import Record, State, from_item
from redis_tiered.sessions.redis_log import words_of
from redis_tiered.sessions.trust import Trust, trust_of
from redis_tiered.tiers.identity import new_token
from redis_tiered.tiers.tiers import Tiers

__all__ = ["QueuedLog", "Queues", "queues_of"]

logger = logging.getLogger("redis_tiered")

_GROUP: Final = "redis-tiered"
_BATCH: Final = 200  # entries, each of one append
_LEASE_MS: Final = 2_000
_LONGEST: Final = 100_000  # entries; then an append is refused
_PATIENCE: Final = 5.0  # seconds that a reader waits for another drainer
_INTERVAL: Final = 0.1
_AFTER_FAILURE: Final = 1.0


class Queues:
    """The streams of one tenant, and this process's part in draining them.

    Attributes:
        rejected: messages that this process set aside, because the durable tier refused them.
    """

    def __init__(self, tiers: Tiers, trust: Trust) -> None:
        self._tiers = tiers
        self._trust = trust
        self._keys = tiers.keys.sessions
        # What this process put into each stream, as one number that only grows, and how far of that
        # was seen to be drained: what is accepted while somebody drains is not taken for drained.
        self._numbers = itertools.count(1)
        self._accepted: dict[str, int] = {}
        self._drained: dict[str, int] = {}
        self._scheduled = False
        self.rejected = 0
        tiers.on_fork(self)

    def accepted(self, shard: str) -> None:
        """Something waits there now."""
        self._accepted[shard] = next(self._numbers)
        self.schedule()

    def waits(self, shard: str) -> bool:
        """Whether something that this process put there may still wait."""
        return self._accepted.get(shard, 0) > self._drained.get(shard, 0)

    def schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._tiers.housekeeper.submit(self._work, after=_INTERVAL)

    def _work(self) -> float | None:
        self._scheduled = False
        try:
            self._drain_own()
        except TierError:
            self._scheduled = True
            return _AFTER_FAILURE
        return None

    def _drain_own(self) -> None:
        for shard in tuple(self._accepted):
            if self.waits(shard):
                self._tiers.run(self.drain(shard))

    def drain_all(self) -> Flow[int]:
        """Write everything that waits; gives the number of messages."""
        total = 0
        for shard in SessionKeys.SHARDS:
            total += yield from self.drain(shard)
        return total

    def drain(self, shard: str) -> Flow[int]:
        """Write everything that waits in one stream now; what comes meanwhile may stay.

        Returns:
            The number of messages that were new.

        Raises:
            TierError: a tier failed; what was not written waits for the next drainer.
        """
        queue, _, lease = self._keys.queue(shard)
        token = secrets.token_hex(8)
        deadline = time.monotonic() + _PATIENCE
        total = 0
        while True:
            noted = self._accepted.get(shard, 0)
            [length] = yield Redis((("XLEN", queue),))
            if length == 0:
                self._drained[shard] = noted
                return total
            [taken] = yield Redis((("SET", lease, token, "NX", "PX", _LEASE_MS),), write=True)
            if taken is None:
                if time.monotonic() > deadline:
                    raise TierUnavailable("durable", "queue", "another process has not drained it")
                yield Sleep(0.01)
                continue
            try:
                # Not what comes meanwhile: a reader would never be done while others append.
                while length > 0 and (entries := (yield from self._next(shard, token))):
                    total += yield from self._write(shard, entries)
                    length -= len(entries)
            except TierError:
                yield from self._release(lease, token)
                raise
            if length <= 0 or entries is not None:
                yield from self._release(lease, token)
                self._drained[shard] = noted
                return total
            # The lease ran out, and somebody else has it: whether he is done is yet to be seen.

    def _release(self, lease: bytes, token: str) -> Flow[None]:
        try:
            yield Redis((("EVAL", scripts.RELEASE, 1, lease, token),))
        except TierError:
            return  # it ends by itself

    def _next(self, shard: str, token: str) -> Flow[list[Any] | None]:
        """The oldest entries that nobody has acknowledged, and the lease anew; None: it is lost."""
        queue, _, lease = self._keys.queue(shard)
        words = (_GROUP, _BATCH, _LEASE_MS, token)
        while True:
            try:
                [entries] = yield Redis(
                    (("EVAL", scripts.TAKE, 2, queue, lease, *words),), write=True
                )
            except TierReplyError as error:
                if "NOGROUP" not in error.detail:
                    raise
                create = ("XGROUP", "CREATE", queue, _GROUP, "0", "MKSTREAM")
                try:
                    yield Redis((create,), write=True)
                except TierReplyError as refused:
                    if "BUSYGROUP" not in refused.detail:
                        raise
                continue
            return entries  # type: ignore[no-any-return]

    def _write(self, shard: str, entries: list[Any]) -> Flow[int]:
        """One transaction; if the durable tier refuses it, one per entry."""
        queue, aside, _ = self._keys.queue(shard)
        good: dict[bytes, tuple[SessionKeys, list[Draft]]] = {}
        bad: dict[bytes, str] = {}
        for number, words in entries:
            if words is None:  # deleted by somebody else
                continue
            try:
                session, drafts = _read(words)
                good[number] = (self._tiers.keys.session_of(session), drafts)
            except Unreadable as error:
                bad[number] = error.reason
        try:
            written = yield from self._commit(good.values())
        except TierReplyError:
            written = 0
            for number, entry in good.items():
                try:
                    written += yield from self._commit((entry,))
                except TierReplyError as error:
                    bad[number] = error.detail
                    yield from self._take_back(entry[0])
        contents = dict(entries)
        for number, reason in bad.items():
            self.rejected += 1
            logger.error("a message that waited to be written was set aside: %s", reason)
            add = ("XADD", aside, "*", "reason", reason, *contents[number])
            yield Redis((add,), write=True, idempotent=False)
        numbers = [number for number, _ in entries]
        yield Redis((("EVAL", scripts.DONE, 1, queue, _GROUP, *numbers),))
        return written

    def _commit(self, entries: Iterable[tuple[SessionKeys, list[Draft]]]) -> Flow[int]:
        """Write in one transaction; gives the number of messages that were new."""
        by_session: dict[str, tuple[SessionKeys, list[Draft]]] = {}
        for keys, drafts in entries:
            by_session.setdefault(keys.session, (keys, []))[1].extend(drafts)
        batch = list(by_session.values())
        if not batch:
            return 0
        changes: list[rows.Change] = yield Sql(
            rows.append_all(batch, new_token(), microseconds()), write=True
        )

        def follow(epoch: str) -> tuple[Command, ...]:
            commands: list[Command] = []
            for (keys, drafts), change in zip(batch, changes, strict=True):
                meta, window, _ = keys.window(epoch, queued=True)
                assert change.state is not None
                if len(change.records) < len(drafts):
                    # Accepted twice: a window that did not know its id shows it twice.
                    commands.append(("DEL", meta, window))
                    continue
                before = "" if change.before is None else change.before
                words = before, change.state.version, len(drafts)
                commands.append(("EVAL", scripts.FOLLOW, 2, meta, window, *words))
            return tuple(commands)

        yield from self._trust.tell(changes[0].epoch, follow)
        return sum(len(change.records) for change in changes)

    def _take_back(self, keys: SessionKeys) -> Flow[None]:
        """Drop the window that shows what the log will not have."""
        epoch = yield Sql(epochs.epoch(keys.trust))
        if epoch is not None:
            log = QueuedLog(keys, self._trust, 1, 1, self)
            yield from log._drop(rows.Change(0, None, epoch))

    def set_aside(self) -> Flow[tuple[tuple[str, str, Record], ...]]:
        """Messages that the durable tier refused: session, reason and the message as it came."""
        found = []
        for shard in SessionKeys.SHARDS:
            [entries] = yield Redis((("XRANGE", self._keys.queue(shard)[1], "-", "+"),))
            for _, words in entries:
                reason, rest = words[1].decode(errors="replace"), words[2:]
                try:
                    session, drafts = _read(rest)
                except Unreadable:
                    found.append(("", reason, Record(b"".join(rest), -1, 0, "", 0)))
                    continue
                name = SessionKeys.name(session)
                found += [(name, reason, draft.record(-1)) for draft in drafts]
        return tuple(found)

    def flush(self) -> None:
        """Write what waits, before the process ends."""
        try:
            self._drain_own()
        except TierError as error:
            logger.warning("messages still wait to be written: %s", error)

    def reset_after_fork(self) -> None:
        self._accepted = {}
        self._drained = {}
        self._scheduled = False


class QueuedLog(DurableLog):
    """See `redis_tiered.sessions.log.Log`; every flow but `append` first drains the session's stream.

    Args:
        keys, trust, ttl, window: as for `DurableLog`.
        queues: of the tenant.
    """

    queued = True

    def __init__(
        self, keys: SessionKeys, trust: Trust, ttl: int, window: int, queues: Queues
    ) -> None:
        super().__init__(keys, trust, ttl, window)
        self._queues = queues

    def append(self, drafts: Sequence[Draft]) -> Flow[None]:
        """Accepted by Redis; or, where it must not be used, written at once."""
        if not drafts:
            return
        try:
            grant = yield from self._trust.grant()
        except TierError:
            yield from self._append_at_once(drafts)
            return
        words = [word for draft in drafts for word in words_of(draft)]
        most = self._window
        while True:
            meta, window, _ = self._keys.window(grant.epoch, queued=True)
            queue, _, _ = self._keys.queue(self._keys.shard)
            now = microseconds() // 1000
            limits = (self._ttl, now, most, _LONGEST, self._keys.session)
            enqueue = ("EVAL", scripts.ENQUEUE, 3, meta, window, queue, *limits, *words)
            try:
                [accepted] = yield Redis((enqueue,), write=True)
            except TierError:
                # It may have been accepted: written at once as well, it is there once.
                yield from self._append_at_once(drafts)
                return
            except BaseException:
                self._queues.accepted(self._keys.shard)  # cancelled: maybe it was
                raise
            if accepted == 0:
                raise TierUnavailable("durable", "queue", f"{_LONGEST} appends wait already")
            self._queues.accepted(self._keys.shard)
            if self._trust.holds(grant):
                return
            try:
                renewed = yield from self._trust.grant()
            except TierError:
                yield from self._append_at_once(drafts)
                return
            if renewed.epoch == grant.epoch:
                return  # it was, and is, the window that is read
            # Windows are elsewhere now, and maybe the streams: sent again, it is written once. A
            # window there may know any part of it, so it is dropped.
            grant, most = renewed, 0

    def _append_at_once(self, drafts: Sequence[Draft]) -> Flow[None]:
        try:
            yield from self._queues.drain(self._keys.shard)
        except TierError:
            if self._queues.waits(self._keys.shard):
                raise  # it would come before what it must follow
        yield from super().append(drafts)

    def replace(self, drafts: Sequence[Draft]) -> Flow[None]:
        yield from self._queues.drain(self._keys.shard)
        yield from super().replace(drafts)

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
        yield from self._queues.drain(self._keys.shard)
        return (
            yield from super().remove(
                id=id,
                index=index,
                oldest=oldest,
                among=among,
                archived=archived,
                archive=archive,
            )
        )

    def edit(self, id: str, draft: Draft) -> Flow[bool]:
        yield from self._queues.drain(self._keys.shard)
        return (yield from super().edit(id, draft))

    def touch(self, change: Callable[[State], State], *, make: bool) -> Flow[None]:
        yield from self._queues.drain(self._keys.shard)
        yield from super().touch(change, make=make)

    def clear(self) -> Flow[None]:
        yield from self._queues.drain(self._keys.shard)
        yield from super().clear()

    def close(self) -> Flow[None]:
        yield from self._queues.drain(self._keys.shard)
        yield from super().close()

    def summarize(self, summary: bytes, since: int, until: int) -> Flow[State | None]:
        yield from self._queues.drain(self._keys.shard)
        return (yield from super().summarize(summary, since, until))

    def count_again(self, counter: str, tokens: Callable[[Message], int]) -> Flow[None]:
        yield from self._queues.drain(self._keys.shard)
        yield from super().count_again(counter, tokens)

    def recent(self, count: int | None) -> Flow[Recent | None]:
        found = yield from super().recent(count)
        if found is None or found.tier != "redis":
            return found
        wanted = found.state.messages if count is None else min(count, found.state.messages)
        if len(found.newest) >= wanted:
            return found
        # The rest will be asked for by sequence, and Redis numbers what waits by itself: a message
        # that was accepted twice has taken a number of the log's that Redis does not know of.
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
        yield from self._drain_if_possible()
        return (
            yield from super().page(offset, limit, newest=newest, archived=archived, before=before)
        )

    def search(self, text: str, offset: int, limit: int) -> Flow[tuple[Record, ...]]:
        yield from self._drain_if_possible()
        return (yield from super().search(text, offset, limit))

    def _snapshot(self, limit: int) -> Flow[queries.Snapshot | None]:
        yield from self._drain_if_possible()
        return (yield from super()._snapshot(limit))

    def _drain_if_possible(self) -> Flow[None]:
        try:
            yield from self._queues.drain(self._keys.shard)
        except TierError as error:
            if error.tier == "durable":
                raise
            # Redis is away, and with it what waits there.

    def _publish(self, change: rows.Change) -> Flow[None]:
        # A window counts what waits as well, which the change does not know of.
        yield from self._drop(change)


def queues_of(tiers: Tiers) -> Queues:
    """The streams of a tenant, as this process knows them."""
    return tiers.shared(
        ("sessions queues", tiers.keys.tenant), lambda: Queues(tiers, trust_of(tiers))
    )


def _read(words: list[Any] | None) -> tuple[str, list[Draft]]:
    """An entry of a stream.

    Raises:
        Unreadable: it is not one of ours.
    """
    if not words or words[0] != b"s" or len(words) % 2:
        raise Unreadable("foreign")
    drafts = []
    for field, item in zip(words[2::2], words[3::2], strict=True):
        if field != b"m":
            raise Unreadable("foreign")
        record = from_item(item)
        message = record.stored().message
        if max(record.tokens, record.created) >= 1 << 63:
            raise Unreadable("foreign")  # more than a database can hold
        drafts.append(
            Draft(
                message,
                record.value,
                record.tokens,
                record.counter,
                record.created,
                record.archived,
            )
        )
    try:
        return words[1].decode(), drafts
    except UnicodeDecodeError:
        raise Unreadable("foreign") from None
