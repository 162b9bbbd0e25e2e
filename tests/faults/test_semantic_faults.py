"""The semantic cache while a tier, an embedder or a judge fails: misses at worst, never a wrong answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
import redis

from redis_tiered import LLMCache, SemanticPolicy, Tiers
from redis_tiered.flow import Redis
from redis_tiered.llm_cache.cache import Found
from redis_tiered.llm_cache.fingerprint import fingerprint
from redis_tiered.llm_cache.scripts import ALIAS
from redis_tiered.tiers.redis import SyncRedis
from redis_tiered.vectors import scripts
from tests.faults.traffic import Loop, timed
from tests.faults.worker import run_script
from tests.semantic.toy import Toy, asked
from tests.servers import RedisCluster3, RedisServer, SentinelSet
from tests.waiting import wait_until

STYLES = pytest.mark.parametrize("style", ["sync", "async"])
SLACK = 1.0
TOPICS = 5


class User:
    """A cache with a policy that serves whatever is sure, called blocking or in an event loop.

    Attributes:
        toy: its embedder.
    """

    def __init__(
        self,
        redis: object,
        durable: str | None = None,
        style: str = "sync",
        *,
        toy: Any = None,
        settings: dict[str, Any] | None = None,
        cache: dict[str, Any] | None = None,
        **policy: Any,
    ) -> None:
        self.toy = Toy() if toy is None else toy
        self.tiers = (
            redis if isinstance(redis, Tiers) else Tiers(redis, durable, **(settings or {}))
        )
        chosen = {"warmup": 0, "audit_rate": 0.0, "engine": "local"} | policy
        self.cache = LLMCache(
            self.tiers,
            **{"jitter": 0.0, "single_flight": 0.0, "semantic": SemanticPolicy(self.toy, **chosen)}
            | (cache or {}),
        )
        self.loop = Loop() if style == "async" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.loop is not None:
            self.loop.run(self.tiers.aclose())
            self.loop.close()
        self.tiers.close()

    def _call(self, name: str, *args: Any) -> Any:
        if self.loop is None:
            return getattr(self.cache, name)(*args)
        return self.loop.run(getattr(self.cache, "a" + name)(*args))

    def find(self, prompt: str) -> Found | None:
        found: Found | None = self._call("lookup", asked(prompt))
        return found

    def get(self, prompt: str) -> str | None:
        found = self.find(prompt)
        return None if found is None else found.payload.decode()

    def put(self, prompt: str, answer: str) -> None:
        self._call("update", asked(prompt), answer.encode())

    def delete(self, prompt: str) -> None:
        self._call("delete", asked(prompt))

    def clear(self) -> None:
        self._call("clear")

    def teach(self, topics: int = TOPICS) -> None:
        """Topics with an answer each, so that agreement means something."""
        for topic in range(topics):
            for wording in "abc":
                self.put(f"topic{topic}: wording {wording}", f"A{topic}")

    @property
    def counts(self) -> dict[str, int]:
        return self.cache.stats().semantic


def new(topic: int, number: int = 0) -> str:
    """A wording that nobody has used."""
    return f"topic{topic}: put in {'abcdefghijklmnopqrstuvwxyz'[number]} new way"


@pytest.fixture
def client(valkey: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(valkey.client()) as client:
        yield client
        client.config_set("maxmemory", 0)


@pytest.fixture(params=[True, False], ids=["sqlite", "no-durable"])
def durable(request: pytest.FixtureRequest, sqlite_url: str) -> str | None:
    return sqlite_url if request.param else None


class Incident:
    """Happens once, when the embedder is asked for a prompt with a word."""

    def __init__(self, toy: Toy, happen: Callable[[], Any]) -> None:
        self.happened = 0
        embed = toy.embed

        def watched(texts: Sequence[str]) -> list[list[float]]:
            if not self.happened and any("new way" in text for text in texts):
                self.happened += 1
                happen()
            return embed(texts)

        toy.embed = watched  # type: ignore[method-assign]


# --- Redis lost between the exact and the semantic step ------------------------------------------


@STYLES
def test_redis_killed_while_the_question_is_embedded(
    valkey: RedisServer, durable: str | None, style: str
) -> None:
    with User(valkey.url, durable, style) as user:
        user.teach()
        assert user.get(new(1)) == "A1"
        incident = Incident(user.toy, valkey.kill)
        # The local index is in memory, but whether it is complete only a tier can tell.
        assert user.get(new(2)) == ("A2" if durable else None)
        assert incident.happened == 1
        assert user.get(new(2, 1)) == ("A2" if durable else None)
        user.put(new(2), "own")
        assert user.get(new(2)) == ("own" if durable else None)
        if durable is None:
            assert user.counts["unreachable.redis"] >= 1
        valkey.start()

        def serves() -> bool:
            user.put("topic4: wording a", "A4")
            user.put("topic4: wording b", "A4")
            user.put("topic3: wording b", "A3")
            return user.get("topic4: wording as it comes back") is not None

        wait_until(serves, 5, "other words to be served again")
        assert user.get("topic4: wording as it comes back") == "A4"


@STYLES
@pytest.mark.parametrize("incident", ["flush", "pause"])
def test_redis_emptied_or_paused_while_the_question_is_embedded(
    valkey: RedisServer, client: redis.Redis, durable: str | None, style: str, incident: str
) -> None:
    with User(valkey.url, durable, style, settings={"redis_timeout": 0.3}) as user:
        user.teach()
        Incident(user.toy, client.flushall if incident == "flush" else valkey.pause)
        try:
            assert user.get(new(2)) == ("A2" if durable else None)
        finally:
            valkey.resume()
        if durable:
            wait_until(lambda: user.get(new(3, 1)) == "A3", 5)
            wait_until(lambda: (found := user.find(new(3, 1))) and found.tier != "semantic", 5)


def _before(
    monkeypatch: pytest.MonkeyPatch, due: Callable[[tuple[Any, ...]], bool], act: Callable[[], Any]
) -> list[str]:
    """Act once, before a command that is due is sent to Redis; its name is noted then."""
    inner = SyncRedis.execute
    noted: list[str] = []

    def execute(self: SyncRedis, step: Redis, *, fresh: bool) -> list[Any]:
        if not noted and any(due(command) for command in step.commands):
            noted.append(str(step.commands[0][0]))
            act()
        return inner(self, step, fresh=fresh)

    monkeypatch.setattr(SyncRedis, "execute", execute)
    return noted


def test_redis_killed_between_the_decision_and_the_entry(
    valkey: RedisServer, durable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with User(valkey.url, durable) as user:
        user.teach()
        assert user.get(new(0)) == "A0"
        noted = _before(monkeypatch, lambda command: ALIAS in command, valkey.kill)
        assert user.get(new(1)) == ("A1" if durable else None)
        assert noted == ["EVAL"]
        assert user.counts["served"] == 2
        assert "gone" not in user.counts
        valkey.start()


def test_redis_killed_between_an_answer_and_its_vector(
    valkey: RedisServer, durable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with User(valkey.url, durable) as user:
        user.teach()
        noted = _before(monkeypatch, lambda command: scripts.APPLY in command, valkey.kill)
        user.put("other: a", "O")
        assert noted
        valkey.start()
        if durable:
            wait_until(lambda: user.get("other: a") == "O", 5)
            wait_until(lambda: user.get("other: in fresh words") == "O", 5)
        else:
            assert user.get("other: in fresh words") is None
            assert user.counts["unreachable.redis"] >= 1


@STYLES
def test_the_durable_tier_fails(valkey: RedisServer, tmp_path: Path, style: str) -> None:
    path = tmp_path / "gone" / "durable.db"
    path.parent.mkdir()
    with User(valkey.url, f"sqlite:///{path}", style) as user:
        user.teach()
        assert user.get(new(1)) == "A1"
        user.tiers.guards.durable.failed()  # as if it did not answer
        user.tiers.guards.durable._open_until = time.monotonic() + 60
        assert user.get(new(1)) == "A1"  # an alias
        assert user.get(new(2)) in ("A2", None)
        user.put("other: a", "O")
        assert user.get("other: a") == "O"
        assert user.get("Other: a?") in ("O", None)
        user.tiers.guards.durable._open_until = 0.0
        wait_until(lambda: user.get(new(3)) == "A3", 5)


# --- single keys lost ----------------------------------------------------------------------------


def _keys(client: redis.Redis, pattern: str) -> list[bytes]:
    return sorted(client.scan_iter(pattern, count=1000))


@STYLES
def test_an_alias_whose_entry_was_evicted(
    valkey: RedisServer, client: redis.Redis, durable: str | None, style: str
) -> None:
    with User(valkey.url, durable, style) as user:
        user.teach()
        found = user.find(new(2))
        assert found is not None
        assert found.served is not None
        [key] = _keys(client, f"*{{{found.served.entry}}}")
        client.delete(key)
        user.tiers.memory.empty()
        again = user.find(new(2))
        if durable:
            assert again is not None
            assert (again.payload, again.served and again.served.entry) == (
                b"A2",
                found.served.entry,
            )
            assert client.exists(key)
        else:  # the next neighbour serves: the entry is known to be gone
            assert again is None or again.served.entry != found.served.entry  # type: ignore[union-attr]
            assert user.counts["gone"] == 1


@pytest.mark.parametrize("lost", ["*semantic*", "*record*", "*:stats", "*:epoch"])
def test_any_keys_lost(
    valkey: RedisServer, client: redis.Redis, durable: str | None, lost: str
) -> None:
    with User(valkey.url, durable) as user:
        user.teach()
        assert user.get(new(1)) == "A1"
        user.cache.tiers.run(user.cache._report())
        keys = _keys(client, lost)
        assert keys or (lost == "*record*" and durable is None)
        if keys:
            client.delete(*keys)
        for topic in range(2, TOPICS):
            assert user.get(new(topic)) in (f"A{topic}", None)
        if durable:
            wait_until(lambda: user.get(new(3, 1)) == "A3", 5)
        else:
            user.teach()
            assert user.get(new(3, 1)) == "A3"


def test_each_key_of_the_index_replaced_by_something_else(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str
) -> None:
    """Exact answers are not lost along with the index."""
    with User(valkey.url, sqlite_url) as user:
        user.teach(3)
        for number, key in enumerate(_keys(client, "*semantic*")):
            user.put(f"kept {number}: a", "K")
            client.delete(key)
            client.set(key, "nonsense")
            user.tiers.memory.empty()
            assert user.get("topic1: wording a") == "A1"
            assert user.get(new(1, number)) in ("A1", None)
            user.put(f"kept {number}: b", "K")
            assert user.get(f"kept {number}: b") == "K"
            client.delete(key)


# --- out of memory -------------------------------------------------------------------------------


@STYLES
def test_out_of_memory_an_answer_to_other_words_is_served_all_the_same(
    valkey: RedisServer, client: redis.Redis, durable: str | None, style: str
) -> None:
    with User(valkey.url, durable, style, cache={"single_flight": 0.5}) as user:
        user.teach()
        client.config_set("maxmemory", 1)
        entries = client.dbsize()
        for number in range(3):
            assert user.get(new(2, number)) == "A2"
        assert user.get(new(2)) == "A2"
        user.put("other: a", "O")
        assert user.get("other: a") == ("O" if durable else None)
        assert client.dbsize() <= entries
        assert "gone" not in user.counts
        client.config_set("maxmemory", 0)
        user.tiers.guards.redis_writes.hint()
        wait_until(lambda: (f := user.find(new(2))) and f.tier in ("redis", "memory"), 5)


# --- cluster, Sentinel ---------------------------------------------------------------------------


def test_a_cluster_with_a_node_killed(redis_cluster: RedisCluster3, sqlite_url: str) -> None:
    with User(redis_cluster.url, sqlite_url, "async") as user:
        user.teach()
        assert user.get(new(1)) == "A1"
        redis_cluster.nodes[0].kill()
        for topic in range(TOPICS):
            assert user.get(new(topic, 1)) in (f"A{topic}", None)
            assert user.get(f"topic{topic}: wording a") == f"A{topic}"
        redis_cluster.heal()
        wait_until(lambda: user.get(new(4, 2)) == "A4", 10)


def test_a_cluster_follows_an_alias_by_spelling_without_a_durable_tier(
    redis_cluster: RedisCluster3,
) -> None:
    with User(redis_cluster.url) as user:
        user.put("What is the capital of France?", "Paris")
        user.toy.texts.clear()
        for _ in range(2):
            assert user.get("what is the  capital of France") == "Paris"
        assert user.toy.texts == []


def test_a_failover(redis_sentinel: SentinelSet, sqlite_url: str) -> None:
    with User(redis_sentinel.url, sqlite_url) as user:
        user.teach()
        assert user.get(new(1)) == "A1"
        redis_sentinel.kill_primary()
        assert user.get(new(1)) == "A1"
        assert user.get(new(2)) == "A2"
        user.put("topic3: wording a", "A3, renewed")
        redis_sentinel.wait_failover()
        wait_until(lambda: user.tiers.memory.coherent, 5)
        assert user.get(new(2)) == "A2"
        assert user.get("topic3: wording a") == "A3, renewed"
        wait_until(lambda: user.get(new(4)) == "A4", 5)


# --- other processes -----------------------------------------------------------------------------


@STYLES
def test_changes_of_another_are_seen_through_an_alias(
    valkey: RedisServer, durable: str | None, style: str
) -> None:
    with User(valkey.url, durable, style) as reader, User(valkey.url, durable) as writer:
        for user in (reader, writer):
            user.tiers.setup()
        writer.teach(3)
        for number, change in enumerate(("update", "delete", "clear")):
            writer.teach(3)
            question = new(1, number)
            wait_until(lambda q=question: reader.get(q) == "A1", 5)  # type: ignore[misc]
            wait_until(lambda q=question: (f := reader.find(q)) and f.tier == "memory", 5)  # type: ignore[misc]
            found = reader.find(question)
            assert found is not None
            assert found.served is not None
            words = next(
                f"topic1: wording {w}"
                for w in "abc"
                if fingerprint(asked(f"topic1: wording {w}")).digest == found.served.entry
            )
            if change == "update":
                writer.put(words, "A1, revised")
                wait_until(lambda q=question: reader.get(q) == "A1, revised", 1)  # type: ignore[misc]
                writer.put(words, "A1")
            elif change == "delete":
                for wording in "abc":
                    writer.delete(f"topic1: wording {wording}")
                wait_until(lambda q=question: reader.get(q) is None, 1)  # type: ignore[misc]
            else:
                writer.clear()
                wait_until(lambda q=question: reader.get(q) is None, 1)  # type: ignore[misc]


def test_what_is_deleted_or_cleared_during_a_lookup_is_not_found_again(
    valkey: RedisServer, durable: str | None
) -> None:
    with User(valkey.url, durable) as reader, User(valkey.url, durable) as writer:
        writer.teach(3)
        assert reader.get(new(1)) == "A1"

        def delete() -> None:
            for wording in "abc":
                writer.delete(f"topic2: wording {wording}")

        Incident(reader.toy, delete)
        assert reader.get(new(2)) is None
        for user in (reader, writer):
            assert user.get(new(2)) is None
            assert user.get("topic2: wording a") is None
        Incident(reader.toy, writer.clear)
        reader.get(new(0, 5))
        # What it remembers is told to be over by a message that may be on its way still.
        wait_until(lambda: reader.get(new(0, 5)) is None and reader.get(new(1)) is None, 2)
        for user in (reader, writer):
            assert user.get(new(0, 5)) is None
            assert user.get(new(1)) is None


def test_a_clear_by_who_has_never_looked_leaves_nothing_to_be_served(
    valkey: RedisServer, durable: str | None
) -> None:
    with User(valkey.url, durable) as reader, User(valkey.url, durable) as other:
        reader.teach(3)
        other.clear()
        wait_until(lambda: reader.get("topic1: wording a") is None, 2)
        assert reader.get(new(1)) is None
        reader.teach(3)
        assert reader.get(new(1, 1)) == "A1"


_FORK = """
import os, sys, threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from redis_tiered import LLMCache, SemanticPolicy, Tiers
from tests.semantic.toy import Toy, asked

