"""Streams of `cached(llm)` that end badly, and many callers at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from llama_index.core.async_utils import asyncio_run
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.llms.openai import OpenAI

from demo.openai_server import OpenAIServer
from llamaindex_redis_tiered import Tiers, cache_control, cache_of, cached
from tests.llamaindex.scripted import Asked, Completing, Scripted, ask, echo, texts, user
from tests.servers import RedisServer

QUESTION = [user("one two three four five")]


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
async def tiers(valkey: RedisServer, sqlite_url: str) -> AsyncIterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers
        await tiers.aclose()


class BrokenOffError(Exception):
    """What a provider's client may raise."""


class Breaks:
    """Breaks a stream off at a piece, the first time only."""

    def __init__(self, at: int = 2) -> None:
        self.at: int | None = at

    def __call__(self, i: int) -> None:
        if self.at is not None and i >= self.at:
            self.at = None
            raise BrokenOffError

    def __deepcopy__(self, memo: Any) -> Breaks:
        return self


class Gate:
    """Holds a stream before its third piece until it is opened; tells when one waits there."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def __call__(self, i: int) -> None:
        if i == 2:
            self.reached.set()
            assert self.open.wait(10)


class AsyncGate:
    """As `Gate`, for tasks of one loop."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, i: int) -> None:
        if i in (0, 2):
            self.reached.set()
            await asyncio.wait_for(self.open.wait(), 10)


def skipped(llm: Any) -> dict[str, int]:
    return cache_of(llm).stats().skipped


# --- not stored ------------------------------------------------------------------------------


def test_req_02_a_stream_that_breaks_off_is_not_stored(tiers: Tiers) -> None:
    llm = Scripted(pause=Breaks())
    fast = cached(llm, tiers)
    seen = []
    with pytest.raises(BrokenOffError):
        seen.extend(fast.stream_chat(QUESTION))
    assert len(seen) == 2
    assert skipped(fast) == {"failed": 1}
    for _ in range(2):
        assert texts(list(fast.stream_chat(QUESTION))) == "You said: one two three four five"
    assert llm.asked.times == 2


async def test_req_02_the_same_with_asyncio(tiers: Tiers) -> None:
    breaks = Breaks()

    async def pause(i: int) -> None:
        breaks(i)

    llm = Scripted(pause=pause)
    fast = cached(llm, tiers)
    with pytest.raises(BrokenOffError):
        await ask(fast, "astream_chat", "one two three")
    assert skipped(fast) == {"failed": 1}
    for _ in range(2):
        assert texts(await ask(fast, "astream_chat", "one two three")) == "You said: one two three"
    assert llm.asked.times == 2


@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat", "complete"])
async def test_req_09_errors_are_not_stored(tiers: Tiers, how: str) -> None:
    failing = [True]

    def say(messages: Any) -> ChatResponse:
        if failing.pop() if failing else False:
            raise BrokenOffError
        return echo(messages)

    llm = Scripted(say)
    fast = cached(llm, tiers)
    with pytest.raises(BrokenOffError):
        await ask(fast, how, "hello")
    for _ in range(2):
        assert texts(await ask(fast, how, "hello")) == "You said: hello"
    assert llm.asked.times == 2
    assert skipped(fast) == {"failed": 1}


def test_req_02_a_stream_that_is_closed_is_not_stored(tiers: Tiers) -> None:
    closed = []

    class Closing(Scripted):
        def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
            def chunks() -> Iterator[Any]:
                try:
                    yield from super(Closing, self).stream_chat(messages, **kwargs)
                finally:
                    closed.append(True)

            return chunks()

    llm = Closing()
    fast = cached(llm, tiers)
    stream = fast.stream_chat(QUESTION)
    next(stream)
    stream.close()
    assert closed == [True]
    for _ in fast.stream_chat(QUESTION):
        break
    assert skipped(fast) == {"unfinished": 2}
    assert len(list(fast.stream_chat(QUESTION))) == 7
    list(fast.stream_chat(QUESTION))
    assert llm.asked.times == 3


