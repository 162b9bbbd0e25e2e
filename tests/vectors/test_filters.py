"""What filters let through, how they are written, and what they refuse."""

from __future__ import annotations

import copy
import datetime as datetime_module
import enum
import math
import pickle
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import reduce
from operator import and_, or_
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.values import copied, loaded
from redis_tiered.vectors.document import drafted
from redis_tiered.vectors.filters import (
    And,
    Element,
    Equal,
    Field,
    Filter,
    Not,
    Or,
    Present,
    Range,
    Text,
)
from redis_tiered.vectors.terms import Kind, Term, elements, hashed, rows, shown, term
from tests.vectors import strategies
from tests.vectors.filter_cases import CASES

a = Field("a")
NAN = float("nan")


@pytest.mark.parametrize(("filter", "passing", "others"), CASES, ids=map(str, range(len(CASES))))
def test_what_passes(filter: Filter, passing: list[Any], others: list[Any]) -> None:
    for value in passing:
        assert filter.matches({"a": value, "b": 1}), value
    for value in others:
        assert not filter.matches({"a": value, "b": 1}), value
    assert filter.matches({}) == any(value is None for value in passing)
    assert (~filter).matches({}) != filter.matches({})


@settings(deadline=None)
@given(strategies.filters, strategies.metadata)
def test_the_tree_is_boolean_algebra(filter: Filter, metadata: dict[str, Any]) -> None:
    passes = filter.matches(metadata)
    assert (~filter).matches(metadata) != passes
    assert Not(Not(filter)).matches(metadata) == passes
    assert (filter & ~filter).matches(metadata) is False
    assert (filter | ~filter).matches(metadata) is True
    assert And((filter, Or(()))).matches(metadata) is False
    assert Or((filter, And(()))).matches(metadata) is True
    for leaf in filter.leaves():
        assert leaf.accepts(metadata.get(leaf.field)) == leaf.matches(metadata)


@settings(deadline=None)
@given(strategies.filters)
def test_filters_are_values(filter: Filter) -> None:
    for again in (pickle.loads(pickle.dumps(filter)), copy.deepcopy(filter)):
        assert again == filter
        assert hash(again) == hash(filter)
        assert again.weight == filter.weight
    assert repr(filter) == repr(pickle.loads(pickle.dumps(filter)))
    assert filter.weight[0] == len(list(filter.leaves()))


def test_filters_are_frozen() -> None:
    for filter in (a == 1, a > 1, (a == 1) & (a > 1), ~a.present()):
        for name in ("field", "part", "parts", "weight", "other"):
            with pytest.raises((AttributeError, TypeError)):
                setattr(filter, name, None)
        assert not hasattr(filter, "__dict__")


def test_repr_is_how_it_is_written() -> None:
    for source in [
        "(Field('year') >= 2020) & (Field('lang') == 'en')",
        "Field('a').between(-0.5, 9007199254740993)",
        "(Field('a') > 1) & (Field('a') <= 2)",
        "~(Field('a').contains([1, None, 'x\\n']))",
        "Field('a').text('x', case_sensitive=False)",
        "(Field('a').present()) | (Field('|') == inf)",
        "Field('a') < datetime.datetime(2024, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)",
        "And(())",
    ]:
        names = {"Field": Field, "And": And, "inf": math.inf, "datetime": datetime_module}
        filter = eval(source, names)
        assert repr(filter) == source
    assert "... 9979 more" in repr(a.is_in(range(9_999)))
    assert repr(a == {"x": 1}).startswith("Field('a') == <opaque ")
    assert repr(a) == "Field('a')"


def test_chains_of_the_same_sort_are_flat() -> None:
    parts = [a == 1, a == 2, a == 3]
    assert reduce(or_, parts) == Or(tuple(parts))
    assert reduce(and_, parts) == And(tuple(parts))
    assert ~~parts[0] is parts[0]
    assert reduce(or_, [a == each for each in range(10_000)]).weight == (10_000, 1)
    assert ((a == 1) & (a == 2) | (a == 3)).weight == (3, 2)


def _nested(depth: int) -> Filter:
    return reduce(lambda inner, at: (Or, And)[at % 2]((inner,)), range(depth), a == 1)


