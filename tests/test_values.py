"""Values of every kind come back equal and of the same type, or are refused with their path."""

from __future__ import annotations

import datetime
import enum
import sys
import zoneinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.values import (
    KINDS,
    READERS,
    CarefulWriter,
    Refused,
    Writer,
    copied,
    is_json,
    loaded,
    readable,
)
from tests.values import containers, scalars, state

values = st.recursive(scalars | st.binary(max_size=4).map(bytearray), containers, max_leaves=6)
CET = datetime.timezone(datetime.timedelta(hours=1), "CET")
HUGE = 7**10_000  # more digits than CPython writes


def written(value: Any, kind: type[Writer] = CarefulWriter) -> bytes:
    writer = kind()
    return writer.dumped(writer.value(value))


class Known(CarefulWriter):
    """A framework's writer: it knows complex numbers."""

    def other(self, value: Any, depth: int) -> Any:
        if type(value) is complex:
            return {"\0complex": [self.value(value.real, depth + 2), value.imag]}
        return NotImplemented


@settings(deadline=None, max_examples=300)
@given(values)
def test_what_comes_back_cannot_be_told_from_what_went_in(value: Any) -> None:
    before = state(value)
    payload = written(value)
    assert payload == written(value, Writer)
    assert state(value) == before
    found = loaded(payload)
    assert found == value
    assert state(found) == before
    assert state(copied(value)) == before
    assert is_json(value) == (payload[0] == 1)
    orjson.dumps(readable(value))


@pytest.mark.parametrize(
    "value",
    [
        bytearray(b"x"),
        (1, (2,)),
        {1, (2, "a"), None},
        frozenset({b"1"}),
        2**64 - 1,
        -(2**63) - 1,
        HUGE,
        {HUGE: (HUGE,)},
        float("nan"),
        -0.0,
        float("-inf"),
        Decimal("1.10"),
        Decimal("sNaN"),
        UUID(int=7),
        Path("/a/b"),
        Path(),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, fold=1),
        datetime.datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
        datetime.datetime(2026, 1, 2, tzinfo=CET),
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        datetime.datetime(2026, 1, 2).astimezone(),
        datetime.time(1, 2, tzinfo=CET, fold=1),
        datetime.timedelta(days=-1, microseconds=3),
        {"\0bytes": 1, "\0": 2, "\0\0": 3},
        {1: 2, None: 3, ("a", 1): 4, "b": {}},
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_every_kind(value: Any) -> None:
    payload = written([value])
    [found] = loaded(payload)
    assert type(found) is type(value)
    sys.set_int_max_str_digits(0)
    try:
        assert state(found) == state(value)
    finally:
        sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)


def test_copies_share_nothing_that_can_change() -> None:
    value = {"a": ([1], {"b": 1}, {1}, bytearray(b"x"))}
    copy = copied(value)
    copy["a"][0].append(2)
    copy["a"][1]["c"] = 1
    copy["a"][2].add(2)
    copy["a"][3].append(0)
    assert value == {"a": ([1], {"b": 1}, {1}, bytearray(b"x"))}


# --- what is refused -------------------------------------------------------------------------


class Color(enum.StrEnum):
    RED = "red"


class Zone(datetime.tzinfo):
    def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(0)


def deep(levels: int, key: Any = None) -> Any:
    inner: Any = 1
    for _ in range(levels):
        inner = [inner] if key is None else {key: inner}
    return inner


looped: list[Any] = []
looped.append((looped,))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), f" must be made of {KINDS}, got object"),
        ({"a": [0, (1, range(2))]}, f"['a'][1][1] must be made of {KINDS}, got range"),
        ({1: {"a b": len}}, f"[1]['a b'] must be made of {KINDS}, got builtin_function_or_method"),
        ({HUGE: object()}, f"[<int>] must be made of {KINDS}, got object"),
        ({(HUGE,): object()}, f"[<tuple>] must be made of {KINDS}, got object"),
        ({"a": {Color.RED: 1}}, f"['a'] must be made of {KINDS}, got key of Color"),
        ([Color.RED], f"[0] must be made of {KINDS}, got Color"),
        (["\ud800"], "[0] must be text that UTF-8 can encode, got a lone surrogate"),
        ({"\ud800": 1}, " must be text that UTF-8 can encode, got a key with a lone surrogate"),
        (
            {1: {"\ud800": 1}},
            "[1] must be text that UTF-8 can encode, got a key with a lone surrogate",
        ),
        (
            {1: 2, "\ud800": 1},
            " must be text that UTF-8 can encode, got a key with a lone surrogate",
        ),
        ([Path("\udcff")], "[0] must be text that UTF-8 can encode, got a path that is not UTF-8"),
        (
            [datetime.time(1, tzinfo=Zone())],
            f"[0] must be made of {KINDS}, got time with a Zone",
        ),
    ],
    ids=lambda value: value[:30] if type(value) is str else type(value).__name__,
)
def test_refusals_say_where_and_what(value: Any, says: str) -> None:
    with pytest.raises(Refused) as refused:
        written(value)
    error = refused.value.invalid("value", KINDS)
    assert type(error) is InvalidInput
    assert str(error) == f"value{says}"


