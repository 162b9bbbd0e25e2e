"""L3: SQL units of work on SQLite or PostgreSQL, blocking and asyncio."""

from __future__ import annotations

import asyncio
import importlib.util
import sqlite3
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from redis_tiered.errors import (
    ClosedError,
    ConfigurationError,
    MissingExtra,
    SchemaError,
    TierError,
    TierReplyError,
    TierUnavailable,
)
from redis_tiered.flow import Sql

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["AsyncDurable", "DurableURL", "SyncDurable"]

_POLL = 0.002
_ACCEPTED = "sqlite:///path/to/file.db, postgresql://user:password@host/database, or a SQLAlchemy engine for one"


class DurableURL:
    """Where the durable tier is: picklable, and printed without its password.

    An engine is read for its URL; our own engines are made from that, the given one is never
    used or closed.

    Args:
        source: a URL or a SQLAlchemy `Engine` or `AsyncEngine`, for SQLite (a file) or PostgreSQL.

    Raises:
        ConfigurationError: it does not parse, or is of another kind of database.
        MissingExtra: SQLAlchemy or the driver is not installed.
    """

    def __init__(self, source: object) -> None:
        url = _parse(source)
        self.dialect = url.get_backend_name()
        if self.dialect == "sqlite":
            where = f"{url.database}?{url.query.get('mode')}?{url.query.get('vfs')}"
            if not url.database or any(
                word in where for word in (":memory:", "?memory", "mode=memory", "memdb")
            ):
                raise ConfigurationError(
                    "durable must be a file: an in-memory SQLite database is lost with the process"
                )
            if "\0" in str(url.database):
                raise ConfigurationError("durable holds a NUL in the path of the SQLite file")
        elif importlib.util.find_spec("psycopg") is None:
            raise MissingExtra("postgres", "a PostgreSQL durable tier")
        self._url = url.render_as_string(hide_password=False)
        self.shown = url.set(query={}).render_as_string(hide_password=True)

    def __repr__(self) -> str:
        return f"DurableURL({self.shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DurableURL) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def identity(self) -> tuple[object, ...]:
        """What tells it from any other database, without credentials."""
        from sqlalchemy import make_url

        url = make_url(self._url)
        # Where psycopg connects may stand in the query; so may what it connects with.
        query = {name: url.query[name] for name in url.query if "pass" not in name}
        return self.dialect, url.username, url.host, url.port, url.database, sorted(query.items())

    def sync(self) -> URL:
        return self._for("sqlite+pysqlite", "postgresql+psycopg")

    def aio(self) -> URL:
        return self._for("sqlite+aiosqlite", "postgresql+psycopg")

    def _for(self, sqlite: str, postgresql: str) -> URL:
        from sqlalchemy import make_url

        return make_url(self._url).set(
            drivername=sqlite if self.dialect == "sqlite" else postgresql
        )


def _parse(source: object) -> URL:
    try:
        from sqlalchemy import URL, make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        raise MissingExtra("durable", "the durable tier") from None
    engine = getattr(source, "url", None)
    if isinstance(source, str):
        if "\0" in source or any(0xD800 <= ord(letter) <= 0xDFFF for letter in source):
            raise ConfigurationError(
                f"durable URL holds a NUL or a lone surrogate; accepted: {_ACCEPTED}"
            )
        try:
            url = make_url(source)
        except (ArgumentError, ValueError):
            # The URL itself may hold a password: it is not repeated.
            raise ConfigurationError(f"durable URL does not parse; accepted: {_ACCEPTED}") from None
    elif isinstance(source, URL):
        url = source
    elif isinstance(engine, URL):
        url = engine
    else:
        raise ConfigurationError(f"durable must be {_ACCEPTED}; got {type(source).__name__}")
    if url.drivername == "postgres":
        url = url.set(drivername="postgresql")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            f"durable URL is for {url.get_backend_name()!r}; accepted: {_ACCEPTED}"
        )
    return url


def _connect_args(url: DurableURL, timeout: float) -> dict[str, Any]:
    if url.dialect == "sqlite":
        return {"timeout": timeout, "check_same_thread": False}
    # libpq waits whole seconds, and at least two.
    return {
        "connect_timeout": max(2, round(timeout)),
        "options": f"-c statement_timeout={int(timeout * 1000)} -c lock_timeout={int(timeout * 1000)}",
        # A pooler between us and the server may hand each transaction to another backend.
        "prepare_threshold": None,
    }


