"""Processes with maps over one Redis and one database, in one thread: every step can be made to fail.

Redis is a real one, so that its scripts are; what it tells the processes' memories is simulated, and
so are the clock, restarts and all failures. The database is a SQLite in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import redis
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.flow import Command, Driver, Flow, Guards, Redis, Sql, Step
from redis_tiered.keys import Keyspace
from redis_tiered.maps.map import Map, codec
from redis_tiered.maps.store import Store
from redis_tiered.tiers.memory import Memory
from redis_tiered.tiers.schema import items, migrate, scopes
from redis_tiered.tiers.tiers import Tiers
from tests.llm_cache.simulation import Clock, Fault, Running
from tests.servers import redis_options

__all__ = ["Link", "Process", "Register", "World"]


class Housekeeper:
    """Jobs that wait to be run by the test."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], float | None]] = []

    def submit(self, job: Callable[[], float | None], *, after: float = 0.0) -> None:
        self.jobs.append(job)

    def run(self) -> None:
        jobs, self.jobs = self.jobs, []
        self.jobs += [job for job in jobs if job() is not None]


class Process:
    """One process with its own L1 and breakers.

    Attributes:
        connected: whether it can reach Redis, and hears of invalidations.
        fault: what goes wrong at which of the steps that it performs from now on.
        on_fault: what goes wrong with it.
        steps: performed since the last reset to 0.
        log: all steps.
    """

    def __init__(self, world: World, *, ahead: float = 0.0, **options: Any) -> None:
        self.world = world
        self.connected = True
        self.fault: Fault | None = None
        self.on_fault: Callable[[], None] | None = None
        self.steps = 0
        self.log: list[Step] = []
        self.memory = Memory(1 << 20, 60.0, clock=world.clock)
        self.guards = Guards(clock=world.clock)
        self.housekeeper = Housekeeper()
        self.driver = Driver(self, self.guards)
        tiers = object.__new__(Tiers)
        tiers.keys = Keyspace("sim", "tenant")
        keys = tiers.keys.map("m")
        tiers._runtime = SimpleNamespace(  # type: ignore[assignment]
            memory=self.memory,
            guards=self.guards,
            housekeeper=self.housekeeper,
            durable=None if world.engine is None else object(),
            settings=SimpleNamespace(endpoint=SimpleNamespace(topology="single")),
            run=self.driver.run,
            on_fork=lambda listener: None,
            shared=lambda key, make: self.store,
        )
        self.store = Store(tiers, keys, now=lambda: world.clock() + ahead)
        self.map: Map[bytes] = Map(tiers, "m", codec("bytes"), **options)
        self.keys = keys
        world.connect(self)

    # The two clients.

    def redis(self, step: Redis, *, fresh: bool) -> list[Any]:
        return self._attempt(step, "redis", lambda: self.world.execute(step))  # type: ignore[no-any-return]

    def sql(self, step: Sql) -> Any:
        return self._attempt(step, "durable", lambda: self.world.commit(step))

    def _attempt(self, step: Redis | Sql, tier: str, action: Callable[[], Any]) -> Any:
        number, self.steps = self.steps, self.steps + 1
        self.log.append(step)
        fault = self.fault
        due = fault is not None and fault.due(number, step)
        if tier == "redis" and not self.connected:
            raise TierUnavailable("redis", "refused")
        if tier == "durable" and self.world.database_away:
            raise TierUnavailable("durable", "refused")
        if fault is None or not due:
            return action()
        if fault.kind.endswith("after"):
            action()
        if self.on_fault is not None:
            self.on_fault()
        fault.raise_it(tier)
        return None

    # What a test does with it.

    def get(self, name: str = "q") -> bytes | None:
        return self.map.get(name)

    def start(self, what: str, name: str = "q", value: bytes | None = None) -> Running:
        """A read, a put, a deletion or a clear, to be stepped."""
        flow: Flow[Any]
        if what == "get":
            flow = self.store.read([name.encode()])
        elif what == "put":
            flow = self.map.changing({name: value or b""})
        elif what == "delete":
            flow = self.map.changing(delete=[name])
        else:
            flow = self.store.clear()
        return Running(self, flow)  # type: ignore[arg-type]

    def cut(self) -> None:
        """It no longer reaches Redis, nor hears of invalidations."""
        self.connected = False
        self.world.disconnect(self)

    def recover(self) -> None:
        """Let what broke heal: breakers try again, what others were not told they are told."""
        if not self.connected:
            self.connected = True
            self.world.connect(self)
        for _ in range(3):
            self.world.clock.advance(1.0)
            with contextlib.suppress(TierError):
                self.map.get("nobody put this")
            self.housekeeper.run()

    def values(self, *names: str) -> list[bytes]:
        """The Redis keys of values under the epoch that Redis holds."""
        from redis_tiered.maps.item import digest_of

        [held] = self.world.call("GET", self.keys.epoch)
        return self.keys.values(held.decode(), [digest_of(name.encode()) for name in names])


_WRITES = {"SET": 1, "DEL": None, "UNLINK": None}


