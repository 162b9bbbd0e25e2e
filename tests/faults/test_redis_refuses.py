"""Redis answers, but refuses: out of memory, read-only, loading, disk full, wrong password."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from redis_tiered.errors import TierError
from redis_tiered.tiers.tiers import Tiers
from tests.faults.traffic import Caller, Traffic, median, timed
from tests.servers import RedisServer
from tests.waiting import wait_until

STYLES = pytest.mark.parametrize("style", ["sync", "async"])


@pytest.fixture
def client(valkey: RedisServer) -> Iterator[redis.Redis]:
    """By hand; the server accepts writes again at the end."""
    with contextlib.closing(valkey.client()) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.replicaof("NO", "ONE")


# --- out of memory -------------------------------------------------------------------------------


@STYLES
def test_out_of_memory(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str, style: str
) -> None:
    with (
        Caller(Tiers(valkey.url, sqlite_url), style, single_flight=0.2) as writer,
        Caller(Tiers(valkey.url, sqlite_url), single_flight=0.2) as reader,
    ):
        for prompt in ("kept", "replaced", "deleted"):
            writer.put(prompt, "old")
            assert reader.get(prompt) == "old"
        client.config_set("maxmemory", 1)

        assert writer.get("kept") == reader.get("kept") == "old"
        writer.put("new", "1")
        assert writer.get("new") == reader.get("new") == "1"
        writer.put("replaced", "new")
        wait_until(lambda: reader.get("replaced") == "new", 2)
        assert writer.get("replaced") == "new"
        writer.delete("deleted")
        assert writer.get("deleted") is None
        wait_until(lambda: reader.get("deleted") is None, 2)
        assert writer.errors.get("redis.oom"), writer.errors
        assert median(lambda _: writer.get("kept"), 50) < 0.02

        writer.clear()
        assert writer.get("kept") is None
        wait_until(lambda: reader.get("kept") is None, 2)
        writer.put("kept", "after")
        assert writer.get("kept") == reader.get("kept") == "after"
        assert writer.get("new") is None

        client.config_set("maxmemory", 0)
        assert reader.resumed("kept", "after") < 1.5
        assert writer.resumed("kept", "after") < 1.5
        assert reader.get("replaced") is None


@STYLES
def test_out_of_memory_without_a_durable_tier(
    valkey: RedisServer, client: redis.Redis, style: str
) -> None:
    with Caller(Tiers(valkey.url), style, single_flight=0) as caller:
        for prompt in ("kept", "replaced", "deleted"):
            caller.put(prompt, "old")
        client.config_set("maxmemory", 1)
        assert caller.get("kept") == "old"
        caller.put("new", "1")
        assert caller.get("new") is None
        assert caller.cache.stats().skipped["no_tier"] == 1
        caller.put("replaced", "new")
        assert caller.get("replaced") != "old"
        caller.delete("deleted")
        assert caller.get("deleted") is None
        caller.clear()
        assert caller.get("kept") is None
        client.config_set("maxmemory", 0)
        assert caller.get("kept") is None
        assert caller.resumed("kept", "again") < 1.5


def test_no_write_goes_beyond_the_limit(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str
) -> None:
    """A script that has written anything is no longer refused: ours must not start that way."""
    with Caller(Tiers(valkey.url, sqlite_url), single_flight=0.2) as caller:
        caller.put("warm", "a")
        client.config_set("maxmemory", 1)
        entries = client.dbsize()
        for i in range(30):
            caller.put(i, "x" * 1000)
            assert caller.get(i) == "x" * 1000  # from L3: promoting it is refused, too
        caller.clear()
        for i in range(30):
            caller.put(i, "y" * 1000)
        caller.get("warm")
        assert client.dbsize() <= entries


def test_out_of_memory_in_mid_traffic(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str
) -> None:
    with Tiers(valkey.url, sqlite_url) as tiers:
        traffic = Traffic(tiers)
        with traffic.running():
            for limit in (1, 0) * 3:
                traffic.wait(150)
                client.config_set("maxmemory", limit)
            traffic.wait(150)
        traffic.check_nothing_lost(tiers)


# --- read-only, no disk --------------------------------------------------------------------------


@STYLES
def test_read_only(valkey: RedisServer, client: redis.Redis, sqlite_url: str, style: str) -> None:
    with (
        Caller(Tiers(valkey.url, sqlite_url), style, single_flight=0.2) as writer,
        Caller(Tiers(valkey.url, sqlite_url), single_flight=0.2) as reader,
    ):
        for prompt in ("kept", "replaced"):
            writer.put(prompt, "old")
            assert reader.get(prompt) == "old"
        client.replicaof("127.0.0.1", "1")  # nobody listens there: it keeps its data
        assert writer.get("kept") == "old"
        writer.put("replaced", "new")
        writer.put("new", "1")
        assert writer.get("replaced") == "new"
        assert writer.get("new") == reader.get("new") == "1"
        assert writer.get("kept") == reader.get("kept") == "old"
        assert writer.errors.get("redis.readonly"), writer.errors
        client.replicaof("NO", "ONE")
        # The writer is idle: its own care tells the reader.
        wait_until(lambda: reader.get("replaced") == "new", 2)
        assert writer.resumed("replaced", "new") < 1.5
        assert writer.resumed("new", "1") < 1.5


@STYLES
def test_snapshots_fail(tmp_path: Path, sqlite_url: str, style: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with (
        RedisServer(
            directory=tmp_path / "redis", extra=("--enable-protected-configs", "yes")
        ) as server,
        contextlib.closing(server.client()) as client,
        Caller(Tiers(server.url, sqlite_url), style, single_flight=0.2) as caller,
    ):
        caller.put("kept", "old")
        caller.put("replaced", "old")
        client.config_set("dir", str(gone))
        client.config_set("save", "3600 1")
        shutil.rmtree(gone)
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        assert caller.get("kept") == "old"
        caller.put("replaced", "new")
        caller.put("new", "1")
        assert caller.get("replaced") == "new"
        assert caller.get("new") == "1"
        assert caller.errors.get("redis.misconf"), caller.errors
        client.config_set("save", "")
        assert caller.resumed("replaced", "new") < 1.5
        assert caller.resumed("new", "1") < 1.5


# --- loading -------------------------------------------------------------------------------------


@STYLES
def test_loading(tmp_path: Path, sqlite_url: str, style: str) -> None:
    slow = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    with RedisServer(directory=tmp_path / "redis") as server:
        with contextlib.closing(server.client()) as client:
            try:
                client.config_get("key-load-delay")["key-load-delay"]
            except KeyError:
                pytest.skip("this server has no key-load-delay")
            client.mset({f"ballast {i}": "x" * 100 for i in range(1500)})
            with Caller(Tiers(server.url, sqlite_url)) as caller:
                caller.put("q", "a")
            client.save()
        server.kill()
        server.extra = slow
        starting = threading.Thread(target=server.start)
        starting.start()
        try:
            with Caller(Tiers(server.url, sqlite_url), style) as caller:
                seen = []

                def loading() -> bool:
                    seen.append(caller.get("q"))
                    return "redis.loading" in caller.errors

                wait_until(loading, 5, "the server to say that it loads")
                assert set(seen) == {"a"}
                assert median(lambda _: caller.get("q"), 50) < 0.02
                starting.join()
                assert caller.resumed("q", "a") < 1.5
        finally:
            starting.join()


# --- credentials ---------------------------------------------------------------------------------

SECRET = "s3cret/Pa55:word"


def _refusal(tiers: Tiers) -> TierError | None:
    try:
        tiers.setup(timeout=0.1)
    except TierError as error:
        return None if error.kind == "open" else error
    raise AssertionError("the credentials were accepted")


@STYLES
@pytest.mark.parametrize("given", ["a-wrong-" + SECRET, None], ids=["wrong", "none"])
def test_refused_credentials(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, style: str, given: str | None
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[Any] = []
    with RedisServer(directory=tmp_path / "redis", password=SECRET) as server:
        intruder = RedisServer(directory=tmp_path, port=server.port, password=given)
        with Caller(Tiers(intruder.url), style, single_flight=0) as caller:
            assert caller.get("q") is None
            caller.put("q", "a")
            assert caller.get("q") is None
            assert caller.errors.keys() <= {"redis.auth", "redis.open"}
            assert caller.errors["redis.auth"] >= 1
            caught = wait_until(lambda: _refusal(caller.tiers), 3, "a probe of the breaker")
            assert caught is not None
            assert caught.kind == "auth"
            said += [str(caught), repr(caught), *traceback.format_exception(caught)]
            said += [repr(caller.tiers), repr(caller.cache)]
            assert timed(lambda: caller.get("q")) < 0.5
        with Caller(Tiers(server.url), style) as caller:
            caller.put("q", "a")
            assert caller.get("q") == "a"
            said.append(repr(caller.tiers))
    said.append(caplog.text)
    for text in said:
        assert SECRET not in text
        assert "Pa55" not in text
