"""A proxy between us and Redis delays, swallows, refuses, cuts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from redis_tiered.errors import TierError
from redis_tiered.llm_cache.stats import Stats
from redis_tiered.tiers.tiers import Tiers
from tests.faults.traffic import Caller, Traffic, median, request, timed
from tests.servers import FaultProxy, RedisServer
from tests.waiting import wait_until

TIMEOUT = 0.5
SLACK = 0.4
STYLES = pytest.mark.parametrize("style", ["sync", "async"])


@pytest.fixture
def proxy(valkey: RedisServer) -> Iterator[FaultProxy]:
    assert valkey.port
    with FaultProxy("127.0.0.1", valkey.port) as proxy:
        yield proxy


def _fail(proxy: FaultProxy, fault: str) -> None:
    match fault:
        case "latency":
            proxy.latency(TIMEOUT * 3)
        case "blackhole":
            proxy.blackhole()
        case "refuse":
            proxy.refuse()
            proxy.cut()
        case "reset":
            proxy.reset_after_request()
        case _:
            raise AssertionError(fault)


# Without a durable tier each fault in one style: nothing but the call to Redis differs there.
@pytest.mark.parametrize(
    ("fault", "style", "durable"),
    [
        pytest.param(fault, style, durable, id=f"{fault}-{'sqlite' if durable else 'none'}-{style}")
        for number, fault in enumerate(("latency", "blackhole", "refuse", "reset"))
        for style, durable in (
            ("sync", True),
            ("async", True),
            (("sync", "async")[number % 2], False),
        )
    ],
)
def test_fault(proxy: FaultProxy, sqlite_url: str, fault: str, style: str, durable: bool) -> None:
    tiers = Tiers(proxy.url, sqlite_url if durable else None)
    with Caller(tiers, style, single_flight=0) as caller:
        caller.tiers.setup()
        caller.put("q", "a")
        _fail(proxy, fault)
        # Memory may still hold it for as long as nobody can tell that it should not.
        first: list[object] = []
        assert timed(lambda: first.append(caller.get("new"))) < TIMEOUT + SLACK
        assert first == [None]
        bound = 0.02 if durable else 0.002
        assert median(lambda i: caller.get(f"other {i}")) < bound
        wait_until(lambda: not caller.tiers.memory.coherent, 2.5, "L1 to stop serving")
        assert caller.get("q") == ("a" if durable else None)
        caller.put("during", "1")
        assert caller.get("during") == ("1" if durable else None)
        proxy.heal()
        assert caller.resumed("q", "a") < 1.5
        assert caller.resumed("during", "1") < 1.5
        wait_until(lambda: caller.tiers.memory.coherent, 3, "L1 to be coherent again")


@STYLES
def test_cut_connections_are_not_noticed(proxy: FaultProxy, style: str) -> None:
    with Caller(Tiers(proxy.url, l1_max_bytes=0), style) as caller:
        caller.put("q", "a")
        for _ in range(10):
            proxy.cut()
            assert caller.get("q") == "a"
            proxy.cut()
            caller.put("q", "a")
        assert caller.errors == {}


@STYLES
def test_an_update_whose_reply_was_lost_is_sent_once_more(
    valkey: RedisServer, proxy: FaultProxy, style: str
) -> None:
    with (
        Caller(Tiers(proxy.url, l1_max_bytes=0), style) as caller,
        contextlib.closing(valkey.client()) as client,
    ):
        caller.put("q", "old")
        client.config_resetstat()
        proxy.reset_after_request(b"the new answer", times=1)
        caller.put("q", "the new answer")
        assert client.info("commandstats")["cmdstat_hset"]["calls"] == 2
        assert caller.tiers.guards.retries == 1
        assert caller.errors == {}
        assert caller.get("q") == "the new answer"
        # A second loss is a failure: not a third try.
        client.config_resetstat()
        proxy.reset_after_request(b"the newest answer")
        caller.put("q", "the newest answer")
        assert client.info("commandstats")["cmdstat_hset"]["calls"] == 2
        assert caller.errors["redis.reset"] == 1
        proxy.heal()
        assert caller.resumed("q", "the newest answer") < 1.5


def test_what_must_not_be_repeated_is_not(valkey: RedisServer, proxy: FaultProxy) -> None:
    with (
        Caller(Tiers(proxy.url)) as caller,
        contextlib.closing(valkey.client()) as client,
    ):
        caller.put("q", "a")
        caller.cache.stats(total=True)
        for _ in range(3):
            assert caller.get("q") == "a"
        client.config_resetstat()
        proxy.reset_after_request(b"HINCRBY", times=1)
        with contextlib.suppress(TierError):
            caller.cache.stats(total=True)
        counted = caller.cache._tally.counts()
        names = len([name for name in counted if name.startswith(("hit", "update", "miss"))])
        assert client.info("commandstats")["cmdstat_hincrby"]["calls"] <= names
        wait_until(lambda: caller.get("q") == "a", 2)
        total = wait_until(lambda: _total(caller), 3, "the totals")
        assert total is not None
        assert total.updates == 1


def _total(caller: Caller) -> Stats | None:
    try:
        return caller.cache.stats(total=True)
    except TierError:
        return None


@pytest.mark.parametrize("fault", ["latency", "blackhole", "refuse", "reset"])
def test_fault_in_mid_traffic(proxy: FaultProxy, sqlite_url: str, fault: str) -> None:
    with Tiers(proxy.url, sqlite_url, redis_timeout=0.2) as tiers:
        traffic = Traffic(tiers)
        with traffic.running():
            traffic.wait(100)
            _fail(proxy, fault)
            traffic.wait(150)
            proxy.heal()
            before = traffic.done["hit.redis"]
            wait_until(lambda: traffic.done["hit.redis"] > before, 3, "hits from Redis")
        traffic.check_nothing_lost(tiers)


def test_a_slow_answer_is_not_taken_for_the_next_one(proxy: FaultProxy) -> None:
    """A reply that comes after its timeout must not be read by the request after it."""
    with Caller(Tiers(proxy.url, redis_timeout=0.1, l1_max_bytes=0), single_flight=0) as caller:
        for i in range(20):
            caller.put(i, f"answer {i}")
        for i in range(20):
            proxy.latency(0.15 if i % 2 else 0)
            found = caller.cache.lookup(request(i))
            assert found is None or found.payload == f"answer {i}".encode()
        proxy.heal()
        assert caller.resumed(3, "answer 3") < 1.5
