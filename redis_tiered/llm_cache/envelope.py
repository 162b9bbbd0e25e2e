"""The bytes an answer is stored as, in every tier.

    version  flags  checksum  created  expires  ttl  |  body
    1 byte   1      4         8        8        8    |

Times are milliseconds; `expires` and `ttl` 0 mean never. The checksum covers everything else. The
body of an alias is the digest of the entry whose answer it shares, or nothing; its checksum is the
beginning of a SHA-1, for a script in Redis makes aliases, too.
"""

from __future__ import annotations

import struct
import zlib
from hashlib import sha1
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
_ALIAS = 2  # scripts look at this bit, too, and set it
_KNOWN_FLAGS = _COMPRESSED | _ALIAS


class Envelope(NamedTuple):
    """A stored answer: the adapter's bytes, and its times in milliseconds since 1970 (0: never).

    Attributes:
        alias: whether the payload is no answer, but the digest of the entry that has it.
    """

    payload: bytes
    created: int
    expires: int
    ttl: int
    alias: bool = False

    def remaining(self, now: int) -> int | None:
        """Milliseconds of validity left; None: it never ends."""
        return None if self.expires == 0 else self.expires - now


def seal(envelope: Envelope, *, compress_from: int | None) -> bytes:
    """Serialize, compressing payloads of at least `compress_from` bytes where that saves a tenth."""
    body, flags = envelope.payload, _ALIAS if envelope.alias else 0
    if compress_from is not None and len(body) >= compress_from:
        smaller = zlib.compress(body, 1)
        if len(smaller) < len(body) * 0.9:
            body, flags = smaller, flags | _COMPRESSED
    return _pack(body, flags, envelope)


def seal_for_memory(envelope: Envelope) -> bytes:
    """Serialize for L1: uncompressed, and not to be verified at each hit."""
    flags = _ALIAS if envelope.alias else 0
    header = _HEADER.pack(VERSION, flags, 0, envelope.created, envelope.expires, envelope.ttl)
    return header + envelope.payload


def unseal_from_memory(data: bytes) -> Envelope:
    """Read what `seal_for_memory` wrote in this process."""
    _, flags, _, created, expires, ttl = _HEADER.unpack_from(data)
    return Envelope(data[HEADER_BYTES:], created, expires, ttl, flags == _ALIAS)


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
    body = data[HEADER_BYTES:]
    if _checksum(data) != checksum:
        raise Unreadable("corrupt")
    if flags & _COMPRESSED:
        try:
            body = zlib.decompress(body)
        except zlib.error:
            raise Unreadable("corrupt") from None
    return Envelope(body, created, expires, ttl, bool(flags & _ALIAS))


def _pack(body: bytes, flags: int, envelope: Envelope) -> bytes:
    data = _HEADER.pack(VERSION, flags, 0, envelope.created, envelope.expires, envelope.ttl) + body
    return data[: _CHECKSUM.start] + _checksum(data).to_bytes(4, "big") + data[_CHECKSUM.stop :]


def _checksum(data: bytes) -> int:
    start, end = data[: _CHECKSUM.start], data[_CHECKSUM.stop :]
    if data[1] & _ALIAS:
        return int.from_bytes(sha1(start + end, usedforsecurity=False).digest()[:4], "big")
    return zlib.crc32(end, zlib.crc32(start))
