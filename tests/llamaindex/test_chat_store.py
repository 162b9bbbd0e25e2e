"""`RedisTieredChatStore` and what LlamaIndex builds on it."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import json
import pickle
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, ToolCallBlock
from llama_index.core.llms import MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import ChatMemoryBuffer, ChatSummaryMemoryBuffer
from llama_index.core.storage.chat_store import BaseChatStore, SimpleChatStore
from llama_index.core.storage.chat_store.loading import load_chat_store
from openai.types.chat import ChatCompletionMessageToolCall
from pydantic import PrivateAttr
from workflows import Context
from workflows.context.serializers import JsonSerializer, PickleSerializer

import llamaindex_redis_tiered
from llamaindex_redis_tiered import RedisTieredChatStore, Tiers
from redis_tiered.errors import InvalidInput, MissingExtra, TierError
from redis_tiered.sessions.message import Message, ToolCall
from tests.servers import RedisServer

HELLO = ChatMessage(role="user", content="hello")
WORLD = ChatMessage(role="assistant", content="world")
AGAIN = ChatMessage(role="user", content="again")
SECRET = "xyzzy-plugh"

Call = Callable[..., Awaitable[Any]]


@pytest.fixture
def store(urls: tuple[str, str | None]) -> Iterator[RedisTieredChatStore]:
    with Tiers(*urls) as tiers:
        yield RedisTieredChatStore(tiers)


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
def one(tiers: Tiers) -> RedisTieredChatStore:
    """A store on one pair of servers."""
    return RedisTieredChatStore(tiers)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Call a method of a store by its sync name, or its async twin."""

    async def sync(store: BaseChatStore, name: str, *arguments: Any) -> Any:
        return getattr(store, name)(*arguments)

    async def twin(store: BaseChatStore, name: str, *arguments: Any) -> Any:
        prefix = "async_" if name == "add_message" else "a"
        return await getattr(store, prefix + name)(*arguments)

    return sync if request.param == "sync" else twin


# A chat store, on every server.


async def test_messages_are_added_and_read(store: RedisTieredChatStore, call: Call) -> None:
    assert await call(store, "get_messages", "one") == []
    for key in ("one", "two"):
        await call(store, "add_message", key, HELLO)
        await call(store, "add_message", key, WORLD)
    assert await call(store, "get_messages", "one") == [HELLO, WORLD]
    assert await call(store, "get_messages", "two") == [HELLO, WORLD]
    assert sorted(await call(store, "get_keys")) == ["one", "two"]


async def test_messages_are_replaced(store: RedisTieredChatStore, call: Call) -> None:
    await call(store, "set_messages", "one", [HELLO, WORLD])
    await call(store, "set_messages", "one", [AGAIN])
    assert await call(store, "get_messages", "one") == [AGAIN]
    await call(store, "set_messages", "one", [])
    assert await call(store, "get_messages", "one") == []


async def test_a_conversation_is_deleted(store: RedisTieredChatStore, call: Call) -> None:
    await call(store, "set_messages", "one", [HELLO, WORLD])
    await call(store, "set_messages", "two", [HELLO])
    assert await call(store, "delete_messages", "one") == [HELLO, WORLD]
    assert await call(store, "delete_messages", "one") is None
    assert await call(store, "delete_messages", "never") is None
    assert await call(store, "get_messages", "one") == []
    assert await call(store, "get_messages", "two") == [HELLO]
    assert await call(store, "get_keys") == ["two"]
    await call(store, "add_message", "one", AGAIN)
    assert await call(store, "get_messages", "one") == [AGAIN]


async def test_one_message_is_deleted(store: RedisTieredChatStore, call: Call) -> None:
    await call(store, "set_messages", "one", [HELLO, WORLD, AGAIN])
    for outside in (3, 99, -4, -99):
        assert await call(store, "delete_message", "one", outside) is None
    assert await call(store, "delete_message", "never", 0) is None
    assert await call(store, "delete_message", "one", 1) == WORLD
    assert await call(store, "get_messages", "one") == [HELLO, AGAIN]
    assert await call(store, "delete_message", "one", -2) == HELLO
    assert await call(store, "get_messages", "one") == [AGAIN]
    await call(store, "add_message", "one", WORLD)
    assert await call(store, "get_messages", "one") == [AGAIN, WORLD]


