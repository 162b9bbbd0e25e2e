"""Documents as users give and get them, and as the tiers keep them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from redis_tiered.checks import text
from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.values import KINDS, CarefulWriter, Refused, Writer, loaded

__all__ = [
    "METRICS",
    "Document",
    "Draft",
    "Hit",
    "Metric",
    "Removal",
    "Row",
    "Vector",
    "checked_id",
    "checked_vector",
    "drafted",
    "dumped_metadata",
    "loaded_metadata",
    "score_of",
]

Metric = Literal["cosine", "ip", "l2"]
METRICS: Final[tuple[Metric, ...]] = ("cosine", "ip", "l2")
Vector = NDArray[np.float32]

# With a scope, what an index of PostgreSQL takes (2704 bytes).
_MAX_ID: Final = 1024
_MAX_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A text with its vector and what is known of it.

    Attributes:
        id: at most 1024 bytes of UTF-8; empty: one is made when it is stored.
        vector: of shape `(dims,)`; when stored, anything that numpy makes float32 numbers of;
            when read, float32 or None if it was not asked for.
        text: what full-text search looks at.
        metadata: by name; what filters look at. Values as `redis_tiered.values` keeps them.
        payload: opaque bytes of the caller, kept beside the text.
        parent: id of the source this is a part of; empty: none.
    """

    id: str = ""
    vector: Any = None
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    parent: str = ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Document):
            return NotImplemented
        return self._rest() == other._rest() and (
            np.array_equal(self.vector, other.vector)
            if self.vector is not None and other.vector is not None
            else self.vector is other.vector
        )

    __hash__ = None  # type: ignore[assignment]

    def _rest(self) -> tuple[object, ...]:
        return self.id, self.text, dict(self.metadata), self.payload, self.parent


class Hit(NamedTuple):
    """A document that was found.

    Attributes:
        document: what was found.
        score: the higher, the better. By vector: the cosine (-1 to 1) under "cosine", the inner
            product under "ip", `1 / (1 + distance)` under "l2". By full text: its own score.
            Hybrid: the fused reciprocal ranks.
        distance: the lower, the nearer: `1 - score` under "cosine" and "ip", the Euclidean
            distance under "l2"; NaN where no vector was compared.
    """

    document: Document
    score: float
    distance: float


class Draft(NamedTuple):
    """A document that was checked and encoded, before it has a number.

    Attributes:
        id, text, parent: UTF-8.
        vector: float32, little endian.
        metadata: encoded by `redis_tiered.values`; `fields` is the same as it was given.
        expires: milliseconds since 1970; None: never.
    """

    id: bytes
    vector: bytes
    metadata: bytes
    text: bytes
    payload: bytes
    parent: bytes
    created: int
    expires: int | None
    fields: Mapping[str, Any]


class Row(NamedTuple):
    """A document as the durable tier has it.

    Attributes:
        version: of the change of its collection that wrote it.
        expires: milliseconds since 1970; None: never.
    """

    version: int
    id: bytes
    vector: bytes
    metadata: bytes
    text: bytes
    payload: bytes
    parent: bytes
    expires: int | None


class Removal(NamedTuple):
    """A change that took a document away; `id` None: all that there were."""

    version: int
    id: bytes | None


def drafted(
    documents: Sequence[Document], dims: int | None, metric: Metric, now: int, expires: int | None
) -> tuple[tuple[str, ...], list[Draft]]:
    """Everything that can be wrong with documents is found here, before any is written.

    Of documents with the same id the last one is kept.

    Args:
        documents: what is to be stored.
        dims: length of their vectors; None: that of the first.
        metric: how they will be compared.
        now, expires: milliseconds since 1970; None: never.

    Returns:
        The ids of all documents, in order; and what is to be written.

    Raises:
        InvalidInput: one cannot be stored; the error names it.
    """
    if isinstance(documents, str | bytes) or not isinstance(documents, Sequence):
        raise InvalidInput(
            f"documents must be a sequence of Document, got {type(documents).__name__}"
        )
    ids: list[str] = []
    drafts: dict[bytes, Draft] = {}
    for number, document in enumerate(documents):
        where = f"documents[{number}]"
        if not isinstance(document, Document):
            raise InvalidInput(f"{where} must be a Document, got {type(document).__name__}")
        vector = checked_vector(f"{where}.vector", document.vector, dims, metric)
        dims = vector.shape[0]
        draft = _draft(document, where, vector, now, expires)
        ids.append(draft.id.decode())
        drafts[draft.id] = draft
    return tuple(ids), list(drafts.values())


