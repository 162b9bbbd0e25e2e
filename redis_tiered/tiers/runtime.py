"""What all tenants of one `Tiers` share: clients, L1, breakers, background threads."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import Any, ClassVar, TypeVar

from redis_tiered.endpoint import Address
from redis_tiered.errors import ClosedError, TierUnavailable
from redis_tiered.flow import AsyncDriver, Driver, Flow, Guards, Redis, Sql
from redis_tiered.settings import Settings
from redis_tiered.tiers.connections import ConnectionFactory
from redis_tiered.tiers.durable import AsyncDurable, DurableURL, SyncDurable
from redis_tiered.tiers.housekeeping import Housekeeper
from redis_tiered.tiers.invalidation import Invalidations
from redis_tiered.tiers.memory import Memory
from redis_tiered.tiers.redis import AsyncRedis, SyncRedis

__all__ = ["Runtime"]

logger = logging.getLogger("redis_tiered")

T = TypeVar("T")


class Runtime:
    """Clients of both tiers for threads and for event loops; see `Tiers` for the public face.

    Nothing is connected before the first step is performed. asyncio clients belong to the loop
    they were made in and are closed when it shuts down.
    """

    _all: ClassVar[weakref.WeakSet[Runtime]] = weakref.WeakSet()

    def __init__(self, settings: Settings, durable: DurableURL | None, prefix: bytes) -> None:
        self.settings = settings
        self.durable = durable
        self.guards = Guards()
        self.memory = Memory(settings.l1_max_bytes, settings.l1_ttl)
        self.housekeeper = Housekeeper()
        self._prefix = prefix
        self._factory = ConnectionFactory(
            settings.endpoint, settings.redis_timeout, self.guards.redis
        )
        self._factory.check()
        self._fork_listeners: weakref.WeakSet[Any] = weakref.WeakSet()
        self._shared: dict[Hashable, Any] = {}
        self._sharing = threading.RLock()  # what is made may ask for more
        self._parents: list[object] = []
        self.closed = False
        self._connect()
        type(self)._all.add(self)

    def _connect(self) -> None:
        """Make the (unconnected) clients; again in a forked child."""
        settings = self.settings
        self._lock = threading.Lock()
        self._started = False
        self._invalidations: Invalidations | None = None
        self._redis = SyncRedis(self._factory, settings.max_connections)
        self._sql = (
            SyncDurable(self.durable, settings.durable_timeout)
            if self.durable is not None
            else None
        )
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopClients] = (
            weakref.WeakKeyDictionary()
        )
        self._driver = Driver(self, self.guards)
        # A `Tiers` that is forgotten, not closed, hangs up without a word.
        weakref.finalize(self, _hang_up, self._redis, self._sql).atexit = False

    # Running flows.

    def run(self, flow: Flow[T]) -> T:
        return self._driver.run(flow)

    async def arun(self, flow: Flow[T]) -> T:
        loop = asyncio.get_running_loop()
        clients = self._loops.get(loop)
        if clients is None:
            clients = await self._enter_loop(loop)
        return await clients.driver.run(flow)

    # Clients of the sync driver.

    def redis(self, step: Redis, *, fresh: bool) -> list[Any]:
        if not self._started:
            self.start()
        return self._redis.execute(step, fresh=fresh)

    def sql(self, step: Sql) -> Any:
        if not self._started:
            self.start()
        if self._sql is None:
            raise TierUnavailable("durable", "none", "no durable tier is configured")
        return self._sql.execute(step)

    def primaries(self) -> list[Address | None]:
        return self._redis.primaries()

    # Life.

    def start(self) -> None:
        """Begin to listen for invalidations; called with the first step.

        Raises:
            ClosedError: after `close`.
        """
        self._check_open()
        with self._lock:
            self._check_open()  # or who waited for the lock meanwhile would begin anew
            if self._started:
                return
            self._prepare_directory()
            if self.settings.l1_max_bytes > 0:
                self._invalidations = Invalidations(
                    self.memory, self._factory, self._redis, self.guards.redis, self._prefix
                )
                self._invalidations.start()
            self._started = True

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError("redis", "closed", "this Tiers was closed")

    def wait_coherent(self, timeout: float) -> bool:
        """Wait until L1 is in service; False if it is not within `timeout` seconds."""
        self.start()
        return self._invalidations is not None and self._invalidations.coherent.wait(timeout)

    def close(self) -> None:
        """Close what belongs to threads; clients of running loops are closed there."""
        if self.closed:
            return
        self.report()
        with self._lock:
            self.closed = True
            self._started = False
        if self._invalidations is not None:
            self._invalidations.stop()
        self.memory.flush(coherent=False)
        self.housekeeper.stop(self.settings.redis_timeout + self.settings.durable_timeout)
        self._redis.close()
        if self._sql is not None:
            self._sql.close()
        for loop, clients in list(self._loops.items()):
            if loop.is_running():
                loop.call_soon_threadsafe(clients.leave)
        self._factory.release()

    def report(self) -> None:
        """Add what was counted since the last report to the totals; write what waits to be written."""
        if self._started and not self.closed:
            for listener in list(self._fork_listeners):
                listener.flush()

    async def aclose(self) -> None:
        """Close this loop's clients, then everything else."""
        clients = self._loops.pop(asyncio.get_running_loop(), None)
        if clients is not None:
            await clients.close()
        await asyncio.to_thread(self.close)

    def on_fork(self, listener: Any) -> None:
        """Have `listener.reset_after_fork()` called in forked children, and `flush()` before the
        end (held weakly)."""
        self._fork_listeners.add(listener)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` made when this key was first asked for; gone with the runtime."""
        found = self._shared.get(key)
        if found is None:
            with self._sharing:
                found = self._shared.get(key)
                if found is None:
                    found = self._shared[key] = make()
        return found

    def reset_after_fork(self) -> None:
        """Threads, sockets and locks stayed with the parent: begin anew, keep the settings."""
        if self._sql is not None:
            self._sql.abandon()
        # Not closed here, and not collected: psycopg would warn that nobody closed them.
        self._parents.append((self._sql, self._loops))
        self._sharing = threading.RLock()  # what is made may ask for more
        self.memory.reset_after_fork()
        self.housekeeper = Housekeeper()
        for breaker in self.guards.breakers():
            breaker.reset_after_fork()
        for listener in list(self._fork_listeners):
            listener.reset_after_fork()
        self._redis.abandon()
        self._connect()

    def _prepare_directory(self) -> None:
        if self.settings.endpoint.topology == "embedded" and self.durable is not None:
            directory = self.settings.endpoint.directory
            assert directory is not None  # Tiers.embedded resolves it
            try:
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                # Each tier that needs it fails by itself, as a tier does.
                logger.debug("the embedded directory cannot be made: %s", error)

    async def _enter_loop(self, loop: asyncio.AbstractEventLoop) -> _LoopClients:
        if not self._started:
            try:
                self.start()
            except ClosedError:
                # Thrown into the flow, which knows what it means, by clients that are closed.
                return _LoopClients(self, closed=True)
        clients = self._loops.get(loop)
        if clients is None:
            clients = self._loops[loop] = _LoopClients(self)
            if self._invalidations is None:
                # Nobody watched the server since an earlier loop closed its connections.
                self.guards.redis.interrupted()
            await clients.enter()
        return clients

    @classmethod
    def _exit(cls) -> None:
        for runtime in list(cls._all):
            runtime.report()

    @classmethod
    def _forked(cls) -> None:
        for runtime in list(cls._all):
            runtime.reset_after_fork()


def _hang_up(redis: SyncRedis, sql: SyncDurable | None) -> None:
    redis.close()
    if sql is not None:
        sql.close()


class _LoopClients:
    """The clients of one event loop."""

    def __init__(self, runtime: Runtime, *, closed: bool = False) -> None:
        settings = runtime.settings
        self._runtime = weakref.ref(runtime)
        self._redis = AsyncRedis(runtime._factory)
        self._sql = (
            AsyncDurable(runtime.durable, settings.durable_timeout)
            if runtime.durable is not None
            else None
        )
        self.driver = AsyncDriver(self, runtime.guards)
        self._closed = closed
        self._life: AsyncGenerator[None, None] | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def redis(self, step: Redis, *, fresh: bool) -> list[Any]:
        if self._closed:
            raise ClosedError("redis", "closed", "this Tiers was closed")
        return await self._redis.execute(step, fresh=fresh)

    async def sql(self, step: Sql) -> Any:
        if self._closed:
            raise ClosedError("durable", "closed", "this Tiers was closed")
        if self._sql is None:
            raise TierUnavailable("durable", "none", "no durable tier is configured")
        return await self._sql.execute(step)

    async def enter(self) -> None:
        # `asyncio.run` closes the loop's unfinished async generators before it closes the loop:
        # the one hook a library has to say goodbye to its connections.
        self._life = self._until_shutdown()
        await anext(self._life)

    def leave(self) -> None:
        self._leaving = asyncio.get_running_loop().create_task(self.close())

    async def close(self) -> None:
        """May be called again after it was cancelled."""
        self._closed = True
        await self._redis.close()
        if self._sql is not None:
            await self._sql.close()

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.close()
            runtime = self._runtime()
            if runtime is not None:
                # In place of clients whose tasks and futures would keep the loop for ever.
                runtime._loops[asyncio.get_running_loop()] = _LoopClients(runtime, closed=True)


atexit.register(Runtime._exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Runtime._forked)