async def test_the_last_message_is_deleted(store: RedisTieredChatStore, call: Call) -> None:
    await call(store, "set_messages", "one", [HELLO, WORLD])
    assert await call(store, "delete_last_message", "one") == WORLD
    assert await call(store, "delete_last_message", "one") == HELLO
    assert await call(store, "delete_last_message", "one") is None
    assert await call(store, "delete_last_message", "never") is None


async def test_more_messages_than_redis_holds(
    valkey: RedisServer, durable_url: str | None, call: Call
) -> None:
    with Tiers(valkey.url, durable_url) as tiers:
        store = RedisTieredChatStore(tiers, window=5)
        messages = [ChatMessage(content=str(i)) for i in range(23)]
        await call(store, "set_messages", "one", messages[:20])
        for message in messages[20:]:
            await call(store, "add_message", "one", message)
        found = await call(store, "get_messages", "one")
        if durable_url is not None:
            assert found == messages
        else:
            assert found[-5:] == messages[-5:]


async def test_more_keys_than_a_page(
    one: RedisTieredChatStore, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamaindex_redis_tiered._store._PAGE", 3)
    keys = [f"key {i}" for i in range(10)]
    for key in keys:
        await call(one, "add_message", key, HELLO)
    assert sorted(await call(one, "get_keys")) == keys


async def test_both_clients_see_the_same(one: RedisTieredChatStore) -> None:
    one.add_message("k", HELLO)
    await one.async_add_message("k", WORLD)
    assert one.get_messages("k") == await one.aget_messages("k") == [HELLO, WORLD]


async def test_concurrent_adds_lose_nothing(one: RedisTieredChatStore) -> None:
    messages = [ChatMessage(content=str(i)) for i in range(40)]
    await asyncio.gather(
        *(one.async_add_message("k", message) for message in messages[:20]),
        *(asyncio.to_thread(one.add_message, "k", message) for message in messages[20:]),
    )
    found = [message.content for message in one.get_messages("k")]
    assert sorted(found, key=int) == [message.content for message in messages]


def test_tenants_share_no_key(one: RedisTieredChatStore, tiers: Tiers) -> None:
    other = RedisTieredChatStore(tiers.tenant("other"))
    one.add_message("k", HELLO)
    assert other.get_messages("k") == []
    assert other.get_keys() == []


def test_changing_what_was_read_changes_nothing(one: RedisTieredChatStore) -> None:
    one.add_message("k", ChatMessage(content="x", additional_kwargs={"a": [1]}))
    [message] = one.get_messages("k")
    message.content = "y"
    message.additional_kwargs["a"].append(2)
    assert one.get_messages("k") == [ChatMessage(content="x", additional_kwargs={"a": [1]})]


def test_text_of_any_language(one: RedisTieredChatStore) -> None:
    message = ChatMessage(content="ハロー héllo 🎈\0")
    one.add_message("schlüssel: {1}", message)
    assert one.get_messages("schlüssel: {1}") == [message]
    assert one.get_keys() == ["schlüssel: {1}"]


async def test_a_message_that_cannot_be_stored_changes_nothing(
    one: RedisTieredChatStore, call: Call
) -> None:
    bad = ChatMessage(content="x", additional_kwargs={"a": object()})
    await call(one, "add_message", "k", HELLO)
    with pytest.raises(InvalidInput, match=r"^message\.additional_kwargs\['a'\] .* got object$"):
        await call(one, "add_message", "k", bad)
    with pytest.raises(InvalidInput, match=r"^messages\[1\]\.additional_kwargs\['a'\] "):
        await call(one, "set_messages", "k", [WORLD, bad])
    with pytest.raises(InvalidInput, match="messages must be a list of ChatMessage, got ChatMess"):
        await call(one, "set_messages", "k", HELLO)
    assert await call(one, "get_messages", "k") == [HELLO]


async def test_a_log_is_not_inserted_into(one: RedisTieredChatStore, call: Call) -> None:
    await call(one, "add_message", "k", HELLO, None)
    with pytest.raises(InvalidInput, match="idx must be None, got 0"):
        await call(one, "add_message", "k", WORLD, 0)
    assert await call(one, "get_messages", "k") == [HELLO]


@pytest.mark.parametrize("key", ["", None, 5, "\ud800"])
async def test_keys_that_cannot_be(one: RedisTieredChatStore, call: Call, key: Any) -> None:
    with pytest.raises(InvalidInput):
        await call(one, "add_message", key, HELLO)
    with pytest.raises(InvalidInput):
        await call(one, "get_messages", key)


@pytest.mark.parametrize(
    "arguments",
    [
        {"tiers": 5},
        {"tiers": f"redis://:{SECRET}@h"},
        {"ttl": -1},
        {"ttl": "1"},
        {"window": 0},
        {"durability": "maybe"},
        {"unknown": 1},
    ],
)
def test_arguments_that_cannot_be(tiers: Tiers, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        RedisTieredChatStore(**{"tiers": tiers, **arguments})
    assert SECRET not in str(caught.value)
    assert next(iter(arguments)) in str(caught.value)


def test_every_method_has_a_native_twin() -> None:
    for name, method in inspect.getmembers(BaseChatStore, inspect.iscoroutinefunction):
        own = getattr(RedisTieredChatStore, name)
        assert inspect.iscoroutinefunction(own), name
        assert own is not method, name


def test_it_is_what_llamaindex_expects(one: RedisTieredChatStore) -> None:
    assert isinstance(one, BaseChatStore)
    assert one.class_name() not in (SimpleChatStore.class_name(), BaseChatStore.class_name())
    assert RedisTieredChatStore.model_json_schema()["properties"]["tiers"]["type"] == "string"


def test_the_package_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert llamaindex_redis_tiered.__all__ == sorted(llamaindex_redis_tiered.__all__)
    monkeypatch.setitem(sys.modules, "llama_index", None)
    with pytest.raises(MissingExtra, match=r"redis-tiered\[llamaindex\]"):
        importlib.reload(llamaindex_redis_tiered)


def test_the_other_framework_reads_along(one: RedisTieredChatStore, tiers: Tiers) -> None:
    call = ToolCall("1", "add", {"a": 1})
    tiers.session("k").append(
        [
            Message("human", "add one", format="langchain", native=b"\x01{}"),
            Message("ai", "", tool_calls=(call,), format="langchain"),
            Message("tool", "2", tool_call_id="1", name="add", format="langchain"),
        ]
    )
    one.add_message("k", WORLD)
    assert one.get_messages("k") == [
        ChatMessage(content="add one"),
        ChatMessage(
            role="assistant",
            blocks=[ToolCallBlock(tool_call_id="1", tool_name="add", tool_kwargs={"a": 1})],
        ),
        ChatMessage(
            role="tool", content="2", additional_kwargs={"tool_call_id": "1", "name": "add"}
        ),
        WORLD,
    ]
    stored = [item.message for item in tiers.session("k").window().messages]
    assert [message.role for message in stored] == ["human", "ai", "tool", "ai"]
    assert stored[-1].text == "world"


# Saved and loaded.


@pytest.fixture
def secret_tiers(tmp_path: Any) -> Iterator[Tiers]:
    """Nothing listens there; nothing is asked."""
    with Tiers(f"redis://{SECRET}:{SECRET}@localhost:1/3", f"sqlite:///{tmp_path}/x.db") as tiers:
        yield tiers


def dumps(store: RedisTieredChatStore) -> dict[str, str]:
    buffer = ChatMemoryBuffer.from_defaults(chat_store=store)
    summary = ChatSummaryMemoryBuffer.from_defaults(chat_store=store)
    return {
        "to_dict": json.dumps(store.to_dict()),
        "to_json": store.to_json(),
        "model_dump": json.dumps(store.model_dump()),
        "model_dump_json": store.model_dump_json(),
        "json schema": json.dumps(store.model_json_schema()),
        "repr": repr(store),
        "str": str(store),
        "buffer": buffer.to_string(),
        "buffer dict": json.dumps(buffer.to_dict()),
        "buffer repr": repr(buffer),
        "summary": summary.to_string(),
        "json serializer": JsonSerializer().serialize({"memory": buffer, "store": store}),
        "pickle serializer": PickleSerializer().serialize({"memory": buffer, "store": store}),
    }


def test_no_dump_holds_credentials(secret_tiers: Tiers) -> None:
    store = RedisTieredChatStore(secret_tiers, token_counter="approximate")
    for name, dump in dumps(store).items():
        assert SECRET not in dump, name


@pytest.mark.parametrize("durable", [None, f"postgresql://{SECRET}:{SECRET}@localhost:1/x"])
async def test_no_error_holds_credentials(call: Call, durable: str | None) -> None:
    with Tiers(f"redis://{SECRET}:{SECRET}@localhost:1", durable) as tiers:
        store = RedisTieredChatStore(tiers)
        for name, arguments in (
            ("get_messages", ("k",)),
            ("add_message", ("k", HELLO)),
            ("get_keys", ()),
        ):
            with pytest.raises(TierError) as caught:
                await call(store, name, *arguments)
            assert SECRET not in str(caught.value)


def test_a_dump_is_loaded_on_the_tiers_it_was_made_on(secret_tiers: Tiers) -> None:
    store = RedisTieredChatStore(
        secret_tiers.tenant("t"), ttl=5, window=7, durability="through", token_counter="approximate"
    )
    RedisTieredChatStore(secret_tiers)
    for loaded in (
        RedisTieredChatStore.from_dict(store.to_dict()),
        RedisTieredChatStore.from_json(store.to_json()),
        RedisTieredChatStore.model_validate(store.model_dump()),
        RedisTieredChatStore.model_validate_json(store.model_dump_json()),
        load_chat_store(store.to_dict()),
        ChatMemoryBuffer.from_string(
            ChatMemoryBuffer.from_defaults(chat_store=store).to_string()
        ).chat_store,
        ChatMemoryBuffer.from_dict(
            ChatMemoryBuffer.from_defaults(chat_store=store).to_dict()
        ).chat_store,
        ChatSummaryMemoryBuffer.from_string(
            ChatSummaryMemoryBuffer.from_defaults(chat_store=store).to_string()
        ).chat_store,
        JsonSerializer().deserialize(JsonSerializer().serialize(store)),
        PickleSerializer().deserialize(PickleSerializer().serialize(store)),
    ):
        assert type(loaded) is RedisTieredChatStore
        assert loaded.tiers.keys.tenant == "t"
        assert loaded == store


def test_a_dump_is_not_loaded_elsewhere(
    secret_tiers: Tiers, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_TIERED_REDIS_URL", "redis://localhost:2")
    dump = RedisTieredChatStore(secret_tiers).to_dict()
    for gone in (
        {"tiers": dump["tiers"].replace("localhost", "example.org")},
        {"tiers": dump["tiers"].replace("/3", "/4")},
        {"tiers": dump["tiers"].replace("x.db", "y.db")},
        {"tiers": dump["tiers"].replace("'default'", "'other'")},
        {"tiers": dump["tiers"].replace("'redis-tiered'", "'other'")},
    ):
        with pytest.raises(InvalidInput, match=r"saved on Tiers.*make a store with that Tiers"):
            RedisTieredChatStore.from_dict(dump | gone)
    secret_tiers.close()
    with pytest.raises(InvalidInput, match="tiers must be open in this process"):
        RedisTieredChatStore.from_dict(dump)


def test_a_dump_is_loaded_on_given_tiers(secret_tiers: Tiers, tiers: Tiers) -> None:
    store = RedisTieredChatStore(secret_tiers, ttl=5)
    buffer = ChatMemoryBuffer.from_defaults(chat_store=store).to_dict()
    secret_tiers.close()
    loaded = RedisTieredChatStore.from_dict(store.to_dict(), tiers=tiers)
    assert (loaded.tiers, loaded.ttl) == (tiers, 5)
    buffer["chat_store"]["tiers"] = tiers
    assert ChatMemoryBuffer.from_dict(buffer).chat_store.tiers is tiers


def test_a_dump_is_loaded_on_the_default_tiers_of_the_same_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(Tiers, "_default", None)
    monkeypatch.setenv("REDIS_TIERED_REDIS_URL", f"redis://:{SECRET}@localhost:1")
    dump = RedisTieredChatStore().to_json()
    assert SECRET not in dump
    Tiers.default().close()  # as in another process
    loaded = RedisTieredChatStore.from_json(dump)
    assert loaded.tiers is Tiers.default()
    Tiers.default().close()
    monkeypatch.setenv("REDIS_TIERED_REDIS_URL", "redis://localhost:2")
    with pytest.raises(InvalidInput):
        RedisTieredChatStore.from_json(dump)
    Tiers.default().close()


def test_copies_share_the_tiers(one: RedisTieredChatStore, tiers: Tiers) -> None:
    buffer = ChatMemoryBuffer.from_defaults(chat_store=one, chat_store_key="k")
    for copied in (
        copy.copy(one),
        copy.deepcopy(one),
        one.model_copy(deep=True),
        copy.deepcopy(buffer).chat_store,
    ):
        assert copied is not one
        assert copied.tiers is tiers
    assert one.model_copy(update={"ttl": 5.0}).ttl == 5
    assert one.ttl == 7200


def test_pickles_hold_the_tiers(one: RedisTieredChatStore) -> None:
    one.add_message("k", HELLO)
    buffer = ChatMemoryBuffer.from_defaults(chat_store=one, chat_store_key="k")
    for loaded in (
        pickle.loads(pickle.dumps(one)),
        pickle.loads(pickle.dumps(buffer)).chat_store,
    ):
        with loaded.tiers:
            assert loaded.get_messages("k") == [HELLO]


# `ChatMemoryBuffer`.


def words(text: str) -> list[str]:
    return text.split()


def buffer_of(
    store: RedisTieredChatStore, *history: ChatMessage, limit: int = 1000
) -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(
        chat_history=list(history),
        chat_store=store,
        chat_store_key="k",
        token_limit=limit,
        tokenizer_fn=words,
    )


def turns(n: int) -> list[ChatMessage]:
    return [
        message
        for i in range(n)
        for message in (
            ChatMessage(role="user", content=f"question {i}"),
            ChatMessage(role="assistant", content=f"answer {i}"),
        )
    ]


async def test_a_buffer_puts_and_gets(one: RedisTieredChatStore) -> None:
    buffer = buffer_of(one, HELLO)
    assert buffer.get() == await buffer.aget() == [HELLO]
    buffer.put(WORLD)
    await buffer.aput(AGAIN)
    await buffer.aput_messages([WORLD])
    expected = [HELLO, WORLD, AGAIN, WORLD]
    assert buffer.get_all() == await buffer.aget_all() == expected
    buffer.set([AGAIN])
    assert buffer.get() == [AGAIN]
    await buffer.aset([HELLO, WORLD])
    assert await buffer.aget() == [HELLO, WORLD]
    buffer.reset()
    assert buffer.get() == []
    await buffer.aset([HELLO])
    await buffer.areset()
    assert await buffer.aget_all() == []


@pytest.mark.parametrize(
    ("limit", "initial", "kept"),
    [
        (1000, 5, 4),
        (8, 0, 4),
        (7, 0, 2),  # an answer does not come first
        (5, 1, 2),
        (4, 0, 2),
        (3, 0, 1),  # the newest message, whatever its size
    ],
)
def test_a_buffer_gets_what_fits(
    one: RedisTieredChatStore, limit: int, initial: int, kept: int
) -> None:
    history = turns(2)
    buffer = buffer_of(one, *history, limit=limit)
    assert buffer.get(initial_token_count=initial) == history[-kept:]
    assert buffer.get_all() == history


def test_a_buffer_refuses_too_much_to_begin_with(one: RedisTieredChatStore) -> None:
    with pytest.raises(ValueError, match="Initial token count exceeds token limit"):
        buffer_of(one, limit=5).get(initial_token_count=6)


def test_a_buffer_goes_on_after_it_was_loaded(one: RedisTieredChatStore) -> None:
    buffer = buffer_of(one, HELLO)
    for loaded in (
        ChatMemoryBuffer.from_string(buffer.to_string()),
        ChatMemoryBuffer.from_dict(buffer.to_dict()),
    ):
        assert loaded.get() == [HELLO]
        assert loaded.token_limit == 1000
        loaded.put(WORLD)
        assert buffer.get() == [HELLO, WORLD]
        buffer.set([HELLO])


# `ChatSummaryMemoryBuffer`.


class Summarizer(MockLLM):
    """Answers with the number of its call."""

    _calls: int = PrivateAttr(default=0)

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self._calls += 1
        return ChatResponse(message=ChatMessage(role="assistant", content=f"summary {self._calls}"))


def summary_of(
    store: RedisTieredChatStore, *history: ChatMessage, limit: int, llm: Any = None
) -> ChatSummaryMemoryBuffer:
    return ChatSummaryMemoryBuffer.from_defaults(
        chat_history=list(history),
        chat_store=store,
        chat_store_key="k",
        token_limit=limit,
        tokenizer_fn=words,
        llm=llm,
    )


def test_a_summary_stands_for_what_does_not_fit(one: RedisTieredChatStore) -> None:
    history = turns(3)
    buffer = summary_of(one, *history, limit=5, llm=Summarizer())
    summary = ChatMessage(role="system", content="summary 1")
    assert buffer.get() == [summary, *history[4:]]
    assert buffer.get_all() == [summary, *history[4:]]
    buffer.put(AGAIN)
    buffer.put(WORLD)
    # What is summarized now is the summary and the turn after it.
    assert buffer.get() == [ChatMessage(role="system", content="summary 2"), AGAIN, WORLD]
    assert one.get_messages("k") == buffer.get_all()


def test_a_long_message_is_summarized(one: RedisTieredChatStore) -> None:
    buffer = summary_of(one, ChatMessage(content="word " * 99), limit=2, llm=Summarizer())
    assert buffer.get() == [ChatMessage(role="system", content="summary 1")]


def test_without_a_model_what_does_not_fit_goes(one: RedisTieredChatStore) -> None:
    history = turns(3)
    buffer = summary_of(one, *history, limit=5)
    assert buffer.get() == buffer.get_all() == history[4:]
    buffer.put(AGAIN)
    assert buffer.get()[-1] == AGAIN


async def test_a_summary_buffer_puts_sets_and_resets(one: RedisTieredChatStore) -> None:
    buffer = summary_of(one, HELLO, limit=100)
    await buffer.aput(WORLD)
    assert await buffer.aget() == [HELLO, WORLD]
    await buffer.aset([AGAIN])
    assert buffer.get_all() == [AGAIN]
    loaded = ChatSummaryMemoryBuffer.from_string(buffer.to_string(), llm=Summarizer())
    assert loaded.get() == [AGAIN]
    with pickle.loads(pickle.dumps(one)).tiers:
        assert pickle.loads(pickle.dumps(buffer)).get_all() == [AGAIN]
    await buffer.areset()
    assert await buffer.aget() == []


# Agents.

# Workflows look at every attribute of an agent, which is a pydantic model.
looks_at_fields = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def calling_model(seen: list[list[ChatMessage]]) -> MockFunctionCallingLLM:
    """Calls the tool for a user's message, answers after a tool's."""

    def answer(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        seen.append(list(messages))
        if messages[-1].role is MessageRole.TOOL:
            return ChatMessage(role="assistant", content=f"it is {messages[-1].content}")
        n = len(seen)
        return ChatMessage(
            role="assistant",
            blocks=[
                ToolCallBlock(
                    tool_call_id=f"call-{n}", tool_name="add", tool_kwargs={"a": n, "b": 1}
                )
            ],
        )

    return MockFunctionCallingLLM(response_generator=answer)


def agent_of(seen: list[list[ChatMessage]], *, workflow: bool) -> Any:
    agent = FunctionAgent(
        name="adder", description="adds", tools=[add], llm=calling_model(seen), streaming=False
    )
    return AgentWorkflow(agents=[agent], root_agent="adder") if workflow else agent


@looks_at_fields
@pytest.mark.parametrize("workflow", [False, True], ids=["agent", "workflow"])
async def test_an_agent_remembers_its_tool_calls(one: RedisTieredChatStore, workflow: bool) -> None:
    seen: list[list[ChatMessage]] = []
    for question in ("first", "second"):
        memory = (
            buffer_of(one)
            if question == "never"
            else ChatMemoryBuffer.from_defaults(
                chat_store=one, chat_store_key="k", token_limit=1000
            )
        )
        result = await agent_of(seen, workflow=workflow).run(user_msg=question, memory=memory)
        assert str(result).startswith("it is")
    # The third request to the model is the first of the second run.
    before = [message for message in seen[2] if message.role is not MessageRole.SYSTEM]
    assert [message.role.value for message in before] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    [block] = before[1].blocks
    assert block == ToolCallBlock(
        tool_call_id="call-1", tool_name="add", tool_kwargs={"a": 1, "b": 1}
    )
    assert before[2].additional_kwargs["tool_call_id"] == "call-1"
    assert before[2].content == "2"
    assert len(one.get_messages("k")) == 8


def test_a_message_with_tool_calls_of_openai_goes_through_a_buffer(
    one: RedisTieredChatStore,
) -> None:
    call = ChatCompletionMessageToolCall.model_validate(
        {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    )
    buffer = buffer_of(one)
    buffer.put(ChatMessage(role="assistant", additional_kwargs={"tool_calls": [call]}))
    [message] = buffer.get()
    assert message.additional_kwargs["tool_calls"] == [call.model_dump()]


@looks_at_fields
@pytest.mark.parametrize("serializer", [JsonSerializer(), PickleSerializer()], ids=type)
async def test_a_context_goes_on_after_it_was_loaded(
    one: RedisTieredChatStore, serializer: Any
) -> None:
    seen: list[list[ChatMessage]] = []
    agent = agent_of(seen, workflow=True)
    context = Context(agent)
    memory = ChatMemoryBuffer.from_defaults(chat_store=one, chat_store_key="k", token_limit=1000)
    await agent.run(user_msg="first", ctx=context, memory=memory)
    dump = json.loads(json.dumps(context.to_dict(serializer=serializer)))
    assert "RedisTieredChatStore" in json.dumps(dump)

    agent = agent_of(seen, workflow=True)
    context = Context.from_dict(agent, dump, serializer=serializer)
    await agent.run(user_msg="second", ctx=context)
    before = [message.role.value for message in seen[2] if message.role is not MessageRole.SYSTEM]
    assert before == ["user", "assistant", "tool", "assistant", "user"]
    assert len(one.get_messages("k")) == 8


@looks_at_fields
async def test_a_context_holds_no_credentials(secret_tiers: Tiers) -> None:
    store = RedisTieredChatStore(secret_tiers)
    agent = agent_of([], workflow=True)
    context = Context(agent)
    await context.store.set("memory", ChatMemoryBuffer.from_defaults(chat_store=store))
    for serializer in (JsonSerializer(), PickleSerializer()):
        dump = json.dumps(context.to_dict(serializer=serializer))
        assert "RedisTieredChatStore" in dump
        assert SECRET not in dump
