"""The LLM cache: answers through process memory, Redis and the durable tier, to the same question or,
with a `SemanticPolicy`, to the same question in other words.

Framework-neutral: an adapter brings a canonical `Request` and the bytes of an answer. Every rule is
a flow; the public methods run it sync or async.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis_tiered.checks import seconds
from redis_tiered.errors import InvalidInput
from redis_tiered.flow import Flow
from redis_tiered.keys import part
from redis_tiered.llm_cache.control import Control, current_control
from redis_tiered.llm_cache.fingerprint import Fingerprint, Request, fingerprint
from redis_tiered.llm_cache.flights import Flight, current_owner
from redis_tiered.llm_cache.reading import Reading
from redis_tiered.llm_cache.shelf import DEFAULT_TTL, Found, Served
from redis_tiered.llm_cache.stats import Stats
from redis_tiered.llm_cache.writing import Writing

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.explanation import Explanation
    from redis_tiered.llm_cache.semantic.quest import Quest
    from redis_tiered.llm_cache.semantic.semantic import Semantic
    from redis_tiered.llm_cache.semantic.tools.calibration import Calibration

__all__ = ["DEFAULT_TTL", "MAX_PAYLOAD", "Found", "LLMCache", "Served"]

# Redis takes no value of more than 512 MB, PostgreSQL none of more than 1 GB.
MAX_PAYLOAD = 256 * 1024 * 1024
_ID = re.compile("[0-9a-f]{32}")


class LLMCache(Reading, Writing):
    """Answers to model requests, in three tiers, shared by processes.

    A failing tier is a miss, never an exception, in `lookup` and `update`; `clear` and `delete`
    raise, for their caller must know. With `semantic`, a request that is new may get the answer to one
    that says the same in other words.

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
        semantic: when an answer serves other wordings, too; None: never.
        read_answer: gives an answer's text of its payload; None where it is not plain text, so that
            it serves its own wording only. The default reads UTF-8.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __repr__(self) -> str:
        return f"LLMCache({self.tiers!r}, name={self.name!r})"

    @property
    def semantic(self) -> bool:
        """Whether an answer may serve other wordings."""
        return self._semantic is not None

    @property
    def read_answer(self) -> Callable[[bytes], str | None]:
        """What gives an answer's text of its payload."""
        return self._read_answer

    def lookup(self, request: Request) -> Found | None:
        """The stored answer, or None: ask the model and `update`.

        Raises:
            Uncacheable: the request cannot be sent to a provider at all.
        """
        control = current_control()
        mark = fingerprint(_checked(request))
        epoch = self._epoch.certain()
        found = self._recall(mark, control, epoch)
        if found is not None:
            return found
        quest = self._quest(request, mark, control)
        return self.tiers.run(self.look_up(mark, control, epoch, quest))

    async def alookup(self, request: Request) -> Found | None:
        """As `lookup`."""
        control = current_control()
        mark = fingerprint(_checked(request))
        epoch = self._epoch.certain()
        found = self._recall(mark, control, epoch)
        if found is not None:
            return found
        quest = self._quest(request, mark, control)
        return await self.tiers.arun(self.look_up(mark, control, epoch, quest))

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

    def refuse(
        self,
        request: Request | None,
        reason: str,
        detail: str = "",
        *,
        flight: Flight | None = None,
    ) -> None:
        """Count an answer, or a request (None), that is not stored; free those who wait for it.

        Args:
            request: what was asked.
            reason: as `stats()` tells it.
            detail: for the log.
            flight: `leading` of it, where another task or thread may have looked it up.
        """
        self.tiers.run(self.decline(request, reason, detail, flight))

    async def arefuse(
        self,
        request: Request | None,
        reason: str,
        detail: str = "",
        *,
        flight: Flight | None = None,
    ) -> None:
        """As `refuse`."""
        await self.tiers.arun(self.decline(request, reason, detail, flight))

    def leading(self, request: Request) -> Flight | None:
        """What others wait for, if it is this caller whom `lookup` has sent to the model."""
        flight = self._flights.find(fingerprint(_checked(request)).digest)
        return flight if flight is not None and flight.led_by(current_owner()) else None

    def abandon(self, request: Request, reason: str, flight: Flight | None) -> None:
        """Count a model call that gave no answer; of those who wait for it one may ask instead.

        It does no I/O: a task that was cancelled may call it.

        Args:
            request: what was asked.
            reason: as `stats()` tells it.
            flight: `leading` of it; None: those who wait find out themselves, and nothing is locked.
        """
        self._tally.add(f"skip.{reason}")
        digest = fingerprint(_checked(request)).digest
        if flight is None:
            return
        if self._semantic is not None:
            self._semantic.declined(digest)
        if self._flights.land(digest, None, flight=flight) is not None:
            self._release_later(flight)

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
        """Forget one answer, in every tier and process; if it is one to other words, that.

        Raises:
            TierError: the durable tier could not be told and nothing changed, or Redis could not.
        """
        self.tiers.run(self.bury_request(_checked(request)))

    async def adelete(self, request: Request) -> None:
        """As `delete`."""
        await self.tiers.arun(self.bury_request(_checked(request)))

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

    # Other wordings.

    def _quest(self, request: Request, mark: Fingerprint, control: Control) -> Quest | None:
        semantic = self._semantic
        if semantic is None or not control.semantic or not control.read or control.refresh:
            return None
        return semantic.quest(request, mark)

    def _needed(self) -> Semantic:
        if self._semantic is None:
            raise InvalidInput(
                "the cache has no semantic part: give it semantic=SemanticPolicy(...)"
            )
        return self._semantic

    def feedback(self, served: Served, *, correct: bool) -> None:
        """Tell whether an answer that was served to other words was right.

        A wrong one is forgotten for these words, which the model then answers, its entry serves no
        other words any more, and the budget for wrong answers has one less to spend.

        Args:
            served: `Found.served` of the hit.
            correct: whether the answer was right.

        Raises:
            InvalidInput: it is no `Served`, or the cache has no semantic part.
            TierError: a tier could not be told.
        """
        self.tiers.run(self._feedback(served, correct))

    async def afeedback(self, served: Served, *, correct: bool) -> None:
        """As `feedback`."""
        await self.tiers.arun(self._feedback(served, correct))

    def _feedback(self, served: object, correct: object) -> Flow[None]:
        semantic = self._needed()
        _check_served(served)
        assert isinstance(served, Served)
        if not isinstance(correct, bool):
            raise InvalidInput(f"correct must be a bool, got {type(correct).__name__}")
        yield from semantic.judged(served, correct)
        if not correct:
            yield from self.bury((served.asked,))
            yield from self.withhold(served.asked)

    def adopt(self, calibration: Calibration) -> None:
        """Decide by a calibration from now on, in every process, until another is adopted.

        Raises:
            InvalidInput: it was made with another embedding model, or the cache has no semantic part.
            TierError: a tier could not be told.
        """
        self.tiers.run(self._needed().adopt(calibration))

    async def aadopt(self, calibration: Calibration) -> None:
        """As `adopt`."""
        await self.tiers.arun(self._needed().adopt(calibration))

    def explain(self, request: Request | str) -> Explanation:
        """What a lookup would do now, and why; it leaves no trace.

        Args:
            request: or a prompt, compared with questions of every scope; a real request is compared
                with those of its own only.

        Raises:
            InvalidInput: it is neither, or the cache has no semantic part.
            TierError: a tier that must be asked failed.
        """
        return self.tiers.run(self._explain(request))

    async def aexplain(self, request: Request | str) -> Explanation:
        """As `explain`."""
        return await self.tiers.arun(self._explain(request))

    def _explain(self, request: object) -> Flow[Explanation]:
        from redis_tiered.llm_cache.semantic.explanation import explained

        semantic = self._needed()
        anywhere = isinstance(request, str)
        if isinstance(request, str):
            request = Request(b"", b"", request)
        checked = _checked(request)
        mark = fingerprint(checked)
        exact = yield from self.answer_of(mark.digest)
        if exact is not None or checked.prompt is None:
            return explained(semantic, checked, exact=exact is not None, quest=None)
        if (yield from self.named_by(mark.digest)) == "":
            return explained(semantic, checked, exact=False, quest=None, withheld=True)
        quest = yield from semantic.preview(checked, mark, anywhere=anywhere)
        alike = yield from self.named_by(quest.wording)
        return explained(semantic, checked, exact=False, quest=quest, alike=alike is not None)

    def semantic_report(self) -> dict[str, Any]:
        """What the semantic part decided and learnt, by embedding model, in this process and in those
        before it.

        In mode "shadow" it tells what would have been served, and how much of it would have been wrong.

        Raises:
            InvalidInput: the cache has no semantic part.
            TierError: nothing is known here, and no tier can tell.
        """
        return self.tiers.run(self._needed().report())

    async def asemantic_report(self) -> dict[str, Any]:
        """As `semantic_report`."""
        return await self.tiers.arun(self._needed().report())

    def settle(self, timeout: float = 10.0) -> bool:
        """Wait until answers stored so far are compared in the background; False: it took too long.

        Raises:
            InvalidInput: not a number of seconds.
        """
        seconds("timeout", timeout)
        return self._semantic is None or self._semantic.settle(timeout)


