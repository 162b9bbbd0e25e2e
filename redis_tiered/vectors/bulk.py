"""Many rows at once into a table: what is fastest on each database."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError

__all__ = ["copy", "copy_binary", "insert"]

Value = bytes | str | int | None

_BEGIN: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_COUNT: Final = struct.Struct(">h").pack
_LENGTH: Final = struct.Struct(">i").pack
_INTEGER: Final = struct.Struct(">iq").pack
# PostgreSQL limits how long one statement may take.
_STATEMENT: Final = 4 << 20


def insert(connection: Connection, table: Table, rows: Sequence[Sequence[Value]]) -> None:
    """Insert rows that have a value for each column, in the table's order.

    Args:
        connection: where, in its transaction.
        table: its columns are `BigInteger`, `LargeBinary` or `Text`.
        rows: values as such: int, bytes, str; None: NULL.

    Raises:
        DBAPIError: as SQLAlchemy's own `execute`.
    """
    if not rows:
        return
    names = ", ".join(column.name for column in table.columns)
    if connection.dialect.name == "postgresql":
        copy_binary(connection, f"{table.name} ({names})", rows)
    else:
        marks = ", ".join("?" * len(table.columns))
        # By positions, and not one statement of many rows: SQLAlchemy would look at each value.
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({names}) VALUES ({marks})", [tuple(row) for row in rows]
        )


def copy_binary(connection: Connection, into: str, rows: Iterable[Sequence[Value]]) -> None:
    """PostgreSQL: COPY in its binary format.

    https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".

    Args:
        connection: where, in its transaction.
        into: table and columns; int for bigint, bytes for the binary form of any other type.
        rows: their values.
    """
    statement = f"COPY {into} FROM STDIN WITH (FORMAT BINARY)"
    parts: list[bytes] = [_BEGIN]
    add = parts.append
    size = 0
    for row in rows:
        add(_COUNT(len(row)))
        for value in row:
            if value is None:
                add(_NULL)
            elif type(value) is int:
                add(_INTEGER(8, value))
            else:
                data = value.encode() if type(value) is str else value
                add(_LENGTH(len(data)))  # type: ignore[arg-type]
                add(data)  # type: ignore[arg-type]
                size += len(data)  # type: ignore[arg-type]
        if size > _STATEMENT:
            add(_END)
            copy(connection, statement, b"".join(parts))
            parts[:] = [_BEGIN]
            size = 0
    add(_END)
    if len(parts) > 2:
        copy(connection, statement, b"".join(parts))


def copy(connection: Connection, statement: str, data: bytes) -> None:
    """PostgreSQL: a statement COPY ... FROM STDIN, and what it reads.

    Raises:
        DBAPIError: as SQLAlchemy's own `execute`.
    """
    driver: Any = connection.connection.driver_connection
    with _as_sqlalchemy(connection, statement):
        if connection.dialect.is_async:
            from sqlalchemy.util import await_only

            await_only(_whole(_copied(driver, statement, data)))
        else:
            with driver.cursor() as cursor, cursor.copy(statement) as stream:
                stream.write(data)


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """A COPY is not left in its middle, where no ROLLBACK is accepted: who is cancelled waits."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and not task.cancelled() and task.exception() is None:
        raise cancelled
    task.result()


async def _copied(driver: Any, statement: str, data: bytes) -> None:
    async with driver.cursor() as cursor, cursor.copy(statement) as stream:
        await stream.write(data)


@contextlib.contextmanager
def _as_sqlalchemy(connection: Connection, statement: str) -> Iterator[None]:
    dialect = connection.dialect
    try:
        yield
    except dialect.loaded_dbapi.Error as error:
        gone = dialect.is_disconnect(error, connection.connection, None)
        if gone:
            connection.invalidate(error)
        raise DBAPIError.instance(
            statement,
            None,
            error,
            dialect.loaded_dbapi.Error,
            hide_parameters=True,
            connection_invalidated=gone,
            dialect=dialect,
        ) from error
