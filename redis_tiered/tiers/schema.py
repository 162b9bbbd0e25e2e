"""The tables of the durable tier and the migrations that made them."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    inspect,
    literal_column,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from redis_tiered.errors import SchemaError

__all__ = [
    "collections",
    "documents",
    "entries",
    "fields",
    "items",
    "messages",
    "migrate",
    "records",
    "removals",
    "scopes",
    "sessions",
    "tags",
    "texts",
]

_metadata = MetaData()

# One row per cache of a tenant. Rows of an entry count only while they carry its generation; the
# epoch is the part of the Redis keys that makes all of them reachable.
scopes = Table(
    "redis_tiered_scope",
    _metadata,
    Column("scope", Text, primary_key=True),
    Column("generation", Text, nullable=False),
    Column("epoch", Text, nullable=False),
    # Of the latest change; microseconds since 1970 or later.
    Column("version", BigInteger, nullable=False, server_default=literal_column("0")),
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

# What is known of a cache as a whole: what it learnt, how it was calibrated.
records = Table(
    "redis_tiered_record",
    _metadata,
    Column("scope", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),  # how often it was written
    Column("value", LargeBinary, nullable=False),
)

# Values of maps. A row counts only while it carries its scope's generation.
items = Table(
    "redis_tiered_item",
    _metadata,
    Column("scope", Text, primary_key=True),
    Column("name", LargeBinary, primary_key=True),
    Column("generation", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),  # the scope's version when it was written
    Column("expires", BigInteger),  # milliseconds since 1970; NULL: never
    Column("value", LargeBinary, nullable=False),
    Index("redis_tiered_item_generation", "scope", "generation"),
)
Index(
    "redis_tiered_item_expires",
    items.c.scope,
    items.c.expires,
    sqlite_where=items.c.expires.is_not(None),
    postgresql_where=items.c.expires.is_not(None),
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

# Collections of documents with vectors. A change's number is the collection's serial in the upper
# bits and its version in the lower forty: unique in the database, and in order.
collections = Table(
    "redis_tiered_collection",
    _metadata,
    Column("scope", Text, primary_key=True),
    Column("serial", BigInteger, nullable=False, unique=True),
    Column("dims", BigInteger, nullable=False),
    Column("metric", Text, nullable=False),
    Column("version", BigInteger, nullable=False),  # of the latest change
    # Since when (milliseconds since 1970) Redis may lack changes; NULL: it has had them all.
    Column("missed", BigInteger),
    Column("pruned", BigInteger, nullable=False),  # removals up to this version are forgotten
    Column("created", BigInteger, nullable=False),  # milliseconds since 1970
)

# By this name of the type alone SQLite takes the key for its rowid, and needs no second tree.
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")

documents = Table(
    "redis_tiered_document",
    _metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("scope", Text, nullable=False),
    Column("id", LargeBinary, nullable=False),
    # What is long comes last: SQLite reads a row from its beginning.
    Column("created", BigInteger, nullable=False),  # milliseconds since 1970
    Column("expires", BigInteger),  # the same; NULL: never
    Column("uses", BigInteger, nullable=False),
    Column("used", BigInteger),  # milliseconds since 1970; NULL: never
    Column("parent", LargeBinary, nullable=False),
    Column("vector", LargeBinary, nullable=False),  # float32, little endian
    Column("metadata", LargeBinary, nullable=False),
    Column("text", LargeBinary, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Index("redis_tiered_document_id", "scope", "id", unique=True),
)
_PARTED = func.length(documents.c.parent) > literal_column("0")
Index(
    "redis_tiered_document_parent",
    documents.c.scope,
    documents.c.parent,
    sqlite_where=_PARTED,
    postgresql_where=_PARTED,
)
Index(
    "redis_tiered_document_expires",
    documents.c.scope,
    documents.c.expires,
    sqlite_where=documents.c.expires.is_not(None),
    postgresql_where=documents.c.expires.is_not(None),
)

removals = Table(
    "redis_tiered_removal",
    _metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("id", LargeBinary),  # NULL: everything that was there
)

# What filters look at: one row per field, and one per element of a list.
fields = Table(
    "redis_tiered_field",
    _metadata,
    Column("document", BigInteger, primary_key=True, autoincrement=False),
    Column("name", LargeBinary, primary_key=True),
    Column("position", BigInteger, primary_key=True),  # of an element; -1: the whole value
    Column("kind", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("folded", LargeBinary),  # text in lower case, where it differs
    Column("hash", BigInteger, nullable=False),  # of name, kind and key, and whether an element
    Index("redis_tiered_field_hash", "hash"),
    sqlite_with_rowid=False,
)

# What full-text search looks at. SQLite: a table of FTS5, if it has that, whose rowid and words
# need no declaration. PostgreSQL: words are a tsvector.
texts = Table(
    "redis_tiered_text",
    _metadata,
    Column("rowid", _NUMBER, primary_key=True, autoincrement=False),  # the document's number
    Column("words", Text, nullable=False),
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


def _create_vectors(connection: Connection) -> None:
    _create(collections, documents, removals, fields)(connection)
    if connection.dialect.name == "postgresql":
        # Numbers at random: to try to compress them takes longer than to write them.
        connection.execute(
            text("ALTER TABLE redis_tiered_document ALTER COLUMN vector SET STORAGE EXTERNAL")
        )
        connection.execute(
            text(
                "CREATE TABLE redis_tiered_text (rowid BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)"
            )
        )
        connection.execute(
            text("CREATE INDEX redis_tiered_text_words ON redis_tiered_text USING gin (words)")
        )
    elif connection.execute(text("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'")).first():
        # Words are split and folded before they come here: to this tokenizer every letter beyond
        # ASCII is part of a word.
        connection.execute(
            text(
                "CREATE VIRTUAL TABLE redis_tiered_text "
                "USING fts5(words, tokenize=\"ascii tokenchars '_'\")"
            )
        )


def _create_maps(connection: Connection) -> None:
    present = {column["name"] for column in inspect(connection).get_columns(scopes.name)}
    if "version" not in present:  # the first migration makes it by now
        connection.execute(
            text(f"ALTER TABLE {scopes.name} ADD COLUMN version BIGINT NOT NULL DEFAULT 0")
        )
    _create(items)(connection)


# Append only: the index of a migration plus one is the version it leads to.
MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    _create(scopes, entries, tags),
    _create(sessions, messages),
    _create_vectors,
    _create(records),
    _create_maps,
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
