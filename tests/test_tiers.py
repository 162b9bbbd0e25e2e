"""`Tiers` over a real server: what it accepts, when it connects, how it ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import math
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from redis_tiered import LLMCache, Tiers
from redis_tiered.errors import (
    ClosedError,
    ConfigurationError,
    InvalidInput,
    SchemaError,
    TierUnavailable,
)
from redis_tiered.llm_cache.fingerprint import Request
from tests.servers import RedisServer, free_port
from tests.waiting import wait_until

ASKED = Request(b"model", b"context", "question")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


def answered(cache: LLMCache, request: Request = ASKED) -> bytes | None:
    found = cache.lookup(request)
    return None if found is None else found.payload


# The constructor.


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"redis": None}, "redis"),
        ({"redis": 5}, "redis"),
        ({"redis": ""}, "redis"),
        ({"redis": "redis://h\0"}, "redis"),
        ({"redis": "redis://\ud800"}, "redis"),
        ({"durable": 5}, "durable"),
        ({"durable": ""}, "durable"),
        ({"durable": "sqlite://"}, "durable"),
        ({"durable": "sqlite:///a\0"}, "durable"),
        ({"durable": "mysql://h/d"}, "durable"),
        ({"namespace": ""}, "namespace"),
        ({"namespace": None}, "namespace"),
        ({"namespace": "\ud800"}, "namespace"),
        ({"namespace": "x" * 257}, "namespace"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": b"bytes"}, "tenant"),
        ({"tenant": "\udfff"}, "tenant"),
        ({"l1_max_bytes": -1}, "l1_max_bytes"),
        ({"l1_ttl": math.nan}, "l1_ttl"),
        ({"redis_timeout": "1"}, "redis_timeout"),
        ({"durable_timeout": 0}, "durable_timeout"),
        ({"max_connections": True}, "max_connections"),
        ({"unknown": 1}, "unknown"),
        ({"endpoint": "redis://h"}, "endpoint"),
        ({"redis": "redis://h?ssl_nonsense=1"}, "ssl_nonsense"),
    ],
    ids=repr,
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    given = {"redis": "redis://:hunter2@localhost", **arguments}
    with pytest.raises(InvalidInput, match=named) as raised:
        Tiers(**given)
    assert "hunter2" not in str(raised.value)


def test_the_constructor_does_nothing_but_remember(tmp_path: Path) -> None:
    before = threading.active_count()
    path = tmp_path / "absent" / "x.db"
    tiers = Tiers(f"redis://127.0.0.1:{free_port()}", f"sqlite:///{path}")
    embedded = Tiers.embedded(tmp_path / "not there yet")
    cache = LLMCache(tiers)
    tiers.tenant("other")
    assert "absent" in repr(cache)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before
    embedded.close()
    tiers.close()


def test_shown_without_credentials(tmp_path: Path) -> None:
    tiers = Tiers(
        "redis://u:hunter2@h:1/2", "postgresql://u:hunter2@h/d", namespace="n", tenant="acme"
    )
    assert repr(tiers) == (
        "Tiers('redis://h:1/2', 'postgresql://u:***@h/d', namespace='n', tenant='acme')"
    )
    assert "hunter2" not in repr(LLMCache(tiers))


# Working.


def test_each_tier_serves(tiers: Tiers) -> None:
    tiers.setup()
    cache = LLMCache(tiers)
    assert answered(cache) is None
    cache.update(ASKED, b"answer")
    found = [cache.lookup(ASKED) for _ in range(3)]
    assert {one.payload for one in found if one} == {b"answer"}
    assert found[-1] is not None
    assert found[-1].tier == "memory"


def test_tenants_and_namespaces_are_apart(valkey: RedisServer, sqlite_url: str) -> None:
    with (
        Tiers(valkey.url, sqlite_url) as tiers,
        Tiers(valkey.url, sqlite_url, namespace="other") as elsewhere,
    ):
        one, two = LLMCache(tiers.tenant("one")), LLMCache(tiers.tenant("two"))
        third = LLMCache(elsewhere.tenant("one"))
        for number, cache in enumerate((one, two, third)):
            assert answered(cache) is None
            cache.update(ASKED, b"%d" % number)
        assert [answered(cache) for cache in (one, two, third)] == [b"0", b"1", b"2"]
        two.clear()
        assert [answered(cache) for cache in (one, two, third)] == [b"0", None, b"2"]
        with pytest.raises(InvalidInput, match="tenant"):
            tiers.tenant("")
        with valkey.client() as client:
            prefixes = {key.split(b":")[0].rstrip(b"!") for key in client.keys("*")}
        assert prefixes == {b"redis-tiered", b"other"}


def test_without_l1(valkey: RedisServer) -> None:
    with Tiers(valkey.url, l1_max_bytes=0) as tiers:
        tiers.setup()
        cache = LLMCache(tiers)
        cache.update(ASKED, b"answer")
        assert [cache.lookup(ASKED).tier for _ in range(3)] == ["redis"] * 3  # type: ignore[union-attr]


# From the environment.


def test_from_the_environment(valkey: RedisServer, sqlite_url: str) -> None:
    environment = {
        "REDIS_TIERED_REDIS_URL": valkey.url,
        "REDIS_TIERED_DURABLE_URL": sqlite_url,
        "REDIS_TIERED_TENANT": "acme",
        "REDIS_TIERED_L1_MAX_BYTES": "1000",
    }
    with Tiers.from_env(environment) as tiers:
        assert tiers.keys.tenant == "acme"
        assert tiers.memory.max_bytes == 1000
        tiers.setup()
    with pytest.raises(ConfigurationError, match="REDIS_TIERED_REDIS_URL"):
        Tiers.from_env({})
    with pytest.raises(ConfigurationError, match="REDIS_TIERED_L1_TTL"):
        Tiers.from_env(environment | {"REDIS_TIERED_L1_TTL": "soon"})


def test_default_is_one_per_process_and_made_anew_once_closed(
    valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tiers, "_default", None)
    monkeypatch.setenv("REDIS_TIERED_REDIS_URL", valkey.url)
    first = Tiers.default()
    assert Tiers.default() is first
    first.close()
    second = Tiers.default()
    assert second is not first
    second.close()


def test_default_without_a_redis_is_embedded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Tiers, "_default", None)
    monkeypatch.delenv("REDIS_TIERED_REDIS_URL", raising=False)
    monkeypatch.setenv("REDIS_TIERED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REDIS_TIERED_NAMESPACE", "mine")
    tiers = Tiers.default()
    assert tiers.keys.namespace == "mine"
    assert "embedded" in repr(tiers)
    assert str(tmp_path / "home") in str(tiers.durable)
    tiers.close()


@pytest.mark.parametrize("path", [5, b"x", object()])
def test_embedded_takes_a_path(path: object) -> None:
    with pytest.raises(ConfigurationError, match="path"):
        Tiers.embedded(path)  # type: ignore[arg-type]


# Pickling.


def test_pickled_as_its_configuration(tiers: Tiers) -> None:
    LLMCache(tiers.tenant("acme")).update(ASKED, b"answer")
    with pickle.loads(pickle.dumps(tiers.tenant("acme"))) as again:
        assert repr(again) == repr(tiers.tenant("acme"))
        assert again.durable == tiers.durable
        assert answered(LLMCache(again)) == b"answer"


@pytest.mark.parametrize("module", [redis, redis.asyncio], ids=["sync", "async"])
def test_pickled_though_made_from_a_client(module: Any, valkey: RedisServer) -> None:
    tiers = Tiers(module.Redis.from_url(valkey.url))
    again = pickle.loads(pickle.dumps(tiers))
    again.setup()
    again.close()
    tiers.close()


# Setup.


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_setup_tells_what_cannot_be_reached(kind: str, valkey: RedisServer, tmp_path: Path) -> None:
    def setup(tiers: Tiers) -> None:
        try:
            if kind == "sync":
                tiers.setup()
            else:
                asyncio.run(tiers.asetup())
        finally:
            tiers.close()

    with pytest.raises(TierUnavailable, match="redis tier: refused"):
        setup(Tiers(f"redis://127.0.0.1:{free_port()}"))
    with pytest.raises(TierUnavailable, match="durable tier: refused"):
        setup(Tiers(valkey.url, f"sqlite:///{tmp_path}/absent/x.db"))
    (tmp_path / "letter").write_text("Dear reader, " * 100)
    with pytest.raises(TierUnavailable, match="not a SQLite database"):
        setup(Tiers(valkey.url, f"sqlite:///{tmp_path}/letter"))
    import sqlite3

    with sqlite3.connect(tmp_path / "newer.db") as connection:
        connection.execute("CREATE TABLE redis_tiered_schema (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO redis_tiered_schema VALUES (99)")
    connection.close()
    with pytest.raises(SchemaError, match="99"):
        setup(Tiers(valkey.url, f"sqlite:///{tmp_path}/newer.db"))


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "no such host"])
def test_a_host_that_cannot_be_is_a_miss_and_no_exception(host: str) -> None:
    client = redis.Redis(host=host)
    with Tiers(client, redis_timeout=1.0) as tiers:
        cache = LLMCache(tiers, single_flight=0)
        cache.update(ASKED, b"answer")
        assert answered(cache) is None
        assert asyncio.run(cache.alookup(ASKED)) is None


def test_an_embedded_directory_that_cannot_be_made_is_a_miss_and_no_exception(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    with Tiers.embedded(tmp_path / "file" / "below") as tiers:
        cache = LLMCache(tiers, single_flight=0)
        cache.update(ASKED, b"answer")
        assert answered(cache) is None
        assert asyncio.run(cache.alookup(ASKED)) is None
        with pytest.raises(TierUnavailable):
            tiers.setup()


# The end.


def test_with_closes_and_closing_again_is_nothing(valkey: RedisServer, sqlite_url: str) -> None:
    with Tiers(valkey.url, sqlite_url) as tiers:
        tiers.setup()
        assert not tiers.closed
    assert tiers.closed
    tiers.close()
    tiers.tenant("other").close()
    asyncio.run(tiers.aclose())


async def test_async_with_closes(valkey: RedisServer, sqlite_url: str) -> None:
    async with Tiers(valkey.url, sqlite_url) as tiers:
        await tiers.asetup()
        cache = LLMCache(tiers)
        await cache.aupdate(ASKED, b"answer")
        assert await cache.alookup(ASKED) is not None
    assert tiers.closed
    await tiers.aclose()


@pytest.mark.parametrize("how", ["close", "aclose"])
def test_after_close_a_lookup_is_a_miss_and_setup_tells(
    how: str, valkey: RedisServer, sqlite_url: str
) -> None:
    async def use() -> None:
        tiers = Tiers(valkey.url, sqlite_url)
        cache = LLMCache(tiers)
        cache.update(ASKED, b"answer")
        await cache.aupdate(ASKED, b"answer")
        if how == "close":
            tiers.close()
        else:
            await tiers.aclose()
        assert await cache.alookup(ASKED) is None
        await cache.aupdate(ASKED, b"again")
        with pytest.raises(ClosedError):
            await tiers.asetup()
        with pytest.raises(ClosedError):
            await cache.aclear()
        assert cache.lookup(ASKED) is None
        cache.update(ASKED, b"again")
        with pytest.raises(ClosedError):
            tiers.setup()
        with pytest.raises(ClosedError):
            cache.clear()

    asyncio.run(use())


def test_closing_leaves_no_connection_and_no_thread(valkey: RedisServer, sqlite_url: str) -> None:
    def connections() -> int:
        with valkey.client() as client:
            return len([c for c in client.client_list() if c["id"] != str(client.client_id())])

    with Tiers(valkey.url, sqlite_url) as tiers:
        tiers.setup()
        cache = LLMCache(tiers)
        cache.update(ASKED, b"answer")
        assert answered(cache) == b"answer"
        assert connections() >= 2
    wait_until(lambda: connections() == 0, what="all connections to be closed")
    wait_until(
        lambda: not any("redis-tiered" in thread.name for thread in threading.enumerate()),
        what="all threads to end",
    )


@pytest.mark.parametrize(
    "options", [{}, {"decode_responses": True}, {"protocol": 3}], ids=["plain", "decoded", "resp3"]
)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_client_passed_in_is_neither_used_nor_closed(
    kind: str, options: dict[str, Any], valkey: RedisServer
) -> None:
    module: Any = redis if kind == "sync" else redis.asyncio
    client = module.Redis.from_url(valkey.url, **options)
    pool = client.connection_pool

    async def ping() -> bool:
        answer = client.ping()
        return bool(answer if kind == "sync" else await answer)

    assert await ping()
    made = len(pool._available_connections)
    tiers = Tiers(client)
    cache = LLMCache(tiers)
    cache.update(ASKED, b"\xff answer")
    assert answered(cache) == b"\xff answer"
    assert await cache.alookup(ASKED) is not None
    assert len(pool._available_connections) == made == 1
    await tiers.aclose()
    assert pool._available_connections[0].is_connected
    assert await ping()
    if kind == "sync":
        client.close()
    else:
        await client.aclose()


# Threads, loops, forks.


def test_many_threads_share_it(tiers: Tiers) -> None:
    cache = LLMCache(tiers)

    def work(number: int) -> bytes | None:
        request = Request(b"m", b"c", f"q{number % 10}")
        cache.update(request, b"%d" % (number % 10))
        return answered(cache, request)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(work, range(120))) == [b"%d" % (number % 10) for number in range(120)]


async def _use(cache: LLMCache, name: str) -> bytes | None:
    request = Request(b"m", b"c", name)
    await cache.aupdate(request, name.encode())
    found = await cache.alookup(request)
    return None if found is None else found.payload


def test_loops_one_after_the_other_leave_nothing_behind(tiers: Tiers) -> None:
    cache = LLMCache(tiers)
    for number in range(4):
        name = f"loop {number}"
        assert asyncio.run(_use(cache, name)) == name.encode()
    gc.collect()
    assert len(tiers._runtime._loops) == 0


def test_two_loops_at_once_in_threads(tiers: Tiers) -> None:
    cache = LLMCache(tiers)
    both = threading.Barrier(2)

    async def work(name: str) -> list[bytes | None]:
        results = [await _use(cache, f"{name} 0")]
        await asyncio.to_thread(both.wait)
        results += [await _use(cache, f"{name} {number}") for number in range(1, 10)]
        return results

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(asyncio.run, work(name)) for name in ("a", "b")}
        for name, future in futures.items():
            assert future.result(30) == [f"{name} {number}".encode() for number in range(10)]


def _script(body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script with every warning an error, and its output kept."""
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            textwrap.dedent(body),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


