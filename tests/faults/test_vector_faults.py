"""A collection while one of its tiers fails: what was acknowledged is found, by everybody, always."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pytest
import redis
from langchain_core.embeddings import Embeddings
from redis.crc import key_slot

from langchain_redis_tiered import RedisTieredVectorStore
from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.tiers.tiers import Tiers
from redis_tiered.vectors.collection import Collection
from redis_tiered.vectors.truth import LEASE
from tests.faults.session_worker import Acknowledged
from tests.faults.traffic import Loop, timed
from tests.faults.vector_worker import QUERY, Progress, VectorWorker, document, nearest
from tests.faults.worker import run_script
from tests.servers import PostgresServer, RedisCluster3, RedisServer, redis_options
from tests.waiting import wait_until

TIMEOUT = 0.5
# What a loaded machine may add to a bound.
SLACK = 1.0

STYLES = pytest.mark.parametrize("style", ["sync", "async"])


class Place(NamedTuple):
    """A Redis, of which a test has a namespace.

    Attributes:
        options: of a collection there.
    """

    url: str
    settings: dict[str, Any]
    options: dict[str, Any]

    def lose(self) -> None:
        """Redis loses all of this namespace."""
        client: Any
        with contextlib.closing(redis.Redis.from_url(self.url, **redis_options())) as client:
            pattern = f"{self.settings['namespace']}*"
            if self.options["engine"] == "redisvl":
                for name in client.execute_command("FT._LIST"):
                    if name.decode().startswith(self.settings["namespace"]):
                        client.execute_command("FT.DROPINDEX", name)
            for key in client.scan_iter(pattern, count=1000):
                client.delete(key)


@pytest.fixture(params=["local", "redisvl"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Either engine on a server of its own kind, which nobody kills or flushes."""
    local = request.param == "local"
    url = request.getfixturevalue("valkey").url if local else request.getfixturevalue("search_url")
    options = {"engine": request.param} | ({} if local else {"algorithm": "flat"})
    made = Place(url, {"namespace": f"faults-{secrets.token_hex(4)}"}, options)
    yield made
    made.lose()


