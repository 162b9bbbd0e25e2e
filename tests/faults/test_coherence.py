"""What one process writes, deletes or clears, the memory of another one does not go on serving."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from redis_tiered.flow import Redis
from redis_tiered.tiers.redis import SyncRedis
from redis_tiered.tiers.tiers import Tiers
from tests.faults.traffic import Caller
from tests.faults.worker import Worker
from tests.servers import RedisServer
from tests.waiting import wait_until

# An acknowledged write is in Redis; its invalidation is on its way to every process and is applied
# as soon as the listening thread runs. So the delay is that of a message and a thread switch; the
# bound below is what a loaded machine may make of it. A hung or lost connection is noticed within
# two heartbeats (0.5 s each), in which memory may still serve.
DELAY = 0.5


@pytest.fixture
def writer(valkey: RedisServer, sqlite_url: str) -> Iterator[Worker]:
    with Worker(valkey.url, sqlite_url) as writer:
        yield writer


def _in_memory(reader: Caller, prompt: str) -> None:
    wait_until(lambda: (found := reader.find(prompt)) and found.tier == "memory", 2)


@pytest.mark.parametrize("style", ["sync", "async"])
def test_changes_of_another_process(
    valkey: RedisServer, sqlite_url: str, writer: Worker, style: str
) -> None:
    delays = []
    with Caller(Tiers(valkey.url, sqlite_url), style, single_flight=0) as reader:
        reader.tiers.setup()
        for version in range(10):
            for words, expected in (
                (("put", "q", f"new {version}"), f"new {version}"),
                (("delete", "q"), None),
                (("clear",), None),
            ):
                writer.do("put", "q", f"old {version}")
                wait_until(lambda v=version: reader.get("q") == f"old {v}", 2)  # type: ignore[misc]
                _in_memory(reader, "q")
                writer.do(*words)
                begin = time.monotonic()
                wait_until(lambda e=expected: reader.get("q") == e, 2)  # type: ignore[misc]
                delays.append(time.monotonic() - begin)
    assert statistics.median(delays) < 0.1
    assert max(delays) < DELAY


@pytest.mark.parametrize("durable", [True, False], ids=["sqlite", "no-durable"])
def test_versions_never_go_back(valkey: RedisServer, sqlite_url: str, durable: bool) -> None:
    """One process writes 1, 2, 3, ...; this one reads meanwhile, in several threads."""
    url = sqlite_url if durable else None
    last = 300
    with (
        Worker(valkey.url, url) as writer,
        Caller(Tiers(valkey.url, url), single_flight=0) as reader,
    ):
        reader.tiers.setup()
        acknowledged = [(0, float("-inf"))]
        problems: list[str] = []
        tiers_seen: set[str] = set()
        stop = threading.Event()

        def read() -> None:
            seen = 0
            while not stop.is_set():
                time.sleep(0.0002)
                begin = time.monotonic()
                known = max(v for v, at in list(acknowledged) if at < begin - DELAY)
                found = reader.find("q")
                if found is None:
                    if known > 0:
                        problems.append(f"a miss after version {known}")
                    continue
                tiers_seen.add(found.tier)
                version = int(found.payload)
                if version < known:
                    problems.append(f"version {version} {DELAY} s after {known}")
                if version > last:
                    problems.append(f"version {version} was never written")
                # Another thread's reading may overtake this one by the delay of a message only.
                if version < seen and version < known:
                    problems.append(f"version {version} after {seen}")
                seen = max(seen, version)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for thread in readers:
            thread.start()
        try:
            writer.send("count_versions", "q", last)
            while not isinstance(said := writer.receive(), float):
                version, _ = said
                acknowledged.append((version, time.monotonic()))
            wait_until(lambda: reader.get("q") == str(last), 2)
        finally:
            stop.set()
            for thread in readers:
                thread.join(10)
        assert problems == []
        assert "memory" in tiers_seen
        for _ in range(50):
            assert reader.get("q") == str(last)


def test_an_invalidation_that_overtakes_a_reply_wins(
    valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old answer is read, replaced by another process, and only then about to be kept."""
    with (
        Caller(Tiers(valkey.url), single_flight=0) as reader,
        Caller(Tiers(valkey.url)) as writer,
    ):
        reader.tiers.setup()
        writer.put("q", "old")
        reader.get("warm")  # knows the epoch
        inner = SyncRedis.execute
        invalidated = threading.Event()
        drop = reader.tiers.memory.invalidate

        def invalidate(keys: Iterable[bytes]) -> None:
            drop(keys)
            invalidated.set()

        def slowly(self: SyncRedis, step: Redis, *, fresh: bool) -> list[Any]:
            replies = inner(self, step, fresh=fresh)
            if threading.current_thread().name == "slow":
                threading.current_thread().name = "was slow"
                invalidated.clear()
                writer.put("q", "new")
                assert invalidated.wait(5)
            return replies

        monkeypatch.setattr(reader.tiers.memory, "invalidate", invalidate)
        monkeypatch.setattr(SyncRedis, "execute", slowly)
        seen: list[str | None] = []
        for _ in range(5):
            invalidated.clear()
            writer.put("q", "old")
            assert invalidated.wait(5)
            slow = threading.Thread(target=lambda: seen.append(reader.get("q")), name="slow")
            slow.start()
            slow.join(10)
            assert reader.get("q") == "new"
        assert "old" in seen  # as it was when it was asked for


def test_own_writes_are_read_at_once(valkey: RedisServer, sqlite_url: str) -> None:
    """In one process a reader never sees the answer before the last one that was acknowledged."""
    with Caller(Tiers(valkey.url, sqlite_url), single_flight=0) as caller:
        caller.tiers.setup()
        written = [0]
        problems: list[str] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                time.sleep(0.0002)
                least = written[0]
                answer = caller.get("q")
                if least and (answer is None or int(answer) < least):
                    problems.append(json.dumps([answer, least]))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in readers:
            thread.start()
        for version in range(1, 100):
            caller.put("q", str(version))
            written[0] = version
        stop.set()
        for thread in readers:
            thread.join(10)
        assert problems == []
