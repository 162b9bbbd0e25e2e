"""The LLM cache: exact answers through process memory, Redis and the durable tier.

Framework-neutral: an adapter brings a canonical `Request` and the bytes of an answer. Every rule is
a flow; the public methods run it sync or async. The semantic cache will take its place between
the last exact tier and the miss.
"""

from __future__ import annotations

from redis_tiered.errors import InvalidInput
from redis_tiered.keys import part
from redis_tiered.llm_cache.control import current_control
from redis_tiered.llm_cache.fingerprint import Request, fingerprint
from redis_tiered.llm_cache.reading import Reading
from redis_tiered.llm_cache.shelf import DEFAULT_TTL, Found
from redis_tiered.llm_cache.stats import Stats
from redis_tiered.llm_cache.writing import Writing

__all__ = ["DEFAULT_TTL", "MAX_PAYLOAD", "Found", "LLMCache"]

# Redis takes no value of more than 512 MB, PostgreSQL none of more than 1 GB.
MAX_PAYLOAD = 256 * 1024 * 1024


class LLMCache(Reading, Writing):
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

    def __repr__(self) -> str:
        return f"LLMCache({self.tiers!r}, name={self.name!r})"

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
