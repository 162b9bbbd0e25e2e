"""A session while one of its tiers fails: nothing acknowledged is lost, no window is stale."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis
from redis.crc import key_slot
from sqlalchemy import make_url

from redis_tiered.errors import TierError
from redis_tiered.sessions import queued_log
from redis_tiered.sessions.session import Session
from redis_tiered.tiers.tiers import Tiers
from tests.faults.session_worker import SessionWorker, message
from tests.faults.traffic import Loop, timed
from tests.faults.worker import run_script
from tests.servers import FaultProxy, PostgresServer, RedisCluster3, RedisServer, SentinelSet
from tests.waiting import wait_until

TIMEOUT = 0.5
# What a loaded machine may add to a bound.
SLACK = 1.0

STYLES = pytest.mark.parametrize("style", ["sync", "async"])


class Talk:
    """A session of a `Tiers` of its own, called blocking or in an event loop."""

    def __init__(
        self,
        redis: str,
        durable: str | None,
        style: str = "sync",
        *,
        id: str = "s",
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.tiers = Tiers(redis, durable, **(settings or {}))
        self.session = Session(self.tiers, id, token_counter="approximate", **options)
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

    def say(self, *ids: str) -> None:
        said = [message(id_) for id_ in ids]
        if self.loop is None:
            self.session.append(said)
        else:
            self.loop.run(self.session.aappend(said))

    def read(self) -> tuple[list[str], str]:
        """The ids of the whole session, and the tier they are from."""
        if self.loop is None:
            window = self.session.window()
        else:
            window = self.loop.run(self.session.awindow())
        return [item.message.id for item in window.messages], window.tier

    def ids(self) -> list[str]:
        return self.read()[0]

    def log(self) -> list[str]:
        return [item.message.id for item in self.session.log()]

    def resumed(self, timeout: float = 4.0) -> list[str]:
        """Read until Redis answers."""
        found: list[list[str]] = []

        def served() -> bool:
            ids, tier = self.read()
            found.append(ids)
            return tier == "redis"

        wait_until(served, timeout, "a window from Redis")
        assert all(ids == found[0] for ids in found)
        return found[0]

    @property
    def errors(self) -> dict[str, int]:
        return dict(self.tiers.guards.errors)


@pytest.fixture
def client(valkey: RedisServer) -> Iterator[redis.Redis]:
    """By hand; the server accepts writes again at the end."""
    with contextlib.closing(valkey.client()) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.replicaof("NO", "ONE")


@pytest.fixture
def proxy(valkey: RedisServer) -> Iterator[FaultProxy]:
    assert valkey.port
    with FaultProxy("127.0.0.1", valkey.port) as proxy:
        yield proxy


# --- through: Redis refuses ----------------------------------------------------------------------


@STYLES
@pytest.mark.parametrize("fault", ["oom", "readonly"])
def test_redis_refuses_writes(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str, fault: str, style: str
) -> None:
    with (
        Talk(valkey.url, sqlite_url, style) as writer,
        Talk(valkey.url, sqlite_url) as reader,
        Talk(valkey.url, sqlite_url, id="other") as other,
    ):
        writer.say("1", "2")
        other.say("0")
        assert reader.resumed() == writer.resumed() == ["1", "2"]
        assert other.resumed() == ["0"]
        if fault == "oom":
            client.config_set("maxmemory", 1)
        else:
            client.replicaof("127.0.0.1", "1")  # nobody listens there: it keeps its data
        for i in range(3, 9):
            writer.say(str(i))
            assert reader.ids()[-1] == str(i)
            assert writer.ids()[-1] == str(i)
        assert other.ids() == ["0"]
        if fault == "oom":
            client.config_set("maxmemory", 0)
        else:
            client.replicaof("NO", "ONE")
        assert reader.resumed() == writer.resumed() == [str(i) for i in range(1, 9)]
        writer.say("9")
        assert reader.ids()[-1] == "9"


@STYLES
def test_snapshots_fail(tmp_path: Path, sqlite_url: str, style: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with (
        RedisServer(
            directory=tmp_path / "redis", extra=("--enable-protected-configs", "yes")
        ) as server,
        contextlib.closing(server.client()) as client,
        Talk(server.url, sqlite_url, style) as writer,
        Talk(server.url, sqlite_url) as reader,
    ):
        writer.say("1")
        assert reader.resumed() == ["1"]
        client.config_set("dir", str(gone))
        client.config_set("save", "3600 1")
        shutil.rmtree(gone)
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        for i in range(2, 6):
            writer.say(str(i))
            assert reader.ids()[-1] == writer.ids()[-1] == str(i)
        assert writer.errors.get("redis.misconf"), writer.errors
        client.config_set("save", "")
        assert writer.resumed() == reader.resumed() == ["1", "2", "3", "4", "5"]


def test_redis_refuses_what_is_accepted_behind(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str
) -> None:
    with (
        Talk(valkey.url, sqlite_url, durability="behind") as writer,
        Talk(valkey.url, sqlite_url, durability="behind") as reader,
    ):
        writer.say("1")
        assert reader.ids() == ["1"]
        client.config_set("maxmemory", 1)
        said = ["1"]
        for i in range(2, 6):
            with contextlib.suppress(TierError):  # what waits comes first
                writer.say(str(i))
                said.append(str(i))
        client.config_set("maxmemory", 0)
        writer.say("6")
        found = reader.ids()
        assert [id_ for id_ in found if id_ in said] == said
        assert found[-1] == "6"
        assert writer.log() == reader.log() == found


# --- through: Redis away -------------------------------------------------------------------------


@STYLES
def test_paused(valkey: RedisServer, sqlite_url: str, style: str) -> None:
    with (
        Talk(valkey.url, sqlite_url, style) as writer,
        Talk(valkey.url, sqlite_url) as reader,
        SessionWorker(valkey.url, sqlite_url, "s") as other,
    ):
        writer.say("1")
        for talk in (writer, reader):
            assert talk.resumed() == ["1"]
        wait_until(lambda: other.do("window") == [["1"], "redis"])
        valkey.pause()
        try:
            assert timed(lambda: writer.say("2")) < TIMEOUT + 0.3 + SLACK
            assert timed(lambda: writer.say("3")) < SLACK
            assert writer.ids() == ["1", "2", "3"]
            assert timed(lambda: reader.ids()) < TIMEOUT + SLACK
            assert reader.ids() == ["1", "2", "3"]
        finally:
            valkey.resume()
        # This one has noticed nothing.
        assert other.do("window")[0] == ["1", "2", "3"]
        assert reader.resumed() == writer.resumed() == ["1", "2", "3"]
        writer.say("4")
        assert other.do("window")[0] == reader.ids() == ["1", "2", "3", "4"]


def test_a_stale_window_is_not_read_after_any_of_many_pauses(
    valkey: RedisServer, sqlite_url: str
) -> None:
    """Who paused nothing reads at once when the server goes on; who appended was told to wait."""
    with (
        SessionWorker(valkey.url, sqlite_url, "s", settings={"redis_timeout": 0.1}) as writer,
        Talk(valkey.url, sqlite_url) as reader,
    ):
        for i in range(6):
            writer.do("append", f"{i}")
            reader.resumed()
            valkey.pause()
            try:
                writer.send("append", f"{i} and a half")
                assert writer.receive() == [f"{i} and a half"]
            finally:
                valkey.resume()
            assert reader.ids()[-2:] == [f"{i}", f"{i} and a half"]


@pytest.mark.parametrize("saved", ["aof", "rdb", "nothing"])
def test_killed_and_back_with_old_data(tmp_path: Path, sqlite_url: str, saved: str) -> None:
    with (
        RedisServer(
            directory=tmp_path / "redis",
            aof=saved == "aof",
            extra=("--dbfilename", "dump.rdb") if saved == "rdb" else (),
        ) as server,
        Talk(server.url, sqlite_url) as writer,
        Talk(server.url, sqlite_url) as idle,
        SessionWorker(server.url, sqlite_url, "s") as other,
    ):
        number = 0
        for _ in range(3):
            writer.say(f"{number}")
            writer.resumed()
            idle.resumed()
            if saved == "rdb":
                with contextlib.closing(server.client()) as client:
                    client.save()
            writer.say(f"{number + 1}")
            server.kill()
            server.start()
            expected = [str(i) for i in range(number + 2)]
            assert idle.ids() == expected
            assert other.do("window")[0] == expected
            assert writer.ids() == expected
            with Talk(server.url, sqlite_url) as newcomer:
                assert newcomer.ids() == expected
            number += 2


@STYLES
def test_flushed(valkey: RedisServer, client: redis.Redis, sqlite_url: str, style: str) -> None:
    with Talk(valkey.url, sqlite_url, style) as writer, Talk(valkey.url, sqlite_url) as reader:
        for i in range(10):
            writer.say(str(i))
            assert reader.ids()[-1] == str(i)
            client.flushall()
            assert reader.ids() == writer.ids() == [str(j) for j in range(i + 1)]
        assert writer.errors == reader.errors == {}


@STYLES
def test_connections_cut(proxy: FaultProxy, sqlite_url: str, style: str) -> None:
    # A machine may be too busy to answer within the usual half second: that is not what is tested.
    with Talk(proxy.url, sqlite_url, style, settings={"redis_timeout": 5.0}) as talk:
        for i in range(10):
            proxy.cut()
            talk.say(str(i))
            proxy.cut()
            assert talk.ids() == [str(j) for j in range(i + 1)]
        assert talk.errors == {}


@pytest.mark.parametrize("durability", ["through", "behind"])
@pytest.mark.parametrize("fault", ["refuse", "blackhole"])
def test_only_one_process_is_cut_off_from_redis(
    valkey: RedisServer, proxy: FaultProxy, sqlite_url: str, durability: str, fault: str
) -> None:
    """What it appends is seen at once by those who still reach Redis."""
    settings = {"redis_timeout": 0.2}
    with (
        Talk(proxy.url, sqlite_url, durability=durability, settings=settings) as cut_off,
        Talk(valkey.url, sqlite_url, durability=durability) as other,
        SessionWorker(valkey.url, sqlite_url, "s", durability=durability) as third,
    ):
        cut_off.say("0")
        assert other.resumed() == ["0"]
        cut_off.tiers.sessions.drain()
        if fault == "refuse":
            proxy.refuse()
            proxy.cut()
        else:
            proxy.blackhole()
        expected = ["0"]
        for i in range(1, 7):  # longer than its breaker ever waits
            author = f"{i} by who is cut off"
            wait_until(other.ids)
            cut_off.say(author)
            expected.append(author)
            assert other.ids() == expected
            assert third.do("window")[0] == expected
            other.say(f"{i}")
            expected.append(f"{i}")
            assert third.do("window")[0] == expected
            if durability == "through":  # else it waits in a Redis that is not reached
                assert cut_off.ids() == expected
            else:
                other.tiers.sessions.drain()
        proxy.heal()
        assert cut_off.resumed() == other.resumed() == expected


def test_one_of_many_is_cut_off_while_all_write(
    valkey: RedisServer, proxy: FaultProxy, postgres_url: str
) -> None:
    """Ending an epoch, which those who append hold, does not wait for ever."""
    stop = threading.Event()
    failures: list[BaseException] = []
    with Tiers(valkey.url, postgres_url) as tiers, Talk(proxy.url, postgres_url) as cut_off:

        def write(writer: int) -> None:
            session = Session(tiers, f"other {writer}", token_counter="approximate")
            number = 0
            try:
                while not stop.is_set():
                    session.append([message(f"{number}")])
                    assert session.window(max_messages=1).messages[-1].message.id == f"{number}"
                    number += 1
            except BaseException as error:
                failures.append(error)

        cut_off.say("0")
        writers = [threading.Thread(target=write, args=(i,)) for i in range(6)]
        for writer in writers:
            writer.start()
        proxy.refuse()
        proxy.cut()
        try:
            reader = Session(tiers, "s", token_counter="approximate")
            for i in range(1, 6):
                took = timed(lambda i=i: cut_off.say(str(i)))  # type: ignore[misc]
                assert took < 2
                assert reader.window(max_messages=1).messages[-1].message.id == str(i)
        finally:
            stop.set()
            for writer in writers:
                writer.join(20)
    assert failures == []


# --- Sentinel and Cluster ------------------------------------------------------------------------


@STYLES
def test_failover(redis_sentinel: SentinelSet, sqlite_url: str, style: str) -> None:
    with (
        Talk(redis_sentinel.url, sqlite_url, style) as writer,
        Talk(redis_sentinel.url, sqlite_url) as reader,
    ):
        writer.say("0")
        assert reader.resumed() == ["0"]
        redis_sentinel.kill_primary()
        expected = ["0"]
        failing = threading.Thread(target=redis_sentinel.wait_failover)
        failing.start()
        while failing.is_alive():
            expected.append(str(len(expected)))
            writer.say(expected[-1])
            assert reader.ids() == writer.ids() == expected
        failing.join()
        assert reader.resumed() == writer.resumed() == expected
        writer.say("last")
        assert reader.ids() == [*expected, "last"]


def test_the_old_primary_comes_back(redis_sentinel: SentinelSet, sqlite_url: str) -> None:
    """It was paused, another was promoted; who is still connected to it reads nothing stale."""
    old = redis_sentinel.primary()
    with (
        SessionWorker(redis_sentinel.url, sqlite_url, "s") as late,
        Talk(redis_sentinel.url, sqlite_url) as writer,
    ):
        writer.say("0")
        wait_until(lambda: late.do("window") == [["0"], "redis"])
        redis_sentinel._killed = old
        old.pause()
        try:
            redis_sentinel.wait_failover()
            assert writer.resumed() == ["0"]
        finally:
            old.resume()
        expected = ["0"]
        tiers = set()
        for i in range(1, 60):
            ids, tier = late.do("window", None)
            tiers.add(tier)
            assert ids == expected
            writer.say(str(i))
            expected.append(str(i))
            assert late.do("window")[0] == expected
            assert writer.ids() == expected
        assert writer.resumed() == expected


@STYLES
def test_a_node_lost(redis_cluster: RedisCluster3, sqlite_url: str, style: str) -> None:
    ids = [f"s{i}" for i in range(6)]
    assert len({int(key_slot(id_.encode())) * 3 // 16384 for id_ in ids}) > 1
    with contextlib.ExitStack() as stack:
        writers = {
            id_: stack.enter_context(Talk(redis_cluster.url, sqlite_url, style, id=id_))
            for id_ in ids[:3]
        }
        readers = {
            id_: stack.enter_context(Talk(redis_cluster.url, sqlite_url, id=id_)) for id_ in writers
        }
        expected = {id_: ["0"] for id_ in writers}

        def go_on() -> None:
            for id_, writer in writers.items():
                expected[id_].append(str(len(expected[id_])))
                writer.say(expected[id_][-1])
                assert readers[id_].ids() == writer.ids() == expected[id_]

        for id_, writer in writers.items():
            writer.say("0")
            assert readers[id_].resumed() == ["0"]
        for node in range(2 if style == "sync" else 1):
            redis_cluster.kill(node)
            for _ in range(3):
                go_on()
            redis_cluster.restart(node)
            go_on()
        for id_ in writers:
            assert readers[id_].resumed() == writers[id_].resumed() == expected[id_]


def _call(server: RedisServer, *words: Any) -> Any:
    client: Any
    with contextlib.closing(server.client(decode_responses=True)) as client:
        return client.execute_command(*words)


@pytest.mark.parametrize("durability", ["through", "behind", "none"])
def test_a_slot_moves(redis_cluster: RedisCluster3, sqlite_url: str, durability: str) -> None:
    with (
        Talk(redis_cluster.url, sqlite_url, durability=durability) as writer,
        Talk(redis_cluster.url, sqlite_url, "async", durability=durability) as reader,
    ):
        expected = ["0"]

        def go_on() -> None:
            expected.append(str(len(expected)))
            writer.say(expected[-1])
            assert reader.ids() == writer.ids() == expected

        writer.say("0")
        keys = writer.session._keys
        window = keys.window("any", queued=durability == "behind")[0]
        slot = int(key_slot(window))
        nodes = redis_cluster.nodes
        slots = _call(nodes[0], "CLUSTER", "SLOTS")
        port = next(primary[1] for first, last, primary, *_ in slots if first <= slot <= last)
        source = next(node for node in nodes if node.port == port)
        target = next(node for node in nodes if node is not source)
        for here, there in ((source, target), (target, source)):
            go_on()
            names = {node.port: _call(node, "CLUSTER", "MYID") for node in (here, there)}
            _call(there, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[here.port])
            _call(here, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[there.port])
            if durability == "through":
                go_on()
            while found := _call(here, "CLUSTER", "GETKEYSINSLOT", slot, 100):
                place = ("127.0.0.1", there.port, "", 0, 5000, "REPLACE", "KEYS")
                _call(here, "MIGRATE", *place, *found)
            go_on()
            for node in (there, here, *nodes):
                _call(node, "CLUSTER", "SETSLOT", slot, "NODE", names[there.port])
            go_on()
        redis_cluster.wait_ok()


# --- the durable tier away -----------------------------------------------------------------------


@STYLES
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_durable_tier_is_down(
    valkey: RedisServer, postgres: PostgresServer, postgres_url: str, style: str, how: str
) -> None:
    with (
        Talk(valkey.url, postgres_url, style) as writer,
        Talk(valkey.url, postgres_url) as reader,
    ):
        writer.say("1")
        assert reader.resumed() == writer.resumed() == ["1"]
        getattr(postgres, how)()
        try:
            for _ in range(5):
                with pytest.raises(TierError) as caught:
                    writer.say("refused")
                assert caught.value.tier == "durable"
                assert reader.read() == writer.read() == (["1"], "redis")
            with Talk(valkey.url, postgres_url) as newcomer, pytest.raises(TierError) as caught:
                newcomer.ids()
            assert caught.value.tier == "durable"
        finally:
            postgres.start()
        wait_until(lambda: _said(writer, "2"), 5, "an append to be accepted")
        assert reader.ids() == writer.ids() == ["1", "2"]
        assert reader.resumed() == writer.resumed() == ["1", "2"]


def _said(talk: Talk, id: str) -> bool:
    try:
        talk.say(id)
    except TierError:
        return False
    return True


@STYLES
@pytest.mark.parametrize("durability", ["through", "behind"])
def test_both_tiers_are_down(
    valkey: RedisServer, postgres: PostgresServer, postgres_url: str, style: str, durability: str
) -> None:
    with Talk(valkey.url, postgres_url, style, durability=durability) as talk:
        talk.say("1")
        assert talk.ids() == ["1"]
        valkey.kill()
        postgres.kill()
        try:
            for i in range(10):
                for action in (lambda: talk.say("refused"), talk.ids):
                    with pytest.raises(TierError):
                        action()
                if i:
                    assert timed(lambda: _said(talk, "refused")) < SLACK
        finally:
            postgres.start()
            valkey.start()
        wait_until(lambda: _said(talk, "2"), 5, "an append to be accepted")
        assert [id_ for id_ in talk.ids() if id_ != "refused"] == ["1", "2"]
        assert talk.resumed() == talk.log()


# --- behind --------------------------------------------------------------------------------------


def _waiting(client: redis.Redis) -> int:
    """Entries of all queues."""
    return sum(client.xlen(key) for key in client.scan_iter("*:queue"))


@pytest.mark.parametrize("moment", ["taken", "written", "set aside"])
def test_a_drainer_that_dies_is_followed(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str, moment: str
) -> None:
    said = [str(i) for i in range(300)]
    with (
        SessionWorker(valkey.url, sqlite_url, "s", durability="behind") as drainer,
        Talk(valkey.url, sqlite_url, durability="behind") as survivor,
    ):
        drainer.do("shorten_leases")
        if moment == "taken":
            drainer.do("die_when_sending", "XDEL")  # written, not yet acknowledged
        elif moment == "written":
            drainer.do("die_when_written")
        else:
            drainer.do("die_when_sending", "XREADGROUP")
        acknowledged = 0
        with contextlib.suppress(EOFError):
            for i in range(0, 300, 3):
                assert drainer.do("append", *said[i : i + 3]) == said[i : i + 3]
                acknowledged = i + 3
            drainer.do("drain")
        assert drainer.wait() == -9
        assert _waiting(client) > 0
        assert survivor.ids()[:acknowledged] == said[:acknowledged]
        survivor.say("after")
        assert survivor.tiers.sessions.drain() >= 0
        log = survivor.log()
        assert log[:acknowledged] == said[:acknowledged]
        assert log[-1] == "after"
        assert log == survivor.ids() == [*said[: len(log) - 1], "after"]
        assert _waiting(client) == 0


@STYLES
def test_accepted_while_postgres_is_down(
    valkey: RedisServer,
    client: redis.Redis,
    postgres: PostgresServer,
    postgres_url: str,
    style: str,
) -> None:
    with (
        Talk(valkey.url, postgres_url, style, durability="behind") as writer,
        Talk(valkey.url, postgres_url, durability="behind") as reader,
    ):
        writer.say("0")
        assert reader.resumed() == writer.resumed() == ["0"]
        postgres.kill()
        try:
            for i in range(1, 50):
                writer.say(str(i))
            expected = [str(i) for i in range(50)]
            assert writer.read() == reader.read() == (expected, "redis")
            assert _waiting(client) >= 49
        finally:
            postgres.start()
        # Nobody calls: the one who accepted them drains them.
        wait_until(lambda: _waiting(client) == 0, 6, "the queue to be drained")
        assert reader.log() == reader.ids() == expected


@pytest.mark.parametrize("durable", ["sqlite", "postgres"])
def test_what_cannot_be_written_is_set_aside(
    request: pytest.FixtureRequest, valkey: RedisServer, client: redis.Redis, durable: str
) -> None:
    url: str = request.getfixturevalue(f"{durable}_url")
    with Talk(valkey.url, url, durability="behind") as talk:
        talk.say("0")
        assert talk.ids() == ["0"]
        if durable == "sqlite":
            with contextlib.closing(sqlite3.connect(str(make_url(url).database))) as connection:
                connection.execute(
                    "CREATE TRIGGER no_poison BEFORE INSERT ON redis_tiered_message "
                    "WHEN NEW.folded = 'poison' BEGIN SELECT RAISE(ABORT, 'no'); END"
                )
        else:
            postgres: PostgresServer = request.getfixturevalue("postgres")
            with postgres.connect(url) as connection:
                connection.execute(
                    "ALTER TABLE redis_tiered_message ADD CHECK (folded <> 'poison')"
                )
        queue = talk.session._keys.queue(talk.session._keys.shard)[0]
        whole = message("whole")
        item = talk.session._draft(whole, "message").record(-1).item()
        garbage: list[dict[Any, Any]] = [
            {b"\xff": b"\x00"},
            {b"s": b"s"},
            {b"s": b"s", b"m": b""},
            {b"s": b"s", b"m": b"garbage"},
            {b"s": b"\xff", b"m": item},
            {b"s": b"s", b"x": item},
            {b"s": b"s", b"m": item[:-1]},
            # Tokens beyond what a database can hold.
            {b"s": b"s", b"m": item[:8] + b"\xff" * 8 + item[16:]},
            {b"s": b"no\x00name", b"m": item},
        ]
        talk.session.append([message("before")])
        for fields in garbage:
            client.xadd(queue, fields)
        talk.session.append([message("poisoned", "poison")])
        talk.session.append([message("after")])
        talk.tiers.sessions.drain()
        assert _waiting(client) == 0
        log = [id_ for id_ in talk.log() if id_ != "whole"]
        assert log == ["0", "before", "after"]
        rejected = talk.tiers.sessions.rejected()
        refused = [each for each in rejected if each.message and each.session == "s"]
        assert "poisoned" in [each.message.message.id for each in refused if each.message]
        # An entry without messages is no harm; SQLite takes a NUL.
        assert len(rejected) == len(garbage) + 1 - (1 if durable == "postgres" else 2)
        assert all(each.reason for each in rejected)
        wait_until(lambda: [id_ for id_ in talk.ids() if id_ != "whole"] == log)


def test_a_full_queue_refuses(
    valkey: RedisServer,
    client: redis.Redis,
    postgres: PostgresServer,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queued_log, "_LONGEST", 20)
    with Talk(valkey.url, postgres_url, durability="behind") as talk:
        talk.say("0")
        assert talk.resumed() == ["0"]
        postgres.kill()
        accepted = ["0"]
        try:
            for i in range(1, 41):
                if i > 20:
                    with pytest.raises(TierError, match="durable tier: queue: 20 appends wait"):
                        talk.say(str(i))
                elif _said(talk, str(i)):
                    accepted.append(str(i))
            assert 20 <= len(accepted) <= 21
            assert talk.ids() == accepted
        finally:
            postgres.start()
        wait_until(lambda: _waiting(client) == 0, 6, "the queue to be drained")
        talk.say("more")
        assert talk.log() == talk.ids() == [*accepted, "more"]


def test_closing_writes_what_waits(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str
) -> None:
    with Talk(valkey.url, sqlite_url, durability="behind") as talk:
        talk.say("1", "2")
        talk.session.close()
        assert _waiting(client) == 0
        talk.say("3")
    assert _waiting(client) == 0
    with Talk(valkey.url, sqlite_url, durability="behind") as other:
        assert other.log() == ["1", "2", "3"]


_BEHIND = """
import sys
from redis_tiered import Message, Tiers

