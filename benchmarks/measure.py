"""Ratios that survive a noisy machine: every round times all candidates, one after the other."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import redis
from rich.console import Console
from rich.table import Table

__all__ = ["Measured", "arounds", "describe", "rounds", "show"]


@dataclass(frozen=True)
class Measured:
    """One candidate: median time in microseconds, median and range of its ratios to the baseline."""

    microseconds: float
    ratio: float
    low: float
    high: float


def rounds(
    candidates: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    count: int = 21,
    calls: int = 200,
) -> dict[str, Measured]:
    """Time each candidate `calls` times in each of `count` rounds.

    The ratio of a round is taken to the baseline of the same round, so that a slow second slows
    both; the medians of those ratios are what is reported.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for function in candidates.values():
        for _ in range(20):
            function()
    for _ in range(count):
        for name, function in candidates.items():
            start = time.perf_counter()
            for _ in range(calls):
                function()
            times[name].append((time.perf_counter() - start) / calls * 1e6)
    return _summary(times, baseline)


async def arounds(
    candidates: Mapping[str, Callable[[], Awaitable[object]]],
    *,
    baseline: str,
    count: int = 21,
    calls: int = 20,
) -> dict[str, Measured]:
    """The same for coroutines."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for function in candidates.values():
        for _ in range(5):
            await function()
    for _ in range(count):
        for name, function in candidates.items():
            start = time.perf_counter()
            for _ in range(calls):
                await function()
            times[name].append((time.perf_counter() - start) / calls * 1e6)
    return _summary(times, baseline)


def _summary(times: Mapping[str, list[float]], baseline: str) -> dict[str, Measured]:
    base = times[baseline]
    summary: dict[str, Measured] = {}
    for name, values in times.items():
        ratios = sorted(value / at for value, at in zip(values, base, strict=True))
        summary[name] = Measured(
            statistics.median(values),
            statistics.median(ratios),
            ratios[len(ratios) // 4],
            ratios[-len(ratios) // 4],
        )
    return summary


def describe(url: str) -> str:
    """What the numbers were measured with."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        info = client.info("server")
    version = info.get("valkey_version") or info["redis_version"]
    return (
        f"Python {platform.python_version()}, redis-py {redis.__version__}, server {version}, "
        f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"
    )


def show(
    title: str, measured: dict[str, Measured], limits: dict[str, str], console: Console
) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", "microseconds", "ratio", "quartiles", "wanted"):
        table.add_column(column, justify="left" if column in ("", "wanted") else "right")
    for name, one in measured.items():
        table.add_row(
            name,
            f"{one.microseconds:.1f}",
            f"{one.ratio:.2f}",
            f"{one.low:.2f} - {one.high:.2f}",
            limits.get(name, ""),
        )
    console.print(table)
