"""asyncio connections to one server, on which the requests of all callers travel together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions as rx

from redis_tiered.endpoint import Address
from redis_tiered.errors import (
    ClosedError,
    TierError,
    TierUnavailable,
)
from redis_tiered.flow import Command
from redis_tiered.tiers.connections import (
    ConnectionFactory,
    failure,
    pack,
    pack_briefly,
)

__all__ = ["Channels"]

# asyncio connections per server: each carries the requests of all callers, so few are enough;
# more than one keeps a slow reply from delaying every other request.
_CHANNELS = 3
_BATCH = 512


class _Request:
    __slots__ = ("commands", "done", "pack")

    def __init__(self, commands: Sequence[Command], done: asyncio.Future[list[Any]]) -> None:
        self.commands = commands
        self.done = done
        self.pack: Callable[[Command], bytes] = pack_briefly


class Channels:
    """A few asyncio connections to one server."""

    def __init__(self, factory: ConnectionFactory, address: Address | None) -> None:
        self._channels = [Channel(factory, address) for _ in range(_CHANNELS)]

    async def execute(self, commands: Sequence[Command], fresh: bool) -> list[Any]:
        # The first channel that is not waiting for replies: requests made in one turn of the
        # loop find the same one and leave as one pipeline.
        channels = self._channels
        for channel in channels:
            if not channel.in_flight:
                return await channel.execute(commands, fresh)
        return await min(channels, key=Channel.queued).execute(commands, fresh)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


class Channel:
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
                if self._fresh or (
                    self._connection is not None
                    and self._connection.generation != self._factory.generation
                ):
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
            elif isinstance(problem, rx.NoScriptError) and request.pack is not pack:
                request.pack = pack
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
