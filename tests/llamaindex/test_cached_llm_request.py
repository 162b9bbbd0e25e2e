"""Which calls of a cached model are the same request."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    CompletionResponse,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI, OpenAIResponses
from openai import OpenAI as Client
from openai.types.chat import ChatCompletionMessageToolCall
from pydantic import BaseModel, Field, PrivateAttr, SecretStr

from llamaindex_redis_tiered import Tiers, cached, request_of
from llamaindex_redis_tiered.llm.models import model_of
from llamaindex_redis_tiered.llm.plain import is_credential
from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import Request, fingerprint
from tests.llamaindex.scripted import Completing, Scripted, user
from tests.servers import RedisServer

SECRET = "xyzzy-plugh"
HELLO = [user("hello")]


def openai(**options: Any) -> OpenAI:
    return OpenAI(**{"model": "gpt-4o-mini", "api_key": SECRET, **options})


def key(llm: Any, messages: Any = None, **options: Any) -> str:
    request = request_of(llm, HELLO if messages is None else messages, **options)
    assert SECRET.encode() not in request.params + request.context
    return fingerprint(request).digest


def reason(llm: Any, messages: Any = None, **options: Any) -> str:
    with pytest.raises(Uncacheable) as caught:
        request_of(llm, HELLO if messages is None else messages, **options)
    assert SECRET not in str(caught.value)
    return caught.value.reason


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


# --- the model -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"model": "gpt-4o"},
        {"temperature": 0.5},
        {"max_tokens": 5},
        {"logprobs": True},
        {"additional_kwargs": {"seed": 4}},
        {"additional_kwargs": {"top_p": 0.4}},
        {"api_base": "http://localhost:1/v1"},
        {"api_version": "7"},
        {"strict": True},
        {"reasoning_effort": "low"},
        {"modalities": ["text"]},
        {"system_prompt": "Be kind"},
        {"default_headers": {"OpenAI-Organization": "mine"}},
        {"default_headers": {"anthropic-beta": "tools"}},
    ],
    ids=lambda options: "-".join(f"{k}" for k in options),
)
def test_req_03_what_the_provider_sees_matters(options: dict[str, Any]) -> None:
    assert key(openai(**options)) != key(openai())
    assert key(openai(**options)) == key(openai(**copy.deepcopy(options)))


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "another"},
        {"timeout": 3},
        {"max_retries": 9},
        {"reuse_client": False},
        {"default_headers": {"Authorization": f"Bearer {SECRET}"}},
        {"default_headers": {"X-Api-Key": SECRET, "cookie": SECRET, "Helicone-Auth": SECRET}},
        {"default_headers": {"X-Whatever": f"Bearer {SECRET}"}},
        {"additional_kwargs": {"api_key": SECRET}},
        {"api_base": "https://api.openai.com/v1/"},
        {"api_base": f"https://me:{SECRET}@api.openai.com/v1"},
        {"rate_limiter": object()},
        {"http_client": None},
    ],
    ids=lambda options: "-".join(f"{k}" for k in options),
)
def test_req_03_who_asks_and_how_does_not(options: dict[str, Any]) -> None:
    llm = openai(**{"default_headers": {}, "additional_kwargs": {}, **options})
    assert key(llm) == key(openai(default_headers={}, additional_kwargs={}))


def test_req_03_a_secret_of_a_url_is_left_out() -> None:
    place = "https://host/v1?version=1&api_key="
    assert key(openai(api_base=place + SECRET)) == key(openai(api_base=place + "other"))
    assert key(openai(api_base=place)) != key(openai(api_base=place.replace("=1", "=2")))


def test_a_client_that_goes_elsewhere() -> None:
    with Client(api_key=SECRET, base_url="http://localhost:1/v1") as client:
        elsewhere = openai(openai_client=client)
        assert key(elsewhere) != key(openai())
    used = openai()
    before = key(used)
    used._get_client()  # made of the fields
    assert key(used) == before


def test_classes_are_kept_apart() -> None:
    class Mine(MockLLM):
        pass

    assert key(MockLLM()) != key(Mine())
    assert key(MockLLM()) == key(MockLLM())


class Configured(Completing):
    """Keeps its settings to itself, and counts."""

    calls: int = 0
    log: list[str] = Field(default_factory=list, exclude=True)
    _config: dict[str, Any] = PrivateAttr(default_factory=dict)
    _safety: Any = PrivateAttr(default=None)
    _calls: int = PrivateAttr(default=0)
    _log: list[str] = PrivateAttr(default_factory=list)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _cache: dict[str, Any] = PrivateAttr(default_factory=dict)
    _api_key: str = PrivateAttr(default=SECRET)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.calls += 1
        self._calls += 1
        self.log.append(prompt)
        self._log.append(prompt)
        self._cache[prompt] = 1
        return CompletionResponse(text=f"{self.calls}")


def test_settings_in_private_attributes_matter(tiers: Tiers) -> None:
    plain, other, safe = Configured(), Configured(), Configured()
    other._config = {"thinking": True}
    safe._safety = Limits(3)
    assert len({key(llm) for llm in (plain, other, safe)}) == 3
    assert key(cached(other, tiers)) == key(other)


def test_what_a_model_notes_of_its_calls_does_not(tiers: Tiers) -> None:
    fast = cached(Configured(), tiers)
    before = key(fast)
    assert [fast.complete("hello").text for _ in range(3)] == ["1", "1", "1"]
    assert (fast.calls, key(fast)) == (1, before)


def test_a_model_that_goes_on_from_its_last_answer_is_not_cached() -> None:
    given = {"model": "gpt-4o-mini", "api_key": SECRET}
    assert reason(OpenAIResponses(**given, track_previous_responses=True)) == "stateful_model"
    assert key(OpenAIResponses(**given)) == key(OpenAIResponses(**given))
    assert key(OpenAIResponses(**given)) != key(OpenAIResponses(**given, previous_response_id="r"))


class Style(Enum):
    PLAIN = 1
    FANCY = 2


@dataclass
class Limits:
    most: int
    token: str = SECRET


class Safety(BaseModel):
    level: int = 1
    password: str = Field(default_factory=lambda: SECRET)


def shout(text: str) -> str:
    return text.upper()


class Odd(Scripted):
    """A provider's class with fields of every sort."""

    client: Any = None
    boto_session: Any = None
    generation_config: Any = None
    style: Any = None
    eos_token: str | None = None
    hf_token: Any = None
    aws_secret_access_key: Any = None
    credentials: Any = None
    anything: Any = None
    candidate_count: int | None = None
    hidden: Any = Field(default=None, exclude=True)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("style", Style.PLAIN, Style.FANCY),
        ("style", "a", "b"),
        ("style", b"a", b"b"),
        ("style", {1}, {2}),
        ("style", {"a": 1}, {"a": True}),
        ("style", Path("a"), Path("b")),
        ("style", Limits(1), Limits(2)),
        ("style", Safety(level=1), Safety(level=2)),
        ("style", Safety, Limits),
        ("style", shout, lambda text: text),
        ("eos_token", "</s>", "<eos>"),
        ("client", "acme", "globex"),
        ("generation_config", Safety(level=1), Safety(level=2)),
        ("hidden", "a", "b"),
        ("hidden", 1, 2),
        ("candidate_count", 1, 2),
        ("anything", [1, [2, {"x": (3,)}]], [1, [2, {"x": (4,)}]]),
    ],
)
def test_fields_of_every_sort_matter(name: str, one: Any, other: Any) -> None:
    assert key(Odd(**{name: one})) != key(Odd(**{name: other}))
    assert key(Odd(**{name: one})) == key(Odd(**{name: copy.deepcopy(one)}))
    assert key(Odd(**{name: one})) != key(Odd())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("client", object()),
        ("boto_session", object()),
        ("hf_token", SECRET),
        ("hf_token", SecretStr(SECRET)),
        ("aws_secret_access_key", SECRET),
        ("credentials", object()),
        ("credentials", SECRET),
    ],
)
def test_credentials_and_carriers_do_not(name: str, value: Any) -> None:
    assert key(Odd(**{name: value})) == key(Odd()) == key(Odd(**{name: object()}))