tiers = Tiers(*sys.argv[1:3])
session = tiers.session("s", durability="behind")
for i in range(20):
    session.append([Message("human", str(i), str(i))])
print("done")
"""


def test_a_process_that_ends_writes_what_waits(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str
) -> None:
    assert run_script(_BEHIND, valkey.url, sqlite_url) == "done\n"
    assert _waiting(client) == 0
    with Talk(valkey.url, sqlite_url, durability="behind") as talk:
        assert talk.log() == [str(i) for i in range(20)]


def test_a_process_that_is_killed_leaves_it_to_the_next(
    valkey: RedisServer, client: redis.Redis, sqlite_url: str
) -> None:
    with SessionWorker(valkey.url, sqlite_url, "s", durability="behind") as worker:
        worker.do("shorten_leases")
        worker.do("die_when_sending", "XREADGROUP")
        assert worker.do("append", "1", "2") == ["1", "2"]
        assert worker.wait() == -9
    assert _waiting(client) == 1
    with Talk(valkey.url, sqlite_url, durability="behind") as talk:
        assert talk.tiers.sessions.drain() == 2
        assert talk.log() == ["1", "2"]


# --- cancelled, forked, shared -------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["through", "behind", "none"])
@pytest.mark.parametrize("durable", ["sqlite", "postgres"])
async def test_cancelled_at_any_moment(
    request: pytest.FixtureRequest,
    valkey: RedisServer,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    durable: str,
    durability: Any,
) -> None:
    url: str = request.getfixturevalue(f"{durable}_url")
    choose = random.Random(7)
    async with Tiers(valkey.url, url) as tiers:
        session = Session(tiers, "s", token_counter="approximate", durability=durability)
        await session.aappend([message("0")])
        begin = time.monotonic()
        for _ in range(10):
            await session.aappend([message("0")])
            await session.awindow()
        usual = (time.monotonic() - begin) / 10
        acknowledged = ["0"]
        cancelled = 0
        for i in range(1, 81):
            # Some readers are cancelled as well; in the middle of draining, maybe.
            reading = asyncio.create_task(session.awindow())
            task = asyncio.create_task(session.aappend([message(f"{i}")]))
            await asyncio.sleep(choose.random() * usual)
            if choose.random() < 0.5:
                reading.cancel()
            task.cancel()
            try:
                await task
                acknowledged.append(f"{i}")
            except asyncio.CancelledError:
                cancelled += 1
            await asyncio.wait((reading,))
            if i % 10 == 0:
                await session.aappend([message(f"{i}, whole")])
                acknowledged.append(f"{i}, whole")
                shown = [item.message.id for item in (await session.awindow()).messages]
                assert [id_ for id_ in shown if id_ in acknowledged] == acknowledged
        assert cancelled > 4
        if durability == "behind":
            for _ in range(400):  # nobody asks for it
                if not _waiting(client):
                    break
                await asyncio.sleep(0.01)
            assert _waiting(client) == 0
        log = [item.message.id for item in await session.alog()]
        assert [id_ for id_ in log if id_ in acknowledged] == acknowledged
        assert len(set(log)) == len(log)
        shown = [item.message.id for item in (await session.awindow()).messages]
        assert shown == log
        assert (await session.awindow()).tier == "redis"
    assert len(asyncio.all_tasks()) == 1
    gc.collect()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    assert len(client.client_list()) <= 2


_FORK = """
import os, sys, threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from redis_tiered import Message, Tiers

