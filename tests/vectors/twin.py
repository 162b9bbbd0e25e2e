"""A collection as the tests use it: blocking or with asyncio, the test sees no difference; and a
plain model of what it must answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import redis
from numpy.typing import NDArray

from redis_tiered import Tiers
from redis_tiered.vectors.collection import Collection
from redis_tiered.vectors.document import Document, Hit
from redis_tiered.vectors.filters import Filter
from tests.servers import redis_options

__all__ = [
    "Bench",
    "Model",
    "Place",
    "Twin",
    "distance",
    "documents",
    "hits",
    "ids",
    "raw",
    "score",
    "vectors",
]

_names = itertools.count()


class Place(NamedTuple):
    """Where a collection is, how, and which way it is called.

    Attributes:
        redis: `"valkey"`, `"cluster"` or `"search"`, a Redis with the search module.
        durable: `"none"`, `"sqlite"` or `"postgres"`.
        kind: `"sync"` or `"async"`.
    """

    redis: str
    durable: str
    payload: str
    dtype: str
    kind: str

    def __str__(self) -> str:
        return "-".join(self)


class Bench:
    """Collections of one fresh tenant in one place.

    Attributes:
        other: the same tenant for what would be a second process.
        near: how much a distance may be wrong.
    """

    def __init__(
        self,
        tiers: Tiers,
        other: Tiers,
        url: str,
        place: Place,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        tenant = f"v{next(_names)}-{secrets.token_hex(3)}"
        self.tiers = tiers.tenant(tenant)
        self.other = other.tenant(tenant)
        self.url = url
        self.place = place
        self.loop = loop if place.kind == "async" else None
        self.lasts = place.durable != "none"
        self.local = place.redis != "search"
        self.has_text = self.lasts or not self.local
        self.near = 1e-6 if self.local else 2e-3 if place.dtype == "float16" else 1e-5
        self.options: dict[str, Any] = {
            "engine": "local" if self.local else "redisvl",
            "algorithm": "flat",
            "payload": place.payload,
            "dtype": place.dtype,
        }

    def collection(
        self,
        name: str = "c",
        dims: int | None = None,
        *,
        tiers: Tiers | None = None,
        **options: Any,
    ) -> Twin:
        made = (tiers or self.tiers).collection(name, dims, **{**self.options, **options})
        return Twin(made, self.loop)

    def elsewhere(self, name: str = "c", dims: int | None = None, **options: Any) -> Twin:
        """The collection as a second process has it."""
        return self.collection(name, dims, tiers=self.other, **options)

    def stored_keys(self) -> set[bytes]:
        """Every key of this tenant in Redis."""
        with raw(self.url) as client:
            pattern = f"*:{self.tiers.keys.tenant}:*"
            return set(client.scan_iter(match=pattern, count=1000))

    def generations(self) -> set[bytes]:
        """Names of those that have keys."""
        found = {key.split(b"}:")[1] for key in self.stored_keys()}
        return {name.split(b":")[0] for name in found if b":" in name} - {b"durable"}

    def lose(self, ending: bytes = b"") -> int:
        """Redis loses what it has of this tenant; gives how many keys it were."""
        keys = [key for key in self.stored_keys() if key.endswith(ending)]
        with raw(self.url) as client:
            if not self.local and not ending:
                for name in client.execute_command("FT._LIST"):
                    if f":{self.tiers.keys.tenant}:".encode() in name:
                        client.execute_command("FT.DROPINDEX", name)
            return sum(client.delete(key) for key in keys)

    def dump(self) -> dict[bytes, bytes]:
        """All keys of this tenant, for `load`."""
        with raw(self.url) as client:
            return {key: client.dump(key) for key in self.stored_keys()}

    def load(self, keys: dict[bytes, bytes]) -> None:
        """Redis comes back, after a moment, with what it had."""
        self.lose()
        with raw(self.url) as client:
            for key, value in keys.items():
                client.restore(key, 0, value)
        for tiers in (self.tiers, self.other):
            tiers.guards.redis.interrupted()


class Twin:
    """Calls either twin of a method by the name of the blocking one."""

    def __init__(self, collection: Collection, loop: asyncio.AbstractEventLoop | None) -> None:
        self.collection = collection
        self.loop = loop

    def __getattr__(self, name: str) -> Any:
        loop = self.loop
        if loop is None or name == "stats":
            return getattr(self.collection, name)
        method = getattr(self.collection, "a" + name)
        return lambda *args, **kwargs: loop.run_until_complete(method(*args, **kwargs))

    def from_redis(self) -> bool:
        """Whether a query is served by Redis now."""
        before = self.stats().get("from redis", 0)
        self.search(np.ones(self.info().dims, np.float32))
        return bool(self.stats().get("from redis", 0) > before)


class Model:
    """What a collection has, in a dict, and brute force.

    Attributes:
        held: documents by id, in the order in which they were written.
    """

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.held: dict[str, Document] = {}

    def upsert(self, documents: Iterable[Document]) -> None:
        # Of an id that comes twice the last counts; its place is where it came first.
        for id, document in {document.id: document for document in documents}.items():
            self.held.pop(id, None)
            vector = np.asarray(document.vector, np.float32)
            self.held[id] = replace(document, vector=vector, metadata=dict(document.metadata))

    def delete(self, **criteria: Any) -> int:
        gone = self.find(**criteria)
        for document in gone:
            del self.held[document.id]
        return len(gone)

    def find(
        self,
        filter: Filter | None = None,
        ids: Sequence[str] | None = None,
        parents: Sequence[str] | None = None,
    ) -> list[Document]:
        return [
            document
            for document in self.held.values()
            if (filter is None or filter.matches(document.metadata))
            and (ids is None or document.id in ids)
            and (parents is None or document.parent in parents)
        ]

    def search(
        self,
        vector: Any,
        k: int | None = 4,
        max_distance: float = float("inf"),
        **criteria: Any,
    ) -> list[tuple[float, str]]:
        """Distances and ids, nearest first."""
        found = [
            (distance(self.metric, document.vector, vector), document.id)
            for document in self.find(**criteria)
        ]
        return sorted(pair for pair in found if pair[0] <= max_distance)[:k]


def distance(metric: str, one: Any, other: Any) -> float:
    """By the definition, in float64."""
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if metric == "l2":
        return float(np.linalg.norm(a - b))
    if metric == "ip":
        return float(1 - a @ b)
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def score(metric: str, distance: float) -> float:
    return 1 / (1 + distance) if metric == "l2" else 1 - distance


def vectors(count: int, dims: int = 8, seed: int = 0) -> NDArray[np.float32]:
    """Random ones of this shape that float16 has exactly."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, dims)).astype(np.float16).astype(np.float32)


