"""A filter lets through the same documents as a predicate, as SQL and as tags."""

from __future__ import annotations

import math
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, delete, insert, select, text
from sqlalchemy.dialects import sqlite

from redis_tiered.errors import InvalidInput
from redis_tiered.tiers import schema
from redis_tiered.vectors import sql, terms, tokens
from redis_tiered.vectors.filters import And, Field, Filter, Not, Or, Range
from tests.vectors import strategies
from tests.vectors.filter_cases import CASES

_SEARCH_URL = os.environ.get("REDIS_TIERED_TEST_SEARCH_URL")
_relaxed = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
# All values that some case is about, and none.
_values: list[Any] = [value for _, passing, others in CASES for value in (*passing, *others)]
_some_documents = st.lists(strategies.metadata, min_size=1, max_size=8)
_some_filters = st.lists(strategies.filters, min_size=1, max_size=6)


# --- SQL -------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    url = "sqlite://"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        url = url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.connect() as connection:
        schema.migrate(connection)
        yield connection
        connection.rollback()
    engine.dispose()


def _store(connection: Connection, scope: str, first: int, metadata: Sequence[Any]) -> None:
    """Documents numbered from `first` on."""
    fixed = dict.fromkeys(["vector", "metadata", "text", "payload", "parent"], b"")
    connection.execute(
        insert(schema.documents),
        [
            {
                "number": first + at,
                "scope": scope,
                "id": b"%d" % at,
                **fixed,
                "created": 0,
                "uses": 0,
            }
            for at in range(len(metadata))
        ],
    )
    names = ("document", "name", "position", "kind", "key", "folded", "hash")
    rows = [
        dict(zip(names, (first + at, *row), strict=True))
        for at, fields in enumerate(metadata)
        for row in terms.rows(fields)
    ]
    if rows:
        connection.execute(insert(schema.fields), rows)


def _found(connection: Connection, filter: Filter) -> list[int]:
    number = schema.documents.c.number
    query = select(number).where(schema.documents.c.scope == "ours", sql.compile(filter, number))
    return sorted(connection.execute(query).scalars())


def test_sql_finds_what_the_predicate_does(connection: Connection) -> None:
    @settings(_relaxed, max_examples=80)
    @given(_some_documents, _some_filters)
    def agree(documents: list[dict[str, Any]], filters: list[Filter]) -> None:
        connection.execute(delete(schema.documents))
        connection.execute(delete(schema.fields))
        _store(connection, "ours", 100, documents)
        _store(connection, "others", 500, documents)
        for filter in filters:
            expected = [100 + at for at, each in enumerate(documents) if filter.matches(each)]
            assert _found(connection, filter) == expected

    agree()


def test_sql_finds_what_each_case_says(connection: Connection) -> None:
    documents = [{"a": value, "b": 1} for value in _values] + [{}]
    _store(connection, "ours", 0, documents)
    for filter, _, _ in CASES:
        for each in (filter, ~filter, filter & (Field("b") == 1), filter | (Field("b") != 1)):
            expected = [at for at, document in enumerate(documents) if each.matches(document)]
            assert _found(connection, each) == expected, each


def test_sql_of_large_filters(connection: Connection) -> None:
    documents = [{"a": 5, "b": "x"}, {"a": -1, "b": "y"}, {"a": [5]}, {}]
    _store(connection, "ours", 0, documents)
    a, b = Field("a"), Field("b")
    many = range(9_999)
    nested: Filter = b == "x"
    for depth in range(48):
        nested = nested | (a == 5) if depth % 2 else nested & (a >= 5)
    both_sides: Filter = a.present()
    for depth in range(6):  # twice as large with each
        more = Field(f"f{depth}").text("q")
        both_sides = (both_sides & ~more) | (~both_sides & more)
    filters = [
        a.is_in(many),
        a.is_in(many) & (b == "x"),
        a.not_in(many),
        a.any_of(many),
        ~a.any_of(many),
        a.is_in([f"{each}" for each in many[1:]]) | (b == "x"),
        And(tuple(~Field(f"f{each}").present() for each in range(1100))) & a.present(),
        Or(tuple(Field(f"f{each}") == 1 for each in range(300))) | (b == "y"),
        And(tuple(Field(f"f{each}") == 1 for each in range(300))),
        nested,
        ~nested,
        both_sides,
    ]
    for filter in filters:
        expected = [at for at, each in enumerate(documents) if filter.matches(each)]
        assert _found(connection, filter) == expected