def _changed(command: Command) -> tuple[Any, ...]:
    """The keys that a command may write to."""
    if command[0] == "EVAL":
        return command[3 : 3 + int(command[2])]
    if command[0] not in _WRITES:
        return ()
    return command[1:2] if command[0] == "SET" else command[1:]


_engines: list[Engine] = []


def _database() -> Engine:
    if not _engines:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        with engine.begin() as connection:
            migrate(connection)
        _engines.append(engine)
    with _engines[0].begin() as connection:
        for table in (items, scopes):
            connection.execute(table.delete())
    return _engines[0]


class Link:
    """Connections to a Redis; a context manager."""

    def __init__(self, url: str) -> None:
        self._tiers = Tiers(url)
        self.client = redis.Redis.from_url(url, **redis_options())

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.config_set("maxmemory", 0)
        self.client.close()
        self._tiers._runtime._redis.close()
        self._tiers.close()

    def execute(self, step: Redis) -> list[Any]:
        return self._tiers._runtime._redis.execute(step, fresh=False)


class World:
    """The servers, the clock, and as many processes as a test starts.

    Attributes:
        delayed: what Redis tells the processes' memories waits until `deliver`.
        database_away: all SQL is refused.
        run_id: of the server; another one after a restart.
    """

    def __init__(self, link: Link, *, durable: bool = True) -> None:
        self.clock = Clock()
        self.engine = _database() if durable else None
        self.database_away = False
        self.delayed = False
        self.run_id = 1
        self._is_full = False
        self._link = link
        self.client = link.client
        self.client.flushall()
        self._queues: dict[Process, list[bytes]] = {}

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.full(False)

    def process(self, **options: Any) -> Process:
        return Process(self, **options)

    # Redis.

    def call(self, *words: Any) -> list[Any]:
        """One command by hand; everybody hears of it."""
        return self.execute(Redis((words,)))

    def execute(self, step: Redis) -> list[Any]:
        if step.commands[0][0] == "INFO":
            return [b"run_id:%d\r\n" % self.run_id]
        try:
            return self._link.execute(step)
        finally:
            for command in step.commands:
                for queue in self._queues.values():
                    queue += _changed(command)
            if not self.delayed:
                self.deliver()

    def deliver(self) -> None:
        for process, queue in self._queues.items():
            process.memory.invalidate(tuple(queue))
            queue.clear()

    def connect(self, process: Process) -> None:
        self._queues[process] = []
        process.memory.flush(coherent=True)

    def disconnect(self, process: Process) -> None:
        self._queues.pop(process, None)
        process.memory.flush(coherent=False)

    def flush(self) -> None:
        self.client.flushall()
        for process in self._queues:
            process.memory.empty()

    def full(self, full: bool) -> None:
        if full is not self._is_full:
            self._is_full = full
            self.client.config_set("maxmemory", int(full))

    def snapshot(self) -> dict[bytes, tuple[bytes, int]]:
        keys = self.client.keys()
        return {key: (self.client.dump(key), max(0, self.client.pttl(key))) for key in keys}

    def restart(self, snapshot: Mapping[bytes, tuple[bytes, int]]) -> None:
        """As another server process, with what was on disk; everybody loses the connection."""
        full = self._is_full
        self.full(False)
        self.client.flushall()
        for key, (data, left) in snapshot.items():
            self.client.restore(key, left, data)
        self.full(full)
        self.run_id += 1
        for process in list(self._queues):
            self.connect(process)
            process.guards.redis.interrupted()

    def keys(self) -> set[bytes]:
        return set(self.client.keys())

    # The database.

    def commit(self, step: Sql) -> Any:
        assert self.engine is not None
        with self.engine.begin() as connection:
            return step.work(connection)

    @contextlib.contextmanager
    def fault(self, process: Process, fault: Fault | None) -> Iterator[None]:
        """Count the steps of a process from 0, with a fault at one of them."""
        process.steps, process.fault = 0, fault
        try:
            yield
        finally:
            process.fault = None


class _Change:
    def __init__(self, value: bytes | None, begun: int) -> None:
        self.value = value
        self.begun = begun
        self.ended: int | None = None
        self.acknowledged = False


class Register:
    """What a value may be, by what was done to it."""

    def __init__(self) -> None:
        self._time = 1
        first = _Change(None, 0)
        first.ended, first.acknowledged = 0, True
        self._changes = [first]

    def now(self) -> int:
        self._time += 1
        return self._time

    def begin(self, value: bytes | None) -> _Change:
        change = _Change(value, self.now())
        self._changes.append(change)
        return change

    def end(self, change: _Change, *, acknowledged: bool) -> None:
        change.ended, change.acknowledged = self.now(), acknowledged

    def undone(self, change: _Change) -> None:
        """It is known that nothing of it took place."""
        self._changes.remove(change)

    def possible(self, since: int) -> set[bytes | None]:
        """What a read that began then may find: nothing that a change which began later replaced."""
        return {
            change.value
            for change in self._changes
            if not any(
                later.acknowledged
                and change.ended is not None
                and later.begun > change.ended
                and later.ended is not None
                and later.ended < since
                for later in self._changes
            )
        }
