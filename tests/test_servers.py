"""The test infrastructure itself: what the other tests rest on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import psycopg
import pytest
import redis
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from tests.servers import (
    FaultProxy,
    PortTaken,
    PostgresDatabases,
    PostgresServer,
    RedisCluster3,
    RedisServer,
    SentinelSet,
    process_runs,
    redis_options,
    server_binaries,
)
from tests.waiting import await_until, wait_until

# --- waiting -------------------------------------------------------------------------------------


def test_wait_until_returns_the_value_or_names_what_was_awaited() -> None:
    replies = iter([0, None, 7])
    assert wait_until(lambda: next(replies)) == 7
    with pytest.raises(AssertionError, match="a miracle"):
        wait_until(lambda: False, 0.01, "a miracle")


@pytest.mark.asyncio
async def test_await_until() -> None:
    replies = iter([0, None, 7])
    assert await await_until(lambda: next(replies)) == 7
    with pytest.raises(AssertionError, match="a miracle"):
        await await_until(lambda: False, 0.01, "a miracle")


# --- Redis ---------------------------------------------------------------------------------------


def test_binaries_are_named_by_their_version(monkeypatch: pytest.MonkeyPatch) -> None:
    found = server_binaries()
    assert os.access(found["valkey"], os.X_OK)
    monkeypatch.setenv("REDIS_TIERED_TEST_SERVERS", found["valkey"])
    assert server_binaries() == found


@pytest.mark.parametrize("name", server_binaries())
def test_every_binary_serves(name: str, tmp_path: Path) -> None:
    with RedisServer(server_binaries()[name], directory=tmp_path) as server:
        with contextlib.closing(server.client()) as client:
            assert client.set("k", "v")
            assert client.get("k") == b"v"
        pid = server.pid
    assert not server.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_killed_server_restarts_on_its_port_empty(valkey: RedisServer) -> None:
    port = valkey.port
    with contextlib.closing(valkey.client()) as client:
        client.set("k", "v")
        valkey.kill()
        with pytest.raises(ConnectionError):
            client.ping()
        valkey.restart()
        assert client.get("k") is None
    assert valkey.port == port


def test_with_aof_a_restart_keeps_the_data(tmp_path: Path) -> None:
    extra = ["--appendfsync", "always"]
    with (
        RedisServer(directory=tmp_path, aof=True, extra=extra) as server,
        contextlib.closing(server.client()) as client,
    ):
        client.set("killed", 1)
        server.kill()
        server.start()
        client.set("stopped", 2)
        server.restart()
        assert client.mget("killed", "stopped") == [b"1", b"2"]


def test_a_paused_server_is_silent_and_resumes(valkey: RedisServer) -> None:
    with contextlib.closing(valkey.client(socket_timeout=0.1)) as client:
        client.ping()
        valkey.pause()
        with pytest.raises(TimeoutError):
            client.ping()
        valkey.resume()
        assert client.ping()


def test_unixsocket_password_and_maxmemory(server_directory: Path, tmp_path: Path) -> None:
    path = server_directory / "test.sock"
    with RedisServer(
        directory=tmp_path, unixsocket=path, password="p@ss/word", maxmemory="3mb"
    ) as server:
        assert server.port == 0
        with contextlib.closing(server.client()) as client:
            assert client.ping()
            with pytest.raises(ResponseError, match="maxmemory"):  # counts its arguments too
                client.mset({f"k{i}": b"x" * 100_000 for i in range(100)})
        with (
            contextlib.closing(redis.Redis.from_url(f"unix://{path}", retry=None)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


def test_a_port_in_use_is_told_apart(valkey: RedisServer, tmp_path: Path) -> None:
    second = RedisServer(directory=tmp_path, port=valkey.port)
    with pytest.raises(PortTaken):
        second.start()


def test_a_new_port_is_tried_if_the_first_is_taken(
    valkey: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RedisServer._start_on_new_port
    ports = [valkey.port]

    def start(server: RedisServer) -> None:
        if ports:
            server.port = ports.pop()
            server._start()
        else:
            real(server)

    monkeypatch.setattr(RedisServer, "_start_on_new_port", start)
    with RedisServer(directory=tmp_path) as server:
        assert server.port != valkey.port


def test_cluster_serves_every_slot_and_survives_the_restart_of_a_node(
    redis_cluster: RedisCluster3,
) -> None:
    with contextlib.closing(redis_cluster.client()) as client:
        keyslot = cast(Callable[[str], int], client.keyslot)
        slots = {keyslot(f"k{i}") * 3 // 16384: f"k{i}" for i in range(50)}
        assert len(slots) == 3
        for key in slots.values():
            client.set(key, key)
        assert len(redis_cluster.url.split(",")) == 3
    redis_cluster.kill(1)
    redis_cluster.restart(1)
    with contextlib.closing(redis_cluster.client()) as client:
        alive = [client.get(key) for _, key in sorted(slots.items())]
    assert alive == [slots[0].encode(), None, slots[2].encode()]


def test_sentinel_fails_over_and_heals(redis_sentinel: SentinelSet) -> None:
    with contextlib.closing(redis_sentinel.primary().client()) as client:
        client.set("k", "v")
        assert client.execute_command("WAIT", 1, 5000) == 1  # type: ignore[no-untyped-call]
    old = redis_sentinel.kill_primary()
    new = redis_sentinel.wait_failover()
    assert new is not old
    assert redis_sentinel.primary() is new
    with contextlib.closing(new.client()) as client:
        assert client.get("k") == b"v"
        redis_sentinel.heal()
        assert client.info("replication")["connected_slaves"] == 1


def test_redis_url_is_empty_and_serves(redis_url: str) -> None:
    if redis_url.startswith("redis+cluster://"):
        hosts = redis_url.removeprefix("redis+cluster://").split(",")
        urls = [f"redis://{host}" for host in hosts]
    else:
        urls = [redis_url]
    for url in urls:
        with contextlib.closing(redis.Redis.from_url(url, **redis_options())) as client:
            assert client.dbsize() == 0


# --- Postgres ------------------------------------------------------------------------------------


def test_databases_are_separate(postgres: PostgresServer) -> None:
    first, second = postgres.create_database(), postgres.create_database()
    assert first.startswith("postgresql+psycopg://")
    with postgres.connect(first) as connection:
        connection.execute("CREATE TABLE t (n int)")
    with postgres.connect(second) as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM t")
        postgres.drop_database(second)  # although somebody is connected
    postgres.drop_database(first)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        postgres.connect(first)


def test_a_killed_postgres_restarts_with_what_was_committed(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    with contextlib.closing(postgres.connect(url)) as connection:
        connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        postgres.kill()
        assert not postgres.running
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        postgres.connect(url)
    for again in (postgres.start, postgres.restart):
        again()
        with postgres.connect(url) as connection:
            assert connection.execute("SELECT n FROM t").fetchone() == (7,)
    postgres.drop_database(url)


def test_durable_postgres_syncs(tmp_path: Path, postgres: PostgresServer) -> None:
    def setting(server: PostgresServer) -> tuple[str] | None:
        with server.connect() as connection:
            return connection.execute("SHOW fsync").fetchone()

    assert setting(postgres) == ("off",)
    with PostgresServer(tmp_path, durable=True, extra=["max_connections=20"]) as durable:
        assert setting(durable) == ("on",)


def test_any_postgres_url_will_do_for_databases(postgres: PostgresServer) -> None:
    plain = postgres.url.replace("+psycopg", "")
    databases = PostgresDatabases(plain)
    url = databases.create_database()
    with databases.connect(url) as connection:
        assert connection.info.dbname.startswith("test_")
    databases.drop_database(url)


def test_durable_url_is_empty(durable_url: str | None) -> None:
    if durable_url is None:
        return
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(durable_url)
    assert sqlalchemy.inspect(engine).get_table_names() == []
    engine.dispose()


# --- a process that dies takes its servers along -------------------------------------------------

_OWNER = """
import signal, sys, time
from tests.servers import PostgresServer, RedisServer
redis = RedisServer(directory=sys.argv[1] + "/redis")
paused = RedisServer(directory=sys.argv[1] + "/paused")
postgres = PostgresServer(sys.argv[1] + "/postgres")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
for server in (redis, paused, postgres):
    server.start()
