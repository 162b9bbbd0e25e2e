"""What an engine is: how a collection lies in Redis, and how it is searched there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from redis_tiered.flow import Flow
from redis_tiered.vectors.document import Row, Vector
from redis_tiered.vectors.filters import Filter

__all__ = [
    "Answer",
    "Engine",
    "EngineName",
    "Found",
    "Near",
    "Nearby",
    "Query",
    "Word",
    "content",
    "loaded_content",
]

EngineName = Literal["local", "redisvl"]
Word = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Query:
    """Which documents are asked for.

    Attributes:
        vector: to compare with; None: not by vector.
        words: for full text: words of which any may match; None: not by text.
        k: how many at most; None: all.
        offset: how many to leave out first.
        where: what metadata must satisfy; None: anything.
        native: a filter in the language of the engine itself; None: none.
        ids, parents: the only ones wanted; None: any.
        max_distance: how far at most; None: any.
        vectors: whether vectors are wanted in the answer.
        now: milliseconds since 1970; what expired before is not there.
        news: what Redis said a moment ago of changes, for the engine that asked; None: nothing.
    """

    vector: Vector | None = None
    words: tuple[str, ...] | None = None
    k: int | None = None
    offset: int = 0
    where: Filter | None = None
    native: Any = None
    ids: tuple[bytes, ...] | None = None
    parents: tuple[bytes, ...] | None = None
    max_distance: float | None = None
    vectors: bool = False
    now: int = 0
    news: Any = None


class Found(NamedTuple):
    """A document in an answer.

    Attributes:
        row: as the tiers keep it. Its `vector` is float32 or, if it was not wanted, empty; of a
            collection with `payload="durable"` its text and payload are empty.
        value: distance by vector, or score by text; NaN where neither was asked for.
    """

    row: Row
    value: float


class Near(NamedTuple):
    """A document of `Neighbours` that was found.

    Attributes:
        id: of the document.
        cosine: of its vector as it is kept to what was asked for, -1 to 1.
        text, metadata: as they were put; the metadata is shared, and not to be changed.
    """

    id: str
    cosine: float
    text: str
    metadata: dict[str, Any]


class Nearby(NamedTuple):
    """What Redis knows, as `Answer`; of documents that are `lean`."""

    generation: str
    water: int
    found: list[Near]


class Answer(NamedTuple):
    """What Redis knows.

    Attributes:
        generation: the one that was read.
        water: the version up to which that has every change.
        found: in order.
    """

    generation: str
    water: int
    found: Sequence[Found]


class Engine(Protocol):
    """How one process uses one collection in Redis. Flows raise `TierError` if Redis fails.

    Reading flows give None where there is nothing to read: it was never filled, or was lost.
    """

    name: EngineName

    @property
    def parts(self) -> int:
        """In how many hashes of the collection, if it has such, a document is."""

    def layout(self, dims: int) -> str:
        """How documents lie in Redis, as text: processes that differ in it must not mix."""

    def keys(self, generation: str) -> tuple[bytes, ...]:
        """What scripts get beside the log's keys."""

    def words(self, row: Row) -> tuple[Word, ...]:
        """A document as `scripts.APPLY` wants it: what follows the number of words."""

    def create(self, generation: str, dims: int) -> Flow[None]:
        """Make what must be there before documents are; idempotent."""

    def drop(self, generation: str) -> Flow[None]:
        """Delete a generation that nobody reads any more."""

    def search(self, query: Query) -> Flow[Answer | None]:
        """By vector, nearest first; by words, best first; by neither, oldest first."""

    def near(self, query: Query) -> Flow[Nearby | None]:
        """By a vector of norm 1 under "cosine", where documents are lean: nearest first, then by id."""

    def count(self, query: Query) -> Flow[int | None]:
        """How many documents a query by neither vector nor words finds."""

    def get(self, ids: Sequence[bytes], *, vectors: bool) -> Flow[Answer | None]:
        """Documents by id, in this order; what is not there is left out."""


def content(row: Row) -> bytes:
    """Text and payload of a document, as one value."""
    return len(row.text).to_bytes(4, "big") + row.text + row.payload


def loaded_content(data: bytes) -> tuple[bytes, bytes]:
    """What `content` made."""
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]