@pytest.mark.parametrize(
    "value",
    [
        object(),
        SecretStr("text"),
        [object()],
        {"a": object()},
        len,
        {"\0set": 1},
        float("nan").__str__,
    ],
    ids=["object", "secret", "list", "dict", "builtin", "nul", "method"],
)
def test_what_cannot_be_told_is_not_cached(value: Any) -> None:
    assert reason(Odd(anything=value)) == "unresolved_parameter"
    assert reason(Odd(), thing=value) == "unresolved_parameter"


def test_a_value_that_holds_itself_is_not_cached() -> None:
    value: list[Any] = []
    value.append(value)
    assert reason(Scripted(), thing=value) == "too_deep"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *[
            (name, True)
            for name in (
                *("api_key", "openai_api_key", "apiKey", "token", "hf_token", "access_token"),
                *("aws_session_token", "password", "client_secret", "secret", "Authorization"),
                *("azure_ad_token_provider", "credentials", "Cookie", "X-Api-Key", "api-key"),
                *("aws_access_key_id", "private_key", "Ocp-Apim-Subscription-Key"),
            )
        ],
        *[
            (name, False)
            for name in (
                *("model", "max_tokens", "eos_token", "stop_token", "logit_bias", "tokenizer_name"),
                *("key", "keyword", "author", "secretary", "top_k", "pad_token", "token_count"),
            )
        ],
    ],
)
def test_names_of_credentials(name: str, is_one: bool) -> None:
    assert is_credential(name, "x") == is_one
    assert not is_credential(name, {"type": "string"})
    assert is_credential(name, None) == is_one