def test_parameters_are_few_enough_for_the_largest_filter() -> None:
    """SQLite takes 32,766, and what the filter stands in needs some of them."""
    number = schema.documents.c.number
    for kind in (
        lambda field: field.between(1, 2),
        lambda field: field == 1,
        lambda field: field.text("a", case_sensitive=False),
    ):
        of_100 = And(tuple(kind(Field(f"f{each}")) for each in range(100)))
        compiled = (
            select(number)
            .where(sql.compile(of_100, number))
            .compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True})
        )
        assert len(compiled.positiontup or ()) <= 300


def test_an_equality_is_looked_up_by_its_hash(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        pytest.skip("the plan is SQLite's")
    number = schema.documents.c.number
    condition = sql.compile((Field("a") == 1) & ~(Field("b") == 2), number)
    query = select(number).where(schema.documents.c.scope == "ours", condition)
    made = query.compile(connection, compile_kwargs={"literal_binds": False})
    expanded = re.sub(r"\(__\[POSTCOMPILE_\w+\]\)", "(1)", str(made))
    values = [None] * expanded.count("?")
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {expanded}", tuple(values)).all()
    shown = "\n".join(row[-1] for row in plan)
    assert "USING INDEX redis_tiered_field_hash (hash=?)" in shown
    assert "(document=? AND name=? AND position=?)" in shown
    assert "SCAN" not in shown


def test_it_stands_in_a_delete_and_beside_the_table_of_fields(connection: Connection) -> None:
    _store(connection, "ours", 0, [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 1}])
    table = schema.documents
    filter = (Field("a") == 1) & Field("b").text("X", case_sensitive=False)
    condition = sql.compile(filter, table.c.number)
    joined = select(schema.fields.c.document).join(
        table, table.c.number == schema.fields.c.document
    )
    assert set(connection.execute(joined.where(condition)).scalars()) == {0}
    other = table.alias("other")
    query = select(other.c.number).where(sql.compile(~filter, other.c.number))
    assert sorted(connection.execute(query).scalars()) == [1, 2]
    assert connection.execute(delete(table).where(condition)).rowcount == 1
    assert sorted(connection.execute(select(table.c.number)).scalars()) == [1, 2]


def test_values_are_never_sql(connection: Connection) -> None:
    _store(connection, "ours", 0, [{"a": 1}])
    for hostile in ["') OR 1=1 --", "' OR ''='", "%", "_", "\\", ":a", "?"]:
        field = Field(hostile)
        for filter in (
            Field("a") == hostile,
            Field("a").text(hostile),
            field == 1,
            field.present(),
        ):
            assert _found(connection, filter) == []
    assert connection.execute(text("SELECT count(*) FROM redis_tiered_document")).scalar() == 1


# --- tags ------------------------------------------------------------------------------------


def _passes(expression: str, tags: set[str]) -> bool:
    """Evaluates the part of the query syntax that is used."""
    words = re.findall(r"@f:\{[a-z0-9|]+\}|[()|*-]| ", expression)
    assert "".join(words) == expression

    def one(at: int) -> tuple[bool, int]:
        if words[at] == "-":
            passes, at = one(at + 1)
            return not passes, at
        if words[at] != "(":
            assert words[at].startswith("@f:{")
            return not tags.isdisjoint(words[at][4:-1].split("|")), at + 1
        passes, at = one(at + 1)
        sign = words[at]
        while words[at] != ")":
            assert words[at] == sign
            assert sign in " |"
            more, at = one(at + 1)
            passes = (passes and more) if sign == " " else (passes or more)
        return passes, at + 1

    if words == ["*"]:
        return True
    passes, end = one(0)
    assert end == len(words)
    return passes


@settings(_relaxed, max_examples=200)
@given(_some_documents, _some_filters)
def test_tags_pass_what_the_predicate_does(
    documents: list[dict[str, Any]], filters: list[Filter]
) -> None:
    tagged = [set(tokens.tokens(each, "id", "")) for each in documents]
    for filter in filters:
        expression, exact = tokens.compile(filter)
        for each, tags in zip(documents, tagged, strict=True):
            passes = _passes(expression, tags)
            assert passes == filter.matches(each) or (passes and not exact)


def test_tags_pass_what_each_case_says() -> None:
    tagged = [(value, set(tokens.tokens({"a": value}, "", ""))) for value in _values]
    for case, _, _ in CASES:
        for filter in (case, ~case):
            expression, exact = tokens.compile(filter)
            for value, tags in tagged:
                passes, expected = _passes(expression, tags), filter.matches({"a": value})
                assert passes == expected or (passes and not exact), (filter, value)