tiers = Tiers(sys.argv[1], sys.argv[2] or None)
policy = SemanticPolicy(Toy(), warmup=0, audit_rate=0.0, engine="local")
cache = LLMCache(tiers, jitter=0.0, single_flight=0.2, semantic=policy)
for topic in range(4):
    for wording in "abc":
        cache.update(asked(f"topic{topic}: wording {wording}"), f"A{topic}".encode())
cache.lookup(asked("topic1: first"))
[place] = cache._semantic._places.values()
stop = threading.Event()
failures = []

def use(seed):
    i = 0
    try:
        while not stop.is_set():
            i += 1
            found = cache.lookup(asked(f"topic{i % 4}: by {seed} {'x' * (i % 40)}"))
            assert found is None or found.payload == f"A{i % 4}".encode()
    except BaseException as error:
        failures.append(error)
        raise

threads = [threading.Thread(target=use, args=(seed,), daemon=True) for seed in "pqr"]
for thread in threads:
    thread.start()
for number in range(6):
    held = (place.decider._lock, cache._semantic._lock, cache._tally._lock)[number % 3]
    with held:  # as if another thread were in the middle of something
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                found = cache.lookup(asked(f"topic2: in a child {'y' * number}"))
                assert found is not None and found.payload == b"A2", found
                cache.update(asked("topic3: child's"), b"A3")
                cache.semantic_report()
                assert cache.settle()
                tiers.close()
                status = 0
            finally:
                if status:
                    import traceback
                    traceback.print_exc()
                os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