# --- the call --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.5},
        {"stop": ["x"]},
        {"tools": []},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"parallel_tool_calls": True},
        {"response_format": {"type": "json_object"}},
        {"response_format": Safety},
        {"seed": 4},
        {"use_chat_completions": True},
        {"temperature": None},
    ],
    ids=str,
)
def test_req_03_arguments_matter(options: dict[str, Any]) -> None:
    assert key(openai(), **options) != key(openai())
    assert key(openai(), **options) == key(openai(), **copy.deepcopy(options))


@pytest.mark.parametrize("name", ["timeout", "max_retries", "api_key", "cache"])
def test_req_03_arguments_that_do_not(name: str) -> None:
    assert key(openai(), **{name: 3 if name != "api_key" else SECRET}) == key(openai())


def test_req_03_tools_by_their_schemas() -> None:
    def tool(**properties: Any) -> dict[str, Any]:
        schema = {"type": "object", "properties": properties}
        return {"type": "function", "function": {"name": "f", "parameters": schema}}

    text = {"type": "string"}
    keys = {
        key(openai(), tools=tools)
        for tools in (
            [tool(a=text, b=text)],
            [tool(b=text, a=text)],  # answered in another order
            [tool(a=text)],
            [tool(password=text)],
            [tool(password={"type": "integer"})],
            [tool(a={"const": f"Bearer {len(SECRET)}"})],
        )
    }
    assert len(keys) == 6


def test_tools_as_objects() -> None:
    def weather(city: str) -> str:
        """Tell the weather."""
        return city

    tool = FunctionTool.from_defaults(weather)
    other = FunctionTool.from_defaults(weather, description="Something else")
    assert key(openai(), tools=[tool]) == key(openai(), tools=[FunctionTool.from_defaults(weather)])
    assert key(openai(), tools=[tool]) != key(openai(), tools=[other])


def test_a_schema_that_cannot_be_made() -> None:
    class Broken(BaseModel):
        thing: Any = None

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            raise RuntimeError

    assert reason(openai(), response_format=Broken) == "unresolved_schema"


@pytest.mark.parametrize("n", [2, 5])
def test_several_answers_are_not_cached(n: int) -> None:
    assert reason(openai(), n=n) == "several_answers"
    assert reason(openai(additional_kwargs={"n": n})) == "several_answers"
    assert key(openai(), n=1)


def test_traits() -> None:
    def traits(llm: Any, messages: Any = None, **options: Any) -> tuple[Any, ...]:
        return tuple(request_of(llm, messages or HELLO, **options).traits)

    assert traits(openai()) == (1, 0.1, False)
    assert traits(openai(), temperature=1) == (1, 1.0, False)
    assert traits(openai(additional_kwargs={"temperature": 0.7})) == (1, 0.7, False)
    assert traits(Scripted()) == (1, None, False)
    assert traits(openai(), tools=[{"type": "function"}])[2]
    assert traits(openai(), [user("a"), ChatMessage("b", role="assistant"), user("c")])[0] == 2
    called = ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs={})])
    assert traits(openai(), [user("a"), called, user("b")])[2]
    assert traits(openai(), [user("a"), ChatMessage("x", role="tool"), user("b")])[2]
    told = ChatMessage("Use this:\nAction Input: {}", role="system")
    assert traits(openai(), [told, user("a")])[2]
    assert traits(openai(), [user("Observation: it rains")])[2]


