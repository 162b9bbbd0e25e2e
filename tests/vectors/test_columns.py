"""Masks of filters over slots, against the predicate on one document after the other."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_tiered.values import Writer
from redis_tiered.vectors import columns as module
from redis_tiered.vectors.codes import Codes
from redis_tiered.vectors.columns import Columns
from redis_tiered.vectors.filters import Field, Filter
from redis_tiered.vectors.tree import And, Or
from tests.vectors.strategies import filters, leaves, metadata


def encoded(fields: Mapping[str, Any]) -> bytes:
    writer = Writer()
    return writer.dumped(writer.value(dict(fields)))


class Slots:
    """Columns beside a plain dict that knows the same."""

    def __init__(self, capacity: int = 16, fields: int = 256) -> None:
        self.capacity = capacity
        self.columns = Columns(capacity, fields)
        self.held: dict[int, Mapping[str, Any]] = {}

    def put(self, slot: int, fields: Mapping[str, Any]) -> None:
        self.drop(slot)
        self.columns.put(slot, encoded(fields))
        self.held[slot] = fields

    def drop(self, slot: int) -> None:
        if self.held.pop(slot, None) is not None:
            self.columns.drop(slot)

    def resize(self) -> None:
        self.capacity += 3
        self.columns.resize(self.capacity)

    def pack(self) -> None:
        slots = sorted(self.held)
        self.capacity = len(slots) + 2
        self.columns.move(np.array(slots, np.intp), self.capacity)
        self.held = {place: self.held[slot] for place, slot in enumerate(slots)}

    def found(self, where: Filter) -> list[int]:
        alive = np.zeros(max(self.held, default=-1) + 1, np.bool_)
        alive[list(self.held)] = True
        mask = self.columns.mask(where, alive)
        assert mask.shape == alive.shape
        assert mask.dtype == np.bool_
        return (mask & alive).nonzero()[0].tolist()

    def expected(self, where: Filter) -> list[int]:
        return sorted(slot for slot, fields in self.held.items() if where.matches(fields))


steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 9), metadata),
    st.tuples(st.just("drop"), st.integers(0, 9)),
    st.tuples(st.just("ask"), filters | leaves()),
    st.tuples(st.just("ask"), filters | leaves()),
    st.sampled_from([("resize",), ("pack",), ("again",)]),
)


@settings(max_examples=300)
@given(st.lists(metadata, max_size=8), st.lists(steps, max_size=16), st.sampled_from([1, 2, 256]))
def test_a_mask_is_what_the_filter_says_of_each_document(
    documents: list[dict[str, Any]], program: list[tuple[Any, ...]], fields: int
) -> None:
    slots = Slots(fields=fields)
    asked: list[Filter] = []
    for slot, each in enumerate(documents):
        slots.put(slot, each)
    for name, *arguments in program:
        if name == "put" and arguments[0] < slots.capacity:
            slots.put(*arguments)
        elif name == "drop":
            slots.drop(*arguments)
        elif name == "resize":
            slots.resize()
        elif name == "pack":
            slots.pack()
        elif name == "ask":
            asked.append(arguments[0])
        for where in asked if name == "again" else asked[-1:]:
            assert slots.found(where) == slots.expected(where), where
    for where in asked:
        assert slots.found(where) == slots.expected(where), where


def test_values_come_and_go_and_are_forgotten() -> None:
    slots = Slots(100)
    rng = random.Random(1)
    asked = [
        Field("when") >= datetime(2024, 1, 1, 12, tzinfo=UTC),
        Field("tags").contains("3"),
        Field("name").text("9"),
        Field("number").between(3, 2**60),
        (Field("name") > "5") & ~(Field("number") == 2**53 + 1),
    ]
    for step in range(2000):
        slots.put(
            rng.randrange(100),
            {
                "when": datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=step),
                "tags": [str(step % 7), str(step)],
                "name": str(step),
                "number": 2**53 + step % 3 if step % 2 else step / 3,
            },
        )
        if step % 20 == 0:
            for where in asked:
                assert slots.found(where) == slots.expected(where)
    for column in slots.columns._columns.values():
        assert len(column.keys) <= 400
        assert len(column.listed) == len(column.keys)
        assert all(
            number <= len(column.keys) for numbers in column._holders.values() for number in numbers
        )
    assert len(slots.columns._columns["tags"]._holders) <= 500


def test_every_document_is_decoded_once_for_all_fields_of_a_filter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = []

    def counting(data: bytes) -> dict[str, Any]:
        decoded.append(data)
        return original(data)

    original = module.loaded_metadata
    monkeypatch.setattr(module, "loaded_metadata", counting)
    slots = Slots()
    for slot in range(10):
        slots.put(slot, {"a": slot, "b": str(slot)})
    assert not decoded
    where = (Field("a") < 5) | (Field("b") == "7")
    assert slots.found(where) == [0, 1, 2, 3, 4, 7]
    assert len(decoded) == 10
    slots.put(3, {"a": 9, "b": "7"})
    assert slots.found(where) == [0, 1, 2, 3, 4, 7]
    assert len(decoded) == 11


def test_columns_that_are_not_used_go() -> None:
    slots = Slots(fields=3)
    slots.put(0, dict.fromkeys("abcdefgh", 1))
    for name in "abcdabcd":
        assert slots.found(Field(name) == 1) == [0]
    assert list(slots.columns._columns) == ["b", "c", "d"]
    # A filter of more fields has all of them while it needs them.
    assert slots.found(And(tuple(Field(name) == 1 for name in "abcdefgh"))) == [0]
    assert len(slots.columns._columns) == 3


@pytest.mark.parametrize(
    "bad", [b"", b"\x07{}", b"\x01[1]", b"\x01{", b'\x03{"a": {"\\u0000no": 1}}']
)
def test_what_cannot_be_read_has_no_fields(bad: bytes) -> None:
    columns = Columns(2)
    columns.put(0, bad)
    columns.put(1, encoded({"a": 1}))
    alive = np.ones(2, np.bool_)
    assert columns.mask(Field("a").present(), alive).tolist() == [False, True]
    columns.drop(1)
    columns.put(1, bad)
    assert columns.mask(~Field("a").present(), alive).tolist() == [True, True]


def test_many_values_are_one_look_up() -> None:
    slots = Slots()
    for slot in range(10):
        slots.put(slot, {"a": slot, "tags": [slot, slot + 1]})
    assert slots.found(Field("a").is_in([1, 2.0, 77, "1"])) == [1, 2]
    assert slots.found(Field("a").not_in(list(range(2, 10)))) == [0, 1]
    assert slots.found(Field("tags").any_of([1, 9])) == [0, 1, 8, 9]
    assert slots.found(Or((Field("a") == 1, Field("tags").contains(9), Field("a") > 8))) == [
        1,
        8,
        9,
    ]


def test_everything_and_nothing() -> None:
    slots = Slots()
    assert slots.found(And(())) == []
    slots.put(0, {})
    slots.put(1, {"a": None})
    assert slots.found(And(())) == [0, 1]
    assert slots.found(Or(())) == []
    assert slots.found(~Field("a").present()) == [0, 1]


def test_memory_is_counted() -> None:
    slots = Slots(1000)
    empty = slots.columns.bytes
    for slot in range(1000):
        slots.put(slot, {"a": str(slot)})
    put = slots.columns.bytes
    assert put > empty + 10_000
    slots.found(Field("a").text("1"))
    assert slots.columns.bytes > put + 100_000
    for slot in range(1000):
        slots.drop(slot)
    assert slots.columns.bytes < put + 200_000 + empty


def test_codes_are_forgotten_only_when_most_are_garbage() -> None:
    codes = Codes(100)
    alive = np.ones(100, np.bool_)
    codes.numbers[:] = [codes.of(number) for number in range(100)]
    codes.tidy(alive)
    assert len(codes.keys) == 100
    alive[10:] = False
    for number in range(100, 200):
        codes.numbers[10] = codes.of(number)
    codes.tidy(alive)
    assert list(codes.keys) == list(range(10))
    assert codes.numbers[:12].tolist() == [*range(1, 11), 0, 0]
    assert codes.any([3, 4, 150], 10).nonzero()[0].tolist() == [3, 4]
