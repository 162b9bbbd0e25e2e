"""MongoDB's filters against what they say, read naively."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from operator import ge, gt, le, lt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_redis_tiered._filters import filter_from
from redis_tiered.errors import InvalidInput
from redis_tiered.vectors.filters import Field, Filter

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORDERED: list[Any] = [
    *(0, 1, True, False, 1.0, -0.0, 2.5, 2**53 + 1, float(2**53), -3, float("inf")),
    *("", "a", "A", "ab", "bA", "ß", "é"),
    *(NOON, NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=2)))),
    NOON + timedelta(microseconds=1),
]
COMPARISONS = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}
scalars = st.sampled_from([*ORDERED, {"k": "a"}, {}, b"a", date(2026, 1, 1)])
lists = st.lists(scalars | st.none(), max_size=3)
values = scalars | lists | st.lists(lists, max_size=2)
names = st.sampled_from(["a", "b", "a.b"])
documents = st.dictionaries(names, values | st.none() | st.just(float("nan")), max_size=3)

several = st.lists(values | st.none(), max_size=3)
operations = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne"]), values | st.none()),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.sampled_from(ORDERED)),
    st.tuples(
        st.just("$between"), st.sampled_from(ORDERED).flatmap(lambda low: st.just([low] * 2))
    ),
    st.tuples(st.just("$between"), st.sampled_from([[0, 2.5], ["", "b"], [5, -5]])),
    st.tuples(st.sampled_from(["$in", "$nin", "$all"]), several),
    st.tuples(st.just("$exists"), st.booleans()),
    st.tuples(st.just("$contains"), scalars),
    st.tuples(st.just("$icontains"), st.sampled_from(["", "a", "AB", "SS", "É"])),
)
operators = st.recursive(
    st.lists(operations, min_size=1, max_size=3).map(dict),
    lambda inner: st.fixed_dictionaries({"$not": inner}),
    max_leaves=2,
)
conditions = st.dictionaries(names, values | st.none() | operators, max_size=2)
queries = st.recursive(
    conditions,
    lambda inner: (
        st.builds(
            lambda plain, name, parts: {**plain, name: parts},
            conditions,
            st.sampled_from(["$and", "$or", "$nor"]),
            st.lists(inner, min_size=1, max_size=3),
        )
        | st.fixed_dictionaries({"$not": inner})
    ),
    max_leaves=5,
)


def kind(value: object) -> str:
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def plain(value: Any) -> Any:
    """A naive datetime is taken as UTC."""
    naive = isinstance(value, datetime) and value.tzinfo is None
    return value.replace(tzinfo=UTC) if naive else value


def same(one: Any, other: Any) -> bool:
    if kind(one) != kind(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(plain(one) == plain(other))


def equals(held: Any, asked: Any) -> bool:
    if held is None or asked is None:
        return held is asked
    return same(held, asked) or (isinstance(held, list) and any(same(e, asked) for e in held))


def compares(held: Any, asked: Any, operator: str) -> bool:
    if kind(held) != kind(asked):
        return False
    held, asked = plain(held), plain(asked)
    return bool(COMPARISONS[operator](held, asked))


def satisfies(held: Any, operator: str, operand: Any) -> bool:
    match operator:
        case "$eq":
            return equals(held, operand)
        case "$ne":
            return not equals(held, operand)
        case "$in":
            return any(equals(held, item) for item in operand)
        case "$nin":
            return not any(equals(held, item) for item in operand)
        case "$all":
            return bool(operand) and all(equals(held, item) for item in operand)
        case "$exists":
            return (held is not None) is operand
        case "$between":
            return compares(held, operand[0], "$gte") and compares(held, operand[1], "$lte")
        case "$contains" if isinstance(held, str):
            return isinstance(operand, str) and operand in held
        case "$contains":
            return isinstance(held, list) and any(same(item, operand) for item in held)
        case "$icontains":
            return isinstance(held, str) and operand.lower() in held.lower()
        case "$not":
            return not all(satisfies(held, *item) for item in operand.items())
    return compares(held, operand, operator)


def holds(query: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    def one(name: str, given: Any) -> bool:
        match name:
            case "$and":
                return all(holds(part, document) for part in given)
            case "$or":
                return any(holds(part, document) for part in given)
            case "$nor":
                return not any(holds(part, document) for part in given)
            case "$not":
                return not holds(given, document)
        held = document.get(name)
        if isinstance(given, dict) and any(key.startswith("$") for key in given):
            return all(satisfies(held, *item) for item in given.items())
        return equals(held, given)

    return all(one(*item) for item in query.items())


@given(queries, st.lists(documents, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_filter_means_what_it_says(query: dict[str, Any], given: list[dict[str, Any]]) -> None:
    compiled = filter_from(query)
    assert isinstance(compiled, Filter)
    for document in given:
        assert compiled.matches(document) is holds(query, document), document


@given(operations, documents)
def test_every_operator(operation: tuple[str, Any], document: dict[str, Any]) -> None:
    query = {"a": dict([operation])}
    assert filter_from(query).matches(document) is holds(query, document)


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ({}, {}),
        ({"tags": "a"}, {"tags": ["b", "a"]}),
        ({"tags": ["a", "b"]}, {"tags": ["a", "b"]}),
        ({"x": None}, {}),
        ({"x": {"$ne": 1}}, {}),
        ({"x": {"k": "a"}}, {"x": {"k": "a"}}),
        ({"x": {"$eq": {"$k": "a"}}}, {"x": {"$k": "a"}}),
        ({"a.b": 1}, {"a.b": 1}),
        ({"x": {"$in": (None,)}}, {}),
        ({"x": {"$in": {1, 2}}}, {"x": 2.0}),
        ({"x": {"$nin": []}}, {}),
        ({"year": {"$gte": 2020, "$lt": 2024}}, {"year": 2020}),
        ({"note": {"$contains": "needle"}}, {"note": "a needle."}),
    ],
)
def test_it_matches(query: dict[str, Any], document: dict[str, Any]) -> None:
    assert holds(query, document)
    assert filter_from(query).matches(document)


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ({"tags": "a"}, {"tags": "ab"}),
        ({"a.b": 1}, {"a": {"b": 1}}),
        ({"x": {"$all": []}}, {"x": []}),
        ({"x": {"$in": []}}, {"x": []}),
        ({"x": {"$gt": 0}}, {"x": [1]}),
        ({"x": {"$gt": 0}}, {"x": "1"}),
        ({"x": {"$contains": "a"}}, {"x": {"a": 1}}),
        ({"x": {"$not": {"$exists": False}}}, {"x": None}),
    ],
)
def test_it_does_not_match(query: dict[str, Any], document: dict[str, Any]) -> None:
    assert not holds(query, document)
    assert not filter_from(query).matches(document)


def test_others_pass_as_they_are() -> None:
    query = pytest.importorskip("redisvl.query.filter")
    expression = query.Tag("tenant") == "red"
    one = Field("x") == 1
    assert filter_from(None) is None
    assert filter_from(one) is one
    assert filter_from(expression) is expression


def nested(depth: int) -> dict[str, Any]:
    query: dict[str, Any] = {"x": 1}
    for _ in range(depth):
        query = {"$not": query}
    return query


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (lambda document: True, "must be None, a redis_tiered Filter, a dict in MongoDB's style"),
        ([{"x": 1}], "got list"),
        ("x = 1", "got str"),
        (True, "got bool"),
        ({"x": {"$regex": "a.*"}}, r"filter\['x'\]\['\$regex'\] is no operator .* \$contains"),
        ({"x": {"$like": "%a%"}}, r"\['\$like'\] is no operator .* \$icontains"),
        ({"x": {"$size": 1}}, r"\['\$size'\]"),
        ({"x": {"$gt": 1, "y": 2}}, "mixes operators and plain keys"),
        ({"x": {"$and": [{}]}}, r"filter\['x'\]\['\$and'\] is no operator here"),
        ({"$where": "1"}, r"filter\['\$where'\] is no operator here; accepted are \$and, \$nor"),
        ({"$gt": 1}, r"filter\['\$gt'\] is an operator on a field"),
        ({"$and": []}, r"\$and'\] must be a list of at least one dict, got an empty one"),
        ({"$or": {"x": 1}}, "at least one dict, got dict"),
        ({"$nor": [1]}, r"filter\['\$nor'\]\[0\] must be a dict, got int"),
        ({"$not": 1}, r"filter\['\$not'\] must be a dict, got int"),
        ({"x": {"$not": 1}}, r"\['\$not'\] must be a dict of operators, got int"),
        ({"x": {"$not": {}}}, "must be a dict of operators, got dict"),
        ({"x": {"$in": "ab"}}, r"filter\['x'\]\['\$in'\]: must be a list, got str"),
        ({"x": {"$nin": 1}}, "must be a list, got int"),
        ({"x": {"$all": None}}, "must be a list, got NoneType"),
        ({"x": {"$exists": 1}}, "must be a bool, got int"),
        ({"x": {"$between": [1]}}, "must be a list of two"),
        ({"x": {"$contains": None}}, "must be a value, got None"),
        ({"x": {"$icontains": 1}}, "must be a str, got int"),
        ({"x": {"$gt": None}}, r"filter\['x'\]\['\$gt'\]: "),
        ({"x": {"$gt": [1]}}, r"filter\['x'\]\['\$gt'\]: "),
        ({"x": {"$lte": float("nan")}}, r"filter\['x'\]\['\$lte'\]: "),
        ({"x": {"$between": [1, "b"]}}, r"filter\['x'\]\['\$between'\]: "),
        ({"x": "\ud800"}, r"filter\['x'\]: .*surrogate"),
        ({"x": re.compile("a")}, r"filter\['x'\]: .*Pattern"),
        ({"x": {"$eq": object()}}, r"filter\['x'\]\['\$eq'\]: .*object"),
        ({"": 1}, "filter: "),
        ({"\ud800": 1}, "filter: .*surrogate"),
        ({1: 1}, "filter must have str keys, got int"),
        ({"x": {"$eq": 1, 2: 3}}, "mixes operators and plain keys"),
        (nested(60), "nested at most 50"),
        (nested(sys.getrecursionlimit() * 5), "nested at most 50"),
    ],
)
def test_what_it_cannot_do_it_refuses(query: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        filter_from(query)
