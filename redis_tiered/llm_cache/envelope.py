"""The bytes an answer is stored as, in every tier.

    version  flags  checksum  created  expires  ttl  |  body
    1 byte   1      4         8        8        8    |

Times are milliseconds; `expires` and `ttl` 0 mean never. The checksum covers all that follows it.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from redis_tiered.errors import Unreadable

__all__ = ["Envelope", "seal", "unseal"]

VERSION = 1
_HEADER = struct.Struct(">BBIQQQ")
_CHECKED_FROM = 6
_COMPRESSED = 1
_UNCHECKED = 2  # L1 only: verified when it was read
_KNOWN_FLAGS = _COMPRESSED | _UNCHECKED


class Envelope(NamedTuple):
    """A stored answer: the adapter's bytes, and its times in milliseconds since 1970 (0: never)."""

    payload: bytes
    created: int
    expires: int
    ttl: int

    def remaining(self, now: int) -> int | None:
        """Milliseconds of validity left; None: it never ends."""
        return None if self.expires == 0 else self.expires - now


def seal(envelope: Envelope, *, compress_from: int | None) -> bytes:
    """Serialize, compressing payloads of at least `compress_from` bytes where that saves a tenth."""
    body, flags = envelope.payload, 0
    if compress_from is not None and len(body) >= compress_from:
        smaller = zlib.compress(body, 1)
        if len(smaller) < len(body) * 0.9:
            body, flags = smaller, _COMPRESSED
    return _pack(body, flags, envelope)


def seal_for_memory(envelope: Envelope) -> bytes:
    """Serialize for L1: uncompressed, and not to be verified at each hit."""
    header = _HEADER.pack(VERSION, _UNCHECKED, 0, envelope.created, envelope.expires, envelope.ttl)
    return header + envelope.payload


def unseal(data: bytes) -> Envelope:
    """Read what `seal` wrote.

    Raises:
        Unreadable: truncated, corrupt, not ours, or written by a newer version.
    """
    try:
        version, flags, checksum, created, expires, ttl = _HEADER.unpack_from(data)
    except struct.error:
        raise Unreadable("truncated") from None
    if version != VERSION or flags & ~_KNOWN_FLAGS:
        # Only a checksum tells a newer writer of ours from bytes that were never ours.
        newer = version > VERSION and zlib.crc32(data[_CHECKED_FROM:]) == checksum
        raise Unreadable("newer" if newer else "foreign")
    body = data[_HEADER.size :]
    if flags & _UNCHECKED:
        return Envelope(body, created, expires, ttl)
    if zlib.crc32(data[_CHECKED_FROM:]) != checksum:
        raise Unreadable("corrupt")
    if flags & _COMPRESSED:
        try:
            body = zlib.decompress(body)
        except zlib.error:
            raise Unreadable("corrupt") from None
    return Envelope(body, created, expires, ttl)


def _pack(body: bytes, flags: int, envelope: Envelope) -> bytes:
    data = _HEADER.pack(VERSION, flags, 0, envelope.created, envelope.expires, envelope.ttl) + body
    checksum = zlib.crc32(data[_CHECKED_FROM:])
    return data[:2] + checksum.to_bytes(4, "big") + data[_CHECKED_FROM:]
