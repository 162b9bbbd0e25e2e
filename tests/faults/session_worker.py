"""Another process with the same sessions, told what to do: `python -m tests.faults.session_worker`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from redis_tiered.errors import TierError
from redis_tiered.flow import Sql
from redis_tiered.sessions import queued_log
from redis_tiered.sessions.message import Message, Stored
from redis_tiered.sessions.session import Session
from redis_tiered.tiers.durable import SyncDurable
from redis_tiered.tiers.tiers import Tiers
from tests.faults.worker import Worker

__all__ = ["Acknowledged", "Readings", "SessionWorker", "check_log", "check_readings", "message"]


def message(id: str, text: str = "") -> Message:
    return Message("human", text or f"text of {id}", id)


class Acknowledged:
    """How far each writer has come, in memory that processes share.

    A writer sets its number after `append` has returned; so what a reader finds here before it
    reads a window must be in that window, or older than all of it.
    """

    def __init__(self, path: Path, writers: int = 0) -> None:
        if writers:
            path.write_bytes(bytes(8 * (writers + 1)))
        self.path = path
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._numbers = memoryview(self._memory).cast("Q")

    def __getitem__(self, writer: int) -> int:
        return self._numbers[writer + 1]

    def __setitem__(self, writer: int, number: int) -> None:
        self._numbers[writer + 1] = number

    def all(self) -> list[int]:
        return self._numbers[1:].tolist()

    @property
    def finished(self) -> bool:
        """Whether the readers shall end."""
        return self._numbers[0] == 1

    def finish(self) -> None:
        self._numbers[0] = 1


class SessionWorker(Worker):
    """The process, seen from the test.

    Args:
        redis, durable: URLs of its tiers.
        session: id of its session.
        settings: of its `Tiers`.
        options: of its session.
    """

    MODULE = "tests.faults.session_worker"

    def __init__(
        self,
        redis: str,
        durable: str | None,
        session: str,
        *,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(redis, durable, session=session, settings=settings or {}, **options)


class Readings:
    """What one reader has seen of a log, and when.

    Attributes:
        follows: for each message, the one that was shown right after it.
        windows: for each window: what was acknowledged before it was asked for, its first and last
            message, and how many it has.
        problems: messages that were followed by one, then by another.
    """

    def __init__(self) -> None:
        self.follows: dict[str, str] = {}
        self.windows: list[tuple[list[int], str, str, int]] = []
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()

    def add(self, acknowledged: list[int], shown: tuple[Stored, ...], tier: str) -> None:
        self.counts[tier] += 1
        ids = [item.message.id for item in shown] or [""]
        for one, next_ in pairwise(ids):
            known = self.follows.setdefault(one, next_)
            if known != next_:
                self.problems.append(f"{tier}: {one} is followed by {next_}, was by {known}")
        self.windows.append((acknowledged, ids[0], ids[-1], len(shown)))


def check_log(log: tuple[Stored, ...], writers: int, each: int) -> dict[str, int]:
    """Every message once, in each writer's order; gives their places."""
    ids = [item.message.id for item in log]
    places = {id_: place for place, id_ in enumerate(ids)}
    assert len(places) == len(ids), "a message is there twice"
    assert all(one.sequence < next_.sequence for one, next_ in pairwise(log))
    for writer in range(writers):
        its = [int(id_.split("-")[1]) for id_ in ids if id_.startswith(f"{writer}-")]
        assert its == list(range(1, each + 1)), f"writer {writer}"
    assert len(ids) == writers * each
    return places


def check_readings(
    reading: dict[str, Any], places: dict[str, int], *, contiguous: bool = True
) -> None:
    """No window was older than what was acknowledged before it was asked for, or had a gap."""
    if contiguous:
        assert reading["problems"][:5] == []
        for one, next_ in reading["follows"].items():
            assert places[next_] == places[one] + 1, f"missing between {one} and {next_}"
    places = {**places, "": -1}
    for acknowledged, first, last, count in reading["windows"]:
        assert not contiguous or places[last] - places[first] == max(count - 1, 0)
        for writer, number in enumerate(acknowledged):
            if number:
                assert places[f"{writer}-{number}"] <= places[last], (writer, number, first, last)


