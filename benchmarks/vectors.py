"""What searching and storing documents costs, as ratios to what cannot be avoided.

    python -m benchmarks.vectors [--documents 100000] [--only local|ingest|rebuild|search]

Everything runs in one process against one server started for it, on TCP loopback; but with a search
module, against the server that REDIS_TIERED_TEST_SEARCH_URL names (its databases are not emptied).
SQLite is in WAL with synchronous NORMAL, PostgreSQL without fsync. Vectors are clustered, texts are
of 300 characters, with five metadata fields.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import redis
from rich.console import Console
from rich.table import Table

from benchmarks.measure import describe, rounds, show
from redis_tiered import Collection, Document, Field, Rebuilt, Tiers
from tests.servers import PostgresServer, RedisServer

TEXT = "The parcel was handed to the carrier on Tuesday and arrives within two working days. " * 4
RECALLED = 10


def vectors(count: int, dims: int, seed: int = 1) -> Any:
    """Normal clouds around a hundred centres: as embeddings of texts on some topics lie."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(100, dims)).astype(np.float32)
    chosen = centres[random.integers(0, 100, count)]
    return chosen + random.normal(scale=0.7, size=(count, dims)).astype(np.float32)


def documents(matrix: Any, first: int = 0) -> list[Document]:
    return [
        Document(
            f"document-{number}",
            vector,
            f"{number} {TEXT}"[:300],
            {
                "number": number,
                "share": number % 10,
                "source": f"source-{number % 100}",
                "lang": "en",
                "tags": ["a", "b"],
            },
            parent=f"source-{number % 100}",
        )
        for number, vector in enumerate(matrix, first)
    ]


def fill(collection: Collection, matrix: Any, batch: int = 1000) -> float:
    """Store documents; gives how many a second."""
    started = time.perf_counter()
    for start in range(0, len(matrix), batch):
        collection.upsert(documents(matrix[start : start + batch], start))
    return len(matrix) / (time.perf_counter() - started)


def queries(matrix: Any) -> Iterator[Any]:
    random = np.random.default_rng(7)
    while True:
        yield matrix[random.integers(len(matrix))] + random.normal(
            scale=0.3, size=matrix.shape[1]
        ).astype(np.float32)


def exact(matrix: Any, query: Any, k: int) -> list[str]:
    scores = (matrix @ query) / np.linalg.norm(matrix, axis=1)
    return [f"document-{number}" for number in np.argsort(-scores)[:k]]


def recall(collection: Collection, matrix: Any, rounds: int = 50) -> float:
    asked = queries(matrix)
    found = 0
    for _ in range(rounds):
        query = next(asked)
        hits = {hit.document.id for hit in collection.search(query, RECALLED)}
        found += len(hits & set(exact(matrix, query, RECALLED)))
    return found / rounds / RECALLED


def small(server: RedisServer, raw: Callable[[], object], console: Console) -> None:
    """Engine local, 10,000 documents of 384 dimensions."""
    matrix = vectors(10_000, 384)
    with Tiers(server.url, namespace="small") as tiers:
        collection = tiers.collection("docs", engine="local")
        fill(collection, matrix)
        asked = queries(matrix)
        unit = np.ascontiguousarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
        tenth = Field("share") == 3
        loop = asyncio.new_event_loop()
        candidates: dict[str, Callable[[], object]] = {
            "raw GET": raw,
            "numpy's product alone": lambda: unit @ next(asked),
            "search, k=4": lambda: collection.search(next(asked)),
            "search, 10 % pass a filter": lambda: collection.search(next(asked), filter=tenth),
            "asearch, k=4": lambda: loop.run_until_complete(collection.asearch(next(asked))),
            "mmr, k=4 of 20": lambda: collection.mmr(next(asked)),
        }
        limits = {"search, k=4": "<= 10", "search, 10 % pass a filter": "<= search"}
        show(
            "Engine local, 10,000 x 384 (ratio to a raw GET)",
            rounds(candidates, baseline="raw GET", calls=50),
            limits,
            console,
        )
        console.print(f"recall@{RECALLED}: {recall(collection, matrix):.3f}")
        loop.run_until_complete(tiers.aclose())
        loop.close()


