"""Processes, a Redis and a database in one thread: every step of a flow can be made to fail.

The database is a real SQLite. Redis is a dict that knows the few commands and scripts the cache
sends; its own tests against real servers are elsewhere. Time passes only when told to.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.flow import Driver, Flow, Guards, Redis, Sleep, Sql, Step, Wait
from redis_tiered.keys import Keyspace
from redis_tiered.llm_cache import reading, scripts
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.llm_cache.fingerprint import Request, fingerprint
from redis_tiered.llm_cache.flights import Flights
from redis_tiered.tiers import epoch as epoch_module
from redis_tiered.tiers.memory import Memory
from redis_tiered.tiers.schema import entries, migrate, scopes, tags
from redis_tiered.tiers.tiers import Tiers

__all__ = ["Clock", "Crash", "Process", "Running", "Server", "World", "request_of"]


def request_of(name: str) -> Request:
    return Request(b"model", b"context", name)


class Crash(BaseException):
    """The process is gone, in the middle of what it did."""


class Clock:
    """Seconds; passes only by `advance`."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class _OutOfMemory(Exception):
    pass


def _bytes(word: object) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


class Server:
    """A Redis of the commands that the cache uses.

    Attributes:
        full: refuses writes that need memory.
        delayed: invalidation messages stay in the queues until `deliver`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.data: dict[bytes, Any] = {}
        self._ends: dict[bytes, float] = {}
        self._queues: dict[Memory, list[bytes]] = {}
        self.run_id = 1
        self.full = False
        self.delayed = False
        self._scripts: dict[str, Callable[[list[bytes], list[bytes]], Any]] = {
            scripts.LOOK_UP: self._look_up,
            scripts.FOLLOW: self._follow,
            scripts.DISCARD: self._discard,
            scripts.STORE: self._store,
            scripts.PROMOTE: self._promote,
            scripts.BURY: self._bury,
            scripts.RENEW: self._renew,
            scripts.RELEASE: self._release,
            scripts.TAG: self._tag,
            scripts.SLIDE: self._slide,
            epoch_module._COMPARE_AND_SET: self._compare_and_set,
        }

    # What a test does to it.

    def connect(self, memory: Memory) -> None:
        self._queues[memory] = []
        memory.flush(coherent=True)

    def disconnect(self, memory: Memory) -> None:
        self._queues.pop(memory, None)
        memory.flush(coherent=False)

    def deliver(self) -> None:
        for memory, queue in self._queues.items():
            if queue:
                memory.invalidate(tuple(queue))
                queue.clear()

    def flush(self) -> None:
        self.data.clear()
        self._ends.clear()
        for memory in self._queues:
            memory.flush(coherent=True)

    def snapshot(self) -> tuple[dict[bytes, Any], dict[bytes, float]]:
        copied = {
            key: value.copy() if hasattr(value, "copy") else value
            for key, value in self.data.items()
        }
        return copied, dict(self._ends)

    def restore(self, snapshot: tuple[dict[bytes, Any], dict[bytes, float]]) -> None:
        """Start again, as another server process, with what was on disk."""
        self.data, self._ends = snapshot
        self.run_id += 1

    def ttl(self, key: bytes) -> float | None:
        """Seconds until a key expires; None: never."""
        end = self._ends.get(key)
        return None if end is None else end - self._clock()

    def execute(self, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        replies: list[Any] = []
        problem: TierError | None = None
        for command in commands:
            self._expire()
            try:
                replies.append(self._run(*command))
            except _OutOfMemory:
                problem = problem or TierUnavailable("redis", "oom")
        if not self.delayed:
            self.deliver()
        if problem is not None:
            raise problem
        return replies

    # Commands.

    def _run(self, name: str, *words: Any) -> Any:
        if name == "EVAL":
            script, count, *rest = words
            arguments = [_bytes(word) for word in rest]
            if "HGETALL" in script:
                return [part for pair in self.data.get(arguments[0], {}).items() for part in pair]
            return self._scripts[script](arguments[:count], arguments[count:])
        if name == "INFO":
            return b"redis_version:7.2.4\r\nrun_id:%d\r\nos:none\r\n" % self.run_id
        key, *rest_words = (_bytes(word) for word in words)
        operation: Callable[..., Any] = getattr(self, f"_{name.lower()}")
        return operation(key, *rest_words)

    def _expire(self) -> None:
        for key in [key for key, end in self._ends.items() if end <= self._clock()]:
            self._drop(key)

    def _changed(self, key: bytes) -> None:
        for queue in self._queues.values():
            queue.append(key)

    def _grow(self) -> None:
        if self.full:
            raise _OutOfMemory

    def _drop(self, key: bytes) -> int:
        self._ends.pop(key, None)
        if self.data.pop(key, None) is None:
            return 0
        self._changed(key)
        return 1

    def _get(self, key: bytes) -> bytes | None:
        return self.data.get(key)

    def _hget(self, key: bytes, field: bytes) -> bytes | None:
        held: bytes | None = self.data.get(key, {}).get(field)
        return held

    def _set(self, key: bytes, value: bytes, *options: bytes) -> bytes | None:
        self._grow()
        if b"NX" in options and key in self.data:
            return None
        self.data[key] = value
        self._ends.pop(key, None)
        if b"PX" in options:
            self._ends[key] = self._clock() + int(options[options.index(b"PX") + 1]) / 1000
        self._changed(key)
        return b"OK"

    def _del(self, *keys: bytes) -> int:
        return sum(self._drop(key) for key in keys)

    _unlink = _del

    def _exists(self, key: bytes) -> int:
        return int(key in self.data)

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        self._grow()
        self.data.setdefault(key, {}).update(zip(pairs[::2], pairs[1::2], strict=True))
        self._changed(key)
        return 1

    def _pexpire(self, key: bytes, milliseconds: bytes) -> int:
        if key not in self.data:
            return 0
        self._ends[key] = self._clock() + int(milliseconds) / 1000
        self._changed(key)
        return 1

    def _hincrby(self, key: bytes, field: bytes, by: bytes) -> int:
        self._grow()
        counts = self.data.setdefault(key, {})
        counts[field] = _bytes(int(counts.get(field, b"0")) + int(by))
        return int(counts[field])

    def _spop(self, key: bytes, count: bytes) -> list[bytes]:
        members = self.data.get(key, set())
        gone = sorted(members)[: int(count)]
        members -= set(gone)
        if not members:
            self._drop(key)
        return gone

    def _scan(self, _cursor: bytes, *options: bytes) -> list[Any]:
        prefix = options[1].removesuffix(b"*")
        return [b"0", [key for key in self.data if key.startswith(prefix)]]

    # Scripts, line by line as in the modules that send them.

    def _followed(self, answer: bytes | None, start: list[bytes]) -> Any:
        if answer is not None and start and len(answer) > 30 and answer[1] // 2 % 2 == 1:
            return [answer, self.data.get(start[0] + answer[30:] + b"}", {}).get(b"r")]
        return answer

    def _follow(self, keys: list[bytes], words: list[bytes]) -> Any:
        return self._followed(self.data.get(keys[0], {}).get(b"r"), words)

    def _discard(self, keys: list[bytes], words: list[bytes]) -> int:
        held = self.data.get(keys[0], {}).get(b"r")
        return self._del(keys[0]) if held == words[0] else 0

    def _look_up(self, keys: list[bytes], words: list[bytes]) -> Any:
        answer = self.data.get(keys[0], {}).get(b"r")
        if answer is not None:
            return self._followed(answer, words[3:])
        token, milliseconds, dead = words[:3]
        if token == b"":
            return 0
        holder = self._get(keys[1])
        if holder == b"-":
            return 0
        if holder is not None and holder not in (token, dead):
            return 2
        try:
            self._set(keys[1], token, b"PX", milliseconds)
        except _OutOfMemory:
            return 3
        return 1

    def _revision(self, key: bytes) -> int | None:
        held = self.data.get(key, {}).get(b"u")
        return None if held is None else int(held)

    def _store(self, keys: list[bytes], words: list[bytes]) -> int:
        self._del(keys[1])
        at = self._revision(keys[0])
        if words[0] == b"":
            revision = _bytes(at or 0)
        elif at is not None and at > int(words[0]):
            return 0
        else:
            revision = words[0]
        self._del(keys[0])
        self._hset(keys[0], b"u", revision, *words[2:])
        return self._pexpire(keys[0], words[1])

    def _promote(self, keys: list[bytes], words: list[bytes]) -> int:
        self._del(keys[1])
        if keys[0] in self.data:
            return 0
        self._hset(keys[0], b"u", words[0], b"r", words[2])
        return self._pexpire(keys[0], words[1])

    def _slide(self, keys: list[bytes], words: list[bytes]) -> int:
        held = self.data.get(keys[0], {}).get(b"r")
        if held is None or not held.startswith(words[0]):
            return 0
        self._hset(keys[0], b"r", words[1])
        return self._pexpire(keys[0], words[2])

    def _bury(self, keys: list[bytes], words: list[bytes]) -> int:
        at = self._revision(keys[0])
        mark = int(words[0]) if at is None else max(int(words[0]), at + 1)
        self._del(*keys)
        try:
            self._hset(keys[0], b"u", _bytes(mark))
        except _OutOfMemory:
            return 1
        return self._pexpire(keys[0], words[1])

    def _renew(self, keys: list[bytes], words: list[bytes]) -> int:
        return self._pexpire(keys[0], words[1]) if self._get(keys[0]) == words[0] else 0

    def _release(self, keys: list[bytes], words: list[bytes]) -> int:
        return self._del(keys[0]) if self._get(keys[0]) == words[0] else 0

    def _tag(self, keys: list[bytes], words: list[bytes]) -> int:
        self._grow()
        self.data.setdefault(keys[0], set()).add(words[0])
        if (self.ttl(keys[0]) or -1) < int(words[1]) / 1000:
            self._pexpire(keys[0], words[1])
        return 1

    def _compare_and_set(self, keys: list[bytes], words: list[bytes]) -> bytes | int:
        now = self._get(keys[0]) or b""
        if now != words[0]:
            return now
        try:
            self._set(keys[0], words[1])
        except _OutOfMemory:
            self._del(keys[0])
            return 0
        return words[1]


class Fault:
    """What happens at one step of a process: an error before or after it took effect, or death."""

    KINDS = ("before", "after", "reset", "crash", "crash after")

    def __init__(self, at: int, kind: str, only: type | None = None) -> None:
        self.at = at
        self.kind = kind
        self._only = only

    def due(self, number: int, step: Step) -> bool:
        return number == self.at and (self._only is None or isinstance(step, self._only))

    def raise_it(self, tier: str) -> None:
        if self.kind.startswith("crash"):
            raise Crash
        raise TierUnavailable(tier, "reset" if self.kind == "reset" else "timeout")


class _Driver(Driver):
    """The real driver, but that pauses pass on the simulated clock."""

    def __init__(self, process: Process) -> None:
        super().__init__(process, process.guards)
        self._process = process

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Wait):
            if self._process.on_wait is not None:
                self._process.on_wait(step)
            if not step.future.done():
                self._process.world.clock.advance(step.timeout)
            return step.future.done()
        if isinstance(step, Sleep):
            self._process.world.clock.advance(step.seconds)
            return None
        return super()._perform(step)


class _Housekeeper:
    def __init__(self) -> None:
        self.jobs: list[tuple[float, Callable[[], float | None]]] = []

    def submit(self, job: Callable[[], float | None], *, after: float = 0.0) -> None:
        self.jobs.append((after, job))

    def run(self, within: float = 1e9) -> None:
        """Run what is due within some seconds; what wants to run again does so next time."""
        jobs, self.jobs = sorted(self.jobs, key=lambda job: job[0]), []
        for after, job in jobs:
            if after > within:
                self.jobs.append((after, job))
                continue
            again = job()
            if again is not None:
                self.jobs.append((again, job))


class Process:
    """One process with its own L1, breakers and single flights over the world's servers.

    Args:
        ahead: seconds that its clock is ahead of the world's.
        topology: of Redis; in a "cluster" no script follows an alias.

    Attributes:
        connected: whether it can reach Redis.
        fault: what goes wrong at which of the steps that it performs from now on.
        steps: performed since the last reset to 0.
        failed: kinds of steps (`Redis`, `Sql`) that failed since the last `clear`.
    """

    def __init__(
        self, world: World, *, ahead: float = 0.0, topology: str = "single", **options: Any
    ) -> None:
        self.world = world
        self.options = options
        self.topology = topology
        self.connected = True
        self.fault: Fault | None = None
        self.steps = 0
        self.failed: list[type] = []
        self.log: list[Step] = []
        self.on_wait: Callable[[Wait], None] | None = None
        self.memory = Memory(1 << 20, 60.0, clock=world.clock)
        self.guards = Guards(clock=world.clock)
        self.housekeeper = _Housekeeper()
        self.durable = object() if world.engine is not None else None
        self.driver = _Driver(self)
        tiers = object.__new__(Tiers)
        tiers.keys = Keyspace("sim", "tenant")
        tiers._runtime = SimpleNamespace(  # type: ignore[assignment]
            memory=self.memory,
            guards=self.guards,
            housekeeper=self.housekeeper,
            durable=self.durable,
            closed=False,
            settings=SimpleNamespace(endpoint=SimpleNamespace(topology=self.topology)),
            run=self.driver.run,
            primaries=lambda: [None],
            on_fork=lambda listener: None,
        )
        self.tiers = tiers
        self.cache = LLMCache(tiers, now=lambda: world.clock() + ahead, **options)
        self.cache._flights = Flights(self.cache._wait, clock=world.clock)
        world.server.connect(self.memory)

    # The two clients.

    def redis(self, step: Redis, *, fresh: bool) -> list[Any]:
        return self._attempt(step, "redis", lambda: self.world.server.execute(step.commands))  # type: ignore[no-any-return]

    def sql(self, step: Sql) -> Any:
        return self._attempt(step, "durable", lambda: self.world.commit(step))

    def _attempt(self, step: Redis | Sql, tier: str, action: Callable[[], Any]) -> Any:
        number, self.steps = self.steps, self.steps + 1
        self.log.append(step)
        fault = self.fault
        due = fault is not None and fault.due(number, step)
        try:
            if tier == "redis" and not self.connected:
                raise TierUnavailable("redis", "refused")
            if tier == "durable" and self.world.database_away:
                raise TierUnavailable("durable", "refused")
            if due and fault is not None and not fault.kind.endswith("after"):
                fault.raise_it(tier)
            result = action()
            if due and fault is not None:
                fault.raise_it(tier)
        except TierError:
            self.failed.append(type(step))
            raise
        return result

    # What a test does with it.

    def lookup(self, name: str) -> str | None:
        found = self.cache.lookup(request_of(name))
        return None if found is None else found.payload.decode()

    def update(self, name: str, answer: str) -> None:
        self.cache.update(request_of(name), answer.encode())

    def delete(self, name: str) -> None:
        self.cache.delete(request_of(name))

    def cut(self) -> None:
        """It no longer reaches Redis, nor hears of invalidations."""
        self.connected = False
        self.world.server.disconnect(self.memory)

    def reconnect(self) -> None:
        if not self.connected:
            self.connected = True
            self.world.server.connect(self.memory)

    def recover(self) -> None:
        """Let what broke heal: breakers try again, what others were not told they are told."""
        self.world.clock.advance(1.0)
        self.lookup(f"nobody asked this {next(self.world.numbers)}")
        self.housekeeper.run(within=1.0)

    def key(self, name: str) -> bytes:
        """The Redis key of an entry under the epoch that Redis holds."""
        keys = self.tiers.keys.llm("default")
        epoch = self.world.server.data[keys.epoch].decode()
        return keys.entry(epoch, fingerprint(request_of(name)).digest)


class Running:
    """A flow of a process, performed step by step so that others can act in between."""

    def __init__(self, process: Process, flow: Flow[Any]) -> None:
        self._process = process
        self._flow = flow
        self.done = False
        self.result: Any = None
        self.error: TierError | None = None
        self._step: Step | None = None
        self._go(lambda: flow.send(None))

    def advance(self) -> None:
        """Perform one step."""
        if self.done:
            return
        assert self._step is not None
        try:
            result = self._process.driver._perform(self._step)
        except TierError as error:
            thrown = error
            self._go(lambda: self._flow.throw(thrown))
        else:
            self._go(lambda: self._flow.send(result))

    def finish(self) -> Any:
        while not self.done:
            self.advance()
        if self.error is not None:
            raise self.error
        return self.result

    def _go(self, resume: Callable[[], Step]) -> None:
        try:
            self._step = resume()
        except StopIteration as stop:
            self.done, self.result = True, stop.value
        except TierError as error:
            self.done, self.error = True, error


_engines: list[Engine] = []


def _database() -> Engine:
    """One SQLite in memory for all worlds, emptied: making tables costs more than most examples."""
    if not _engines:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        with engine.begin() as connection:
            migrate(connection)
        _engines.append(engine)
    with _engines[0].begin() as connection:
        for table in (entries, tags, scopes):
            connection.execute(table.delete())
    return _engines[0]


class World:
    """The servers, the clock, and as many processes as a test starts; a context manager."""

    def __init__(self, *, durable: bool = True, **options: Any) -> None:
        self.clock = Clock()
        self.server = Server(self.clock)
        self.engine = _database() if durable else None
        self.database_away = False
        self.numbers = itertools.count()
        self._options: dict[str, Any] = {"jitter": 0.0, **options}
        self._life = contextlib.ExitStack()

    def __enter__(self) -> World:
        clock = SimpleNamespace(monotonic=self.clock, time=self.clock)
        self._life.enter_context(mock.patch.object(reading, "time", clock))
        return self

    def __exit__(self, *_: object) -> None:
        self._life.close()

    def process(self, **options: Any) -> Process:
        return Process(self, **{**self._options, **options})

    def commit(self, step: Sql) -> Any:
        assert self.engine is not None
        with self.engine.begin() as connection:
            return step.work(connection)

    @contextlib.contextmanager
    def fault(self, process: Process, fault: Fault | None) -> Iterator[None]:
        """Count the steps of `process` from 0, with a fault at one of them."""
        process.steps, process.fault = 0, fault
        process.failed.clear()
        try:
            yield
        finally:
            process.fault = None
