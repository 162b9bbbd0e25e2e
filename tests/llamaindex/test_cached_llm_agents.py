"""`cached(llm)` in agents, query engines, programs and workflows, over HTTP."""

from __future__ import annotations

import pickle
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.agent.workflow import (
    AgentOutput,
    AgentStream,
    AgentWorkflow,
    CodeActAgent,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import MessageRole, ToolCallBlock
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI
from pydantic import BaseModel
from workflows.context.serializers import JsonSerializer, PickleSerializer

from demo.openai_server import OpenAIServer
from llamaindex_redis_tiered import CachedLLM, Tiers, cache_of, cached
from tests.llamaindex.scripted import user
from tests.servers import RedisServer

# LlamaIndex's agents and structured models use what pydantic calls deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_calls_yet(provider: OpenAIServer) -> None:
    provider.reset()
    provider.answer = None


@pytest.fixture
async def tiers(valkey: RedisServer, sqlite_url: str) -> AsyncIterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers
        await tiers.aclose()


@pytest.fixture
async def llm(provider: OpenAIServer) -> AsyncIterator[OpenAI]:
    async with httpx.AsyncClient() as http:
        yield OpenAI(
            "gpt-4o-mini", api_base=provider.base_url, api_key="none", async_http_client=http
        )


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def population(city: str) -> str:
    """Tell how many people live in a city."""
    return f"{len(city)} million in {city}"


class Review(BaseModel):
    """Whether a review is good."""

    good: bool
    why: str


async def events_of(agent: Any, question: str) -> tuple[str, list[str], str]:
    """What it says; the answers and tools in its events; and all deltas.

    Tools run at the same time, so the order of their events differs from run to run.
    """
    handler = agent.run(user_msg=question)
    seen: list[str] = []
    said = ""
    async for event in handler.stream_events():
        if isinstance(event, AgentStream):
            said += event.delta
        elif isinstance(event, AgentOutput):
            shown = str(event.model_dump(exclude={"raw"}))
            # `ReActAgent` makes up an id for each call.
            seen.append(re.sub(r"'tool_id': '[0-9a-f-]{36}'", "", shown))
        elif isinstance(event, ToolCallResult):
            seen.append(f"{event.tool_name} {event.tool_kwargs} {event.tool_output}")
    seen.sort()
    return str(await handler), seen, said


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["subclass", "wrapper"])
async def test_req_02_a_function_agent_costs_nothing_the_second_time(
    provider: OpenAIServer, tiers: Tiers, llm: OpenAI, streaming: bool, wrapped: bool
) -> None:
    fast = CachedLLM.of(llm, tiers) if wrapped else cached(llm, tiers)

    def agent() -> FunctionAgent:
        return FunctionAgent(tools=[weather, population], llm=fast, streaming=streaming)

    question = "Tell the weather and the population of Rome"
    first = await events_of(agent(), question)
    calls = provider.calls
    assert calls == 2
    assert "sunny in" in first[0]
    assert "million in" in first[0]  # two tools were called at once
    for _ in range(2):
        assert await events_of(agent(), question) == first
    assert provider.calls == calls
    assert sum(cache_of(fast).stats().hits.values()) == 4


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
async def test_req_02_the_mock_of_llamaindex(tiers: Tiers, streaming: bool) -> None:
    fast = cached(MockFunctionCallingLLM(), tiers)
    first, again = [
        await events_of(FunctionAgent(tools=[weather], llm=fast, streaming=streaming), "hello")
        for _ in range(2)
    ]
    assert again[0] == first[0]
    stats = cache_of(fast).stats()
    assert stats.misses == sum(stats.hits.values()) > 0


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
async def test_req_02_a_react_agent_costs_nothing_the_second_time(
    provider: OpenAIServer, tiers: Tiers, llm: OpenAI, streaming: bool
) -> None:
    def answer(prompt: str) -> str:
        if prompt.startswith("Observation:"):
            return f"Thought: I can answer now.\nAnswer: It is {prompt[13:]}"
        return 'Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Rome"}'

    provider.answer = answer
    fast = cached(llm, tiers)

    def agent() -> ReActAgent:
        return ReActAgent(tools=[weather], llm=fast, streaming=streaming)

    first = await events_of(agent(), "How is the weather?")
    assert first[0] == "It is sunny in Rome"
    assert provider.calls == 2
    assert await events_of(agent(), "How is the weather?") == first
    assert provider.calls == 2


async def test_another_process_gets_the_agent_s_answers(
    provider: OpenAIServer, tiers: Tiers, llm: OpenAI, valkey: RedisServer, sqlite_url: str
) -> None:
    question = "Tell the weather of Rome"
    first = await events_of(FunctionAgent(tools=[weather], llm=cached(llm, tiers)), question)
    with Tiers(valkey.url, sqlite_url) as others:
        again = cached(llm, others)
        assert await events_of(FunctionAgent(tools=[weather], llm=again), question) == first
        await others.aclose()
    assert provider.calls == 2