def large(server: RedisServer, count: int, console: Console) -> None:
    """Engine local, many documents of 384 dimensions."""
    matrix = vectors(count, 384)
    with Tiers(server.url, namespace="large") as tiers:
        collection = tiers.collection("docs", engine="local")
        fill(collection, matrix)
        started = time.perf_counter()
        with Tiers(server.url, namespace="large") as other:
            other.collection("docs", engine="local").search(matrix[0])
        loaded = time.perf_counter() - started
        asked = queries(matrix)
        unit = np.ascontiguousarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
        tenth = Field("share") == 3
        candidates: dict[str, Callable[[], object]] = {
            "numpy's product alone": lambda: unit @ next(asked),
            "search, k=4": lambda: collection.search(next(asked)),
            "search, 10 % pass a filter": lambda: collection.search(next(asked), filter=tenth),
        }
        limits = {"search, k=4": "<= 1.3", "search, 10 % pass a filter": "<= search"}
        show(
            f"Engine local, {count:,} x 384 (ratio to numpy's product)",
            rounds(candidates, baseline="numpy's product alone", calls=10),
            limits,
            console,
        )
        info = collection.info()
        console.print(
            f"recall@{RECALLED}: {recall(collection, matrix, 20):.3f}; the index holds "
            f"{info.index_bytes / count:.0f} bytes a document and is loaded in {loaded:.1f} s"
        )


def ingest(server: RedisServer, postgres: PostgresServer, path: Path, console: Console) -> None:
    """Documents stored a second, 10,000 x 384."""
    matrix = vectors(10_000, 384)
    table = Table(title="Storing 10,000 x 384, batches of 1,000", title_justify="left")
    for column in ("durable tier", "engine", "documents/s (median of 3)"):
        table.add_column(column, justify="right" if "/" in column else "left")
    for name, engine, url in _places(server):
        for kind in ("none", "SQLite", "PostgreSQL"):
            rates = []
            for number in range(3):
                durable = {
                    "none": lambda: None,
                    "SQLite": lambda: f"sqlite:///{path / f'{engine}-{number}.db'}",  # noqa: B023
                    "PostgreSQL": postgres.create_database,
                }[kind]()
                namespace = f"ingest-{engine}-{kind}-{number}"
                with Tiers(url, durable, namespace=namespace, durable_timeout=60) as tiers:
                    collection = tiers.collection("docs", engine=engine, algorithm="flat")
                    rates.append(fill(collection, matrix))
                    collection.delete_all()
            table.add_row(kind, name, f"{statistics.median(rates):,.0f}")
    console.print(table)


def _places(server: RedisServer) -> list[tuple[str, Any, str]]:
    places: list[tuple[str, Any, str]] = [("local", "local", server.url)]
    if url := os.environ.get("REDIS_TIERED_TEST_SEARCH_URL"):
        places.append(("redisvl, flat", "redisvl", url))
    return places


def rebuild(server: RedisServer, path: Path, count: int, console: Console) -> None:
    """Redis lost, and filled again from SQLite; peak memory by what the process needs more."""
    matrix = vectors(count, 384)
    durable = f"sqlite:///{path / 'rebuild.db'}"
    with Tiers(server.url, durable, namespace="rebuild", durable_timeout=60) as tiers:
        fill(tiers.collection("docs", engine="local"), matrix)
    redis.Redis.from_url(server.url).flushall()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        done, grown = fresh.submit(_rebuilt, server.url, durable).result()
    console.print(
        f"rebuild of {done.documents:,} x 384: {done.documents / done.seconds:,.0f} documents/s, "
        f"at most {grown / 2**20:.0f} MB more memory"
    )


def _rebuilt(url: str, durable: str) -> tuple[Rebuilt, int]:
    """In a process that has nothing else in memory."""
    with Tiers(url, durable, namespace="rebuild", durable_timeout=60) as tiers:
        collection = tiers.collection("docs", engine="local", auto_rebuild=False)
        collection.count()
        with _PeakMemory() as peak:
            done = collection.rebuild()
        assert collection.verify().clean
        return done, peak.grown


