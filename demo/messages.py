"""What the demo and its workers tell each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from demo.plan import Ask
from redis_tiered import Tiers

__all__ = ["Answered", "Batch", "Ended", "Setup"]


@dataclass(frozen=True)
class Setup:
    """What a worker is told when it starts.

    Attributes:
        tiers: where answers live, shared by all workers.
        model: name of the model.
        ports: of each tenant's model server on this machine; empty: the real API.
        prices: dollars per million tokens, input and output.
        users: how many ask at the same time.
        native_async: asyncio tasks that `ainvoke`, instead of threads that `invoke`.
    """

    tiers: Tiers
    model: str
    ports: Mapping[str, int]
    prices: Mapping[str, tuple[float, float]]
    users: int
    native_async: bool = False


class Batch(NamedTuple):
    """Requests to make; each user pauses `pause` seconds on average before each."""

    asks: Sequence[Ask]
    pause: float


class Answered(NamedTuple):
    """What became of one request.

    Attributes:
        ask: the request.
        began: `time.monotonic()`, the same clock in all processes.
        tier: "memory", "redis", "durable", "flight", or "model" where the model was called.
        lookup: seconds spent in the cache's lookup.
        chain: seconds for the whole chain.
        digest: of the answer's text.
        foreign: the answer names another tenant's company.
        tokens: input and output tokens of the model call, if there was one.
        error: what was raised, or "".
    """

    ask: Ask
    began: float
    tier: str
    lookup: float
    chain: float
    digest: str
    foreign: bool
    tokens: tuple[int, int]
    error: str


class Ended(NamedTuple):
    """Last message of a worker: what its caches counted themselves."""

    hits: Mapping[str, int]
    misses: int
    tokens: tuple[int, int]
    money: float
