"""What LlamaIndex's cache and document store cost here.

    python -m benchmarks.llamaindex [--only cache|ingestion] [--rival-python PATH]

A cached chat, as a ratio to a raw redis-py GET of the answer's text; and the ingestion of 1,000 nodes
through the document store, beside `llama-index-storage-docstore-redis` on the same server. That one needs
redis-py 5, so it runs in an environment of its own, which is made with pip if none is given. Round
trips are counted by a proxy, in runs that are not timed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import CustomLLM
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from rich.console import Console
from rich.table import Table

from benchmarks.measure import describe, rounds, show
from llamaindex_redis_tiered import RedisTieredDocumentStore, Tiers, cached
from tests.servers import FaultProxy, PostgresServer, RedisServer

ANSWER = (
    "The parcel was handed to the carrier on Tuesday and arrives within two working days. " * 23
)
NODES, PER_DOCUMENT = 1000, 10
REPEATS = 5
RIVAL = "llama-index-storage-docstore-redis"


class Model(CustomLLM):
    """Answers at once."""

    model: str = "benchmark"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, is_chat_model=True)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=ANSWER)

    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        yield CompletionResponse(text=ANSWER, delta=ANSWER)

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        return ChatResponse(
            message=ChatMessage(role="assistant", content=ANSWER),
            raw={"usage": {"prompt_tokens": 40, "completion_tokens": 400, "total_tokens": 440}},
        )

    def stream_chat(self, messages: Any, **kwargs: Any) -> ChatResponseGen:
        def chunks() -> Iterator[ChatResponse]:
            yield ChatResponse(message=self.chat(()).message, delta=ANSWER)

        return chunks()


def messages(number: int) -> list[ChatMessage]:
    question = f"Where is my order number {number}, and when does it arrive?"
    return [
        ChatMessage(role="system", content="You answer customers of a shop, briefly."),
        ChatMessage(role="user", content=question),
    ]


def cache(url: str, path: Path, console: Console) -> None:
    """Hits, whole and streamed."""
    client = redis.Redis.from_url(url)
    client.set("raw", ANSWER)
    durable = f"sqlite:///{path / 'cache.db'}"
    with Tiers(url, durable) as tiers, Tiers(url, durable, l1_max_bytes=0) as far:
        tiers.setup()
        near, remote = cached(Model(), tiers), cached(Model(), far)
        asked = messages(7)
        assert near.chat(asked).message.content == ANSWER
        near.chat(asked)
        loop = asyncio.new_event_loop()

        async def first_of(llm: Model) -> object:
            stream = await llm.astream_chat(asked)
            return await anext(aiter(stream))

        candidates: dict[str, Callable[[], object]] = {
            "raw GET": lambda: client.get("raw"),
            "chat, L1": lambda: near.chat(asked),
            "chat, L2": lambda: remote.chat(asked),
            "achat, L1": lambda: loop.run_until_complete(near.achat(asked)),
            "stream_chat, first chunk, L1": lambda: next(iter(near.stream_chat(asked))),
            "stream_chat, first chunk, L2": lambda: next(iter(remote.stream_chat(asked))),
            "stream_chat, all chunks, L2": lambda: list(remote.stream_chat(asked)),
            "astream_chat, first chunk, L1": lambda: loop.run_until_complete(first_of(near)),
        }
        limits = {
            "chat, L1": "<= 3",
            "chat, L2": "<= 3",
            "stream_chat, first chunk, L1": "<= 3",
            "stream_chat, first chunk, L2": "<= 3",
        }
        measured = rounds(candidates, baseline="raw GET", calls=100)
        show("A cached answer of 2 kB (ratio to a raw GET)", measured, limits, console)
        loop.run_until_complete(far.aclose())
        loop.close()


def nodes(run: str) -> list[TextNode]:
    """A thousand, ten of each document."""
    made = []
    for number in range(NODES):
        source = RelatedNodeInfo(node_id=f"{run}-document-{number // PER_DOCUMENT}")
        text = f"{run} {number}: {ANSWER[:300]}"
        node = TextNode(text=text, id_=f"{run}-{number}", metadata={"page": number})
        node.relationships[NodeRelationship.SOURCE] = source
        made.append(node)
    return made


def through(store: Any, run: str) -> dict[str, float]:
    """What a store has to do for an ingestion and after it; seconds by part.

    Also the other environment runs this function.
    """
    given = nodes(run)
    documents = [Document(text=node.text, id_=f"{run}-alone-{i}") for i, node in enumerate(given)]
    seconds = {}

    def pipeline() -> object:
        # With a vector store LlamaIndex's strategy is to upsert; there are no vectors to add here.
        vectors = SimpleVectorStore()
        made = IngestionPipeline(transformations=[], docstore=store, vector_store=vectors)
        return made.run(documents=documents)

    for name, work in (
        ("ingest 1,000 documents", pipeline),
        ("again, unchanged", pipeline),
        ("add 1,000 nodes of 100 sources", lambda: store.add_documents(given)),
        ("get them", lambda: store.get_nodes([node.node_id for node in given])),
        ("delete a source", lambda: store.delete_ref_doc(f"{run}-document-0")),
    ):
        began = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - began
    return seconds


_RIVAL_SCRIPT = """
import json, sys, time
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.storage.docstore.redis import RedisDocumentStore
from llama_index.storage.kvstore.redis import RedisKVStore
ANSWER, NODES, PER_DOCUMENT = json.loads(sys.argv[1])
{nodes}
{through}
for line in sys.stdin:
    url, run = line.split()
    store = RedisDocumentStore(RedisKVStore(redis_uri=url), namespace=run)
    print(json.dumps(through(store, run)), flush=True)
