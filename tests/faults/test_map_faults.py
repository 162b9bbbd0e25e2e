"""Maps while servers are killed, full, read-only, paused, cut off: slower, never wrong, nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import make_url

from redis_tiered.errors import TierError
from redis_tiered.maps import scripts
from redis_tiered.maps.map import Map
from redis_tiered.tiers.tiers import Tiers
from tests.faults.worker import run_script
from tests.maps.twin import Bench, Twin
from tests.servers import FaultProxy, PostgresServer, RedisCluster3, RedisServer
from tests.waiting import wait_until


@pytest.fixture(params=["sync", "async"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop | None]:
    if request.param == "sync":
        yield None
        return
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture
def running() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture
def client(valkey: RedisServer) -> Iterator[redis.Redis]:
    """By hand; the server accepts writes again at the end."""
    with contextlib.closing(valkey.client()) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.replicaof("NO", "ONE")


def from_redis(map: Map[Any], name: str) -> bool:
    """Whether it is read from Redis, or from memory."""
    found = map.tiers.run(map.reading([name.encode()]))
    return found.failure is None and found.tiers["redis"] + found.tiers["memory"] == 1


def resumed(twin: Twin, name: str = "kept") -> None:
    wait_until(lambda: twin.get(name) is not None and from_redis(twin.map, name), 3, "Redis")


# --- Redis goes away -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False], ids=["with its data", "empty"])
def test_redis_killed_and_restarted(
    tmp_path: Path, sqlite_url: str, loop: asyncio.AbstractEventLoop | None, kept: bool
) -> None:
    with (
        RedisServer(
            directory=tmp_path / "redis", aof=kept, extra=("--appendfsync", "always") * kept
        ) as server,
        Bench(server.url, sqlite_url, loop) as bench,
    ):
        writer, idle = bench.map(), bench.map(tiers=bench.more())
        stranger = bench.map(tiers=bench.more(l1_max_bytes=0))
        for map in (writer, idle, stranger):
            map.map.tiers.setup(timeout=2)
        writer.write(dict.fromkeys(("kept", "replaced", "deleted"), b"old"))
        for map in (writer, idle, stranger):
            assert map.get_many(["kept", "replaced", "deleted"]) == [b"old"] * 3
        server.kill()
        assert writer.write({"replaced": b"new", "added": b"new"}, ["deleted"]) == 1
        expected = [b"old", b"new", None, b"new"]
        for map in (writer, stranger):
            assert map.get_many(["kept", "replaced", "deleted", "added"]) == expected
        assert [name for name, _ in writer.page()] == ["added", "kept", "replaced"]
        server.start()
        for map in (stranger, idle, writer):
            assert map.get_many(["kept", "replaced", "deleted", "added"]) == expected
        for map in (stranger, idle, writer):
            resumed(map)
            assert map.get_many(["kept", "replaced", "deleted", "added"]) == expected


def test_a_restored_older_copy_is_not_believed(tmp_path: Path, sqlite_url: str) -> None:
    with (
        RedisServer(directory=tmp_path / "redis", extra=("--dbfilename", "dump.rdb")) as server,
        Bench(server.url, sqlite_url) as bench,
    ):
        writer, stranger = bench.map(), bench.map(tiers=bench.more(l1_max_bytes=0))
        for map in (writer, stranger):
            map.write({"replaced": b"old", "deleted": b"old"})
            assert map.get_many(["replaced", "deleted"]) == [b"old"] * 2
        with contextlib.closing(server.client()) as client:
            client.save()
        writer.write({"replaced": b"new"}, ["deleted"])
        server.kill()
        server.start()
        for map in (stranger, writer, bench.map(tiers=bench.more())):
            assert map.get_many(["replaced", "deleted"]) == [b"new", None]


@pytest.mark.parametrize("durable", ["sqlite", "postgres"])
def test_redis_flushed(
    request: pytest.FixtureRequest, valkey: RedisServer, client: redis.Redis, durable: str
) -> None:
    with Bench(valkey.url, request.getfixturevalue(f"{durable}_url")) as bench:
        map, other = bench.map(), bench.map(tiers=bench.more())
        map.write({f"{i}": b"A" for i in range(100)})
        for turn in range(3):
            client.flushall()
            assert map.get_many(["1", "2"]) == [b"A", b"A" if turn < 1 else None]
            map.delete("2")
            assert other.get("1") == b"A"
            wait_until(lambda: other.get("2") is None, 2)


def test_redis_paused(
    valkey: RedisServer, sqlite_url: str, running: asyncio.AbstractEventLoop
) -> None:
    with Bench(valkey.url, sqlite_url, running) as bench:
        writer = bench.map(tiers=bench.more(redis_timeout=0.2))
        reader = bench.map()
        for map in (writer, reader):
            map.map.tiers.setup()
        writer.write(dict.fromkeys(("kept", "replaced", "deleted"), b"old"))
        for map in (writer, reader):
            assert map.get_many(["kept", "replaced", "deleted"]) == [b"old"] * 3
        valkey.pause()
        try:
            assert writer.write({"replaced": b"new"}, ["deleted"]) == 1
            assert writer.get_many(["kept", "replaced", "deleted"]) == [b"old", b"new", None]
            # Memory is believed until the server does not show a sign of life.
            wait_until(lambda: reader.get("replaced") == b"new", 3)
            assert reader.get("deleted") is None
        finally:
            valkey.resume()
        for map in (reader, writer):
            wait_until(lambda m=map: m.get_many(["replaced", "deleted"]) == [b"new", None], 2)  # type: ignore[misc]
            resumed(map)
            assert map.get_many(["replaced", "deleted"]) == [b"new", None]


def test_a_node_of_a_cluster_is_away(redis_cluster: RedisCluster3, sqlite_url: str) -> None:
    with Bench(redis_cluster.url, sqlite_url) as bench:
        map, other = bench.map(), bench.map(tiers=bench.more(l1_max_bytes=0))
        names = [f"{i}" for i in range(40)]
        map.write(dict.fromkeys(names, b"old"))
        redis_cluster.kill(1)
        map.write(dict.fromkeys(names[:20], b"new"), names[20:30])
        expected = [b"new"] * 20 + [None] * 10 + [b"old"] * 10
        assert map.get_many(names) == expected
        redis_cluster.restart(1)
        redis_cluster.wait_ok()
        wait_until(lambda: other.get_many(names) == expected, 3)
        wait_until(lambda: map.tiers.guards.redis.closed and map.get_many(names) == expected, 3)
        assert other.get_many(names) == expected


# --- Redis refuses -------------------------------------------------------------------------------


def test_out_of_memory(
    valkey: RedisServer,
    client: redis.Redis,
    sqlite_url: str,
    loop: asyncio.AbstractEventLoop | None,
) -> None:
    with Bench(valkey.url, sqlite_url, loop) as bench:
        writer, reader = bench.map(), bench.map(tiers=bench.more())
        writer.write(dict.fromkeys(("kept", "replaced", "deleted"), b"old"))
        assert reader.get_many(["kept", "replaced", "deleted"]) == [b"old"] * 3
        client.config_set("maxmemory", 1)
        for i in range(5):
            value = f"{i}".encode()
            writer.write({"replaced": value, "added": value})
            for map in (writer, reader):
                wait_until(lambda m=map, v=value: m.get_many(["replaced", "added"]) == [v, v], 2)  # type: ignore[misc]
            assert writer.get_many(["kept", "replaced"]) == [b"old", value]
        assert writer.delete("deleted") is True
        assert writer.get("deleted") is None
        wait_until(lambda: reader.get("deleted") is None, 2)
        assert writer.map.tiers.guards.errors["redis.oom"]
        writer.clear()
        assert writer.get("kept") is None
        wait_until(lambda: reader.get("kept") is None, 2)
        writer.put("kept", b"after")
        assert writer.get("kept") == reader.get("kept") == b"after"
        client.config_set("maxmemory", 0)
        resumed(writer)
        resumed(reader)
        assert reader.get_many(["kept", "replaced", "added"]) == [b"after", None, None]


def test_out_of_memory_where_redis_is_all_there_is(
    valkey: RedisServer, client: redis.Redis, loop: asyncio.AbstractEventLoop | None
) -> None:
    with Bench(valkey.url, None, loop) as bench:
        map = bench.map()
        map.write({"kept": b"old", "deleted": b"old"})
        client.config_set("maxmemory", 1)
        with pytest.raises(TierError):
            map.put("kept", b"new")
        assert map.get("kept") == b"old"
        assert map.delete("deleted") is True
        assert map.names() == ["kept"]
        client.config_set("maxmemory", 0)
        wait_until(lambda: _put(map, "kept", b"new"), 3)
        assert map.get("kept") == b"new"


def _put(map: Twin, name: str, value: bytes) -> bool:
    try:
        map.put(name, value)
    except TierError:
        return False
    return True


def test_read_only(
    valkey: RedisServer,
    client: redis.Redis,
    sqlite_url: str,
    running: asyncio.AbstractEventLoop,
) -> None:
    with Bench(valkey.url, sqlite_url, running) as bench:
        writer, reader = bench.map(), bench.map(tiers=bench.more())
        writer.write(dict.fromkeys(("kept", "replaced", "deleted"), b"old"))
        assert reader.get_many(["kept", "replaced", "deleted"]) == [b"old"] * 3
        client.replicaof("127.0.0.1", "1")  # nobody listens there: it keeps its data
        assert writer.write({"replaced": b"new"}, ["deleted"]) == 1
        assert writer.get_many(["kept", "replaced", "deleted"]) == [b"old", b"new", None]
        client.replicaof("NO", "ONE")
        # The writer is idle: its own care tells the reader.
        wait_until(lambda: reader.get_many(["replaced", "deleted"]) == [b"new", None], 3)
        resumed(writer)
        assert writer.get_many(["kept", "replaced", "deleted"]) == [b"old", b"new", None]


# --- the connection is cut -----------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_a_write_whose_answer_is_lost(
    valkey: RedisServer, sqlite_url: str, times: int | None
) -> None:
    with (
        FaultProxy("127.0.0.1", int(valkey.port or 0)) as proxy,
        Bench(proxy.through(valkey.url), sqlite_url) as bench,
        Bench(valkey.url, sqlite_url) as healthy,
    ):
        map, other = bench.map(), healthy.map()
        map.write({"replaced": b"old", "deleted": b"old"})
        assert other.get_many(["replaced", "deleted"]) == [b"old"] * 2
        proxy.reset_after_request(b"EVAL", times=times)
        assert map.write({"replaced": b"new"}, ["deleted"]) == 1
        assert map.get_many(["replaced", "deleted"]) == [b"new", None]
        proxy.heal()
        wait_until(lambda: other.get_many(["replaced", "deleted"]) == [b"new", None], 3)
        resumed(map, "replaced")
        assert map.get_many(["replaced", "deleted"]) == [b"new", None]


def test_a_slow_reader_does_not_bring_back_what_was_deleted(
    valkey: RedisServer, sqlite_url: str, client: redis.Redis
) -> None:
    """It is held up between the durable tier and Redis."""
    with Bench(valkey.url, sqlite_url) as bench:
        slow, other = bench.map(), bench.map(tiers=bench.more())
        slow.put("q", b"old")
        client.flushall()
        slow.get("another")
        read, go_on = threading.Event(), threading.Event()
        inner = slow.map.tiers._runtime.redis

        def held(step: Any, *, fresh: bool) -> list[Any]:
            if any(scripts.WARM in command for command in step.commands):
                read.set()
                assert go_on.wait(10)
            return inner(step, fresh=fresh)

        slow.map.tiers._runtime.redis = held  # type: ignore[method-assign]
        found: list[bytes | None] = []
        reader = threading.Thread(target=lambda: found.append(slow.map.get("q")))
        reader.start()
        assert read.wait(10)
        assert other.delete("q") is True
        go_on.set()
        reader.join(10)
        assert found == [b"old"]  # it began before
        assert other.get("q") is None
        wait_until(lambda: slow.get("q") is None, 2)


# --- the durable tier ----------------------------------------------------------------------------


def test_sqlite_locked(valkey: RedisServer, sqlite_url: str) -> None:
    with Bench(valkey.url, sqlite_url) as bench:
        map = bench.map(tiers=bench.more(durable_timeout=0.2))
        map.write({"kept": b"old", "deleted": b"old"})
        path = str(make_url(sqlite_url).database)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            for change in (
                lambda: map.put("kept", b"new"),
                lambda: map.delete("deleted"),
                lambda: map.write({"added": b"new"}),
                map.clear,
            ):
                with pytest.raises(TierError, match="locked"):
                    change()
            assert map.get_many(["kept", "deleted", "added"]) == [b"old", b"old", None]
            assert map.names() == ["deleted", "kept"]
            connection.execute("ROLLBACK")
        assert map.write({"kept": b"new"}, ["deleted"]) == 1
        assert map.get_many(["kept", "deleted"]) == [b"new", None]


def test_postgres_killed_and_restarted(
    valkey: RedisServer,
    postgres: PostgresServer,
    postgres_url: str,
    running: asyncio.AbstractEventLoop,
) -> None:
    with Bench(valkey.url, postgres_url, running) as bench:
        map = bench.map()
        map.write({"kept": b"old", "replaced": b"old"})
        assert map.get_many(["kept", "replaced"]) == [b"old"] * 2
        postgres.kill()
        for _ in range(3):
            with pytest.raises(TierError):
                map.put("replaced", b"new")
        assert map.get("kept") == b"old"
        with pytest.raises(TierError):
            map.get("nobody put this")
        with pytest.raises(TierError):
            map.page()
        postgres.start()
        wait_until(lambda: _put(map, "replaced", b"newer"), 5)
        assert map.get_many(["kept", "replaced"]) == [b"old", b"newer"]
        assert map.items() == [("kept", b"old"), ("replaced", b"newer")]


def test_both_tiers_away(valkey: RedisServer, postgres: PostgresServer, postgres_url: str) -> None:
    with Bench(valkey.url, postgres_url) as bench:
        map = bench.map()
        map.put("q", b"old")
        valkey.kill()
        postgres.kill()
        wait_until(lambda: _fails(map), 3)
        assert not _put(map, "q", b"lost")
        for forget in (map.clear, lambda: map.delete("q"), map.page):
            with pytest.raises(TierError):
                forget()
        postgres.start()
        valkey.start()
        wait_until(lambda: not _fails(map), 5)
        assert map.get("q") == b"old"


def _fails(map: Twin) -> bool:
    try:
        map.get("q")
    except TierError:
        return True
    return False


def test_closed(valkey: RedisServer, sqlite_url: str) -> None:
    with Bench(valkey.url, sqlite_url) as bench:
        map = bench.map()
        map.put("q", b"A")
    for use in (lambda: map.get("q"), lambda: map.put("q", b"B"), map.clear, map.page):
        with pytest.raises(TierError, match="closed"):
            use()


# --- processes, threads, loops -------------------------------------------------------------------

_FORK = """
import os, sys, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from redis_tiered.tiers.tiers import Tiers

