"""Random values of every kind that is stored."""

from __future__ import annotations

import datetime
import zoneinfo
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel

words = st.text(max_size=8) | st.sampled_from(["\0bytes", "\0", "\0\0x", "lc", "__lc_escaped__"])
zones = st.none() | st.sampled_from(
    [
        datetime.UTC,
        datetime.timezone(datetime.timedelta(hours=-3, microseconds=1)),
        datetime.timezone(datetime.timedelta(hours=1), "CET"),
        zoneinfo.ZoneInfo("Europe/Berlin"),
        zoneinfo.ZoneInfo("UTC"),
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False),
    words,
    st.binary(max_size=4),
    st.builds(Path, st.sampled_from(["a", "/b/ü c.txt"])),
    st.datetimes(timezones=zones),
    st.builds(lambda value, fold: value.replace(fold=fold), st.datetimes(), st.integers(0, 1)),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
# A set of more than one may come back in another order; equal, but of another repr.
keys = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner, max_size=1),
    max_leaves=3,
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(words, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=2),
        st.sets(keys, max_size=1),
        st.frozensets(keys, max_size=1),
    )


values = st.recursive(scalars, containers, max_leaves=6)


def state(value: Any) -> Any:
    """Everything an object holds, with exact types."""
    if isinstance(value, BaseModel):
        return (
            type(value),
            [(key, state(item)) for key, item in value.__dict__.items()],
            value.__pydantic_fields_set__,
            state(value.__pydantic_extra__),
            value.__pydantic_private__,
        )
    if isinstance(value, dict):
        return [(state(key), state(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [state(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(state(item)) for item in value)
    return type(value), repr(value)