# --- functions that shape a prompt -----------------------------------------------------------


def as_chatml(messages: Sequence[ChatMessage]) -> str:
    return "".join(f"<{message.role.value}>{message.content}" for message in messages)


def numbered(messages: Sequence[ChatMessage]) -> str:
    return f"{len(messages[-1].content or '')}: {messages[-1].content}"


def test_req_03_a_function_that_shapes_prompts_matters() -> None:
    plain = Completing()
    chatml = Completing(messages_to_prompt=as_chatml)
    assert key(plain) != key(chatml)
    assert key(chatml) == key(Completing(messages_to_prompt=as_chatml))
    loud = Completing(completion_to_prompt=lambda prompt: f"{prompt}!")
    louder = Completing(completion_to_prompt=lambda prompt: f"{prompt}!!")
    assert len({key(llm, "hello") for llm in (plain, loud, louder)}) == 3
    assert key(loud, "hello", formatted=True) == key(louder, "hello", formatted=True)


def test_req_03_a_prompt_around_queries_matters() -> None:
    """`HuggingFaceLLM.complete` puts it around a prompt that is not formatted."""
    wrapped = [
        Completing(query_wrapper_prompt=PromptTemplate(text))
        for text in ("<{query_str}>", "<{query_str}>", "[{query_str}]")
    ]
    keys = [key(llm, "hello") for llm in wrapped]
    assert keys[0] == keys[1] != keys[2]
    assert keys[0] != key(Completing(), "hello")


def test_a_model_that_is_changed_is_read_anew(tiers: Tiers) -> None:
    llm = openai(additional_kwargs={})
    fast = cached(llm, tiers)
    models = fast._rt_state.models  # type: ignore[attr-defined]

    def content() -> bytes:
        found = models.of(fast)
        assert found == model_of(fast)
        assert models.of(fast) == found
        return bytes(found.content)

    seen = [content()]
    fast.temperature = 1
    seen.append(content())
    fast.additional_kwargs["seed"] = 4
    seen.append(content())
    fast.additional_kwargs["seed"] = 5
    seen.append(content())
    fast.additional_kwargs.clear()
    fast.api_key = "another"
    seen.append(content())
    assert len(set(seen)) == 4
    assert seen[4] == seen[1]


def test_a_template_leaves_the_prompt_apart() -> None:
    def parts(llm: Any, text: str) -> Request:
        return request_of(llm, [user("a"), ChatMessage("b", role="assistant"), user(text)])

    llm = Completing(messages_to_prompt=as_chatml)
    one, other = parts(llm, "hello"), parts(llm, "hi")
    assert (one.prompt, other.prompt) == ("hello", "hi")
    assert fingerprint(one).scope == fingerprint(other).scope
    assert fingerprint(one).digest != fingerprint(other).digest
    # What it makes of the prompt hangs on the prompt: no other wording may stand for it.
    assert parts(Completing(messages_to_prompt=numbered), "hello").prompt is None
    loud = Completing(completion_to_prompt=str.upper)
    assert request_of(loud, "hello").prompt is None
    assert key(loud, "hello") != key(loud, "HELLO")


def test_a_function_that_fails_makes_it_uncacheable() -> None:
    def wrong(messages: Any) -> Any:
        return 5

    assert reason(Completing(messages_to_prompt=wrong)) == "unresolved_parameter"


# --- the messages ----------------------------------------------------------------------------


