"""Many processes write one session while the servers are killed: everything once, nothing stale."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redis_tiered.sessions.session import Session
from redis_tiered.tiers.tiers import Tiers
from tests.faults.session_worker import (
    Acknowledged,
    SessionWorker,
    check_log,
    check_readings,
)
from tests.servers import PostgresServer, RedisServer
from tests.waiting import wait_until

STYLES = ("sync", "sync", "sync", "async")
READ_STYLES = ("sync", "async")
pytestmark = pytest.mark.timeout(300)


class _Company:
    """Writers and readers of one session, each a process of its own.

    Args:
        redis, durable: URLs of the tiers.
        options: of the session.
        writers, each: how many processes append how many messages.
        readers: how many processes read meanwhile.
    """

    def __init__(
        self,
        path: Path,
        redis: str,
        durable: str | None,
        *,
        writers: int,
        each: int,
        readers: int,
        durability: str,
        pause: float = 0.05,
    ) -> None:
        self.acknowledged = Acknowledged(path, writers)
        self.each = each
        self._tiers = redis, durable
        self._options: dict[str, Any] = {"durability": durability, "window": 100}
        self.refused: Counter[str] = Counter()
        self._pause = pause
        self._stack = contextlib.ExitStack()
        self.writers = [self._worker() for _ in range(writers)]
        self.readers = [self._worker() for _ in range(readers)]

    def __enter__(self) -> _Company:
        for worker in (*self.writers, *self.readers):
            self._stack.enter_context(worker)
        self._began = time.monotonic()
        for number in range(len(self.writers)):
            self._write(number)
        for number, reader in enumerate(self.readers):
            reader.send(
                "read", str(self.acknowledged.path), READ_STYLES[number % 2], 120, self._pause
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def done(self) -> int:
        """Messages that were acknowledged."""
        return sum(self.acknowledged.all())

    @property
    def total(self) -> int:
        return len(self.writers) * self.each

    def wait(self, share: float) -> None:
        """Wait until that share of all messages is acknowledged."""
        wait_until(lambda: self.done >= share * self.total, 200, f"{share} of the messages")

    def more(self, messages: int) -> None:
        """Wait until so many further messages are acknowledged."""
        goal = min(self.total, self.done + messages)
        wait_until(lambda: self.done >= goal, 60, f"{messages} messages more")

    def kill_writer(self, number: int) -> None:
        """SIGKILL; another process goes on with the first message that was not acknowledged."""
        self.writers[number].kill()
        self.writers[number] = self._stack.enter_context(self._worker())
        self._write(number)

    def finish(self, *, fresh: bool = True) -> None:
        """Wait for the end and check everything: the log, and what the readers saw of it.

        Args:
            fresh: whether every window must hold all that was acknowledged before.
        """
        written = [writer.receive() for writer in self.writers]
        assert self.acknowledged.all() == [self.each] * len(self.writers)
        self.acknowledged.finish()
        self.read = [reader.receive() for reader in self.readers]
        took = time.monotonic() - self._began
        with Tiers(*self._tiers) as tiers:
            log = Session(tiers, "s", **self._options).log()
            aside = tiers.sessions.rejected()
        assert aside == ()
        places = check_log(log, len(self.writers), self.each)
        for reading in self.read:
            if fresh:
                # Behind, one that Redis did not answer for is written at once, before others that
                # wait and were shown already.
                contiguous = self._options["durability"] != "behind"
                check_readings(reading, places, contiguous=contiguous)
        for each in written:
            self.refused.update(each["failures"])
        slowest = max(each["slowest"] for each in written)
        print(  # for pytest -s
            f"\n{len(log)} messages, {sum(len(r['windows']) for r in self.read)} windows checked "
            f"{[r['counts'] for r in self.read]}, refused {dict(self.refused)}, "
            f"slowest append {slowest:.2f} s, {took:.1f} s"
        )

    def _worker(self) -> SessionWorker:
        redis, durable = self._tiers
        return SessionWorker(redis, durable, "s", **self._options)

    def _write(self, number: int) -> None:
        words = (number, self.each, str(self.acknowledged.path), STYLES[number % 4])
        self.writers[number].send("write", *words)


@pytest.fixture
def server(tmp_path: Path, server_directory: Path) -> Iterator[Callable[..., RedisServer]]:
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> RedisServer:
            return stack.enter_context(RedisServer(directory=tmp_path / "redis", **options))

        yield start


def _saved(redis: RedisServer) -> None:
    with contextlib.closing(redis.client()) as client:
        client.save()


def test_eight_writers_while_redis_and_postgres_are_killed(
    tmp_path: Path,
    server: Callable[..., RedisServer],
    postgres: PostgresServer,
    postgres_url: str,
) -> None:
    """Redis comes back with what it had saved a while before: nobody takes that for the window."""
    redis = server(extra=("--dbfilename", "dump.rdb"))
    with _Company(
        tmp_path / "acknowledged",
        redis.url,
        postgres_url,
        writers=8,
        each=1000,
        readers=2,
        durability="through",
    ) as company:
        for kill in range(3):
            company.wait(0.1 + 0.25 * kill)
            _saved(redis)
            company.more(200)
            redis.kill()
            company.more(200)
            redis.start()
            if kill == 1:
                company.more(200)
                postgres.kill()
                postgres.start()
        company.finish()
        assert {"durable.reset", "durable.refused", "durable.loading"} & set(company.refused)
        for reading in company.read:
            assert reading["counts"]["redis"] > 0 < reading["counts"]["durable"]


@pytest.mark.parametrize("saved", ["aof", "rdb"])
def test_writers_of_sqlite_while_redis_is_killed(
    tmp_path: Path, server: Callable[..., RedisServer], sqlite_url: str, saved: str
) -> None:
    redis = server(aof=True) if saved == "aof" else server(extra=("--dbfilename", "dump.rdb"))
    with _Company(
        tmp_path / "acknowledged",
        redis.url,
        sqlite_url,
        writers=4,
        each=150,
        readers=2,
        durability="through",
    ) as company:
        for kill in range(3):
            company.wait(0.1 + 0.25 * kill)
            if saved == "rdb":
                _saved(redis)
                company.more(50)
            redis.kill()
            company.more(50)
            redis.start()
            company.more(50)
            company.kill_writer(kill)
        company.finish()


def test_writers_behind_while_they_and_postgres_are_killed(
    tmp_path: Path,
    server: Callable[..., RedisServer],
    postgres: PostgresServer,
    postgres_url: str,
) -> None:
    redis = server(aof=True, extra=("--appendfsync", "always"))
    with _Company(
        tmp_path / "acknowledged",
        redis.url,
        postgres_url,
        writers=4,
        each=150,
        readers=2,
        durability="behind",
    ) as company:
        for kill in range(3):
            company.wait(0.1 + 0.25 * kill)
            company.kill_writer(kill)  # maybe while it drains
            if kill == 1:
                postgres.kill()
                company.more(100)
                postgres.start()
            company.more(50)
        company.finish()


def test_writers_behind_while_redis_is_killed(
    tmp_path: Path, server: Callable[..., RedisServer], sqlite_url: str
) -> None:
    """Redis keeps what it acknowledged: so does the session. Meanwhile nobody sees what waits."""
    redis = server(aof=True, extra=("--appendfsync", "always"))
    with _Company(
        tmp_path / "acknowledged",
        redis.url,
        sqlite_url,
        writers=4,
        each=150,
        readers=2,
        durability="behind",
    ) as company:
        for kill in range(2):
            company.wait(0.2 + 0.3 * kill)
            redis.kill()
            redis.start()
        company.finish(fresh=False)


@pytest.mark.parametrize("durable", [True, False], ids=["sqlite", "no-durable"])
def test_writers_of_redis_alone_while_they_are_killed(
    tmp_path: Path, valkey: RedisServer, sqlite_url: str, durable: bool
) -> None:
    with _Company(
        tmp_path / "acknowledged",
        valkey.url,
        sqlite_url if durable else None,
        writers=4,
        each=150,
        readers=2,
        durability="none",
    ) as company:
        for kill in range(3):
            company.wait(0.1 + 0.25 * kill)
            company.kill_writer(kill)
        company.finish()
        assert company.refused == {}