def until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)

tiers = Tiers(sys.argv[1], sys.argv[2] or None)
tiers.setup()
map = tiers.map("m")
map.put("q", b"parent's")
until(lambda: map.get("q") and map._store.recall([b"q"]))
to_child, to_parent = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    status = 1
    try:
        assert map._store.recall([b"q"]) is None
        assert map.get("q") == b"parent's"
        map.write({"q": b"child's"}, ttl=100)
        assert map.get("q") == b"child's"
        os.write(to_parent[1], b"x")
        os.read(to_child[0], 1)
        until(lambda: map.get("q") is None)
        tiers.close()
        status = 0
    finally:
        if status:
            import traceback
            traceback.print_exc()
        os._exit(status)
os.read(to_parent[0], 1)
until(lambda: map.get("q") == b"child's")
assert map.delete("q")
os.write(to_child[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
assert map.get("q") is None
tiers.close()
print("done")
"""


@pytest.mark.parametrize("durable", [True, False], ids=["sqlite", "no-durable"])
def test_fork(valkey: RedisServer, sqlite_url: str, durable: bool) -> None:
    assert run_script(_FORK, valkey.url, sqlite_url if durable else "") == "done\n"


@pytest.mark.parametrize("durable", ["sqlite", "postgres", "no-durable"])
def test_ten_threads_and_two_loops(
    request: pytest.FixtureRequest, valkey: RedisServer, durable: str
) -> None:
    """Each has names of its own, and some that all write: what one wrote last, one reads."""
    url = None if durable == "no-durable" else request.getfixturevalue(f"{durable}_url")
    failures: list[BaseException] = []
    written = {b"%d %d" % (seed, i) for seed in range(12) for i in range(12)}

    def check(seed: int, i: int, own: bytes | None, shared: list[bytes | None]) -> None:
        assert own == b"%d %d" % (seed, i)
        assert {*shared} <= written | {None}

    with Tiers(valkey.url, url, redis_timeout=5, durable_timeout=10) as tiers:
        tiers.setup()
        map = tiers.map("m")

        def thread(seed: int) -> None:
            for i in range(12):
                value = b"%d %d" % (seed, i)
                map.write({f"own {seed}": value, f"shared {i % 3}": value})
                check(seed, i, map.get(f"own {seed}"), map.get_many(["shared 0", "shared 1"]))
                map.delete(f"shared {(i + seed) % 3}")

        async def task(seed: int) -> None:
            for i in range(12):
                value = b"%d %d" % (seed, i)
                await map.awrite({f"own {seed}": value, f"shared {i % 3}": value})
                shared = await map.aget_many(["shared 0", "shared 1"])
                check(seed, i, await map.aget(f"own {seed}"), shared)
                await map.adelete(f"shared {(i + seed) % 3}")

        def use(seed: int) -> None:
            try:
                if seed < 10:
                    thread(seed)
                else:
                    asyncio.run(task(seed))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(12)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
        assert failures == []
        everything = dict(map.items())
        names = [*(f"own {seed}" for seed in range(12)), *(f"shared {i}" for i in range(3))]
        assert map.get_many(names) == [everything.get(name) for name in names]
        assert all(everything[f"own {seed}"] == b"%d 11" % seed for seed in range(12))


async def test_a_cancelled_put_leaves_no_old_copy(valkey: RedisServer, sqlite_url: str) -> None:
    with Bench(valkey.url, sqlite_url) as bench:
        map, other = bench.tiers.map("m"), bench.map(tiers=bench.more(l1_max_bytes=0))
        truth = bench.more().map("m")
        await map.aput("q", b"start")
        for i in range(20):
            assert other.get("q") is not None
            putting = asyncio.ensure_future(map.aput("q", f"{i}".encode()))
            await asyncio.sleep(i * 0.0002)
            putting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await putting
            await asyncio.to_thread(
                wait_until, lambda: other.get("q") == dict(truth.page())["q"], 2, "agreement"
            )
        await bench.tiers.aclose()
