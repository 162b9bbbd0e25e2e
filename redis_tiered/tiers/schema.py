"""The tables of the durable tier and the migrations that made them."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    inspect,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from redis_tiered.errors import SchemaError

__all__ = ["entries", "messages", "migrate", "scopes", "sessions", "tags"]

_metadata = MetaData()

# One row per cache of a tenant. Rows of an entry count only while they carry its generation; the
# epoch is the part of the Redis keys that makes all of them reachable.
scopes = Table(
    "redis_tiered_scope",
    _metadata,
    Column("scope", Text, primary_key=True),
    Column("generation", Text, nullable=False),
    Column("epoch", Text, nullable=False),
)

entries = Table(
    "redis_tiered_entry",
    _metadata,
    Column("scope", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("generation", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    # Bytes, not text: a prompt may hold NUL, which PostgreSQL's text refuses.
    Column("prompt", LargeBinary),
    Column("prompt_scope", Text, nullable=False),
    Column("created", BigInteger, nullable=False),  # milliseconds since 1970
    Column("expires", BigInteger),  # the same; NULL: never
    Column("tokens", BigInteger, nullable=False),
    # Grows with each write of the entry; Redis never replaces a later one by an earlier one.
    Column(
        "revision", BigInteger, nullable=False
    ),  # microseconds since 1970, or one more than before
    Index("redis_tiered_entry_expires", "expires"),
    Index("redis_tiered_entry_generation", "scope", "generation"),
)

tags = Table(
    "redis_tiered_tag",
    _metadata,
    Column("scope", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Index("redis_tiered_tag_digest", "scope", "digest"),
)

sessions = Table(
    "redis_tiered_session",
    _metadata,
    Column("scope", Text, primary_key=True),
    Column("session", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),  # begins at microseconds since 1970
    Column("next", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("agent", Text),
    Column("context", LargeBinary, nullable=False),
    Column("messages", BigInteger, nullable=False),
    Column("archived", BigInteger, nullable=False),
    Column("turns", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("counter", Text, nullable=False),
    Column("started", BigInteger, nullable=False),  # milliseconds since 1970
    Column("last_activity", BigInteger, nullable=False),  # the same
    Column("summary", LargeBinary),
    Column("summarized", BigInteger, nullable=False),
    Index("redis_tiered_session_activity", "scope", "last_activity", "session"),
)

messages = Table(
    "redis_tiered_message",
    _metadata,
    Column("scope", Text, primary_key=True),
    Column("session", Text, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("id", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("folded", Text, nullable=False),  # the text as it is searched
    Column("role", Text, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("counter", Text, nullable=False),
    Column("created", BigInteger, nullable=False),  # milliseconds since 1970
    Column("archived", Boolean, nullable=False),
    Index("redis_tiered_message_id", "scope", "session", "id", unique=True),
    Index("redis_tiered_message_archived", "scope", "session", "archived", "sequence"),
)

_VERSION_TABLE = "redis_tiered_schema"
# Any fixed number will do: it names our lock among the advisory locks of a PostgreSQL database.
_ADVISORY_LOCK = 7_215_604_338_127_114


def _create(*tables: Table) -> Callable[[Connection], None]:
    def migration(connection: Connection) -> None:
        for table in tables:
            connection.execute(CreateTable(table))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                connection.execute(CreateIndex(index))

    return migration


# Append only: the index of a migration plus one is the version it leads to.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    _create(scopes, entries, tags),
    _create(sessions, messages),
)


def migrate(connection: Connection) -> None:
    """Bring the database to this version's schema; safe when many processes start at once.

    Must run in a transaction that may write (SQLite: begun IMMEDIATE).

    Raises:
        SchemaError: the schema is newer than this version, or our table names are taken.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise SchemaError(
            f"the database has schema version {version}, this redis-tiered knows versions up to "
            f"{len(MIGRATIONS)}: use a newer redis-tiered"
        )
    if version == len(MIGRATIONS):
        return
    if version == 0:
        taken = {table.name for table in _metadata.sorted_tables} & set(
            inspect(connection).get_table_names()
        )
        if taken:
            raise SchemaError(
                f"the database has tables {sorted(taken)} that redis-tiered did not make"
            )
        connection.execute(text(f"CREATE TABLE {_VERSION_TABLE} (version INTEGER NOT NULL)"))
        connection.execute(text(f"INSERT INTO {_VERSION_TABLE} (version) VALUES (0)"))
    for migration in MIGRATIONS[version:]:
        migration(connection)
    connection.execute(
        text(f"UPDATE {_VERSION_TABLE} SET version = :version"), {"version": len(MIGRATIONS)}
    )


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(_VERSION_TABLE):
        return 0
    try:
        rows = connection.execute(text(f"SELECT version FROM {_VERSION_TABLE}")).scalars().all()
    except DBAPIError:
        rows = []
    if len(rows) != 1 or not isinstance(rows[0], int) or rows[0] < 1:
        raise SchemaError(
            f"the database has a table {_VERSION_TABLE} that redis-tiered did not make"
        )
    return rows[0]