START = """
import asyncio, os, sys, threading
from redis_tiered import LLMCache, Tiers
from redis_tiered.llm_cache.fingerprint import Request
tiers = Tiers(sys.argv[1], sys.argv[2])
cache = LLMCache(tiers)
ask = lambda name: Request(b"m", b"c", name)
"""


@pytest.mark.parametrize("ending", ["pass", "await tiers.aclose()", "tiers.close()"])
def test_a_loop_that_ends_in_any_way_ends_quietly(
    ending: str, valkey: RedisServer, sqlite_url: str
) -> None:
    body = START + textwrap.dedent(f"""
    async def main():
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(cache.aupdate(ask(str(number % 5)), b"answer"))
        assert (await cache.alookup(ask("1"))).payload == b"answer"
        {ending}
    asyncio.run(main())
    print("done")
    """)
    done = _script(body, valkey.url, sqlite_url)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_a_program_that_ends_without_closing_ends_quietly(
    valkey: RedisServer, sqlite_url: str
) -> None:
    body = START + textwrap.dedent("""
    cache.update(ask("a"), b"answer")
    assert cache.lookup(ask("a")).payload == b"answer"
    async def main():
        task = asyncio.create_task(cache.alookup(ask("never answered")))
        await asyncio.sleep(0)
    asyncio.run(main())
    print("done")
    """)
    done = _script(body, valkey.url, sqlite_url)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_parent_and_child_both_go_on_after_a_fork(valkey: RedisServer, sqlite_url: str) -> None:
    body = START + textwrap.dedent("""
    import time, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # of fork() with threads
    tiers.setup()
    cache.update(ask("before"), b"parent")
    assert cache.lookup(ask("before")).payload == b"parent"
    async def use(name):
        await cache.aupdate(ask(name), name.encode())
        return (await cache.alookup(ask(name))).payload
    assert asyncio.run(use("loop before")) == b"loop before"

    def go_on(name):
        deadline = time.monotonic() + 10
        assert cache.lookup(ask("before")).payload == b"parent", name
        for number in range(50):
            cache.update(ask(f"{name} {number}"), name.encode())
            assert cache.lookup(ask(f"{name} {number}")).payload == name.encode()
        assert asyncio.run(use(name)) == name.encode()
        tiers.setup()
        while cache.lookup(ask("before")).tier != "memory":
            assert time.monotonic() < deadline, name

    pid = os.fork()
    if pid == 0:
        try:
            go_on("child")
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        os._exit(code)
    go_on("parent")
    assert os.waitpid(pid, 0)[1] == 0
    assert cache.lookup(ask("child 49")).payload == b"child"
    tiers.close()
    print("done")
    """)
    done = _script(body, valkey.url, sqlite_url)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_a_write_in_another_process_reaches_this_memory(tiers: Tiers, valkey: RedisServer) -> None:
    tiers.setup()
    cache = LLMCache(tiers)
    cache.update(ASKED, b"old")
    wait_until(lambda: (found := cache.lookup(ASKED)) is not None and found.tier == "memory")
    with Tiers(valkey.url, tiers.durable) as other:
        LLMCache(other).update(ASKED, b"new")
        wait_until(lambda: answered(cache) == b"new")
        LLMCache(other).clear()
        wait_until(lambda: answered(cache) is None)


