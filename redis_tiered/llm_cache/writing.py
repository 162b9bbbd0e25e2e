"""Storing an answer, durable tier first; and forgetting answers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from redis_tiered.errors import TierError, Unreadable
from redis_tiered.flow import Command, Flow, Redis, Sql
from redis_tiered.llm_cache import scripts
from redis_tiered.llm_cache.control import Control
from redis_tiered.llm_cache.envelope import HEADER_BYTES, Envelope, seal, unseal
from redis_tiered.llm_cache.fingerprint import Fingerprint, Request, fingerprint
from redis_tiered.llm_cache.flights import Flight, current_owner
from redis_tiered.llm_cache.shelf import DEFAULT_TTL
from redis_tiered.llm_cache.upkeep import Upkeep

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.quest import Quest

__all__ = ["Writing"]


class _Answer(NamedTuple):
    """An answer on its way into the tiers."""

    mark: Fingerprint
    prompt: str | None
    data: bytes
    envelope: Envelope
    tokens: int
    tags: tuple[str, ...]
    alias: tuple[str, Envelope] | None


class Writing(Upkeep):
    """The flows of storing, which never fail, and of forgetting, which do, for one must know."""

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
        quest = None if self._semantic is None else self._semantic.answered(request, mark)
        ttl = self._seconds_of(quest, control)
        ttl_ms = (
            0 if ttl is None else max(1, int(ttl * 1000 * (1 - self._jitter * random.random())))
        )
        envelope = Envelope(payload, now, now + ttl_ms if ttl_ms else 0, ttl_ms)
        data = seal(envelope, compress_from=self._compress_from)
        alias = None
        if quest is not None and control.semantic:
            # Found by it if only case, white space or final punctuation differ.
            alias = quest.wording, envelope._replace(payload=mark.digest.encode(), alias=True)
        answer = _Answer(mark, request.prompt, data, envelope, tokens, control.tags, alias)
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
        if self._semantic is not None and quest is not None and (stored or kept):
            yield from self._semantic.stored(quest, payload, ttl_ms, control)
        self._schedule_report()

    def _seconds_of(self, quest: Quest | None, control: Control) -> float | None:
        """How long an answer stays valid; None: for ever."""
        if control.ttl is not None:
            return control.ttl
        if self._semantic is not None and quest is not None:
            return self._semantic.ttl(quest, self._ttl)
        return self._ttl

    def _store_durable(self, answer: _Answer) -> Flow[int | None]:
        """The revision under which L3 has it; None if it has not."""
        if self.tiers.durable is None:
            return None
        from redis_tiered.llm_cache import rows
        from redis_tiered.tiers.identity import new_token

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
        alias = None
        if answer.alias is not None:
            digest, envelope = answer.alias
            value = seal(envelope, compress_from=None)
            alias = replace(row, digest=digest, value=value, prompt=None, tokens=0, tags=())
        try:
            revision: int = yield Sql(rows.write(row, new_token(), alias=alias), write=True)
        except TierError:
            return None
        self._schedule_purge()
        return revision

    def _store_redis(self, answer: _Answer, revision: int | None) -> Flow[bool]:
        """Whether Redis has it, or something later."""
        place = "" if revision is None else revision
        mark, envelope = answer.mark, answer.envelope
        residency = self._residency(envelope, envelope.created)

        def commands(epoch: str) -> tuple[Command, ...]:
            key = self._keys.entry(epoch, mark.digest)
            words = (key, self._keys.lease(key), place, residency, "r", answer.data)
            return (
                ("EVAL", scripts.STORE, 2, *words),
                *self._alias_of(answer, epoch),
                *(
                    ("EVAL", scripts.TAG, 1, self._keys.tag(epoch, tag), mark.digest, residency)
                    for tag in answer.tags
                ),
            )

        try:
            _, epoch, _ = yield from self._epoch.ask(commands, write=True)
        except TierError:
            return False
        # The server's own message may come after we return: our caller reads its write.
        self._memory.invalidate((self._keys.entry(epoch, mark.digest),))
        return True

    def _alias_of(self, answer: _Answer, epoch: str) -> tuple[Command, ...]:
        if answer.alias is None:
            return ()
        key = self._keys.entry(epoch, answer.alias[0])
        alias = self._alias(answer.mark.digest, answer.envelope)
        if alias is None:
            return ()
        return (
            ("EVAL", scripts.STORE, 2, key, self._keys.lease(key), "", alias[0], "r", alias[1]),
        )

    def rename(self, digest: str, entry: str, text: str) -> Flow[None]:
        """See `Entries`; a tier that fails leaves things as they are."""
        try:
            named = yield from self.answer_of(entry)
            epoch = self._epoch.certain() or (yield from self._epoch.establish())
            key = self._keys.entry(epoch, digest)
            [held] = yield Redis((("HGET", key, "r"),))
            fresh = unseal(held or b"")
            if named is None or fresh.alias or self._read_answer(fresh.payload) != text:
                return
            alias = self._alias(entry, named)
            if alias is None:
                return
            residency, data = alias
            if self.tiers.durable is not None:
                from redis_tiered.llm_cache import rows

                work = rows.rename(
                    self._keys.scope, digest, data, fresh.created, named.expires or None
                )
                if not (yield Sql(work, write=True)):
                    return
            words = (key, held[:HEADER_BYTES], data, residency)
            yield Redis((("EVAL", scripts.SLIDE, 1, *words),), write=True)
            self._memory.invalidate((key,))
        except (TierError, Unreadable):
            return

    def withhold(self, digest: str) -> Flow[None]:
        """Have no answer to other words served here, until the model has answered; as far as the tiers
        can be told. What says so is an alias of nothing."""
        now = self._milliseconds()
        ttl_ms = int((self._ttl or DEFAULT_TTL) * 1000)
        nothing = Envelope(b"", now, now + ttl_ms, ttl_ms, alias=True)
        mark = Fingerprint(digest, "")
        answer = _Answer(mark, None, seal(nothing, compress_from=None), nothing, 0, (), None)
        revision = yield from self._store_durable(answer)
        yield from self._store_redis(answer, revision)

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
                yield from self._epoch.renew(clear=False)
            except TierError:
                return  # counted; tried again in the background until both tiers know

    def decline(
        self, request: Request | None, reason: str, detail: str, mine: Flight | None = None
    ) -> Flow[None]:
        """Count what is not stored; tell those who wait, here and elsewhere, to ask themselves.

        Args:
            request: for which there was an answer; None: it was the request that could not be stored.
            reason: counted.
            detail: told once in the log.
            mine: the flight, where it may have been another task or thread that began it.
        """
        self._tally.add(f"skip.{reason}")
        if request is not None and self._semantic is not None:
            self._semantic.declined(fingerprint(request).digest)
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
        if flight is None or not (flight is mine or flight.led_by(current_owner())):
            return  # not ours to end
        self._flights.land(digest, b"", flight=flight)
        if flight.lease is not None:
            try:
                yield Redis((("SET", flight.lease, "-", "PX", scripts.LEASE_MS),), write=True)
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
        yield from self._epoch.renew(clear=True)
        self._schedule_reclaim(old)
        if self._semantic is not None:
            yield from self._semantic.cleared()

    def bury(self, digests: tuple[str, ...]) -> Flow[None]:
        """Delete entries from L3, then from Redis, where a mark keeps them from coming back."""
        revisions: dict[str, int] = {}
        if self.tiers.durable is not None:
            from redis_tiered.llm_cache import rows

            revisions = yield Sql(rows.forget(self._keys.scope, digests), write=True)
        yield from self._bury_in_redis(dict.fromkeys(digests, 0) | revisions)
        if self._semantic is not None:
            yield from self._semantic.removed(digests)

    def bury_request(self, request: Request) -> Flow[None]:
        """Delete a request's entry; with a semantic part, also what it is an alias of."""
        mark = fingerprint(request)
        digests = {mark.digest}
        if self._semantic is not None and request.prompt is not None:
            quest = self._semantic.quest(request, mark)
            assert quest is not None
            digests.add(quest.wording)
            for digest in (mark.digest, quest.wording):
                named = yield from self.named_by(digest)
                if named:
                    digests.add(named)
        yield from self.bury(tuple(digests))

    def _bury_in_redis(self, revisions: Mapping[str, int]) -> Flow[None]:
        """Delete entries by digest; each with the revision that L3 deleted, or 0."""
        try:
            epoch = yield from self._epoch.establish()
            now = self._microseconds()
            keys = {digest: self._keys.entry(epoch, digest) for digest in revisions}
            yield Redis(
                tuple(
                    (
                        *("EVAL", scripts.BURY, 2, keys[digest], self._keys.lease(keys[digest])),
                        max(now, revision + 1),
                        scripts.TOMBSTONE_MS,
                    )
                    for digest, revision in revisions.items()
                )
            )
            self._memory.invalidate(keys.values())
        except TierError:
            if self.tiers.durable is None:
                raise
            # L3 has forgotten them: make all that Redis holds unreachable instead.
            yield from self._epoch.renew(clear=False)

    def bury_tag(self, tag: str) -> Flow[int]:
        gone: set[str] = set()
        if self.tiers.durable is not None:
            from redis_tiered.llm_cache import rows

            while digests := (yield Sql(rows.forget_tag(self._keys.scope, tag), write=True)):
                yield from self._bury_in_redis(digests)
                if self._semantic is not None:
                    yield from self._semantic.removed(tuple(digests))
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
                    if self._semantic is not None:
                        yield from self._semantic.removed(digests)
                    gone.update(digests)
        except TierError:
            if self.tiers.durable is None:
                raise
            yield from self._epoch.renew(clear=False)
        return len(gone)
