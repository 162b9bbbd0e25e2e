"""`RedisTieredMemoryStore` and LlamaIndex's `Memory` on it."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import Memory
from llama_index.core.memory.memory import BaseMemoryBlock
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from pydantic import PrivateAttr
from workflows.context.serializers import JsonSerializer, PickleSerializer

from llamaindex_redis_tiered import RedisTieredChatStore, RedisTieredMemoryStore, Tiers
from redis_tiered.errors import InvalidInput
from tests.servers import RedisServer

ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED
SECRET = "xyzzy-plugh"


@pytest.fixture
async def store(urls: tuple[str, str | None]) -> Any:
    async with Tiers(*urls) as tiers:
        yield RedisTieredMemoryStore(tiers)


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    # Many who write at once wait for each other; SQLite lets in one at a time.
    with Tiers(valkey.url, sqlite_url, durable_timeout=30) as tiers:
        yield tiers


@pytest.fixture
def one(tiers: Tiers) -> RedisTieredMemoryStore:
    """A store on one pair of servers."""
    return RedisTieredMemoryStore(tiers)


def said(*texts: str) -> list[ChatMessage]:
    """Turns of a user and an assistant."""
    roles = ("user", "assistant")
    return [ChatMessage(role=roles[i % 2], content=text) for i, text in enumerate(texts)]


async def texts(
    store: AsyncDBChatStore, key: str, status: MessageStatus | None = ACTIVE, **page: Any
) -> list[str | None]:
    return [message.content for message in await store.get_messages(key, status, **page)]


# A store, on every server.


async def test_messages_are_added_and_read(store: RedisTieredMemoryStore) -> None:
    first, *rest = messages = said("a", "b", "c")
    await store.add_message("one", first)
    await store.add_messages("one", rest)
    await store.add_messages("two", messages)
    await store.add_messages("two", [])
    await store.add_messages("three", [])
    assert await store.get_messages("one") == messages
    assert await store.get_messages("two") == messages
    assert await store.get_messages("never") == []
    assert await store.count_messages("one") == 3
    assert await store.count_messages("never") == 0
    assert sorted(await store.get_keys()) == ["one", "two"]


async def test_messages_are_of_two_kinds(store: RedisTieredMemoryStore) -> None:
    a, b, c, d = said("a", "b", "c", "d")
    await store.add_message("one", a, ARCHIVED)
    await store.add_message("one", b)
    await store.add_messages("one", [c], ARCHIVED)
    await store.add_messages("one", [d], ACTIVE)
    assert await store.get_messages("one") == [b, d]
    assert await store.get_messages("one", ARCHIVED) == [a, c]
    assert await store.get_messages("one", None) == [a, b, c, d]
    assert [await store.count_messages("one", s) for s in (ACTIVE, ARCHIVED, None)] == [2, 2, 4]
    await store.delete_messages("one", ARCHIVED)
    assert await store.get_messages("one", None) == [b, d]
    await store.delete_messages("one", ACTIVE)
    assert await store.get_messages("one", None) == []
    assert await store.get_keys() == []


async def test_messages_are_replaced(store: RedisTieredMemoryStore) -> None:
    await store.add_messages("one", said("a", "b"))
    await store.add_messages("one", said("c"), ARCHIVED)
    await store.set_messages("one", said("d", "e"))
    assert await texts(store, "one", None) == ["d", "e"]
    await store.set_messages("one", said("f"), ARCHIVED)
    assert await texts(store, "one") == []
    assert await texts(store, "one", ARCHIVED) == ["f"]


async def test_a_conversation_is_deleted(store: RedisTieredMemoryStore) -> None:
    await store.add_messages("one", said("a", "b"))
    await store.archive_oldest_messages("one", 1)
    await store.add_messages("two", said("c"))
    await store.delete_messages("one")
    await store.delete_messages("never")
    assert await texts(store, "one", None) == []
    assert await texts(store, "two") == ["c"]
    assert await store.get_keys() == ["two"]


async def test_one_message_is_deleted(store: RedisTieredMemoryStore) -> None:
    await store.add_messages("one", said("a", "b", "c", "d"))
    await store.archive_oldest_messages("one", 1)
    deleted = await store.delete_message("one", 1)
    assert deleted is not None
    assert deleted.content == "c"
    assert await store.delete_message("one", 2) is None
    assert await store.delete_message("one", -3) is None
    assert await store.delete_message("never", 0) is None
    assert await texts(store, "one", None) == ["a", "b", "d"]


@pytest.mark.parametrize("archive", [True, False])
async def test_the_oldest_are_taken(store: RedisTieredMemoryStore, archive: bool) -> None:
    take = store.archive_oldest_messages if archive else store.delete_oldest_messages
    messages = said("a", "b", "c", "d")
    await store.add_messages("one", messages)
    assert await take("one", 0) == []
    assert await take("one", 1) == messages[:1]
    assert await store.get_messages("one") == messages[1:]
    assert await take("one", 2) == messages[1:3]
    assert await texts(store, "one", ARCHIVED) == (["a", "b", "c"] if archive else [])
    await store.add_messages("one", messages[:1])
    assert await take("one", 99) == [messages[3], messages[0]]
    assert await take("one", 1) == []
    assert await take("never", 1) == []


async def test_a_page(store: RedisTieredMemoryStore) -> None:
    await store.add_messages("one", said("a", "b", "c", "d", "e"))
    assert await texts(store, "one", limit=2) == ["a", "b"]
    assert await texts(store, "one", offset=2) == ["c", "d", "e"]
    assert await texts(store, "one", limit=2, offset=1) == ["b", "c"]
    assert await texts(store, "one", limit=0) == []
    assert await texts(store, "one", offset=9) == []
    assert await texts(store, "one", limit=9, offset=0) == ["a", "b", "c", "d", "e"]
    await store.archive_oldest_messages("one", 2)
    assert await texts(store, "one", limit=1) == ["c"]
    assert await texts(store, "one", ARCHIVED, offset=1) == ["b"]
    assert await texts(store, "one", None, limit=3) == ["a", "b", "c"]


# Arguments.


async def test_a_message_that_cannot_be_stored_changes_nothing(one: RedisTieredMemoryStore) -> None:
    bad = ChatMessage(content="x", additional_kwargs={"a": object()})
    await one.add_messages("k", said("a"))
    with pytest.raises(InvalidInput, match=r"^message\.additional_kwargs"):
        await one.add_message("k", bad)
    with pytest.raises(InvalidInput, match=r"^messages\[1\]\.additional_kwargs"):
        await one.add_messages("k", [*said("b"), bad])
    with pytest.raises(InvalidInput, match=r"^messages\[0\]\.additional_kwargs"):
        await one.set_messages("k", [bad])
    assert await texts(one, "k", None) == ["a"]


async def test_arguments_that_cannot_be(one: RedisTieredMemoryStore) -> None:
    status: Any = "deleted"
    number: Any = "1"
    with pytest.raises(InvalidInput, match=r"status must be one of .*, got 'deleted'"):
        await one.get_messages("k", status)
    with pytest.raises(InvalidInput, match="status must be one of"):
        await one.add_messages("k", said("a"), status)
    await one.add_messages("k", said("a"))
    for read in (False, True):
        if read:
            await one.get_messages("k")
        for wrong in (number, -1, True):
            with pytest.raises(InvalidInput, match="n must be"):
                await one.archive_oldest_messages("k", wrong)
    with pytest.raises(InvalidInput, match="limit must be"):
        await one.get_messages("k", limit=-1)
    with pytest.raises(InvalidInput, match="offset must be"):
        await one.get_messages("k", offset=-1)
    with pytest.raises(InvalidInput, match="tiers must be a Tiers or None, got str"):
        RedisTieredMemoryStore(f"redis://:{SECRET}@h")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="ttl"):
        RedisTieredMemoryStore(one.tiers, ttl=-1)


def test_every_method_is_implemented() -> None:
    for name, method in inspect.getmembers(AsyncDBChatStore, inspect.iscoroutinefunction):
        own = getattr(RedisTieredMemoryStore, name)
        assert own is not method, name
        assert list(inspect.signature(own).parameters) == list(inspect.signature(method).parameters)


# Saved and loaded.


def test_no_dump_holds_credentials_and_each_is_loaded(tmp_path: Any) -> None:
    where = f"redis://{SECRET}:{SECRET}@localhost:1", f"sqlite:///{tmp_path}/x.db"
    with Tiers(*where, tenant="t") as tiers:
        store = RedisTieredMemoryStore(tiers, ttl=5, window=7)
        memory = Memory.from_defaults(session_id="k", chat_store=store)
        for dump in (
            json.dumps(store.to_dict()),
            store.model_dump_json(),
            repr(store),
            repr(memory),
            JsonSerializer().serialize(store),
            PickleSerializer().serialize(store),
        ):
            assert SECRET not in dump
            assert "localhost:1" in dump
        for loaded in (
            RedisTieredMemoryStore.from_dict(store.to_dict()),
            RedisTieredMemoryStore.model_validate_json(store.model_dump_json()),
            JsonSerializer().deserialize(JsonSerializer().serialize(store)),
            copy.copy(store),
            copy.deepcopy(store),
            copy.deepcopy(memory).sql_store,
        ):
            assert type(loaded) is RedisTieredMemoryStore
            assert loaded.tiers is tiers
            assert loaded.model_dump() == store.model_dump()
        dump = store.to_dict()
    with pytest.raises(InvalidInput, match="tiers must be open in this process"):
        RedisTieredMemoryStore.from_dict(dump)


def test_a_memory_is_pickled(one: RedisTieredMemoryStore) -> None:
    memory = Memory.from_defaults(session_id="k", chat_store=one, chat_history=said("a"))
    loaded = pickle.loads(pickle.dumps(memory))
    assert loaded.session_id == "k"
    with loaded.sql_store.tiers:
        assert loaded.get_all() == said("a")


# `Memory`.


def words(text: str) -> list[str]:
    return text.split()


def memory_of(store: AsyncDBChatStore, limit: int = 1000, **options: Any) -> Memory:
    return Memory.from_defaults(
        session_id="k",
        chat_store=store,
        tokenizer_fn=words,
        token_limit=limit,
        chat_history_token_ratio=1.0,
        **options,
    )


async def test_a_memory_puts_gets_sets_and_resets(one: RedisTieredMemoryStore) -> None:
    memory = memory_of(one)
    assert memory.sql_store is one
    a, b, c = said("a", "b", "c")
    await memory.aput(a)
    await memory.aput_messages([b, c])
    await memory.aput_messages([])
    assert await memory.aget() == await memory.aget_all() == [a, b, c]
    await memory.aset([c])
    assert await memory.aget() == [c]
    await memory.areset(ACTIVE)
    assert await memory.aget_all() == []


def test_a_memory_is_used_without_a_loop(one: RedisTieredMemoryStore) -> None:
    memory = memory_of(one, chat_history=said("a"))
    memory.put(ChatMessage(role="assistant", content="b"))
    memory.put_messages(said("c"))
    assert memory.get() == memory.get_all() == said("a", "b", "c")
    memory.set(said("d"))
    assert memory.get() == said("d")
    memory.reset()
    assert memory.get_all() == []


async def test_a_memory_is_used_blocking_inside_a_loop(one: RedisTieredMemoryStore) -> None:
    memory = memory_of(one, chat_history=said("a"))
    memory.put(ChatMessage(role="assistant", content="b"))
    assert memory.get() == await memory.aget() == said("a", "b")


async def test_blocking_inside_a_loop_leaves_no_connections(
    tiers: Tiers, valkey: RedisServer
) -> None:
    """LlamaIndex makes a loop for each such call."""
    memory = memory_of(RedisTieredMemoryStore(tiers))
    with redis.Redis.from_url(valkey.url) as client:
        memory.put_messages(said("a", "b"))
        before = len(client.client_list())
        for _ in range(10):
            memory.put_messages(said("a", "b"))
            memory.get()
        assert len(client.client_list()) <= before


class Blocks(BaseMemoryBlock[str]):
    """Remembers what it was given."""

    _given: list[str] = PrivateAttr(default_factory=list)

    async def _aget(self, messages: Any = None, **_: Any) -> str:
        return f"seen {len(self._given)}"

    async def _aput(self, messages: list[ChatMessage]) -> None:
        self._given += [str(message.content) for message in messages]


async def test_a_memory_archives_what_is_too_much(one: RedisTieredMemoryStore) -> None:
    block = Blocks(name="all")
    memory = memory_of(one, limit=10, token_flush_size=4, memory_blocks=[block])
    history = said(*(f"{i} b" for i in range(8)))
    for message in history[:5]:
        await memory.aput(message)
    assert await texts(one, "k") == [message.content for message in history[:5]]
    await memory.aput(history[5])
    assert await texts(one, "k") == ["2 b", "3 b", "4 b", "5 b"]
    assert await texts(one, "k", ARCHIVED) == block._given == ["0 b", "1 b"]
    assert await memory.aget_all() == history[:6]
    assert "seen 2" in str((await memory.aget())[0].content)


@pytest.mark.parametrize(
    "sizes",
    [(100, 1), (50, 50, 50, 50), (40, 20, 20, 20), (50, 1, 1)],
)
async def test_a_queue_begins_with_a_user(one: RedisTieredMemoryStore, sizes: Any) -> None:
    roles = (
        ("user", "assistant", "tool", "assistant") if len(sizes) != 4 else ("user", "assistant") * 2
    )
    messages = [
        ChatMessage(role=role, content="x " * size)
        for role, size in zip(roles, sizes, strict=False)
    ]
    memory = memory_of(one, limit=45, token_flush_size=20)
    await memory.aput_messages(messages)
    queue = await memory.aget()
    assert queue[0].role is MessageRole.USER
    assert await memory.aget_all() == messages


async def test_one_message_too_large_stays(one: RedisTieredMemoryStore) -> None:
    memory = memory_of(one, limit=5)
    await memory.aput(ChatMessage(content="x " * 99))
    assert await one.count_messages("k") == 1


async def test_an_agent_remembers_its_tool_calls(one: RedisTieredMemoryStore) -> None:
    seen: list[list[ChatMessage]] = []

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def answer(messages: Any, **_: Any) -> ChatMessage:
        seen.append(list(messages))
        if messages[-1].role is MessageRole.TOOL:
            return ChatMessage(role="assistant", content="done")
        call = ToolCallBlock(tool_call_id="c", tool_name="add", tool_kwargs={"a": 1, "b": 2})
        return ChatMessage(role="assistant", blocks=[call])

    for question in ("first", "second"):
        agent = FunctionAgent(
            tools=[add], llm=MockFunctionCallingLLM(response_generator=answer), streaming=False
        )
        await agent.run(user_msg=question, memory=memory_of(one))
    roles = [message.role.value for message in seen[2]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert seen[2][1].blocks[0].tool_kwargs == {"a": 1, "b": 2}
    assert seen[2][2].content == "3"
    assert await one.count_messages("k") == 8


test_an_agent_remembers_its_tool_calls = pytest.mark.filterwarnings(
    # Workflows look at every attribute of an agent, which is a pydantic model.
    "ignore::pydantic.PydanticDeprecationWarning"
)(test_an_agent_remembers_its_tool_calls)


def test_both_stores_share_a_conversation(one: RedisTieredMemoryStore) -> None:
    chat = RedisTieredChatStore(one.tiers)
    chat.add_message("k", said("a")[0])
    memory = memory_of(one)
    memory.put(ChatMessage(role="assistant", content="b"))
    assert chat.get_messages("k") == memory.get_all() == said("a", "b")


# Concurrent puts.


async def test_what_is_taken_is_what_was_read(one: RedisTieredMemoryStore) -> None:
    """Of what a task has read, as far as nobody else took it; not of what it never saw."""
    await one.add_messages("k", said("a", "b", "c", "d"))
    await one.get_messages("k")

    async def another() -> list[str | None]:
        await one.get_messages("k")
        taken = await one.archive_oldest_messages("k", 2)
        await one.add_messages("k", said("e", "f"))
        return [message.content for message in taken]

    assert await asyncio.create_task(another()) == ["a", "b"]
    assert await one.archive_oldest_messages("k", 2) == []
    assert [m.content for m in await one.archive_oldest_messages("k", 1)] == ["c"]
    assert [m.content for m in await one.archive_oldest_messages("k", 9)] == ["d"]
    assert await one.archive_oldest_messages("k", 9) == []
    assert await texts(one, "k", ARCHIVED) == ["a", "b", "c", "d"]
    assert await texts(one, "k") == ["e", "f"]


@pytest.mark.parametrize("forget", ["page", "write", "other key", "other task"])
async def test_without_a_read_the_oldest_are_taken(
    one: RedisTieredMemoryStore, forget: str
) -> None:
    await one.add_messages("k", said("a"))
    await one.get_messages("k")
    await asyncio.create_task(one.add_messages("k", said("b", "c")))
    if forget == "page":
        await one.get_messages("k", limit=1)
    elif forget == "write":
        await one.add_messages("k", said("d"))
    elif forget == "other key":
        await one.get_messages("other")
    taking = one.archive_oldest_messages("k", 2)
    taken = await (asyncio.create_task(taking) if forget == "other task" else taking)
    assert [message.content for message in taken] == ["a", "b"]


def seeds(n: int) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=f"seed-{i} " + "word " * 12) for i in range(n)]


def news(*names: object) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=f"new-{name} " + "word " * 12) for name in names]


async def test_two_puts_archive_what_they_would_one_after_the_other(
    one: RedisTieredMemoryStore,
) -> None:
    """Both read the queue before either archives."""
    outcomes = []
    for key, together in (("one by one", False), ("together", True)):
        await one.add_messages(key, seeds(6))
        meeting = asyncio.Barrier(2)

        class Meeting(RedisTieredMemoryStore):
            _met: dict[Any, bool] = PrivateAttr(default_factory=dict)

            async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
                if self._met.setdefault(asyncio.current_task(), True):
                    self._met[asyncio.current_task()] = False
                    await meeting.wait()  # noqa: B023
                return await super().archive_oldest_messages(key, n)

        memory = Memory(
            token_limit=60,
            token_flush_size=40,
            chat_history_token_ratio=1.0,
            session_id=key,
            tokenizer_fn=words,
            sql_store=Meeting(one.tiers) if together else one,
        )
        a, b = news("a", "b")
        if together:
            await asyncio.gather(memory.aput(a), memory.aput(b))
        else:
            await memory.aput(a)
            await memory.aput(b)
        outcomes.append([Counter(await texts(one, key, status)) for status in (ACTIVE, ARCHIVED)])
    assert outcomes[0] == outcomes[1]
    assert sum(outcomes[0][1].values()) == 4


@pytest.mark.parametrize("separate", [False, True], ids=["one store", "store per put"])
@pytest.mark.parametrize("durability", ["through", "behind", "none"])
async def test_many_puts_lose_nothing(tiers: Tiers, separate: bool, durability: Any) -> None:
    puts = 12
    stores = [
        RedisTieredMemoryStore(tiers, durability=durability) for _ in range(puts if separate else 1)
    ]
    store = stores[0]
    await store.add_messages("k", seeds(6))

    def memory(i: int) -> Memory:
        return memory_of(stores[i % len(stores)], limit=60, token_flush_size=40)

    await asyncio.gather(*(memory(i).aput(message) for i, message in enumerate(news(*range(puts)))))
    await check_all(store, puts)


def test_many_puts_in_threads_lose_nothing(tiers: Tiers) -> None:
    store = RedisTieredMemoryStore(tiers)
    asyncio.run(store.add_messages("k", seeds(6)))
    messages = news(*range(12))

    def put(some: list[ChatMessage]) -> None:
        for message in some:
            memory_of(store, limit=60, token_flush_size=40).put(message)

    threads = [threading.Thread(target=put, args=(messages[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(check_all(store, 12))


async def check_all(store: RedisTieredMemoryStore, puts: int) -> None:
    """Each message is there once, the archived ones are the oldest, and some are active."""
    everything = await texts(store, "k", None)
    expected = [message.content for message in (*seeds(6), *news(*range(puts)))]
    assert Counter(everything) == Counter(expected)
    archived, active = await texts(store, "k", ARCHIVED), await texts(store, "k")
    assert archived + active == everything
    assert active[-1] == everything[-1]
    # Each put leaves what fits; of those that overlap, the last may not yet have seen all.
    assert active
    assert archived
    await memory_of(store, limit=60, token_flush_size=40).aput(news("last")[0])
    assert sum(len(words(str(text))) for text in await texts(store, "k")) <= 60


async def test_puts_on_two_conversations_do_not_meet(one: RedisTieredMemoryStore) -> None:
    async def fill(key: str) -> None:
        memory = Memory(
            token_limit=60,
            token_flush_size=40,
            chat_history_token_ratio=1.0,
            session_id=key,
            tokenizer_fn=words,
            sql_store=one,
        )
        for message in news(*range(8)):
            await memory.aput(message)

    await asyncio.gather(*(fill(f"k{i}") for i in range(4)))
    counts = [await one.count_messages(f"k{i}") for i in range(4)]
    assert len(set(counts)) == 1
    assert 0 < counts[0] <= 4