async def test_a_workflow_of_agents(provider: OpenAIServer, tiers: Tiers, llm: OpenAI) -> None:
    fast = cached(llm, tiers)

    def flow() -> AgentWorkflow:
        first = FunctionAgent(
            name="first", description="Asks.", tools=[weather], llm=fast, can_handoff_to=["second"]
        )
        second = FunctionAgent(name="second", description="Answers.", tools=[population], llm=fast)
        return AgentWorkflow(agents=[first, second], root_agent="first")

    question = "Tell the weather of Rome"
    first = await events_of(flow(), question)
    calls = provider.calls
    assert calls >= 2
    assert await events_of(flow(), question) == first
    assert provider.calls == calls


def test_a_workflow_s_serializers(provider: OpenAIServer, tiers: Tiers, llm: OpenAI) -> None:
    """As JSON it is the model of the class that its name tells; a pickle has the cache as well."""
    fast = cached(llm, tiers)
    fast.chat([user("hello")])
    text = JsonSerializer().serialize(fast)
    assert "redis://" not in text
    assert type(JsonSerializer().deserialize(text)) is OpenAI
    again = pickle.loads(pickle.dumps({"llm": fast}))["llm"]
    again.chat([user("hello")])
    assert provider.calls == 1
    assert PickleSerializer().deserialize(PickleSerializer().serialize(fast)).model == fast.model


def test_a_code_agent_takes_it(tiers: Tiers, llm: OpenAI) -> None:
    CodeActAgent(tools=[weather], llm=cached(llm, tiers), code_execute_fn=lambda code: code)


def test_a_query_engine(provider: OpenAIServer, tiers: Tiers, llm: OpenAI) -> None:
    index = VectorStoreIndex.from_documents(
        [Document(text="Parcels arrive in two days."), Document(text="Returns are free.")],
        embed_model=MockEmbedding(embed_dim=8),
    )
    for mode in ("compact", "refine", "tree_summarize", "simple_summarize", "accumulate"):
        for streaming in (False, True) if mode != "accumulate" else (False,):
            provider.reset()
            engine = index.as_query_engine(
                llm=cached(llm, tiers, name=f"{mode}-{streaming}"),
                response_mode=mode,
                streaming=streaming,
            )
            first = str(engine.query("When do parcels arrive?"))
            calls = provider.calls
            assert calls > 0
            assert str(engine.query("When do parcels arrive?")) == first
            assert provider.calls == calls


async def test_a_query_engine_async(provider: OpenAIServer, tiers: Tiers, llm: OpenAI) -> None:
    index = VectorStoreIndex.from_documents(
        [Document(text="Parcels arrive in two days.")], embed_model=MockEmbedding(embed_dim=8)
    )
    engine = index.as_query_engine(llm=cached(llm, tiers))
    first = str(await engine.aquery("When do parcels arrive?"))
    assert str(await engine.aquery("When do parcels arrive?")) == first
    assert provider.calls == 1


def test_a_blocking_method_that_runs_a_loop(
    provider: OpenAIServer, valkey: RedisServer, sqlite_url: str
) -> None:
    """`use_async` asks from loops of one call each (`asyncio_run`), which end with no more ado."""
    texts = [f"Part {i % 2} of a long text. " * 100 for i in range(4)]
    with Tiers(valkey.url, sqlite_url) as tiers:
        index = VectorStoreIndex.from_documents(
            [Document(text=text) for text in texts], embed_model=MockEmbedding(embed_dim=8)
        )
        for _ in range(2):
            model = OpenAI("gpt-4o-mini", api_base=provider.base_url, api_key="none")
            engine = index.as_query_engine(
                llm=cached(model, tiers),
                response_mode="tree_summarize",
                use_async=True,
                similarity_top_k=4,
            )
            answer = str(engine.query("What is it about?"))
        assert answer
        calls = provider.calls
        engine.query("What is it about?")
        assert provider.calls == calls


async def test_a_chat_engine_streams(provider: OpenAIServer, tiers: Tiers, llm: OpenAI) -> None:
    index = VectorStoreIndex.from_documents(
        [Document(text="Parcels arrive in two days.")], embed_model=MockEmbedding(embed_dim=8)
    )
    fast = cached(llm, tiers)
    said = []
    for _ in range(2):
        memory = ChatMemoryBuffer.from_defaults()  # the default one leaves connections open
        engine = index.as_chat_engine(chat_mode="context", llm=fast, memory=memory)
        response = await engine.astream_chat("When do parcels arrive?")
        said.append("".join([token async for token in response.async_response_gen()]))
        response = engine.stream_chat("And returns?")
        said.append("".join(response.response_gen))
    assert said[:2] == said[2:]
    assert provider.calls == 2


