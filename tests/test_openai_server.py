"""The OpenAI-compatible server of tests and demo, asked by the real clients."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from itertools import pairwise
from typing import Any, Literal, cast

import httpx
import numpy as np
import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field, SecretStr

from demo.openai_server import OpenAIServer, embed, example
from tests.waiting import wait_until

MODEL = "gpt-5-mini"
NO_KEY = SecretStr("none")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def client(server: OpenAIServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def chat(server: OpenAIServer) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=server.base_url, api_key=NO_KEY, max_retries=0)


def ask(client: openai.OpenAI, text: str = "hello", **options: Any) -> Any:
    messages = options.pop("messages", [{"role": "user", "content": text}])
    return client.chat.completions.create(model=MODEL, messages=messages, **options)


def content(response: Any) -> str:
    text: str = response.choices[0].message.content
    return text


# --- chat, with the openai client ----------------------------------------------------------------


def test_the_answer_depends_on_the_visible_request_only(client: openai.OpenAI) -> None:
    plain = ask(client)
    assert content(plain).endswith("] hello")
    assert content(ask(client)) == content(plain)
    assert content(ask(client, user="u-1", n=2)) == content(plain)
    others = [
        ask(client, "hello!"),
        ask(client, temperature=0),
        ask(client, messages=[{"role": "system", "content": "x"}, plain_turn("hello")]),
    ]
    assert len({content(response) for response in (plain, *others)}) == 4


def plain_turn(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_ids_and_creation_differ_per_call(client: openai.OpenAI) -> None:
    responses = [ask(client) for _ in range(3)]
    assert len({response.id for response in responses}) == 3
    assert len({response.created for response in responses}) == 3


def test_usage_grows_with_the_texts(client: openai.OpenAI) -> None:
    short, long = ask(client, "a").usage, ask(client, "many words " * 50).usage
    assert short.total_tokens == short.prompt_tokens + short.completion_tokens
    assert long.prompt_tokens > short.prompt_tokens > 0
    assert long.completion_tokens > short.completion_tokens > 0


def test_several_choices_and_content_in_parts(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "in"}, {"type": "text", "text": "parts"}]
    response = ask(client, messages=[{"role": "user", "content": parts}], n=2)
    assert [choice.index for choice in response.choices] == [0, 1]
    assert content(response).endswith("] in parts")


def test_max_tokens_cuts_short(client: openai.OpenAI) -> None:
    whole, cut = ask(client), ask(client, max_tokens=2)
    assert cut.choices[0].finish_reason == "length"
    assert len(content(cut)) < len(content(whole))
    assert cut.usage.completion_tokens < whole.usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    *head, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in head) == content(ask(client))
    assert head[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert last.choices == []
    assert last.usage == ask(client).usage
    assert all(chunk.usage is None for chunk in ask(client, stream=True))


def test_a_stream_can_be_cut(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.cut_next_stream(after=2)
    seen = []
    # openai 2 lets httpx's own error pass, 3 does not.
    with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):  # noqa: PT012
        for chunk in ask(client, stream=True):
            seen.append(chunk)
    assert len(seen) == 2
    assert len(list(ask(client, stream=True))) > 2


def test_a_client_may_leave_a_stream(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.token_latency = 0.001
    stream = ask(client, "word " * 1000, stream=True)
    next(stream)
    stream.close()
    assert content(ask(client)).endswith("hello")


def test_answers_can_be_given(client: openai.OpenAI, server: OpenAIServer) -> None:
    server.answer = str.upper
    assert content(ask(client)) == "HELLO"


def test_json_object(client: openai.OpenAI) -> None:
    answer = json.loads(content(ask(client, response_format={"type": "json_object"})))
    assert answer["answer"].endswith("hello")


# --- tools, with the openai client ---------------------------------------------------------------

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "current_time", "parameters": {"type": "object"}}}


def test_a_tool_is_called_and_its_result_repeated(client: openai.OpenAI) -> None:
    question = plain_turn("How is the weather in Paris?")
    first, second = (ask(client, messages=[question], tools=[TIME, WEATHER]) for _ in range(2))
    assert first.choices[0].finish_reason == "tool_calls"
    [call], [other] = (each.choices[0].message.tool_calls for each in (first, second))
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] == "Paris"
    assert json.loads(call.function.arguments)["days"] >= 1
    assert call.function == other.function
    assert call.id != other.id

    answers = set()
    for made in (call, other):
        result = {"role": "tool", "tool_call_id": made.id, "content": "rainy"}
        called = {"role": "assistant", "tool_calls": [made.model_dump()]}
        answer = ask(client, messages=[question, called, result], tools=[TIME, WEATHER])
        answers.add(content(answer))
    assert len(answers) == 1, "the random ids do not change the answer"
    assert answers.pop().endswith("weather in Paris? - rainy")


def test_tool_choice(client: openai.OpenAI) -> None:
    tools = [WEATHER, TIME]

    def called(text: str, **options: Any) -> list[str]:
        calls = ask(client, text, tools=tools, **options).choices[0].message.tool_calls
        return [call.function.name for call in calls or []]

    forced = {"type": "function", "function": {"name": "current_time"}}
    assert called("hello") == []
    assert called("hello", tool_choice="required") == ["get_weather"]
    assert called("hello", tool_choice=forced) == ["current_time"]
    assert called("the weather?", tool_choice="none") == []
    assert called("weather and time?") == ["get_weather", "current_time"]
    assert called("weather and time?", parallel_tool_calls=False) == ["get_weather"]


# --- failures, load ------------------------------------------------------------------------------


def test_injected_failures(server: OpenAIServer, client: openai.OpenAI) -> None:
    server.fail_next(429, times=2)
    server.fail_next(500)
    for kind in (openai.RateLimitError, openai.RateLimitError, openai.InternalServerError):
        with pytest.raises(kind):
            ask(client)
    server.finish_next("content_filter")
    assert ask(client).choices[0].finish_reason == "content_filter"
    assert ask(client).choices[0].finish_reason == "stop"
    assert server.calls == 5
    server.fail_next(503)
    server.reset()
    assert server.calls == 0
    assert server.requests == []
    assert content(ask(client))
    server.fail_next(429)
    assert content(ask(client.with_options(max_retries=1)))
    assert server.calls == 3


def test_bad_requests_are_told(client: openai.OpenAI, server: OpenAIServer) -> None:
    with pytest.raises(openai.BadRequestError):
        client.post("/chat/completions", body={"model": MODEL}, cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.post("/nothing", body={}, cast_to=object)


def test_requests_are_recorded(server: OpenAIServer, client: openai.OpenAI) -> None:
    ask(client, "recorded", temperature=0.5)
    client.embeddings.create(model="text-embedding-3-small", input="x")
    chat, embedding = server.requests
    assert chat["messages"] == [plain_turn("recorded")]
    assert chat["temperature"] == 0.5
    assert embedding["input"] == "x"
    assert server.calls_to("chat/completions") == server.calls_to("embeddings") == 1


def test_latency_and_parallel_calls(server: OpenAIServer, client: openai.OpenAI) -> None:
    ask(client)
    server.latency = 0.2
    started = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: ask(client, f"{i}"), range(16)))
    assert 0.2 <= time.perf_counter() - started < 2
    assert server.calls == 17


def test_stop_closes_connections_and_start_brings_it_back(
    server: OpenAIServer, client: openai.OpenAI
) -> None:
    ask(client)
    server.stop()
    with pytest.raises(openai.APIConnectionError):
        ask(client)
    server.start()
    assert content(ask(client))


# --- completions and embeddings ------------------------------------------------------------------


def test_completions(client: openai.OpenAI) -> None:
    def complete(prompt: Any, **options: Any) -> Any:
        return client.completions.create(model="gpt-3.5-turbo-instruct", prompt=prompt, **options)

    whole = complete("once")
    assert whole.choices[0].text.endswith("] once")
    assert whole.choices[0].finish_reason == "stop"
    both = complete(["once", "twice"])
    once, twice = (choice.text for choice in both.choices)
    assert once == whole.choices[0].text
    assert twice.endswith("] twice")
    streamed = complete("once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text


def test_embeddings_are_unit_vectors_that_know_shared_words(client: openai.OpenAI) -> None:
    def vectors(texts: list[str], **options: Any) -> np.ndarray[Any, Any]:
        made = client.embeddings.create(model="text-embedding-3-small", input=texts, **options)
        return np.array([each.embedding for each in made.data])

    texts = ["capital of France", "the capital of France", "bake a cake"]
    made = vectors(texts)
    assert made.shape == (3, 1536)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)
    assert made[0] @ made[1] > 0.7 > 0.2 > made[0] @ made[2]
    np.testing.assert_array_equal(made, vectors(texts))
    np.testing.assert_array_equal(made, vectors(texts, encoding_format="float"))
    small = vectors(texts, dimensions=64)
    assert small.shape == (3, 64)
    head = made[:, :64] / np.linalg.norm(made[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(small, head, atol=1e-6)


def test_embed_tells_models_apart() -> None:
    assert embed("x", "text-embedding-3-large").shape == (3072,)
    assert not np.allclose(embed("x", "model-a", 8), embed("x", "model-b", 8))
    assert np.isfinite(embed("", "m", 8)).all()


# --- with LangChain ------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    name: str = Field(min_length=3, max_length=8)
    weight: float = Field(gt=0, le=2.5)
    children: list[Part] = []


class Order(BaseModel):
    """An order."""

    id: int = Field(ge=10, le=12)
    note: str | None
    colour: Colour
    kind: Literal["order"]
    urgent: bool
    parts: list[Part] = Field(min_length=2)
    shipping: dict[str, str] = {}


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def test_langchain_invoke_and_stream(chat: ChatOpenAI) -> None:
    whole = chat.invoke("hello")
    assert isinstance(whole.content, str)
    assert whole.content.endswith("] hello")
    assert whole.usage_metadata
    assert whole.usage_metadata["total_tokens"] > 0
    chunks = list(chat.stream("hello"))
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content


@pytest.mark.asyncio
async def test_langchain_async(chat: ChatOpenAI) -> None:
    whole = await chat.ainvoke("hello")
    chunks = [chunk async for chunk in chat.astream("hello")]
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content


def test_langchain_tools(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([get_weather])
    question = HumanMessage("How is the weather in Oslo?")
    made = bound.invoke([question])
    assert isinstance(made, AIMessage)
    [call] = made.tool_calls
    assert call["name"] == "get_weather"
    assert call["args"] == {"city": "Oslo"}
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    answer = bound.invoke([question, made, result])
    assert "rain in Oslo" in str(answer.content)

    streamed = add_ai_message_chunks(*cast(Iterator[AIMessageChunk], bound.stream([question])))
    [again] = streamed.tool_calls
    assert (again["name"], again["args"]) == (call["name"], call["args"])


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(
    chat: ChatOpenAI, method: Literal["json_schema", "function_calling"]
) -> None:
    structured = chat.with_structured_output(Order, method=method, strict=None)
    order = structured.invoke("An order for Ada")
    assert isinstance(order, Order)
    assert order == structured.invoke("An order for Ada")
    assert order.note == "Ada"
    assert order.parts[0].name == "Ada"


def test_langchain_embeddings(server: OpenAIServer) -> None:
    embeddings = OpenAIEmbeddings(
        model="text-embedding-3-small",
        dimensions=32,
        base_url=server.base_url,
        api_key=NO_KEY,
        check_embedding_ctx_length=False,  # would fetch a tokenizer from the internet
    )
    [first, second] = embeddings.embed_documents(["one", "two"])
    assert len(first) == len(second) == 32
    assert embeddings.embed_query("one") == first


@pytest.mark.parametrize("text", ["An order for Ada", "x", ""])
def test_examples_fit_their_schema(text: str) -> None:
    made = example(Order.model_json_schema(), text)
    assert Order.model_validate(made)
    assert made == example(Order.model_json_schema(), text)


def test_jitter_stays_within_its_bounds() -> None:
    with OpenAIServer(jitter=0.05) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="none")
        with client:
            wait_until(lambda: content(ask(client)))
            times = [time.perf_counter()]
            for _ in range(5):
                ask(client)
                times.append(time.perf_counter())
    assert all(0 < later - earlier < 0.5 for earlier, later in pairwise(times))