def test_forgotten_without_closing_its_threads_end(valkey: RedisServer) -> None:
    tiers = Tiers(valkey.url)
    tiers.setup()
    before = time.monotonic()
    del tiers
    gc.collect()
    wait_until(
        lambda: (
            not any(thread.name == "redis-tiered invalidations" for thread in threading.enumerate())
        ),
        what="the invalidation thread to end",
    )
    assert time.monotonic() - before < 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_default_survives_a_fork(valkey: RedisServer, sqlite_url: str) -> None:
    body = """
    import os, sys, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    os.environ["REDIS_TIERED_REDIS_URL"], os.environ["REDIS_TIERED_DURABLE_URL"] = sys.argv[1:]
    from redis_tiered import Tiers
    tiers = Tiers.default()
    tiers.setup()
    pid = os.fork()
    if pid == 0:
        ok = Tiers.default() is tiers
        tiers.setup()
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    tiers.setup()
    tiers.close()
    print("done")
    """
    done = _script(body, valkey.url, sqlite_url)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_counters_of_a_process_that_never_closed_are_in_the_totals(valkey: RedisServer) -> None:
    body = """
    import sys
    from redis_tiered import LLMCache, Tiers
    from redis_tiered.llm_cache.fingerprint import Request
    LLMCache(Tiers(sys.argv[1])).lookup(Request(b"", b"", "question"))
    """
    done = _script(body, valkey.url)
    assert (done.returncode, done.stderr) == (0, "")
    with Tiers(valkey.url) as tiers:
        assert LLMCache(tiers).stats(total=True).misses == 1


def test_a_first_use_that_is_overtaken_by_close(valkey: RedisServer) -> None:
    """It has begun, waits for a lock, and goes on when all is over."""
    tiers = Tiers(valkey.url)
    runtime = tiers._runtime

    class Watched:
        lock = threading.Lock()
        asked = threading.Event()

        def __enter__(self) -> None:
            self.asked.set()
            self.lock.acquire()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    runtime._lock = watched = Watched()  # type: ignore[assignment]
    outcome: list[BaseException | None] = []

    def use() -> None:
        try:
            runtime.start()
            outcome.append(None)
        except ClosedError as error:
            outcome.append(error)

    thread = threading.Thread(target=use)
    with watched.lock:
        thread.start()
        assert watched.asked.wait(10)
        runtime.closed = True  # as `close` does, whose turn it was
    thread.join(10)
    assert [type(one) for one in outcome] == [ClosedError]
    assert not runtime._started
