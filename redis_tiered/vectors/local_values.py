"""How a document lies in the hashes of engine `local`: in up to three values, or in one.

Every value begins with the version that wrote it, which `scripts.APPLY` puts there.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.flow import Command
from redis_tiered.vectors.document import Metric, Row, Vector, loaded_metadata
from redis_tiered.vectors.engine import content, loaded_content

__all__ = ["Apart", "Kept", "Loaded", "Together", "Values", "kept"]

_STAMP: Final = 8
_MAX_HALF: Final = 65504
# Of `Together`, behind version and end: how long parent, text and metadata are.
_LENGTHS: Final = struct.Struct(">HII")
_BODY: Final = 2 * _STAMP + _LENGTHS.size
_Hashes = tuple[bytes, bytes, bytes]


class Kept(NamedTuple):
    """What the index keeps of a document of which it is told everything."""

    id: str
    text: str
    metadata: dict[str, Any]


class Loaded(NamedTuple):
    """A document for the index; `row` has no vector, and may lack text and payload."""

    row: Row
    vector: Vector


class _Vectors:
    """Vectors as bytes.

    Args:
        metric: how they are compared.
        half: as float16.
    """

    def __init__(self, metric: Metric, *, half: bool) -> None:
        self._metric = metric
        self._half = half

    def length(self, dims: int) -> int:
        return 2 + 2 * dims if self._half else 4 * dims

    def dumped(self, vector: bytes) -> bytes:
        """Of float32; as float16, behind the exponent of two that the numbers were divided by.

        Under "cosine" they are divided if they are too large or too small for float16: it is the
        direction that counts.

        Raises:
            InvalidInput: a number is too large.
        """
        if not self._half:
            return vector
        numbers, exponent = np.frombuffer(vector, "<f4"), 0
        largest = float(np.abs(numbers).max())
        if self._metric == "cosine":
            exponent = math.frexp(largest)[1]
            if -6 <= exponent <= 15:
                exponent = 0
            else:
                numbers = np.ldexp(numbers, -exponent)
        elif largest > _MAX_HALF:
            raise InvalidInput(
                f"vector must hold numbers from -{_MAX_HALF} to {_MAX_HALF} for "
                f'dtype="float16", got {largest:g}'
            )
        return exponent.to_bytes(2, "big", signed=True) + numbers.astype("<f2").tobytes()

    def loaded(self, stored: bytes, start: int) -> Vector:
        """What `dumped` made, which is there from `start` to the end."""
        if not self._half:
            return np.frombuffer(stored, "<f4", offset=start).astype(np.float32)
        exponent = int.from_bytes(stored[start : start + 2], "big", signed=True)
        numbers = np.frombuffer(stored, "<f2", offset=start + 2).astype(np.float32)
        return np.ldexp(numbers, exponent) if exponent else numbers


class Apart:
    """Vector, metadata and contents in a hash each: what is not asked for is not read.

    Args:
        metric: how vectors are compared.
        half: keep them as float16.
        contents: whether texts and payloads are there, too.

    Attributes:
        parts: in how many hashes a document is.
        whole: whether the index is told everything of a document.
    """

    whole: Final = False

    def __init__(self, metric: Metric, *, half: bool, contents: bool) -> None:
        self._vectors = _Vectors(metric, half=half)
        self._contents = contents
        self.parts = 3 if contents else 2

    def words(self, row: Row) -> tuple[bytes, ...]:
        """What `scripts.APPLY` writes."""
        first = _ending(row) + self._vectors.dumped(row.vector)
        second = len(row.parent).to_bytes(2, "big") + row.parent + row.metadata
        return (first, second, content(row)) if self._contents else (first, second)

    def loads(self, hashes: _Hashes, ids: Sequence[bytes]) -> tuple[Command, ...]:
        """What to ask for the index."""
        vectors, metadata, _ = hashes
        return ("HMGET", vectors, *ids), ("HMGET", metadata, *ids)

    def loaded(self, ids: Sequence[bytes], replies: Sequence[Any], dims: int) -> list[Loaded]:
        """What `loads` was answered; a document that is not whole is left out."""
        length = 2 * _STAMP + self._vectors.length(dims)
        vectors, metadata = replies
        found = []
        for id, first, second in zip(ids, vectors, metadata, strict=True):
            if first is None or second is None or len(first) != length:
                continue
            version = int.from_bytes(first[:_STAMP], "big")
            row = _apart(id, second, b"")._replace(version=version, expires=_ended(first))
            found.append(Loaded(row, self._vectors.loaded(first, 2 * _STAMP)))
        return found

    def asks(self, hashes: _Hashes, ids: Sequence[bytes], *, vectors: bool) -> tuple[Command, ...]:
        """What to ask for whole documents."""
        vectors_key, metadata_key, contents_key = hashes
        keys = [metadata_key]
        if self._contents:
            keys.append(contents_key)
        if vectors:
            keys.append(vectors_key)
        return tuple([("HMGET", key, *ids) for key in keys])

    def received(
        self, ids: Sequence[bytes], replies: Sequence[Any], *, vectors: bool
    ) -> list[tuple[Row, bytes]]:
        """What `asks` was answered, and for each document what `remembered` takes; one that is not
        whole is left out."""
        stored, none = iter(replies), [None] * len(ids)
        metadata = next(stored)
        contents = next(stored) if self._contents else none
        numbers = next(stored) if vectors else none
        found = []
        for id, first, second, third in zip(ids, metadata, contents, numbers, strict=True):
            if first is None or (second is None and self._contents) or (third is None and vectors):
                continue
            body = b"" if second is None else second[_STAMP:]
            row = _apart(id, first, body)
            if vectors:
                vector = self._vectors.loaded(third, 2 * _STAMP).tobytes()
                row = row._replace(vector=vector, expires=_ended(third))
            found.append((row, len(first).to_bytes(4, "big") + first + body))
        return found

    def remembered(self, id: bytes, held: bytes) -> Row:
        """A document without its vector."""
        end = 4 + int.from_bytes(held[:4], "big")
        return _apart(id, held[4:end], held[end:])


class Together:
    """Everything in one value, which the index is told as a whole; no payload.

    1536 float16 numbers take 3584 bytes of Redis' allocator, whatever else stands in the 500 bytes
    that they do not fill: parent, text and metadata do.

    Args:
        metric: how vectors are compared.
        half: keep them as float16.
    """

    whole: Final = True
    parts: Final = 1

    def __init__(self, metric: Metric, *, half: bool) -> None:
        self._vectors = _Vectors(metric, half=half)

    def words(self, row: Row) -> tuple[bytes, ...]:
        head = _ending(row) + _LENGTHS.pack(len(row.parent), len(row.text), len(row.metadata))
        body = row.parent + row.text + row.metadata
        return (head + body + self._vectors.dumped(row.vector),)

    def loads(self, hashes: _Hashes, ids: Sequence[bytes]) -> tuple[Command, ...]:
        return (("HMGET", hashes[0], *ids),)

    def loaded(self, ids: Sequence[bytes], replies: Sequence[Any], dims: int) -> list[Loaded]:
        length = self._vectors.length(dims)
        found = []
        for id, value in zip(ids, replies[0], strict=True):
            if value is not None and len(value) >= _BODY:
                row, end = _together(id, value)
                if len(value) - end == length:
                    found.append(Loaded(row, self._vectors.loaded(value, end)))
        return found

    def asks(self, hashes: _Hashes, ids: Sequence[bytes], *, vectors: bool) -> tuple[Command, ...]:
        return self.loads(hashes, ids)

    def received(
        self, ids: Sequence[bytes], replies: Sequence[Any], *, vectors: bool
    ) -> list[tuple[Row, bytes]]:
        found = []
        for id, value in zip(ids, replies[0], strict=True):
            if value is not None and len(value) >= _BODY:
                row, end = _together(id, value)
                if vectors:
                    row = row._replace(vector=self._vectors.loaded(value, end).tobytes())
                found.append((row, b""))
        return found

    def remembered(self, id: bytes, held: bytes) -> Row:
        raise NotImplementedError("nothing is remembered beside the index")


Values = Apart | Together


def _ending(row: Row) -> bytes:
    return (0 if row.expires is None else row.expires).to_bytes(_STAMP, "big")


def _ended(stored: bytes) -> int | None:
    return int.from_bytes(stored[_STAMP : 2 * _STAMP], "big") or None


def _apart(id: bytes, metadata: bytes, contents: bytes) -> Row:
    """A document of its two values, each behind its stamp."""
    version = int.from_bytes(metadata[:_STAMP], "big")
    start = _STAMP + 2 + int.from_bytes(metadata[_STAMP : _STAMP + 2], "big")
    text, payload = loaded_content(contents) if contents else (b"", b"")
    return Row(
        version, id, b"", metadata[start:], text, payload, metadata[_STAMP + 2 : start], None
    )


def _together(id: bytes, value: bytes) -> tuple[Row, int]:
    """A document of its one value, without its vector; and where that begins."""
    parent, text, metadata = _LENGTHS.unpack_from(value, 2 * _STAMP)
    text_at = _BODY + parent
    metadata_at = text_at + text
    end = metadata_at + metadata
    row = Row(
        int.from_bytes(value[:_STAMP], "big"),
        id,
        b"",
        value[metadata_at:end],
        value[text_at:metadata_at],
        b"",
        value[_BODY:text_at],
        _ended(value),
    )
    return row, end


def kept(row: Row) -> Kept | None:
    """Of a document of which all is known; None: it cannot be read."""
    try:
        return Kept(row.id.decode(), row.text.decode(), loaded_metadata(row.metadata))
    except (Unreadable, UnicodeDecodeError):
        return None