def _reader_and_writer(engine: Engine) -> tuple[dict[str, Any], dict[str, Any]]:
    """Execution options of an engine for reads and for writes; both share its connections.

    PostgreSQL reads in autocommit: a statement is one round trip, not three. SQLite is put into
    WAL, and the driver's own implicit BEGIN is switched off: reads need none, and a transaction
    that starts as a reader and becomes a writer fails with SQLITE_BUSY without waiting, where
    BEGIN IMMEDIATE waits for its turn.
    """
    from sqlalchemy import event

    if engine.dialect.name != "sqlite":
        return {"isolation_level": "AUTOCOMMIT"}, {}

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        if connection.get_execution_options().get("redis_tiered_write"):
            # By the driver's own cursor: SQLAlchemy's way takes longer than SQLite's.
            cursor = connection.connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            cursor.close()

    return {}, {"redis_tiered_write": True}


def _failure(error: Exception) -> TierError:
    """What an error of SQLAlchemy or a driver means to a flow. Messages of drivers may quote
    statements and connection strings, so only codes and classes are kept."""
    from sqlalchemy import exc

    if isinstance(error, TierError):
        return error
    if isinstance(error, SchemaError):
        return TierUnavailable("durable", "schema", str(error))
    if isinstance(error, exc.TimeoutError):
        return TierUnavailable("durable", "pool", "all connections are in use")
    if isinstance(error, TimeoutError):
        return TierUnavailable("durable", "timeout")
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        return _sqlite_failure(original)
    state = getattr(original, "sqlstate", None) or ""
    if state in ("40001", "40P01"):
        return TierUnavailable("durable", "serialization")
    if state in ("57014", "55P03"):
        return TierUnavailable("durable", "timeout")
    if state == "57P03":
        return TierUnavailable("durable", "loading")
    if state[:2] == "28" or state in ("3D000", "42501"):
        return TierUnavailable(
            "durable", "auth", "the server refused the credentials or the database"
        )
    if state[:2] == "53":
        return TierUnavailable("durable", "full")
    if state == "25006":
        return TierUnavailable("durable", "readonly")
    if (
        state[:2] == "57"
        or state[:2] == "08"
        or (isinstance(error, exc.DBAPIError) and error.connection_invalidated)
    ):
        return TierUnavailable("durable", "reset")
    if isinstance(original, OSError) or type(original).__name__ in (
        "OperationalError",
        "ConnectionTimeout",
    ):
        return TierUnavailable("durable", "refused", type(original).__name__)
    return TierReplyError("durable", "reply", f"{type(original).__name__} {state}".strip())


def _sqlite_failure(error: sqlite3.Error) -> TierError:
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return TierUnavailable("durable", "locked")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return TierUnavailable(
            "durable", "schema", "the file is not a SQLite database, or is damaged"
        )
    if name.startswith("SQLITE_FULL"):
        return TierUnavailable("durable", "full")
    if name.startswith("SQLITE_READONLY"):
        return TierUnavailable("durable", "readonly")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return TierUnavailable("durable", "refused", name)
    return TierReplyError("durable", "reply", f"{type(error).__name__} {name}".strip())


