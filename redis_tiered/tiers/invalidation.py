"""Keeps L1 coherent: the server tells us which keys of our namespace changed.

Broadcast mode of CLIENT TRACKING on a connection of its own, one per primary, RESP2, redirected to
itself; works on Redis >= 6 and Valkey. While any of these connections is down L1 stays empty.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

from redis import exceptions as rx

from redis_tiered.breaker import Breaker
from redis_tiered.endpoint import Address
from redis_tiered.errors import RedisTieredError
from redis_tiered.tiers.connections import ConnectionFactory
from redis_tiered.tiers.memory import Memory
from redis_tiered.tiers.redis import SyncRedis

__all__ = ["Invalidations"]

logger = logging.getLogger("redis_tiered")

# An idle connection is asked for a sign of life after this many seconds, and given up after as
# many more: a server that hangs without closing its connections is noticed in twice this time.
_HEARTBEAT = 0.5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
_REFUSED_PAUSE = 30.0
_TOPOLOGY_INTERVAL = 1.0


class Invalidations:
    """Threads that listen for invalidations and apply them to L1.

    Args:
        memory: what to keep coherent.
        factory: makes the connections.
        redis: tells the primaries of a cluster.
        breaker: told when the server is seen alive, so that service resumes at once, and when it
            may have been away though this process asked it nothing.
        prefix: of the keys that matter.
    """

    def __init__(
        self,
        memory: Memory,
        factory: ConnectionFactory,
        redis: SyncRedis,
        breaker: Breaker,
        prefix: bytes,
    ) -> None:
        self._memory = memory
        self._factory = factory
        self._redis = redis
        self._breaker = breaker
        self._prefix = prefix
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._wanted: set[Address | None] = set()
        self._listening: set[Address | None] = set()
        self.coherent = threading.Event()

    def start(self) -> None:
        # The threads hold us weakly between two messages, so that a forgotten `Tiers` can go.
        if self._factory.endpoint.topology == "cluster":
            self._spawn(_follow_cluster, weakref.ref(self))
        else:
            self._want({None})

    def stop(self) -> None:
        """Ask the threads to end; they do within a heartbeat."""
        self._stop.set()

    def _spawn(self, target: Any, *args: Any) -> None:
        threading.Thread(
            target=target, args=args, name="redis-tiered invalidations", daemon=True
        ).start()

    def _want(self, addresses: set[Address | None]) -> None:
        with self._lock:
            new = addresses - self._wanted
            gone = self._wanted - addresses
            self._wanted = addresses
            self._listening -= gone
        for address in new:
            self._spawn(_listen, weakref.ref(self), address)
        if new or gone:
            self._settle()

    def _is_wanted(self, address: Address | None) -> bool:
        return not self._stop.is_set() and address in self._wanted

    def _connected(self, address: Address | None) -> None:
        with self._lock:
            if address in self._wanted:
                self._listening.add(address)
        self._breaker.hint()
        self._settle()

    def _lost(self, address: Address | None) -> None:
        with self._lock:
            listened = address in self._listening
            self._listening.discard(address)
        self._settle()
        if listened and not self._stop.is_set():
            self._breaker.interrupted()

    def _settle(self) -> None:
        # Everything is dropped on every change: what was kept may have missed a message.
        with self._lock:
            complete = (
                bool(self._wanted) and self._listening == self._wanted and not self._stop.is_set()
            )
            self._memory.flush(coherent=complete)
            if complete:
                self.coherent.set()
            else:
                self.coherent.clear()

    def _track(self, address: Address | None) -> Any:
        connection = self._factory.connect(address)
        try:
            connection.send_command("CLIENT", "ID")
            number = connection.read_response()
            connection.send_command(
                "CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", "PREFIX", self._prefix
            )
            connection.read_response()
            connection.send_command("SUBSCRIBE", "__redis__:invalidate")
            connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def _apply(self, message: Any) -> None:
        if message[0] == b"message":
            keys = message[2]
            if keys is None:  # FLUSHALL, FLUSHDB
                self._memory.empty()
            else:
                self._memory.invalidate(keys)


def _listen(reference: weakref.ref[Invalidations], address: Address | None) -> None:
    pause = _FIRST_PAUSE
    connection: Any = None
    try:
        while (owner := reference()) is not None and owner._is_wanted(address):
            try:
                connection = owner._track(address)
                owner._connected(address)
                pause = _FIRST_PAUSE
                asked = False
                while owner is not None and owner._is_wanted(address):
                    del owner
                    if connection.can_read(timeout=_HEARTBEAT):
                        asked = False
                        message = connection.read_response()
                        if (owner := reference()) is not None:
                            owner._apply(message)
                    elif asked:
                        raise rx.TimeoutError("no sign of life")
                    else:
                        asked = True
                        connection.send_command("PING", check_health=False)
                    owner = reference()
            except rx.ResponseError as error:
                # A proxy or a restricted user: probed again now and then, in case that changes.
                logger.log(
                    logging.DEBUG if pause == _REFUSED_PAUSE else logging.WARNING,
                    "the server refuses CLIENT TRACKING, L1 stays empty: %s",
                    error,
                )
                pause = _REFUSED_PAUSE
            except (rx.RedisError, RedisTieredError, OSError) as error:
                logger.debug("invalidation connection lost: %s", type(error).__name__)
            if connection is not None:
                connection.disconnect()
                connection = None
            if (owner := reference()) is not None:
                owner._lost(address)
                stop = owner._stop
                del owner
                stop.wait(pause)
            if pause != _REFUSED_PAUSE:
                pause = min(pause * 2, _LONGEST_PAUSE)
    finally:
        if connection is not None:
            connection.disconnect()


def _follow_cluster(reference: weakref.ref[Invalidations]) -> None:
    while (owner := reference()) is not None and not owner._stop.is_set():
        try:
            owner._want(set(owner._redis.primaries()))
        except RedisTieredError as error:
            logger.debug("cluster topology unknown: %s", error)
        stop = owner._stop
        del owner
        stop.wait(_TOPOLOGY_INTERVAL)
