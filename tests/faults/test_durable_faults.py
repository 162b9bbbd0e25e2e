"""The durable tier restarted, killed, locked, damaged. Acknowledged means: the row was committed.

An update is silent about a durable tier that failed, but counts it: so what returned while no
durable error was counted in between must be there, and is asked for.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from redis_tiered.errors import TierError
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.tiers.tiers import Tiers
from tests.faults.traffic import Caller, Traffic, request, timed
from tests.servers import PostgresServer, RedisServer
from tests.waiting import wait_until

STYLES = pytest.mark.parametrize("style", ["sync", "async"])


def _durable_errors(caller: Caller) -> int:
    return sum(count for name, count in caller.errors.items() if name.startswith("durable."))


class _Writer(threading.Thread):
    """Writes new answers without a pause, and remembers those that were acknowledged."""

    def __init__(self, caller: Caller, name: str) -> None:
        super().__init__(name=name)
        self._caller = caller
        self._done = threading.Event()
        self.failures: list[BaseException] = []
        self.acknowledged: list[str] = []
        self.written = 0

    def run(self) -> None:
        while not self._done.is_set():
            prompt = f"{self.name} {self.written}"
            errors = _durable_errors(self._caller)
            try:
                self._caller.put(prompt, f"answer to {prompt}")
            except BaseException as error:
                self.failures.append(error)
            if _durable_errors(self._caller) == errors and self._closed():
                self.acknowledged.append(prompt)
            self.written += 1

    def _closed(self) -> bool:
        return self._caller.tiers.guards.durable.closed  # else it was not even asked

    def finish(self) -> None:
        self._done.set()
        self.join(30)
        assert not self.is_alive()
        assert self.failures == []


@STYLES
@pytest.mark.parametrize("how", ["restart", "kill"])
def test_postgres_goes_away_in_mid_traffic(
    valkey: RedisServer, postgres: PostgresServer, postgres_url: str, style: str, how: str
) -> None:
    with Caller(Tiers(valkey.url, postgres_url), style) as caller:
        caller.tiers.setup()
        # One thread only: with several, an error of one would be ascribed to all.
        writer = _Writer(caller, "writer")
        writer.start()
        wait_until(lambda: writer.written > 50)
        if how == "kill":
            postgres.kill()
        else:
            postgres.stop()
        at = writer.written
        wait_until(lambda: writer.written > at + 20, 5)
        assert caller.get("writer 3") == "answer to writer 3"
        postgres.start()
        begin = time.monotonic()
        at = len(writer.acknowledged)
        wait_until(lambda: len(writer.acknowledged) > at + 20, 5, "Postgres to be used again")
        assert time.monotonic() - begin < 2.5
        writer.finish()
        assert any(name.startswith("durable.") for name in caller.errors), caller.errors
        assert set(caller.errors) <= {
            "durable.reset",
            "durable.refused",
            "durable.loading",
        }, caller.errors
    # From L3 alone: nobody else has an empty cache of that name.
    with contextlib.closing(valkey.client()) as client:
        client.flushall()
    with Tiers(valkey.url, postgres_url, l1_max_bytes=0) as tiers:
        cache = LLMCache(tiers, single_flight=0)
        for prompt in writer.acknowledged:
            found = cache.lookup(request(prompt))
            assert found is not None, prompt
            assert found.payload.decode() == f"answer to {prompt}"


def test_postgres_killed_under_mixed_traffic(
    valkey: RedisServer, postgres: PostgresServer, postgres_url: str
) -> None:
    with Tiers(valkey.url, postgres_url) as tiers:
        traffic = Traffic(tiers)
        with traffic.running():
            traffic.wait(120)
            postgres.kill()
            traffic.wait(120)
            postgres.start()
            traffic.wait(120)
            wait_until(lambda: _used(tiers), 3, "Postgres to be used again")


def _used(tiers: Tiers) -> bool:
    # By now memory may answer whatever the traffic asks.
    LLMCache(tiers).update(request("something new"), b"a")
    return tiers.guards.durable.closed


@STYLES
def test_both_tiers_away(
    valkey: RedisServer, postgres: PostgresServer, postgres_url: str, style: str
) -> None:
    with Caller(Tiers(valkey.url, postgres_url), style, single_flight=0) as caller:
        caller.put("q", "a")
        valkey.kill()
        postgres.kill()
        for _ in range(20):
            assert caller.get("q") in ("a", None)
            caller.put("during", "lost")
        wait_until(lambda: caller.get("q") is None, 2)
        for forget in (caller.clear, lambda: caller.delete("q")):
            with pytest.raises(TierError):
                forget()
        postgres.start()
        valkey.start()
        wait_until(lambda: caller.get("q") == "a", 3, "the answer from L3")
        assert caller.resumed("q", "a") < 1.5


# --- SQLite --------------------------------------------------------------------------------------


@pytest.fixture
def sqlite_path(sqlite_url: str) -> Path:
    return Path(str(make_url(sqlite_url).database))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


@STYLES
def test_sqlite_locked(valkey: RedisServer, sqlite_url: str, sqlite_path: Path, style: str) -> None:
    with Caller(
        Tiers(valkey.url, sqlite_url, durable_timeout=0.3), style, single_flight=0
    ) as caller:
        caller.put("before", "1")
        with contextlib.closing(valkey.client()) as client:
            client.flushall()
        with _locked(sqlite_path):
            assert timed(lambda: caller.put("during", "2")) < 0.3 + 0.4
            assert caller.get("during") == "2"  # Redis has it
            assert caller.get("before") == "1"  # a writer does not block readers (WAL)
            assert caller.errors == {"durable.locked": 1}
            with pytest.raises(TierError):
                caller.delete("before")
        caller.put("after", "3")
        assert caller.get("after") == "3"
        assert caller.errors["durable.locked"] == 2


@STYLES
def test_sqlite_locked_before_it_is_opened(
    valkey: RedisServer, sqlite_url: str, sqlite_path: Path, style: str
) -> None:
    """The first users do not queue for one timeout each."""
    with (
        _locked(sqlite_path),
        Caller(Tiers(valkey.url, sqlite_url, durable_timeout=0.3), style) as caller,
    ):
        took: list[float] = []

        def use(i: int) -> None:
            took.append(timed(lambda: caller.put(i, "a")))

        threads = [threading.Thread(target=use, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Establishing the epoch asks the durable tier too, and so may telling of a missed write.
        assert max(took) < 4 * 0.3 + 0.8
        assert len(took) == 12


@STYLES
def test_sqlite_replaced_by_garbage(
    valkey: RedisServer, sqlite_url: str, sqlite_path: Path, style: str
) -> None:
    with Caller(Tiers(valkey.url, sqlite_url), style, single_flight=0) as caller:
        caller.put("before", "1")
    for leftover in sqlite_path.parent.glob(f"{sqlite_path.name}*"):
        leftover.unlink()
    sqlite_path.write_bytes(os.urandom(1 << 16))
    with Caller(Tiers(valkey.url, sqlite_url), style, single_flight=0) as caller:
        caller.get("before")
        caller.put("during", "2")
        assert caller.get("during") == "2"
        assert caller.errors["durable.schema"] >= 1
        assert set(caller.errors) == {"durable.schema"}
    assert sqlite_path.stat().st_size == 1 << 16


@STYLES
def test_sqlite_damaged_while_in_use(
    valkey: RedisServer, sqlite_url: str, sqlite_path: Path, style: str
) -> None:
    with Caller(Tiers(valkey.url, sqlite_url), style, single_flight=0) as caller:
        caller.put("before", "1")
        for path in sqlite_path.parent.glob(f"{sqlite_path.name}*"):
            with path.open("r+b") as file:
                file.write(os.urandom(path.stat().st_size))
        for i in range(10):
            caller.put(i, "x")
            assert caller.get(i) == "x"
        assert caller.get("before") in ("1", None)
        assert _durable_errors(caller) > 0


@STYLES
def test_sqlite_deleted_while_in_use(
    valkey: RedisServer, sqlite_url: str, sqlite_path: Path, style: str
) -> None:
    with Caller(Tiers(valkey.url, sqlite_url), style, single_flight=0) as caller:
        caller.put("before", "1")
        for path in sqlite_path.parent.glob(f"{sqlite_path.name}*"):
            path.unlink()
        for i in range(10):
            caller.put(i, "x")
            assert caller.get(i) == "x"
        assert caller.get("before") == "1"
