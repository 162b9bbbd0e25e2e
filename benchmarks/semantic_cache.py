"""What an answer to another wording costs, as ratios to what cannot be avoided.

    python -m benchmarks.semantic_cache [--entries 100000] [--only decision|local|redisvl|bytes]

How right the answers are is measured by `benchmarks.semantic_streams`, `benchmarks.semantic_guard` and
`benchmarks.semantic_answers`.

Everything runs in one process against one server started for it, on TCP loopback; with the search
module, against the server that REDIS_TIERED_TEST_SEARCH_URL names. Embeddings are given: looking
one up in a dict stands for the model. Each measured hit is one of a wording that was never asked
before, so each embeds, searches, decides, fetches the answer and leaves an alias.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis
from redis.commands.search.query import Query
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Measured, describe, rounds, show
from redis_tiered import LLMCache, SemanticPolicy, Tiers
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.llm_cache.semantic.decision import Decider, Options
from redis_tiered.llm_cache.semantic.guard import default_guard
from redis_tiered.llm_cache.semantic.head import shipped_head
from redis_tiered.llm_cache.semantic.neighbour import Neighbour
from redis_tiered.vectors.search_schema import HEAD, VECTOR
from tests.servers import RedisServer

MODEL = "all-MiniLM-L6-v2"
WORDINGS = 5  # of each answer
SENTENCE = "The parcel was handed to the carrier on {0} and arrives within {1} working days. "
_CONSONANTS = "bcdfghjklmnpqrstvwxz"


class Questions:
    """Questions about many things, some wordings of each stored, others asked later.

    Args:
        stored: how many are stored.
        dims: of their vectors.
    """

    def __init__(self, stored: int, dims: int) -> None:
        self.stored = stored
        self.dims = dims
        self.topics = max(2, stored // WORDINGS)
        self._random = np.random.default_rng(3)
        self._centres = self._random.standard_normal((self.topics, dims)).astype(np.float32)
        self._centres /= np.linalg.norm(self._centres, axis=1, keepdims=True)
        self._vectors: dict[str, list[float]] = {}
        self._numbers = itertools.count()

    def make(self, topic: int) -> str:
        """A new wording, whose vector is known from now on."""
        number = next(self._numbers)
        letters = "".join(_CONSONANTS[number // 20**place % 20] for place in range(5))
        text = f"when does my parcel arrive, {letters}"
        noise = self._random.standard_normal(self.dims).astype(np.float32) / np.sqrt(self.dims)
        self._vectors[text] = (self._centres[topic] + 0.2 * noise).tolist()
        return text

    def batch(self, count: int) -> list[str]:
        return [self.make(number % self.topics) for number in range(count)]

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self._vectors[text] for text in texts]

    def vector(self, text: str) -> bytes:
        return np.asarray(self._vectors[text], np.float16).tobytes()


def answer(topic: int, size: int = 2000) -> bytes:
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
    text = "".join(
        SENTENCE.format(days[(topic + line) % 5], (topic * 7 + line * 3) % 90) for line in range(40)
    )
    return text[:size].encode()


def policy(questions: Questions, engine: str) -> SemanticPolicy:
    return SemanticPolicy(
        questions.embed,
        model=MODEL,
        engine=engine,  # type: ignore[arg-type]
        guard="off",
        warmup=0,
        audit_rate=0.0,
        max_error=1.0,
        embed_timeout=None,
    )


def asked(text: str) -> Request:
    return Request(b"model", b"context", text)


def filled(tiers: Tiers, questions: Questions, engine: str) -> LLMCache:
    """A cache with an answer to each question that is stored."""
    cache = LLMCache(tiers, single_flight=30.0, semantic=policy(questions, engine))
    for number in range(questions.stored):
        topic = number % questions.topics
        cache.update(asked(questions.make(topic)), answer(topic))
    return cache


def hits(cache: LLMCache, prompts: Iterator[str]) -> Callable[[], object]:
    def look() -> object:
        found = cache.lookup(asked(next(prompts)))
        assert found is not None
        assert found.tier == "semantic", found.tier
        return found

    return look


def local(server: RedisServer, directory: Path) -> dict[str, Measured]:
    """Semantic hits on the local engine, 1,000 entries."""
    client = redis.Redis.from_url(server.url)
    questions = Questions(1000, 384)
    with (
        Tiers(server.url, namespace="plain") as plain,
        Tiers(server.url, f"sqlite:///{directory / 'hits.db'}", namespace="durable") as durable,
    ):
        caches = [filled(tiers, questions, "local") for tiers in (plain, durable)]
        client.set("raw", answer(1))
        again = asked(questions.make(1))
        for cache in caches:
            cache.lookup(asked(questions.make(1)))
            cache.lookup(again)
            cache.lookup(again)
        news = iter(questions.batch(21 * 60 * 4))
        return rounds(
            {
                "raw GET": lambda: client.get("raw"),
                "semantic hit": hits(caches[0], news),
                "semantic hit +SQLite": hits(caches[1], news),
                "the same wording again, L1": lambda: caches[0].lookup(again),
            },
            baseline="raw GET",
            calls=50,
        )


def decision() -> list[float]:
    """Microseconds of a decision about ten neighbours, with the guard."""
    decider = Decider(Options(warmup=0), default_guard(), shipped_head(MODEL))
    names = [
        "card",
        "loan",
        "transfer",
        "account",
        "branch",
        "cheque",
        "fee",
        "limit",
        "pin",
        "app",
    ]
    near = [
        Neighbour(f"{number}", 0.93 - number / 50, f"answer {number // 3}", f"where is my {name}")
        for number, name in enumerate(names)
    ]
    times = []
    for number in range(3000):
        prompt = f"where is my {names[number % 10]} now then"
        start = time.perf_counter()
        decider.decide(prompt, near)
        times.append((time.perf_counter() - start) * 1e6)
    return times


def with_search_module(url: str, entries: int) -> dict[str, Measured]:
    """Semantic hits with the search module, against its own search for the same."""
    client = redis.Redis.from_url(url)
    questions = Questions(entries, 384)
    namespace = f"bench-{time.time_ns():x}"
    with Tiers(url, namespace=namespace) as tiers:
        cache = filled(tiers, questions, "redisvl")
        cache.lookup(asked(questions.make(1)))
        name = next(n for n in client.execute_command("FT._LIST") if namespace.encode() in n)
        raw = raw_search(client, name, questions)
        news = iter(questions.batch(21 * 60 * 4))
        return rounds(
            {"raw FT.SEARCH": raw, "semantic hit": hits(cache, news)},
            baseline="raw FT.SEARCH",
            calls=50,
        )


def raw_search(client: Any, name: bytes, questions: Questions) -> Callable[[], object]:
    """The search alone: the ten nearest, with what is stored beside their vectors."""
    vectors = itertools.cycle([questions.vector(text) for text in questions.batch(200)])
    query = (
        Query(f"*=>[KNN 10 @{VECTOR} $vector AS distance]")
        .return_fields("distance", HEAD)
        .sort_by("distance")
        .paging(0, 10)
        .dialect(2)
    )
    index = client.ft(name.decode())
    return lambda: index.search(query, {"vector": next(vectors)})


def memory(url: str, engine: str, *, count: int = 2000) -> float:
    """Bytes of Redis per answer of 2 kB whose question has 1,536 dimensions."""
    client = redis.Redis.from_url(url)
    questions = Questions(count, 1536)
    namespace = f"bytes-{time.time_ns():x}"
    with Tiers(url, namespace=namespace) as tiers:
        cache = LLMCache(tiers, semantic=policy(questions, engine))
        cache.update(asked(questions.make(0)), answer(0))
        before = client.info("memory")["used_memory"]
        for number in range(count):
            topic = number % questions.topics
            cache.update(asked(questions.make(topic)), answer(topic))
        return float(client.info("memory")["used_memory"] - before) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--only", choices=("decision", "local", "redisvl", "bytes"))
    options = parser.parse_args()
    only, console = options.only, Console(width=100)
    search = os.environ.get("REDIS_TIERED_TEST_SEARCH_URL")
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(directory=Path(name) / "redis") as server,
    ):
        console.print(describe(server.url))
        if only in (None, "decision"):
            times = decision()
            console.print(
                f"A decision about ten neighbours, guard included: {statistics.median(times):.0f} us "
                f"(wanted: 150)"
            )
        if only in (None, "local"):
            title = "Semantic hits, local engine, 1,000 entries of 384 dimensions"
            show(title, local(server, Path(name)), {"semantic hit": "<= 8"}, console)
        if only in (None, "redisvl") and search:
            for entries in (1000, options.entries):
                title = f"Semantic hits, search module, {entries:,} entries of 384 dimensions"
                wanted = {"semantic hit": "<= 1.5"}
                show(title, with_search_module(search, entries), wanted, console)
        if only in (None, "bytes"):
            table = Table(title="Redis per answer of 2 kB, 1,536 dimensions", title_justify="left")
            for column in ("engine", "bytes", "wanted"):
                table.add_column(column)
            table.add_row("local", f"{memory(server.url, 'local'):,.0f}", "<= 6,000")
            if search:
                table.add_row("redisvl", f"{memory(search, 'redisvl'):,.0f}", "<= 6,000")
            console.print(table)


if __name__ == "__main__":
    main()
