"""Looking an answer up: L1, L2, L3; and on a miss, who asks the model and who waits."""

from __future__ import annotations

import time
from typing import NamedTuple

from redis_tiered.errors import TierError, TierUnavailable, Unreadable
from redis_tiered.flow import Command, Flow, Redis, Sql, Wait
from redis_tiered.llm_cache import scripts
from redis_tiered.llm_cache.control import Control
from redis_tiered.llm_cache.envelope import (
    HEADER_BYTES,
    Envelope,
    seal,
    seal_for_memory,
    unseal,
    unseal_from_memory,
)
from redis_tiered.llm_cache.fingerprint import Fingerprint
from redis_tiered.llm_cache.flights import Flight, current_owner
from redis_tiered.llm_cache.shelf import Found
from redis_tiered.llm_cache.upkeep import Upkeep

__all__ = ["Reading"]

# A waiter looks again this often in case it was not woken.
_WAIT = 0.25
_ATTEMPTS = 5


class _Reply(NamedTuple):
    """What Redis said to `scripts.LOOK_UP` about an entry, and what it was asked with."""

    key: bytes
    said: bytes | int
    token: str
    ticket: int


class Reading(Upkeep):
    """The flows of a lookup. A failing tier is a miss."""

    def _recall(self, mark: Fingerprint, control: Control, epoch: str | None) -> Found | None:
        """An answer that L1 holds: no I/O, not even a flow."""
        if epoch is None or not control.read or control.refresh:
            return None
        data = self._memory.get(self._keys.entry(epoch, mark.digest))
        if data is None:
            return None
        envelope = unseal_from_memory(data)
        now = self._milliseconds()
        if self._is_over(envelope, now) or self._is_due(envelope, now):
            return None
        return self._hit("memory", envelope, now)

    def look_up(
        self, mark: Fingerprint, control: Control, epoch: str | None = None
    ) -> Flow[Found | None]:
        """L2, then L3; on a miss become the one who asks the model, or wait for who does."""
        if not control.read or control.refresh:
            self._miss("bypassed")
            return None
        may_lead = self._wait > 0 and control.write
        first: _Reply | None = None
        epoch = epoch or self._epoch.certain()
        if epoch is not None:
            # The common case, in one step: the epoch is known, and Redis has the answer.
            incarnation = self._guards.redis_incarnation
            key = self._keys.entry(epoch, mark.digest)
            ticket = self._memory.ticket()
            token = self._flights.token() if may_lead else ""
            try:
                [reply] = yield Redis((self._ask(key, token, dead=""),))
            except TierError:
                return (yield from self._look_up_without_redis(mark, may_lead, 0.0))
            if incarnation == self._guards.redis_incarnation:
                if isinstance(reply, bytes) and (found := self._taken(key, reply, ticket)):
                    return found
                first = _Reply(key, reply, token, ticket)
        return (yield from self._look_up_in_turns(mark, may_lead, first))

    def _look_up_in_turns(
        self, mark: Fingerprint, may_lead: bool, first: _Reply | None
    ) -> Flow[Found | None]:
        """Ask Redis until it has the answer, nobody else is getting it, or we waited enough."""
        deadline = 0.0
        dead = ""
        watch_key: bytes | None = None
        watch = None
        try:
            while True:
                try:
                    key, reply, token, ticket = first or (
                        yield from self._ask_redis(mark, may_lead, dead)
                    )
                    first = None
                except TierError:
                    return (yield from self._look_up_without_redis(mark, may_lead, deadline))
                if isinstance(reply, bytes):
                    settled, found = yield from self._take(
                        mark, key, reply, ticket, may_lead, waited=deadline > 0
                    )
                    if settled:
                        return found
                    reply = 0
                if reply == 3:
                    return (yield from self._look_up_without_redis(mark, may_lead, deadline))
                if reply != 2:
                    return (yield from self._lead(mark, key, token if reply == 1 else None))
                # Somebody else asks the model: wait for that answer.
                now = time.monotonic()
                deadline = deadline or now + self._wait
                if now >= deadline:
                    self._miss("waited")
                    return None
                flight = self._flights.find(mark.digest)
                dead = ""
                if flight is not None and flight.over(now):
                    # Its owner ended without an answer: take its lease over.
                    self._flights.land(mark.digest, None, flight=flight)
                    dead = flight.token
                elif flight is not None:
                    if flight.led_by(current_owner()):
                        self._miss("nested")
                        return None
                    landed, answer = yield from self._await(flight, min(_WAIT, deadline - now))
                    if landed and answer is not None:
                        return self._from_flight(answer)
                elif watch is None or watch.done():
                    # Look once more after this: the answer may have come before we watched.
                    watch_key, watch = key, self._memory.watch(key)
                    if not self._memory.coherent:
                        yield Wait(watch, min(0.02, deadline - now))
                else:
                    yield Wait(watch, min(_WAIT if self._memory.coherent else 0.02, deadline - now))
        finally:
            if watch_key is not None and watch is not None:
                self._memory.unwatch(watch_key, watch)

    def _ask(self, key: bytes, token: str, dead: str) -> Command:
        lease = self._keys.lease(key)
        return ("EVAL", scripts.LOOK_UP, 2, key, lease, token, scripts.LEASE_MS, dead)

    def _ask_redis(self, mark: Fingerprint, may_lead: bool, dead: str) -> Flow[_Reply]:
        """One round trip: the answer, or the lease, or who holds it; see `scripts.LOOK_UP`."""
        epoch = self._epoch.certain()
        confirmed = epoch is not None
        if epoch is None:
            epoch = self._epoch.likely()
        token = self._flights.token() if may_lead else ""
        for _ in range(_ATTEMPTS):
            incarnation = self._guards.redis_incarnation
            if epoch is None:
                epoch, confirmed = (yield from self._epoch.establish()), True
            key = self._keys.entry(epoch, mark.digest)
            ticket = self._memory.ticket()
            ask = self._ask(key, token, dead)
            if confirmed:
                [reply] = yield Redis((ask,))
                believed = True
            else:
                [stored, reply] = yield Redis((("GET", self._keys.epoch), ask))
                believed = self._epoch.confirm(stored, ticket)
            # Nor is a server believed that may have been away and come back meanwhile.
            if believed and incarnation == self._guards.redis_incarnation:
                return _Reply(key, reply, token, ticket)
            epoch = None
        raise TierUnavailable("redis", "epoch", "it keeps changing")

    def _taken(self, key: bytes, data: bytes, ticket: int) -> Found | None:
        """Use what Redis holds, if nothing else is to be done; `_take` does everything."""
        now = self._milliseconds()
        try:
            envelope = unseal(data)
        except Unreadable:
            return None
        if self._sliding or self._is_over(envelope, now) or self._is_due(envelope, now):
            return None
        self._remember(key, envelope, ticket, now)
        return self._hit("redis", envelope, now)

    def _take(
        self,
        mark: Fingerprint,
        key: bytes,
        data: bytes,
        ticket: int,
        may_lead: bool,
        *,
        waited: bool,
    ) -> Flow[tuple[bool, Found | None]]:
        """Use what Redis holds, if it can be read and is still valid.

        Returns:
            Whether the lookup ends here, and its result: None where the caller shall renew an
            answer that is about to expire.
        """
        now = self._milliseconds()
        try:
            envelope = unseal(data)
        except Unreadable as problem:
            self.unreadable(problem.reason)
            if problem.reason != "newer":  # the durable tier may have it whole, and put it back
                yield from self._discard(key)
            return False, None
        if self._is_over(envelope, now):
            return False, None
        if may_lead and self._is_due(envelope, now):
            token = self._flights.token()
            try:
                [taken] = yield Redis(
                    (("SET", self._keys.lease(key), token, "NX", "PX", scripts.LEASE_MS),),
                    write=True,
                )
            except TierError:
                taken = None
            if taken is not None:
                self._board(mark, token, key)
                self._miss("early")
                return True, None
        elif self._sliding and envelope.ttl and envelope.expires - now < envelope.ttl * 3 // 4:
            envelope = yield from self._slide(mark, key, data, envelope, now)
        self._remember(key, envelope, ticket, now)
        return True, self._hit("flight" if waited else "redis", envelope, now)

    def _discard(self, key: bytes) -> Flow[None]:
        try:
            yield Redis((("DEL", key),))
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

    def _lead(self, mark: Fingerprint, key: bytes, token: str | None) -> Flow[Found | None]:
        """L2 has nothing. With the lease others wait for us while we look in L3 and ask the model."""
        flight = self._board(mark, token, key) if token is not None else None
        answer: bytes | None = None
        try:
            found = yield from self._read_durable(mark)
            if found is not None:
                answer, revision, envelope, now = found
                freed = yield from self._promote(key, answer, revision, envelope, now)
                if flight is not None and not freed:
                    yield from self._release(flight)
                return self._hit("durable", envelope, now)
        except BaseException:
            if flight is not None:
                self._flights.land(mark.digest, None, flight=flight)
            raise
        finally:
            if flight is not None and answer is not None:
                self._flights.land(mark.digest, answer, flight=flight)
        self._miss("absent")
        return None

    def _look_up_without_redis(
        self, mark: Fingerprint, may_lead: bool, deadline: float
    ) -> Flow[Found | None]:
        """L3 alone; identical misses of this process still wait for one of them."""
        while True:
            found = yield from self._read_durable(mark)
            if found is not None:
                *_, envelope, now = found
                return self._hit("durable", envelope, now)
            if not may_lead:
                break
            owner = current_owner()
            now_s = time.monotonic()
            flight = self._flights.find(mark.digest)
            if flight is None or flight.over(now_s):
                self._flights.lead(mark.digest, owner, self._flights.token(), None)
                break
            if flight.led_by(owner):
                break
            deadline = deadline or now_s + self._wait
            if now_s >= deadline:
                self._miss("waited")
                return None
            landed, data = yield from self._await(flight, min(_WAIT, deadline - now_s))
            if landed and data is not None:
                return self._from_flight(data)
        self._miss("absent")
        return None

    def _await(self, flight: Flight, timeout: float) -> Flow[tuple[bool, bytes | None]]:
        landed = yield Wait(flight.landing(), timeout)
        return bool(landed), flight.answer

    def _from_flight(self, data: bytes) -> Found | None:
        if not data:  # the answer may not be stored: everybody asks for themselves
            self._miss("unshared")
            return None
        return self._hit("flight", unseal(data), self._milliseconds())

    def _read_durable(self, mark: Fingerprint) -> Flow[tuple[bytes, int, Envelope, int] | None]:
        """The sealed answer, its revision, what it holds, and when it was read."""
        if self.tiers.durable is None:
            return None
        from redis_tiered.llm_cache import rows

        now = self._milliseconds()
        try:
            row = yield Sql(rows.read(self._keys.scope, mark.digest, now))
        except TierError:
            return None
        if row is None:
            return None
        data, revision = row
        try:
            envelope = unseal(data)
        except Unreadable as problem:
            self.unreadable(problem.reason)
            return None
        return None if self._is_over(envelope, now) else (data, revision, envelope, now)

    def _promote(
        self, key: bytes, data: bytes, revision: int, envelope: Envelope, read_at: int
    ) -> Flow[bool]:
        """Warm L2; False if it was not reached, and the lease is still there."""
        now = self._milliseconds()
        if now - read_at > scripts.TOMBSTONE_MS // 2:
            return False  # read too long ago: it may have been deleted, and its tombstone be gone
        residency = self._residency(envelope, now)
        if residency <= 0:
            return False
        try:
            yield Redis(
                (
                    (
                        "EVAL",
                        scripts.PROMOTE,
                        2,
                        key,
                        self._keys.lease(key),
                        revision,
                        residency,
                        data,
                    ),
                ),
                write=True,
            )
        except TierError:
            return False  # counted by the driver; the answer is in hand
        return True

    def _slide(
        self, mark: Fingerprint, key: bytes, read: bytes, envelope: Envelope, now: int
    ) -> Flow[Envelope]:
        """Begin the TTL anew, in Redis and in L3; at most a few times per TTL."""
        later = envelope._replace(expires=now + envelope.ttl)
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
                    rows.slide(self._keys.scope, mark.digest, data, later.created, later.expires),
                    write=True,
                )
        except TierError:
            return envelope
        return later