class User:
    """A collection of a `Tiers` of its own, called blocking or in an event loop."""

    def __init__(
        self,
        redis: str,
        durable: str | None,
        style: str = "sync",
        *,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.tiers = Tiers(redis, durable, **(settings or {}))
        self.collection = Collection(self.tiers, "c", **({"engine": "local"} | options))
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

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.loop is None:
            return getattr(self.collection, name)(*args, **kwargs)
        return self.loop.run(getattr(self.collection, "a" + name)(*args, **kwargs))

    def put(self, *ids: str, text: str = "") -> None:
        assert self._call("upsert", [document(id, text) for id in ids]) == ids

    def delete(self, *ids: str) -> int:
        return int(self._call("delete", list(ids)))

    def search(self, k: int = 1000) -> list[str]:
        """Ids, nearest first, compared with brute force over what they say they are."""
        hits = self._call("search", QUERY, k)
        found = {hit.document.id: hit.document.text for hit in hits}
        ids = [hit.document.id for hit in hits]
        assert ids == nearest(found)
        return ids

    def texts(self) -> dict[str, str]:
        hits = self._call("search", QUERY, 1000)
        return {hit.document.id: hit.document.text for hit in hits}

    def check(self, *ids: str) -> None:
        """These and no others are there, and the nearest of them are found."""
        texts = {id: document(id).text for id in ids}
        assert self.search() == nearest(texts)
        assert self.search(3) == nearest(texts, 3)
        assert len(self._call("get", list(ids))) == len(ids)

    def served(self, by: str) -> bool:
        """Whether a search is served by a tier now."""
        before = self.stats.get(f"from {by}", 0)
        self.search(1)
        return self.stats.get(f"from {by}", 0) > before

    def resumed(self, timeout: float = 5.0) -> None:
        wait_until(lambda: self.served("redis"), timeout, "a search in Redis")

    def rebuild(self, *args: Any) -> Any:
        return self._call("rebuild", *args)

    def clean(self) -> bool:
        return bool(self.collection.verify().clean)

    @property
    def stats(self) -> dict[str, int]:
        return self.collection.stats()

    @property
    def errors(self) -> dict[str, int]:
        return dict(self.tiers.guards.errors)


def ids(count: int, first: int = 0) -> list[str]:
    return [f"i{i}" for i in range(first, first + count)]


@pytest.fixture
def client(valkey: RedisServer) -> Iterator[redis.Redis]:
    """By hand; the server accepts writes again at the end."""
    with contextlib.closing(valkey.client()) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        client.replicaof("NO", "ONE")


@pytest.fixture(params=["sqlite", "postgres"])
def durable(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


# --- Redis killed --------------------------------------------------------------------------------


def test_killed_in_mid_ingest(tmp_path: Path, durable: str) -> None:
    """Another process ingests; what it was told is stored is found, whoever asks."""
    count = 300
    progress = Acknowledged(tmp_path / "progress", 1)
    with (
        RedisServer(directory=tmp_path / "redis") as server,
        VectorWorker(server.url, durable, engine="local") as writer,
        User(server.url, durable, "async", auto_rebuild=False) as reader,
    ):
        writer.send("ingest", count, 20, str(progress.path))
        wait_until(lambda: progress[0] >= 100, 20)
        assert set(reader.search()) >= set(ids(100))
        server.kill()
        while (before := progress[0]) < count:
            assert set(reader.search()) >= set(ids(before))
        assert writer.receive()["failures"] == {}
        reader.check(*ids(count))
        with User(server.url, durable) as newcomer:
            newcomer.check(*ids(count))
            assert newcomer.served("the durable tier")
            server.start()
            wait_until(lambda: _rebuilt(newcomer, count), 5)
            reader.resumed()
            for user in (reader, newcomer):
                user.check(*ids(count))
                assert user.clean()


def _rebuilt(user: User, count: int) -> bool:
    try:
        return bool(user.rebuild().documents == count)
    except TierUnavailable:
        return False  # the breaker is open still; or it is being rebuilt in the background


def test_nothing_acknowledged_is_ever_missed(tmp_path: Path, durable: str) -> None:
    """One writes, two read, while Redis dies three times and comes back with what it had saved."""
    progress = _progress(tmp_path, 13)
    changes = 180
    with (
        RedisServer(directory=tmp_path / "redis", aof=True) as server,
        VectorWorker(server.url, durable, engine="local") as writer,
        VectorWorker(server.url, durable, engine="local") as one,
        VectorWorker(server.url, durable, engine="local") as two,
        User(server.url, durable) as user,
    ):
        writer.send("write", changes, str(progress.shared.path))
        one.send("read", str(progress.shared.path), "sync")
        two.send("read", str(progress.shared.path), "async")
        for time_ in range(3):
            goal = changes * (2 * time_ + 1) // 7
            wait_until(lambda goal=goal: progress.latest >= goal, 30)  # type: ignore[misc]
            server.kill()
            if time_:
                goal += changes // 20
                wait_until(lambda goal=goal: progress.latest >= goal, 30)  # type: ignore[misc]
            server.start()
        written = writer.receive()
        expected = progress.texts()
        wait_until(lambda: user.served("redis"), 10)
        progress.shared.finish()
        for reading in (one.receive(), two.receive()):
            assert reading["problems"][:3] == []
            assert reading["stats"]["from redis"] > 0
            assert reading["queries"] > 20
        assert set(written["failures"]) <= {"durable.locked", "durable.busy"}, written
        assert written["slowest"] < 3 * TIMEOUT + LEASE + SLACK
        assert user.texts() == expected
        wait_until(user.clean, 5)
        assert user.rebuild().documents == len(expected)
        assert user.clean()
        assert dict(one.do("search")) == dict(two.do("search")) == user.texts() == expected


def _progress(directory: Path, documents: int) -> Progress:
    path = directory / "progress"
    Acknowledged(path, 2 * documents)
    return Progress(path)


def test_a_query_on_its_way_while_redis_comes_back_with_older_data(
    tmp_path: Path, sqlite_url: str
) -> None:
    """Who has a lease from before notices by its broken connection."""
    with (
        RedisServer(directory=tmp_path / "redis", extra=("--dbfilename", "dump.rdb")) as server,
        User(server.url, sqlite_url) as writer,
        User(server.url, sqlite_url) as reader,
        User(server.url, sqlite_url, "async") as other,
    ):
        for i in range(4):
            writer.put(f"old {i}")
            with contextlib.closing(server.client()) as client:
                client.save()
            before = writer.search()
            assert reader.search() == other.search() == before
            writer.put(f"new {i}")
            server.kill()
            server.start()
            for user in (reader, other, writer):
                assert user.search() == writer.search()
                assert f"new {i}" in user.search()
            with User(server.url, sqlite_url) as newcomer:
                assert newcomer.search() == writer.search()


# --- many writers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["sqlite", "postgres"])
def test_two_processes_change_the_same_documents(
    request: pytest.FixtureRequest, place: Place, kept: str
) -> None:
    if kept == "sqlite" and place.options["engine"] == "redisvl":
        pytest.skip("one of them will do")
    durable: str = request.getfixturevalue(f"{kept}_url")
    some = ids(6)
    settings = place.settings | {"durable_timeout": 10}
    with (
        VectorWorker(place.url, durable, settings=settings, **place.options) as one,
        VectorWorker(place.url, durable, settings=settings, **place.options) as two,
        User(place.url, durable, settings=place.settings, **place.options) as user,
    ):
        one.send("quarrel", "one", 25, some)
        two.send("quarrel", "two", 25, some)
        assert one.receive() is two.receive() is True
        truth = {found.id: found.text for found in user.collection.find(limit=None)}
        assert truth
        for worker in (one, two):
            assert dict(worker.do("search")) == truth
        assert user.texts() == truth
        assert user.served("redis")
        assert user.clean()


# --- Redis refuses -------------------------------------------------------------------------------


@STYLES
@pytest.mark.parametrize("fault", ["oom", "readonly"])
def test_redis_refuses_writes(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str, fault: str, style: str
) -> None:
    with (
        User(valkey.url, sqlite_url, style) as writer,
        User(valkey.url, sqlite_url) as reader,
    ):
        writer.put(*ids(4))
        for user in (reader, writer):
            user.check(*ids(4))
            assert user.served("redis")
        if fault == "oom":
            client.config_set("maxmemory", 1)
        else:
            client.replicaof("127.0.0.1", "1")  # nobody listens there: it keeps its data
        for i in range(4, 9):
            writer.put(f"i{i}")
            assert writer.delete(f"i{i - 4}") == 1
            for user in (reader, writer):
                user.check(*ids(5, first=i - 3)[:4])
        assert writer.errors.get(f"redis.{fault}"), writer.errors
        if fault == "oom":
            client.config_set("maxmemory", 0)
        else:
            client.replicaof("NO", "ONE")
        for user in (reader, writer):
            user.resumed()
            user.check(*ids(4, first=5))
        writer.put("i9")
        reader.check(*ids(5, first=5))
        assert reader.clean()


def test_snapshots_fail(tmp_path: Path, sqlite_url: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with (
        RedisServer(
            directory=tmp_path / "redis", extra=("--enable-protected-configs", "yes")
        ) as server,
        contextlib.closing(server.client()) as client,
        User(server.url, sqlite_url) as writer,
        User(server.url, sqlite_url, "async") as reader,
    ):
        writer.put("i0")
        reader.check("i0")
        client.config_set("dir", str(gone))
        client.config_set("save", "3600 1")
        shutil.rmtree(gone)
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        for i in range(1, 5):
            writer.put(f"i{i}")
            reader.check(*ids(i + 1))
            writer.check(*ids(i + 1))
        assert writer.errors.get("redis.misconf"), writer.errors
        client.config_set("save", "")
        for user in (writer, reader):
            user.resumed()
            user.check(*ids(5))
        assert writer.clean()


@STYLES
def test_paused(valkey: RedisServer, sqlite_url: str, style: str) -> None:
    with (
        User(valkey.url, sqlite_url, style) as writer,
        User(valkey.url, sqlite_url) as reader,
        VectorWorker(valkey.url, sqlite_url, engine="local") as other,
    ):
        writer.put("i0")
        for user in (reader, writer):
            user.check("i0")
        assert [id for id, _ in other.do("search")] == ["i0"]
        valkey.pause()
        try:
            assert timed(lambda: writer.put("i1")) < TIMEOUT + LEASE + 0.1 + SLACK
            assert timed(lambda: writer.put("i2")) < SLACK
            writer.check(*ids(3))
            assert timed(reader.search) < TIMEOUT + SLACK
            reader.check(*ids(3))
            assert timed(reader.search) < SLACK
        finally:
            valkey.resume()
        # This one has noticed nothing.
        assert {id for id, _ in other.do("search")} == set(ids(3))
        for user in (reader, writer):
            user.resumed()
            user.check(*ids(3))
        writer.put("i3")
        assert {id for id, _ in other.do("search")} == set(reader.search()) == set(ids(4))


@STYLES
def test_flushed(place: Place, sqlite_url: str, style: str) -> None:
    with (
        User(place.url, sqlite_url, style, settings=place.settings, **place.options) as writer,
        User(place.url, sqlite_url, settings=place.settings, **place.options) as reader,
    ):
        for i in range(6):
            writer.put(f"i{i}")
            reader.check(*ids(i + 1))
            place.lose()
            for user in (reader, writer):
                user.check(*ids(i + 1))
        # Nobody asks for it: it is rebuilt in the background.
        for user in (reader, writer):
            user.resumed()
            user.check(*ids(6))
        assert reader.clean()


def test_keys_are_evicted(valkey: RedisServer, client: redis.Redis, sqlite_url: str) -> None:
    with User(valkey.url, sqlite_url, auto_rebuild=False) as user:
        user.put(*ids(50))
        user.put(*ids(50, 50))
        client.config_set("maxmemory-policy", "allkeys-lru")
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 100_000)
        kept = len(_keys(client))
        for i in range(1000):
            client.set(f"ballast {i}", "x" * 20_000)
            if len(_keys(client)) < kept:
                break
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        assert len(_keys(client)) < kept
        user.check(*ids(100))
        assert user.collection.verify(repair=True).repaired
        assert user.clean()
        for fresh in (user, User(valkey.url, sqlite_url)):
            with contextlib.nullcontext() if fresh is user else fresh:
                fresh.check(*ids(100))
                assert fresh.served("redis")


def _keys(client: redis.Redis) -> list[Any]:
    """Of the collection."""
    return list(client.scan_iter("redis-tiered!*:vector:*", count=1000))


@pytest.mark.parametrize("lost", ["meta", "ids", "gone", "vectors", "metadata", "contents"])
def test_a_key_is_lost(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str, lost: str
) -> None:
    """Whichever it is: no answer is wrong, and it is noticed."""
    with User(valkey.url, sqlite_url) as user, User(valkey.url, sqlite_url) as other:
        user.put(*ids(20))
        user.delete("i0")
        user.check(*ids(19, 1))
        client.delete(*[key for key in _keys(client) if key.endswith(lost.encode())])
        for reader in (user, other):
            reader.check(*ids(19, 1))
        with User(valkey.url, sqlite_url) as newcomer:
            newcomer.check(*ids(19, 1))
            newcomer.put("i20")
            for reader in (user, other, newcomer):
                reader.check(*ids(20, 1))
            newcomer.collection.verify(repair=True)
            for reader in (user, other, newcomer):
                reader.check(*ids(20, 1))
                reader.resumed()


# --- the durable tier away -----------------------------------------------------------------------


@STYLES
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_durable_tier_is_down(
    valkey: RedisServer, postgres: PostgresServer, postgres_url: str, style: str, how: str
) -> None:
    with (
        User(valkey.url, postgres_url, style) as writer,
        User(valkey.url, postgres_url) as reader,
    ):
        writer.put("i0", "i1")
        for user in (reader, writer):
            user.check("i0", "i1")
        getattr(postgres, how)()
        try:
            for _ in range(4):
                for action in (lambda: writer.put("refused"), lambda: writer.delete("i0")):
                    with pytest.raises(TierError) as caught:
                        action()
                    assert caught.value.tier == "durable"
                for user in (reader, writer):
                    user.check("i0", "i1")
                    assert user.served("redis")
            with User(valkey.url, postgres_url) as newcomer:
                newcomer.check("i0", "i1")
                with pytest.raises(TierError, match="durable"):
                    newcomer.put("refused")
                with pytest.raises(TierError, match="durable"):
                    newcomer.collection.find()
        finally:
            postgres.start()
        wait_until(lambda: _put(writer, "i2"), 5, "an upsert to be accepted")
        for user in (reader, writer):
            user.check("i0", "i1", "i2")
        assert reader.clean()


def _put(user: User, id: str) -> bool:
    try:
        user.put(id)
    except TierError:
        return False
    return True


def test_both_tiers_are_down(
    valkey: RedisServer, postgres: PostgresServer, postgres_url: str
) -> None:
    with User(valkey.url, postgres_url) as user:
        user.put("i0")
        user.check("i0")
        valkey.kill()
        postgres.kill()
        try:
            for i in range(6):
                for action in (lambda: user.put("refused"), user.search, user.rebuild, user.clean):
                    with pytest.raises(TierError):
                        action()
                if i:
                    assert timed(lambda: _put(user, "refused")) < SLACK
        finally:
            postgres.start()
            valkey.start()
        wait_until(lambda: _put(user, "i1"), 5, "an upsert to be accepted")
        user.check("i0", "i1")
        user.resumed()
        assert user.clean()


# --- a writer dies -------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["upsert", "delete"])
def test_a_writer_dies_before_it_tells_redis(place: Place, durable: str, change: str) -> None:
    with (
        VectorWorker(place.url, durable, settings=place.settings, **place.options) as writer,
        User(place.url, durable, settings=place.settings, **place.options) as reader,
        User(place.url, durable, "async", settings=place.settings, **place.options) as idle,
    ):
        reader.put("i0", "i1")
        for user in (reader, idle):
            user.check("i0", "i1")
        assert writer.do("search")
        writer.do("die_when_sending", "local mode, engine")
        expected = {"i0"} if change == "delete" else {"i0", "i1", "i2"}
        wait_until(lambda: "i1" in reader.search())  # has a lease
        dying = ("delete", "i1") if change == "delete" else ("upsert", {"i2": document("i2").text})
        with pytest.raises(EOFError):
            writer.do(*dying)
        assert writer.wait() == -9
        begin = time.monotonic()
        wait_until(lambda: set(reader.search()) == expected, LEASE + SLACK)
        assert time.monotonic() - begin < LEASE + SLACK
        for user in (idle, reader):
            user.check(*expected)
            assert timed(user.search) < SLACK
            assert user.served("redis")
        idle.put("i3")
        reader.check(*expected, "i3")
        assert reader.clean()


# --- rebuilding ----------------------------------------------------------------------------------

MANY = 1200


@pytest.mark.parametrize("how", ["killed", "exception", "redis killed"])
def test_an_interrupted_rebuild_goes_on(tmp_path: Path, sqlite_url: str, how: str) -> None:
    with (
        RedisServer(
            directory=tmp_path / "redis", aof=True, extra=("--appendfsync", "always")
        ) as server,
        User(server.url, sqlite_url, auto_rebuild=False) as user,
        User(server.url, sqlite_url, "async", auto_rebuild=False) as other,
    ):
        user.put(*ids(MANY))
        expected = nearest({id: document(id).text for id in ids(MANY)}, 20)
        assert other.search(20) == expected
        if how == "killed":
            with VectorWorker(server.url, sqlite_url, engine="local") as worker:
                with pytest.raises(EOFError):
                    worker.do("rebuild", 500)
                assert worker.wait() == -9
            with pytest.raises(TierUnavailable, match="another process rebuilds"):
                user.rebuild()
        elif how == "exception":

            def interrupt(done: int, total: int) -> None:
                raise RuntimeError("enough")

            with pytest.raises(RuntimeError, match="enough"):
                user.rebuild(interrupt)
        else:
            with pytest.raises(TierError) as caught:
                user.rebuild(lambda done, total: server.kill() if done == 500 else None)
            assert caught.value.tier == "redis"
            assert user.search(20) == other.search(20) == expected
            server.start()
        assert user.search(20) == other.search(20) == expected
        wait_until(lambda: _put(user, "late"))
        wait_until(lambda: other.delete("i7") + 1)
        assert wait_until(lambda: _resumed(user), 5, "a rebuild") == 500
        for reader in (user, other):
            reader.resumed()
            assert set(reader.search(2000)) == {*ids(MANY), "late"} - {"i7"}
        assert user.clean()


def _resumed(user: User) -> int | None:
    try:
        rebuilt = user.rebuild()
    except TierUnavailable:
        return None  # the breaker is open still; or the lease of who died is there
    assert rebuilt.documents >= MANY
    return int(rebuilt.resumed)


def test_life_goes_on_during_a_rebuild(place: Place, durable: str) -> None:
    """Another process reads and writes while one rebuilds, again and again."""
    settings = place.settings | {"durable_timeout": 10}
    stop = threading.Event()
    failures: list[BaseException] = []
    with (
        User(place.url, durable, settings=settings, **place.options) as user,
        User(place.url, durable, settings=settings, **place.options) as writer,
        User(place.url, durable, "async", settings=settings, **place.options) as reader,
    ):
        user.put(*ids(600))
        latest = ["0", "0"]

        def write() -> None:
            number = 0
            try:
                while not stop.is_set():
                    number += 1
                    writer.put("changing", text=str(number))
                    latest[0] = str(number)
            except BaseException as error:
                failures.append(error)

        def read() -> None:
            try:
                while not stop.is_set():
                    before = int(latest[0])
                    texts = reader.texts()
                    assert len(texts) in (600, 601)
                    if before:
                        assert before <= int(texts["changing"])
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert user.rebuild().documents in (600, 601)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert failures == []
        user.resumed()
        assert user.texts() == reader.texts() == writer.texts()
        assert user.texts()["changing"] == latest[0]
        assert user.clean()


def test_two_rebuilds_and_a_removal_of_everything(place: Place, sqlite_url: str) -> None:
    with (
        User(place.url, sqlite_url, settings=place.settings, **place.options) as user,
        User(place.url, sqlite_url, settings=place.settings, **place.options) as other,
    ):
        user.put(*ids(600))
        refused = []

        def meanwhile(done: int, total: int) -> None:
            with pytest.raises(TierUnavailable, match="another process rebuilds") as caught:
                other.rebuild()
            refused.append(caught.value)
            if done > 500:
                assert other.collection.delete_all() == 600
                other.check()
                other.put("i0")

        with pytest.raises(TierUnavailable, match="everything was removed"):
            user.rebuild(meanwhile)
        assert len(refused) == 2
        for reader in (user, other):
            reader.check("i0")
        assert user.rebuild()[:2] == (1, 0)
        user.check("i0")
        assert other.clean()


# --- embedders -----------------------------------------------------------------------------------


class FailingEmbeddings(Embeddings):
    def __init__(self) -> None:
        self.calls = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        if self.calls == 2:
            raise OSError("no embeddings today")
        return [[1.0, float(len(text))] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        raise OSError("no embeddings today")


async def test_an_embedder_fails(valkey: RedisServer, client: redis.Redis, sqlite_url: str) -> None:
    async with Tiers(valkey.url, sqlite_url) as tiers:
        store = RedisTieredVectorStore(FailingEmbeddings(), "c", tiers, engine="local")
        texts = [f"text {i}" for i in range(10)]
        with pytest.raises(OSError, match="no embeddings today"):
            store.add_texts(texts, batch_size=5)
        assert await store.collection.acount() == 0
        assert _keys(client) == []
        with pytest.raises(OSError, match="no embeddings today"):
            store.similarity_search("text")
        assert len(await store.aadd_texts(texts)) == 10
        with pytest.raises(OSError, match="no embeddings today"):
            await store.asimilarity_search("text")
        assert await store.collection.acount() == 10
        assert (await store.collection.averify()).clean


# --- forked, shared, cancelled -------------------------------------------------------------------

_FORK = """
import os, sys, threading, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
warnings.filterwarnings("ignore", "<psycopg.Connection object at", ResourceWarning)
from redis_tiered import Document, Tiers

redis, durable, writers = sys.argv[1:]
tiers = Tiers(redis, durable, durable_timeout=20)
collection = tiers.collection("c", engine="local")

def put(*ids):
    collection.upsert([Document(id, [1.0, float(len(id))], id) for id in ids])

def found():
    return {hit.document.id for hit in collection.search([1.0, 1.0], 1000)}

put("first")
assert found() == {"first"}
stop = threading.Event()
failures = []
said = [0] * 3

def use(writer):
    try:
        while not stop.is_set():
            put(f"{writer}-{said[writer]}")
            said[writer] += 1
            assert "first" in found()
            time.sleep(0.01)
    except BaseException as error:
        failures.append(error)
        raise

threads = [threading.Thread(target=use, args=(i,), daemon=True) for i in range(int(writers))]
for thread in threads:
    thread.start()
for child in range(6):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for i in range(4):
                put(f"child {child}-{i}")
                assert {f"child {child}-{j}" for j in range(i + 1)} <= found()
            assert "first" in found()
            tiers.close()
            status = 0
        finally:
            if status:
                import traceback
                traceback.print_exc()
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert {f"child {child}-{i}" for i in range(4)} <= found()
stop.set()
for thread in threads:
    thread.join()
assert not failures
assert len(found()) == 1 + 24 + sum(said), (len(found()), said)
assert collection.verify().clean
tiers.close()
print("done")
"""


def test_fork(valkey: RedisServer, sqlite_url: str) -> None:
    assert run_script(_FORK, valkey.url, sqlite_url, "0") == "done\n"


def test_fork_while_threads_write(valkey: RedisServer, postgres_url: str) -> None:
    """No lock that another thread held is held in the child for ever.

    Not with SQLite: a process that forks while one of its threads writes leaves the child a lock
    that nobody gives back (https://www.sqlite.org/howtocorrupt.html, section 2.6).
    """
    assert run_script(_FORK, valkey.url, postgres_url, "3") == "done\n"


def test_ten_threads_and_three_loops_share_a_collection(place: Place, durable: str) -> None:
    failures: list[BaseException] = []
    settings = place.settings | {"durable_timeout": 20, "redis_timeout": 5}
    with User(place.url, durable, settings=settings, **place.options) as user:
        collection = user.collection
        rounds = 5

        def use(writer: int) -> None:
            try:
                for i in range(rounds):
                    id = f"{writer}-{i}"
                    collection.upsert([document(id)])
                    [hit] = collection.search(QUERY, 1, ids=[id])
                    assert hit.document.id == id
                collection.delete([f"{writer}-0"])
                assert f"{writer}-0" not in user.texts()
            except BaseException as error:
                failures.append(error)

        async def tasks(writer: int) -> None:
            try:
                for i in range(rounds):
                    id = f"{writer}-{i}"
                    await collection.aupsert([document(id)])
                    [hit] = await collection.asearch(QUERY, 1, ids=[id])
                    assert hit.document.id == id
                await collection.adelete([f"{writer}-0"])
                assert not await collection.asearch(QUERY, 1, ids=[f"{writer}-0"])
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=use, args=(i,)) for i in range(10)]
        threads += [
            threading.Thread(target=lambda i=i: asyncio.run(tasks(i))) for i in range(10, 13)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        user.check(*[f"{writer}-{i}" for writer in range(13) for i in range(1, rounds)])
        assert user.served("redis")
        assert user.clean()


async def test_cancelled_at_any_moment(
    valkey: RedisServer, client: redis.Redis, caplog: pytest.LogCaptureFixture, durable: str
) -> None:
    choose = random.Random(7)
    async with Tiers(valkey.url, durable) as tiers, Tiers(valkey.url, durable) as others:
        collection = tiers.collection("c", engine="local")
        other = others.collection("c", engine="local")
        await collection.aupsert([document("whole")])
        begin = time.monotonic()
        for _ in range(10):
            await collection.aupsert([document("whole")])
            await collection.asearch(QUERY)
        usual = (time.monotonic() - begin) / 10
        acknowledged = {"whole"}
        cancelled = 0
        for i in range(60):
            reading = asyncio.create_task(collection.asearch(QUERY, 100))
            task = asyncio.create_task(collection.aupsert([document(f"{i}")]))
            await asyncio.sleep(choose.random() * usual)
            if choose.random() < 0.5:
                reading.cancel()
            task.cancel()
            try:
                await task
                acknowledged.add(f"{i}")
            except asyncio.CancelledError:
                cancelled += 1
            await asyncio.wait((reading,))
            if i % 6 == 0:
                await collection.aupsert([document(f"{i}, whole")])
                acknowledged.add(f"{i}, whole")
                for reader in (other, collection):
                    hits = await reader.asearch(QUERY, 100)
                    assert acknowledged <= {hit.document.id for hit in hits}
        assert cancelled > 4
        await asyncio.sleep(LEASE)
        truth = {found.id for found in await collection.afind(limit=None)}
        assert acknowledged <= truth
        for reader in (other, collection):
            hits = await reader.asearch(QUERY, 200)
            assert {hit.document.id for hit in hits} == truth
        assert collection.stats()["from redis"] > 0
        assert (await collection.averify()).clean
    assert len(asyncio.all_tasks()) == 1
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


# --- Cluster -------------------------------------------------------------------------------------


def _home(cluster: RedisCluster3, user: User) -> int:
    """The node that has the collection."""
    slot = int(key_slot(user.tiers.keys.collection("c").meta))
    for first, last, primary, *_ in _words(cluster.nodes[0], "CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return next(i for i, node in enumerate(cluster.nodes) if node.port == primary[1])
    raise AssertionError(slot)


def _words(server: RedisServer, *words: Any) -> Any:
    client: Any
    with contextlib.closing(server.client(decode_responses=True)) as client:
        return client.execute_command(*words)


@STYLES
def test_a_node_lost(redis_cluster: RedisCluster3, sqlite_url: str, style: str) -> None:
    with (
        User(redis_cluster.url, sqlite_url, style) as writer,
        User(redis_cluster.url, sqlite_url) as reader,
    ):
        writer.put("i0")
        for user in (reader, writer):
            user.check("i0")
            assert user.served("redis")
        home = _home(redis_cluster, writer)
        redis_cluster.kill(home)
        for i in range(1, 4):
            writer.put(f"i{i}")
            for user in (reader, writer):
                user.check(*ids(i + 1))
        redis_cluster.restart(home)
        writer.put("i4")
        for user in (reader, writer):
            user.check(*ids(5))
        for user in (reader, writer):
            user.resumed(10)
            user.check(*ids(5))
        assert reader.clean()


def test_a_slot_moves(redis_cluster: RedisCluster3, sqlite_url: str) -> None:
    with (
        User(redis_cluster.url, sqlite_url) as writer,
        User(redis_cluster.url, sqlite_url, "async") as reader,
    ):
        expected: list[str] = []

        def go_on() -> None:
            expected.append(f"i{len(expected)}")
            writer.put(expected[-1])
            for user in (reader, writer):
                user.check(*expected)

        go_on()
        slot = int(key_slot(writer.tiers.keys.collection("c").meta))
        nodes = redis_cluster.nodes
        source = nodes[_home(redis_cluster, writer)]
        target = next(node for node in nodes if node is not source)
        for here, there in ((source, target), (target, source)):
            go_on()
            names = {node.port: _words(node, "CLUSTER", "MYID") for node in (here, there)}
            _words(there, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[here.port])
            _words(here, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[there.port])
            go_on()
            while found := _words(here, "CLUSTER", "GETKEYSINSLOT", slot, 3):
                place = ("127.0.0.1", there.port, "", 0, 5000, "REPLACE", "KEYS")
                _words(here, "MIGRATE", *place, *found)
                go_on()
            go_on()
            for node in (there, here, *nodes):
                _words(node, "CLUSTER", "SETSLOT", slot, "NODE", names[there.port])
            go_on()
        redis_cluster.wait_ok()
        for user in (reader, writer):
            user.resumed(10)
            user.check(*expected)
        assert writer.clean()