assert not failures
tiers.close()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_locks_are_held(valkey: RedisServer, sqlite_url: str) -> None:
    assert run_script(_FORK, valkey.url, sqlite_url, timeout=40) == "done\n"


def test_ten_threads_and_two_loops(valkey: RedisServer, sqlite_url: str) -> None:
    wrong: list[object] = []
    with User(valkey.url, sqlite_url, cache={"single_flight": 0.5}) as user:
        user.teach()

        def judge(topic: int, found: Found | None) -> None:
            if found is not None and found.payload != f"A{topic}".encode():
                wrong.append((topic, found))

        def thread(seed: int) -> None:
            for i in range(12):
                topic = (seed + i) % TOPICS
                judge(topic, user.cache.lookup(asked(new(topic, i))))

        async def task(seed: int) -> None:
            for i in range(12):
                topic = (seed + i) % TOPICS
                judge(topic, await user.cache.alookup(asked(new(topic, i))))

        async def tasks() -> None:
            await asyncio.gather(*(task(seed) for seed in range(5)))

        def run(work: Callable[..., Any], *args: Any) -> None:
            try:
                work(*args)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=run, args=(thread, seed)) for seed in range(10)]
        threads += [
            threading.Thread(target=run, args=(lambda: asyncio.run(tasks()),)) for _ in range(2)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
        assert wrong == []
        assert user.counts["served"] >= 12 * TOPICS / 2


# --- single flight -------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [False, True], ids=["redis", "redis down"])
@STYLES
def test_a_hundred_who_ask_in_the_same_new_words(
    valkey: RedisServer, sqlite_url: str, style: str, down: bool
) -> None:
    # A hundred at once wait for few connections to the database, longer on a busy machine.
    patient = {"durable_timeout": 30.0}
    with User(valkey.url, sqlite_url, cache={"single_flight": 10.0}, settings=patient) as user:
        user.teach()
        if down:
            valkey.kill()
            user.get("warm: up")
            user.tiers.guards.redis._open_until = time.monotonic() + 60
        user.toy.texts.clear()
        # By then all have read the database, and wait for the one who embeds.
        user.toy.delay = 1.0 if down else 0.3
        question = asked(new(2))
        found: list[Found | None] = []
        if style == "sync":
            barrier = threading.Barrier(100)

            def ask() -> None:
                barrier.wait(20)
                found.append(user.cache.lookup(question))

            threads = [threading.Thread(target=ask) for _ in range(100)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
        else:

            async def all_at_once() -> None:
                found.extend(
                    await asyncio.gather(*(user.cache.alookup(question) for _ in range(100)))
                )

            asyncio.run(all_at_once())
        assert [each and each.payload for each in found] == [b"A2"] * 100
        assert all(each is not None and each.served is not None for each in found)
        assert user.toy.texts == [new(2)]
        assert user.counts["served"] == 1
        if not down:
            with contextlib.closing(valkey.client()) as client:
                assert _keys(client, "*lease*") == _keys(client, "*!:*lease*") == []
                assert len(user.cache._flights) == 0


async def test_a_lookup_cancelled_while_it_embeds_gives_way(
    valkey: RedisServer, sqlite_url: str
) -> None:
    toy = Toy()
    stuck = asyncio.Event()

    class Slow:
        model = toy.model

        async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
            if not stuck.is_set() and "new way" in texts[0]:
                stuck.set()
                await asyncio.sleep(60)
            return toy.embed(texts)

        def embed(self, texts: Sequence[str]) -> list[list[float]]:
            return toy.embed(texts)

    async with Tiers(valkey.url, sqlite_url) as tiers, Tiers(valkey.url, sqlite_url) as others:
        user = User(tiers, toy=Slow(), cache={"single_flight": 20.0}, embed_timeout=30.0)
        elsewhere = User(others, cache={"single_flight": 20.0})
        await asyncio.to_thread(user.teach)
        first = asyncio.create_task(user.cache.alookup(asked(new(1))))
        await asyncio.wait_for(stuck.wait(), 5)
        waiter = asyncio.create_task(user.cache.alookup(asked(new(1))))
        other = asyncio.create_task(elsewhere.cache.alookup(asked(new(1))))
        await asyncio.sleep(0.05)
        begin = time.monotonic()
        first.cancel()
        for task in (waiter, other):
            found = await asyncio.wait_for(task, 10)
            assert found is not None
            assert found.payload == b"A1"
        assert time.monotonic() - begin < 1.5 + SLACK
        with pytest.raises(asyncio.CancelledError):
            await first


def test_of_those_who_find_an_alias_to_nothing_one_asks_the_model(valkey: RedisServer) -> None:
    with User(valkey.url, cache={"single_flight": 5.0}) as user:
        user.teach(3)
        assert user.get(new(1)) == "A1"
        for wording in "abc":
            user.delete(f"topic1: wording {wording}")
        calls: list[int] = []
        barrier = threading.Barrier(20)

        def ask() -> None:
            barrier.wait(10)
            if user.get(new(1)) is None:
                calls.append(1)
                time.sleep(0.1)
                user.put(new(1), "A1, anew")

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(calls) == 1


# --- the embedder --------------------------------------------------------------------------------


@STYLES
def test_an_embedder_that_fails_is_a_counted_miss(
    valkey: RedisServer, sqlite_url: str, style: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with User(valkey.url, sqlite_url, style) as user:
        user.teach()
        user.toy.fail = RuntimeError("https://user:s3cret@host refused")
        assert user.get(new(1)) is None
        user.put(new(1), "own")
        assert user.get(new(1)) == "own"
        assert user.counts["embedder.failed"] >= 1
        assert user.cache.stats().errors["embedder.failed"] >= 1
        user.toy.fail = None
        wait_until(lambda: user.get(new(2)) == "A2", 3)
        told = [repr(user.cache), repr(user.cache.stats()), repr(user.cache._semantic), caplog.text]
        told += [repr(user.cache._semantic.policy), str(user.cache.semantic_report())]  # type: ignore[union-attr]
        assert not any("s3cret" in each for each in told)


@STYLES
def test_an_embedder_that_hangs_costs_its_timeout_once(
    valkey: RedisServer, sqlite_url: str, style: str
) -> None:
    end = threading.Event()
    toy = Toy()
    hangs = [False]

    def embed(texts: Sequence[str]) -> list[list[float]]:
        if hangs[0]:
            end.wait(20)
        return toy.embed(texts)

    embed.__qualname__ = toy.model
    with User(valkey.url, sqlite_url, style, toy=embed, model=toy.model, embed_timeout=0.3) as user:
        user.teach()
        hangs[0] = True
        assert 0.25 < timed(lambda: user.get(new(1))) < 0.3 + SLACK
        assert user.counts["embedder.timeout"] == 1
        begin = time.monotonic()
        for number in range(10):
            assert user.get(new(1, number)) is None
            user.put(f"other {number}: x", "O")
            if time.monotonic() - begin > 0.4:
                break
        assert time.monotonic() - begin < 0.3 + SLACK
        assert user.counts["embedder.open"] >= 2
        hangs[0] = False
        end.set()
        wait_until(lambda: user.get(new(2, 5)) == "A2", 5)


NONSENSE: dict[str, Callable[[list[list[float]]], Any]] = {
    "NaN": lambda made: [[float("nan")] * 64 for _ in made],
    "infinite": lambda made: [[float("inf")] * 64 for _ in made],
    "zeros": lambda made: [[0.0] * 64 for _ in made],
    "none": lambda made: [],
    "too many": lambda made: made * 2,
    "one flat": lambda made: made[0],
    "no vectors": lambda made: None,
    "text": lambda made: ["vector"] * len(made),
    "a string": lambda made: "vectors",
    "texts": lambda made: [["0.1"] * 64 for _ in made],
    "empty vectors": lambda made: [[] for _ in made],
    "complex": lambda made: [[1j] * 64 for _ in made],
    "dicts": lambda made: [{"embedding": each} for each in made],
    "nested": lambda made: [[each] for each in made],
    "huge": lambda made: [[1e308] * 64 for _ in made],
}


@STYLES
def test_an_embedder_that_gives_nonsense_is_a_counted_miss(valkey: RedisServer, style: str) -> None:
    with User(valkey.url, None, style) as user:
        user.teach()
        embed = user.toy.embed
        for number, (name, spoil) in enumerate(NONSENSE.items()):
            user.toy.embed = lambda texts, spoil=spoil: spoil(embed(texts))
            before = user.counts.get("embedder.invalid", 0)
            assert user.get(new(1, number)) is None, name
            user.put(new(1, number), f"own {number}")
            assert user.get(new(1, number)) == f"own {number}", name
            if name != "huge":  # a direction like any other
                assert user.counts["embedder.invalid"] > before, name
        user.toy.embed = embed
        assert user.get(new(2)) == "A2"


def test_a_property_of_the_embedder_that_fails(valkey: RedisServer) -> None:
    toy = Toy()

    class Moody:
        broken = False

        @property
        def model(self) -> str:
            if self.broken:
                raise RuntimeError("s3cret")
            return toy.model

        def embed(self, texts: Sequence[str]) -> list[list[float]]:
            return toy.embed(texts)

    moody = Moody()
    with User(valkey.url, toy=moody) as user:
        user.teach()
        moody.broken = True
        assert user.get(new(1)) is None
        user.put(new(1), "own")
        moody.broken = False
        assert user.get(new(1)) == "own"
        assert user.get(new(2)) == "A2"


@STYLES
def test_vectors_of_two_models_are_never_compared(
    valkey: RedisServer, durable: str | None, style: str
) -> None:
    with User(valkey.url, durable, style) as user:
        user.teach()
        assert user.get(new(1)) == "A1"
        user.toy.model = "text-embedding-3-small"
        assert user.get(new(1, 1)) is None
        assert user.counts["no_neighbour"] >= 1
        user.toy.model, user.toy.length = "all-MiniLM-L6-v2", 32
        assert user.get(new(1, 2)) is None
        user.put(new(1, 2), "B")
        user.toy.length = 64
        assert user.get(new(1, 3)) == "A1"  # the old ones are there still
        assert set(user.cache.semantic_report()) == {"all-MiniLM-L6-v2", "text-embedding-3-small"}
    with User(valkey.url, durable, toy=Toy(32)) as user:
        assert user.get("topic1: wording a") == "A1"
        assert user.get(new(3)) is None


def test_a_model_that_changes_while_it_embeds_is_not_believed(valkey: RedisServer) -> None:
    with User(valkey.url) as user:
        user.teach()
        embed = user.toy.embed

        def changes(texts: Sequence[str]) -> list[list[float]]:
            made = embed(texts)
            user.toy.model = "another"
            return made

        user.toy.embed = changes  # type: ignore[method-assign]
        assert user.get(new(1)) is None
        user.toy.embed = embed  # type: ignore[method-assign]
        assert user.get(new(2)) is None
        assert user.counts["embedder.invalid"] == 1
        user.toy.model = "all-MiniLM-L6-v2"
        assert user.get(new(3)) == "A3"


def test_an_embedder_that_can_only_be_awaited(valkey: RedisServer, sqlite_url: str) -> None:
    toy = Toy()

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return toy.embed(texts)

    with User(valkey.url, sqlite_url, "async", toy=embed, model=toy.model) as user:
        user.teach()
        assert user.get(new(1)) == "A1"
        # What is compared in the background is awaited there.
        assert user.get("topic2: unlike the others") in ("A2", None)
        user.put("topic2: wording a", "another answer altogether")
        assert user.cache.settle()
        assert "compare.failed" not in user.counts
        found = user.cache.lookup(asked(new(3)))  # from blocking code: an exact miss
        assert found is None
        assert user.counts["embedder.invalid"] == 1
        assert user.get(new(3)) == "A3"


async def test_a_blocking_embedder_does_not_hold_up_the_loop(valkey: RedisServer) -> None:
    toy = Toy()

    def embed(texts: Sequence[str]) -> list[list[float]]:
        time.sleep(0.3)
        return toy.embed(texts)

    async with Tiers(valkey.url) as tiers:
        user = User(tiers, toy=embed, model=toy.model)
        ticks: list[float] = []

        async def tick() -> None:
            while True:
                ticks.append(time.monotonic())
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        assert await user.cache.alookup(asked(new(1))) is None
        ticking.cancel()
        assert len(ticks) > 5
        assert max(np.diff(ticks)) < 0.2


# --- closed --------------------------------------------------------------------------------------


@STYLES
def test_closed(valkey: RedisServer, durable: str | None, style: str) -> None:
    with User(valkey.url, durable, style) as user:
        user.teach(3)
        assert user.get(new(1)) == "A1"
        user.tiers.close()
        assert user.get(new(1)) is None
        assert user.get("topic1: wording a") is None
        user.put(new(2), "own")
        assert user.cache.settle()
        user.cache.semantic_report()


def test_closed_while_it_embeds(valkey: RedisServer, sqlite_url: str) -> None:
    with User(valkey.url, sqlite_url) as user:
        user.teach(3)
        Incident(user.toy, user.tiers.close)
        assert user.get(new(1)) is None


def test_an_index_that_cannot_be_used_is_a_counted_miss(
    valkey: RedisServer, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server lacks the search module that the policy asks for: exact answers go on."""
    with User(valkey.url, sqlite_url, engine="redisvl") as user:
        for number in range(3):
            assert user.get(new(1, number)) is None
            user.put(new(1, number), "own")
            assert user.get(new(1, number)) == "own"
        assert user.counts["unreachable.index"] >= 3
        assert caplog.text.count("cannot use its index") == 1
        user.delete(new(1, 0))
        assert user.get(new(1, 0)) is None
        user.clear()
        assert user.get(new(1, 1)) is None