class SyncDurable:
    """Blocking units of work; thread-safe.

    Args:
        url: the database.
        timeout: seconds for a lock, a statement, a connection of the pool.
    """

    def __init__(self, url: DurableURL, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._engines: tuple[Engine, Engine] | None = None
        self._users: deque[None] = deque()  # one item per call; a count that needs no lock
        self._parents: list[object] = []
        self._closed = False

    def execute(self, step: Sql) -> Any:
        """Run a unit of work; one that writes runs in a transaction.

        Raises:
            TierError: it failed; nothing of it was written.
        """
        self._users.append(None)
        try:
            if self._closed:
                raise ClosedError("durable", "closed", "this Tiers was closed")
            reader, writer = self._engines or self._open()
            if step.write:
                return self._write(writer, step)
            with reader.connect() as connection:
                return step.work(connection)
        except _database_errors() as error:
            raise _failure(error) from error
        finally:
            self._users.pop()

    def _write(self, writer: Engine, step: Sql) -> Any:
        if self._url.dialect != "sqlite":
            with writer.begin() as connection:
                return step.work(connection)
        # SQLite lets one in at a time, and who waits for it looks again now and then: of many, some
        # never find it free. Here they stand in a line.
        if not self._writing.acquire(timeout=self._timeout):
            raise TierUnavailable("durable", "locked")
        try:
            with writer.begin() as connection:
                return step.work(connection)
        finally:
            self._writing.release()

    def close(self) -> None:
        """Close all connections, after a timeout also those in use."""
        self._closed = True
        # What is in use when a pool is disposed of is never closed, only collected.
        deadline = time.monotonic() + self._timeout
        while self._users and time.monotonic() < deadline:
            time.sleep(_POLL)
        engines, self._engines = self._engines, None
        if engines is not None:
            engines[0].dispose()

    def abandon(self) -> None:
        """After fork: forget connections that belong to the parent, without closing them."""
        engines, self._engines = self._engines, None
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._users = deque()
        if engines is not None:
            # Kept, or psycopg warns when they are collected that they were never closed.
            self._parents.append(engines[0].pool)
            engines[0].dispose(close=False)

    def _open(self) -> tuple[Engine, Engine]:
        from sqlalchemy import create_engine

        from redis_tiered.tiers.schema import migrate

        # A database that is locked keeps the first caller for a whole timeout: the others do not
        # queue up behind it for one timeout each.
        if not self._lock.acquire(timeout=self._timeout):
            raise TierUnavailable("durable", "timeout", "it is still being opened")
        try:
            if self._engines is None:
                try:
                    engine = create_engine(
                        self._url.sync(),
                        connect_args=_connect_args(self._url, self._timeout),
                        pool_timeout=self._timeout,
                        hide_parameters=True,
                    )
                except ImportError:
                    raise MissingExtra("postgres", "a PostgreSQL durable tier") from None
                reads, writes = _reader_and_writer(engine)
                writer = engine.execution_options(**writes) if writes else engine
                try:
                    with writer.begin() as connection:
                        migrate(connection)
                except BaseException:
                    engine.dispose()
                    raise
                reader = engine.execution_options(**reads) if reads else engine
                self._engines = (reader, writer)
            return self._engines
        finally:
            self._lock.release()


class AsyncDurable:
    """The same units of work on one event loop."""

    def __init__(self, url: DurableURL, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._opening = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._engines: tuple[AsyncEngine, AsyncEngine] | None = None
        self._users = 0
        self._closed = False

    async def execute(self, step: Sql) -> Any:
        """As `SyncDurable.execute`."""
        self._users += 1
        try:
            if self._closed:
                raise ClosedError("durable", "closed", "this Tiers was closed")
            reader, writer = self._engines or await self._open()
            if step.write:
                return await self._write(writer, step)
            connection = await _taken(reader)
            try:
                return await connection.run_sync(step.work)
            finally:
                await asyncio.shield(asyncio.ensure_future(connection.close()))
        except _database_errors() as error:
            raise _failure(error) from error
        finally:
            self._users -= 1

    async def _write(self, writer: AsyncEngine, step: Sql) -> Any:
        """As `SyncDurable._write`."""
        if self._url.dialect != "sqlite":
            async with writer.begin() as connection:
                return await connection.run_sync(step.work)
        try:
            async with asyncio.timeout(self._timeout):
                await self._writing.acquire()
        except TimeoutError:
            raise TierUnavailable("durable", "locked") from None
        try:
            async with writer.begin() as connection:
                return await connection.run_sync(step.work)
        finally:
            self._writing.release()

    async def close(self) -> None:
        """As `SyncDurable.close`."""
        self._closed = True
        deadline = time.monotonic() + self._timeout
        while self._users and time.monotonic() < deadline:
            await asyncio.sleep(_POLL)
        # Forgotten only then: a loop that ends may cancel this, and calls it again.
        if self._engines is not None:
            await self._engines[0].dispose()
            self._engines = None

    async def _open(self) -> tuple[AsyncEngine, AsyncEngine]:
        from sqlalchemy.ext.asyncio import create_async_engine

        from redis_tiered.tiers.schema import migrate

        async with asyncio.timeout(self._timeout):
            await self._opening.acquire()
        try:
            if self._engines is None:
                if self._url.dialect == "sqlite":
                    await asyncio.to_thread(_try_to_open, self._url)
                try:
                    engine = create_async_engine(
                        self._url.aio(),
                        connect_args=_connect_args(self._url, self._timeout),
                        pool_timeout=self._timeout,
                        hide_parameters=True,
                    )
                except ImportError:
                    raise MissingExtra("postgres", "a PostgreSQL durable tier") from None
                reads, writes = _reader_and_writer(engine.sync_engine)
                writer = engine.execution_options(**writes) if writes else engine
                try:
                    async with writer.begin() as connection:
                        await connection.run_sync(migrate)
                except BaseException:
                    await engine.dispose()
                    raise
                reader = engine.execution_options(**reads) if reads else engine
                self._engines = (reader, writer)
            return self._engines
        finally:
            self._opening.release()


async def _taken(engine: AsyncEngine) -> AsyncConnection:
    """A connection of the pool. Whoever is cancelled while it is prepared gives it back."""
    taking = asyncio.ensure_future(engine.connect().start())
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        taking.add_done_callback(_give_back)
        raise


def _give_back(taking: asyncio.Future[AsyncConnection]) -> None:
    if not taking.cancelled() and taking.exception() is None:
        closing = asyncio.ensure_future(taking.result().close())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)


_closing: set[asyncio.Future[None]] = set()  # held, or the loop forgets them


def _try_to_open(url: DurableURL) -> None:
    """Fail where aiosqlite would fail: its thread then reports to the loop, closed or not."""
    from sqlalchemy import NullPool, create_engine

    create_engine(url.sync(), poolclass=NullPool).connect().close()


def _database_errors() -> tuple[type[Exception], ...]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError, SchemaError, OSError, sqlite3.Error
