"""Looking an answer up: L1, L2, L3, then other wordings; and on a miss, who asks the model and who
waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from redis_tiered.errors import TierError, Unreadable
from redis_tiered.flow import Command, Flow, Redis, Wait
from redis_tiered.llm_cache import scripts
from redis_tiered.llm_cache.control import Control
from redis_tiered.llm_cache.envelope import (
    Envelope,
    unseal,
    unseal_from_memory,
)
from redis_tiered.llm_cache.finding import Finding, Stored
from redis_tiered.llm_cache.fingerprint import Fingerprint
from redis_tiered.llm_cache.flights import Flight, current_owner
from redis_tiered.llm_cache.shelf import Found, Served

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.quest import Quest

__all__ = ["Reading"]

# A waiter looks again this often in case it was not woken.
_WAIT = 0.25
_ATTEMPTS = 5


class _Reply(NamedTuple):
    """What Redis said to `scripts.LOOK_UP` about an entry, and what it was asked with."""

    key: bytes
    said: bytes | int | list[bytes | None]
    token: str
    ticket: int
    epoch: str


class Reading(Finding):
    """The flows of a lookup. A failing tier is a miss."""

    def _recall(self, mark: Fingerprint, control: Control, epoch: str | None) -> Found | None:
        """An answer that L1 holds: no I/O, not even a flow."""
        if epoch is None or not control.read or control.refresh:
            return None
        data = self._memory.get(self._keys.entry(epoch, mark.digest))
        if data is None:
            return None
        envelope = unseal_from_memory(data)
        served = None
        if envelope.alias:
            if self._semantic is None or not control.semantic:
                return None
            digest = envelope.payload.decode()
            data = self._memory.get(self._keys.entry(epoch, digest))
            if data is None:
                return None
            envelope, served = unseal_from_memory(data), Served(mark.digest, digest)
        now = self._milliseconds()
        if envelope.alias or self._is_over(envelope, now) or self._is_due(envelope, now):
            return None
        return self._hit("memory", envelope, now, served)

    def look_up(
        self,
        mark: Fingerprint,
        control: Control,
        epoch: str | None = None,
        quest: Quest | None = None,
    ) -> Flow[Found | None]:
        """L2, then L3, then other wordings; on a miss become the one who asks the model, or wait for
        who does."""
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
                [reply, *beside] = yield Redis(
                    (self._ask(key, token, "", epoch), *self._ask_beside(quest, epoch))
                )
            except TierError:
                return (yield from self._look_up_without_redis(mark, may_lead, 0.0, quest))
            if incarnation == self._guards.redis_incarnation:
                found = None
                if isinstance(reply, bytes):
                    found = self._taken(key, reply, ticket)
                elif isinstance(reply, list) and quest is not None:
                    found = self._taken_by_alias(mark, epoch, reply, ticket)
                if found is not None:
                    return found
                if quest is not None:
                    quest.told(beside)
                first = _Reply(key, reply, token, ticket, epoch)
        return (yield from self._look_up_in_turns(mark, may_lead, first, quest))

    def _look_up_in_turns(
        self, mark: Fingerprint, may_lead: bool, first: _Reply | None, quest: Quest | None
    ) -> Flow[Found | None]:
        """Ask Redis until it has the answer, nobody else is getting it, or we waited enough."""
        deadline = 0.0
        dead = ""
        again = False
        watch_key: bytes | None = None
        watch = None
        try:
            while True:
                try:
                    asked = first or (yield from self._ask_redis(mark, may_lead, dead, quest))
                    key, reply, token, _, epoch = asked
                    first = None
                except TierError:
                    return (yield from self._look_up_without_redis(mark, may_lead, deadline, quest))
                if not isinstance(reply, int):
                    settled, found = yield from self._take(
                        mark, asked, may_lead, waited=deadline > 0, quest=quest
                    )
                    if settled:
                        return found
                    if settled is None and not again:  # now there is a lease to be had
                        again = True
                        continue
                    reply = 0
                if reply == 3:
                    return (
                        yield from self._look_up_without_redis(
                            mark, may_lead, deadline, quest, epoch
                        )
                    )
                if reply != 2:
                    lease = token if reply == 1 else None
                    return (yield from self._lead(mark, key, epoch, lease, quest))
                spelled = yield from self._spelled_otherwise(mark, epoch, quest)
                if spelled is not None:
                    stored = spelled.stored
                    return self._hit("redis", stored.envelope, stored.now, spelled.served)
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
                    if (yield from self._await(flight, min(_WAIT, deadline - now))):
                        if flight.answer is not None:
                            return self._from_flight(flight, follow=quest is not None)
                        dead = flight.token  # its lease may be there still
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

    def _ask(self, key: bytes, token: str, dead: str, epoch: str) -> Command:
        lease = self._keys.lease(key)
        ask = ("EVAL", scripts.LOOK_UP, 2, key, lease, token, scripts.LEASE_MS, dead)
        return (*ask, self._keys.entries(epoch)) if self._follows else ask

    def _ask_beside(self, quest: Quest | None, epoch: str) -> tuple[Command, ...]:
        """What the search for other wordings has Redis asked in the same round trip."""
        if quest is None:
            return ()
        key = self._keys.entry(epoch, quest.wording)
        start = (self._keys.entries(epoch),) if self._follows else ()
        return (("EVAL", scripts.FOLLOW, 1, key, *start), *quest.riding())

    def _ask_redis(
        self, mark: Fingerprint, may_lead: bool, dead: str, quest: Quest | None
    ) -> Flow[_Reply]:
        """One round trip: the answer, or the lease, or who holds it; see `scripts.LOOK_UP`."""
        token = self._flights.token() if may_lead else ""

        def commands(epoch: str) -> tuple[Command, ...]:
            key = self._keys.entry(epoch, mark.digest)
            return (self._ask(key, token, dead, epoch), *self._ask_beside(quest, epoch))

        [reply, *beside], epoch, ticket = yield from self._epoch.ask(commands)
        if quest is not None:
            quest.told(beside)
        return _Reply(self._keys.entry(epoch, mark.digest), reply, token, ticket, epoch)

    def _taken(self, key: bytes, data: bytes, ticket: int) -> Found | None:
        """Use what Redis holds, if nothing else is to be done; `_take` does everything."""
        now = self._milliseconds()
        try:
            envelope = unseal(data)
        except Unreadable:
            return None
        if (
            self._sliding
            or envelope.alias
            or self._is_over(envelope, now)
            or self._is_due(envelope, now)
        ):
            return None
        self._remember(key, envelope, ticket, now)
        return self._hit("redis", envelope, now)

    def _taken_by_alias(
        self, mark: Fingerprint, epoch: str, reply: list[bytes | None], ticket: int
    ) -> Found | None:
        """Use what Redis holds of an alias and of the entry that it names."""
        now = self._milliseconds()
        named = self._named(reply, now)
        if self._sliding or named is None or self._is_due(named[1].envelope, now):
            return None
        alias, stored = named
        return self._follow(mark, epoch, alias, stored, ticket)

    def _follow(
        self, mark: Fingerprint, epoch: str, alias: Envelope, stored: Stored, ticket: int
    ) -> Found:
        self._remember(self._keys.entry(epoch, mark.digest), alias, ticket, stored.now)
        self._remember(self._keys.entry(epoch, stored.digest), stored.envelope, ticket, stored.now)
        served = Served(mark.digest, stored.digest)
        return self._hit("redis", stored.envelope, stored.now, served)

    def _take(
        self,
        mark: Fingerprint,
        asked: _Reply,
        may_lead: bool,
        *,
        waited: bool,
        quest: Quest | None,
    ) -> Flow[tuple[bool | None, Found | None]]:
        """Use what Redis holds, if it can be read and is still valid; an alias if there is a quest.

        Returns:
            Whether the lookup ends here (None: no, and what was there is deleted), and its result:
            None where the caller shall renew an answer that is about to expire.
        """
        now = self._milliseconds()
        key, said, _, ticket, _ = asked
        data = said[0] if isinstance(said, list) else said
        assert isinstance(data, bytes)
        try:
            envelope = unseal(data)
        except Unreadable as problem:
            self.unreadable(problem.reason)
            if problem.reason == "newer":
                return False, None
            yield from self._discard(key, data)  # L3 may have it whole, and put it back
            return None, None
        if self._is_over(envelope, now) or (envelope.alias and quest is None):
            return False, None
        if envelope.alias:
            if quest is not None and not envelope.payload:
                quest.withheld = True
                return False, None
            return (yield from self._take_alias(mark, asked, data, envelope))
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
        else:
            envelope = yield from self._slide(mark.digest, key, data, envelope, now)
        self._remember(key, envelope, ticket, now)
        return True, self._hit("flight" if waited else "redis", envelope, now)

    def _take_alias(
        self, mark: Fingerprint, asked: _Reply, data: bytes, alias: Envelope
    ) -> Flow[tuple[bool | None, Found | None]]:
        """Use the entry that an alias names, wherever it is; returns as `_take`."""
        answer = asked.said[1] if isinstance(asked.said, list) else None
        named = None if answer is None else self._named([data, answer], self._milliseconds())
        if named is not None:
            stored = named[1]
        else:
            digest = alias.payload.decode("ascii", errors="replace")
            try:
                found = yield from self._entry(asked.epoch, digest)
            except TierError:
                return False, None
            if found is None or found.envelope.alias:
                yield from self._discard(asked.key, data)
                return None, None
            stored = found
        key = self._keys.entry(asked.epoch, stored.digest)
        envelope = yield from self._slide(
            stored.digest, key, stored.data, stored.envelope, stored.now
        )
        stored = stored._replace(envelope=envelope)
        alias = yield from self._slide(mark.digest, asked.key, data, alias, stored.now)
        return True, self._follow(mark, asked.epoch, alias, stored, asked.ticket)

    def _lead(
        self, mark: Fingerprint, key: bytes, epoch: str, token: str | None, quest: Quest | None
    ) -> Flow[Found | None]:
        """L2 has nothing. With the lease others wait for us while we look in L3 and for other
        wordings, and ask the model."""
        flight = self._board(mark, token, key) if token is not None else None
        try:
            found = yield from self._known(mark, epoch, quest)
            if found is None:
                found = yield from self._alike(mark, epoch, quest)
            if found is None:
                self._miss("absent")
                return None
            if flight is not None:
                flight.served = found.served
            if found.settled:
                freed = True
            elif found.served is None:
                freed = yield from self._promote(key, found.stored)
            else:
                freed = yield from self._write_alias(key, found.stored)
            if flight is not None and not freed:
                yield from self._release(flight)
        except BaseException:
            if flight is not None:
                self._flights.land(mark.digest, None, flight=flight)
                self._release_later(flight)
            raise
        if flight is not None:
            self._flights.land(mark.digest, found.stored.data, flight=flight)
        return self._hit(found.tier, found.stored.envelope, found.stored.now, found.served)

    def _look_up_without_redis(
        self,
        mark: Fingerprint,
        may_lead: bool,
        deadline: float,
        quest: Quest | None,
        epoch: str | None = None,
    ) -> Flow[Found | None]:
        """L3 and other wordings; identical misses of this process still wait for one of them.

        Args:
            mark: of the request.
            may_lead: whether others may wait for this one.
            deadline: of a wait that has begun; 0: none has.
            quest: for other wordings; None: they are not wanted.
            epoch: of Redis, if it can be read and only leases cannot be written.
        """
        mine: Flight | None = None
        while True:
            found = yield from self._known(mark, epoch, quest)
            if found is not None:
                return self._hit(found.tier, found.stored.envelope, found.stored.now, found.served)
            if not may_lead:
                break
            owner = current_owner()
            now_s = time.monotonic()
            flight = self._flights.find(mark.digest)
            if flight is None or flight.over(now_s):
                token = self._flights.token()
                mine = self._flights.lead(mark.digest, owner, token, None)
                break
            if flight.led_by(owner):
                break
            deadline = deadline or now_s + self._wait
            if now_s >= deadline:
                self._miss("waited")
                return None
            landed = yield from self._await(flight, min(_WAIT, deadline - now_s))
            if landed and flight.answer is not None:
                return self._from_flight(flight, follow=quest is not None)
        try:
            found = yield from self._alike(mark, epoch, quest)
        except BaseException:
            if mine is not None:
                self._flights.land(mark.digest, None, flight=mine)
            raise
        if found is None:
            self._miss("absent")
            return None
        if mine is not None:
            mine.served = found.served
            self._flights.land(mark.digest, found.stored.data, flight=mine)
        return self._hit(found.tier, found.stored.envelope, found.stored.now, found.served)

    def _await(self, flight: Flight, timeout: float) -> Flow[bool]:
        """Whether it has landed."""
        return bool((yield Wait(flight.landing(), timeout)))

    def _from_flight(self, flight: Flight, *, follow: bool) -> Found | None:
        """What a flight that landed brought.

        Args:
            flight: with an answer.
            follow: whether the answer may be one to other words.
        """
        if not flight.answer or (flight.served is not None and not follow):
            self._miss("unshared")  # everybody asks for themselves
            return None
        envelope = unseal(flight.answer)
        return self._hit("flight", envelope, self._milliseconds(), flight.served)
