"""Where an answer is: in Redis, in L3, or under other words; and how it gets where it is found next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from redis_tiered.errors import TierError, Unreadable
from redis_tiered.flow import Flow, Redis, Sql
from redis_tiered.llm_cache import scripts
from redis_tiered.llm_cache.envelope import (
    HEADER_BYTES,
    Envelope,
    seal,
    seal_for_memory,
    unseal,
    unseal_from_memory,
)
from redis_tiered.llm_cache.fingerprint import Fingerprint
from redis_tiered.llm_cache.shelf import Served
from redis_tiered.llm_cache.upkeep import Upkeep

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.quest import Quest

__all__ = ["Elsewhere", "Finding", "Stored"]


class Stored(NamedTuple):
    """An answer as a tier keeps it.

    Attributes:
        digest: of the entry that has it.
        data: sealed.
        revision: of that entry; 0 where only Redis was asked.
        envelope: what `data` holds.
        now: when it was read, in milliseconds.
    """

    digest: str
    data: bytes
    revision: int
    envelope: Envelope
    now: int


class Elsewhere(NamedTuple):
    """An answer that was not under its key in Redis.

    Attributes:
        tier: that it came from.
        stored: the answer.
        served: why, if it is one to other words.
        settled: whether it is under that key by now, and the lease is free.
    """

    tier: str
    stored: Stored
    served: Served | None
    settled: bool = False


class Finding(Upkeep):
    """The flows that find entries. Those of them that fail say so; the others find nothing."""

    def _named(self, reply: list[bytes | None], now: int) -> tuple[Envelope, Stored] | None:
        """An alias and the entry that it names, if both can be read and are valid still."""
        try:
            alias, data = unseal(reply[0] or b""), reply[1] or b""
            envelope = unseal(data)
            digest = alias.payload.decode("ascii")
        except (Unreadable, UnicodeDecodeError):
            return None
        if not alias.alias or envelope.alias:
            return None
        if self._is_over(alias, now) or self._is_over(envelope, now):
            return None
        return alias, Stored(digest, data, 0, envelope, now)

    def answer_of(self, digest: str) -> Flow[Envelope | None]:
        """See `Entries`."""
        try:
            epoch = self._epoch.certain() or (yield from self._epoch.establish())
            stored = yield from self._entry(epoch, digest)
        except TierError:
            stored = yield from self._read_durable(digest)
        return None if stored is None or stored.envelope.alias else stored.envelope

    def named_by(self, digest: str) -> Flow[str | None]:
        """The digest that an alias names; "": none may; None: there is no alias."""
        try:
            epoch = self._epoch.certain() or (yield from self._epoch.establish())
            stored = yield from self._entry(epoch, digest)
        except TierError:
            stored = yield from self._read_durable(digest)
        if stored is None or not stored.envelope.alias:
            return None
        return stored.envelope.payload.decode("ascii", errors="replace")

    def _entry(self, epoch: str | None, digest: str) -> Flow[Stored | None]:
        """An entry by its digest, from whichever tier has it; None: it is gone.

        Args:
            epoch: of Redis; None: Redis cannot be asked.
            digest: of the entry.

        Raises:
            TierError: one that may have it failed, and the others have it not.
        """
        if epoch is None:
            return (yield from self._find_durable(digest))
        key = self._keys.entry(epoch, digest)
        now = self._milliseconds()
        held = self._memory.get(key)
        if held is not None:
            envelope = unseal_from_memory(held)
            if not self._is_over(envelope, now):
                return Stored(digest, seal(envelope, compress_from=None), 0, envelope, now)
        failure: TierError | None = None
        try:
            [data] = yield Redis((("HGET", key, "r"),))
            if data is not None:
                envelope = unseal(data)
                if not self._is_over(envelope, now):
                    return Stored(digest, data, 0, envelope, now)
        except TierError as error:
            failure = error
        except Unreadable as problem:
            self.unreadable(problem.reason)
            if problem.reason != "newer":
                yield from self._discard(key, data)
        try:
            stored = yield from self._find_durable(digest)
        except TierError as error:
            stored, failure = None, error
        if stored is not None:
            yield from self._promote(key, stored)
        elif failure is not None:
            raise failure
        return stored

    def _followed(self, epoch: str | None, digest: str) -> Flow[Stored | None]:
        """As `_entry`; of an alias the entry that it names."""
        stored = yield from self._entry(epoch, digest)
        if stored is not None and stored.envelope.alias:
            named = stored.envelope.payload.decode("ascii", errors="replace")
            stored = yield from self._entry(epoch, named)
        return None if stored is None or stored.envelope.alias else stored

    def _discard(self, key: bytes, data: bytes) -> Flow[None]:
        """Delete what is of no use, unless somebody has replaced it."""
        try:
            yield Redis((("EVAL", scripts.DISCARD, 1, key, data),))
        except TierError:
            return  # counted; the next lookup tries again

    def _remember(self, key: bytes, envelope: Envelope, ticket: int, now: int) -> None:
        remaining = envelope.remaining(now)
        self._memory.put(
            key,
            seal_for_memory(envelope),
            ticket,
            ttl=None if remaining is None else remaining / 1000,
        )

    def _known(
        self, mark: Fingerprint, epoch: str | None, quest: Quest | None
    ) -> Flow[Elsewhere | None]:
        """The answer that L3 holds, or that a wording of the same normal form has.

        Args:
            mark: of the request.
            epoch: of Redis; None: Redis cannot be asked.
            quest: for another wording; None: only this one will do.
        """
        spelled = yield from self._spelled_otherwise(mark, epoch, quest)
        if spelled is not None:
            return spelled
        wording = None if quest is None else quest.wording
        held = yield from self._read_durable(mark.digest, wording)
        if held is None:
            return None
        if not held.envelope.alias:
            return Elsewhere("durable", held, None)
        if quest is None:
            return None
        digest = held.envelope.payload.decode("ascii", errors="replace")
        if not digest:
            quest.withheld = True
            return None
        try:
            found = yield from self._entry(epoch, digest)
        except TierError:
            return None
        if found is None or found.envelope.alias:
            return None
        return Elsewhere("durable", found, Served(mark.digest, digest))

    def _spelled_otherwise(
        self, mark: Fingerprint, epoch: str | None, quest: Quest | None
    ) -> Flow[Elsewhere | None]:
        """What Redis has of the same normal form; arguments are those of `_known`."""
        if quest is None or quest.found is None or quest.withheld:
            return None
        stored: Stored | None = None
        if isinstance(quest.found, list):
            named = self._named(quest.found, self._milliseconds())
            stored = None if named is None else named[1]
        else:
            try:
                alias = unseal(quest.found)
                digest = alias.payload.decode("ascii", errors="replace")
                if alias.alias and not self._is_over(alias, self._milliseconds()):
                    stored = yield from self._entry(epoch, digest)
            except (Unreadable, TierError):
                return None
        if stored is None or stored.envelope.alias:
            return None
        return Elsewhere("redis", stored, Served(mark.digest, stored.digest))

    def _alike(
        self, mark: Fingerprint, epoch: str | None, quest: Quest | None
    ) -> Flow[Elsewhere | None]:
        """The answer to other words that mean the same; arguments are those of `_known`."""
        semantic = self._semantic
        if quest is None or semantic is None:
            return None
        if quest.withheld:
            self._tally.add("semantic.withheld")
            return None
        if epoch is None and self.tiers.durable is None:
            return None  # nowhere could what is found be fetched from
        while (match := (yield from semantic.match(quest))) is not None:
            try:
                near = yield from self._settled(mark, epoch, match.entry)
                if near is not None:
                    return Elsewhere("semantic", near, match, settled=True)
                near = yield from self._followed(epoch, match.entry)
            except TierError as error:
                self._tally.add(f"semantic.unreachable.{error.tier}")
                return None
            if near is not None:
                return Elsewhere("semantic", near, match)
            yield from semantic.gone(quest, match.entry)
        return None

    def _settled(self, mark: Fingerprint, epoch: str | None, digest: str) -> Flow[Stored | None]:
        """An entry's answer, found under the request's own key from now on: in one round trip.

        None: it cannot be had so.
        """
        if epoch is None or not self._follows or self._sliding:
            return None
        key, entry = self._keys.entry(epoch, mark.digest), self._keys.entry(epoch, digest)
        words = (key, self._keys.lease(key), entry, digest)
        try:
            [data] = yield Redis((("EVAL", scripts.ALIAS, 2, *words),), write=True)
            envelope = unseal(data or b"")
        except (TierError, Unreadable):
            return None  # counted by those who look further
        now = self._milliseconds()
        self._memory.invalidate((key,))
        if envelope.alias or self._is_over(envelope, now):
            return None
        return Stored(digest, data, 0, envelope, now)

    def _write_alias(self, key: bytes, stored: Stored) -> Flow[bool]:
        """Have an entry's answer found under this key, too, unless something is there by now.

        Returns:
            False if Redis was not reached, and the lease is still there.
        """
        alias = self._alias(stored.digest, stored.envelope)
        if alias is None:
            return False
        residency, data = alias
        done = yield from self._warm(key, 0, residency, data)
        if done:
            self._memory.invalidate((key,))
        return done

    def _read_durable(self, digest: str, other: str | None = None) -> Flow[Stored | None]:
        """As `_find_durable`; None also if L3 failed."""
        try:
            return (yield from self._find_durable(digest, other))
        except TierError:
            return None

    def _find_durable(self, digest: str, other: str | None = None) -> Flow[Stored | None]:
        """An entry that L3 holds, or else the other one.

        Raises:
            TierError: L3 failed.
        """
        if self.tiers.durable is None:
            return None
        from redis_tiered.llm_cache import rows

        now = self._milliseconds()
        row = yield Sql(rows.read(self._keys.scope, digest, now, other=other))
        if row is None:
            return None
        data, revision, found = row
        try:
            envelope = unseal(data)
        except Unreadable as problem:
            self.unreadable(problem.reason)
            return None
        if self._is_over(envelope, now):
            return None
        return Stored(found, data, revision, envelope, now)

    def _promote(self, key: bytes, stored: Stored) -> Flow[bool]:
        """Warm L2; False if it was not reached, and the lease is still there."""
        _, data, revision, envelope, read_at = stored
        now = self._milliseconds()
        if now - read_at > scripts.TOMBSTONE_MS // 2:
            return False  # read too long ago: it may have been deleted, and its tombstone be gone
        residency = self._residency(envelope, now)
        return residency > 0 and (yield from self._warm(key, revision, residency, data))

    def _warm(self, key: bytes, revision: int, residency: int, data: bytes) -> Flow[bool]:
        words = (key, self._keys.lease(key), revision, residency, data)
        try:
            yield Redis((("EVAL", scripts.PROMOTE, 2, *words),), write=True)
        except TierError:
            return False  # counted by the driver; the answer is in hand
        return True

    def _slide(
        self, digest: str, key: bytes, read: bytes, envelope: Envelope, now: int
    ) -> Flow[Envelope]:
        """Begin the TTL anew if it is a sliding one, in Redis and in L3; a few times per TTL at most."""
        ttl = envelope.ttl
        if not self._sliding or not ttl or envelope.expires - now >= ttl * 3 // 4:
            return envelope
        later = envelope._replace(expires=now + ttl)
        data = seal(later, compress_from=self._compress_from)
        residency = self._residency(later, now)
        try:
            [slid] = yield Redis(
                (("EVAL", scripts.SLIDE, 1, key, read[:HEADER_BYTES], data, residency),), write=True
            )
            if not slid:  # replaced or deleted meanwhile
                return envelope
            if self.tiers.durable is not None:
                from redis_tiered.llm_cache import rows

                yield Sql(
                    rows.slide(self._keys.scope, digest, data, later.created, later.expires),
                    write=True,
                )
        except TierError:
            return envelope
        return later
