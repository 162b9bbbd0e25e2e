"""Stored names and values: nothing meets, nothing is read that was not written."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.maps.item import (
    MAX_NAME,
    Item,
    digest_of,
    gone,
    name_of,
    opened,
    placed,
    prefix_of,
    sealed,
    stored_name,
    untold,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
NAMES = st.one_of(
    TEXT,
    st.sampled_from(["\0", "\n", "a:b", "{a}", "*", "é", "e\u0301", "\U0001f600", " ", "%", "/"]),
    st.builds(lambda start, n: start + "x" * n, TEXT, st.integers(900, 1100)),
    st.builds(lambda n, end: "é" * n + end, st.integers(460, 520), TEXT),
)
REVISIONS = st.integers(0, 1 << 53)
LONG = "n" * 1001


def whole(name: str, value: bytes, revision: int = 7, expires: int = 0, **options: int) -> bytes:
    compress_from = options.get("compress_from")
    return placed(
        sealed(name, stored_name("name", name), value, compress_from=compress_from),
        revision,
        expires,
    )


@given(
    NAMES,
    st.binary() | st.builds(lambda part, n: part * n, st.binary(max_size=5), st.integers(0, 500)),
    REVISIONS,
    st.integers(0, 1 << 60),
    st.none() | st.integers(0, 1000),
)
def test_what_was_sealed_is_opened(
    name: str, value: bytes, revision: int, expires: int, compress_from: int | None
) -> None:
    stored = stored_name("name", name)
    data = placed(sealed(name, stored, value, compress_from=compress_from), revision, expires)
    for trusted in (True, False):
        item = opened(data, trusted=trusted)
        assert (item.value, item.revision, item.expires) == (value, revision, expires)
        assert name_of(stored, item) == name
    assert (item.name is None) == (len(name.encode()) <= 1000)


@given(REVISIONS)
def test_marks(revision: int) -> None:
    assert opened(gone(revision)) == Item(None, None, revision, 0)
    item = opened(untold(revision))
    assert item.value is None
    assert item.expires == 1  # over: the durable tier is asked


@pytest.mark.parametrize("name", ["q", LONG], ids=["short", "long"])
@pytest.mark.parametrize("value", [b"", b"A", b"A" * 200], ids=["empty", "one", "compressed"])
def test_no_byte_can_be_changed_unnoticed(name: str, value: bytes) -> None:
    data = whole(name, value, compress_from=100)
    for at in range(len(data)):
        for change in (1, 2, 3, 0x80, 0xFF):
            damaged = data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
            if at < 16:  # revision and end: they say when it counts, not what it is
                assert opened(damaged).value == value
                continue
            with pytest.raises(Unreadable):
                opened(damaged)


@pytest.mark.parametrize("name", ["q", LONG], ids=["short", "long"])
def test_nothing_can_be_cut_off_unnoticed(name: str) -> None:
    data = whole(name, b"A" * 50)
    for length in range(len(data)):
        if length == 16:  # a mark
            assert opened(data[:length]).value is None
            continue
        with pytest.raises(Unreadable):
            opened(data[:length])
    with pytest.raises(Unreadable):
        opened(data + b"x")


@given(st.binary(max_size=60).filter(lambda data: len(data) != 16))
@example(b"")
def test_foreign_bytes_are_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        opened(data)


@pytest.mark.parametrize(("version", "flags"), [(2, 0), (255, 3), (1, 4)])
def test_a_newer_version_is_told_from_a_foreign_one(version: int, flags: int) -> None:
    head = struct.pack(">BBI", version, flags, zlib.crc32(b"body", flags))
    with pytest.raises(Unreadable) as raised:
        opened(placed(head + b"body", 1, 0))
    assert raised.value.reason == ("newer" if version > 1 else "foreign")


def test_compressed_only_where_it_helps() -> None:
    noise = bytes(range(256))
    assert len(whole("q", noise, compress_from=0)) > len(noise)
    assert len(whole("q", bytes(10_000), compress_from=10_000)) < 200
    assert len(whole("q", bytes(9_999), compress_from=10_000)) > 9_999
    assert opened(whole("q", b"", compress_from=0)).value == b""


# Names.


@given(NAMES, NAMES)
@example("n" * 1000, "n" * 1001)
@example("n" * 1001, "n" * 1002)
def test_stored_names_are_different(one: str, two: str) -> None:
    first, second = stored_name("name", one), stored_name("name", two)
    assert (first == second) == (one == two)
    assert (digest_of(first) == digest_of(second)) == (one == two)
    assert len(first) <= 1001


def test_where_a_name_is_cut() -> None:
    assert stored_name("name", "n" * 1000) == b"n" * 1000
    assert len(stored_name("name", "n" * 1001)) == 1001
    assert len(stored_name("name", "n" * MAX_NAME)) == 1001
    assert stored_name("name", "é" * 500) == "é".encode() * 500
    assert len(stored_name("name", "é" * 501)) == 1001


def test_a_name_made_to_look_like_a_stored_one_is_another() -> None:
    stored = stored_name("name", LONG)
    forged = stored.decode()
    assert stored_name("name", forged) != stored
    assert len(forged.encode()) == 1001


@given(NAMES, st.integers(0, 1200))
def test_a_prefix_covers_all_names_that_begin_with_it(name: str, length: int) -> None:
    assert stored_name("name", name).startswith(prefix_of(name[:length]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "NoneType"),
        (1, "int"),
        (b"bytes", "bytes"),
        (["a"], "list"),
        ("", "got 0"),
        ("x" * (MAX_NAME + 1), f"got {MAX_NAME + 1}"),
        ("é" * (MAX_NAME // 2 + 1), f"got {MAX_NAME + 2}"),
        ("\ud800", "surrogate"),
    ],
    ids=["None", "int", "bytes", "list", "empty", "too long", "too long in UTF-8", "surrogate"],
)
def test_what_is_no_name_is_refused(name: object, said: str) -> None:
    with pytest.raises(InvalidInput, match=f"which.*{said}"):
        stored_name("which", name)