def _checked(request: object) -> Request:
    if type(request) is not Request:
        raise InvalidInput(f"request must be a Request, got {type(request).__name__}")
    return request


def _check_served(served: object) -> None:
    if not isinstance(served, Served):
        raise InvalidInput(f"served must be a Served, got {type(served).__name__}")
    ids = isinstance(served.asked, str) and isinstance(served.entry, str)
    if not ids or not _ID.fullmatch(served.asked) or not _ID.fullmatch(served.entry):
        raise InvalidInput("served must be what a hit gave: its ids are none")
    if not isinstance(served.model, str) or not isinstance(served.p, float):
        raise InvalidInput("served must be what a hit gave: its model or p is of another type")
    if served.model and not 0.0 <= served.p <= 1.0:
        raise InvalidInput(f"served must be what a hit gave: its p is {served.p}")


def _check_answer(payload: object, tokens: object) -> None:
    if not isinstance(payload, bytes) or not payload:
        raise InvalidInput(f"payload must be bytes, at least one, got {type(payload).__name__}")
    if len(payload) > MAX_PAYLOAD:
        raise InvalidInput(f"payload must be at most {MAX_PAYLOAD} bytes, got {len(payload)}")
    if type(tokens) is not int or not 0 <= tokens < 1 << 63:
        raise InvalidInput(f"tokens must be an int from 0 to 2**63 - 1, got {tokens!r}")