@pytest.mark.parametrize("value", ["\ud800", {"\ud800": 1}, [("\ud800",)]])
def test_who_does_not_look_into_texts_is_told_by_dumped(value: Any) -> None:
    writer = Writer()
    content = writer.value(value)
    with pytest.raises(Refused, match="surrogate"):
        writer.dumped(content, lambda: CarefulWriter().value(value))
    with pytest.raises(Refused, match="UTF-8"):
        writer.dumped(content)


@pytest.mark.parametrize("value", [looped, deep(203), deep(70, 1), deep(203, "a")])
def test_nesting_is_bounded(value: Any) -> None:
    with pytest.raises(Refused) as refused:
        written(value)
    assert refused.value.accepted == "nested at most 200 levels deep in JSON"
    assert not is_json(value)
    readable(value)


@pytest.mark.parametrize("key", [None, 1, "a", "\0"])
def test_what_nests_as_deep_as_allowed_comes_back(key: Any) -> None:
    value = deep(65 if key == 1 else 200, key)
    assert loaded(written(value)) == value


# --- a framework's own types -----------------------------------------------------------------


def test_a_framework_adds_its_own() -> None:
    payload = written({"a": (1 + 2j,)}, Known)
    readers = READERS | {"\0complex": lambda value: complex(*value)}
    assert loaded(payload, readers) == {"a": (1 + 2j,)}
    with pytest.raises(Unreadable, match="tag"):
        loaded(payload)
    with pytest.raises(Refused, match="complex"):
        written(1j)


# --- what others see -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({1: (2,), None: {"a"}}, {"1": [2], "None": ["a"]}),
        ({HUGE: 1, (HUGE,): 2}, {hex(HUGE): 1, f"['{hex(HUGE)}']": 2}),
        ([b"b", bytearray(b"b")], ["Yg==", "Yg=="]),
        ([2**64, float("nan"), 1.5, True], ["0x10000000000000000", "nan", 1.5, True]),
        ({"d": datetime.date(2026, 1, 2)}, {"d": "2026-01-02"}),
        ([Path("/a"), Decimal("1.0"), Color.RED], ["/a", "1.0", "red"]),
        ([range(HUGE)], ["<range>"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_readable(value: Any, seen: Any) -> None:
    assert readable(value) == seen
    assert readable(seen) == seen
    orjson.dumps(readable(value))


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "\0", [{"a": [""]}], 2**64 - 1])
def test_is_json(value: Any) -> None:
    assert is_json(value)
    assert not is_json((value,))


# --- stored bytes ----------------------------------------------------------------------------

PAYLOAD = written(
    [
        {1: {2}, (1.5, None): frozenset({"a"}), "p": Path("/a"), "\0k": b"x"},
        [float("inf"), 2**64, Decimal("1.50"), UUID(int=1), bytearray(b"y")],
        [datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC"), fold=1)],
        [datetime.time(1, 2, tzinfo=CET), datetime.date(2020, 1, 1)],
        datetime.timedelta(seconds=1),
    ]
)


def read(payload: bytes) -> None:
    try:
        loaded(payload)
    except Unreadable:
        pass


@given(st.binary())
@example(b"")
@example(b"[" * 1000 + b"]" * 1000)
@example(b"[" * 100_000)
@example(b'{"\\u0000tuple":[' * 500 + b"]}" * 500)
@example(b'{"\\u0000dict":[[1,' * 300 + b"1" + b"]]}" * 300)
@example(b"1" + b"0" * 5000)
@example(b'{"\\u0000int":"' + b"f" * 100_000 + b'"}')
def test_foreign_bytes_are_unreadable(payload: bytes) -> None:
    for version in (b"", b"\1", b"\2", b"\3"):
        read(version + payload)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([*READERS, "\0newer"]), json_values)
@example("\0decimal", "1E+99999999999999999999")
@example("\0datetime", ["2020-01-01", 0, "../UTC"])
@example("\0datetime", ["2020-01-01", 0, "Europe"])
@example("\0datetime", ["2020-01-01", 0, ["CET"]])
@example("\0datetime", ["2020-01-01", 2, None])
@example("\0timedelta", [10**18])
@example("\0set", [[]])
@example("\0dict", [[{}, 1]])
@example("\0path", "\0")
def test_tags_with_anything_in_them(tag: str, content: Any) -> None:
    read(b"\3" + orjson.dumps([{tag: content}]))


@pytest.mark.parametrize("payload", [b"", b"\1", b"\2[]", b"\3", b"\4[]", b'\3{"\\u0000newer":1}'])
def test_unreadable(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        loaded(payload)


def test_every_truncation_is_unreadable() -> None:
    for end in range(len(PAYLOAD)):
        with pytest.raises(Unreadable):
            loaded(PAYLOAD[:end])


def test_every_flipped_bit_is_survived() -> None:
    for at in range(len(PAYLOAD)):
        for bit in range(8):
            read(PAYLOAD[:at] + bytes([PAYLOAD[at] ^ 1 << bit]) + PAYLOAD[at + 1 :])


def test_the_bytes_are_a_format() -> None:
    """What this writes today, a later version has to read."""
    value = [b"x", (1,), {1: 2}, {"\0": 1}, Path("/a"), datetime.datetime(2026, 1, 2, tzinfo=CET)]
    assert written(value)[1:].replace(b"\\u0000", b"@") == (
        b'[{"@bytes":"eA=="},{"@tuple":[1]},{"@dict":[[1,2]]},{"@@":1},{"@path":"/a"},'
        b'{"@datetime":["2026-01-02T00:00:00+01:00",0,["CET"]]}]'
    )
