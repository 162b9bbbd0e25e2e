"""Requests a provider would answer alike share one fingerprint; others never do."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import json
import random
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.language_models.llms import LLM
from langchain_core.load import dumpd, dumps
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict, Field, SecretStr, create_model

from langchain_redis_tiered import _parameters, _request
from langchain_redis_tiered._memo import Memo
from langchain_redis_tiered._request import request_from
from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import Request, fingerprint


@cache
def _model(parameters: str) -> ChatOpenAI:
    return ChatOpenAI(api_key="sk-test", **json.loads(parameters))


def model(**parameters: Any) -> ChatOpenAI:
    return _model(json.dumps({"model": "gpt-4o", **parameters}))


def llm_string(llm: BaseChatModel, stop: list[str] | None = None, **arguments: Any) -> str:
    return llm._get_llm_string(stop=stop, **arguments)


def prompt_of(messages: list[BaseMessage]) -> str:
    """As `BaseChatModel._generate_with_cache` writes it."""
    return dumps([message.model_copy(update={"id": None}) for message in messages])


def digest(messages: list[BaseMessage] | str, parameters: str) -> str:
    prompt = messages if isinstance(messages, str) else prompt_of(messages)
    return fingerprint(request_from(prompt, parameters)).digest


def bound(runnable: Any) -> dict[str, Any]:
    """The arguments that a runnable made by `bind_tools` or `with_structured_output` passes on."""
    while not hasattr(runnable, "kwargs"):
        runnable = runnable.first
    # `generate` takes this one out before the cache sees the arguments.
    return {k: v for k, v in runnable.kwargs.items() if k != "ls_structured_output_format"}


BASE = llm_string(model())


# --- random conversations --------------------------------------------------------------------

texts = st.sampled_from(["", "a", "b", "ab", "é\u2028", "no \x00", "12", "[{", '{"lc": 1}'])
words = st.text(max_size=12)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
arguments = st.dictionaries(words, anything, max_size=2)


def new_id(draw: Callable[..., Any]) -> str:
    return f"call_{draw(st.uuids()).hex}"


@st.composite
def blocks(draw: Callable[..., Any]) -> list[Any]:
    block = st.one_of(
        st.builds(lambda t: {"type": "text", "text": t}, texts),
        st.builds(
            lambda t: {"type": "image_url", "image_url": {"url": "data:image/png;base64," + t}},
            st.sampled_from(["AAAA", "BBBB"]),
        ),
        st.builds(lambda t: {"type": "text", "text": t, "cache_control": {"type": "x"}}, texts),
        texts,
    )
    return draw(st.lists(block, max_size=3))


@st.composite
def conversations(draw: Callable[..., Any]) -> list[BaseMessage]:
    """Messages of every class, with tool calls and some of their results."""
    messages: list[BaseMessage] = []
    open_calls: list[str] = []
    content = texts | blocks()
    names = st.none() | st.sampled_from(["ann", "bob"])
    for _ in range(draw(st.integers(1, 4))):
        match draw(st.sampled_from(["human", "human", "ai", "ai", "system", "tool", "function"])):
            case "human":
                messages.append(HumanMessage(draw(content), name=draw(names)))
            case "system":
                messages.append(SystemMessage(draw(content)))
            case "function":
                messages.append(FunctionMessage(content=draw(texts), name="f"))
            case "tool" if open_calls:
                id_ = draw(st.sampled_from(open_calls))
                status = draw(st.sampled_from(["success", "error"]))
                messages.append(ToolMessage(draw(content), tool_call_id=id_, status=status))
            case _:
                calls = [
                    {
                        "name": draw(st.sampled_from(["f", "g"])),
                        "args": draw(arguments),
                        "id": new_id(draw),
                    }
                    for _ in range(draw(st.integers(0, 2)))
                ]
                open_calls += [call["id"] for call in calls]
                messages.append(
                    AIMessage(
                        draw(content),
                        tool_calls=calls,
                        usage_metadata=draw(st.none() | st.builds(usage, st.integers(0, 9))),
                        response_metadata={"id": draw(words), "model_provider": "openai"},
                        additional_kwargs=draw(st.sampled_from([{}, {"refusal": None}])),
                    )
                )
    return messages


def usage(tokens: int) -> Any:
    return {"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1}


# --- (1) what no provider sees ---------------------------------------------------------------


def renamed(messages: list[BaseMessage]) -> list[BaseMessage]:
    """The same conversation as if it had been held once more."""
    text, names = prompt_of(messages), {}
    for message in messages:
        for call in getattr(message, "tool_calls", []):
            names[call["id"]] = f"toolu_{uuid.uuid4().hex}"
    for old, new in names.items():
        text = text.replace(old, new)
    again = []
    for node in json.loads(text):
        fields = node["kwargs"]
        fields.pop("usage_metadata", None)
        if node["id"][-1] == "AIMessage":
            fields["usage_metadata"] = usage(77) | {"total_cost": 0}
            fields["response_metadata"] = {
                "model_provider": "openai",
                "model_name": "gpt-4o-2024-08-06",
                "finish_reason": "stop",
                "system_fingerprint": uuid.uuid4().hex,
            }
            fields.setdefault("additional_kwargs", {})["parsed"] = {"client": "side"}
        if node["id"][-1] == "ToolMessage":
            fields["artifact"] = {"rows": [1, 2]}
        again.append(node)
    return again


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(item, rng) for item in value]
    if isinstance(value, dict):
        items = [(key, shuffled(item, rng)) for key, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    return value


@given(conversations(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_same_conversation_held_again_is_the_same(
    messages: list[BaseMessage], rng: random.Random
) -> None:
    again = json.dumps(shuffled(renamed(messages), rng))
    assert digest(messages, BASE) == digest(again, BASE)


def test_message_ids_and_chunks_do_not_matter() -> None:
    call = {"name": "f", "args": {"a": 1}, "id": "call_1a"}
    whole = [
        HumanMessage("q", id="1"),
        AIMessage("", tool_calls=[call], id="run-1"),
        ToolMessage("r", tool_call_id="call_1a"),
    ]
    chunks = [
        HumanMessageChunk(content="q"),
        AIMessageChunk(content="", tool_calls=[call | {"id": "call_2b"}], chunk_position="last"),
        ToolMessage("r", tool_call_id="call_2b", artifact=object()),
    ]
    assert digest(whole, BASE) == digest(chunks, BASE)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 3},
        {"max_retries": 7},
        {"streaming": True},
        {"stream_usage": True},
        {"api_key": "sk-another"},
        {"http_client": httpx.Client()},
        {"http_async_client": httpx.AsyncClient()},
        {"tags": ["a"], "metadata": {"b": 1}, "verbose": True, "cache": False},
        {"name": "trace label"},
    ],
    ids=" ".join,
)
def test_client_options_do_not_matter(options: dict[str, Any]) -> None:
    options = {"model": "gpt-4o", "api_key": "sk-test", **options}
    assert digest("p", llm_string(ChatOpenAI(**options))) == digest("p", BASE)


def test_call_timeouts_do_not_matter() -> None:
    timeout = httpx.Timeout(3)
    assert digest("p", llm_string(model(), timeout=timeout)) == digest("p", BASE)
    assert digest("p", llm_string(model(), timeout=object())) == digest("p", BASE)


# --- (2) what a provider sees ----------------------------------------------------------------


def change_texts(messages: list[BaseMessage], rng: random.Random) -> bool:
    messages[rng.randrange(len(messages))].content = uuid.uuid4().hex
    return True


def change_one_character(messages: list[BaseMessage], rng: random.Random) -> bool:
    for message in messages:
        if isinstance(message.content, str) and message.content:
            message.content = message.content[:-1] + chr(ord(message.content[-1]) + 1)
            return True
    return False


def change_role(messages: list[BaseMessage], rng: random.Random) -> bool:
    at = rng.randrange(len(messages))
    kind = SystemMessage if isinstance(messages[at], HumanMessage) else HumanMessage
    messages[at] = kind(messages[at].content)
    return True


def change_name(messages: list[BaseMessage], rng: random.Random) -> bool:
    messages[rng.randrange(len(messages))].name = "someone else"
    return True


def wrap_in_a_block(messages: list[BaseMessage], rng: random.Random) -> bool:
    last = messages[-1]
    if isinstance(last.content, str):
        last.content = [{"type": "text", "text": last.content}]
        return True
    return False


def drop(messages: list[BaseMessage], rng: random.Random) -> bool:
    if len(messages) > 1:
        del messages[rng.randrange(len(messages))]
        return True
    return False


def swap(messages: list[BaseMessage], rng: random.Random) -> bool:
    if len(messages) > 1 and type(messages[0]) is not type(messages[-1]):
        messages[0], messages[-1] = messages[-1], messages[0]
        return True
    return False


def move_text(messages: list[BaseMessage], rng: random.Random) -> bool:
    for first, second in itertools.pairwise(messages):
        if isinstance(first.content, str) and first.content and isinstance(second.content, str):
            first.content, second.content = (
                first.content[:-1],
                first.content[-1] + second.content,
            )
            return True
    return False


def asking_and_answering(messages: list[BaseMessage], rng: random.Random) -> None:
    """Add a turn with two calls and one result."""
    calls = [{"name": "f", "args": {}, "id": f"call_{rng.getrandbits(64):x}"} for _ in range(2)]
    messages += [AIMessage("", tool_calls=calls), ToolMessage("r", tool_call_id=calls[0]["id"])]


def with_calls(messages: list[BaseMessage]) -> list[AIMessage]:
    return [m for m in messages if isinstance(m, AIMessage) and m.tool_calls]


def change_tool_arguments(messages: list[BaseMessage], rng: random.Random) -> bool:
    for message in with_calls(messages):
        message.tool_calls[0]["args"]["another"] = 1
        return True
    return False


def change_tool_name(messages: list[BaseMessage], rng: random.Random) -> bool:
    for message in with_calls(messages):
        message.tool_calls[0]["name"] += "x"
        return True
    return False


def change_type_of_a_value(messages: list[BaseMessage], rng: random.Random) -> bool:
    for message in with_calls(messages):
        for key, value in message.tool_calls[0]["args"].items():
            message.tool_calls[0]["args"][key] = [value]
            return True
    return False


def answer_another_call(messages: list[BaseMessage], rng: random.Random) -> bool:
    ids = [call["id"] for message in with_calls(messages) for call in message.tool_calls]
    for message in messages:
        if isinstance(message, ToolMessage) and len(ids) > 1:
            other = [id_ for id_ in ids if id_ != message.tool_call_id]
            message.tool_call_id = other[0] if other else "call_nobody"
            return True
    return False


def change_status(messages: list[BaseMessage], rng: random.Random) -> bool:
    for message in messages:
        if isinstance(message, ToolMessage):
            message.status = "error" if message.status == "success" else "success"
            return True
    return False


def add_field(messages: list[BaseMessage], rng: random.Random) -> bool:
    messages[0].additional_kwargs["audio"] = {"id": "x"}
    return True


@pytest.mark.parametrize(
    "mutate",
    [
        change_texts,
        change_one_character,
        change_role,
        change_name,
        wrap_in_a_block,
        drop,
        swap,
        move_text,
        change_tool_arguments,
        change_tool_name,
        change_type_of_a_value,
        answer_another_call,
        change_status,
        add_field,
    ],
)
@given(messages=conversations(), rng=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_any_change_a_provider_sees_is_another_request(
    mutate: Callable[[list[BaseMessage], random.Random], bool],
    messages: list[BaseMessage],
    rng: random.Random,
) -> None:
    asking_and_answering(messages, rng)
    if rng.random() < 0.5:
        messages.append(HumanMessage("thanks"))
    changed = copy.deepcopy(messages)
    assume(mutate(changed, rng))
    assert digest(messages, BASE) != digest(changed, BASE)


TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        },
    },
}


def tool(**changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(TOOL)
    changed["function"] |= changes
    return changed


DISTINCT = [
    (model(), {}),
    (model(model="gpt-4o-mini"), {}),
    (model(temperature=0), {}),
    (model(temperature=1), {}),
    (model(temperature=0.5), {}),
    (model(max_tokens=1), {}),
    (model(seed=1), {}),
    (model(stop=["x"]), {}),
    (model(base_url="http://other"), {}),
    (model(organization="o"), {}),
    (model(default_headers={"a": "b"}), {}),
    (model(model_kwargs={"a": 1}), {}),
    (model(model_kwargs={"a": "1"}), {}),
    (model(model_kwargs={"a": True}), {}),
    (model(model_kwargs={"a": 1.0}), {}),
    (model(model_kwargs={"a": None}), {}),
    (model(extra_body={"timeout": 3}), {}),
    (model(extra_body={"timeout": 4}), {}),
    (model(), {"stop": ["x"]}),
    (model(), {"stop": ["x", "y"]}),
    (model(), {"stop": ["y", "x"]}),
    (model(), {"stop": ["xy"]}),
    (model(), {"temperature": None}),
    (model(), {"eos_token": "a"}),
    (model(), {"eos_token": "b"}),
    (model(), {"user": "1"}),
    (model(), {"user": 1}),
    (model(), {"logit_bias": {50256: -100}}),
    (model(), {"logit_bias": {"50256": -100}}),
    (model(), {"a": b"x"}),
    (model(), {"a": "x"}),
    (model(), {"a": "<class 'app.Answer'>"}),
    (model(), {"a": "SecretStr('**********')"}),
    (model(), {"a": {1, 2}}),
    (model(), {"a": [1, 2]}),
    (model(), {"a": 2**64}),
    (model(), {"a": 2**64 + 1}),
    (model(), {"a": -1.5}),
    (model(), {"text": "--- [('stop', None)]"}),
    (model(), {"tools": [TOOL]}),
    (model(), {"tools": [TOOL], "tool_choice": "required"}),
    (model(), {"tools": [tool(name="g")]}),
    (model(), {"tools": [tool(description="e")]}),
    (model(), {"tools": [tool(parameters={"type": "object", "properties": {}})]}),
    # The order of properties is the order in which a provider writes an answer's fields.
    (
        model(),
        {
            "tools": [
                tool(
                    parameters={
                        "type": "object",
                        "properties": {"b": {"type": "string"}, "a": {"type": "integer"}},
                    }
                )
            ]
        },
    ),
]


def test_parameters_a_provider_sees_are_told_apart() -> None:
    strings = [llm_string(llm, **arguments) for llm, arguments in DISTINCT]
    assert len({digest("p", text) for text in strings}) == len(DISTINCT)


def test_order_of_keys_in_parameters_does_not_matter() -> None:
    one = llm_string(model(), extra={"a": 1, "b": {"c": 2, "d": 3}}, logit_bias={1: 2, 3: 4})
    two = llm_string(model(), logit_bias={3: 4, 1: 2}, extra={"b": {"d": 3, "c": 2}, "a": 1})
    assert one != two
    assert digest("p", one) == digest("p", two)


# --- (3) an oracle ---------------------------------------------------------------------------


def payload(llm: ChatOpenAI, messages: list[BaseMessage], arguments: dict[str, Any]) -> bytes:
    """What langchain-openai would send, tool-call ids numbered."""
    sent = llm._get_request_payload(messages, **arguments)
    ids: dict[str, str] = {}
    for message in sent["messages"]:
        for call in message.get("tool_calls") or []:
            call["id"] = ids.setdefault(call["id"], f"#{len(ids)}")
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    for message in sent["messages"]:
        if message.get("tool_call_id") in ids:
            message["tool_call_id"] = ids[message["tool_call_id"]]
    return json.dumps(sent, sort_keys=True).encode()


requests = st.tuples(
    st.sampled_from([model(), model(temperature=0), model(stop=["a"])]),
    conversations(),
    st.sampled_from([{}, {"stop": ["a"]}, {"tools": [TOOL]}, {"n": 1}, {"n": None}]),
)


@given(requests, requests, st.booleans())
@settings(deadline=None, max_examples=200)
def test_equal_fingerprints_mean_equal_payloads(one: Any, two: Any, same_messages: bool) -> None:
    if same_messages:
        two = (two[0], one[1], two[2])
    digests, payloads = [], []
    for llm, messages, arguments in (one, two):
        digests.append(digest(messages, llm_string(llm, **arguments)))
        payloads.append(payload(llm, messages, arguments))
    if digests[0] == digests[1]:
        assert payloads[0] == payloads[1]


# --- the split -------------------------------------------------------------------------------


def test_the_last_text_of_a_human_is_the_prompt() -> None:
    system = SystemMessage("s")
    one = request_from(prompt_of([system, HumanMessage("one")]), BASE)
    two = request_from(prompt_of([system, HumanMessage("two")]), BASE)
    named = request_from(prompt_of([system, HumanMessage("one", name="n")]), BASE)
    block = request_from(prompt_of([system, HumanMessage([{"type": "text", "text": "one"}])]), BASE)
    assert one.prompt == block.prompt == named.prompt == "one"
    assert two.prompt == "two"
    assert fingerprint(one).scope == fingerprint(two).scope
    assert len({fingerprint(r).scope for r in (one, named, block)}) == 3


@pytest.mark.parametrize(
    "last",
    [
        AIMessage("x"),
        SystemMessage("x"),
        ChatMessage("x", role="user"),
        HumanMessage(["x"]),
        HumanMessage([{"type": "text", "text": "x", "cache_control": {}}]),
        HumanMessage([{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]),
        HumanMessage([]),
    ],
    ids=repr,
)
def test_any_other_last_message_stays_in_the_context(last: BaseMessage) -> None:
    assert request_from(prompt_of([HumanMessage("q"), last]), BASE).prompt is None


def test_a_text_prompt_is_the_prompt() -> None:
    request = request_from("Hello", BASE)
    assert (request.context, request.prompt) == (b"", "Hello")


def test_text_and_conversation_do_not_meet() -> None:
    conversation = prompt_of([HumanMessage("hi")])
    texts = ["hi", conversation + " ", conversation[:-1] + ", 1]", "[]", json.dumps([conversation])]
    assert len({digest(text, BASE) for text in [conversation, *texts]}) == 6


# --- tool-call ids ---------------------------------------------------------------------------


def agent_turn(one: str, two: str, question: str = "and?") -> list[BaseMessage]:
    calls = [{"name": "f", "args": {"n": 1}, "id": one}, {"name": "f", "args": {"n": 2}, "id": two}]
    return [
        HumanMessage("q"),
        AIMessage(
            [
                {"type": "tool_use", "id": one, "name": "f", "input": {"n": 1}},
                {"type": "tool_use", "id": two, "name": "f", "input": {"n": 2}},
            ],
            tool_calls=calls,
            additional_kwargs={"tool_calls": [{"id": one}, {"id": two}]},
        ),
        HumanMessage([{"type": "tool_result", "tool_use_id": two, "content": "2"}]),
        ToolMessage("1", tool_call_id=one),
        HumanMessage(question),
    ]


def test_ids_are_renumbered_wherever_they_are() -> None:
    assert digest(agent_turn("call_aa", "call_bb"), BASE) == digest(
        agent_turn("call_bb", "call_aa"), BASE
    )
    assert digest(agent_turn("call_aa", "call_aa"), BASE) != digest(
        agent_turn("call_aa", "call_bb"), BASE
    )


def test_ids_a_text_speaks_of_are_kept() -> None:
    question = "What did call_aa return?"
    assert digest(agent_turn("call_aa", "call_bb", question), BASE) != digest(
        agent_turn("call_bb", "call_aa", question), BASE
    )


def test_ids_nobody_declared_are_kept() -> None:
    one, two = ToolMessage("r", tool_call_id="x"), ToolMessage("r", tool_call_id="y")
    assert digest([one], BASE) != digest([two], BASE)
    results = [
        HumanMessage([{"type": "tool_use", "id": id_, "name": "f", "input": {}}]) for id_ in "xy"
    ]
    assert digest([results[0]], BASE) != digest([results[1]], BASE)


def test_a_number_in_place_of_an_id_is_not_a_renumbered_one() -> None:
    def turn(id_: Any) -> str:
        nodes = json.loads(
            prompt_of([AIMessage([{"type": "tool_use", "id": "call_aa", "name": "f"}])])
        )
        nodes[0]["kwargs"]["content"][0]["id"] = id_
        return json.dumps(nodes)

    assert len({digest(turn(id_), BASE) for id_ in ("call_bb", 0, None, [0], {"id": 0})}) == 5


def test_openai_item_ids_are_renumbered_and_stored_items_are_not() -> None:
    def turn(item: str, call: str, image: str) -> list[BaseMessage]:
        return [
            AIMessage(
                [
                    {
                        "type": "function_call",
                        "id": item,
                        "call_id": call,
                        "name": "f",
                        "arguments": "{}",
                    },
                    {"type": "image_generation_call", "id": image},
                ],
                tool_calls=[{"name": "f", "args": {}, "id": call}],
                additional_kwargs={"__openai_function_call_ids__": {call: item}},
            ),
            ToolMessage("r", tool_call_id=call),
        ]

    first = digest(turn("fc_1x", "call_1x", "ig_1"), BASE)
    assert first == digest(turn("fc_2x", "call_2x", "ig_1"), BASE)
    assert first != digest(turn("fc_1x", "call_1x", "ig_2"), BASE)


# --- response metadata that is read back ------------------------------------------------------


def test_metadata_that_changes_what_is_sent_is_kept() -> None:
    def answer(**metadata: Any) -> list[BaseMessage]:
        return [AIMessage("a", response_metadata=metadata), HumanMessage("q")]

    plain = digest(answer(id="resp_1"), BASE)
    assert plain == digest(answer(id="resp_2"), BASE)
    assert plain != digest(answer(model_provider="anthropic"), BASE)
    assert plain != digest(answer(output_version="v1"), BASE)
    assert plain != digest(answer(stop_reason="refusal"), BASE)
    stateful = llm_string(model(use_previous_response_id=True))
    assert digest(answer(id="resp_1"), stateful) != digest(answer(id="resp_2"), stateful)


# --- placeholders and escapes -----------------------------------------------------------------


class Unserializable:
    pass


def test_a_value_that_could_not_be_written_is_refused_where_it_counts() -> None:
    for message in (
        HumanMessage([{"type": "x", "value": Unserializable()}]),
        AIMessage("", additional_kwargs={"other": Unserializable()}),
    ):
        with pytest.raises(Uncacheable) as refused:
            request_from(prompt_of([message]), BASE)
        assert refused.value.reason == "unserializable"
    kept = [AIMessage("a", additional_kwargs={"parsed": Unserializable()})]
    assert digest(kept, BASE) == digest([AIMessage("a")], BASE)


def test_user_data_that_looks_like_a_placeholder_is_data() -> None:
    placeholder = {"lc": 1, "type": "not_implemented", "id": ["a"], "repr": "x"}
    forms: list[Any] = [
        placeholder,
        placeholder | {"repr": "y"},
        {"__lc_escaped__": placeholder},
        {"type": "not_implemented"},
    ]
    digests = {digest([HumanMessage([{"type": "x", "value": form}])], BASE) for form in forms}
    assert len(digests) == len(forms)


def test_tags_of_the_canonical_form_cannot_be_forged() -> None:
    def call(value: Any) -> list[BaseMessage]:
        return [AIMessage("", tool_calls=[{"name": "f", "args": {"v": value}, "id": "call_x"}])]

    values = [2**64, 2**64 + 1, {"\0int": str(2**64)}, str(2**64), float(2**64), {"\0\0int": "1"}]
    assert len({digest(call(value), BASE) for value in values}) == len(values)


# --- llm strings ------------------------------------------------------------------------------


class CustomChat(BaseChatModel):
    """A model LangChain cannot serialize: its llm_string is of form B."""

    temperature: float = 0.0
    client: Any = None

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

    @property
    def _llm_type(self) -> str:
        return "custom"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "client": self.client}


class CustomLLM(LLM):
    """A completion model: always of form B."""

    temperature: float = 0.0

    def _call(self, *args: Any, **kwargs: Any) -> str:
        return "x"

    @property
    def _llm_type(self) -> str:
        return "custom-llm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


def llm_string_of(llm: LLM, **arguments: Any) -> str:
    return str(sorted({**llm.asdict(), "stop": None, **arguments}.items()))


def test_models_of_form_b() -> None:
    strings = [
        llm_string(CustomChat()),
        llm_string(CustomChat(temperature=1.0)),
        llm_string(CustomChat(), stop=["x"]),
        llm_string(FakeListChatModel(responses=["a"])),
        llm_string(FakeListChatModel(responses=["b"])),
        llm_string_of(CustomLLM()),
        llm_string_of(CustomLLM(temperature=1.0)),
        llm_string_of(CustomLLM(), n=2),
    ]
    assert len({digest("p", text) for text in strings}) == len(strings)
    assert all(text.startswith("[(") for text in strings)


def test_objects_behind_a_repr_are_refused() -> None:
    with pytest.raises(Uncacheable) as refused:
        request_from("p", llm_string(CustomChat(client=Unserializable())))
    assert refused.value.reason == "object_address"
    assert "client" in refused.value.detail
    with pytest.raises(Uncacheable) as refused:
        request_from("p", llm_string(CustomChat(client=str(Unserializable()))))
    assert refused.value.reason == "object_address"
    with pytest.raises(Uncacheable) as refused:
        request_from("p", llm_string(CustomChat(client=httpx.Timeout(3))))
    assert refused.value.reason == "unresolved_parameter"
    assert "Timeout(...)" in refused.value.detail


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("plain at 0x7f001122", "object_address"),
        ("a <class 'app.Answer'> b", "unresolved_schema"),
        ("[('a', <class 'no.such.Answer'>)]", "unresolved_schema"),
        ("[('a', <class 'str'>)]", "unresolved_schema"),
        ("[('a', <function <lambda> at 0x7f00>)]", "object_address"),
        ("[('a', <Color.RED: '>'>)]", "unresolved_parameter"),
        ("[('a', <app.x>5)]", "unresolved_parameter"),
        ("[('a', nan)]", "unresolved_parameter"),
        ("[('a', repr0)]", "unresolved_parameter"),
        ("[('a', 1", "unresolved_parameter"),
        ("[(1, 2)]", "unresolved_parameter"),
        ("[('a', {{}: 1})]", "unresolved_parameter"),
        ("[('a', {[1]})]", "unresolved_parameter"),
        ("[('a', {**{}})]", "unresolved_parameter"),
        ("[('a', 1j)]", "unresolved_parameter"),
        ("[('a', " + "[" * 150 + "]" * 150 + ")]", "too_deep"),
        ("[('a', '\\ud800')]", "invalid_text"),
        ("\ud800", "invalid_text"),
    ],
)
def test_what_cannot_be_told_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Uncacheable) as refused:
        request_from("p", text)
    assert refused.value.reason == reason


def test_secrets_of_a_call_are_left_out_and_never_shown() -> None:
    plain = llm_string_of(CustomLLM())
    for key in ("api_key", "openai_api_key"):
        assert digest("p", llm_string_of(CustomLLM(), **{key: "sk-one"})) == digest("p", plain)
    masked = llm_string_of(CustomLLM(), token=SecretStr("sk-one"))
    assert "SecretStr('**********')" in masked
    assert digest("p", masked) == digest("p", plain)
    with pytest.raises(Uncacheable) as refused:
        request_from("p", llm_string_of(CustomLLM(), header=types.SimpleNamespace(key="sk-one")))
    assert "sk-one" not in str(refused.value)


def test_a_secret_that_is_no_credential_is_refused() -> None:
    """ChatAnthropic hides `mcp_servers` behind a placeholder (langchain-anthropic 1.7)."""
    node = dumpd(model())
    node["kwargs"]["mcp_servers"] = {"lc": 1, "type": "secret", "id": ["ANTHROPIC_MCP_SERVERS"]}
    with pytest.raises(Uncacheable) as refused:
        request_from("p", json.dumps(node, sort_keys=True) + "---[('stop', None)]")
    assert (refused.value.reason, refused.value.detail) == (
        "unresolved_parameter",
        "kwargs.mcp_servers",
    )


def test_a_placeholder_among_model_options_is_refused_or_left_out() -> None:
    placeholder = {"lc": 1, "type": "not_implemented", "id": ["httpx", "Client"]}

    def text(key: str) -> str:
        node = dumpd(model())
        node["kwargs"][key] = placeholder
        return json.dumps(node, sort_keys=True) + "---[('stop', None)]"

    assert digest("p", text("http_client")) == digest("p", BASE)
    with pytest.raises(Uncacheable) as refused:
        request_from("p", text("model_kwargs"))
    assert refused.value.detail == "kwargs.model_kwargs"


def test_a_models_own_name_is_kept() -> None:
    def text(path: list[str], name: str) -> str:
        node = {"lc": 1, "type": "constructor", "id": path, "kwargs": {"name": name}}
        return json.dumps(node, sort_keys=True) + "---[('stop', None)]"

    assert digest("p", text(["app", "Chat"], "a")) != digest("p", text(["app", "Chat"], "b"))
    ours = ["langchain_openai", "Chat"]
    assert digest("p", text(ours, "a")) == digest("p", text(ours, "b"))


# --- output schemas ---------------------------------------------------------------------------


class Answer(BaseModel):
    """An answer."""

    reasoning: str
    answer: int


@pytest.fixture
def app() -> Iterator[types.ModuleType]:
    module = types.ModuleType("an_app")
    sys.modules["an_app"] = module
    yield module
    del sys.modules["an_app"]


def define(app: types.ModuleType, source: str) -> type[BaseModel]:
    exec(f"from pydantic import BaseModel\n{source}", vars(app))
    return app.Answer


def structured(cls: type[BaseModel], method: str = "json_schema") -> str:
    arguments = bound(model().with_structured_output(cls, method=method))
    text = llm_string(model(), **arguments)
    assert ("<class" in text) == (method == "json_schema")
    return text


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_schema_is_part_of_the_request(app: types.ModuleType, method: str) -> None:
    one = define(app, "class Answer(BaseModel):\n    a: int")
    text = structured(one, method)
    before = digest("p", text)
    assert before == digest("p", structured(one, method))
    del one, app.Answer
    two = define(app, "class Answer(BaseModel):\n    a: str")
    assert method == "function_calling" or text == structured(two)
    assert digest("p", structured(two, method)) != before


def test_two_live_classes_of_one_name_are_ambiguous(app: types.ModuleType) -> None:
    one = define(app, "class Answer(BaseModel):\n    a: int")
    text = structured(one)
    before = digest("p", text)
    two = define(app, "class Answer(BaseModel):\n    a: str")
    with pytest.raises(Uncacheable, match="ambiguous_schema"):
        request_from("p", text)
    del two
    define(app, "class Answer(BaseModel):\n    a: int")  # as the first: no matter which
    gc.collect()
    assert digest("p", text) == before
    del one


def test_create_model_twice_is_ambiguous() -> None:
    one = create_model("Made", a=(int, ...), __module__="an_app_too")
    text = structured(one)
    before = digest("p", text)
    two = create_model("Made", a=(str, ...), __module__="an_app_too")
    del two
    assert digest("p", text) == before  # found out by collecting garbage
    two = create_model("Made", a=(str, ...), __module__="an_app_too")
    for _ in range(2):
        with pytest.raises(Uncacheable, match="ambiguous_schema"):
            request_from("p", text)
    del two
    gc.collect()
    assert digest("p", text) == before
    del one


def test_a_name_taken_over_by_another_kind_of_class(app: types.ModuleType) -> None:
    one = define(app, "class Answer(BaseModel):\n    a: int")
    text = structured(one)
    exec("class Answer: a: int", vars(app))
    with pytest.raises(Uncacheable, match="ambiguous_schema"):
        request_from("p", text)
    del one
    gc.collect()
    with pytest.raises(Uncacheable, match="unresolved_schema"):
        request_from("p", text)


def test_a_class_inside_a_function_is_found() -> None:
    class Local(BaseModel):
        a: int

    text = structured(Local)
    assert "<locals>" in text
    before = digest("p", text)
    assert before == digest("p", text)
    assert before != digest("p", structured(Answer))


def test_docstring_order_and_rebuilt_fields_count(app: types.ModuleType) -> None:
    sources = [
        "class Answer(BaseModel):\n    a: int\n    b: int",
        "class Answer(BaseModel):\n    b: int\n    a: int",
        "class Answer(BaseModel):\n    '''Doc.'''\n    a: int\n    b: int",
    ]
    digests = set()
    for source in sources:
        digests.add(digest("p", structured(define(app, source))))
        del app.Answer
        gc.collect()
    assert len(digests) == len(sources)
    cls = define(app, sources[0])
    text = structured(cls)
    before = digest("p", text)
    cls.model_fields["a"].description = "changed"
    cls.model_rebuild(force=True)
    assert digest("p", text) != before


def test_a_schema_that_cannot_be_made_is_refused(app: types.ModuleType) -> None:
    class Odd(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        a: Unserializable = Field()

    with pytest.raises(Uncacheable, match="unresolved_schema"):
        request_from("p", f"[('a', {Odd!r})]")


def test_nothing_is_imported_or_run(app: types.ModuleType) -> None:
    touched: list[str] = []
    app.__getattr__ = touched.append  # type: ignore[method-assign]
    for path in ("an_app.Answer", "wave.Wave_read", "an_app.a.b"):
        known = "wave" in sys.modules
        with pytest.raises(Uncacheable):
            request_from("p", f"[('a', <class '{path}'>)]")
        assert ("wave" in sys.modules) == known
    assert touched == []


# --- anything at all --------------------------------------------------------------------------

PIECES = ["[('", "a", "', ", "<", ">", "class ", "'", '"', "\\", "SecretStr('')", "[", "{", ")]"]
PIECES += ['{"lc": 1, "type": "constructor", "id": ["x"], "kwargs": {"a": ', "}}", "---", "1", "\0"]


@given(
    st.text() | st.lists(st.sampled_from(PIECES)).map("".join),
    st.text() | st.lists(st.sampled_from(PIECES)).map("".join),
)
@example("[[[[", '{"' + '{"a":' * 5000)
@example("[{" * 100_000, "[(" + "(" * 100_000)
@example('[{"a":' * 900 + "1" + "}]" * 900, "[('a', " + "-" * 5000 + "1)]")
@example("[1, 2]", "[('a', " + "9" * 5000 + ")]")
@example('[{"lc": 1, "type": "constructor", "id": [1], "kwargs": {"content": 1}}]', "[]")
@example('[{"lc": 1, "lc": 1, "type": 1, "id": 1, "kwargs": 1}]', "[('a', 1), ('a', 2)]")
@example("\ud800\0", "[('a', '\0')]")
@settings(deadline=None)
def test_any_text_is_read_or_refused(prompt: str, parameters: str) -> None:
    try:
        request = request_from(prompt, parameters)
        fingerprint(request)
    except Uncacheable:
        return
    assert isinstance(request, Request)


fields = st.dictionaries(
    st.sampled_from(
        [
            "content",
            "type",
            "id",
            "name",
            "tool_calls",
            "invalid_tool_calls",
            "additional_kwargs",
            "response_metadata",
            "tool_call_id",
            "status",
        ]
    ),
    anything | st.lists(st.dictionaries(st.sampled_from(["id", "type", "call_id"]), anything)),
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "lc": st.just(1),
                "type": st.just("constructor"),
                "id": st.sampled_from(["AIMessage", "HumanMessage", "ToolMessage", "Other"]).map(
                    lambda name: ["langchain", "schema", "messages", name]
                ),
                "kwargs": fields,
            }
        ),
        min_size=1,
    )
)
@settings(deadline=None, max_examples=40)
def test_messages_of_wrong_shapes_are_read_or_refused(nodes: list[Any]) -> None:
    text = json.dumps(nodes)
    with contextlib.suppress(Uncacheable):
        assert digest(text, BASE) == digest(" ".join([text]), BASE)


def test_a_long_prompt() -> None:
    long = "é" * 1_000_000
    one, two = prompt_of([HumanMessage(long)]), prompt_of([HumanMessage(long + "x")])
    assert digest(one, BASE) != digest(two, BASE)
    assert digest(long, BASE) != digest(one, BASE)


def test_deep_nesting_is_refused() -> None:
    value: Any = 1
    for _ in range(300):
        value = [value]
    text = json.dumps(
        [
            {
                "lc": 1,
                "type": "constructor",
                "id": ["langchain", "schema", "messages", "HumanMessage"],
                "kwargs": {"content": [{"x": value}]},
            }
        ]
    )
    with pytest.raises(Uncacheable, match="too_deep"):
        request_from(text, BASE)


# --- memos ------------------------------------------------------------------------------------


def test_memos_are_bounded_and_keep_what_is_used() -> None:
    memo: Memo[int, str] = Memo(entries=100, weight=1000, weigh=lambda key, value: len(value))
    for i in range(10_000):
        memo.put(i, "x")
        memo.get(0)
        assert len(memo) <= 100
    assert memo.get(0) == "x"
    assert memo.get(5000) is None
    memo.put(-1, "x" * 400)
    assert memo.get(-1) is None
    for i in range(100):
        memo.put(i, "x" * 100)
    assert sum(len(memo.get(i) or "") for i in range(100)) <= 1000


def test_many_threads_agree() -> None:
    prompts = [prompt_of([HumanMessage(str(i))]) for i in range(50)]
    expected = [digest(prompt, BASE) for prompt in prompts]
    wrong: list[int] = []

    def work() -> None:
        for round_ in range(20):
            for i, prompt in enumerate(prompts):
                text = llm_string(model(), n=round_)
                request_from(prompt, text)
                if digest(prompt, BASE) != expected[i]:
                    wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_equal_with_and_without_memos(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = prompt_of([SystemMessage("s"), HumanMessage("q")])
    known = request_from(prompt, BASE)
    assert request_from(prompt, BASE) is known
    empty: Any = Memo(entries=0, weight=0, weigh=lambda key, value: 1)
    monkeypatch.setattr(_request, "_memo", empty)
    monkeypatch.setattr(_parameters, "_memo", empty)
    assert request_from(prompt, BASE) == known
    assert orjson.loads(known.params.removeprefix(b"chat"))["form"] == "a"
