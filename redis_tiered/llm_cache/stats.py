"""What a cache did: counters of this process, and totals of all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from redis_tiered.errors import InvalidInput

__all__ = ["Prices", "Stats", "Tally", "Usage"]

# US dollars per million tokens: {"gpt-5-mini": (input, output)}
Prices = Mapping[str, tuple[float, float]]
_MAX_PRICE = 1e9


@dataclass(frozen=True, slots=True)
class Usage:
    """What a stored answer cost when the model gave it."""

    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


class Tally:
    """Counters by name; thread-safe. Remembers what of them was added to the totals already."""

    def __init__(self) -> None:
        # Counted, too, when a stream is dropped: that may be by the garbage collector, in here.
        self._lock = threading.RLock()
        self._counts: dict[str, int] = {}
        self._reported: Counter[str] = Counter()

    def add(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + by

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def take_pending(self) -> dict[str, int]:
        """What is to be added to the totals now."""
        with self._lock:
            pending = {
                name: count - self._reported[name]
                for name, count in self._counts.items()
                if count != self._reported[name]
            }
            self._reported.update(pending)
            return pending

    def put_back(self, pending: Mapping[str, int]) -> None:
        """It could not be added after all."""
        with self._lock:
            self._reported.subtract(pending)

    def reset_after_fork(self) -> None:
        """The parent reports what it counted."""
        self.__init__()  # type: ignore[misc]


@dataclass(frozen=True)
class Stats:
    """What a cache did.

    Attributes:
        hits: by tier: `"memory"`, `"redis"`, `"durable"`, `"semantic"` for answers that were stored
            for other words, and `"flight"` for callers who waited for another caller's answer.
        misses: lookups that left the caller to ask the model.
        updates: answers stored.
        skipped: requests and answers not stored, by reason.
        unreadable: stored bytes that were a miss, by reason.
        errors: failures of tiers, as `tier.kind`.
        semantic: what became of questions for which other wordings were looked for: the outcome of
            each decision (`"served"`, `"audit"`, `"below_theta"` ...), `"skip.<rule>"`,
            `"veto.<reason>"`, `"embedder.<failure>"`, `"audited.right"`, `"audited.wrong"` ...
        saved_input_tokens, saved_output_tokens: of the model calls that hits made unnecessary.
        saved_money: the same in US dollars, or None where no price table was given or it lacks
            a model.
        unpriced: models that the price table lacks.
    """

    hits: dict[str, int] = field(default_factory=dict)
    misses: int = 0
    updates: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    semantic: dict[str, int] = field(default_factory=dict)
    saved_input_tokens: int = 0
    saved_output_tokens: int = 0
    saved_money: float | None = None
    unpriced: tuple[str, ...] = ()

    @property
    def hit_rate(self) -> float:
        """Hits per lookup, 0.0 before the first lookup."""
        hits = sum(self.hits.values())
        return hits / (hits + self.misses) if hits + self.misses else 0.0

    @classmethod
    def of(
        cls,
        counts: Mapping[str, int],
        prices: Prices | None,
        errors: Mapping[str, int] | None = None,
    ) -> Stats:
        """Arrange counters named `group.member`."""
        groups: dict[str, dict[str, int]] = {}
        for name, count in counts.items():
            group, _, member = name.partition(".")
            groups.setdefault(group, {})[member] = count
        saved_in, saved_out = groups.get("saved_input", {}), groups.get("saved_output", {})
        money: float | None = None
        unpriced: list[str] = []
        if prices is not None:
            money = 0.0
            for model in sorted(saved_in.keys() | saved_out.keys()):
                price = _price(model, prices)
                if price is None:
                    unpriced.append(model)
                else:
                    money += (
                        saved_in.get(model, 0) * price[0] + saved_out.get(model, 0) * price[1]
                    ) / 1e6
        return cls(
            hits=groups.get("hit", {}),
            misses=sum(groups.get("miss", {}).values()),
            updates=sum(groups.get("update", {}).values()),
            skipped=groups.get("skip", {}),
            unreadable=groups.get("unreadable", {}),
            errors=dict(errors) if errors is not None else groups.get("error", {}),
            semantic=groups.get("semantic", {}),
            saved_input_tokens=sum(saved_in.values()),
            saved_output_tokens=sum(saved_out.values()),
            saved_money=money,
            unpriced=tuple(unpriced),
        )


def checked_prices(prices: object) -> Prices | None:
    """Check a price table.

    Raises:
        InvalidInput: not a mapping of model names to two prices of at least 0.
    """
    if prices is None:
        return None
    accepted = "{'model': (dollars per million input tokens, dollars per million output tokens)}"
    if not isinstance(prices, Mapping):
        raise InvalidInput(f"prices must be {accepted}, got {type(prices).__name__}")
    for model, price in prices.items():
        pair = isinstance(price, tuple | list) and len(price) == 2
        if not isinstance(model, str) or not pair or not all(_is_price(value) for value in price):
            raise InvalidInput(f"prices must be {accepted}; the entry of {model!r} is not")
    return {model: (float(price[0]), float(price[1])) for model, price in prices.items()}


def _is_price(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX_PRICE
    )


def _price(model: str, prices: Prices) -> tuple[float, float] | None:
    """The model's price, or that of the longest name it starts with: `gpt-5-mini-2026-01-31`."""
    best = max(
        (name for name in prices if model == name or model.startswith(f"{name}-")),
        key=len,
        default=None,
    )
    return None if best is None else prices[best]
