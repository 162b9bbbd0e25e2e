"""Our own process dies: between the tiers, or while others wait for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from redis_tiered.tiers.tiers import Tiers
from tests.faults.traffic import Caller
from tests.faults.worker import Worker
from tests.servers import RedisServer
from tests.waiting import wait_until


@pytest.mark.parametrize("durable", ["sqlite", "postgres"])
def test_killed_between_the_durable_tier_and_redis(
    valkey: RedisServer, request: pytest.FixtureRequest, durable: str
) -> None:
    """The update did not return, so others may see the old answer; each sees one of the two."""
    durable_url: str = request.getfixturevalue(f"{durable}_url")
    with Caller(Tiers(valkey.url, durable_url), single_flight=0) as survivor:
        survivor.put("replaced", "old")
        with Worker(valkey.url, durable_url) as victim:
            victim.do("die_when_sending", "HSET")
            victim.send("put", "new", "new answer")
            with pytest.raises(EOFError):
                victim.receive()
        assert survivor.get("new") == "new answer"  # committed
        with Worker(valkey.url, durable_url) as victim:
            victim.do("die_when_sending", "HSET")
            victim.send("put", "replaced", "new")
            with pytest.raises(EOFError):
                victim.receive()
        assert survivor.get("replaced") in ("old", "new")
        # Once the new answer was seen the old one does not come back.
        with valkey.client() as client:
            client.flushall()
        wait_until(lambda: survivor.get("replaced") == "new", 2)
        for _ in range(20):
            assert survivor.get("replaced") == "new"


def test_killed_while_deleting(valkey: RedisServer, sqlite_url: str) -> None:
    with Caller(Tiers(valkey.url, sqlite_url), single_flight=0) as survivor:
        survivor.put("q", "a")
        with Worker(valkey.url, sqlite_url) as victim:
            victim.do("die_when_sending", "EVAL")
            victim.send("delete", "q")
            with pytest.raises(EOFError):
                victim.receive()
        assert survivor.get("q") in ("a", None)
        survivor.delete("q")
        assert survivor.get("q") is None


def test_a_killed_leader_is_replaced(valkey: RedisServer, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with Worker(valkey.url) as leader, Caller(Tiers(valkey.url)) as waiter:
        leader.send("ask_model", "q", 1, str(calls), 60)
        wait_until(calls.exists)
        time_killed = time.monotonic()
        leader.kill()
        assert waiter.get("q") is None  # sent to the model
        assert 1 < time.monotonic() - time_killed < 4.5
        waiter.put("q", "a")
        assert waiter.get("q") == "a"


def test_a_living_leader_is_not_replaced(valkey: RedisServer, tmp_path: Path) -> None:
    """Longer than a lease: it is renewed."""
    calls = tmp_path / "calls"
    with Worker(valkey.url) as leader, Caller(Tiers(valkey.url)) as waiter:
        leader.send("ask_model", "q", 1, str(calls), 4)
        wait_until(calls.exists)
        assert waiter.get("q") == "the answer"
        assert leader.receive() == ["the answer"]
        assert len(calls.read_text().splitlines()) == 1
