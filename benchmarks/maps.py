"""What maps and the embedding cache cost, as ratios to raw commands of redis-py on the same server.

    python -m benchmarks.maps

Everything runs in one process against one server started for it, on TCP loopback. SQLite is in WAL with
synchronous NORMAL. The rows "L1" are read from memory, those "L2" with memory turned off.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis
from rich.console import Console

from benchmarks.measure import describe, rounds, show
from langchain_redis_tiered import cached_embeddings as for_langchain
from redis_tiered import Tiers, cached_embeddings
from tests.servers import RedisServer

COUNT, DIMS = 1000, 1536
VALUE = b"v" * 2048


class Model:
    """Vectors at random: it is asked once for each text."""

    model = "random"

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)

    def embed(self, texts: Sequence[str]) -> Any:
        return self._random.normal(size=(len(texts), DIMS)).astype(np.float32)


def single(url: str, path: Path, console: Console) -> None:
    """One value of 2 kB, and a hundred."""
    client = redis.Redis.from_url(url)
    client.set("raw", VALUE)
    names = [f"name-{i}" for i in range(100)]
    client.mset({f"raw-{name}": VALUE for name in names})
    raw_names = [f"raw-{name}" for name in names]
    with (
        Tiers(url, f"sqlite:///{path / 'one.db'}") as tiers,
        Tiers(url, f"sqlite:///{path / 'one.db'}", l1_max_bytes=0) as far,
        Tiers(url, namespace="alone") as alone,
    ):
        near, remote, bare = tiers.map("m"), far.map("m"), alone.map("m")
        near.write(dict.fromkeys(names, VALUE))
        bare.write(dict.fromkeys(names, VALUE))
        tiers.setup()
        near.get_many(names)
        loop = asyncio.new_event_loop()
        one: dict[str, Callable[[], object]] = {
            "raw GET": lambda: client.get("raw"),
            "get, L1": lambda: near.get("name-1"),
            "get, L2": lambda: remote.get("name-1"),
            "aget, L2": lambda: loop.run_until_complete(remote.aget("name-1")),
            "get of nothing, SQLite": lambda: near.get("nothing"),
            "raw SET": lambda: client.set("raw", VALUE),
            "put, no durable tier": lambda: bare.put("name-1", VALUE),
            "put, SQLite": lambda: near.put("name-1", VALUE),
        }
        show("One value of 2 kB (ratio to a raw GET)", rounds(one, baseline="raw GET"), {}, console)
        near.get_many(names)
        many: dict[str, Callable[[], object]] = {
            "raw MGET of 100": lambda: client.mget(raw_names),
            "get_many of 100, L1": lambda: near.get_many(names),
            "get_many of 100, L2": lambda: remote.get_many(names),
            "raw MSET of 100": lambda: client.mset(dict.fromkeys(raw_names, VALUE)),
            "write of 100, no durable tier": lambda: bare.write(dict.fromkeys(names, VALUE)),
            "write of 100, SQLite": lambda: remote.write(dict.fromkeys(names, VALUE)),
        }
        measured = rounds(many, baseline="raw MGET of 100", calls=20)
        show("100 values of 2 kB (ratio to a raw MGET)", measured, {}, console)
        loop.run_until_complete(far.aclose())
        loop.close()


def embeddings(url: str, path: Path, console: Console) -> None:
    """1,000 vectors of 1,536 floats in one call."""
    client = redis.Redis.from_url(url)
    texts = [f"question number {i}, as long as questions are" for i in range(COUNT)]
    keys = [f"vector-{i}" for i in range(COUNT)]
    vector = np.zeros(DIMS, "<f4").tobytes()
    client.mset(dict.fromkeys(keys, vector))

    def lists() -> object:
        return [np.frombuffer(each, "<f4").tolist() for each in client.mget(keys)]

    durable = f"sqlite:///{path / 'vectors.db'}"
    with (
        Tiers(url, durable, l1_max_bytes=64 << 20) as tiers,
        Tiers(url, durable, l1_max_bytes=0) as far,
    ):
        tiers.setup()
        near, remote = cached_embeddings(Model(), tiers), cached_embeddings(Model(), far)
        half = cached_embeddings(Model(), far, name="half", dtype="float16")
        near.embed(texts)
        near.embed(texts)
        half.embed(texts)
        chain = for_langchain(_LangChain(), far, model="random")
        chain.embed_documents(texts)
        candidates: dict[str, Callable[[], object]] = {
            "raw MGET": lambda: client.mget(keys),
            "1,000 vectors, L1": lambda: near.embed(texts),
            "1,000 vectors, L2": lambda: remote.embed(texts),
            "1,000 vectors, L2, float16": lambda: half.embed(texts),
            "raw MGET, to lists of floats": lists,
            "embed_documents, L2": lambda: chain.embed_documents(texts),
        }
        show(
            "1,000 cached embeddings of 1,536 floats in one call (ratio to a raw MGET of the bytes)",
            rounds(candidates, baseline="raw MGET", calls=3),
            {"1,000 vectors, L2": "<= 2"},
            console,
        )


def _LangChain() -> Any:  # noqa: N802 - a class that is made late
    from langchain_core.embeddings import Embeddings

    class Random(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [row.tolist() for row in Model().embed(texts)]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return Random()


def main() -> None:
    console = Console(width=100)
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(directory=Path(name) / "redis") as server,
        contextlib.closing(redis.Redis.from_url(server.url)) as client,
    ):
        console.print(describe(server.url))
        single(server.url, Path(name), console)
        client.flushall()
        embeddings(server.url, Path(name), console)


if __name__ == "__main__":
    main()
