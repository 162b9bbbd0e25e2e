"""SQL that is compiled once per kind of database and executed by its driver.

What SQLAlchemy does around each statement - finding it in its cache, processing parameters and
rows by type - costs several times what SQLite needs to execute it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

__all__ = ["Done", "Prepared", "insert"]


def insert(dialect: str, table: Table) -> Any:
    """An insert that knows of conflicts, by the dialect's name."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


class Done(NamedTuple):
    """What a statement gave: rows as the driver makes them, and how many it changed."""

    rows: Sequence[Sequence[Any]]
    changed: int

    def first(self) -> Sequence[Any] | None:
        return self.rows[0] if self.rows else None


class Prepared:
    """A statement for hot paths. SQLite's booleans come back as ints.

    Args:
        build: the statement, for a dialect by name; its `bindparam`s are the parameters.
    """

    def __init__(self, build: Callable[[str], Executable]) -> None:
        self._build = build
        self._compiled: dict[str, Any] = {}

    def __call__(
        self,
        connection: Connection,
        parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    ) -> Done:
        """Execute it on the connection, in its transaction.

        Args:
            connection: where.
            parameters: by name; a sequence of them executes the statement for each.

        Raises:
            DBAPIError: as SQLAlchemy's own `execute`.
        """
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            made: Any = self._build(dialect.name).compile(dialect=dialect)  # type: ignore[attr-defined]
            compiled = (str(made), made.positiontup, made.params)
            self._compiled[dialect.name] = compiled
        text, names, constants = compiled
        cursor = connection.connection.cursor()
        try:
            if isinstance(parameters, Mapping):
                cursor.execute(text, _given(parameters, names, constants))
            else:
                cursor.executemany(text, [_given(each, names, constants) for each in parameters])
            return Done(cursor.fetchall() if cursor.description else (), cursor.rowcount)
        except dialect.loaded_dbapi.Error as error:
            gone = dialect.is_disconnect(error, connection.connection, cursor)
            if gone:
                connection.invalidate(error)
            raise DBAPIError.instance(
                text,
                None,
                error,
                dialect.loaded_dbapi.Error,
                hide_parameters=True,
                connection_invalidated=gone,
                dialect=dialect,
            ) from error
        finally:
            cursor.close()


def _given(
    parameters: Mapping[str, Any], names: Sequence[str] | None, constants: Mapping[str, Any]
) -> Any:
    if names is None:
        return {**constants, **parameters}
    return tuple([parameters[n] if n in parameters else constants[n] for n in names])
