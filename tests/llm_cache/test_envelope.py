"""Stored bytes: read back equal, or refused with a reason; never read as something else."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redis_tiered.errors import Unreadable
from redis_tiered.llm_cache.envelope import (
    HEADER_BYTES,
    Envelope,
    seal,
    seal_for_memory,
    unseal,
    unseal_from_memory,
)

TIMES = st.integers(0, 2**64 - 1)
PAYLOADS = st.binary(max_size=300) | st.binary(min_size=1, max_size=4).map(lambda b: b * 900)
ENVELOPES = st.builds(Envelope, PAYLOADS, TIMES, TIMES, TIMES)
COMPRESS = st.none() | st.integers(0, 400)


@given(ENVELOPES, COMPRESS)
def test_round_trip(envelope: Envelope, compress_from: int | None) -> None:
    assert unseal(seal(envelope, compress_from=compress_from)) == envelope
    assert unseal_from_memory(seal_for_memory(envelope)) == envelope


@given(ENVELOPES, COMPRESS, st.data())
def test_a_flipped_bit_is_noticed(
    envelope: Envelope, compress_from: int | None, data: st.DataObject
) -> None:
    sealed = bytearray(seal(envelope, compress_from=compress_from))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Unreadable):
        unseal(bytes(sealed))


@given(ENVELOPES, COMPRESS, st.data())
def test_cut_or_lengthened_bytes_are_noticed(
    envelope: Envelope, compress_from: int | None, data: st.DataObject
) -> None:
    sealed = seal(envelope, compress_from=compress_from)
    with pytest.raises(Unreadable):
        unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1))])
    with pytest.raises(Unreadable):
        unseal(sealed + data.draw(st.binary(min_size=1, max_size=9)))


@given(st.binary(max_size=80))
@example(b"\x01\x02" + bytes(40))
@example(b"\x01\x00" + bytes(40))
@example(b"\x01\x01" + bytes(40))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        unseal(data)


@given(PAYLOADS)
def test_what_memory_holds_is_not_accepted_from_elsewhere(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        unseal(seal_for_memory(Envelope(payload, 1, 2, 3)))


def _checked(data: bytes) -> bytes:
    checksum = zlib.crc32(data[6:], zlib.crc32(data[:2]))
    return data[:2] + checksum.to_bytes(4, "big") + data[6:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"\x01" * (HEADER_BYTES - 1), "truncated"),
        (_checked(b"\x02" + bytes(HEADER_BYTES)), "newer"),
        (_checked(b"\xff" + bytes(HEADER_BYTES)), "newer"),
        (b"\x02" + bytes(HEADER_BYTES), "foreign"),
        (_checked(b"\x00" + bytes(HEADER_BYTES)), "foreign"),
        (_checked(b"\x01\x80" + bytes(HEADER_BYTES)), "foreign"),
        (b"\x80\x04\x95" + bytes(HEADER_BYTES), "foreign"),
        (b"\x01\x00" + bytes(HEADER_BYTES), "corrupt"),
        (_checked(b"\x01\x01" + bytes(HEADER_BYTES)), "corrupt"),
    ],
)
def test_the_reason_tells_what_was_found(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as raised:
        unseal(data)
    assert raised.value.reason == reason


def test_compressed_where_that_saves_a_tenth() -> None:
    loose, dense = b"word " * 1000, zlib.compress(bytes(range(256)) * 3)
    assert len(seal(Envelope(loose, 1, 2, 3), compress_from=100)) < len(loose) / 5
    assert len(seal(Envelope(loose, 1, 2, 3), compress_from=None)) == len(loose) + HEADER_BYTES
    assert len(seal(Envelope(loose, 1, 2, 3), compress_from=5001)) == len(loose) + HEADER_BYTES
    assert len(seal(Envelope(dense, 1, 2, 3), compress_from=0)) == len(dense) + HEADER_BYTES


@given(TIMES, st.integers(0, 2**63))
def test_remaining(now: int, left: int) -> None:
    assert Envelope(b"", 0, 0, 0).remaining(now) is None
    assert Envelope(b"", 0, max(1, now + left), 1).remaining(now) == max(1, now + left) - now
