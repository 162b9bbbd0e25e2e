"""`Tiers`: the one object a user builds."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, overload

from redis_tiered.endpoint import Address, Endpoint
from redis_tiered.errors import ConfigurationError, SchemaError, TierError
from redis_tiered.flow import Flow, Guards, Redis, Sql
from redis_tiered.keys import Keyspace
from redis_tiered.settings import Settings, from_environment
from redis_tiered.tiers.durable import DurableURL
from redis_tiered.tiers.housekeeping import Housekeeper
from redis_tiered.tiers.memory import Memory
from redis_tiered.tiers.runtime import Runtime

if TYPE_CHECKING:
    from redis_tiered.maps.map import Map
    from redis_tiered.sessions.session import Session
    from redis_tiered.sessions.sessions import Sessions
    from redis_tiered.vectors.collection import Collection

__all__ = ["Tiers"]

T = TypeVar("T")


class Tiers:
    """Process memory, Redis and a durable store, for one tenant of one namespace.

    Nothing is connected before first use. One object serves threads, event loops and forked
    children, and pickles as its configuration. `with` and `async with` close it.

    Args:
        redis: a URL (`redis://`, `rediss://`, `unix://`, `redis+sentinel://host:port,.../service`,
            `redis+cluster://host:port,...`), or a redis-py client, sync or asyncio. A client is
            read for where and how to connect; it is never used or closed.
        durable: None, a SQLAlchemy URL of a SQLite file or a PostgreSQL database, or an engine,
            likewise only read for its URL.
        namespace: what all keys of this application start with.
        tenant: whose data this is; tenants never see each other's.
        l1_max_bytes, l1_ttl, index_max_bytes, redis_timeout, durable_timeout, max_connections: see
            `Settings`.

    Raises:
        ConfigurationError: an argument cannot be used; credentials are not repeated.
        InvalidInput: `namespace` or `tenant` cannot be part of a key.
        MissingExtra: a driver is not installed.
    """

    _default: ClassVar[Tiers | None] = None
    _default_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        redis: object,
        durable: object = None,
        *,
        namespace: str = "redis-tiered",
        tenant: str = "default",
        **settings: Any,
    ) -> None:
        try:
            self._build(Settings(Endpoint.of(redis), **settings), durable, namespace, tenant)
        except TypeError:
            known = {name for name in Settings.__dataclass_fields__ if name != "endpoint"}
            unknown = sorted(set(settings) - known)
            if not unknown:
                raise
            raise ConfigurationError(
                f"unknown settings {unknown}; accepted: {sorted(known)}"
            ) from None

    def _build(self, settings: Settings, durable: object, namespace: str, tenant: str) -> None:
        self.keys = Keyspace(namespace, tenant)
        url = durable if isinstance(durable, DurableURL) or durable is None else DurableURL(durable)
        self._runtime = Runtime(settings, url, self.keys.prefix)

    @classmethod
    def embedded(cls, path: str | Path | None = None, **arguments: Any) -> Tiers:
        """A private server and a SQLite file under `path` (None: the user's data directory).

        The server starts with the first use, is shared by all processes that name the same path,
        and ends with the last of them.

        Raises:
            ConfigurationError: `path` is not a path.
        """
        from redis_tiered.tiers.embedded import EmbeddedServer

        if path is not None and not isinstance(path, str | Path):
            raise ConfigurationError(
                f"path must be a str, a Path or None, got {type(path).__name__}"
            )
        directory = EmbeddedServer(None if path is None else Path(path)).directory
        durable = arguments.pop("durable", f"sqlite:///{directory / 'durable.db'}")
        return cls(Endpoint("embedded", directory=directory), durable, **arguments)

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Tiers:
        """From `REDIS_TIERED_REDIS_URL`, `REDIS_TIERED_DURABLE_URL` and the others in `settings`.

        Raises:
            ConfigurationError: the URL of Redis is not set, or a variable cannot be used.
        """
        arguments = from_environment(os.environ if environment is None else environment)
        if "redis" not in arguments:
            raise ConfigurationError(
                "REDIS_TIERED_REDIS_URL is not set; Tiers.embedded() needs no server"
            )
        return cls(arguments.pop("redis"), arguments.pop("durable", None), **arguments)

    @classmethod
    def default(cls) -> Tiers:
        """One per process: from the environment if it names a Redis, else embedded."""
        with Tiers._default_lock:
            if Tiers._default is None or Tiers._default.closed:
                arguments = from_environment(os.environ)
                Tiers._default = (
                    cls.from_env() if "redis" in arguments else cls.embedded(**arguments)
                )
            return Tiers._default

    def tenant(self, name: str) -> Tiers:
        """The same tiers, connections and memory, in another tenant's scope.

        Raises:
            InvalidInput: the name cannot be part of a key.
        """
        other = object.__new__(type(self))
        other.keys = Keyspace(self.keys.namespace, name)
        other._runtime = self._runtime
        return other

    def __repr__(self) -> str:
        durable = None if self.durable is None else self.durable.shown
        return (
            f"Tiers({self._runtime.settings.endpoint.describe()!r}, {durable!r}, "
            f"namespace={self.keys.namespace!r}, tenant={self.keys.tenant!r})"
        )

    @property
    def place(self) -> str:
        """Where this data is, in words and as a digest that no other place shares; no credentials."""
        durable = None if self.durable is None else self.durable.identity()
        where = (self._runtime.settings.endpoint.identity(), durable)
        return f"{self!r} {blake2b(repr(where).encode(), digest_size=6).hexdigest()}"

    # What the capabilities build on.

    @property
    def memory(self) -> Memory:
        return self._runtime.memory

    @property
    def settings(self) -> Settings:
        return self._runtime.settings

    @property
    def guards(self) -> Guards:
        return self._runtime.guards

    @property
    def housekeeper(self) -> Housekeeper:
        return self._runtime.housekeeper

    @property
    def durable(self) -> DurableURL | None:
        return self._runtime.durable

    @property
    def closed(self) -> bool:
        return self._runtime.closed

    def run(self, flow: Flow[T]) -> T:
        """Run a flow with blocking clients."""
        return self._runtime.run(flow)

    async def arun(self, flow: Flow[T]) -> T:
        """Run a flow with the asyncio clients of the running loop."""
        return await self._runtime.arun(flow)

    def primaries(self) -> list[Address | None]:
        """Addresses of the cluster's primaries; `[None]` where there is just one server."""
        return self._runtime.primaries()

    def on_fork(self, listener: Any) -> None:
        self._runtime.on_fork(listener)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What all tenants have in common under a key; made when it is first asked for."""
        return self._runtime.shared(key, make)

    # The capabilities that hang on it.

    def session(self, session_id: str, **options: Any) -> Session:
        """A conversation of this tenant; see `redis_tiered.Session` for the options.

        Raises:
            InvalidInput: the id cannot be part of a key, or an option cannot be used.
        """
        from redis_tiered.sessions.session import Session

        return Session(self, session_id, **options)

    @property
    def sessions(self) -> Sessions:
        """This tenant's conversations, all together."""
        from redis_tiered.sessions.sessions import Sessions

        return Sessions(self)

    def collection(self, name: str, dims: int | None = None, **options: Any) -> Collection:
        """Documents with vectors; see `redis_tiered.Collection` for the options.

        Raises:
            InvalidInput: the name cannot be part of a key, or an option cannot be used.
        """
        from redis_tiered.vectors.collection import Collection

        return Collection(self, name, dims, **options)

    @overload
    def map(
        self, name: str, *, values: Literal["bytes"] = "bytes", **options: Any
    ) -> Map[bytes]: ...

    @overload
    def map(self, name: str, *, values: Literal["json"], **options: Any) -> Map[Any]: ...

    def map(self, name: str, *, values: str = "bytes", **options: Any) -> Map[Any]:
        """Names to values; see `redis_tiered.Map` for the options.

        Args:
            name: maps of different names share nothing.
            values: "bytes", or "json" for what JSON has a word for, and for tuples, sets, bytes,
                datetimes and other types of Python's that come back the same.
            options: `ttl`, `jitter`, `compress_from`, `max_value`.

        Raises:
            InvalidInput: the name cannot be part of a key, or an option cannot be used.
        """
        from redis_tiered.maps.map import Map, codec

        return Map(self, name, codec(values), **options)

    # Life.

    def setup(self, *, timeout: float = 5.0) -> None:
        """Connect now: check Redis, bring the database to this version, put L1 in service.

        Optional: everything else does it at first use, and goes on without a tier that fails.

        Args:
            timeout: seconds to wait for L1.

        Raises:
            TierUnavailable: a tier cannot be reached.
            SchemaError: the database is newer than this version, or holds foreign tables.
        """
        try:
            self.run(_probe(self))
        except TierError as error:
            raise _cause(error) from None
        self._runtime.wait_coherent(timeout)

    async def asetup(self, *, timeout: float = 5.0) -> None:
        """As `setup`."""
        import asyncio

        try:
            await self.arun(_probe(self))
        except TierError as error:
            raise _cause(error) from None
        await asyncio.to_thread(self._runtime.wait_coherent, timeout)

    def close(self) -> None:
        """Close all connections, for every tenant; idempotent. Clients passed in stay open."""
        self._runtime.close()

    async def aclose(self) -> None:
        """As `close`."""
        await self._runtime.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        settings = self._runtime.settings
        return _rebuild, (settings, self.durable, self.keys.namespace, self.keys.tenant)


def _rebuild(settings: Settings, durable: DurableURL | None, namespace: str, tenant: str) -> Tiers:
    tiers = object.__new__(Tiers)
    tiers._build(settings, durable, namespace, tenant)
    return tiers


def _probe(tiers: Tiers) -> Flow[None]:
    if tiers.durable is not None:
        yield Sql(lambda connection: None)
    yield Redis((("EXISTS", tiers.keys.prefix),))


def _cause(error: TierError) -> Exception:
    return error.__cause__ if isinstance(error.__cause__, SchemaError) else error
