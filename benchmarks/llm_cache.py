"""What a cached LLM answer costs, as ratios to a raw redis-py GET of the same bytes.

    python -m benchmarks.llm_cache [--entries 1000000]

Everything runs in one process against one server started for it, on TCP loopback. The cache is
driven as LangChain drives it: prompt and model as strings in, generations out.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import redis
import redis.asyncio
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Measured, arounds, describe, rounds, show
from langchain_redis_tiered import RedisTieredCache, Tiers
from tests.servers import RedisServer

LLM = (
    json.dumps(
        {
            "lc": 1,
            "type": "constructor",
            "id": ["langchain", "chat_models", "openai", "ChatOpenAI"],
            "kwargs": {"model_name": "gpt-5-mini", "temperature": 0.0, "max_retries": 2},
        },
        sort_keys=True,
    )
    + "---[('stop', None)]"
)
ANSWER = (
    "The parcel was handed to the carrier on Tuesday and arrives within two working days. " * 23
)
CONCURRENT = 64


def prompt(number: int) -> str:
    question = f"Where is my order number {number}, and when does it arrive?"
    return dumps(
        [SystemMessage("You answer customers of a shop, briefly."), HumanMessage(question)]
    )


def answer() -> list[Generation]:
    message = AIMessage(
        ANSWER,
        id="run-1",
        response_metadata={"model_name": "gpt-5-mini", "finish_reason": "stop"},
        usage_metadata={"input_tokens": 40, "output_tokens": 400, "total_tokens": 440},
    )
    return [ChatGeneration(message=message)]


def without_l1(cache: RedisTieredCache, look: Callable[[], object]) -> Callable[[], object]:
    """The same lookup with its entry taken out of L1 first (the cache's epoch stays there)."""
    memory = cache.tiers.memory

    def call() -> object:
        for key in [key for key in memory._items if b"{" in key]:
            memory.invalidate((key,))
        return look()

    return call


def blocking(server: RedisServer, directory: Path) -> dict[str, Measured]:
    client = redis.Redis.from_url(server.url)
    numbers = itertools.count(10)
    answered = answer()
    prompts = {number: prompt(number) for number in range(10, 60_000)}
    with (
        Tiers(server.url, namespace="plain") as plain,
        Tiers(server.url, f"sqlite:///{directory / 'durable.db'}", namespace="durable") as durable,
    ):
        caches = {"": RedisTieredCache(plain), " +SQLite": RedisTieredCache(durable)}
        for cache in caches.values():
            cache.tiers.setup()
            cache.update(prompt(0), LLM, answer())
            cache.lookup(prompt(0), LLM)
        entry = next(key for key in client.scan_iter("plain:*{*}*"))
        stored = client.hget(entry, "r")
        client.set("raw", stored)
        warm = prompt(0)
        look = caches[""].lookup
        candidates: dict[str, Callable[[], object]] = {
            "raw GET": lambda: client.get("raw"),
            "L1 hit": lambda: look(warm, LLM),
            "L2 hit": without_l1(caches[""], lambda: look(warm, LLM)),
        }
        for suffix, cache in caches.items():
            candidates[f"miss{suffix}"] = lambda cache=cache: cache.lookup(
                prompts[next(numbers)], LLM
            )
            candidates[f"update{suffix}"] = lambda cache=cache: cache.update(
                prompts[next(numbers)], LLM, answered
            )
        return rounds(candidates, baseline="raw GET", calls=100)


def redis_down(server: RedisServer, directory: Path) -> dict[str, Measured]:
    """A lookup while Redis is gone, against the GET of a server that is there."""
    client = redis.Redis.from_url(server.url)
    with (
        RedisServer(directory=directory / "doomed") as doomed,
        Tiers(doomed.url) as plain,
        Tiers(doomed.url, f"sqlite:///{directory / 'down.db'}", namespace="durable") as durable,
    ):
        caches = RedisTieredCache(plain), RedisTieredCache(durable)
        for cache in caches:
            cache.update(prompt(0), LLM, answer())
        doomed.kill()
        asked = prompt(0)
        for cache in caches:
            cache.lookup(asked, LLM)
        return rounds(
            {
                "raw GET": lambda: client.get("raw"),
                "Redis down, miss": lambda: caches[0].lookup(asked, LLM),
                "Redis down, hit from SQLite": lambda: caches[1].lookup(asked, LLM),
            },
            baseline="raw GET",
            calls=100,
        )


async def concurrent(server: RedisServer) -> dict[str, Measured]:
    client = redis.asyncio.Redis.from_url(server.url)
    async with Tiers(server.url, namespace="async") as tiers:
        cache = RedisTieredCache(tiers)
        await tiers.asetup()
        prompts = [prompt(number) for number in range(CONCURRENT)]
        for each in prompts:
            await cache.aupdate(each, LLM, answer())

        async def pipelined() -> None:
            pipeline = client.pipeline(transaction=False)
            for _ in range(CONCURRENT):
                pipeline.get("raw")
            await pipeline.execute()

        async def lookups() -> None:
            await asyncio.gather(*(cache.alookup(each, LLM) for each in prompts))

        async def from_redis() -> None:
            for key in [key for key in tiers.memory._items if b"{" in key]:
                tiers.memory.invalidate((key,))
            await lookups()

        measured = await arounds(
            {"raw pipeline": pipelined, "L1 hits": lookups, "L2 hits": from_redis},
            baseline="raw pipeline",
        )
    await client.aclose()
    return measured


def growth(server: RedisServer, sizes: list[int]) -> dict[int, Measured]:
    """An L2 hit and a miss among more and more entries."""
    client = redis.Redis.from_url(server.url)
    client.flushall()
    found: dict[int, Measured] = {}
    with Tiers(server.url, namespace="grown", l1_max_bytes=0) as tiers:
        cache = RedisTieredCache(tiers, single_flight=0)
        asked = prompt(0)
        cache.update(asked, LLM, answer())
        entry = next(client.scan_iter("grown:*{*}*", count=1000))
        client.set("raw", client.hget(entry, "r"))
        written = 1
        for size in sizes:
            pipeline = client.pipeline(transaction=False)
            while written < size:
                # Keys of the same shape under the same epoch: what counts is how many there are.
                pipeline.hset(entry[:-33] + b"%032x}" % written, "r", b"x" * 64)
                written += 1
                if written % 5000 == 0 or written == size:
                    pipeline.execute()
            measured = rounds(
                {"raw GET": lambda: client.get("raw"), "hit": lambda: cache.lookup(asked, LLM)},
                baseline="raw GET",
                calls=100,
            )
            found[size] = measured["hit"]
    return found


def imports() -> dict[str, float]:
    """Seconds of `import`, best of five, each in a new interpreter."""
    statements = {
        "redis_tiered": "import redis_tiered",
        "redis_tiered.Tiers": "from redis_tiered import Tiers",
        "langchain_core.caches": "import langchain_core.caches",
        "langchain_redis_tiered": "import langchain_redis_tiered",
    }
    code = "import time; a = time.perf_counter(); {}; print(time.perf_counter() - a)"
    return {
        name: min(
            float(
                subprocess.run(
                    [sys.executable, "-c", code.format(s)], capture_output=True, check=True
                ).stdout
            )
            for _ in range(5)
        )
        for name, s in statements.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--entries", type=int, default=1_000_000, help="largest cache of the growth table"
    )
    options = parser.parse_args()
    console = Console(width=100)
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(directory=Path(name) / "redis") as server,
    ):
        directory = Path(name)
        console.print(describe(server.url))
        show(
            "One caller (ratio to a raw GET)",
            blocking(server, directory),
            {"L1 hit": "<= 0.35", "L2 hit": "<= 1.5", "miss": "<= 1.4", "update": "<= 2.5"},
            console,
        )
        show(
            "Redis down (ratio to a raw GET of a live server)",
            redis_down(server, directory),
            {"Redis down, miss": "<= 0.5"},
            console,
        )
        show(
            f"{CONCURRENT} concurrent alookup (ratio to {CONCURRENT} GETs in one asyncio pipeline)",
            asyncio.run(concurrent(server)),
            {"L2 hits": "<= 2.0"},
            console,
        )
        sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= options.entries]
        grown = growth(server, sizes)
        show(
            "L2 hit without L1 among n entries (ratio to a raw GET)",
            {f"{size:,}": one for size, one in grown.items()},
            {},
            console,
        )
    table = Table(title="Import, best of five", title_justify="left")
    table.add_column("")
    table.add_column("milliseconds", justify="right")
    for name, seconds in imports().items():
        table.add_row(name, f"{seconds * 1000:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