# --- structured output and tools -------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4"], ids=["schema", "tools"])
async def test_req_01_structured_output(provider: OpenAIServer, tiers: Tiers, model: str) -> None:
    async with httpx.AsyncClient() as http:
        plain = OpenAI(model, api_base=provider.base_url, api_key="none", async_http_client=http)
        fast = cached(plain, tiers)
        prompt = PromptTemplate("Is this review good? {review}")
        sllm = fast.as_structured_llm(Review)

        async def all_ways() -> list[Any]:
            given = {"prompt": prompt, "review": "I love it"}
            astream = await fast.astream_structured_predict(Review, **given)
            return [
                fast.structured_predict(Review, **given),
                await fast.astructured_predict(Review, **given),
                list(fast.stream_structured_predict(Review, **given))[-1],
                [each async for each in astream][-1],
                sllm.complete("Is it good?").raw,
                sllm.chat([user("Is it good, my friend?")]).raw,
                (await sllm.achat([user("Is it good, my friend?")])).raw,
                list(sllm.stream_chat([user("Is it really good?")]))[-1].raw,
                [each async for each in await sllm.astream_chat([user("Is it?")])][-1].raw,
            ]

        first = await all_ways()
        calls = provider.calls
        assert calls <= 7
        assert all(isinstance(each, BaseModel) for each in first)
        again = await all_ways()
        # Partial objects are of classes that are made anew each time.
        assert [each.model_dump() for each in again] == [each.model_dump() for each in first]
        assert provider.calls == calls


async def test_req_01_tools(provider: OpenAIServer, tiers: Tiers, llm: OpenAI) -> None:
    fast = cached(llm, tiers)
    tools = [FunctionTool.from_defaults(weather), FunctionTool.from_defaults(population)]
    assert isinstance(fast, FunctionCallingLLM)

    async def all_ways() -> list[Any]:
        question = "Tell the weather and the population of Rome"
        whole = fast.chat_with_tools(tools, question, allow_parallel_tool_calls=True)
        single = await fast.achat_with_tools(tools, question)
        chunks = list(fast.stream_chat_with_tools(tools, question, tool_required=True))
        astream = await fast.astream_chat_with_tools(tools, question, [user("Hello")])
        last = [chunk async for chunk in astream][-1]
        answers = [whole, single, chunks[-1], last]
        calls = [fast.get_tool_calls_from_response(answer) for answer in answers]
        assert [len(each) for each in calls] == [2, 1, 1, 1]
        called = fast.predict_and_call(tools, question)
        acalled = await fast.apredict_and_call(tools, "Tell the weather of Oslo")
        return [[each.message for each in answers], calls, str(called), str(acalled)]

    first = await all_ways()
    calls = provider.calls
    assert calls == 5
    for _ in range(2):
        assert await all_ways() == first
    assert provider.calls == calls


def test_req_07_tool_calls_come_back_as_they_were(
    provider: OpenAIServer, tiers: Tiers, llm: OpenAI
) -> None:
    """OpenAI's own objects stand in `additional_kwargs`; what reads them asks for attributes."""
    fast = cached(llm, tiers)
    tools = [FunctionTool.from_defaults(weather)]
    first = list(fast.stream_chat_with_tools(tools, "Tell the weather of Rome"))[-1]
    again = list(fast.stream_chat_with_tools(tools, "Tell the weather of Rome"))[-1]
    assert again.message == first.message
    [call] = again.message.additional_kwargs["tool_calls"]
    [was] = first.message.additional_kwargs["tool_calls"]
    assert (type(call), call.type, call.function) == (type(was), was.type, was.function)
    assert type(call.function) is type(was.function)
    again.message.blocks = [
        block for block in again.message.blocks if not isinstance(block, ToolCallBlock)
    ]
    assert fast.get_tool_calls_from_response(again)[0].tool_name == "weather"


def test_req_08_ids_of_tool_calls_do_not_matter(
    provider: OpenAIServer, tiers: Tiers, llm: OpenAI
) -> None:
    """Without the cache each run has ids of its own; the second then is the first."""
    fast = cached(llm, tiers)
    tools = [FunctionTool.from_defaults(weather)]
    for _ in range(2):
        called = llm.chat_with_tools(tools, "Tell the weather of Rome")
        [selection] = llm.get_tool_calls_from_response(called)
        result = user("sunny").model_copy(
            update={
                "role": MessageRole.TOOL,
                "additional_kwargs": {"tool_call_id": selection.tool_id},
            }
        )
        history = [user("Tell the weather of Rome"), called.message, result]
        fast.chat_with_tools(tools, chat_history=history)
    assert provider.calls == 3


def test_the_same_again_by_another_spelling(
    provider: OpenAIServer, tiers: Tiers, llm: OpenAI
) -> None:
    for model in (
        cached(llm, tiers),
        cached(OpenAI("gpt-4o-mini", api_base=f"{provider.base_url}/", api_key="other"), tiers),
        cached(
            OpenAI(
                "gpt-4o-mini", api_base=provider.base_url, api_key="x", timeout=3, max_retries=1
            ),
            tiers,
        ),
        CachedLLM.of(llm, tiers),
    ):
        model.chat([user("Hello?")])
    assert provider.calls == 1
