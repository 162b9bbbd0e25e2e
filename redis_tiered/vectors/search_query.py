"""What the search module is asked: queries that redisvl writes, with filters that cannot escape."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Final

from redis_tiered.errors import InvalidInput
from redis_tiered.flow import Command
from redis_tiered.vectors import tokens
from redis_tiered.vectors.engine import Query
from redis_tiered.vectors.search_schema import EXPIRES, TEXT, TOKENS, VECTOR, VERSION

__all__ = [
    "DISTANCE",
    "by_text",
    "by_vector",
    "counted",
    "expression",
    "listed",
    "nearest",
    "within",
]

DISTANCE: Final = b"vector_distance"  # what redisvl calls it
# Milliseconds. The module's own limit is half a second, after which it gives what it has found so
# far as if that were all; a client stops waiting long before this.
_TIMEOUT: Final = 60_000
_MAX_WORDS: Final = 1000
_FIELDS: Final = re.compile(r"(?:@|ismissing\s*\(\s*@?)\s*([\w|]+)", re.IGNORECASE)
_CLOSING: Final = {"(": ")", "{": "}"}


def expression(
    query: Query, declared: Collection[str], *, alive: bool = False
) -> tuple[str | None, bool]:
    """A query's filters as the module wants them, None for none; and whether they are exact.

    Args:
        declared: fields that the native filter may ask for.
        query: `native` is to be an expression of redisvl.
        alive: leave out what expired.

    Raises:
        InvalidInput: the native filter is none.
    """
    parts, exact = [], True
    if query.where is not None or query.ids is not None or query.parents is not None:
        own, exact = tokens.compile(
            query.where, ids=_texts(query.ids), parents=_texts(query.parents), tag=TOKENS
        )
        if own != "*":
            parts.append(f"({own})")
    if query.native is not None and (native := _native(query.native, declared)) is not None:
        parts.append(f"({native})")
    if alive:
        parts.append(f"-@{EXPIRES}:[-inf {query.now}]")
    return " ".join(parts) or None, exact


def by_vector(
    index: bytes, fields: Sequence[str], vector: bytes, where: str | None, size: int, reach: int
) -> Command:
    """The nearest, nearest first.

    Args:
        index: name of the index.
        fields: what is wanted of each document.
        vector: as the index has vectors.
        where: see `expression`.
        size: how many.
        reach: how many candidates to look at, for HNSW; 0: as the index was made.
    """
    from redisvl.query import VectorQuery

    query = VectorQuery(
        vector,
        VECTOR,
        return_fields=list(fields),
        filter_expression=where,
        num_results=size,
        ef_runtime=reach or None,
    )
    return _command(index, query)


def nearest(
    index: bytes,
    fields: Sequence[str],
    vector: bytes,
    parents: Sequence[bytes] | None,
    size: int,
    reach: int,
) -> Command:
    """As `by_vector` of the documents that have one of these parents (None: any), in any order.

    Not written by redisvl, which takes as long as to read the answer.
    """
    where = "*"
    if parents is not None:
        tags = "|".join([tokens.parent_token(parent.decode()) for parent in parents])
        where = f"@{TOKENS}:{{{tags}}}"
    further = f" EF_RUNTIME {reach}" if reach else ""
    text = f"{where}=>[KNN {size} @{VECTOR} $v{further}]"
    limits = ("TIMEOUT", _TIMEOUT, "LIMIT", 0, size, "DIALECT", 2, "PARAMS", 2, "v", vector)
    return ("FT.SEARCH", index, text, "RETURN", len(fields), *fields, *limits)


def within(
    index: bytes,
    fields: Sequence[str],
    vector: bytes,
    where: str | None,
    size: int,
    distance: float,
    epsilon: float | None,
) -> Command:
    """The nearest that are no further than a distance, as the module has distances.

    Args:
        epsilon: by what part of the distance to look further for ways to them, for HNSW.
    """
    from redisvl.query import VectorRangeQuery

    query = VectorRangeQuery(
        vector,
        VECTOR,
        return_fields=list(fields),
        filter_expression=where,
        num_results=size,
        distance_threshold=distance,
        epsilon=epsilon,
    )
    return _command(index, query)


def by_text(
    index: bytes,
    fields: Sequence[str],
    words: Sequence[str],
    where: str | None,
    size: int,
) -> Command:
    """Those that have one of the words, best first, with their BM25 scores."""
    from redisvl.query import FilterQuery

    names = {f"w{number}": word for number, word in enumerate(dict.fromkeys(words[:_MAX_WORDS]))}
    wanted = f"@{TEXT}:({'|'.join(f'${name}' for name in names)})"
    # What is filtered by has no part in the score.
    text = wanted if where is None else f"({wanted}) ({where})=>{{$weight:0}}"
    query = FilterQuery(text, return_fields=list(fields), num_results=size, params=names)
    query.scorer("BM25STD").with_scores()
    return _command(index, query)


def listed(
    index: bytes,
    fields: Sequence[str],
    where: str | None,
    after: int,
    offset: int,
    size: int,
) -> Command:
    """Documents by age, oldest first, of versions after one."""
    from redisvl.query import FilterQuery

    later = f"@{VERSION}:[({after} +inf]" if after else ""
    text = " ".join(filter(None, (where, later))) or "*"
    query = FilterQuery(text, return_fields=list(fields), sort_by=VERSION)
    return _command(index, query.paging(offset, size))


def counted(index: bytes, where: str | None) -> Command:
    """How many documents there are."""
    from redisvl.query import CountQuery

    return _command(index, CountQuery(where))


def _command(index: bytes, query: Any) -> Command:
    words: list[Any] = ["FT.SEARCH", index, *query.timeout(_TIMEOUT).get_args()]
    if query.params:
        words += ("PARAMS", 2 * len(query.params))
        for name, value in query.params.items():
            words += (name, value)
    return tuple(words)


def _texts(ids: Sequence[bytes] | None) -> list[str] | None:
    return None if ids is None else [id.decode() for id in ids]


def _native(given: object, declared: Collection[str]) -> str | None:
    from redisvl.query.filter import FilterExpression

    if not isinstance(given, FilterExpression):
        raise InvalidInput(
            "filter must be a Filter of redis_tiered or a FilterExpression of redisvl, "
            f"got {type(given).__name__}"
        )
    try:
        text = str(given).strip()
        text.encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"filter is not a whole FilterExpression: {error}") from None
    if text in ("", "*"):
        return None
    bare = _bare(text)
    if bare is None:
        raise InvalidInput("filter has a bracket or quote that nothing closes or opens")
    for names in _FIELDS.findall(bare):
        for name in names.split("|"):
            if name not in declared:
                raise InvalidInput(
                    f"filter asks for field {name!r}; fields= declares {sorted(declared)}"
                )
    return text


def _bare(text: str) -> str | None:
    """An expression without what is quoted or escaped, and without ranges.

    Read as the module's lexer reads it; None: it does not end where it seems to.
    """
    open_: list[str] = []
    kept = []
    at = 0
    while at < len(text):
        sign = text[at]
        if sign == "\\":
            at += 2
            continue
        if sign in "\"'[":
            # Of a range, `[` and `(` say whether its bounds belong to it.
            at = _end(text, at + 1, "]" if sign == "[" else sign)
        elif sign in _CLOSING:
            open_.append(_CLOSING[sign])
        elif sign in ")}]" and (not open_ or open_.pop() != sign):
            return None
        kept.append(sign)
        at += 1
    return "".join(kept) if not open_ and at == len(text) else None


def _end(text: str, at: int, sign: str) -> int:
    """Where a sign is the next time, if not escaped; beyond the end: nowhere."""
    while at < len(text) and text[at] != sign:
        at += 2 if text[at] == "\\" else 1
    return at if at < len(text) else at + 1
