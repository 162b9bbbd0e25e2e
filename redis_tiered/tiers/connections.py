"""Connections to Redis, made by one factory with our timeouts; and what is said on them.

They speak RESP2 whatever the server could; every failure leaves as a `TierError`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from hiredis import pack_command
from redis import connection as blocking
from redis import exceptions as rx
from redis.asyncio import connection as aio

from redis_tiered.breaker import Breaker
from redis_tiered.endpoint import Address, Endpoint
from redis_tiered.errors import (
    ConfigurationError,
    EmbeddedServerError,
    TierError,
    TierReplyError,
    TierUnavailable,
)
from redis_tiered.flow import Command
from redis_tiered.tiers.embedded import EmbeddedServer
from redis_tiered.tiers.routing import Moved, Routing, find_primary

__all__ = ["ConnectionFactory", "adrive", "drive", "exchange", "failure", "pack", "pack_briefly"]

# Seconds for the embedded server to end with its last user.
_LAST_USER_WAITS = 2.0
_IN_SCRIPT = re.compile(r"-(OOM|READONLY|MISCONF|NOREPLICAS) ")

# redis-py's asyncio connections pack in Python, five times slower than hiredis; its stub asks for
# a tuple of one.
pack: Callable[[Command], bytes] = pack_command  # type: ignore[assignment]


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
        breaker: of Redis.
    """

    def __init__(self, endpoint: Endpoint, timeout: float, breaker: Breaker | None = None) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self._breaker = None if endpoint.topology == "cluster" else breaker
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

    @property
    def generation(self) -> int:
        """Connections that were made under an earlier one are not used any more.

        An old primary that is still alive keeps its connections: this process must not go on using
        it on some of them, and on others the one that was promoted.
        """
        return 0 if self._breaker is None else self._breaker.incarnation

    def connect(self, address: Address | None) -> Any:
        """A connected blocking connection; `address` None means the primary.

        Raises:
            TierError: it cannot be made.
        """
        generation = self.generation
        connection = self._new(blocking, address or self._primary(), self.timeout)
        connection.generation = generation
        try:
            connection.connect()
        except (rx.RedisError, OSError, ValueError) as error:  # ValueError: an odd host name
            connection.disconnect()
            raise failure(error, connecting=True) from error
        return connection

    async def aconnect(self, address: Address | None) -> Any:
        """A connected asyncio connection without timeouts of its own: its channel has them."""
        generation = self.generation
        connection = self._new(aio, address or await self._aprimary(), None)
        connection.generation = generation
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
        primary: Address = drive(
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
        primary: Address = await adrive(
            search,
            lambda address: _AsyncAsked(self._new(aio, address, None, sentinel=True), self.timeout),
        )
        return primary


def drive(routing: Routing, at: Any) -> Any:
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


async def adrive(routing: Routing, at: Any) -> Any:
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
            return exchange(self._connection, commands)
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


def exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send commands and read every reply; the first error reply is raised after the last is read."""
    try:
        return _exchange_packed(connection, b"".join(map(pack_briefly, commands)), len(commands))
    except rx.NoScriptError:
        return _exchange_packed(connection, b"".join(map(pack, commands)), len(commands))


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


def pack_briefly(command: Command) -> bytes:
    """Serialize a command; a script by its digest. A server that does not know the script says
    NOSCRIPT, and is sent the command whole: all commands sent with a script may be repeated."""
    if command[0] == "EVAL":
        return pack(("EVALSHA", _digest(command[1]), *command[2:]))
    return pack(command)


@functools.lru_cache(maxsize=256)
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