@settings(_relaxed, max_examples=250)
@given(
    st.sampled_from(strategies.bounds[1:]).flatmap(lambda kind: st.lists(kind, min_size=2)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(0, 1), (0, None), (None, 0)]),
)
@example([2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 2**53 - 1], False, True, (0, 1))
@example([2**63 - 1, 2**63 - 2, 2.0**63, 2**63 + 1, 2**63 - 512], True, False, (0, None))
@example([0, -0.0, 5e-324, -5e-324, float("inf"), float("-inf")], True, True, (0, None))
@example([False, 5e-324], True, True, (0, 1))
@example([datetime(2026, 1, 1, 23, 59, 59, 999_999), datetime(2026, 1, 2)], True, True, (0, 1))
def test_ranges_are_exact_unions_of_prefixes(
    values: list[Any], low_open: bool, high_open: bool, bounds: tuple[int | None, int | None]
) -> None:
    low, high = (None if each is None else terms.term(values[each]) for each in bounds)
    filter = Range("a", low, high, low_open, high_open)
    expression, exact = tokens.compile(filter)
    assert exact
    assert expression.count("|") < 650
    near = [value for each in values for value in _neighbours(each)]
    for value in [*values, *near]:
        assert _passes(expression, set(tokens.tokens({"a": value}, "", ""))) == filter.accepts(
            value
        )