def documents(count: int, dims: int = 8, seed: int = 0, first: int = 0) -> list[Document]:
    """`d0`, `d1`, ...: with a text, a number, a colour, and one of three parents."""
    return [
        Document(
            f"d{i}",
            vector,
            f"word{i} and {'odd' if i % 2 else 'even'}",
            {"n": i, "colour": ("red", "green", "blue")[i % 3]},
            bytes([i % 256]),
            f"p{i % 3}",
        )
        for i, vector in enumerate(vectors(count, dims, seed), first)
    ]


def ids(found: Iterable[Document | Hit]) -> list[str]:
    return [item.document.id if isinstance(item, Hit) else item.id for item in found]


def hits(found: Iterable[Hit]) -> list[tuple[float, str]]:
    """As `Model.search` gives them."""
    return [(hit.distance, hit.document.id) for hit in found]


@contextlib.contextmanager
def raw(url: str) -> Iterator[Any]:
    """A client of our own to look at, and spoil, what is in Redis."""
    if "cluster" in url:
        [(host, port)] = re.findall(r"//([^:]+):(\d+)", url)
        client: Any = redis.RedisCluster(host=host, port=int(port), socket_timeout=5)
    else:
        client = redis.Redis.from_url(url, **redis_options())
    with contextlib.closing(client):
        yield client
