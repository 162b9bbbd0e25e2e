"""Sentinel: the primary dies, service goes on with the promoted replica."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from redis.sentinel import Sentinel

from redis_tiered.tiers.tiers import Tiers
from tests.faults.traffic import Caller, Traffic
from tests.servers import SentinelSet
from tests.waiting import wait_until


def _by_url(servers: SentinelSet) -> Any:
    return servers.url


def _by_client(servers: SentinelSet) -> Any:
    addresses = [("127.0.0.1", sentinel.port) for sentinel in servers.sentinels]
    return Sentinel(addresses).master_for(servers.NAME)  # type: ignore[no-untyped-call]


# By URL in one style: how a URL is followed does not depend on it, and sessions do it in both.
@pytest.mark.parametrize(
    ("where", "style"),
    [(_by_url, "async"), (_by_client, "sync"), (_by_client, "async")],
    ids=["url-async", "master_for-sync", "master_for-async"],
)
def test_failover(
    redis_sentinel: SentinelSet,
    sqlite_url: str,
    style: str,
    where: Callable[[SentinelSet], Any],
) -> None:
    redis = where(redis_sentinel)
    with Caller(Tiers(redis, sqlite_url), style, single_flight=0.2) as caller:
        caller.tiers.setup()
        caller.put("before", "1")
        assert caller.get("before") == "1"
        redis_sentinel.kill_primary()
        assert caller.get("before") == "1"
        caller.put("during", "2")
        caller.put("before", "1, renewed")
        assert caller.get("during") == "2"
        promoted = redis_sentinel.wait_failover()
        assert caller.resumed("before", "1, renewed") < 1.5
        assert caller.resumed("during", "2") < 1.5
        wait_until(lambda: caller.tiers.memory.coherent, 3, "L1 to be coherent again")
        with contextlib.closing(promoted.client()) as client:
            assert client.dbsize() > 0
    if not isinstance(redis, str):
        redis.close()


def test_failover_in_mid_traffic(redis_sentinel: SentinelSet, sqlite_url: str) -> None:
    with Tiers(redis_sentinel.url, sqlite_url) as tiers:
        traffic = Traffic(tiers)
        with traffic.running():
            traffic.wait(150)
            redis_sentinel.kill_primary()
            redis_sentinel.wait_failover()
            before = traffic.done["hit.redis"]
            wait_until(lambda: traffic.done["hit.redis"] > before, 3, "hits from Redis")
        traffic.check_nothing_lost(tiers)


def test_what_the_replica_had_not_received_is_not_served(
    redis_sentinel: SentinelSet, sqlite_url: str
) -> None:
    """Replication is asynchronous: a promoted replica may hold the answer before the last one."""
    with (
        Caller(Tiers(redis_sentinel.url, sqlite_url)) as writer,
        Caller(Tiers(redis_sentinel.url, sqlite_url), single_flight=0) as reader,
    ):
        for prompt in ("replaced", "deleted"):
            writer.put(prompt, "old")
            assert reader.get(prompt) == "old"
        primary = redis_sentinel.primary()
        replica = next(server for server in redis_sentinel.servers if server is not primary)
        with contextlib.closing(primary.client()) as client:
            client.wait(1, 1000)
        replica.pause()
        writer.put("replaced", "new")
        writer.delete("deleted")
        redis_sentinel.kill_primary()
        replica.resume()
        redis_sentinel.wait_failover()
        for caller in (reader, writer):
            assert caller.get("replaced") == "new"
            assert caller.get("deleted") is None
