"""What a calibration found: a head, a threshold, and what held-out data say of them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.head import Head
from redis_tiered.llm_cache.semantic.tools import chart

__all__ = ["Calibration", "Metric", "Point"]

Metric = Literal["requests", "hits"]
VERSION = 1


class Point(NamedTuple):
    """One threshold on held-out data.

    Attributes:
        theta: probability from which a candidate is served.
        hit_rate: share of requests (of pairs) that it serves.
        rate: wrong answers per request, or per hit, as the metric says.
        low, high: two-sided interval of `rate`.
    """

    theta: float
    hit_rate: float
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """A head and a threshold for one embedding model, and the evidence for them; plain JSON.

    Attributes:
        model: the embedding model's name.
        head: the probability that a candidate's answer fits.
        theta: probability from which a candidate is served.
        target_error: what wrong answers had to stay within.
        metric: `"requests"`: wrong answers per request; `"hits"`: per answer served.
        confidence: of `upper` and of the interval.
        guard: `"off"`, `"default"`, `"strict"` or `"custom"`: what vetoed candidates meanwhile.
        source: `"log"` or `"pairs"`.
        trained_on, tested_on: prompts or pairs that the head was fitted to, and held-out ones.
        independent: how many independent observations the held-out ones count for, per metric.
        hit_rate: share of the held-out requests (pairs) that are served, beginning with an empty cache.
        hit_rate_filled: the same if the earlier part of the log has filled the cache.
        wrong, wrong_rate: wrong answers served among them; per request or hit, as `metric` says.
        expected: wrong answers that the head's probabilities promised for the same hits.
        upper: the rate is below this, at the given confidence (one-sided).
        interval: of the rate, two-sided.
        unseen: `requests`, `hits` and `wrong` of held-out requests whose answer the head never saw.
        curve: every threshold that was tried, strictest first; its intervals hold one by one.
        warnings: what is wrong with the data, in words.
        created: ISO 8601, UTC.
    """

    model: str
    head: Head
    theta: float
    target_error: float
    metric: Metric
    confidence: float
    guard: str
    source: str
    trained_on: int
    tested_on: int
    independent: float
    hit_rate: float
    hit_rate_filled: float
    wrong: int
    expected: float
    wrong_rate: float
    upper: float
    interval: tuple[float, float]
    unseen: Mapping[str, int]
    curve: tuple[Point, ...]
    warnings: tuple[str, ...]
    created: str

    def __repr__(self) -> str:
        return (
            f"<Calibration {self.model!r} theta={self.theta:.4g} hits={self.hit_rate:.1%} "
            f"wrong={self.wrong_rate:.2%} of {self.metric} (<= {self.upper:.2%})>"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, with the version of its format."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "head": self.head.as_dict(),
            "interval": list(self.interval),
            "unseen": dict(self.unseen),
            "curve": [list(point) for point in self.curve],
            "warnings": list(self.warnings),
            "version": VERSION,
        }

    @classmethod
    def from_dict(cls, data: object) -> Calibration:
        """What `as_dict` gave.

        Raises:
            InvalidInput: it is something else, or of another version.
        """
        if not isinstance(data, Mapping) or "version" not in data:
            raise InvalidInput(f"this is no calibration: {type(data).__name__}")
        if data["version"] != VERSION:
            raise InvalidInput(
                f"this calibration has format {data['version']!r:.20}, {VERSION} is read here"
            )
        try:
            low, high = map(_number, data["interval"])
            found = cls(
                **{name: kind(data[name]) for name, kind in _PLAIN.items()},
                head=Head.from_dict(data["head"]),
                interval=(low, high),
                unseen={str(name): int(count) for name, count in data["unseen"].items()},
                curve=tuple(Point(*map(_number, point)) for point in data["curve"]),
                warnings=tuple(map(str, data["warnings"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidInput(f"this is no calibration: {type(error).__name__} {error}") from None
        if found.metric not in ("requests", "hits") or not 0.0 <= found.theta <= 1.0:
            raise InvalidInput("this is no calibration: its metric or theta is unknown")
        return found

    def to_json(self) -> str:
        """One line of JSON."""
        import orjson

        return orjson.dumps(self.as_dict()).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Calibration:
        """What `to_json` gave.

        Raises:
            InvalidInput: it is something else.
        """
        import orjson

        try:
            data = orjson.loads(text)
        except (orjson.JSONDecodeError, TypeError) as error:
            raise InvalidInput(f"this is no calibration: {error}") from None
        return cls.from_dict(data)

    def table(self) -> str:
        """The result, the curve around it and the warnings, as text of at most 100 columns."""
        unit = "prompts" if self.source == "log" else "pairs"
        per = "request" if self.metric == "requests" else "hit"
        low, high = self.interval
        rows = [
            ("embedding model", self.model),
            ("serve from", f"p >= {self.theta:.4g}   (guard: {self.guard})"),
            ("hits", self._hits()),
            (
                f"wrong per {per}",
                f"{self.wrong_rate:.2%} ({self.wrong:,}), below {self.upper:.2%} at "
                f"{self.confidence:.0%} confidence; wanted {self.target_error:.2%}",
            ),
            ("interval", f"{low:.2%} to {high:.2%}, two-sided"),
            ("data", f"fitted to {self.trained_on:,} {unit}, tested on {self.tested_on:,} others"),
        ]
        if self.unseen.get("requests"):
            rows.append(
                (
                    "answers not seen",
                    "{wrong:,} wrong of {hits:,} hits in {requests:,} requests".format(
                        **self.unseen
                    ),
                )
            )
        lines = [f"{name:<17} {value}" for name, value in rows]
        lines += ["", *chart.rows(self.curve, chosen=self.theta, per=per)]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _hits(self) -> str:
        if self.source == "pairs":
            return f"{self.hit_rate:.1%} of held-out pairs"
        return (
            f"{self.hit_rate:.1%} of held-out prompts beginning with an empty cache, "
            f"{self.hit_rate_filled:.1%} with a filled one"
        )

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Hit rate against wrong answers, with the chosen point and the interval.

        Args:
            path: of the PNG, SVG or PDF to write; None: the matplotlib figure is returned only.

        Raises:
            MissingExtra: matplotlib is not installed.
            InvalidInput: the file cannot be written.
        """
        return chart.draw(
            [chart.Line("thresholds", self.curve, band=True)],
            per="request" if self.metric == "requests" else "hit",
            title=f"Calibration for {self.model}",
            chosen=chart.Mark(
                f"chosen: p ≥ {self.theta:.3g}\n{self.hit_rate:.1%} hits, "
                f"{self.wrong_rate:.2%} wrong",
                self.hit_rate,
                self.wrong_rate,
                self.interval,
            ),
            target=self.target_error,
            note=f"{self.tested_on:,} held-out {'prompts' if self.source == 'log' else 'pairs'}; "
            f"band: {self.confidence:.0%} interval of each threshold",
            path=path,
        )

    def sketch(self, width: int = 72) -> str:
        """The same plot in characters."""
        per = "request" if self.metric == "requests" else "hit"
        return chart.sketch(
            [chart.Line("thresholds", self.curve)],
            per=per,
            chosen=(self.hit_rate, self.wrong_rate),
            target=self.target_error,
            width=width,
        )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is not a finite number")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value


def _count(value: object) -> int:
    return int(_number(value))


_PLAIN: dict[str, Any] = {
    "model": _text,
    "theta": _number,
    "target_error": _number,
    "metric": _text,
    "confidence": _number,
    "guard": _text,
    "source": _text,
    "trained_on": _count,
    "tested_on": _count,
    "independent": _number,
    "hit_rate": _number,
    "hit_rate_filled": _number,
    "wrong": _count,
    "expected": _number,
    "wrong_rate": _number,
    "upper": _number,
    "created": _text,
}
