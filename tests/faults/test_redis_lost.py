"""Redis killed, paused, emptied, its connections cut: misses at worst, and service resumes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redis_tiered.errors import TierError
from redis_tiered.tiers.tiers import Tiers
from tests.faults.traffic import Caller, Traffic, median, timed
from tests.servers import RedisServer
from tests.waiting import wait_until

TIMEOUT = 0.5
# What a loaded machine may add to a bound.
SLACK = 0.4

STYLES = pytest.mark.parametrize("style", ["sync", "async"])


@pytest.fixture(params=["aof", "no-aof"])
def server(
    request: pytest.FixtureRequest, server_directory: Path, tmp_path: Path
) -> Iterator[RedisServer]:
    with RedisServer(
        directory=tmp_path / "redis",
        aof=request.param == "aof",
        extra=("--appendfsync", "always") if request.param == "aof" else (),
    ) as server:
        yield server


# --- killed --------------------------------------------------------------------------------------


def test_killed_in_mid_traffic(server: RedisServer, durable_url: str | None) -> None:
    with Tiers(server.url, durable_url) as tiers:
        traffic = Traffic(tiers)
        with traffic.running():
            traffic.wait(150)
            server.kill()
            traffic.wait(150)
            assert traffic._caches["acme"].stats().errors
            server.start()
            before = traffic.done["hit.redis"]
            wait_until(lambda: traffic.done["hit.redis"] > before, 3, "hits from Redis")
            traffic.wait(150)
        assert traffic.slowest < 4 * TIMEOUT + 2 * SLACK
    if durable_url is not None:
        with Tiers(server.url, durable_url) as tiers:
            traffic.check_nothing_lost(tiers)
        server.kill()
        with Tiers(server.url, durable_url) as tiers:
            traffic.check_nothing_lost(tiers)


@STYLES
def test_killed_costs_microseconds(server: RedisServer, style: str) -> None:
    with Caller(Tiers(server.url), style, single_flight=0) as caller:
        caller.tiers.setup()
        caller.put("q", "a")
        assert caller.get("q") == "a"
        server.kill()
        assert timed(lambda: caller.get("q")) < TIMEOUT + SLACK
        assert median(lambda i: caller.get(f"other {i}")) < 0.002
        assert median(lambda i: caller.put(f"other {i}", "x")) < 0.002
        assert any(error.startswith("redis.") for error in caller.errors)
        server.start()
        assert caller.resumed("q", "a") < 1.5


@STYLES
def test_killed_answers_come_from_the_durable_tier(
    server: RedisServer, sqlite_url: str, style: str
) -> None:
    with Caller(Tiers(server.url, sqlite_url), style) as caller:
        caller.tiers.setup()
        caller.put("before", "1")
        server.kill()
        assert caller.get("before") == "1"
        caller.put("during", "2")
        caller.put("before", "1, renewed")
        assert caller.get("during") == "2"
        assert caller.get("before") == "1, renewed"
        server.start()
        assert caller.resumed("before", "1, renewed") < 1.5
        assert caller.resumed("during", "2") < 1.5


def test_what_was_deleted_or_cleared_while_redis_was_down_stays_away(
    server: RedisServer, sqlite_url: str
) -> None:
    """Also for a process that made no request meanwhile, and so noticed nothing itself."""
    with (
        Caller(Tiers(server.url, sqlite_url)) as writer,
        Caller(Tiers(server.url, sqlite_url), single_flight=0) as idle,
        Caller(Tiers(server.url, sqlite_url, l1_max_bytes=0), single_flight=0) as without_memory,
    ):
        for caller in (writer, idle, without_memory):
            caller.tiers.setup()
            for prompt in ("replaced", "deleted"):
                caller.put(prompt, "old")
                assert caller.get(prompt) == "old"
        server.kill()
        writer.put("replaced", "new")
        with contextlib.suppress(TierError):
            writer.delete("deleted")
        server.start()
        for caller in (without_memory, idle, writer):
            assert caller.get("replaced") == "new"
            assert caller.get("deleted") is None


def test_a_restored_older_copy_is_not_believed(tmp_path: Path, sqlite_url: str) -> None:
    """Redis comes back with the data of some time ago, as from an RDB file or a late replica."""
    with (
        RedisServer(directory=tmp_path / "redis", extra=("--dbfilename", "dump.rdb")) as server,
        Caller(Tiers(server.url, sqlite_url)) as writer,
        Caller(Tiers(server.url, sqlite_url, l1_max_bytes=0), single_flight=0) as without_memory,
    ):
        for caller in (writer, without_memory):
            caller.put("replaced", "old")
            caller.put("deleted", "old")
            assert caller.get("replaced") == caller.get("deleted") == "old"
        with contextlib.closing(server.client()) as client:
            client.save()
        writer.put("replaced", "new")
        writer.delete("deleted")
        server.kill()
        server.start()
        for caller in (without_memory, writer):
            assert caller.get("replaced") == "new"
            assert caller.get("deleted") is None
        with Caller(Tiers(server.url, sqlite_url), single_flight=0) as newcomer:
            assert newcomer.get("replaced") == "new"
            assert newcomer.get("deleted") is None


# --- paused --------------------------------------------------------------------------------------


@STYLES
def test_paused(valkey: RedisServer, style: str) -> None:
    with Caller(Tiers(valkey.url), style, single_flight=0) as caller:
        caller.tiers.setup()
        caller.put("q", "a")
        wait_until(lambda: (found := caller.find("q")) and found.tier == "memory")
        valkey.pause()
        begin = time.monotonic()
        try:
            assert timed(lambda: caller.get("other")) < TIMEOUT + SLACK
            assert median(lambda i: caller.get(f"other {i}")) < 0.002
            wait_until(lambda: not caller.tiers.memory.coherent, 2.5, "L1 to stop serving")
            assert time.monotonic() - begin < 2
            assert caller.get("q") is None
        finally:
            valkey.resume()
        assert caller.resumed("q", "a") < 1.5
        wait_until(lambda: caller.tiers.memory.coherent, 2, "L1 to be back")


@pytest.mark.parametrize("seconds", [0.0, 1.6], ids=["shorter than a heartbeat", "longer"])
def test_an_update_made_during_a_pause_is_what_everyone_sees(
    valkey: RedisServer, sqlite_url: str, seconds: float
) -> None:
    with (
        Caller(Tiers(valkey.url, sqlite_url, redis_timeout=0.2)) as writer,
        Caller(Tiers(valkey.url, sqlite_url), single_flight=0) as reader,
    ):
        for caller in (writer, reader):
            caller.tiers.setup()
        writer.put("replaced", "old")
        writer.put("deleted", "old")
        for prompt in ("replaced", "deleted"):
            wait_until(lambda p=prompt: (f := reader.find(p)) and f.tier == "memory")  # type: ignore[misc]
        valkey.pause()
        begin = time.monotonic()
        try:
            writer.put("replaced", "new")
            with contextlib.suppress(TierError):
                writer.delete("deleted")
            wait_until(lambda: time.monotonic() - begin > seconds)
        finally:
            valkey.resume()
        # The writer is idle from here on: nothing but its own care tells the reader.
        wait_until(lambda: reader.get("replaced") == "new", 2, "the reader to see the update")
        wait_until(lambda: reader.get("deleted") is None, 2, "the reader to see the deletion")
        assert writer.get("replaced") == "new"


def test_paused_in_mid_traffic(valkey: RedisServer, sqlite_url: str) -> None:
    with Tiers(valkey.url, sqlite_url) as tiers:
        traffic = Traffic(tiers)
        with traffic.running():
            traffic.wait(150)
            valkey.pause()
            traffic.wait(150)
            valkey.resume()
            before = traffic.done["hit.redis"]
            wait_until(lambda: traffic.done["hit.redis"] > before, 3, "hits from Redis")
        traffic.check_nothing_lost(tiers)


# --- emptied, connections cut --------------------------------------------------------------------

INCIDENTS: dict[str, tuple[str, ...]] = {
    "FLUSHALL": ("FLUSHALL",),
    "SCRIPT FLUSH": ("SCRIPT", "FLUSH"),
    "CLIENT KILL normal": ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
    "CLIENT KILL pubsub": ("CLIENT", "KILL", "TYPE", "pubsub"),
}


def _call(client: Any, *words: str) -> None:
    client.execute_command(*words)


@pytest.mark.parametrize("incident", INCIDENTS)
def test_incident_in_mid_traffic(valkey: RedisServer, sqlite_url: str, incident: str) -> None:
    with (
        Tiers(valkey.url, sqlite_url, redis_timeout=5) as tiers,
        contextlib.closing(valkey.client()) as client,
    ):
        tiers.setup()
        traffic = Traffic(tiers)
        with traffic.running():
            for _ in range(5):
                traffic.wait(100)
                _call(client, *INCIDENTS[incident])
            traffic.wait(100)
            wait_until(lambda: tiers.memory.coherent, 3, "L1 to be coherent again")
        traffic.check_nothing_lost(tiers)
        # Of Redis alone: many writers at once can wait too long for SQLite's one lock.
        counted = traffic._caches["acme"].stats().errors
        errors = {kind: count for kind, count in counted.items() if kind.startswith("redis.")}
        assert sum(errors.values()) <= (20 if "KILL normal" in incident else 0), counted


@STYLES
def test_a_lost_invalidation_connection_empties_memory(valkey: RedisServer, style: str) -> None:
    with (
        Caller(Tiers(valkey.url), style, single_flight=0) as reader,
        Caller(Tiers(valkey.url)) as writer,
        contextlib.closing(valkey.client()) as client,
    ):
        reader.tiers.setup()
        for version in range(10):
            writer.put("q", f"{version}")
            wait_until(lambda: (found := reader.find("q")) and found.tier == "memory")
            _call(client, *INCIDENTS["CLIENT KILL pubsub"])
            writer.put("q", f"{version} and a half")
            wait_until(lambda v=version: reader.get("q") == f"{v} and a half", 2)  # type: ignore[misc]
            wait_until(lambda: reader.tiers.memory.coherent, 2)