def test_req_03_every_part_of_a_message_matters(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG one")
    said = [
        HELLO,
        [user("hello"), user("hello")],
        [ChatMessage("hello", role="system")],
        [ChatMessage("hello", role="developer")],
        [ChatMessage("hello", role="assistant")],
        [ChatMessage("hello", additional_kwargs={"name": "me"})],
        [ChatMessage("hello", additional_kwargs={"name": b"me"})],
        [ChatMessage("hello", additional_kwargs={"name": ["me"]})],
        [ChatMessage(blocks=[TextBlock(text="hello"), TextBlock(text="")])],
        [ChatMessage(blocks=[TextBlock(text="hello"), CachePoint(cache_control={"type": "a"})])],
        [ChatMessage(blocks=[ThinkingBlock(content="hello")])],
        [ChatMessage(blocks=[ThinkingBlock(content="hello", additional_information={"s": "1"})])],
        [ChatMessage(blocks=[ImageBlock(image=b"one")])],
        [ChatMessage(blocks=[ImageBlock(image=b"two")])],
        [ChatMessage(blocks=[ImageBlock(image=b"two", detail="low")])],
        [ChatMessage(blocks=[ImageBlock(url="http://h/a.png")])],
        [ChatMessage(blocks=[ImageBlock(url="http://h/b.png")])],
        [ChatMessage(blocks=[ImageBlock(path=picture)])],
        [ChatMessage(blocks=[AudioBlock(audio=b"one", format="mp3")])],
        [ChatMessage(blocks=[DocumentBlock(data=b"one", document_mimetype="text/plain")])],
        [ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs={})])],
        [
            ChatMessage(
                role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs={"a": 1})]
            )
        ],
        [ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="g", tool_kwargs={})])],
        [],
    ]
    keys = [key(openai(), messages) for messages in said]
    assert len(set(keys)) == len(keys)
    assert [key(openai(), copy.deepcopy(messages)) for messages in said] == keys
    picture.write_bytes(b"\x89PNG two")
    assert key(openai(), said[17]) != keys[17]
    picture.unlink()
    assert reason(openai(), said[17]) == "unreadable_file"


def test_req_07_a_memory_changes_no_key() -> None:
    """What a chat store gives back is the same as what was put in."""
    call = ToolCallBlock(tool_call_id="call_1", tool_name="f", tool_kwargs='{"a": 1}')
    function = {"name": "f", "arguments": "{}"}
    spoken = ChatCompletionMessageToolCall.model_validate(
        {"id": "call_1", "type": "function", "function": function}
    )
    messages = [
        user("hello"),
        ChatMessage(role="assistant", blocks=[call], additional_kwargs={"tool_calls": [spoken]}),
        ChatMessage("1", role="tool", additional_kwargs={"tool_call_id": "call_1"}),
    ]
    dumped = copy.deepcopy(messages)
    dumped[1].additional_kwargs["tool_calls"] = [spoken.model_dump()]
    assert key(openai(), messages) == key(openai(), dumped)
    memory = ChatMemoryBuffer.from_defaults(chat_history=copy.deepcopy(messages))
    assert key(openai(), memory.get()) == key(openai(), messages)


def test_a_note_of_ours_is_left_out() -> None:
    noted = ChatMessage("hello", additional_kwargs={"redis_tiered": {"asked": "x"}})
    assert key(openai(), [noted]) == key(openai())


def test_the_prompt_is_the_last_plain_text() -> None:
    def prompt(messages: Any) -> Any:
        return request_of(openai(), messages).prompt

    assert prompt(HELLO) == "hello"
    assert prompt("hello") == "hello"
    assert prompt([ChatMessage("be kind", role="system"), user("hello")]) == "hello"
    assert prompt([*HELLO, ChatMessage("x", role="assistant")]) is None
    assert prompt([ChatMessage(blocks=[TextBlock(text="a"), TextBlock(text="b")])]) is None
    assert prompt([ChatMessage(blocks=[TextBlock(text="a"), ImageBlock(image=b"b")])]) is None
    assert prompt([ChatMessage("a", additional_kwargs={"name": "me"})]) is None
    assert prompt([]) is None


@pytest.mark.parametrize("wrong", [5, [5], ["hello"], None], ids=str)
def test_what_are_no_messages(wrong: Any) -> None:
    with pytest.raises((Uncacheable, TypeError)):
        request_of(openai(), wrong)


def test_a_lone_surrogate_is_not_cached() -> None:
    with pytest.raises(Uncacheable):
        fingerprint(request_of(openai(), "\ud800"))
    assert reason(openai(), [user("\ud800"), user("x")]) == "invalid_text"


