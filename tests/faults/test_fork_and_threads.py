"""Forked children, many threads, few connections, and a close in the middle of it all."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.tiers.tiers import Tiers
from tests.faults.traffic import Caller, request
from tests.faults.worker import Worker, run_script
from tests.servers import RedisServer
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# --- fork ----------------------------------------------------------------------------------------

# Both go on with what they had: the parent with its warm memory, the child with an empty one.
_FORK = """
import asyncio, os, sys, time, warnings
# Python 3.12 warns that a process with threads forks: that it works is what is tested.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.tiers.tiers import Tiers

def until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)

def ask(prompt):
    return Request(b"{}", b"", prompt)

def get(prompt):
    found = cache.lookup(ask(prompt))
    return None if found is None else (found.payload, found.tier)

def in_memory(prompt):
    until(lambda: (found := get(prompt)) is not None and found[1] == "memory")

kind, redis, durable, how = sys.argv[1:]
tiers = Tiers.embedded(redis) if kind == "embedded" else Tiers(redis, durable or None)
cache = LLMCache(tiers, single_flight=0)
tiers.setup()
cache.update(ask("parent's"), b"1")
asyncio.run(cache.aupdate(ask("parent's, async"), b"1"))
in_memory("parent's")
to_child, to_parent = os.pipe(), os.pipe()

def child():
    assert len(tiers.memory) == 0
    assert get("parent's") == (b"1", "redis"), "not from memory: nobody told this process yet"
    in_memory("parent's")
    found = asyncio.run(cache.alookup(ask("parent's, async")))
    assert found.payload == b"1"
    cache.update(ask("child's"), b"2")
    assert cache.stats().updates == 1
    os.write(to_parent[1], b"x")
    os.read(to_child[0], 1)
    until(lambda: get("parent's")[0] == b"1, renewed")
    tiers.close()

if how == "fork":
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        finally:
            if status:
                import traceback
                traceback.print_exc()
            os._exit(status)
else:
    import multiprocessing
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()

assert get("parent's") == (b"1", "memory")
os.read(to_parent[0], 1)
assert get("child's")[0] == b"2"
cache.update(ask("parent's"), b"1, renewed")
os.write(to_child[1], b"x")
if how == "fork":
    assert os.waitpid(pid, 0)[1] == 0
else:
    process.join(20)
    assert process.exitcode == 0
in_memory("parent's")
assert get("parent's")[0] == b"1, renewed"
tiers.close()
print("done")
"""


@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
@pytest.mark.parametrize("durable", [True, False], ids=["sqlite", "no-durable"])
def test_fork(valkey: RedisServer, sqlite_url: str, durable: bool, how: str) -> None:
    url = sqlite_url if durable else ""
    assert run_script(_FORK, "url", valkey.url, url, how) == "done\n"


def test_fork_with_postgres(valkey: RedisServer, postgres_url: str) -> None:
    assert run_script(_FORK, "url", valkey.url, postgres_url, "fork") == "done\n"


def test_fork_with_the_embedded_server(tmp_path: Path) -> None:
    assert run_script(_FORK, "embedded", str(tmp_path), "", "fork") == "done\n"


_FORK_IN_TRAFFIC = """
import os, sys, threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.tiers.tiers import Tiers

tiers = Tiers(sys.argv[1])
cache = LLMCache(tiers, single_flight=0.2)
tiers.setup()
stop = threading.Event()
failures = []

def use(seed):
    i = 0
    try:
        while not stop.is_set():
            i += 1
            ask = Request(b"{}", b"", f"{seed} {i % 50}")
            found = cache.lookup(ask)
            if found is None:
                cache.update(ask, ask.prompt.encode())
            else:
                assert found.payload == ask.prompt.encode()
    except BaseException as error:
        failures.append(error)
        raise

threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
for thread in threads:
    thread.start()
for _ in range(15):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for i in range(20):
                ask = Request(b"{}", b"", f"child {i}")
                cache.update(ask, b"c")
                assert cache.lookup(ask).payload == b"c"
            tiers.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
