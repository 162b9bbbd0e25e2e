"""Canonical bytes and fingerprints: equal for equal data, different for anything else."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import Request, Traits, canonical, fingerprint

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(
    ["\0", "\0int", "\0\0int", "\0set", "\0map", "\0bytes", "\0float", "nan", "0x1", "1", "true"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(2**63 - 2, 2**64 + 2)
    | st.integers(-(2**64), -(2**63) + 2)
    | st.floats(allow_nan=True)
    | TEXT
    | st.binary(max_size=4)
)
HASHABLE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
PLAIN = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXT, inner, max_size=3)
        | st.dictionaries(HASHABLE, inner, max_size=2)
        | st.sets(SCALARS, max_size=3)
    ),
    max_leaves=8,
)


def shape(value: Any) -> Any:
    """What must be told apart, in Python's own terms: types apart, lists and tuples alike."""
    if isinstance(value, list | tuple):
        return "list", tuple(shape(item) for item in value)
    if isinstance(value, dict):
        return "dict", frozenset((shape(key), shape(item)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return "set", frozenset(shape(item) for item in value)
    if isinstance(value, float):
        return "float", repr(value)
    return type(value).__name__, value


@settings(max_examples=200)
@given(PLAIN, PLAIN)
@example({1: "a"}, {"\0map": [[1, "a"]]})
@example({"\0int": "0x1"}, {"\0\0int": "0x1"})
@example(2**64, {"\0int": hex(2**64)})
@example(2**64, {"\0int": str(2**64)})
@example(math.nan, {"\0float": "nan"})
@example(b"a", {"\0bytes": "YQ=="})
@example({1, 2}, [1, 2])
@example(0.0, -0.0)
@example(True, 1)
@example(1, 1.0)
@example({}, [])
@example({frozenset()}, {()})
def test_canonical_is_injective(one: Any, two: Any) -> None:
    assert (canonical(one) == canonical(two)) == (shape(one) == shape(two))


@given(st.dictionaries(TEXT, PLAIN, max_size=5), st.randoms())
def test_the_order_of_a_dict_does_not_matter(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert canonical(dict(items)) == canonical(value) == canonical(OrderedDict(items))


@given(st.lists(PLAIN, max_size=4))
def test_lists_and_tuples_are_the_same(value: list[Any]) -> None:
    assert canonical(value) == canonical(tuple(value))


class Text(enum.StrEnum):
    HIGH = "high"


class Old(str, enum.Enum):  # noqa: UP042 - it prints otherwise
    HIGH = "high"


class Shouting(str):
    def __str__(self) -> str:
        return "HIGH"


@pytest.mark.parametrize("value", [Text.HIGH, Old.HIGH, Shouting("high")])
def test_a_kind_of_str_is_the_text_that_a_provider_gets(value: str) -> None:
    assert canonical(value) == canonical("high")
    assert canonical({value: value}) == canonical({"high": "high"})
    assert canonical([{value: 1, 2: 3}]) == canonical([{"high": 1, 2: 3}])


def test_bytes_and_bytearrays_are_the_same() -> None:
    assert canonical(bytearray(b"ab")) == canonical(b"ab") != canonical("ab")


@pytest.mark.parametrize("sign", [1, -1])
def test_integers_of_any_size(sign: int) -> None:
    huge = [sign * number for number in (2**64, 2**64 + 1, 10**5000, 10**5000 + 1)]
    assert len({canonical(number) for number in huge}) == 4


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value", [object(), 1j, Number.ONE, len, Exception(), range(3), {"a": [object()]}, {1: len}]
)
def test_what_no_provider_can_be_sent_is_refused(value: object) -> None:
    with pytest.raises(Uncacheable) as raised:
        canonical(value)
    assert raised.value.reason == "unsupported_type"


@pytest.mark.parametrize("value", ["\ud800", ["a\udfff"], {"\ud800": 1}, {"\ud800"}, {1: "\ud800"}])
def test_lone_surrogates_are_refused(value: object) -> None:
    with pytest.raises(Uncacheable) as raised:
        canonical(value)
    assert raised.value.reason == "invalid_text"


def _nested(wrap: Any, levels: int) -> Any:
    value: Any = ()
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"a": value},
    "map": lambda value: {1: value},
    "key": lambda value: (frozenset([value]),),
    "set": lambda value: frozenset([value]),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_deep_nesting_is_refused_and_moderate_nesting_stays_small(wrap: Any) -> None:
    assert len(canonical(_nested(wrap, 40))) < 5000
    for levels in (101, 300):
        with pytest.raises(Uncacheable) as raised:
            canonical(_nested(wrap, levels))
        assert raised.value.reason == "too_deep"


PARTS = st.binary(max_size=6) | st.sampled_from([b"1:", b"1:1:", b"0:0:", b"p"])
PROMPTS = st.none() | TEXT
REQUESTS = st.builds(Request, PARTS, PARTS, PROMPTS, st.just(Traits()))


@given(REQUESTS, REQUESTS)
@example(Request(b"ab", b"c", None), Request(b"a", b"bc", None))
@example(Request(b"", b"p", None), Request(b"", b"", ""))
@example(Request(b"", b"", None), Request(b"", b"", ""))
@example(Request(b"a", b"1:b", "c"), Request(b"a", b"1:", "bc"))
def test_fingerprints_are_injective(one: Request, two: Request) -> None:
    assert (fingerprint(one).digest == fingerprint(two).digest) == (one == two)
    same_scope = one[:2] == two[:2]
    assert (fingerprint(one).scope == fingerprint(two).scope) == same_scope


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    assert fingerprint(Request(b"params", b"context", "prompt")) == (
        "62ddb13850319f528ce151ea7574e222",
        "a80a59f88b9526461cef8ffa81c6f80f",
    )


def test_a_prompt_that_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(Uncacheable) as raised:
        fingerprint(Request(b"", b"", "\ud800"))
    assert raised.value.reason == "invalid_text"
    assert "\ud800" not in str(raised.value)