class _Served:
    """The process, seen from inside."""

    def open(self, redis: str, durable: str | None, options: dict[str, Any]) -> bool:
        self._tiers = Tiers(redis, durable, **options.pop("settings"))
        self._session = Session(
            self._tiers, options.pop("session"), token_counter="approximate", **options
        )
        with contextlib.suppress(TierError):
            self._tiers.setup(timeout=0)
        return True

    def append(self, *ids: str) -> list[str] | str:
        """The ids; or what went wrong."""
        try:
            return list(self._session.append([message(id_) for id_ in ids]))
        except TierError as error:
            return f"{error.tier}.{error.kind}"

    def window(self, count: int | None = None) -> list[Any] | str:
        """The ids in it and the tier they are from; or what went wrong."""
        try:
            window = self._session.window(max_messages=count)
        except TierError as error:
            return f"{error.tier}.{error.kind}"
        return [[item.message.id for item in window.messages], window.tier]

    def log(self) -> list[str]:
        return [item.message.id for item in self._session.log()]

    def drain(self) -> int | str:
        try:
            return self._tiers.sessions.drain()
        except TierError as error:
            return f"{error.tier}.{error.kind}"

    def errors(self) -> dict[str, int]:
        return dict(self._tiers.guards.errors)

    def close(self) -> bool:
        self._session.close()
        return True

    def write(self, writer: int, each: int, path: str, style: str) -> dict[str, Any]:
        """Append `writer-1`, `writer-2`, ... from where it was left, each until acknowledged."""
        acknowledged = Acknowledged(Path(path))
        failures: Counter[str] = Counter()
        slowest = 0.0
        for number in range(acknowledged[writer] + 1, each + 1):
            begin = time.monotonic()
            draft = [message(f"{writer}-{number}")]
            while True:
                try:
                    if style == "sync":
                        self._session.append(draft)
                    else:
                        self._loop().run(self._session.aappend(draft))
                    break
                except TierError as error:
                    failures[f"{error.tier}.{error.kind}"] += 1
                    time.sleep(0.005)
            acknowledged[writer] = number
            slowest = max(slowest, time.monotonic() - begin)
        return {"failures": failures, "slowest": slowest}

    def read(self, path: str, style: str, largest: int, pause: float) -> dict[str, Any]:
        """Read windows of any size until the writers are done."""
        acknowledged = Acknowledged(Path(path))
        readings = Readings()
        choose = random.Random(os.getpid())
        while True:
            last = acknowledged.finished
            before = acknowledged.all()
            count = choose.randint(1, largest)
            try:
                if style == "sync":
                    window = self._session.window(max_messages=count)
                else:
                    window = self._loop().run(self._session.awindow(max_messages=count))
            except TierError as error:
                readings.counts[f"{error.tier}.{error.kind}"] += 1
                time.sleep(0.005)
            else:
                readings.add(before, window.messages, window.tier)
                if last:
                    return vars(readings)
            time.sleep(pause)

    def _loop(self) -> asyncio.Runner:
        if not hasattr(self, "_runner"):
            self._runner = asyncio.Runner()
        return self._runner

    def die_when_sending(self, word: str) -> bool:
        """SIGKILL ourselves instead of sending Redis a command, or script, with this word."""
        from redis_tiered.flow import Redis
        from redis_tiered.tiers.redis import SyncRedis

        inner = SyncRedis.execute

        def execute(self: SyncRedis, step: Redis, *, fresh: bool) -> list[Any]:
            if any(word in str(part) for command in step.commands for part in command):
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(self, step, fresh=fresh)

        SyncRedis.execute = execute  # type: ignore[method-assign]
        return True

    def shorten_leases(self) -> bool:
        """Who follows when we die need not wait long."""
        queued_log._LEASE_MS = 500  # type: ignore[misc]
        return True

    def die_when_written(self) -> bool:
        """SIGKILL ourselves once the durable tier has committed an append."""
        inner = SyncDurable.execute

        def execute(self: SyncDurable, step: Sql) -> Any:
            result = inner(self, step)
            if "append_all" in step.work.__qualname__:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        SyncDurable.execute = execute  # type: ignore[method-assign]
        return True

    def end(self) -> None:
        if hasattr(self, "_runner"):
            self._runner.run(self._tiers.aclose())
            self._runner.close()
        self._tiers.close()
        sys.exit()


def _serve() -> None:
    served = _Served()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        result = getattr(served, name)(*arguments)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _serve()
