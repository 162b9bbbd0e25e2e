"""The names and bytes that a map's values are stored under and as.

A name of at most 1000 bytes is stored as it is; of a longer one its beginning and a digest, and the
value holds it whole. A value is sealed once, for the durable tier and for Redis alike:

    version  flags  checksum  |  [length of the name  name]  body
    1 byte   1      4         |   4

and in Redis and in memory it has its revision (8 bytes) and its end in milliseconds since 1970 (8, 0:
never) in front. With nothing behind them they are a mark: that it was deleted or, if they say that it
has ended, that only the durable tier knows.
"""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b
from typing import Final, NamedTuple

from redis_tiered.errors import InvalidInput, Unreadable

__all__ = [
    "LONGEST",
    "MAX_NAME",
    "MAX_VALUE",
    "Data",
    "Item",
    "digest_of",
    "gone",
    "name_of",
    "opened",
    "placed",
    "prefix_of",
    "sealed",
    "stored_name",
    "untold",
]

MAX_NAME: Final = 1 << 20  # bytes
MAX_VALUE: Final = 256 * 1024 * 1024  # bytes: Redis takes 512 MB, PostgreSQL 1 GB
LONGEST: Final = 1000  # of a name as it is: an index of PostgreSQL takes 2704
_DIGEST: Final = 64
_VERSION: Final = 1
_COMPRESSED: Final = 1
_NAMED: Final = 2
_HEAD: Final = struct.Struct(">BBI")
_PLACE: Final = struct.Struct(">QQ")
_ALL: Final = struct.Struct(">QQBBI")  # the two, one behind the other

Data = bytes | memoryview


class Item(NamedTuple):
    """A value as Redis or memory has it.

    Attributes:
        value: as the map's codec wrote it, not copied; None: it was deleted.
        name: whole, if it is stored by its beginning.
        revision: which change wrote it; 0 where only Redis knows it.
        expires: milliseconds since 1970; 0: never.
    """

    value: Data | None
    name: bytes | None
    revision: int
    expires: int


def stored_name(argument: str, name: object) -> bytes:
    """Check a name and give what it is stored by.

    Args:
        argument: for the error.
        name: 1 to 2**20 bytes of UTF-8.

    Raises:
        InvalidInput: another type, empty, too long, or not encodable.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"{argument} must be a str, got {type(name).__name__}")
    try:
        whole = name.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{argument} holds a lone surrogate; any text that UTF-8 can encode is accepted"
        ) from None
    if not 0 < len(whole) <= MAX_NAME:
        raise InvalidInput(f"{argument} must have 1 to {MAX_NAME} bytes in UTF-8, got {len(whole)}")
    if len(whole) <= LONGEST:
        return whole
    # One byte more than any that is stored as it is: the two never meet.
    digest = blake2b(whole, digest_size=_DIGEST // 2).hexdigest().encode()
    return whole[: LONGEST + 1 - _DIGEST] + digest


def prefix_of(prefix: object) -> bytes:
    """What the stored names begin with of all names that begin with a prefix, or of some more.

    Raises:
        InvalidInput: it is no text.
    """
    return b"" if prefix == "" else stored_name("prefix", prefix)[: LONGEST + 1 - _DIGEST]


def _is_cut(stored: bytes) -> bool:
    """Whether a stored name is the beginning of a longer one."""
    return len(stored) > LONGEST


def name_of(stored: bytes, item: Item) -> str:
    """The name that a value was put under."""
    return (stored if item.name is None else item.name).decode()


def digest_of(stored: bytes) -> str:
    """What stands for a name in the keys of Redis."""
    return blake2b(stored, digest_size=16).hexdigest()


def sealed(name: str, stored: bytes, value: bytes, *, compress_from: int | None) -> bytes:
    """A value as the durable tier has it."""
    body, flags = value, 0
    if compress_from is not None and len(body) >= compress_from:
        smaller = zlib.compress(body, 1)
        if len(smaller) < len(body) * 0.9:
            body, flags = smaller, _COMPRESSED
    if _is_cut(stored):
        whole = name.encode()
        body, flags = len(whole).to_bytes(4, "big") + whole + body, flags | _NAMED
    return _HEAD.pack(_VERSION, flags, zlib.crc32(body, flags)) + body


def placed(sealed: bytes, revision: int, expires: int) -> bytes:
    """A sealed value as Redis and memory have it."""
    return _PLACE.pack(revision, expires) + sealed


def gone(revision: int) -> bytes:
    """What Redis has of a value that was deleted."""
    return _PLACE.pack(revision, 0)


def untold(revision: int) -> bytes:
    """What Redis has of a value that it was not told: it ended long ago."""
    return _PLACE.pack(revision, 1)


def opened(data: bytes, *, trusted: bool = False) -> Item:
    """Read what `placed`, `gone` or `untold` made.

    Args:
        data: from Redis or memory.
        trusted: from memory: it was read before, and its checksum was right.

    Raises:
        Unreadable: truncated, corrupt, not ours, or written by a newer version.
    """
    try:
        revision, expires, version, flags, checksum = _ALL.unpack_from(data)
    except struct.error:
        if len(data) != _PLACE.size:
            raise Unreadable("truncated") from None
        return Item(None, None, *_PLACE.unpack(data))
    body: Data = memoryview(data)[_ALL.size :]
    if not trusted:
        right = zlib.crc32(body, flags) == checksum
        if version != _VERSION or flags & ~(_COMPRESSED | _NAMED):
            raise Unreadable("newer" if version > _VERSION and right else "foreign")
        if not right:
            raise Unreadable("corrupt")
    if not flags:
        return Item(body, None, revision, expires)
    name = None
    if flags & _NAMED:
        end = 4 + int.from_bytes(body[:4], "big")
        name, body = bytes(body[4:end]), body[end:]
    if flags & _COMPRESSED:
        try:
            body = zlib.decompress(body)
        except zlib.error:
            raise Unreadable("corrupt") from None
    return Item(body, name, revision, expires)
