"""What a conversation costs, as ratios to a raw redis-py GET of one message's bytes.

    python -m benchmarks.sessions [--messages 100000]

Everything runs in one process against one server started for it, on TCP loopback; SQLite is in WAL
with synchronous NORMAL, the embedded tier's own setting. Windows are read as LangChain messages.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import redis
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from rich.console import Console

from benchmarks.measure import Measured, describe, rounds, show
from langchain_redis_tiered import RedisTieredChatMessageHistory, Tiers
from llamaindex_redis_tiered import RedisTieredChatStore
from redis_tiered import Window
from tests.servers import RedisServer

QUESTION = "Where is my order number {}, and when does it arrive at the new address?"
ANSWER = "The parcel was handed to the carrier on Tuesday and arrives within two working days. " * 4
WINDOW = 20


def turn(number: int) -> list[BaseMessage]:
    """A question, a tool call with its result, an answer."""
    call = {"name": "track", "args": {"order": number}, "id": f"call-{number}", "type": "tool_call"}
    usage = {"input_tokens": 240, "output_tokens": 70, "total_tokens": 310}
    return [
        HumanMessage(QUESTION.format(number), id=f"q-{number}"),
        AIMessage("", tool_calls=[call], id=f"c-{number}", usage_metadata=usage),
        ToolMessage(
            '{"carrier": "post", "days": 2}', tool_call_id=f"call-{number}", id=f"r-{number}"
        ),
        AIMessage(ANSWER, id=f"a-{number}", usage_metadata=usage),
    ]


def fill(history: RedisTieredChatMessageHistory, messages: int) -> None:
    for start in range(0, messages // 4, 500):
        numbers = range(start, min(start + 500, messages // 4))
        history.add_messages([message for number in numbers for message in turn(number)])


def appends(server: RedisServer, directory: Path, raw: Callable[[], object]) -> dict[str, Measured]:
    """One message appended to a session whose window is in Redis."""
    messages = iter(
        [HumanMessage(QUESTION.format(number), id=f"n-{number}") for number in range(10_000)]
    )
    candidates: dict[str, Callable[[], object]] = {"raw GET": raw}
    with (
        Tiers(server.url, namespace="append-none") as plain,
        Tiers(server.url, f"sqlite:///{directory / 'append.db'}", namespace="append") as durable,
    ):
        for name, tiers, durability in (
            ("append, no L3", plain, "none"),
            ("append, SQLite", durable, "through"),
            ("append, behind", durable, "behind"),
        ):
            history = RedisTieredChatMessageHistory(durability, tiers, durability=durability)
            fill(history, WINDOW)
            history.session.window(max_messages=1)

            def append(history: RedisTieredChatMessageHistory = history) -> object:
                return history.add_messages([next(messages)])

            candidates[name] = append
        return rounds(candidates, baseline="raw GET", calls=50)


def reads(
    server: RedisServer, directory: Path, raw: Callable[[], object], sizes: list[int]
) -> dict[str, Measured]:
    """The newest messages of logs of different lengths, from Redis; and from SQLite."""
    client = redis.Redis.from_url(server.url)
    candidates: dict[str, Callable[[], object]] = {"raw GET": raw}
    with Tiers(server.url, f"sqlite:///{directory / 'read.db'}", namespace="read") as tiers:
        for size in sizes:
            history = RedisTieredChatMessageHistory(f"log-{size}", tiers, max_messages=WINDOW)
            fill(history, size)
            found = history.messages
            assert len(found) == min(size - size % 4, WINDOW), len(found)
            assert history.session.window(max_messages=WINDOW).tier == "redis"
            candidates[f"read {len(found)} of {size:,}"] = lambda history=history: history.messages
        session = history.session
        candidates[f"core alone, {WINDOW} of {sizes[-1]:,}"] = lambda: session.window(
            max_messages=WINDOW
        )
        store = RedisTieredChatStore(tiers)
        store.set_messages("chat", store.get_messages(f"log-{sizes[0]}") * 2)
        held = len(store.get_messages("chat"))
        candidates[f"LlamaIndex chat store, {held}"] = lambda: store.get_messages("chat")

        cold = RedisTieredChatMessageHistory("cold", tiers, window=50)
        fill(cold, 52)
        cold.session.window()
        keys = list(client.scan_iter("read!*cold*", count=1000))

        def rehydrate() -> Window:
            client.delete(*keys)
            return cold.session.window(max_messages=50)

        assert rehydrate().tier == "durable"
        assert cold.session.window().tier == "redis"
        candidates["rehydrate 50 from SQLite"] = rehydrate
        return rounds(candidates, baseline="raw GET", calls=20)


def memory(server: RedisServer, directory: Path) -> float:
    """Bytes of Redis per session: 1,000 sessions of 50 messages."""
    client = redis.Redis.from_url(server.url)
    client.flushall()
    with Tiers(server.url, f"sqlite:///{directory / 'memory.db'}", namespace="memory") as tiers:
        RedisTieredChatMessageHistory("warm", tiers).session.info()
        before = client.info("memory")["used_memory_dataset"]
        for number in range(1000):
            history = RedisTieredChatMessageHistory(f"session-{number}", tiers)
            fill(history, 52)
            assert len(history.messages) == 52
        return (client.info("memory")["used_memory_dataset"] - before) / 1000 * 50 / 52


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="the longest log")
    options = parser.parse_args()
    console = Console(width=100)
    with (
        tempfile.TemporaryDirectory() as name,
        RedisServer(directory=Path(name) / "redis") as server,
    ):
        directory = Path(name)
        client = redis.Redis.from_url(server.url)
        client.set("raw", (ANSWER * 2)[:600])
        console.print(describe(server.url))

        def raw() -> object:
            return client.get("raw")

        show(
            "Append one message (ratio to a raw GET)",
            appends(server, directory, raw),
            {"append, no L3": "<= 4", "append, SQLite": "<= 8"},
            console,
        )
        sizes = [size for size in (10, 1_000, 100_000) if size <= options.messages]
        limits = {f"read {WINDOW} of {size:,}": "<= 12" for size in sizes}
        show(
            "Read the newest messages (ratio to a raw GET)",
            reads(server, directory, raw, sizes),
            limits | {"rehydrate 50 from SQLite": "<= 40"},
            console,
        )
        console.print(
            f"Redis per session of 50 messages: {memory(server, directory) / 1000:.1f} kB"
        )


if __name__ == "__main__":
    main()
