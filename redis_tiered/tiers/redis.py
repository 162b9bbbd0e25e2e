"""L2: blocking and asyncio requests to Redis over connections made by one factory.

Both clients send words and hand back raw RESP2 replies, in one round trip per node. They know
nothing of breakers or retries (those are the drivers'); every failure leaves as a `TierError`.

The blocking client keeps a bounded pool per server; callers wait for a free connection. The asyncio
client belongs to one event loop and keeps a few connections per server on which requests that are
made at the same time travel as one pipeline; a cancelled caller never disturbs the others.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import pack_command
from redis import connection as blocking
from redis import exceptions as rx
from redis.asyncio import connection as aio

from redis_tiered.endpoint import Address, Endpoint
from redis_tiered.errors import (
    ClosedError,
    ConfigurationError,
    EmbeddedServerError,
    TierError,
    TierReplyError,
    TierUnavailable,
)
from redis_tiered.flow import Command, Redis
from redis_tiered.tiers.embedded import EmbeddedServer
from redis_tiered.tiers.routing import ClusterRouter, Moved, Routing, find_primary

__all__ = ["AsyncRedis", "ConnectionFactory", "SyncRedis", "failure"]

# asyncio connections per server: each carries the requests of all callers, so few are enough;
# more than one keeps a slow reply from delaying every other request.
_CHANNELS = 3
# Seconds for the embedded server to end with its last user.
_LAST_USER_WAITS = 2.0
_BATCH = 512
_IN_SCRIPT = re.compile(r"-(OOM|READONLY|MISCONF|NOREPLICAS) ")

# redis-py's asyncio connections pack in Python, five times slower than hiredis; its stub asks for
# a tuple of one.
_pack: Callable[[Command], bytes] = pack_command  # type: ignore[assignment]


def failure(error: Exception, *, connecting: bool = False) -> TierError:
    """What a redis-py error means to a flow; see `redis_tiered.flow` for the kinds."""
    if isinstance(error, TierError):
        return error
    if isinstance(error, rx.TimeoutError | TimeoutError):
        return TierUnavailable("redis", "timeout")
    if isinstance(error, rx.BusyLoadingError):
        return TierUnavailable("redis", "loading")
    if isinstance(
        error,
        rx.AuthenticationError | rx.AuthorizationError | rx.AuthenticationWrongNumberOfArgsError,
    ):
        return TierUnavailable("redis", "auth", "the server refused the credentials")
    if isinstance(error, rx.OutOfMemoryError):
        return TierUnavailable("redis", "oom")
    if isinstance(error, rx.ReadOnlyError):
        return TierUnavailable("redis", "readonly")
    if isinstance(error, rx.MovedError | rx.AskError):
        # redis-py strips the first word of the message
        word = "MOVED" if isinstance(error, rx.MovedError) else "ASK"
        return Moved(f"{word} {error}")
    if isinstance(error, rx.ClusterDownError):
        return TierUnavailable("redis", "clusterdown")
    if isinstance(error, rx.TryAgainError):
        # Only this one slot is between two nodes: no reason to leave the others alone.
        return TierReplyError("redis", "tryagain")
    if isinstance(error, rx.ResponseError):
        word = str(error).partition(" ")[0]
        # Redis 6.2 hides what a script was refused for behind the place where it happened.
        if hidden := _IN_SCRIPT.search(str(error)):
            return TierUnavailable("redis", hidden[1].lower())
        if word in ("MISCONF", "NOREPLICAS"):
            return TierUnavailable("redis", word.lower())
        if word in ("NOAUTH", "WRONGPASS"):
            return TierUnavailable("redis", "auth", "the server refused the credentials")
        return TierReplyError("redis", "reply", str(error)[:200])
    return TierUnavailable("redis", "refused" if connecting else "reset", type(error).__name__)


class ConnectionFactory:
    """Makes connections of both kinds for one endpoint, with our timeouts and RESP2.

    Args:
        endpoint: where to connect.
        timeout: seconds for a connect, and for a request with its replies.
    """

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self.embedded = (
            EmbeddedServer(endpoint.directory) if endpoint.topology == "embedded" else None
        )

    def check(self) -> None:
        """Refuse options that no connection can be made with, before any is needed.

        Raises:
            ConfigurationError: redis-py does not take them.
        """
        for module in (blocking, aio):
            self._new(module, ("", 0) if self.endpoint.unix else ("localhost", 1), None)

    def connect(self, address: Address | None) -> Any:
        """A connected blocking connection; `address` None means the primary.

        Raises:
            TierError: it cannot be made.
        """
        connection = self._new(blocking, address or self._primary(), self.timeout)
        try:
            connection.connect()
        except (rx.RedisError, OSError, ValueError) as error:  # ValueError: an odd host name
            connection.disconnect()
            raise failure(error, connecting=True) from error
        return connection

    async def aconnect(self, address: Address | None) -> Any:
        """A connected asyncio connection without timeouts of its own: its channel has them."""
        connection = self._new(aio, address or await self._aprimary(), None)
        try:
            async with asyncio.timeout(self.timeout):
                await connection.connect()
        except BaseException as error:  # a cancelled caller leaves no connection behind either
            await connection.disconnect(nowait=True)
            if isinstance(error, rx.RedisError | OSError | ValueError):
                raise failure(error, connecting=True) from error
            raise
        return connection

    def release(self) -> None:
        """Stop using the embedded server, if there is one."""
        if self.embedded is not None:
            self.embedded.release(wait=_LAST_USER_WAITS)

    def _new(
        self, module: Any, address: Address, timeout: float | None, *, sentinel: bool = False
    ) -> Any:
        endpoint = self.endpoint
        options = dict(endpoint.options)
        if sentinel:
            options = {name: value for name, value in options.items() if name.startswith("ssl_")}
            options |= endpoint.sentinel_options
        if not address[1]:
            kind = module.UnixDomainSocketConnection
            where: dict[str, Any] = {"path": address[0]}
        else:
            kind = module.SSLConnection if endpoint.tls else module.Connection
            where = {"host": address[0], "port": address[1]}
        try:
            return kind(
                **where,
                **options,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                decode_responses=False,
                protocol=2,
                retry=None,
                health_check_interval=0,
            )
        except (TypeError, ValueError, rx.RedisError) as error:
            names = ", ".join(sorted(options)) or "none"
            raise ConfigurationError(
                f"redis connection options cannot be used ({type(error).__name__}); given: {names}"
            ) from None

    def _primary(self) -> Address:
        if self.embedded is not None:
            try:
                return self.embedded.ensure(), 0
            except EmbeddedServerError as error:
                raise TierUnavailable("redis", "start", str(error)) from error
        if self.endpoint.topology != "sentinel":
            return self.endpoint.addresses[0]
        search = find_primary(self.endpoint.addresses, self.endpoint.service)
        primary: Address = _drive(
            search,
            lambda address: _Asked(self._new(blocking, address, self.timeout, sentinel=True)),
        )
        return primary

    async def _aprimary(self) -> Address:
        if self.embedded is not None:
            # Starting a process takes tens of milliseconds: not on the loop.
            return await asyncio.to_thread(self._primary)
        if self.endpoint.topology != "sentinel":
            return self.endpoint.addresses[0]
        search = find_primary(self.endpoint.addresses, self.endpoint.service)
        primary: Address = await _adrive(
            search,
            lambda address: _AsyncAsked(self._new(aio, address, None, sentinel=True), self.timeout),
        )
        return primary


class SyncRedis:
    """Blocking requests to any topology; thread-safe.

    Args:
        factory: makes the connections.
        max_connections: per server; further callers wait, at most the factory's timeout.
    """

    def __init__(self, factory: ConnectionFactory, max_connections: int) -> None:
        self._factory = factory
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self._pools: dict[Address | None, _Pool] = {}
        endpoint = factory.endpoint
        self._router = ClusterRouter(endpoint.addresses) if endpoint.topology == "cluster" else None
        self._primary = self._pool(None)

    def execute(self, step: Redis, *, fresh: bool) -> list[Any]:
        """Send a step's commands and return their replies.

        Args:
            step: what to send.
            fresh: trust no connection, slot table or primary's address known from before.

        Raises:
            TierError: the first failure; the other replies were read or the connection dropped.
        """
        if self._router is None:
            return self._primary.execute(step.commands, fresh)
        return _drive(self._router.execute(step, fresh=fresh), self._pool)  # type: ignore[no-any-return]

    def primaries(self) -> list[Address | None]:
        """Addresses of all primaries; `[None]` where there is just one."""
        if self._router is None:
            return [None]
        return _drive(self._router.primaries(), self._pool)  # type: ignore[no-any-return]

    def close(self) -> None:
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.close()

    def abandon(self) -> None:
        """After fork: forget sockets that belong to the parent, without a word on the wire."""
        self._lock = threading.Lock()
        self._pools = {}

    def _pool(self, address: Address | None) -> _Pool:
        pool = self._pools.get(address)
        if pool is None:
            with self._lock:
                pool = self._pools.setdefault(
                    address, _Pool(self._factory, address, self._max_connections)
                )
        return pool


class AsyncRedis:
    """Requests to any topology from one event loop.

    Args:
        factory: makes the connections.
    """

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory
        self._groups: dict[Address | None, _Channels] = {}
        self._closed = False
        endpoint = factory.endpoint
        self._router = ClusterRouter(endpoint.addresses) if endpoint.topology == "cluster" else None
        self._primary = self._group(None)

    async def execute(self, step: Redis, *, fresh: bool) -> list[Any]:
        """As `SyncRedis.execute`."""
        if self._router is None:
            return await self._primary.execute(step.commands, fresh)
        return await _adrive(self._router.execute(step, fresh=fresh), self._group)  # type: ignore[no-any-return]

    async def close(self) -> None:
        self._closed = True
        for group in self._groups.values():
            await group.close()

    def _group(self, address: Address | None) -> _Channels:
        group = self._groups.get(address)
        if group is None:
            if self._closed:
                raise ClosedError("redis", "closed", "this Tiers was closed")
            group = self._groups[address] = _Channels(self._factory, address)
        return group


def _drive(routing: Routing, at: Any) -> Any:
    try:
        send = next(routing)
        while True:
            try:
                replies = at(send.address).execute(send.commands, send.fresh)
            except TierError as error:
                send = routing.throw(error)
            else:
                send = routing.send(replies)
    except StopIteration as stop:
        return stop.value


async def _adrive(routing: Routing, at: Any) -> Any:
    try:
        send = next(routing)
        while True:
            try:
                replies = await at(send.address).execute(send.commands, send.fresh)
            except TierError as error:
                send = routing.throw(error)
            else:
                send = routing.send(replies)
    except StopIteration as stop:
        return stop.value


class _Asked:
    """One request to a sentinel on a connection of its own."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, commands: Sequence[Command], fresh: bool) -> list[Any]:
        try:
            return _exchange(self._connection, commands)
        except (rx.RedisError, OSError) as error:
            raise failure(error, connecting=True) from error
        finally:
            self._connection.disconnect()