redis, durable, durability = sys.argv[1:]
tiers = Tiers(redis, durable)
session = tiers.session("s", durability=durability)

def say(*ids):
    session.append([Message("human", id, id) for id in ids])

def ids(found):
    return [item.message.id for item in found]

say("parent 0")
assert ids(session.window().messages) == ["parent 0"]
to_child, to_parent = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    status = 1
    try:
        for i in range(30):
            say(f"child {i}")
        assert "parent 0" in ids(session.window().messages)
        os.write(to_parent[1], b"x")
        os.read(to_child[0], 1)
        assert ids(session.window().messages)[-1] == "parent last"
        tiers.close()
        status = 0
    finally:
        if status:
            import traceback
            traceback.print_exc()
        os._exit(status)
for i in range(1, 30):
    say(f"parent {i}")
os.read(to_parent[0], 1)
assert "child 29" in ids(session.window().messages)
say("parent last")
os.write(to_child[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
log = ids(session.log())
assert len(log) == len(set(log)) == 61, len(log)
for who in "parent", "child":
    its = [int(id.split()[1]) for id in log if id.startswith(who) and "last" not in id]
    assert its == list(range(30)), its
assert ids(session.window().messages) == log
tiers.close()
print("done")
"""


@pytest.mark.parametrize("durability", ["through", "behind", "none"])
def test_fork(valkey: RedisServer, sqlite_url: str, durability: str) -> None:
    assert run_script(_FORK, valkey.url, sqlite_url, durability) == "done\n"


@pytest.mark.parametrize("durability", ["through", "behind"])
def test_fork_with_postgres(valkey: RedisServer, postgres_url: str, durability: str) -> None:
    assert run_script(_FORK, valkey.url, postgres_url, durability) == "done\n"


_FORK_IN_TRAFFIC = """
import os, sys, threading, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
# A child lets go of connections that the parent's other threads were using; they stay the parent's.
warnings.filterwarnings("ignore", "<psycopg.Connection object at", ResourceWarning)
from redis_tiered import Message, Tiers

redis, durable, durability = sys.argv[1:]
tiers = Tiers(redis, durable, durable_timeout=20)
session = tiers.session("s", durability=durability)
# Python leaves the lock of a module that another thread was importing locked in the child.
session.append([Message("human", "first", "first")])
stop = threading.Event()
failures = []
said = [0] * 3

def use(writer):
    try:
        while not stop.is_set():
            id = f"{writer}-{said[writer]}"
            session.append([Message("human", id, id)])
            said[writer] += 1
            time.sleep(0.01)
    except BaseException as error:
        failures.append(error)
        raise

threads = [threading.Thread(target=use, args=(i,), daemon=True) for i in range(3)]
for thread in threads:
    thread.start()
for child in range(8):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for i in range(5):
                session.append([Message("human", "c", f"child {child}-{i}")])
            session.window()
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
log = [item.message.id for item in session.log()]
assert len(log) == len(set(log)) == sum(said) + 41, (len(log), said)
tiers.close()
print("done")
"""


@pytest.mark.parametrize("durability", ["through", "behind"])
def test_fork_while_threads_append(valkey: RedisServer, postgres_url: str, durability: str) -> None:
    """No lock that another thread held is held in the child for ever."""
    assert run_script(_FORK_IN_TRAFFIC, valkey.url, postgres_url, durability) == "done\n"


@pytest.mark.parametrize("durability", ["through", "behind", "none"])
def test_ten_threads_and_two_loops_share_a_session(
    valkey: RedisServer, sqlite_url: str, durability: Any
) -> None:
    failures: list[BaseException] = []
    with Tiers(valkey.url, sqlite_url, redis_timeout=10, durable_timeout=10) as tiers:
        session = Session(tiers, "s", token_counter="approximate", durability=durability)

        def use(writer: int) -> None:
            try:
                for i in range(15):
                    session.append([message(f"{writer}-{i}")])
                    shown = [item.message.id for item in session.window().messages]
                    assert f"{writer}-{i}" in shown
            except BaseException as error:
                failures.append(error)

        async def tasks(writer: int) -> None:
            try:
                for i in range(15):
                    await session.aappend([message(f"{writer}-{i}")])
                    shown = [item.message.id for item in (await session.awindow()).messages]
                    assert f"{writer}-{i}" in shown
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=use, args=(i,)) for i in range(10)]
        threads += [
            threading.Thread(target=lambda i=i: asyncio.run(tasks(i)))  # type: ignore[misc]
            for i in (10, 11)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        log = [item.message.id for item in session.log()]
        for writer in range(12):
            its = [id_ for id_ in log if id_.startswith(f"{writer}-")]
            assert its == [f"{writer}-{i}" for i in range(15)]
        assert len(log) == 12 * 15
        assert [item.message.id for item in session.window().messages] == log


_LOOPS = """
import asyncio, os, sys
import redis
from redis_tiered import Message, Tiers

url, durable, durability = sys.argv[1:]
tiers = Tiers(url, durable or None)
session = tiers.session("s", durability=durability)

async def main(i):
    await session.aappend([Message("human", str(i), str(i))])
    window = await session.awindow()
    assert [item.message.id for item in window.messages] == [str(j) for j in range(i + 1)]

for i in range(25):
    asyncio.run(main(i))
with redis.Redis.from_url(url) as client:
    clients = len(client.client_list())
    assert clients <= 6, clients
tiers.close()
print("done")
"""


@pytest.mark.parametrize("durability", ["through", "behind", "none"])
def test_many_short_loops(tmp_path: Path, sqlite_url: str, durability: str) -> None:
    with RedisServer(directory=tmp_path / "redis") as server:
        url = "" if durability == "none" else sqlite_url
        assert run_script(_LOOPS, server.url, url, durability) == "done\n"
        with contextlib.closing(server.client()) as client:
            wait_until(lambda: len(client.client_list()) == 1, 3, "the server to have no clients")


_CYCLES = """
import asyncio, os, sys, threading, time
from redis_tiered import Message, Tiers

redis, durable, style, durability = sys.argv[1:]

def use():
    tiers = Tiers(redis, durable)
    session = tiers.session("s", durability=durability)
    if style == "sync":
        session.append([Message("human", "q")])
        session.window()
        tiers.close()
    else:
        async def main():
            async with tiers:
                await session.aappend([Message("human", "q")])
                await session.awindow()
        asyncio.run(main())

def open_files():
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

def settled(limit=None):
    deadline = time.monotonic() + 10
    while True:
        now = (threading.active_count(), open_files())
        if now[0] == 1 and (limit is None or now[1] <= limit):
            return now
        assert time.monotonic() < deadline, (now, limit, threading.enumerate())
        time.sleep(0.02)

for _ in range(3):
    use()
threads, files = settled()
for _ in range(5):
    use()
settled(files)
print("done")
"""


@STYLES
@pytest.mark.parametrize("durability", ["through", "behind"])
def test_nothing_is_left_behind(
    tmp_path: Path, sqlite_url: str, style: str, durability: str
) -> None:
    with RedisServer(directory=tmp_path / "redis") as server:
        assert run_script(_CYCLES, server.url, sqlite_url, style, durability) == "done\n"
        with contextlib.closing(server.client()) as client:
            wait_until(lambda: len(client.client_list()) == 1, 3, "the server to have no clients")
