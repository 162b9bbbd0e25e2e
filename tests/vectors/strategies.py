"""Random documents, metadata and filters that often have to do with each other."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from functools import reduce
from operator import and_, or_
from typing import Any

from hypothesis import strategies as st

from redis_tiered.vectors.document import Document
from redis_tiered.vectors.filters import And, Field, Filter, Or
from redis_tiered.vectors.terms import Kind, term

HOSTILE = [
    "|",
    "} @f:{x",
    "a|b",
    '"',
    "'",
    "\\",
    "-",
    "*",
    " ",
    "\0",
    "{}",
    "%",
    "\u0131",
    "İ",
    "🦉",
    "a,b",
]
NAMES = ["a", "b", "year", "a b", "|", "ü🦉", "a" * 256]
_TWO = 1 << 53

names = st.sampled_from(["a", "b"]) | st.sampled_from(NAMES)
texts = (
    st.sampled_from(["", "a", "A", "ab", "aB", "abc", "Ärger", "ärger", "ΑΣ", *HOSTILE])
    | st.text(max_size=5)
)  # fmt: skip
numbers = (
    st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(
        [
            *(0.0, -0.0, 1.0, 0.5, -0.5, 2020, 2020.5, -2020, 1e300, -1e300, 5e-324, -5e-324),
            *(float("inf"), float("-inf"), float("nan")),
            *(_TWO - 1, _TWO, _TWO + 1, _TWO + 2, -_TWO, -_TWO - 1, 2.0**53, 2.0**53 + 2),
            *(2**63 - 1, 2**63, 2.0**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 2.0**64),
            *(2**68 + 1, 2**75 + 1, 2**75, 2.0**75, 10**400, -(10**400)),
        ]
    )
    | st.floats()
    | st.integers(-(2**70), 2**70)
)
datetimes = st.sampled_from(
    [
        datetime(2024, 1, 1),
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        datetime(2024, 1, 1, 23, 59, 59, 999_999),
        datetime(1969, 12, 31, 23, 59, 59),
        datetime.min,
        datetime.max,
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
    ]
) | st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(-timedelta(minutes=90))))
opaque = st.sampled_from(
    [
        *(
            b"a",
            date(2024, 1, 1),
            uuid.UUID(int=1),
            timedelta(1),
            (),
            ("a",),
            (1, 2.0),
            set(),
            {"a"},
        ),
        *({"a", "b", "c"}, frozenset({1}), {}, {"a": 1}, {"a": 1.0}, {"b": 1, "a": None}, {1: "a"}),
        *({"a": float("nan")}, {"a": ["x", None]}),
    ]
)
# What has an order, and is also asked for in ranges.
bounds = (texts, numbers.filter(lambda value: term(value).kind == Kind.NUMBER), datetimes)  # type: ignore[union-attr]
scalars = texts | numbers | datetimes | opaque
lists = st.lists(st.none() | scalars | st.lists(scalars, max_size=2), max_size=4)
values = st.none() | scalars | lists
metadata = st.dictionaries(names, values, max_size=4)
ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8) | st.sampled_from(HOSTILE)


def documents(dims: int) -> st.SearchStrategy[Document]:
    """Documents with vectors of this length, not zero."""
    numbers = st.floats(-1, 1, width=32).filter(lambda number: number == 0 or abs(number) > 1e-3)
    return st.builds(
        Document,
        id=ids,
        vector=st.lists(numbers, min_size=dims, max_size=dims).filter(any),
        text=texts,
        metadata=metadata,
        payload=st.binary(max_size=4),
        parent=st.just("") | ids,
    )


@st.composite
def leaves(draw: Any) -> Filter:
    """A comparison as users write them."""
    field = Field(draw(names))
    how = draw(st.integers(0, 13))
    if how < 3:
        return field == draw(values)
    if how == 3:
        return field != draw(values)
    if how == 4:
        return field.is_in(draw(st.lists(values, max_size=3)))
    if how == 5:
        return field.contains(draw(scalars))
    if how == 6:
        return draw(st.sampled_from([field.any_of, field.all_of]))(
            draw(st.lists(scalars, max_size=2))
        )
    if how == 7:
        return field.text(draw(texts), case_sensitive=draw(st.booleans()))
    if how == 8:
        return draw(st.sampled_from([field.present, field.is_empty]))()
    of_a_kind = draw(st.sampled_from(bounds))
    low = draw(of_a_kind)
    if how == 9:
        return field.between(low, draw(of_a_kind))
    return [field < low, field <= low, field > low, field >= low][how - 10]


filters = st.recursive(
    leaves(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: reduce(and_, parts))
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: reduce(or_, parts))
        | st.lists(inner, max_size=2).map(lambda parts: And(tuple(parts)))
        | st.lists(inner, max_size=2).map(lambda parts: Or(tuple(parts)))
        | inner.map(lambda part: ~part)
    ),
    max_leaves=6,
)