async def test_req_02_the_same_with_aclose(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    stream = await fast.astream_chat(QUESTION)
    await anext(stream)
    await stream.aclose()
    async with contextlib.aclosing(await fast.astream_chat(QUESTION)) as stream:
        async for _ in stream:
            break
    assert skipped(fast) == {"unfinished": 2}
    await ask(fast, "astream_chat", "one two three four five")
    await ask(fast, "astream_chat", "one two three four five")
    assert llm.asked.times == 3


def test_an_error_that_is_thrown_into_a_stream(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    stream: Any = fast.stream_chat(QUESTION)
    next(stream)
    with pytest.raises(BrokenOffError):
        stream.throw(BrokenOffError())
    assert skipped(fast) == {"failed": 1}


def test_a_stream_that_nobody_reads(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    stream = fast.stream_chat(QUESTION)
    del stream
    assert texts(fast.chat(QUESTION)) == "You said: one two three four five"
    stream = fast.stream_chat([user("another")])  # kept, but never read
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fast.stream_chat, [user("another")])
        del stream
        assert len(list(waiting.result(5))) == 3


@pytest.mark.parametrize("begun", [False, True], ids=["unread", "half-read"])
def test_who_waits_for_a_stream_that_is_dropped_goes_on(tiers: Tiers, begun: bool) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    stream = fast.stream_chat(QUESTION)
    if begun:
        next(stream)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fast.chat, QUESTION)
        while not waiting.running():
            pass
        # In a cycle, so that nothing but the collector ends it.
        cycle: list[Any] = [stream]
        cycle.append(cycle)
        del cycle, stream
        gc.collect()
        assert texts(waiting.result(5)) == "You said: one two three four five"
    assert llm.asked.times == 2


async def test_who_waits_for_a_cancelled_stream_goes_on(tiers: Tiers) -> None:
    gate = AsyncGate()
    llm = Scripted(pause=gate)
    fast = cached(llm, tiers)
    reading = asyncio.create_task(ask(fast, "astream_chat", "one two three"))
    await asyncio.wait_for(gate.reached.wait(), 10)
    waiting = asyncio.create_task(ask(fast, "astream_chat", "one two three"))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    gate.open.set()
    assert texts(await asyncio.wait_for(waiting, 5)) == "You said: one two three"
    assert llm.asked.times == 2
    assert skipped(fast) == {"failed": 1}


async def test_who_waits_for_a_cancelled_call_goes_on(tiers: Tiers) -> None:
    """Even where the task that was cancelled lives on, as one that has set itself a time limit."""
    gate = AsyncGate()
    llm = Scripted(pause=gate)
    fast = cached(llm, tiers)
    lives = asyncio.Event()

    async def impatient() -> None:
        with pytest.raises(asyncio.CancelledError):
            await fast.achat(QUESTION)
        lives.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(impatient())
    await asyncio.wait_for(gate.reached.wait(), 10)
    waiting = asyncio.create_task(fast.achat(QUESTION))
    first.cancel()
    await asyncio.wait_for(lives.wait(), 10)
    gate.open.set()
    assert texts(await asyncio.wait_for(waiting, 10)) == "You said: one two three four five"
    assert llm.asked.times == 2
    first.cancel()


def test_a_cut_connection(tiers: Tiers, provider: OpenAIServer) -> None:
    provider.reset()
    llm = OpenAI(
        "gpt-4o-mini", api_base=provider.base_url, api_key="none", max_retries=0, reuse_client=False
    )
    fast = cached(llm, tiers)
    provider.cut_next_stream(after=3)
    with pytest.raises(httpx.RemoteProtocolError):
        list(fast.stream_chat([user("Tell me a long story about a river")]))
    assert skipped(fast) == {"failed": 1}
    first = list(fast.stream_chat([user("Tell me a long story about a river")]))
    assert texts(first).endswith("about a river")
    assert texts(list(fast.stream_chat([user("Tell me a long story about a river")]))) == texts(
        first
    )
    assert provider.calls == 2


def test_a_stream_of_nothing(tiers: Tiers) -> None:
    class Silent(Scripted):
        def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
            self.asked.note("stream_chat")
            return iter(())

    llm = Silent()
    fast = cached(llm, tiers)
    for _ in range(2):
        assert list(fast.stream_chat(QUESTION)) == []
    assert llm.asked.times == 2
    assert skipped(fast) == {"empty": 2}


@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_an_answer_of_no_known_kind_is_given_as_it_is(tiers: Tiers, how: str) -> None:
    class Odd(Scripted):
        def chat(self, messages: Any, **kwargs: Any) -> Any:
            return {"text": "hi"}

        async def achat(self, messages: Any, **kwargs: Any) -> Any:
            return {"text": "hi"}

        def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
            return ["hi", "there"]

        async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:  # not a coroutine of one
            for word in ("hi", "there"):
                yield word

    fast = cached(Odd(), tiers)
    for _ in range(2):
        answer = await ask(fast, how, QUESTION)
        assert answer == (["hi", "there"] if "stream" in how else {"text": "hi"})
    assert skipped(fast) == {"unserializable_answer": 2}


@pytest.mark.parametrize("how", ["stream_chat", "astream_chat"])
async def test_a_stream_that_is_none(tiers: Tiers, how: str) -> None:
    class Broken(Scripted):
        def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
            return None

        async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
            return None

    fast = cached(Broken(), tiers)
    with pytest.raises(TypeError):
        await ask(fast, how, QUESTION)
    assert skipped(fast) == {"failed": 1}


# --- elsewhere than it began -----------------------------------------------------------------


def test_a_stream_is_read_in_another_thread(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(fast.stream_chat, QUESTION).result()
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(list, stream).result()
    assert len(list(fast.stream_chat(QUESTION))) > 1
    assert llm.asked.times == 1


async def test_a_stream_is_read_in_another_task(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    stream = await asyncio.create_task(fast.astream_chat(QUESTION))
    waiting = asyncio.create_task(fast.astream_chat(QUESTION))
    for _ in range(7):  # each piece in a task of its own
        await asyncio.create_task(anext(stream))
    with pytest.raises(StopAsyncIteration):
        await asyncio.create_task(anext(stream))
    assert len([chunk async for chunk in await waiting]) > 1
    assert llm.asked.times == 1


def test_a_refusal_frees_who_waits_from_another_thread(tiers: Tiers) -> None:
    gate = Gate()

    def say(messages: Any) -> ChatResponse:
        message = ChatMessage(role="assistant", content="I will not do that")
        return ChatResponse(message=message, raw={"stop_reason": "refusal"})

    llm = Scripted(say, pause=gate)
    fast = cached(llm, tiers)
    stream = fast.stream_chat(QUESTION)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(list, stream)
        assert gate.reached.wait(5)
        waiting = pool.submit(fast.stream_chat, QUESTION)
        gate.open.set()
        reading.result(5)
        assert texts(list(waiting.result(5))) == "I will not do that"
    assert llm.asked.times == 2
    assert skipped(fast) == {"refused": 2}


# --- many at once ----------------------------------------------------------------------------


def test_req_11_ten_threads_ask_once(tiers: Tiers) -> None:
    gate = Gate()
    llm = Scripted(pause=gate)
    fast = cached(llm, tiers)
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(ask_in_thread, fast, "stream_chat")
        assert gate.reached.wait(5)
        others = [pool.submit(ask_in_thread, fast, "stream_chat") for _ in range(9)]
        gate.open.set()
        answers = {texts(each.result(10)) for each in [first, *others]}
    assert answers == {"You said: one two three four five"}
    assert llm.asked.times == 1
    assert (
        cache_of(fast).stats().hits.get("flight", 0)
        + cache_of(fast).stats().hits.get("redis", 0)
        + cache_of(fast).stats().hits.get("memory", 0)
        == 9
    )


def ask_in_thread(llm: Any, how: str) -> Any:
    return asyncio.run(ask(llm, how, QUESTION))


@pytest.mark.parametrize("how", ["achat", "astream_chat"])
async def test_req_11_ten_tasks_ask_once(tiers: Tiers, how: str) -> None:
    gate = AsyncGate()
    llm = Scripted(pause=gate)
    fast = cached(llm, tiers)
    asking = [asyncio.create_task(ask(fast, how, QUESTION)) for _ in range(10)]
    await asyncio.wait_for(gate.reached.wait(), 10)
    gate.open.set()
    answers = await asyncio.gather(*asking)
    assert {texts(each) for each in answers} == {"You said: one two three four five"}
    assert llm.asked.times == 1


def test_req_11_a_loop_of_one_call_asks_once(tiers: Tiers) -> None:
    """`asyncio_run` stands behind `use_async`; more tasks than threads wait for one answer."""
    llm = Scripted()

    async def pause(i: int) -> None:
        await asyncio.sleep(0.05)

    llm._pause = pause
    fast = cached(llm, tiers)

    async def together() -> list[Any]:
        return await asyncio.gather(
            *(fast.achat(QUESTION) for _ in range(40)),
            *(fast.achat([user(f"question {i}")]) for i in range(3)),
        )

    began = time.monotonic()
    answers = asyncio_run(together())
    assert {texts(each) for each in answers[:40]} == {"You said: one two three four five"}
    assert llm.asked.times == 4
    assert time.monotonic() - began < 10


async def test_req_04_a_nested_call_in_another_thread(tiers: Tiers) -> None:
    """`run_in_executor` takes no context along: the nested call must not wait for the outer one."""

    class InThread(Completing):
        async def achat(self, messages: Any, **kwargs: Any) -> Any:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, lambda: self.chat(messages, **kwargs))

        async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
            loop = asyncio.get_running_loop()

            async def chunks() -> AsyncIterator[Any]:
                for chunk in await loop.run_in_executor(
                    None, lambda: list(self.stream_chat(messages))
                ):
                    yield chunk

            return chunks()

    for how in ("achat", "astream_chat"):
        llm = InThread()
        fast = cached(llm, tiers, name=how)
        began = time.monotonic()
        for _ in range(2):
            assert texts(await ask(fast, how, QUESTION)).startswith("after user: one")
        assert time.monotonic() - began < 5
        assert llm.asked.times == 1


async def test_req_11_another_process_waits_for_a_stream(
    valkey: RedisServer, sqlite_url: str, tiers: Tiers
) -> None:
    """Two `Tiers` know of each other by their servers only."""
    gate = AsyncGate()
    asked = Asked()
    with Tiers(valkey.url, sqlite_url) as others:
        models = [Scripted(pause=gate) for _ in range(2)]
        for model in models:
            model._asked = asked
        here, there = cached(models[0], tiers), cached(models[1], others)
        reading = asyncio.create_task(ask(here, "astream_chat", QUESTION))
        await asyncio.wait_for(gate.reached.wait(), 10)
        waiting = asyncio.create_task(ask(there, "astream_chat", QUESTION))
        gate.open.set()
        assert texts(await reading) == texts(await waiting)
        await others.aclose()
    assert asked.times == 1


def test_the_same_stream_twice_in_one_thread(tiers: Tiers) -> None:
    """The second cannot wait for the first: nobody would read that."""
    llm = Scripted()
    fast = cached(llm, tiers)
    pairs = list(zip(fast.stream_chat(QUESTION), fast.stream_chat(QUESTION), strict=True))
    assert len(pairs) == 7
    assert llm.asked.times == 2


async def test_the_same_stream_twice_in_one_task(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    async for _ in await fast.astream_chat(QUESTION):
        async for _ in await fast.astream_chat(QUESTION):
            break
        break
    assert llm.asked.times == 2


def test_without_single_flight_nobody_waits(tiers: Tiers) -> None:
    fast = cached(Scripted(), tiers, single_flight=0)
    stream = fast.stream_chat(QUESTION)
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(lambda: list(fast.stream_chat(QUESTION))).result(5)) == 7
    assert len(list(stream)) == 7


# --- tiers that fail -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["chat", "achat", "stream_chat", "astream_chat"])
async def test_a_killed_redis_fails_no_call(tiers: Tiers, valkey: RedisServer, how: str) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    await ask(fast, how, "before")
    valkey.kill()
    try:
        assert (
            texts(await ask(fast, how, "before")) == "You said: before"
        )  # the durable tier has it
        assert texts(await ask(fast, how, "after")) == "You said: after"
        assert texts(await ask(fast, how, "after")) == "You said: after"
    finally:
        valkey.start()
    assert llm.asked.times == 2


def test_redis_is_killed_in_the_middle_of_a_stream(tiers: Tiers, valkey: RedisServer) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    stream = fast.stream_chat(QUESTION)
    next(stream)
    valkey.kill()
    try:
        assert texts(list(stream)) == "You said: one two three four five"
        assert len(list(fast.stream_chat(QUESTION))) > 1
        half = fast.stream_chat([user("another long question")])
        next(half)
        half.close()
    finally:
        valkey.start()
    assert llm.asked.times == 2


async def test_tiers_that_are_closed_in_the_middle_of_a_stream(
    valkey: RedisServer, sqlite_url: str
) -> None:
    llm = Scripted()
    with Tiers(valkey.url, sqlite_url) as tiers:
        fast = cached(llm, tiers)
        streams = [fast.stream_chat(QUESTION), fast.stream_chat([user("another")])]
        astream = await fast.astream_chat([user("a third one")])
        for stream in streams:
            next(stream)
        await tiers.aclose()
    assert texts(list(streams[0])) == "You said: one two three four five"
    streams[1].close()
    assert [chunk async for chunk in astream]
    assert texts(fast.chat(QUESTION)) == "You said: one two three four five"
    assert llm.asked.times == 4


def test_control_is_not_left_behind_by_a_stream(tiers: Tiers) -> None:
    llm = Scripted()
    fast = cached(llm, tiers)
    with cache_control(write=False):
        stream = fast.stream_chat(QUESTION)
    next(stream)
    fast.chat([user("another")])
    list(stream)
    fast.chat([user("another")])
    assert llm.asked.times == 2