"""


class Rival:
    """The official store, in a process of its environment."""

    def __init__(self, python: str) -> None:
        import inspect

        script = _RIVAL_SCRIPT.replace("{nodes}", inspect.getsource(nodes))
        script = "from typing import Any\n" + script.replace(
            "{through}", inspect.getsource(through)
        )
        given = json.dumps([ANSWER, NODES, PER_DOCUMENT])
        self._process = subprocess.Popen(
            [python, "-c", script, given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, url: str, run: str) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{url} {run}\n")
        self._process.stdin.flush()
        seconds: dict[str, float] = json.loads(self._process.stdout.readline())
        return seconds

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def environment(directory: Path) -> str:
    """An interpreter that has the official store."""
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = str(directory / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", RIVAL], check=True)
    return python


def ingestion(server: RedisServer, path: Path, rival: Rival, console: Console) -> None:
    """Round trips and time of each part."""
    with PostgresServer(path / "postgres") as postgres:
        durables = {
            "ours, no durable tier": None,
            "ours, SQLite": f"sqlite:///{path / 'ingestion.db'}",
            "ours, PostgreSQL": postgres.create_database(),
        }

        def ours(durable: str | None) -> Callable[[str, str], dict[str, float]]:
            def run(url: str, run: str) -> dict[str, float]:
                with Tiers(url, durable, durable_timeout=60) as tiers:
                    return through(RedisTieredDocumentStore(tiers, name=run), run)

            return run

        stores: dict[str, Callable[[str, str], dict[str, float]]] = {
            RIVAL: rival,
            **{name: ours(durable) for name, durable in durables.items()},
        }
        seconds: dict[str, list[dict[str, float]]] = {name: [] for name in stores}
        for repeat in range(REPEATS):
            for name, run in stores.items():
                seconds[name].append(run(server.url, f"run-{repeat}"))
        trips = {}
        with FaultProxy("127.0.0.1", server.port) as proxy:
            for name, run in stores.items():
                with proxy.count_round_trips() as counted:
                    run(proxy.through(server.url), "counted")
                trips[name] = counted.count
    parts = list(seconds[RIVAL][0])
    table = Table(title="A document store", title_justify="left")
    table.add_column("milliseconds, median of 5")
    for part in parts:
        table.add_column(part, justify="right")
    table.add_column("round trips, all", justify="right")
    for name, measured in seconds.items():
        medians = (statistics.median(each[part] for each in measured) for part in parts)
        table.add_row(name, *(f"{median * 1e3:,.1f}" for median in medians), f"{trips[name]:,}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("cache", "ingestion"))
    parser.add_argument("--rival-python", help=f"an interpreter that has {RIVAL}")
    options = parser.parse_args()
    console = Console(width=120)
    with (
        tempfile.TemporaryDirectory(prefix="rt-") as name,
        RedisServer(directory=Path(name) / "redis") as server,
    ):
        path = Path(name)
        path.chmod(0o711)  # Postgres, started by root, runs as somebody else
        console.print(describe(server.url))
        if options.only != "ingestion":
            cache(server.url, path, console)
        if options.only != "cache":
            rival = Rival(options.rival_python or environment(path / "rival"))
            ingestion(server, path, rival, console)
            rival.close()


if __name__ == "__main__":
    main()