def _neighbours(value: Any) -> Iterator[Any]:
    """Values just beside one, and far away."""
    if isinstance(value, int | float):
        yield -value
        yield from (math.nextafter(value, math.inf), math.nextafter(value, -math.inf))
        if math.isfinite(value):
            yield from (int(value) - 1, int(value) + 1, int(value) * 16, int(value) // 16)
    else:
        for step in (timedelta(microseconds=1), timedelta(seconds=1), timedelta(days=1)):
            for sign in (1, -1):
                try:
                    yield value + sign * step
                except OverflowError:
                    pass


def test_round_numbers_and_days_have_few_tags() -> None:
    assert len(tokens.tokens({"year": 2024}, "", "")) <= 8
    assert len(tokens.tokens({"price": -0.5}, "", "")) <= 8
    assert len(tokens.tokens({"day": datetime(2024, 5, 17)}, "", "")) <= 9
    assert len(tokens.tokens({"any": 2**64 - 1}, "", "")) <= 22
    expression, _ = tokens.compile(Field("year").between(2000, 2024))
    assert expression.count("|") < 40


@given(strategies.metadata, strategies.ids, strategies.ids)
@_relaxed
def test_tags_are_words_of_one_shape(metadata: dict[str, Any], id: str, parent: str) -> None:
    made = tokens.tokens(metadata, id, parent)
    assert len(set(made)) == len(made)
    assert all(re.fullmatch("[a-z][0-9a-f]{20}", tag) for tag in made)


@given(strategies.filters, st.lists(strategies.ids, max_size=2))
@_relaxed
def test_expressions_have_nothing_of_a_value_in_them(filter: Filter, ids: list[str]) -> None:
    for expression, _ in (tokens.compile(filter), tokens.compile(filter, ids=ids, parents=ids)):
        # Everything is only ever the whole expression.
        assert expression == "*" or re.fullmatch(r"(@f:\{[a-z0-9|]+\}|[()| -])+", expression)


def test_ids_and_parents_are_a_namespace_of_their_own() -> None:
    of_part = set(tokens.tokens({"a": "x"}, "doc-1", "doc"))
    cases: list[tuple[dict[str, Any], bool]] = [
        ({}, True),
        ({"ids": None, "parents": None}, True),
        ({"ids": ["doc-1"]}, True),
        ({"ids": ["other", "doc-1"]}, True),
        ({"ids": ["doc"]}, False),
        ({"ids": []}, False),
        ({"parents": ["doc"]}, True),
        ({"parents": ["doc-1"]}, False),
        ({"parents": []}, False),
        ({"ids": ["doc-1"], "parents": ["doc"]}, True),
        ({"ids": ["doc-1"], "parents": ["other"]}, False),
    ]
    for restriction, passes in cases:
        for filter in (None, And(()), Field("a") == "x", ~(Field("a") == "y")):
            expression, exact = tokens.compile(filter, **restriction)
            assert exact
            assert _passes(expression, of_part) == passes
        assert not _passes(tokens.compile(Or(()), **restriction)[0], of_part)
    for field in ("i", "p", "id", "parent"):
        assert not set(tokens.tokens({field: ["doc-1", "doc"]}, "x", "")) & of_part
    assert tokens.compile(None) == ("*", True)
    assert tokens.compile(None, ids=[], tag="g") == ("@g:{nothing}", True)
    with pytest.raises(InvalidInput, match="ids"):
        tokens.compile(None, ids=[b"x"])  # type: ignore[list-item]


def test_what_tags_cannot_say_is_not_exact() -> None:
    a = Field("a")
    for filter, exact in [
        (a.text("x"), False),
        (a.text(""), True),
        (a >= "x", False),
        (a.between("x", "a"), True),
        (a >= 1, True),
        (~a.text("x"), False),
        (~a.text("x") & (a == 1), False),
        (Or(()) & a.text("x"), True),
    ]:
        assert tokens.compile(filter)[1] == exact, filter
    assert tokens.compile(~a.text("x")) == ("*", False)
    expression, _ = tokens.compile(a.text("x"))
    assert _passes(expression, set(tokens.tokens({"a": "b"}, "", "")))
    assert not _passes(expression, set(tokens.tokens({"a": 1}, "", "")))


# --- the search module -----------------------------------------------------------------------


@pytest.fixture
def search() -> Iterator[Callable[[str], set[int]]]:
    """Finds documents by expression in an index that `search.store` fills."""
    if _SEARCH_URL is None:
        pytest.skip("needs a server with the search module: REDIS_TIERED_TEST_SEARCH_URL")
    client = redis.Redis.from_url(_SEARCH_URL, protocol=2)
    name = f"filter-backends-{uuid.uuid4().hex}"
    client.execute_command(
        *("FT.CREATE", name, "ON", "HASH", "PREFIX", 1, f"{name}:", "SCHEMA"),
        *("f", "TAG", "SEPARATOR", ",", "CASESENSITIVE"),
    )
    keys: list[str] = []

    def store(metadata: Sequence[Any]) -> None:
        if keys:
            client.delete(*keys)
        keys[:] = [f"{name}:{at}" for at in range(len(metadata))]
        for at, each in enumerate(metadata):
            client.hset(keys[at], "f", ",".join(tokens.tokens(each, f"id-{at}", f"of-{at % 2}")))

    def found(expression: str) -> set[int]:
        reply: Any = client.execute_command(
            "FT.SEARCH", name, expression, "NOCONTENT", "LIMIT", 0, 1000, "DIALECT", 2
        )
        return {int(key.rpartition(b":")[2]) for key in reply[1:]}

    found.store = store  # type: ignore[attr-defined]
    try:
        yield found
    finally:
        client.execute_command("FT.DROPINDEX", name, "DD")
        client.close()


def test_the_search_module_finds_what_the_predicate_does(search: Any) -> None:
    @settings(_relaxed, max_examples=100)
    @given(_some_documents, _some_filters)
    def agree(documents: list[dict[str, Any]], filters: list[Filter]) -> None:
        search.store(documents)
        for filter in filters:
            expression, exact = tokens.compile(filter)
            expected = {at for at, each in enumerate(documents) if filter.matches(each)}
            found = search(expression)
            assert found == expected or (found > expected and not exact)
        expression, _ = tokens.compile(filters[0], ids=["id-0", "id-1"], parents=["of-1"])
        assert search(expression) == search(tokens.compile(filters[0])[0]) & {1}

    agree()


def test_the_search_module_takes_large_expressions(search: Any) -> None:
    documents = [{"a": 5, "b": 0.1}, {"a": -1, "b": 0.7}, {"a": [5]}, {}]
    search.store(documents)
    a, b = Field("a"), Field("b")
    nested: Filter = b.present()
    for depth in range(48):
        nested = nested | (a == depth) if depth % 2 else nested & (a != 5 + depth)
    right: Filter = b.present()
    for depth in range(48):
        right = (a == depth) | right if depth % 2 else (a != 5 + depth) & right
    filters = [
        a.is_in(range(9_999)),
        a.not_in(range(9_999)),
        b.between(0.1, 0.7),
        Not(b.between(0.1, 0.7)),
        b.between(-0.1234567, 0.7000001) | b.between(-(2**64) + 1, 1e-300),
        Or(tuple(Field(f"f{each}") == 1 for each in range(3000))) | (b < 0.2),
        And(tuple(Field(f"f{each}") != 1 for each in range(3000))),
        And(tuple((Field(f"f{each}") != 1) | (a == 5) for each in range(300))),
        Or(tuple((Field(f"f{each}") == 1) & (a == 5) for each in range(300))),
        nested,
        ~nested,
        right,
        ~right,
    ]
    for filter in filters:
        expression, exact = tokens.compile(filter)
        assert exact
        assert search(expression) == {
            at for at, each in enumerate(documents) if filter.matches(each)
        }
