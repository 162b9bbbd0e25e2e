"""The bytes an answer is stored as, in every tier.

    version  flags  checksum  created  expires  ttl  |  body
    1 byte   1      4         8        8        8    |

Times are milliseconds; `expires` and `ttl` 0 mean never. The checksum covers everything else.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from redis_tiered.errors import Unreadable

__all__ = [
    "HEADER_BYTES",
    "Envelope",
    "seal",
    "seal_for_memory",
    "unseal",
    "unseal_from_memory",
]

VERSION = 1
_HEADER = struct.Struct(">BBIQQQ")
HEADER_BYTES = _HEADER.size
_CHECKSUM = slice(2, 6)
_COMPRESSED = 1
_KNOWN_FLAGS = _COMPRESSED


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
    header = _HEADER.pack(VERSION, 0, 0, envelope.created, envelope.expires, envelope.ttl)
    return header + envelope.payload


def unseal_from_memory(data: bytes) -> Envelope:
    """Read what `seal_for_memory` wrote in this process."""
    return Envelope(data[HEADER_BYTES:], *_HEADER.unpack_from(data)[3:])


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
        newer = version > VERSION and _checksum(data) == checksum
        raise Unreadable("newer" if newer else "foreign")
    if _checksum(data) != checksum:
        raise Unreadable("corrupt")
    body = data[HEADER_BYTES:]
    if flags & _COMPRESSED:
        try:
            body = zlib.decompress(body)
        except zlib.error:
            raise Unreadable("corrupt") from None
    return Envelope(body, created, expires, ttl)


def _pack(body: bytes, flags: int, envelope: Envelope) -> bytes:
    data = _HEADER.pack(VERSION, flags, 0, envelope.created, envelope.expires, envelope.ttl) + body
    return data[: _CHECKSUM.start] + _checksum(data).to_bytes(4, "big") + data[_CHECKSUM.stop :]


def _checksum(data: bytes) -> int:
    return zlib.crc32(data[_CHECKSUM.stop :], zlib.crc32(data[: _CHECKSUM.start]))
