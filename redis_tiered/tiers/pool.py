"""Blocking connections to one server, shared by threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis import exceptions as rx

from redis_tiered.endpoint import Address
from redis_tiered.errors import (
    TierUnavailable,
)
from redis_tiered.flow import Command
from redis_tiered.tiers.connections import (
    ConnectionFactory,
    exchange,
    failure,
)

__all__ = ["Pool"]


class Pool:
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
        if connection.generation != self._factory.generation:
            self._discard(connection)
            return self.execute(commands, fresh=True)
        healthy = False
        try:
            replies = exchange(connection, commands)
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
