"""What every part of the LLM cache works with: its place, its rules of time, its counters."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from redis_tiered.checks import seconds
from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.flow import Flow, Redis
from redis_tiered.keys import part
from redis_tiered.llm_cache import scripts
from redis_tiered.llm_cache.envelope import Envelope
from redis_tiered.llm_cache.fingerprint import Fingerprint
from redis_tiered.llm_cache.flights import Flight, Flights
from redis_tiered.llm_cache.stats import Prices, Tally, Usage, checked_prices
from redis_tiered.tiers.epoch import Epoch
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
    from redis_tiered.llm_cache.semantic.semantic import Semantic

__all__ = ["DEFAULT_TTL", "Found", "Served", "Shelf"]

logger = logging.getLogger("redis_tiered")

DEFAULT_TTL = 86_400.0


def _text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


class Served(NamedTuple):
    """Why a stored answer was served to a question in other words.

    Attributes:
        asked: id of the question.
        entry: id of the entry whose answer was served.
        model: embedding model that compared them; "" if the wording was served before, or differs
            in case, white space or punctuation only.
        prompt: of that entry; "" as above.
        p: probability that the answer fits; NaN as above.
        cosine: of the two questions; NaN as above.
    """

    asked: str
    entry: str
    model: str = ""
    prompt: str = ""
    p: float = math.nan
    cosine: float = math.nan


class Found(NamedTuple):
    """A stored answer.

    Attributes:
        payload: the adapter's bytes.
        tier: that it came from; "semantic" if it was stored for another wording and is served to this
            one for the first time.
        age: in seconds.
        served: why, if it was stored for another wording; None: it was stored for this one.
    """

    payload: bytes
    tier: str
    age: float
    served: Served | None = None


class Shelf(ABC):
    """The entries of one cache of one tenant, and what this process knows and counts of them.

    Arguments and errors are those of `LLMCache`.
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
        semantic: SemanticPolicy | None = None,
        read_answer: Callable[[bytes], str | None] = _text,
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
        # Where one server has all keys, it follows an alias by itself.
        self._follows = False
        self._semantic: Semantic | None = None
        self._read_answer = read_answer
        if semantic is not None:
            self._begin_semantic(semantic, read_answer)
        tiers.on_fork(self)

    def _begin_semantic(
        self, policy: SemanticPolicy, read_answer: Callable[[bytes], str | None]
    ) -> None:
        from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
        from redis_tiered.llm_cache.semantic.semantic import Semantic

        if not isinstance(policy, SemanticPolicy):
            raise InvalidInput(
                f"semantic must be a SemanticPolicy or None, got {type(policy).__name__}"
            )
        if policy.mode == "off":
            return
        self._follows = self.tiers.settings.endpoint.topology != "cluster"
        self._semantic = Semantic(
            self.tiers, self._keys, self.name, policy, self._tally, read_answer, self
        )

    @abstractmethod
    def answer_of(self, digest: str) -> Flow[Envelope | None]:
        """See `Entries`."""

    @abstractmethod
    def named_by(self, digest: str) -> Flow[str | None]:
        """The digest that an alias names; "": none may; None: there is no alias."""

    @abstractmethod
    def rename(self, digest: str, entry: str, text: str) -> Flow[None]:
        """See `Entries`."""

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

    def _land(self, mark: Fingerprint, answer: bytes) -> Flight | None:
        return self._flights.land(mark.digest, answer) if len(self._flights) else None

    def _release(self, flight: Flight) -> Flow[None]:
        """Let other processes look in L3 at once; allowed even when Redis refuses writes."""
        if flight.lease is None:
            return
        try:
            yield Redis((("EVAL", scripts.RELEASE, 1, flight.lease, flight.token),))
        except TierError:
            return  # the lease ends by itself


def _share(name: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InvalidInput(f"{name} must be a number from 0 to {most}, got {value!r}")
    return float(value)
