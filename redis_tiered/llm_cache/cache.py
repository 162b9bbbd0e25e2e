"""The LLM cache: exact answers through process memory, Redis and the durable tier.

Framework-neutral: an adapter brings a canonical `Request` and the bytes of an answer. Every rule is
a flow; the public methods run it sync or async. The semantic cache will take its place between
the last exact tier and the miss.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from redis_tiered.errors import InvalidInput, TierError, TierUnavailable, Unreadable
from redis_tiered.flow import Command, Flow, Redis, Sql, Wait
from redis_tiered.keys import part
from redis_tiered.llm_cache.control import Control, current_control, seconds
from redis_tiered.llm_cache.envelope import (
    HEADER_BYTES,
    Envelope,
    seal,
    seal_for_memory,
    unseal,
    unseal_from_memory,
)
from redis_tiered.llm_cache.epoch import Epoch
from redis_tiered.llm_cache.fingerprint import Fingerprint, Request, fingerprint
from redis_tiered.llm_cache.flights import Flight, Flights, current_owner
from redis_tiered.llm_cache.stats import Prices, Stats, Tally, Usage, checked_prices
from redis_tiered.tiers.tiers import Tiers

__all__ = ["Found", "LLMCache"]

logger = logging.getLogger("redis_tiered")

DEFAULT_TTL = 86_400.0
# Redis takes no value of more than 512 MB, PostgreSQL none of more than 1 GB.
MAX_PAYLOAD = 256 * 1024 * 1024
# A lease is renewed every second; a leader that died is replaced after at most this long.
_LEASE_MS = 3000
_RENEW_EVERY = 1.0
# A waiter looks again this often in case it was not woken.
_WAIT = 0.25
# How long a deleted entry stays marked, so that a reader who fetched it from the durable tier just
# before cannot put it back into Redis.
_TOMBSTONE_MS = 60_000
_REPORT_EVERY = 2.0
_PURGE_EVERY = 60.0
# How often a process that could not tell Redis of a change tries again: the others do not know.
_REPAIR_EVERY = 0.25
_ATTEMPTS = 5

# Returns the answer; or 0: a plain miss; 1: a miss, and the lease is the caller's; 2: somebody
# else holds it; 3: a miss, but no lease can be written (out of memory, read-only). ARGV: own token ('' asks for no lease), its milliseconds, a dead leader's token.
_LOOK_UP = """
local answer = redis.call('HGET', KEYS[1], 'r')
if answer then return answer end
if ARGV[1] == '' then return 0 end
local holder = redis.call('GET', KEYS[2])
if holder == '-' then return 0 end
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then return 2 end
local taken = redis.pcall('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if taken.err then return 3 end
return 1
"""
# Writes an entry and frees the lease, unless a later revision of it, or its deletion, came first.
# ARGV: revision ('' if the durable tier gave none: then who comes last wins, by no clock of ours),
# milliseconds to keep, then fields and values. What needs memory comes first: after any write,
# a DEL even, a script is no longer refused when out of memory, and would grow beyond `maxmemory`.
# If there is no room for the new answer, the old one is not left in its place.
_STORE = """
local at = redis.call('HGET', KEYS[1], 'u')
local revision = ARGV[1]
if revision == '' then revision = at or '0'
elseif at and tonumber(at) > tonumber(revision) then
  redis.call('DEL', KEYS[2])
  return 0
end
local set = redis.pcall('HSET', KEYS[1], 'u', revision, unpack(ARGV, 3))
redis.call('DEL', KEYS[2])
if type(set) == 'table' then
  redis.call('DEL', KEYS[1])
  return set
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
# Warms an entry unless it was written or deleted meanwhile, and frees the lease.
_PROMOTE = """
local set = 0
if redis.call('EXISTS', KEYS[1]) == 0 then
  set = redis.pcall('HSET', KEYS[1], 'u', ARGV[1], 'r', ARGV[3])
end
redis.call('DEL', KEYS[2])
if type(set) == 'table' then return set end
if set > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return set
"""
# Deletes an entry and leaves a mark of a later revision than it and than ARGV[1].
_BURY = """
local at = redis.call('HGET', KEYS[1], 'u')
local mark = ARGV[1]
if at and tonumber(at) >= tonumber(mark) then mark = string.format('%.0f', tonumber(at) + 1) end
redis.call('DEL', KEYS[1], KEYS[2])
local marked = redis.pcall('HSET', KEYS[1], 'u', mark)
if type(marked) == 'number' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""
# Begins the TTL of an answer anew, if it is still the one that was read: ARGV[1] is its header.
_SLIDE = """
local answer = redis.call('HGET', KEYS[1], 'r')
if not answer or string.sub(answer, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'r', ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
# The set of a tag lives as long as its longest-lived member.
_TAG = """
redis.call('SADD', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""


class Found(NamedTuple):
    """A stored answer: the adapter's bytes, the tier it came from, its age in seconds."""

    payload: bytes
    tier: str
    age: float


class _Reply(NamedTuple):
    """What Redis said to `_LOOK_UP` about an entry, and what it was asked with."""

    key: bytes
    said: bytes | int
    token: str
    ticket: int


class _Answer(NamedTuple):
    """An answer on its way into the tiers."""

    mark: Fingerprint
    prompt: str | None
    data: bytes
    envelope: Envelope
    tokens: int
    tags: tuple[str, ...]


class LLMCache:
    """Exact answers to model requests, in three tiers, shared by processes.

    A failing tier is a miss, never an exception, in `lookup` and `update`; `clear` and `delete`
    raise, for their caller must know.

    Args:
        tiers: where entries live and for which tenant.
        name: caches of different names share nothing.
        ttl: seconds an answer stays valid; None: for ever (Redis then keeps it a day at a time).
        jitter: up to this share is taken off each TTL at random, so that entries written together
            do not expire together. 0 to 0.5.
        sliding: a hit begins the TTL anew (noticed when Redis is asked, not on an L1 hit).
        early: in the last share of an entry's TTL one caller is sent to the model to renew it
            while all others get the old answer. 0 (off) to 0.9.
        single_flight: seconds that identical misses wait for the first; 0: they do not wait.
        compress_from: payloads of at least so many bytes are compressed; None: none are.
        prices: dollars per million tokens, `{model: (input, output)}`, for `stats()`.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __init__(
        self,
        tiers: Tiers,
        *,
        name: str = "default",
        ttl: float | None = DEFAULT_TTL,
        jitter: float = 0.1,
        sliding: bool = False,
        early: float = 0.0,
        single_flight: float = 30.0,
        compress_from: int | None = 4096,
        prices: Prices | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(tiers, Tiers):
            raise InvalidInput(f"tiers must be a Tiers, got {type(tiers).__name__}")
        part("name", name)
        self.tiers = tiers
        self.name = name
        self._ttl = None if ttl is None else seconds("ttl", ttl)
        self._jitter = _share("jitter", jitter, 0.5)
        self._early = _share("early", early, 0.9)
        if not isinstance(sliding, bool):
            raise InvalidInput(f"sliding must be a bool, got {type(sliding).__name__}")
        self._sliding = sliding
        self._wait = (
            0.0
            if single_flight == 0 and not isinstance(single_flight, bool)
            else seconds("single_flight", single_flight)
        )
        if compress_from is not None and (
            not isinstance(compress_from, int)
            or isinstance(compress_from, bool)
            or compress_from < 0
        ):
            raise InvalidInput(
                f"compress_from must be a number of bytes >= 0 or None, got {compress_from!r}"
            )
        self._compress_from = compress_from
        self._prices = checked_prices(prices)
        self._now = now
        self._keys = tiers.keys.llm(name)
        self._memory = tiers.memory
        self._guards = tiers.guards
        self._epoch = Epoch(tiers, self._keys)
        self._flights = Flights(self._wait)
        self._tally = Tally()
        self._warned: set[str] = set()
        self._reporting = False
        self._renewing = False
        self._purging = False
        self._repairing = False
        self._unrenewed = False
        tiers.on_fork(self)

    def __repr__(self) -> str:
        return f"LLMCache({self.tiers!r}, name={self.name!r})"

    # Public methods: each in sync and async, both running the same flow.

    def lookup(self, request: Request) -> Found | None:
        """The stored answer, or None: ask the model and `update`.

        Raises:
            Uncacheable: the request cannot be sent to a provider at all.
        """
        control = current_control()
        mark = fingerprint(_checked(request))
        epoch = self._epoch.certain()
        found = self._recall(mark, control, epoch)
        return found if found is not None else self.tiers.run(self.look_up(mark, control, epoch))

    async def alookup(self, request: Request) -> Found | None:
        """As `lookup`."""
        control = current_control()
        mark = fingerprint(_checked(request))
        epoch = self._epoch.certain()
        found = self._recall(mark, control, epoch)
        if found is not None:
            return found
        return await self.tiers.arun(self.look_up(mark, control, epoch))

    def update(self, request: Request, payload: bytes, *, tokens: int = 0) -> None:
        """Store an answer and hand it to those who wait for it.

        Args:
            request: what was asked.
            payload: the answer, as the adapter encodes it.
            tokens: what the answer cost, kept beside it.
        """
        _check_answer(payload, tokens)
        mark = fingerprint(_checked(request))
        self.tiers.run(self.store(request, mark, payload, tokens, current_control()))

    async def aupdate(self, request: Request, payload: bytes, *, tokens: int = 0) -> None:
        """As `update`."""
        _check_answer(payload, tokens)
        mark = fingerprint(_checked(request))
        await self.tiers.arun(self.store(request, mark, payload, tokens, current_control()))

    def refuse(self, request: Request | None, reason: str, detail: str = "") -> None:
        """Count an answer, or a request (None), that is not stored; free those who wait for it."""
        self.tiers.run(self.decline(request, reason, detail))

    async def arefuse(self, request: Request | None, reason: str, detail: str = "") -> None:
        """As `refuse`."""
        await self.tiers.arun(self.decline(request, reason, detail))

    def clear(self) -> None:
        """Forget every answer of this cache and tenant, in every process.

        One change of epoch, whatever the number of entries; memory is reclaimed in the background.

        Raises:
            TierError: a tier could not be told. If it was Redis, the durable tier has already
                forgotten, and each process follows as soon as it finds Redis back.
        """
        self.tiers.run(self.clear_all())

    async def aclear(self) -> None:
        """As `clear`."""
        await self.tiers.arun(self.clear_all())

    def delete(self, request: Request) -> None:
        """Forget one answer, in every tier and process.

        Raises:
            TierError: the durable tier could not be told and nothing changed, or Redis could not.
        """
        self.tiers.run(self.bury((fingerprint(request).digest,)))

    async def adelete(self, request: Request) -> None:
        """As `delete`."""
        await self.tiers.arun(self.bury((fingerprint(request).digest,)))

    def delete_tag(self, tag: str) -> int:
        """Forget every answer stored under a tag and return how many there were.

        Raises:
            InvalidInput: not a usable tag.
            TierError: as `delete`.
        """
        part("tag", tag)
        return self.tiers.run(self.bury_tag(tag))

    async def adelete_tag(self, tag: str) -> int:
        """As `delete_tag`."""
        part("tag", tag)
        return await self.tiers.arun(self.bury_tag(tag))

    def stats(self, *, total: bool = False) -> Stats:
        """What this process did with this cache; or, asking Redis, what all processes did.

        Raises:
            TierError: `total` was asked and Redis failed.
        """
        if total:
            return Stats.of(self.tiers.run(self.totals()), self._prices)
        return Stats.of(self._tally.counts(), self._prices, self.tiers.guards.errors)

    async def astats(self, *, total: bool = False) -> Stats:
        """As `stats`."""
        if total:
            return Stats.of(await self.tiers.arun(self.totals()), self._prices)
        return Stats.of(self._tally.counts(), self._prices, self.tiers.guards.errors)

    def saved(self, usage: Usage) -> None:
        """Count what a hit saved."""
        if usage.input_tokens:
            self._tally.add(f"saved_input.{usage.model}", usage.input_tokens)
        if usage.output_tokens:
            self._tally.add(f"saved_output.{usage.model}", usage.output_tokens)

    def unreadable(self, reason: str) -> None:
        """Count stored bytes that are a miss."""
        self._tally.add(f"unreadable.{reason}")
        self._warn(
            f"unreadable.{reason}", "a stored answer cannot be read (%s): treated as a miss", reason
        )

    def reset_after_fork(self) -> None:
        self._flights.reset_after_fork()
        self._tally.reset_after_fork()
        self._reporting = self._renewing = self._purging = self._repairing = False

    # Looking up.

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
                [reply] = yield Redis(
                    (("EVAL", _LOOK_UP, 2, key, self._keys.lease(key), token, _LEASE_MS, ""),)
                )
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

    def _ask_redis(self, mark: Fingerprint, may_lead: bool, dead: str) -> Flow[_Reply]:
        """One round trip: the answer, or the lease, or who holds it; see `_LOOK_UP`."""
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
            ask: Command = ("EVAL", _LOOK_UP, 2, key, self._keys.lease(key), token, _LEASE_MS, dead)
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
                    (("SET", self._keys.lease(key), token, "NX", "PX", _LEASE_MS),), write=True
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
        if now - read_at > _TOMBSTONE_MS // 2:
            return False  # read too long ago: it may have been deleted, and its tombstone be gone
        residency = self._residency(envelope, now)
        if residency <= 0:
            return False
        try:
            yield Redis(
                (("EVAL", _PROMOTE, 2, key, self._keys.lease(key), revision, residency, data),),
                write=True,
            )
        except TierError:
            return False  # counted by the driver; the answer is in hand
        return True

    def _release(self, flight: Flight) -> Flow[None]:
        """Let other processes look in L3 at once; allowed even when Redis refuses writes."""
        if flight.lease is None:
            return
        try:
            yield Redis((("EVAL", _RELEASE, 1, flight.lease, flight.token),))
        except TierError:
            return  # the lease ends by itself

    def _slide(
        self, mark: Fingerprint, key: bytes, read: bytes, envelope: Envelope, now: int
    ) -> Flow[Envelope]:
        """Begin the TTL anew, in Redis and in L3; at most a few times per TTL."""
        later = envelope._replace(expires=now + envelope.ttl)
        data = seal(later, compress_from=self._compress_from)
        residency = self._residency(later, now)
        try:
            [slid] = yield Redis(
                (("EVAL", _SLIDE, 1, key, read[:HEADER_BYTES], data, residency),), write=True
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

    # Storing.

    def store(
        self, request: Request, mark: Fingerprint, payload: bytes, tokens: int, control: Control
    ) -> Flow[None]:
        """L3 first, then L2; then those who wait get the answer."""
        if not control.write:
            self._tally.add("skip.no_store")
            flight = self._flights.find(mark.digest)
            if flight is not None and flight.led_by(current_owner()):
                self._flights.land(mark.digest, b"", flight=flight)
            return
        now = self._milliseconds()
        ttl = self._ttl if control.ttl is None else control.ttl
        ttl_ms = (
            0 if ttl is None else max(1, int(ttl * 1000 * (1 - self._jitter * random.random())))
        )
        envelope = Envelope(payload, now, now + ttl_ms if ttl_ms else 0, ttl_ms)
        data = seal(envelope, compress_from=self._compress_from)
        answer = _Answer(mark, request.prompt, data, envelope, tokens, control.tags)
        revision = yield from self._store_durable(answer)
        stored = revision is not None
        kept = yield from self._store_redis(answer, revision)
        if not kept and (stored or self.tiers.durable is None):
            yield from self._outdated(mark)
        if stored or kept:
            self._tally.add("update.stored")
        else:
            self._tally.add("skip.no_tier")
        self._land(mark, data)
        self._schedule_report()

    def _store_durable(self, answer: _Answer) -> Flow[int | None]:
        """The revision under which L3 has it; None if it has not."""
        if self.tiers.durable is None:
            return None
        from redis_tiered.llm_cache import rows
        from redis_tiered.llm_cache.epoch import new_token

        row = rows.Row(
            scope=self._keys.scope,
            digest=answer.mark.digest,
            value=answer.data,
            prompt=None if answer.prompt is None else answer.prompt.encode(),
            prompt_scope=answer.mark.scope,
            created=answer.envelope.created,
            expires=answer.envelope.expires or None,
            revision=self._microseconds(),
            tokens=answer.tokens,
            tags=answer.tags,
        )
        try:
            revision: int = yield Sql(rows.write(row, new_token()), write=True)
        except TierError:
            return None
        self._schedule_purge()
        return revision

    def _store_redis(self, answer: _Answer, revision: int | None) -> Flow[bool]:
        """Whether Redis has it, or something later."""
        place = "" if revision is None else revision
        mark, envelope = answer.mark, answer.envelope
        residency = self._residency(envelope, envelope.created)
        fields: Command = (
            "r",
            answer.data,
            "s",
            mark.scope,
            "c",
            envelope.created,
            "t",
            answer.tokens,
        )
        if answer.prompt is not None:
            fields += ("p", answer.prompt)
        try:
            epoch = self._epoch.certain()
            confirmed = epoch is not None
            if epoch is None:
                epoch = self._epoch.likely()
            while True:
                if epoch is None:
                    epoch, confirmed = (yield from self._epoch.establish()), True
                key = self._keys.entry(epoch, mark.digest)
                ticket = self._memory.ticket()
                commands: tuple[Command, ...] = (
                    ("EVAL", _STORE, 2, key, self._keys.lease(key), place, residency, *fields),
                    *(
                        ("EVAL", _TAG, 1, self._keys.tag(epoch, tag), mark.digest, residency)
                        for tag in answer.tags
                    ),
                )
                if confirmed:
                    yield Redis(commands, write=True)
                else:
                    [stored, *_] = yield Redis((("GET", self._keys.epoch), *commands), write=True)
                    confirmed = self._epoch.confirm(stored, ticket)
                # The server's own message may come after we return: our caller reads its write.
                self._memory.invalidate((key,))
                if confirmed:
                    return True
                epoch = None
        except TierError:
            return False

    def _outdated(self, mark: Fingerprint) -> Flow[None]:
        """Redis missed a write: what it holds of this entry is the answer before."""
        try:
            epoch = yield from self._epoch.establish()
            key = self._keys.entry(epoch, mark.digest)
            # Allowed even when the server is out of memory. The lease too: the answer is in L3.
            # One key each: while their slot migrates, one command cannot reach both (TRYAGAIN).
            yield Redis((("DEL", key), ("DEL", self._keys.lease(key))))
        except TierError:
            if self.tiers.durable is None:
                return  # counted; nothing was promised
            try:
                yield from self._renew(clear=False)
            except TierError:
                return  # counted; tried again in the background until both tiers know

    def decline(self, request: Request | None, reason: str, detail: str) -> Flow[None]:
        """Count what is not stored; tell those who wait, here and elsewhere, to ask themselves."""
        self._tally.add(f"skip.{reason}")
        self._warn(
            f"skip.{reason}",
            "not cached (%s): %s",
            reason,
            detail or "see the documentation of stats()",
        )
        if request is None:
            return
        digest = fingerprint(request).digest
        flight = self._flights.find(digest)
        if flight is None or not flight.led_by(current_owner()):
            return  # not ours to end
        self._flights.land(digest, b"", flight=flight)
        if flight.lease is not None:
            try:
                yield Redis((("SET", flight.lease, "-", "PX", _LEASE_MS),), write=True)
            except TierError:
                return  # the lease ends by itself

    # Forgetting.

    def clear_all(self) -> Flow[None]:
        old = self._epoch.likely()
        if old is None:
            try:
                old = yield from self._epoch.establish()
            except TierError:
                old = None  # Redis is away; what it holds ends with its TTL
        yield from self._renew(clear=True)
        self._schedule_reclaim(old)

    def _renew(self, *, clear: bool) -> Flow[None]:
        """Begin a new epoch; what Redis could not be told now it is told as soon as it is back.

        Raises:
            TierError: as `Epoch.renew`.
        """
        try:
            yield from self._epoch.renew(clear=clear)
        except TierError as error:
            if self.tiers.durable is not None:
                self._unrenewed = self._unrenewed or (error.tier == "durable" and not clear)
                if self._unrenewed or error.tier == "redis":
                    self._schedule_repair()
            raise

    def _repair(self) -> Flow[None]:
        if self._unrenewed:
            self._unrenewed = False
            yield from self._renew(clear=False)
        yield from self._epoch.establish()
        if self._epoch.likely() is None:
            raise TierUnavailable("durable", "epoch", "not confirmed yet")

    def bury(self, digests: tuple[str, ...]) -> Flow[None]:
        """Delete entries from L3, then from Redis, where a mark keeps them from coming back."""
        revisions: dict[str, int] = {}
        if self.tiers.durable is not None:
            from redis_tiered.llm_cache import rows

            revisions = yield Sql(rows.forget(self._keys.scope, digests), write=True)
        yield from self._bury_in_redis(dict.fromkeys(digests, 0) | revisions)

    def _bury_in_redis(self, revisions: Mapping[str, int]) -> Flow[None]:
        """Delete entries by digest; each with the revision that L3 deleted, or 0."""
        try:
            epoch = yield from self._epoch.establish()
            now = self._microseconds()
            keys = {digest: self._keys.entry(epoch, digest) for digest in revisions}
            yield Redis(
                tuple(
                    (
                        *("EVAL", _BURY, 2, keys[digest], self._keys.lease(keys[digest])),
                        max(now, revision + 1),
                        _TOMBSTONE_MS,
                    )
                    for digest, revision in revisions.items()
                )
            )
            self._memory.invalidate(keys.values())
        except TierError:
            if self.tiers.durable is None:
                raise
            # L3 has forgotten them: make all that Redis holds unreachable instead.
            yield from self._renew(clear=False)

    def bury_tag(self, tag: str) -> Flow[int]:
        gone: set[str] = set()
        if self.tiers.durable is not None:
            from redis_tiered.llm_cache import rows

            while digests := (yield Sql(rows.forget_tag(self._keys.scope, tag), write=True)):
                yield from self._bury_in_redis(digests)
                gone.update(digests)
        # Entries that L3 could not take when they were written are known to Redis alone.
        try:
            epoch = yield from self._epoch.establish()
            key = self._keys.tag(epoch, tag)
            while members := (yield Redis((("SPOP", key, 500),), write=True, idempotent=False))[0]:
                digests = tuple(
                    member.decode() for member in members if member.decode() not in gone
                )
                if digests:
                    yield from self._bury_in_redis(dict.fromkeys(digests, 0))
                    gone.update(digests)
        except TierError:
            if self.tiers.durable is None:
                raise
            yield from self._renew(clear=False)
        return len(gone)

    # Counting, and what happens in the background.

    def totals(self) -> Flow[dict[str, int]]:
        """Counters of all processes, this one's included."""
        yield from self._report()
        [flat] = yield Redis(
            (("EVAL", "return redis.call('HGETALL', KEYS[1])", 1, self._keys.stats),)
        )
        return {flat[i].decode(): int(flat[i + 1]) for i in range(0, len(flat), 2)}

    def _report(self) -> Flow[None]:
        pending = self._tally.take_pending()
        if not pending:
            return
        commands = tuple(("HINCRBY", self._keys.stats, name, by) for name, by in pending.items())
        try:
            yield Redis(commands, write=True, idempotent=False)
        except TierError as error:
            if error.kind not in ("timeout", "reset"):  # these may have been counted: not twice
                self._tally.put_back(pending)
            raise

    def _hit(self, tier: str, envelope: Envelope, now: int) -> Found:
        self._tally.add(f"hit.{tier}")
        if not self._reporting:
            self._schedule_report()
        return Found(envelope.payload, tier, max(0, now - envelope.created) / 1000)

    def _miss(self, reason: str) -> None:
        self._tally.add(f"miss.{reason}")
        if not self._reporting:
            self._schedule_report()

    def _warn(self, topic: str, message: str, *arguments: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning(f"{message} (said once)", *arguments)

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)

    def _microseconds(self) -> int:
        return int(self._now() * 1_000_000)

    @staticmethod
    def _is_over(envelope: Envelope, now: int) -> bool:
        return 0 < envelope.expires <= now

    def _is_due(self, envelope: Envelope, now: int) -> bool:
        return (
            self._early > 0
            and envelope.ttl > 0
            and envelope.expires - now < envelope.ttl * self._early
        )

    def _residency(self, envelope: Envelope, now: int) -> int:
        """Milliseconds that Redis keeps an entry: as long as it is valid, at most a day if for ever."""
        remaining = envelope.remaining(now)
        return int(DEFAULT_TTL * 1000) if remaining is None else remaining

    def _board(self, mark: Fingerprint, token: str, key: bytes) -> Flight:
        flight = self._flights.lead(mark.digest, current_owner(), token, self._keys.lease(key))
        if not self._renewing:
            self._renewing = True
            self.tiers.housekeeper.submit(self._renew_leases, after=_RENEW_EVERY)
        return flight

    def _land(self, mark: Fingerprint, answer: bytes) -> Flight | None:
        return self._flights.land(mark.digest, answer) if len(self._flights) else None

    def _renew_leases(self) -> float | None:
        live, ended = self._flights.sweep()
        commands: list[Command] = [
            ("EVAL", _RENEW, 1, flight.lease, flight.token, _LEASE_MS)
            for flight in live
            if flight.lease
        ]
        commands += [
            ("EVAL", _RELEASE, 1, flight.lease, flight.token) for flight in ended if flight.lease
        ]
        if commands:
            try:
                self.tiers.run(_send(commands))
            except TierError as error:
                logger.debug("leases not renewed: %s", error)
        self._renewing = bool(live)
        return _RENEW_EVERY if live else None

    def _schedule_report(self) -> None:
        if not self._reporting:
            self._reporting = True
            self.tiers.housekeeper.submit(self._report_now, after=_REPORT_EVERY)

    def _report_now(self) -> float | None:
        self._reporting = False
        try:
            self.tiers.run(self._report())
        except TierError as error:
            logger.debug("counters not reported: %s", error)
            self._reporting = True
            return _REPORT_EVERY
        return None

    def flush_counters(self) -> None:
        """Report what is pending, at close; a failing Redis loses it."""
        try:
            self.tiers.run(self._report())
        except TierError as error:
            logger.debug("counters not reported: %s", error)

    def _schedule_repair(self) -> None:
        if not self._repairing:
            self._repairing = True
            self.tiers.housekeeper.submit(self._repair_now, after=_REPAIR_EVERY)

    def _repair_now(self) -> float | None:
        try:
            self.tiers.run(self._repair())
        except TierError as error:
            logger.debug("epoch not confirmed: %s", error)
            return _REPAIR_EVERY
        self._repairing = False
        return None

    def _schedule_purge(self) -> None:
        if not self._purging:
            self._purging = True
            self.tiers.housekeeper.submit(self._purge_now, after=_PURGE_EVERY)

    def _purge_now(self) -> float | None:
        self._purging = False
        self._reclaim_rows(None)
        return None

    def _schedule_reclaim(self, old: str | None) -> None:
        def job() -> float | None:
            try:
                if self.tiers.durable is not None:
                    self._reclaim_rows(old)
                elif old is not None:
                    self.tiers.run(self._scan_away(old))
            except TierError as error:
                logger.debug("memory not reclaimed, it ends with its TTL: %s", error)
            return None

        self.tiers.housekeeper.submit(job)

    def _reclaim_rows(self, old: str | None) -> None:
        try:
            self.tiers.run(self._sweep_rows(old))
        except TierError as error:
            logger.debug("rows not reclaimed: %s", error)

    def _sweep_rows(self, old: str | None) -> Flow[None]:
        from redis_tiered.llm_cache import rows

        while True:
            count, cleared = yield Sql(
                rows.purge(self._keys.scope, self._milliseconds()), write=True
            )
            if old is not None and cleared:
                yield Redis(tuple(("UNLINK", self._keys.entry(old, digest)) for digest in cleared))
            if not count:
                return

    def _scan_away(self, old: str) -> Flow[None]:
        """Without L3 nobody knows the old keys: walk the server's, in small steps."""
        for node in range(len(self.tiers.primaries())):
            cursor = b"0"
            while True:
                scan: Command = ("SCAN", cursor, "MATCH", self._keys.pattern(old), "COUNT", 500)
                [[cursor, keys]] = yield Redis((scan,), node=node)
                if keys:
                    yield Redis(tuple(("UNLINK", key) for key in keys))
                if cursor == b"0":
                    break


def _checked(request: object) -> Request:
    if type(request) is not Request:
        raise InvalidInput(f"request must be a Request, got {type(request).__name__}")
    return request


def _check_answer(payload: object, tokens: object) -> None:
    if not isinstance(payload, bytes) or not payload:
        raise InvalidInput(f"payload must be bytes, at least one, got {type(payload).__name__}")
    if len(payload) > MAX_PAYLOAD:
        raise InvalidInput(f"payload must be at most {MAX_PAYLOAD} bytes, got {len(payload)}")
    if type(tokens) is not int or not 0 <= tokens < 1 << 63:
        raise InvalidInput(f"tokens must be an int from 0 to 2**63 - 1, got {tokens!r}")


def _send(commands: list[Command]) -> Flow[None]:
    yield Redis(tuple(commands), write=True)


def _share(name: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InvalidInput(f"{name} must be a number from 0 to {most}, got {value!r}")
    return float(value)
