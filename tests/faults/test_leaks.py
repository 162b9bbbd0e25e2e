"""Nothing is left behind: threads, descriptors, connections, warnings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.worker import run_script
from tests.servers import RedisServer
from tests.waiting import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that nobody else is connected to."""
    with RedisServer(directory=tmp_path / "redis") as server:
        yield server


_CYCLES = """
import asyncio, os, sys, threading, time
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.tiers.tiers import Tiers

redis, durable, style, cycles = sys.argv[1:]

def use():
    tiers = Tiers(redis, durable or None)
    cache = LLMCache(tiers)
    if style == "sync":
        tiers.setup()
        cache.lookup(Request(b"{}", b"", "q"))
        cache.update(Request(b"{}", b"", "q"), b"a")
        tiers.close()
    else:
        async def main():
            async with tiers:
                await tiers.asetup()
                await cache.alookup(Request(b"{}", b"", "q"))
                await cache.aupdate(Request(b"{}", b"", "q"), b"a")
        asyncio.run(main())

def open_files():
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

def settled(limit=None):
    deadline = time.monotonic() + 10
    while True:
        now = (threading.active_count(), open_files())
        if now[0] == 1 and (limit is None or now[1] <= limit):
            return now
        assert time.monotonic() < deadline, (now, limit, threading.enumerate())
        time.sleep(0.02)

for _ in range(3):
    use()
threads, files = settled()
for _ in range(int(cycles)):
    use()
settled(files)
print("done")
"""


@pytest.mark.parametrize("durable", [True, False], ids=["sqlite", "no-durable"])
@pytest.mark.parametrize("style", ["sync", "async"])
def test_many_cycles(server: RedisServer, sqlite_url: str, style: str, durable: bool) -> None:
    url = sqlite_url if durable else ""
    # A database is made ready anew in each: that takes its time, not more descriptors.
    cycles = {("sync", False): "60", ("async", False): "30"}.get((style, durable), "8")
    assert run_script(_CYCLES, server.url, url, style, cycles) == "done\n"
    with contextlib.closing(server.client()) as client:
        wait_until(lambda: len(client.client_list()) == 1, 3, "the server to have no clients")


def test_cycles_with_postgres(server: RedisServer, postgres_url: str) -> None:
    for style in ("sync", "async"):
        assert run_script(_CYCLES, server.url, postgres_url, style, "2") == "done\n"


_LOOPS = """
import asyncio, sys
import redis
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.tiers.tiers import Tiers

url, durable = sys.argv[1:]
tiers = Tiers(url, durable or None)
cache = LLMCache(tiers)

async def main(i):
    async def one(j):
        asked = Request(b"{}", b"", f"{i} {j}")
        assert await cache.alookup(asked) is None
        await cache.aupdate(asked, b"a")
    await asyncio.gather(*(one(j) for j in range(20)))

for i in range(20 if not durable else 5):
    asyncio.run(main(i))
with redis.Redis.from_url(url) as client:
    # One that listens for invalidations, a few of the housekeeping's, and this one.
    clients = len(client.client_list())
    assert clients <= 5, clients
tiers.close()
print("done")
"""


@pytest.mark.parametrize("durable", [True, False], ids=["sqlite", "no-durable"])
def test_one_tiers_in_many_loops(server: RedisServer, sqlite_url: str, durable: bool) -> None:
    assert run_script(_LOOPS, server.url, sqlite_url if durable else "") == "done\n"


_FORGOTTEN = """
import asyncio, gc, sys, threading, time
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.tiers.tiers import Tiers

def use():
    tiers = Tiers(sys.argv[1])
    cache = LLMCache(tiers, single_flight=0)
    tiers.setup()
    cache.lookup(Request(b"{}", b"", "q"))

for _ in range(5):
    use()
deadline = time.monotonic() + 10
while threading.active_count() > 1:
    gc.collect()
    assert time.monotonic() < deadline, threading.enumerate()
    time.sleep(0.02)
print("done")
"""


def test_a_tiers_that_was_never_closed_ends_with_its_last_reference(server: RedisServer) -> None:
    assert run_script(_FORGOTTEN, server.url) == "done\n"


def test_a_process_that_never_closes_ends(server: RedisServer, sqlite_url: str) -> None:
    """And says nothing on its way out."""
    script = """
import asyncio, sys
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.tiers.tiers import Tiers

cache = LLMCache(Tiers(*sys.argv[1:]))
asked = Request(b"{}", b"", "q")
cache.lookup(asked)
asyncio.run(cache.aupdate(asked, b"a"))
print("done")
"""
    assert run_script(script, server.url, sqlite_url, timeout=20) == "done\n"