def _and(left: Any, right: Any) -> Any:
    return left and right


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: _and(a == 1, a == 2), "neither true nor false"),
    (lambda: 1 < a < 3, "neither true nor false"),
    (lambda: not a.present(), "neither true nor false"),
    (lambda: bool(a), "neither true nor false"),
    (lambda: a in ["x"], "neither true nor false"),
    (lambda: (a == 1) & 1, "got int"),
    (lambda: (a == 1) | None, "got NoneType"),
    (lambda: a == a, "field 'a' must be made of .* got Field"),
    (lambda: a == object(), "field 'a' must be made of .* got object"),
    (lambda: a == [1, object()], "got object"),
    (lambda: a == "\ud800", "lone surrogate"),
    (lambda: a == ["\ud800"], "lone surrogate"),
    (lambda: a == {"\ud800": 1}, "lone surrogate"),
    (lambda: a.text("\ud800"), "needle holds a lone surrogate"),
    (lambda: a.text(1), "needle must be a str, got int"),  # type: ignore[arg-type]
    (lambda: a < None, "must be a number, str or datetime, got NoneType"),
    (lambda: a >= [1], "got list"),
    (lambda: a > NAN, "got float"),
    (lambda: a > 10**400, "got int"),
    (lambda: a > date(2024, 1, 1), "got date"),
    (lambda: a.between(1, "x"), "of the same kind"),
    (lambda: a.between(None, 1), "low for field 'a' must be"),
    (lambda: a.is_in("abc"), "values must be an iterable of values, got str"),
    (lambda: a.is_in({"x": 1}), "got dict"),
    (lambda: a.is_in(1), "got int"),  # type: ignore[arg-type]
    (lambda: a.is_in([1, object()]), r"values\[1\] for field 'a'"),
    (lambda: a.contains(None), "got None"),
    (lambda: a.any_of(["x", None]), r"values\[1\]"),
    (lambda: a.is_in(range(10_001)), "at most 10000"),
    (lambda: Field(""), "1 to 256 characters"),
    (lambda: Field("x" * 257), "1 to 256 characters"),
    (lambda: Field("\ud800"), "lone surrogate"),
    (lambda: Field(1), "must be a str"),  # type: ignore[arg-type]
    (lambda: Present(""), "1 to 256 characters"),
    (lambda: Equal("a", 1), "term must be the Term"),  # type: ignore[arg-type]
    (lambda: Element("a", Term("o", b"")), "term must be the Term"),
    (lambda: Equal("a", Term("ns", b"x")), "term must be the Term"),
    (lambda: Range("a", None, None), "one or two bounds"),
    (lambda: Range("a", term([1]), None), "each a number, str or datetime"),
    (lambda: Text("a", b"x"), "must be a str"),  # type: ignore[arg-type]
    (lambda: And((1,)), "must be a Filter, got int"),  # type: ignore[arg-type]
    (lambda: Not(None), "must be a Filter, got NoneType"),  # type: ignore[arg-type]
    (lambda: _nested(51), "nested at most 50"),
    (
        lambda: reduce(lambda inner, _: [inner], range(300), 1) and (a == _deep_list()),
        "levels deep",
    ),
]


def _deep_list() -> list[Any]:
    return reduce(lambda inner, _: [inner], range(300), [1])


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


def test_the_deepest_that_is_accepted() -> None:
    assert _nested(50).matches({"a": 1})
    assert _nested(50).weight == (1, 50)


def test_pickles_are_checked() -> None:
    made = pickle.dumps(Present("name"))
    with pytest.raises(InvalidInput, match="lone surrogate"):
        pickle.loads(made.replace(b"\x8c\x04name", b"\x8c\x04n\xed\xa0\x80"))