assert not failures
tiers.close()
print("done")
"""


def test_fork_while_threads_use_the_cache(valkey: RedisServer) -> None:
    """No lock that another thread held is held in the child for ever."""
    assert run_script(_FORK_IN_TRAFFIC, valkey.url) == "done\n"


# --- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False], ids=["sqlite", "no-durable"])
def test_closed_in_the_middle(valkey: RedisServer, sqlite_url: str, durable: bool) -> None:
    for _ in range(3):
        tiers = Tiers(valkey.url, sqlite_url if durable else None)
        cache = LLMCache(tiers, single_flight=0.2)
        failures: list[BaseException] = []
        stop = threading.Event()
        operations = [0]

        def use(
            seed: int,
            cache: LLMCache = cache,
            failures: list[BaseException] = failures,
            stop: threading.Event = stop,
            operations: list[int] = operations,
        ) -> None:
            while not stop.is_set():
                asked = request(f"{seed} {operations[0] % 20}")
                operations[0] += 1
                try:
                    if cache.lookup(asked) is None:
                        cache.update(asked, b"a")
                except BaseException as error:
                    failures.append(error)
                    return

        async def task(
            cache: LLMCache = cache,
            failures: list[BaseException] = failures,
            stop: threading.Event = stop,
        ) -> None:
            while not stop.is_set():
                try:
                    if await cache.alookup(request("task")) is None:
                        await cache.aupdate(request("task"), b"a")
                except BaseException as error:
                    failures.append(error)
                    return
                await asyncio.sleep(0)

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(10)]
        threads.append(threading.Thread(target=lambda t=task: asyncio.run(t())))
        for thread in threads:
            thread.start()
        wait_until(lambda o=operations: o[0] > 200)  # type: ignore[misc]
        tiers.close()
        at = operations[0]
        wait_until(lambda o=operations, a=at: o[0] > a + 100)  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
        assert failures == []
        assert cache.lookup(request("0 1")) is None


def test_more_threads_than_connections(tmp_path: Path) -> None:
    with (
        RedisServer(directory=tmp_path) as server,
        Tiers(server.url, max_connections=2, l1_max_bytes=0, redis_timeout=5) as tiers,
    ):
        cache = LLMCache(tiers, single_flight=0)
        wrong: list[object] = []

        def use(seed: int) -> None:
            for i in range(25):
                asked = request(f"{seed} {i}")
                cache.update(asked, f"{seed} {i}".encode())
                found = cache.lookup(asked)
                if found is None or found.payload != f"{seed} {i}".encode():
                    wrong.append((seed, i, found))

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert wrong == []
        assert cache.stats().errors == {}
        with server.client() as client:
            assert len(client.client_list()) <= 2 + 1


def test_a_full_pool_is_not_an_outage(valkey: RedisServer) -> None:
    """Who finds no free connection in time has a miss; Redis is there, and goes on being asked."""
    with Tiers(valkey.url, max_connections=1, redis_timeout=0.3, l1_max_bytes=0) as tiers:
        tiers.setup()
        cache = LLMCache(tiers, single_flight=0)
        cache.update(request("q"), b"a")
        [taken] = tiers._runtime._redis._primary._idle
        tiers._runtime._redis._primary._idle.clear()
        begin = time.monotonic()
        assert cache.lookup(request("q")) is None
        assert 0.2 < time.monotonic() - begin < 0.3 + 0.4
        assert cache.stats().errors["redis.busy"] >= 1
        assert tiers.guards.redis.closed
        tiers._runtime._redis._primary._idle.append(taken)
        found = cache.lookup(request("q"))
        assert found is not None
        assert found.tier == "redis"


def test_a_paused_server_holds_nobody_for_long_when_the_pool_is_small(valkey: RedisServer) -> None:
    with Tiers(valkey.url, max_connections=2, redis_timeout=0.3) as tiers:
        cache = LLMCache(tiers, single_flight=0)
        tiers.setup()
        took: list[float] = []

        def use(i: int) -> None:
            begin = time.monotonic()
            assert cache.lookup(request(i)) is None
            took.append(time.monotonic() - begin)

        valkey.pause()
        try:
            threads = [threading.Thread(target=use, args=(i,)) for i in range(32)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
        finally:
            valkey.resume()
        assert len(took) == 32
        # One timeout for a place in the pool, one for the answer.
        assert max(took) < 2 * 0.3 + 0.5


# --- embedded ------------------------------------------------------------------------------------


def test_two_processes_share_an_embedded_server(tmp_path: Path) -> None:
    with (
        Worker("embedded", str(tmp_path)) as one,
        Worker("embedded", str(tmp_path)) as two,
    ):
        one.do("put", "q", "a")
        assert two.do("get", "q") == "a"
        two.do("put", "q", "b")
        wait_until(lambda: one.do("get", "q") == "b", 2)
        one.kill()
        assert two.do("get", "q") == "b"
        two.do("put", "after", "c")
        with Caller(Tiers.embedded(tmp_path), single_flight=0) as three:
            assert three.get("q") == "b"
            assert three.get("after") == "c"


def test_the_embedded_server_killed(tmp_path: Path) -> None:
    with Caller(Tiers.embedded(tmp_path), single_flight=0) as caller:
        caller.put("q", "a")
        pid = int((tmp_path / "server.lock").read_text())
        os.kill(pid, 9)
        assert caller.get("q") == "a"
        caller.put("during", "b")
        assert caller.get("during") == "b"
        assert caller.resumed("q", "a") < 2
        assert caller.resumed("during", "b") < 2