# --- tool-call ids ---------------------------------------------------------------------------


def conversation(ids: Sequence[str], order: Sequence[int], text: str = "r") -> list[ChatMessage]:
    """A user's question, calls at once, their results in an order, and another question."""
    calls = [
        ToolCallBlock(tool_call_id=id_, tool_name=f"tool{i}", tool_kwargs={"i": i})
        for i, id_ in enumerate(ids)
    ]
    spoken = [
        {"id": id_, "type": "function", "function": {"name": f"tool{i}", "arguments": "{}"}}
        for i, id_ in enumerate(ids)
    ]
    results = [
        ChatMessage(f"{text}{i}", role="tool", additional_kwargs={"tool_call_id": ids[i]})
        for i in order
    ]
    made = ChatMessage(role="assistant", blocks=calls, additional_kwargs={"tool_calls": spoken})
    return [user("do it"), made, *results, user("and then?")]


IDS = st.lists(
    st.from_regex(r"call_[a-z0-9]{8}", fullmatch=True), min_size=3, max_size=3, unique=True
)


@given(IDS, IDS, st.permutations(range(3)))
def test_req_08_ids_and_the_order_of_results_do_not_matter(
    one: list[str], other: list[str], order: list[int]
) -> None:
    llm = Scripted()
    assert key(llm, conversation(one, range(3))) == key(llm, conversation(other, order))


@given(IDS, st.permutations(range(3)))
def test_which_call_a_result_is_of_does(ids: list[str], order: list[int]) -> None:
    swapped = conversation(ids, range(3))
    for i, message in enumerate(swapped[2:5]):
        message.additional_kwargs["tool_call_id"] = ids[order[i]]
    same = key(Scripted(), swapped) == key(Scripted(), conversation(ids, range(3)))
    assert same == (list(order) == [0, 1, 2])


def test_ids_that_a_text_speaks_of_are_kept() -> None:
    def ask(id_: str, word: str) -> str:
        messages = conversation([id_, "call_b", "call_c"], range(3))
        return key(Scripted(), [*messages, user(f"What of {word}?")])

    assert ask("call_a", "it") == ask("call_z", "it")
    assert ask("call_a", "call_a") != ask("call_z", "call_a")
    assert ask('call"a', "it") != ask("call_a", "it")


def test_ids_that_nobody_declared_are_kept() -> None:
    def tool(id_: str) -> list[ChatMessage]:
        return [user("a"), ChatMessage("x", role="tool", additional_kwargs={"tool_call_id": id_})]

    assert key(Scripted(), tool("a")) != key(Scripted(), tool("b"))


# --- rules -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def strictly(value: Any) -> Any:
    """As Python compares, but 1, 1.0 and True are three things."""
    if isinstance(value, dict):
        return ["dict", sorted(((k, strictly(v)) for k, v in value.items()), key=repr)]
    if isinstance(value, list):
        return ["list", [strictly(item) for item in value]]
    return [type(value).__name__, repr(value)]


@given(JSON, JSON)
def test_arguments_are_told_apart_just_if_they_differ(one: Any, other: Any) -> None:
    llm = Scripted()
    try:
        keys = [key(llm, thing=value) for value in (one, other)]
    except Uncacheable:
        return
    assert (keys[0] == keys[1]) == (strictly(one) == strictly(other))


TEXTS = st.lists(
    st.tuples(
        st.sampled_from([MessageRole.USER, MessageRole.ASSISTANT, MessageRole.SYSTEM]),
        st.lists(st.text(max_size=4), min_size=1, max_size=2),
    ),
    min_size=1,
    max_size=3,
)


@given(TEXTS, TEXTS)
def test_conversations_are_told_apart_just_if_they_differ(one: Any, other: Any) -> None:
    def messages(said: Any) -> list[ChatMessage]:
        return [
            ChatMessage(role=role, blocks=[TextBlock(text=text) for text in texts])
            for role, texts in said
        ]

    keys = [key(Scripted(), messages(said)) for said in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_semantic_scope_is_all_but_the_prompt(one: str, other: str) -> None:
    marks = [fingerprint(request_of(Scripted(), [user("a"), user(text)])) for text in (one, other)]
    assert marks[0].scope == marks[1].scope
    assert (marks[0].digest == marks[1].digest) == (one == other)
