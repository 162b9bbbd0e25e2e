"""Messages in are messages out, through LangChain's own interfaces and real servers."""

from __future__ import annotations

import functools
import logging
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from langchain_redis_tiered import RedisTieredChatMessageHistory, Tiers
from langchain_redis_tiered import history as history_module
from redis_tiered.errors import ConfigurationError, InvalidInput, TierError
from redis_tiered.sessions.message import Message
from redis_tiered.sessions.session import Session
from redis_tiered.sessions.tokens import TextCounter, callable_name
from tests.langchain.strategies import messages, state
from tests.servers import RedisServer

History = Callable[..., RedisTieredChatMessageHistory]

CONVERSATION: list[BaseMessage] = [
    SystemMessage("Be brief.", id="s"),
    HumanMessage([{"type": "text", "text": "Weather?"}, {"type": "image", "base64": "AA=="}]),
    AIMessage(
        "",
        id="run-1",
        tool_calls=[{"name": "weather", "args": {"city": "Bern"}, "id": "c1"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        response_metadata={"model_name": "m", "finish_reason": "tool_calls"},
    ),
    ToolMessage(
        "sunny", tool_call_id="c1", name="weather", artifact=[Document("x", metadata={1: (2,)})]
    ),
    AIMessage("Sunny.", name="bot", additional_kwargs={"refusal": None}),
    FunctionMessage("1", name="f"),
    ChatMessage("hm", role="critic"),
    AIMessageChunk("chunk", tool_call_chunks=[]),
]


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
def history(tiers: Tiers) -> History:
    return functools.partial(RedisTieredChatMessageHistory, "conversation", tiers)


def test_messages_in_are_messages_out(urls: tuple[str, str | None]) -> None:
    with Tiers(*urls) as tiers:
        history = RedisTieredChatMessageHistory("s", tiers)
        assert history.messages == []
        history.add_messages(CONVERSATION[:3])
        history.add_messages(CONVERSATION[3:])
        assert state(history.messages) == state(CONVERSATION)
        assert state(history.log()) == state(CONVERSATION)
        assert state(history.log(1, 2, order="newest")) == state(CONVERSATION[-2:-4:-1])
        history.clear()
        assert history.messages == history.log() == []


async def test_asyncio(urls: tuple[str, str | None]) -> None:
    async with Tiers(*urls) as tiers:
        history = RedisTieredChatMessageHistory("s", tiers)
        assert await history.aget_messages() == []
        await history.aadd_messages(CONVERSATION)
        assert state(await history.aget_messages()) == state(CONVERSATION)
        assert state(await history.alog()) == state(CONVERSATION)
        assert await history.alog(7, 5) == CONVERSATION[7:]
        await history.aclear()
        assert await history.aget_messages() == await history.alog() == []


async def test_asyncio_runs_in_no_other_thread(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("in an executor")

    monkeypatch.setattr("langchain_core.chat_history.run_in_executor", refuse)
    one = history()
    await one.aadd_messages(CONVERSATION)
    await one.aget_messages()
    await one.aclear()


@given(st.lists(messages, max_size=4))
@settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_messages(history: History, given: list[BaseMessage]) -> None:
    unique = {message.id or id(message): message for message in given}
    one = history(durability="none")
    one.clear()
    one.add_messages(list(unique.values()))
    assert state(one.messages) == state(list(unique.values()))


def test_it_is_one_of_langchains_own(history: History) -> None:
    one = history()
    assert isinstance(one, BaseChatMessageHistory)
    one.add_user_message("hi")
    one.add_ai_message("hello")
    one.add_user_message(HumanMessage("again", id="m"))
    one.add_message(AIMessage("bye"))
    assert one.messages == [
        HumanMessage("hi"),
        AIMessage("hello"),
        HumanMessage("again", id="m"),
        AIMessage("bye"),
    ]
    assert str(one) == "Human: hi\nAI: hello\nHuman: again\nAI: bye"


def test_each_reading_is_of_its_own(history: History) -> None:
    one = history()
    one.add_messages(CONVERSATION)
    for message in one.messages:
        message.content = "changed"
        message.response_metadata["x"] = 1
    assert one.messages == CONVERSATION


def test_an_id_that_is_there_is_not_added_again(history: History) -> None:
    one = history()
    for _ in range(2):
        one.add_messages([HumanMessage("x", id="m"), HumanMessage("y")])
    assert [message.content for message in one.messages] == ["x", "y", "y"]


def test_what_another_framework_wrote(history: History) -> None:
    one = history()
    one.session.append([Message("human", "hi", "m1"), Message("other", "hm", "m2", name="critic")])
    assert one.messages == [
        HumanMessage("hi", id="m1"),
        ChatMessage("hm", role="critic", name="critic", id="m2"),
    ]


def test_what_only_a_newer_version_can_read(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    history_module._warn_once.cache_clear()
    one = history()
    newer = Message("ai", "text", "m1", format="langchain", native=b"\x63[]")
    one.session.append([newer])
    with caplog.at_level(logging.WARNING, "redis_tiered"):
        for _ in range(3):
            assert one.messages == [AIMessage("text", id="m1")]
    assert caplog.text.count("another version (format)") == 1


def test_messages_cannot_be_set(history: History) -> None:
    one = history()
    with pytest.raises(AttributeError, match="add_messages"):
        one.messages = []


# --- what is shown ---------------------------------------------------------------------------


def turns(n: int) -> list[BaseMessage]:
    made: list[BaseMessage] = [SystemMessage("Be brief.")]
    for i in range(n):
        made += [HumanMessage(f"question {i}"), AIMessage(f"answer {i}")]
    return made


@pytest.mark.parametrize(
    ("limits", "first"),
    [({"turns": 2}, 7), ({"max_messages": 5}, 7), ({"max_messages": 6}, 7), ({}, 1)],
)
def test_limits(history: History, limits: dict[str, Any], first: int) -> None:
    one = history(**limits)
    all_of_it = turns(5)
    one.add_messages(all_of_it)
    assert one.messages == [all_of_it[0], *all_of_it[first:]]
    assert one.log() == all_of_it
    without = history(**limits, include_system=False)
    assert without.messages[0] != all_of_it[0]


def count_words(messages: list[BaseMessage]) -> int:
    return sum(len(message.text.split()) for message in messages)


def count_one(message: BaseMessage) -> int:
    return len(message.text.split())


class Counting:
    def __call__(self, messages: Sequence[BaseMessage]) -> int:
        return count_words(list(messages))


@pytest.mark.parametrize(
    "counter",
    [
        count_words,
        count_one,
        Counting(),
        functools.partial(count_words),
        TextCounter("words", lambda text: len(text.split())),
        "approximate",
        count_tokens_approximately,
        len,
        None,
    ],
    ids=lambda counter: type(counter).__name__ + str(getattr(counter, "__name__", counter))[:20],
)
def test_token_counters(history: History, counter: Any) -> None:
    one = history(max_tokens=1000, token_counter=counter)
    one.add_messages(turns(3))
    assert one.messages == turns(3)
    [first, *_] = one.session.log()
    if counter in (count_words, count_one):
        assert (first.tokens, first.counter) == (2, callable_name(counter))
        fits = history(max_tokens=6, token_counter=counter).messages
        assert fits == [turns(3)[0], *turns(3)[-2:]]


def test_a_model_is_no_token_counter(history: History) -> None:
    model = GenericFakeChatModel(messages=iter([]))
    with pytest.raises(InvalidInput, match="got the model GenericFakeChatModel: models may count"):
        history(token_counter=model)
    history(token_counter=model.get_num_tokens_from_messages)


def test_trim_messages(history: History) -> None:
    one = history()
    one.add_messages(turns(5))
    trimmed = trim_messages(
        one.messages, max_tokens=5, token_counter=len, include_system=True, start_on="human"
    )
    assert trimmed == [turns(5)[0], *turns(5)[-4:]]


def test_summaries(history: History) -> None:
    seen: list[tuple[BaseMessage | None, list[BaseMessage]]] = []

    def summarize(previous: BaseMessage | None, overflow: list[BaseMessage]) -> str:
        seen.append((previous, overflow))
        return f"{len(overflow)} more"

    one = history(turns=1, summarize=summarize)
    one.add_messages(turns(3))
    assert one.messages == [turns(3)[0], SystemMessage("4 more"), *turns(3)[-2:]]
    assert seen == [(None, turns(3)[1:5])]
    one.add_messages([HumanMessage("next")])
    assert one.messages == [turns(3)[0], SystemMessage("2 more"), HumanMessage("next")]
    assert seen[1] == (SystemMessage("4 more"), turns(3)[5:])


async def test_coroutine_summaries(history: History) -> None:
    async def summarize(previous: BaseMessage | None, overflow: list[BaseMessage]) -> BaseMessage:
        return HumanMessage("so far", id="summary")

    for function in (summarize, functools.partial(summarize)):
        one = history(turns=1, summarize=function)
        await one.aclear()
        await one.aadd_messages(turns(3))
        expected = [turns(3)[0], HumanMessage("so far", id="summary"), *turns(3)[-2:]]
        assert await one.aget_messages() == expected
        with pytest.raises(InvalidInput, match="coroutine"):
            _ = one.messages


@pytest.mark.parametrize(
    "made", [None, 1, {}, RemoveMessage(id="x")], ids=lambda made: type(made).__name__
)
def test_a_summary_that_cannot_be_used_is_none(history: History, made: Any) -> None:
    one = history(turns=1, summarize=lambda previous, overflow: made)
    one.add_messages(turns(3))
    assert one.messages == [turns(3)[0], *turns(3)[-2:]]


def test_a_lambda_of_a_coroutine(history: History, caplog: pytest.LogCaptureFixture) -> None:
    async def summarize(*_: Any) -> str:
        return "x"

    one = history(turns=1, summarize=lambda *args: summarize(*args))
    one.add_messages(turns(3))
    assert len(one.messages) == 3
    assert "must return a message, a str or None, got coroutine" in caplog.text


# --- in LangChain ----------------------------------------------------------------------------


class Model(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


@tool(response_format="content_and_artifact")
def lookup(city: str) -> tuple[str, list[Document]]:
    """Look a city up."""
    return f"about {city}", [Document(f"{city} text", metadata={"page": 1}, id="d1")]


def test_the_messages_of_an_agent(history: History) -> None:
    call = {"name": "lookup", "args": {"city": "Bern"}, "id": "c1", "type": "tool_call"}
    bad = {"name": "lookup", "args": {"town": "Bern"}, "id": "c2", "type": "tool_call"}
    model = Model(
        messages=iter([AIMessage("", tool_calls=[call, bad]), AIMessage("It is about Bern.")])
    )
    agent = create_agent(model, [lookup])
    found = agent.invoke({"messages": [HumanMessage("Bern?")]})["messages"]
    assert [type(message) for message in found] == [
        HumanMessage,
        AIMessage,
        ToolMessage,
        ToolMessage,
        AIMessage,
    ]
    one = history()
    one.add_messages(found)
    assert state(one.messages) == state(found)
    # And they go on from there.
    again = create_agent(Model(messages=iter([AIMessage("Yes.")])), [lookup])
    result = again.invoke({"messages": [*one.messages, HumanMessage("Sure?")]})["messages"]
    one.add_messages(result)
    assert state(one.messages) == state(result)  # those of before had ids


@pytest.mark.filterwarnings("ignore:.*RunnableWithMessageHistory")
async def test_runnable_with_message_history(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_core.runnables.history import RunnableWithMessageHistory

    def sees(prompt: Any) -> AIMessage:
        return AIMessage(f"saw {len(prompt.to_messages())}")

    prompt = ChatPromptTemplate.from_messages(
        [MessagesPlaceholder("history"), ("human", "{question}")]
    )
    monkeypatch.setattr(Tiers, "default", classmethod(lambda cls: tiers))
    chain = RunnableWithMessageHistory(
        prompt | RunnableLambda(sees),
        RedisTieredChatMessageHistory,
        input_messages_key="question",
        history_messages_key="history",
    )
    config: Any = {"configurable": {"session_id": "user-7"}}
    assert chain.invoke({"question": "a"}, config).content == "saw 1"
    assert (await chain.ainvoke({"question": "b"}, config)).content == "saw 3"
    assert RedisTieredChatMessageHistory("user-7").messages == [
        HumanMessage("a"),
        AIMessage("saw 1"),
        HumanMessage("b"),
        AIMessage("saw 3"),
    ]


def test_nobody_is_warned() -> None:
    code = (
        "from langchain_redis_tiered import RedisTieredChatMessageHistory as History, Tiers\n"
        "class Mine(History): pass\n"
        "for kind in (History, Mine): kind('s', Tiers('redis://localhost:1'))\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_a_newer_base_that_warns_its_subclasses(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warning(self: Any, *args: Any, **kwargs: Any) -> None:
        warnings.warn("deprecated", DeprecationWarning, stacklevel=2)

    monkeypatch.setattr(BaseChatMessageHistory, "__init__", warning)
    RedisTieredChatMessageHistory("s", tiers)


# --- the object ------------------------------------------------------------------------------


def test_pickle(history: History) -> None:
    one = history(turns=1, token_counter=count_words, ttl=60.0, window=10, durability="through")
    one.add_messages(turns(3))
    again = pickle.loads(pickle.dumps(one))
    with again.tiers:
        assert again.messages == one.messages == [turns(3)[0], *turns(3)[-2:]]
    assert repr(again) == repr(one)


def test_subclasses_pickle_as_themselves(history: History) -> None:
    assert type(pickle.loads(pickle.dumps(Mine("s", history().tiers)))) is Mine


class Mine(RedisTieredChatMessageHistory):
    pass


def test_repr_has_no_secrets() -> None:
    one = RedisTieredChatMessageHistory("s", Tiers("redis://user:secret@localhost:1"))
    assert repr(one).startswith("RedisTieredChatMessageHistory('s', ")
    assert "secret" not in repr(one)


def test_the_default_tiers(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiers, "default", classmethod(lambda cls: tiers))
    one = RedisTieredChatMessageHistory("s")
    assert one.tiers is tiers
    assert isinstance(one.session, Session)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"session_id": 1}, "session"),
        ({"session_id": ""}, "session"),
        ({"tiers": "redis://localhost"}, "tiers must be a Tiers or None, got str"),
        ({"max_messages": 0}, "max_messages"),
        ({"max_tokens": "1"}, "max_tokens"),
        ({"turns": 1.5}, "turns"),
        ({"include_system": 1}, "include_system must be a bool, got int"),
        ({"token_counter": "exact"}, "token_counter"),
        ({"token_counter": 1}, "token_counter"),
        ({"token_counter": dict}, "token_counter"),
        ({"summarize": "yes"}, "summarize"),
        ({"ttl": 0}, "ttl"),
        ({"window": 0}, "window"),
        ({"durability": "maybe"}, "durability"),
    ],
    ids=repr,
)
def test_bad_arguments(tiers: Tiers, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        RedisTieredChatMessageHistory(**{"session_id": "s", "tiers": tiers} | arguments)


async def acount(messages: list[BaseMessage]) -> int:
    return 1


def test_a_counter_that_cannot_count(history: History) -> None:
    with pytest.raises(InvalidInput, match="coroutine function"):
        history(token_counter=acount)
    with pytest.raises(InvalidInput, match="return an int"):
        history(token_counter=lambda messages: "3").add_messages([HumanMessage("x")])
    assert history().messages == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "messages must be a list of BaseMessage, got str"),
        (None, "messages must be a list of BaseMessage, got NoneType"),
        (HumanMessage("x"), "messages must be a list of BaseMessage, got HumanMessage"),
        (["text"], r"messages\[0\] must be one of LangChain's own .* got str"),
        ([HumanMessage("x"), {"role": "user", "content": "x"}], r"messages\[1\] .* got dict"),
        ([HumanMessage("x"), ("human", "x")], r"messages\[1\] .* got tuple"),
        ([RemoveMessage(id="x")], r"messages\[0\] .* got RemoveMessage"),
        (
            [HumanMessage("x"), ToolMessage("x", tool_call_id="c", artifact=object())],
            r"messages\[1\].artifact must be made of None, bool, .* got object",
        ),
        ([HumanMessage("\ud800")], r"messages\[0\].*surrogate"),
        ([HumanMessage("x", id="i" * 257)], r"messages\[0\].id must have .*256"),
    ],
    ids=lambda given: type(given).__name__,
)
async def test_bad_messages(history: History, given: Any, message: str) -> None:
    one = history()
    with pytest.raises(InvalidInput, match=message):
        one.add_messages(given)
    with pytest.raises(InvalidInput, match=message):
        await one.aadd_messages(given)
    assert one.messages == []


def test_add_message_refuses_text(history: History) -> None:
    with pytest.raises(InvalidInput, match="got str"):
        history().add_message("text")  # type: ignore[arg-type]


def test_no_tier_is_a_clear_error() -> None:
    one = RedisTieredChatMessageHistory("s", Tiers("redis://localhost:1"))
    with one.tiers, pytest.raises(TierError):
        one.add_messages([HumanMessage("x")])


def test_durability_needs_its_tier() -> None:
    with pytest.raises((InvalidInput, ConfigurationError), match="durable"):
        RedisTieredChatMessageHistory("s", Tiers("redis://localhost:1"), durability="through")


def test_without_redis_nothing_is_lost(valkey: RedisServer, tiers: Tiers) -> None:
    one = RedisTieredChatMessageHistory("s", tiers)
    one.add_messages(CONVERSATION[:3])
    valkey.kill()
    one.add_messages(CONVERSATION[3:])
    assert state(one.messages) == state(CONVERSATION)
    valkey.start()
    assert state(one.messages) == state(CONVERSATION)
