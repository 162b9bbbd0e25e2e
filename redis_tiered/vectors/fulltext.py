"""Full text in the durable tier: FTS5 of SQLite, tsvector of PostgreSQL.

Both get words that `words` has split, each with the serial of its collection before it: so a word
is looked up, and is as common or as rare, within its own collection only. A word that is looked
for is a quoted constant to both; nothing in it is syntax.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Float,
    Select,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY

from redis_tiered.errors import TierReplyError
from redis_tiered.tiers.schema import collections, documents, texts
from redis_tiered.tiers.statements import Prepared
from redis_tiered.vectors import bulk
from redis_tiered.vectors.criteria import (
    SHIFT,
    among_numbers,
    criteria,
    given_numbers,
    row_of,
    selected,
)
from redis_tiered.vectors.document import Row
from redis_tiered.vectors.filters import Filter
from redis_tiered.vectors.words import words

__all__ = ["clear", "forget", "prepared", "search", "write"]

_MAX_WORDS: Final = 64  # of a query
_MAX_RANKED: Final = 24  # of these; PostgreSQL looks at each for each document
_STATEMENT: Final = 2 << 20
_TABLE: Final[ColumnElement[Any]] = literal_column(texts.name)
_COLLECTION: Final = Prepared(
    lambda _: select(collections.c.serial, collections.c.version).where(
        collections.c.scope == bindparam("in_scope")
    )
)
_FORGET: Final = Prepared(
    lambda dialect: delete(texts).where(among_numbers(dialect, texts.c.rowid, "numbers"))
)
_HAS_FTS5: Final = Prepared(
    lambda _: text("SELECT 1 FROM sqlite_master WHERE name = 'redis_tiered_text'")
)


def _frequencies(_: str) -> Executable:
    each = func.unnest(bindparam("words", type_=ARRAY(Text))).column_valued("each")
    counted = select(func.count()).where(_matches(cast(each, TSQUERY)))
    return select(each, counted.scalar_subquery())


def _matches(query: ColumnElement[Any]) -> ColumnElement[bool]:
    return texts.c.words.bool_op("@@")(query)


_FREQUENCIES: Final = Prepared(_frequencies)


def prepared(contents: Sequence[bytes]) -> list[tuple[str, ...]]:
    """The words of texts, given in UTF-8, as `write` takes them."""
    return [words(content.decode()) for content in contents]


def write(
    connection: Connection, serial: int, first: int, contents: Sequence[tuple[str, ...]]
) -> None:
    """Write the words of documents whose numbers follow each other.

    Args:
        connection: in a transaction.
        serial: of the collection.
        first: number of the first document.
        contents: of each the words.
    """
    if connection.dialect.name != "postgresql":
        if _available(connection):
            between = f" {serial}_"
            rows = [
                (number, between + between.join(content))
                for number, content in enumerate(contents, first)
                if content
            ]
            if rows:
                connection.exec_driver_sql(
                    f"INSERT INTO {texts.name} (rowid, words) VALUES (?, ?)", rows
                )
        return
    lines: list[str] = []
    size = 0
    for number, content in enumerate(contents, first):
        if content:
            places = [f"'{serial}_{word}':{place}" for place, word in enumerate(content, 1)]
            lines.append(f"{number}\t{' '.join(places)}\n")
            size += len(lines[-1])
            if size > _STATEMENT:
                _copy(connection, lines)
                lines, size = [], 0
    _copy(connection, lines)


def _copy(connection: Connection, lines: Sequence[str]) -> None:
    if lines:
        statement = f"COPY {texts.name} (rowid, words) FROM STDIN"
        bulk.copy(connection, statement, "".join(lines).encode())


def forget(connection: Connection, numbers: Sequence[int]) -> None:
    """Delete the words of documents by number."""
    if _available(connection):
        _FORGET(connection, {"numbers": given_numbers(connection.dialect.name, numbers)})


def clear(connection: Connection, serial: int) -> None:
    """Delete the words of all documents of a collection."""
    if _available(connection):
        first = serial * SHIFT
        connection.execute(delete(texts).where(texts.c.rowid.between(first, first + SHIFT - 1)))


def _available(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql" or bool(_HAS_FTS5(connection, {}).rows)


def search(
    scope: str,
    query: str | Sequence[str],
    k: int | None,
    where: Filter | None = None,
    ids: Sequence[bytes] | None = None,
    parents: Sequence[bytes] | None = None,
    now: int | None = None,
    *,
    vectors: bool = True,
) -> Callable[[Connection], list[tuple[float, Row]]]:
    """Documents that hold any word of a query, best first.

    The more words, the rarer they are and the shorter the text, the better. SQLite ranks by BM25,
    PostgreSQL by `ts_rank` of each word times its rarity as in BM25: scores are positive, and tell
    nothing beyond their own answer.

    Args:
        scope: of the collection.
        query: plain text, or words of it; the first 64 different words count.
        k: how many at most; None: all.
        where: what metadata must satisfy; None: anything.
        ids, parents: the only ones wanted; None: any.
        now: milliseconds since 1970; what expired before is left out.
        vectors: whether vectors are wanted; if not, they are empty.

    Returns:
        A unit of work that gives scores and documents.

    Raises (from the unit of work):
        TierReplyError: this SQLite was built without FTS5.
    """
    wanted = words(query if isinstance(query, str) else " ".join(query))

    def work(connection: Connection) -> list[tuple[float, Row]]:
        dialect = connection.dialect.name
        if not _available(connection):
            raise TierReplyError("durable", "reply", "this SQLite has no FTS5, for full text")
        of = _COLLECTION(connection, {"in_scope": scope}).first()
        if of is None or not wanted:
            return []
        serial, version = of
        own = [f"{serial}_{word}" for word in list(dict.fromkeys(wanted))[:_MAX_WORDS]]
        ranked = (_tsvector if dialect == "postgresql" else _fts5)(connection, own, version)
        if ranked is None:
            return []
        conditions = criteria(
            dialect, scope, where=where, ids=ids, parents=parents, now=now, joined=True
        )
        best = (
            ranked.join(documents, documents.c.number == texts.c.rowid)
            .where(*conditions)
            .order_by(literal_column("score").desc(), documents.c.id)
            .limit(k)
            .subquery("best")
        )
        rows = connection.execute(
            selected(vectors=vectors)
            .add_columns(best.c.score)
            .join(best, best.c.rowid == documents.c.number)
            .order_by(best.c.score.desc(), documents.c.id)
        )
        return [(float(row[-1]), row_of(row[:-1])) for row in rows]

    return work


def _fts5(connection: Connection, own: Sequence[str], version: int) -> Select[Any]:
    expression = " OR ".join([f'"{word}"' for word in own])
    score = -func.bm25(_TABLE, type_=Float)
    return select(texts.c.rowid, score.label("score")).where(
        _TABLE.bool_op("MATCH")(literal(expression, Text))
    )


def _tsvector(connection: Connection, own: Sequence[str], version: int) -> Select[Any] | None:
    quoted = [f"'{word}'" for word in own]
    counted = _FREQUENCIES(connection, {"words": quoted}).rows
    known = sorted([(count, word) for word, count in counted if count])[:_MAX_RANKED]
    if not known:
        return None
    # As many documents as there were changes: too many, but as a logarithm near enough.
    among = max(version, known[-1][0])
    score: Any = literal_column("0.0")
    for count, word in known:
        rarity = math.log(1 + (among - count + 0.5) / (count + 0.5))
        one = cast(literal(word, Text), TSQUERY)
        score += literal(rarity, Float) * func.ts_rank(texts.c.words, one, literal_column("1"))
    any_of = cast(literal(" | ".join([word for _, word in known]), Text), TSQUERY)
    return select(texts.c.rowid, score.label("score")).where(_matches(any_of))