paused.pause()
print(redis.pid, paused.pid, postgres.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_server_outlives_its_owner(number: signal.Signals, server_directory: Path) -> None:
    root = Path(__file__).parent.parent
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(server_directory / number.name)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert owner.stdout is not None
    try:
        with owner.stdout:
            pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 3
        owner.send_signal(number)
        owner.wait(10)
    finally:
        owner.kill()
        owner.wait(10)
    wait_until(lambda: not any(map(process_runs, pids)), 10, "the orphans to end")


# --- the proxy -----------------------------------------------------------------------------------


@pytest.fixture
def proxy(valkey: RedisServer) -> Iterator[FaultProxy]:
    assert valkey.port
    with FaultProxy("127.0.0.1", valkey.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[redis.Redis]:
    options = redis_options() | {"socket_timeout": 0.2}
    with contextlib.closing(redis.Redis.from_url(proxy.url, **options)) as client:
        yield client


def test_proxy_passes_through_and_counts(proxy: FaultProxy, client: redis.Redis) -> None:
    client.ping()
    assert proxy.accepted == proxy.live == 1
    before = proxy.forwarded
    with proxy.count_round_trips() as trips:
        client.set("k", b"x" * 10_000)
        assert trips.count == 1
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(100):
                pipeline.get("k")
            assert pipeline.execute() == [b"x" * 10_000] * 100
    client.ping()
    assert trips.count == 2
    assert proxy.forwarded - before > 12_000
    client.close()
    wait_until(lambda: proxy.live == 0, what="the connection to be given up")


def test_proxy_passes_large_values(proxy: FaultProxy) -> None:
    with contextlib.closing(redis.Redis.from_url(proxy.url, **redis_options())) as client:
        value = os.urandom(20_000_000)
        client.set("k", value)
        assert client.get("k") == value


def test_proxy_latency_delays_each_round_trip_once(proxy: FaultProxy, client: redis.Redis) -> None:
    client.ping()
    proxy.latency(0.05)
    started = time.perf_counter()
    with client.pipeline(transaction=False) as pipeline:
        for i in range(50):
            pipeline.set(f"k{i}", i)
        pipeline.execute()
    assert 0.05 <= time.perf_counter() - started < 0.15
    proxy.heal()
    started = time.perf_counter()
    client.ping()
    assert time.perf_counter() - started < 0.04


def test_proxy_latency_keeps_the_order_of_what_is_under_way(
    proxy: FaultProxy, valkey: RedisServer
) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        proxy.latency(0.05)
        connection.sendall(b"RPUSH l first\r\n")
        wait_until(lambda: proxy.forwarded, what="the first request")
        proxy.heal()
        connection.sendall(b"RPUSH l second\r\n")
    with contextlib.closing(valkey.client()) as direct:
        wait_until(lambda: direct.llen("l") == 2, what="both requests, although the client left")
        assert direct.lrange("l", 0, -1) == [b"first", b"second"]


def test_proxy_blackhole_swallows(
    proxy: FaultProxy, client: redis.Redis, valkey: RedisServer
) -> None:
    client.set("k", "old")
    proxy.blackhole()
    for _ in range(2):  # on the open connection, then on a new one
        with pytest.raises(TimeoutError):
            client.set("k", "new")
    proxy.heal()
    assert client.get("k") == b"old"
    with contextlib.closing(valkey.client()) as direct:
        assert direct.get("k") == b"old"


def test_proxy_blackhole_resets_on_heal_what_lost_bytes(proxy: FaultProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
        proxy.blackhole()
        connection.sendall(b"PING\r\n")
        wait_until(lambda: any(link.lossy for link in proxy._links), what="the request")
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)


def test_proxy_reset_after_request_executes_but_never_answers(
    proxy: FaultProxy, client: redis.Redis, valkey: RedisServer
) -> None:
    proxy.reset_after_request(b"INCR", times=2)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            client.incr("n")
    assert client.incr("n") == 3
    proxy.reset_after_request()
    with pytest.raises(ConnectionError):
        client.incr("n")
    with contextlib.closing(valkey.client()) as direct:
        assert direct.get("n") == b"4"
    proxy.heal()
    assert client.incr("n") == 5


def test_proxy_refuse_and_cut(proxy: FaultProxy, client: redis.Redis) -> None:
    client.ping()
    port = proxy.port
    proxy.refuse()
    assert client.ping(), "a live connection stays"
    proxy.cut()
    with pytest.raises(ConnectionError, match="refused"):
        client.ping()
    proxy.heal()
    assert client.ping()
    assert proxy.port == port


def test_proxy_cut_is_a_reset(proxy: FaultProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    assert proxy.live == 0


def test_proxy_in_front_of_nobody_resets() -> None:
    with (
        FaultProxy("127.0.0.1", 1) as proxy,
        contextlib.closing(redis.Redis.from_url(proxy.url, retry=None)) as client,
        pytest.raises(ConnectionError),
    ):
        client.ping()


def test_proxy_in_front_of_postgres(postgres: PostgresServer) -> None:
    assert postgres.port
    with FaultProxy("127.0.0.1", postgres.port) as proxy:
        url = proxy.through(postgres.url)
        assert f"postgres@127.0.0.1:{proxy.port}/postgres" in url
        with postgres.connect(url) as connection:
            with proxy.count_round_trips() as trips:
                connection.execute("SELECT 1")
            assert trips.count == 1