def test_values_of_numpy_and_subclasses_are_what_they_derive_from() -> None:
    class Color(enum.StrEnum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    assert (a == np.int64(3)) == (a == 3) == (a == Level.HIGH) == (a == np.float32(3))
    assert (a == np.str_("red")) == (a == "red") == (a == Color.RED)
    assert (a == np.True_) == (a == 1)
    assert (a == np.datetime64("2024-01-01", "ns")) == (a == datetime(2024, 1, 1))
    assert a.is_in(np.array([1, 2])) == a.is_in([1, 2]) == a.is_in(each for each in (1, 2))
    assert a.is_in(range(3)).matches({"a": 2})
    with pytest.raises(InvalidInput, match="got ndarray"):
        _ = a == np.array([1])


# --- terms -----------------------------------------------------------------------------------


@given(strategies.numbers, strategies.numbers)
def test_numbers_are_equal_and_in_order_as_python_has_it(left: float, right: float) -> None:
    one, other = term(left), term(right)
    assert one is not None
    assert other is not None
    if left == left and right == right:
        assert (one == other) == (left == right)
        if one.kind == other.kind == Kind.NUMBER:
            assert (one.key < other.key) == (left < right)
    for value, found in ((left, one), (right, other)):
        if found.kind == Kind.NUMBER:
            assert eval(shown(found), {"inf": math.inf}) == value
        else:
            assert value != value or abs(value) > 2**64


@given(strategies.texts, strategies.texts)
def test_texts_are_in_order_as_python_has_it(left: str, right: str) -> None:
    one, other = term(left), term(right)
    assert one is not None
    assert other is not None
    assert (one.key < other.key) == (left < right)
    assert shown(one) == repr(left)


@given(strategies.datetimes, strategies.datetimes)
def test_datetimes_are_in_order_as_instants(left: datetime, right: datetime) -> None:
    one, other = term(left), term(right)
    assert one is not None
    assert other is not None
    left, right = (
        each if each.tzinfo else each.replace(tzinfo=UTC) for each in (left, right)
    )  # fmt: skip
    assert (one.key < other.key) == (left < right)
    assert (one == other) == (left == right)
    assert shown(one)


@settings(deadline=None)
@given(st.lists(strategies.values, min_size=2, max_size=6))
def test_values_are_equal_where_their_terms_are(values: list[Any]) -> None:
    for left in values:
        for right in values:
            one, other = term(left), term(right)
            if one is None or other is None:
                assert (one is None and other is None) == (left is None and right is None)
            elif one == other and not one.equals_nothing:
                assert _comparable(left) == _comparable(right)
            elif one != other and type(left) is type(right):
                assert _comparable(left) != _comparable(right) or one.equals_nothing


def _comparable(value: Any) -> Any:
    """With datetimes that have a zone, also in what holds them."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, list | tuple):
        return type(value)(map(_comparable, value))
    return value


@settings(deadline=None)
@given(strategies.metadata)
def test_terms_outlive_storage(metadata: dict[str, Any]) -> None:
    document = strategies.Document(id="x", vector=[1.0], metadata=metadata)
    _, [draft] = drafted([document], 1, "cosine", 0, None)
    assert rows(loaded(draft.metadata)) == rows(draft.fields) == rows(copied(metadata))


def test_rows_of_a_document() -> None:
    made = rows({"a": "Xy", "b": ["x", None, 1, True], "c": None, "d": NAN, "e": "x", "f": []})
    x, one = Term("s", b"x"), term(1)
    assert one is not None
    assert [row[:5] for row in made] == [
        (b"a", -1, "s", b"Xy", b"xy"),
        (b"b", -1, "l", rows({"b": ["x", None, 1.0, 1]})[0][3], None),
        (b"b", 0, *x, None),
        (b"b", 2, *one, None),
        (b"d", -1, "o", b"", None),
        (b"e", -1, "s", b"x", None),
        (b"f", -1, "l", b"[", None),
    ]
    assert made[2][5] == hashed(b"b", x, True) != hashed(b"b", x, False)
    assert made[5][5] == hashed(b"e", x, False)
    assert all(-(1 << 63) <= row[5] < 1 << 63 for row in made)
    assert elements(["x", None, 1]) == [x, one]
    assert elements("x") == elements(("x",)) == elements(None) == []


@given(st.lists(st.tuples(strategies.names, strategies.values, st.booleans()), max_size=6))
def test_hashes_tell_names_and_terms_apart(many: list[tuple[str, Any, bool]]) -> None:
    asked = {(name, found, flag) for name, value, flag in many if (found := term(value))}
    assert len({hashed(name.encode(), found, flag) for name, found, flag in asked}) == len(asked)