def _draft(document: Document, where: str, vector: Vector, now: int, expires: int | None) -> Draft:
    if not isinstance(document.payload, bytes):
        raise InvalidInput(f"{where}.payload must be bytes, got {type(document.payload).__name__}")
    metadata, fields = dumped_metadata(f"{where}.metadata", document.metadata)
    draft = Draft(
        checked_id(f"{where}.id", secrets.token_hex(16) if _empty(document.id) else document.id),
        vector.astype("<f4").tobytes(),
        metadata,
        text(f"{where}.text", document.text).encode(),
        document.payload,
        b"" if _empty(document.parent) else checked_id(f"{where}.parent", document.parent),
        now,
        expires,
        fields,
    )
    if sum(map(len, draft[:6])) > _MAX_BYTES:
        raise InvalidInput(f"{where} has more than {_MAX_BYTES} bytes")
    return draft


def dumped_metadata(name: str, given: object) -> tuple[bytes, dict[str, Any]]:
    """Metadata encoded, and as plain values.

    Raises:
        InvalidInput: it cannot be stored; the error names the argument `name`.
    """
    from redis_tiered.vectors.terms import checked_field

    if not isinstance(given, Mapping):
        raise InvalidInput(f"{name} must be a mapping, got {type(given).__name__}")
    for field_name in given:
        checked_field(name, field_name)
    fields = {key: _plain(value) for key, value in given.items()}
    writer = Writer()
    try:
        encoded = writer.dumped(writer.value(fields), lambda: CarefulWriter().value(fields))
    except Refused as refused:
        raise refused.invalid(name, KINDS) from None
    return encoded, fields


def _empty(id: object) -> bool:
    return type(id) is str and not id


def _plain(value: Any) -> Any:
    """Numbers, dates and texts of numpy, which data frames are full of, as Python's own."""
    from redis_tiered.vectors.terms import plain

    return [plain(item) for item in value] if type(value) is list else plain(value)


def checked_id(name: str, value: object) -> bytes:
    """An id of a document, as UTF-8."""
    encoded = text(name, value, least=1).encode()
    if len(encoded) > _MAX_ID:
        raise InvalidInput(f"{name} must have at most {_MAX_ID} bytes, got {len(encoded)}")
    return encoded


def checked_vector(name: str, value: object, dims: int | None, metric: Metric) -> Vector:
    """A vector as float32.

    Args:
        name: the argument's name, for the error.
        value: list, tuple or array of numbers, of shape `(dims,)`.
        dims: what its length must be; None: 1 to 32768.
        metric: "cosine" refuses a vector of zeros, which has no direction.

    Raises:
        InvalidInput: another type, shape or length; NaN or infinite, also as float32.
    """
    if isinstance(value, str | bytes | Mapping) or value is None:
        raise InvalidInput(f"{name} must be a sequence of numbers, got {type(value).__name__}")
    try:
        given = np.asarray(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"{name} must be a sequence of numbers") from None
    if given.ndim != 1 or given.dtype.kind not in "fiu":
        raise InvalidInput(
            f"{name} must be a one-dimensional sequence of numbers, got shape {given.shape} "
            f"of {given.dtype}"
        )
    if dims is not None and given.shape[0] != dims:
        raise InvalidInput(f"{name} must have {dims} dimensions, got {given.shape[0]}")
    if not 1 <= given.shape[0] <= 32_768:
        raise InvalidInput(f"{name} must have 1 to 32768 dimensions, got {given.shape[0]}")
    with np.errstate(over="ignore"):
        vector = np.ascontiguousarray(given, dtype=np.float32)
    if not np.isfinite(vector).all():
        raise InvalidInput(f"{name} holds NaN or numbers that are not finite as float32")
    if metric == "cosine" and not vector.any():
        raise InvalidInput(
            f'{name} is all zeros, which has no direction: metric="cosine" needs one'
        )
    return vector


def loaded_metadata(data: bytes) -> dict[str, Any]:
    """What `drafted` encoded.

    Raises:
        Unreadable: it is not that.
    """
    found = loaded(data)
    if type(found) is not dict:
        raise Unreadable("malformed")
    return found


def score_of(metric: Metric, distance: float) -> float:
    """The score that goes with a distance by vector; see `Hit`."""
    return 1.0 / (1.0 + distance) if metric == "l2" else 1.0 - distance