class _PeakMemory:
    """How much the process's resident memory grew, at most, meanwhile."""

    grown = 0

    def __enter__(self) -> _PeakMemory:
        self._before = _resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.grown = max(self.grown, _resident() - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory(server: RedisServer, path: Path, console: Console) -> None:
    """Bytes of Redis a document, 1,536 dimensions and texts of 300 characters."""
    matrix = vectors(2000, 1536)
    table = Table(title="Redis, 1,536 dimensions", title_justify="left")
    for column in ("engine", "dtype", "payload", "bytes a document"):
        table.add_column(column, justify="right" if column.startswith("bytes") else "left")
    for name, engine, url in _places(server):
        client = redis.Redis.from_url(url)
        for dtype in ("float32", "float16"):
            for payload in ("redis", "durable"):
                key = f"memory-{engine}-{dtype}-{payload}"
                durable = f"sqlite:///{path / key}.db"
                with Tiers(url, durable, namespace=key, durable_timeout=60) as tiers:
                    options: dict[str, Any] = {"dtype": dtype, "payload": payload}
                    collection = tiers.collection(
                        "docs", engine=engine, algorithm="flat", **options
                    )
                    before = client.info("memory")["used_memory"]
                    fill(collection, matrix)
                    held = client.info("memory")["used_memory"] - before
                    collection.delete_all()
                table.add_row(name, dtype, payload, f"{held / len(matrix):,.0f}")
    console.print(table)


def searched(console: Console) -> None:
    """Engine redisvl, 10,000 documents of 1,536 dimensions."""
    url = os.environ.get("REDIS_TIERED_TEST_SEARCH_URL")
    if not url:
        console.print("REDIS_TIERED_TEST_SEARCH_URL is not set: engine redisvl is not measured")
        return
    matrix = vectors(10_000, 1536)
    for algorithm in ("hnsw", "flat"):
        _searched(url, algorithm, matrix, console)


def _searched(url: str, algorithm: Any, matrix: Any, console: Console) -> None:
    """Against the same FT.SEARCH through redis-py."""
    client = redis.Redis.from_url(url, protocol=2)
    with Tiers(url, namespace=f"search-{algorithm}") as tiers:
        collection = tiers.collection("docs", engine="redisvl", algorithm=algorithm)
        collection.delete_all()
        rate = fill(collection, matrix)
        [index] = [name for name in client.execute_command("FT._LIST") if _ours(name, algorithm)]
        asked = queries(matrix)
        tenth = Field("share") == 3

        def raw() -> object:
            return client.execute_command(
                *("FT.SEARCH", index, "*=>[KNN 4 @__v $v AS d]", "PARAMS", 2, "v"),
                *(next(asked).astype("<f4").tobytes(), "SORTBY", "d", "LIMIT", 0, 4),
                *("RETURN", 4, "d", "__t", "__m", "__p", "DIALECT", 2),
            )

        candidates: dict[str, Callable[[], object]] = {
            "raw FT.SEARCH": raw,
            "search, k=4": lambda: collection.search(next(asked)),
            "search, 10 % pass a filter": lambda: collection.search(next(asked), filter=tenth),
        }
        show(
            f"Engine redisvl, {algorithm}, 10,000 x 1,536 (ratio to the same raw FT.SEARCH)",
            rounds(candidates, baseline="raw FT.SEARCH", calls=50),
            {"search, k=4": "<= 1.5"},
            console,
        )
        found = recall(collection, matrix)
        console.print(f"stored {rate:,.0f} documents/s; recall@{RECALLED}: {found:.3f}")
        collection.delete_all()


def _ours(name: bytes, algorithm: str) -> bool:
    return name.startswith(f"search-{algorithm}!:".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000, help="of the large collection")
    parser.add_argument("--only", choices=("local", "ingest", "rebuild", "search"))
    options = parser.parse_args()
    console = Console(width=100)
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(directory=Path(name) / "redis") as server,
        PostgresServer(Path(name) / "postgres") as postgres,
    ):
        path = Path(name)
        client = redis.Redis.from_url(server.url)
        client.set("raw", TEXT[:300])
        console.print(describe(server.url))
        if options.only in (None, "local"):
            small(server, lambda: client.get("raw"), console)
            large(server, options.documents, console)
            client.flushall()
        if options.only in (None, "search"):
            searched(console)
        if options.only in (None, "ingest"):
            ingest(server, postgres, path, console)
            memory(server, path, console)
            client.flushall()
        if options.only in (None, "rebuild"):
            rebuild(server, path, options.documents, console)


if __name__ == "__main__":
    main()