class _AsyncAsked:
    def __init__(self, connection: Any, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout

    async def execute(self, commands: Sequence[Command], fresh: bool) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection.send_command(*commands[0])
                return [await self._connection.read_response()]
        except (rx.RedisError, OSError) as error:
            raise failure(error, connecting=True) from error
        finally:
            await self._connection.disconnect(nowait=True)


def _exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send commands and read every reply; the first error reply is raised after the last is read."""
    try:
        return _exchange_packed(connection, b"".join(map(_pack_briefly, commands)), len(commands))
    except rx.NoScriptError:
        return _exchange_packed(connection, b"".join(map(_pack, commands)), len(commands))


def _exchange_packed(connection: Any, packed: bytes, count: int) -> list[Any]:
    connection.send_packed_command((packed,), check_health=False)
    read = connection.read_response
    if count == 1:
        return [read()]
    replies: list[Any] = []
    problem: rx.ResponseError | None = None
    for _ in range(count):
        try:
            replies.append(read())
        except rx.ResponseError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return replies


def _pack_briefly(command: Command) -> bytes:
    """Serialize a command; a script by its digest. A server that does not know the script says
    NOSCRIPT, and is sent the command whole: all commands sent with a script may be repeated."""
    if command[0] == "EVAL":
        return _pack(("EVALSHA", _digest(command[1]), *command[2:]))
    return _pack(command)


@functools.lru_cache(maxsize=256)
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class _Pool:
    """A bounded pool of blocking connections to one server; the most recently used goes first."""

    def __init__(self, factory: ConnectionFactory, address: Address | None, size: int) -> None:
        self._factory = factory
        self._address = address
        self._size = size
        self._idle: deque[Any] = deque()
        self._made = 0
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    def execute(self, commands: Sequence[Command], fresh: bool) -> list[Any]:
        if fresh:
            self._drop_idle()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._make_or_wait()
        healthy = False
        try:
            replies = _exchange(connection, commands)
            healthy = True
            return replies
        except rx.ResponseError as error:
            problem = failure(error)
            # After a failover this server stays read-only: the next connection must look anew.
            healthy = problem.kind != "readonly"
            raise problem from error
        except (rx.RedisError, OSError) as error:
            raise failure(error) from error
        finally:
            if healthy:
                self._idle.append(connection)
                if self._waiting or self._closed:
                    self._returned()
            else:
                self._discard(connection)

    def close(self) -> None:
        self._closed = True
        self._drop_idle()

    def _make_or_wait(self) -> Any:
        deadline = time.monotonic() + self._factory.timeout
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    # A returner looks at _waiting after it appended, we look after we counted
                    # ourselves: one of the two sees the other.
                    if self._idle:
                        try:
                            return self._idle.pop()
                        except IndexError:
                            continue
                    if self._made < self._size:
                        self._made += 1
                        break
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        # Says nothing of the server: who holds them learns whether it answers.
                        raise TierUnavailable(
                            "redis", "busy", f"all {self._size} connections are in use"
                        )
            finally:
                self._waiting -= 1
        try:
            return self._factory.connect(self._address)
        except BaseException:
            self._forget_one()
            raise

    def _returned(self) -> None:
        if self._closed:
            self._drop_idle()
        with self._changed:
            self._changed.notify()

    def _drop_idle(self) -> None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            self._discard(connection)

    def _discard(self, connection: Any) -> None:
        connection.disconnect()
        self._forget_one()

    def _forget_one(self) -> None:
        with self._changed:
            self._made -= 1
            self._changed.notify()


class _Request:
    __slots__ = ("commands", "done", "pack")

    def __init__(self, commands: Sequence[Command], done: asyncio.Future[list[Any]]) -> None:
        self.commands = commands
        self.done = done
        self.pack: Callable[[Command], bytes] = _pack_briefly


class _Channels:
    """A few asyncio connections to one server."""

    def __init__(self, factory: ConnectionFactory, address: Address | None) -> None:
        self._channels = [_Channel(factory, address) for _ in range(_CHANNELS)]

    async def execute(self, commands: Sequence[Command], fresh: bool) -> list[Any]:
        # The first channel that is not waiting for replies: requests made in one turn of the
        # loop find the same one and leave as one pipeline.
        channels = self._channels
        for channel in channels:
            if not channel.in_flight:
                return await channel.execute(commands, fresh)
        return await min(channels, key=_Channel.queued).execute(commands, fresh)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


class _Channel:
    """One asyncio connection, written and read by one task, in pipelines of what is queued.

    Attributes:
        in_flight: a pipeline was sent and its replies are awaited.
    """

    def __init__(self, factory: ConnectionFactory, address: Address | None) -> None:
        self.in_flight = False
        self._factory = factory
        self._address = address
        self._queue: deque[_Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._closed = False
        self._connection: Any = None
        self._fresh = False

    def queued(self) -> int:
        return len(self._queue)

    async def execute(self, commands: Sequence[Command], fresh: bool) -> list[Any]:
        if self._closed:
            raise ClosedError("redis", "closed", "this Tiers was closed")
        loop = asyncio.get_running_loop()
        request = _Request(commands, loop.create_future())
        self._queue.append(request)
        if fresh:
            self._fresh = True
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._serve(), name="redis-tiered channel")
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        return await request.done

    async def close(self) -> None:
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        self._fail(self._queue, TierUnavailable("redis", "reset", "closed"))
        await self._disconnect()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._wake = loop.create_future()
                await self._wake
                self._wake = None
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
            self.in_flight = True
            try:
                if self._fresh:
                    self._fresh = False
                    await self._disconnect()
                if self._connection is None:
                    self._connection = await self._factory.aconnect(self._address)
                async with asyncio.timeout(self._factory.timeout):
                    await self._exchange(batch)
            except (rx.RedisError, OSError, TierError) as error:
                await self._disconnect()
                problem = failure(error)
                self._fail(batch, problem)
                if problem.kind == "timeout":
                    # Who waited behind this pipeline has waited a whole timeout too.
                    self._fail(self._queue, problem)
            except BaseException:
                self._fail(batch, TierUnavailable("redis", "reset", "closed"))
                raise
            finally:
                self.in_flight = False

    async def _exchange(self, batch: list[_Request]) -> None:
        connection = self._connection
        packed = b"".join(
            [request.pack(command) for request in batch for command in request.commands]
        )
        await connection.send_packed_command((packed,), check_health=False)
        read = connection.read_response
        read_only = False
        for request in batch:
            replies: list[Any] = []
            problem: rx.ResponseError | None = None
            for _ in request.commands:
                try:
                    replies.append(await read())
                except rx.ResponseError as error:
                    problem = problem or error
            if request.done.done():  # its caller was cancelled
                continue
            if problem is None:
                request.done.set_result(replies)
            elif isinstance(problem, rx.NoScriptError) and request.pack is not _pack:
                request.pack = _pack
                self._queue.append(request)
            else:
                reason = failure(problem)
                read_only = read_only or reason.kind == "readonly"
                request.done.set_exception(reason)
        if read_only:
            # After a failover this server stays read-only: the next connection must look anew.
            await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    @staticmethod
    def _fail(requests: Sequence[_Request] | deque[_Request], problem: TierError) -> None:
        for request in requests:
            if not request.done.done():
                # Each caller gets an exception of its own: a traceback grows on each raise.
                request.done.set_exception(type(problem)(*problem.__reduce__()[1]))
        if isinstance(requests, deque):
            requests.clear()
