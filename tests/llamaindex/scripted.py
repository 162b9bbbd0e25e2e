"""Models of LlamaIndex that say what a test tells them to, and count how often they are asked."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from pydantic import PrivateAttr

__all__ = ["Asked", "Completing", "Scripted", "ask", "texts", "user"]


class Asked:
    """What a model and its copies were asked. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.how: list[str] = []

    def note(self, how: str) -> None:
        with self._lock:
            self.how.append(how)

    @property
    def times(self) -> int:
        return len(self.how)

    def __deepcopy__(self, memo: Any) -> Asked:
        return self

    def __reduce__(self) -> Any:
        return Asked, ()


Say = Callable[[Sequence[ChatMessage]], ChatResponse]


def echo(messages: Sequence[ChatMessage]) -> ChatResponse:
    said = messages[-1].content or ""
    return ChatResponse(message=ChatMessage(role="assistant", content=f"You said: {said}"))


class Scripted(FunctionCallingLLM):
    """Its answers are made by `say`; a stream gives their text word by word.

    `pause` is called before each piece of a stream, with its number, and before a whole answer, with 0.
    """

    model: str = "scripted"
    temperature: float | None = None
    api_key: str | None = None
    additional_kwargs: dict[str, Any] = {}  # noqa: RUF012 - a field of pydantic's

    _say: Say = PrivateAttr()
    _asked: Asked = PrivateAttr()
    _pause: Any = PrivateAttr()

    def __init__(self, say: Say = echo, *, pause: Any = None, **fields: Any) -> None:
        super().__init__(**fields)
        self._say, self._asked, self._pause = say, Asked(), pause

    @property
    def asked(self) -> Asked:
        return self._asked

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            model_name=self.model, is_chat_model=True, is_function_calling_model=True
        )

    def _answer(self, how: str, messages: Sequence[ChatMessage], kwargs: Any) -> ChatResponse:
        assert "cache" not in kwargs
        self._asked.note(how)
        return self._say(messages)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        response = self._answer("chat", messages, kwargs)
        if self._pause:
            self._pause(0)
        return response

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        response = self._answer("achat", messages, kwargs)
        if self._pause:
            await self._pause(0)
        return response

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        response = self._answer("stream_chat", messages, kwargs)

        def chunks() -> Iterator[ChatResponse]:
            for i, chunk in enumerate(pieces(response)):
                if self._pause:
                    self._pause(i)
                yield chunk

        return chunks()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        response = self._answer("astream_chat", messages, kwargs)

        async def chunks() -> AsyncIterator[ChatResponse]:
            for i, chunk in enumerate(pieces(response)):
                if self._pause:
                    await self._pause(i)
                yield chunk

        return chunks()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return completion(self._answer("complete", [user(prompt)], kwargs))

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        return completion(self._answer("acomplete", [user(prompt)], kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        response = self._answer("stream_complete", [user(prompt)], kwargs)

        def chunks() -> Iterator[CompletionResponse]:
            for chunk in pieces(response):
                yield completion(chunk)

        return chunks()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        response = self._answer("astream_complete", [user(prompt)], kwargs)

        async def chunks() -> AsyncIterator[CompletionResponse]:
            for chunk in pieces(response):
                yield completion(chunk)

        return chunks()

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[Any],
        user_msg: Any = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = chat_history or []
        if user_msg:
            messages.append(user(user_msg) if isinstance(user_msg, str) else user_msg)
        specs = [tool.metadata.to_openai_tool() for tool in tools]
        return {"messages": messages, "tools": specs, **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=dict(block.tool_kwargs),
            )
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]


class Completing(CustomLLM):
    """Completes only; `CustomLLM` makes a chat of that."""

    max_tokens: int = 100
    _asked: Asked = PrivateAttr(default_factory=Asked)

    @property
    def asked(self) -> Asked:
        return self._asked

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="completing")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._asked.note("complete")
        return CompletionResponse(text=f"after {prompt}")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        self._asked.note("stream_complete")

        def chunks() -> Iterator[CompletionResponse]:
            yield CompletionResponse(text="after", delta="after")
            yield CompletionResponse(text=f"after {prompt}", delta=f" {prompt}")

        return chunks()


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def completion(response: ChatResponse) -> CompletionResponse:
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=dict(response.additional_kwargs),
    )


def pieces(response: ChatResponse) -> Iterator[ChatResponse]:
    words = (response.message.content or "").split(" ")
    sofar = ""
    for i, word in enumerate(words[:-1]):
        piece = word if i == 0 else f" {word}"
        sofar += piece
        message = ChatMessage(role="assistant", blocks=[TextBlock(text=sofar)])
        yield ChatResponse(message=message, delta=piece)
    last = words[-1] if len(words) == 1 else f" {words[-1]}"
    yield response.model_copy(update={"delta": last})


async def ask(llm: Any, how: str, given: Any, **kwargs: Any) -> Any:
    """Any of the eight ways; a stream as the list of its pieces."""
    if how.endswith("chat") and isinstance(given, str):
        given = [user(given)]
    called = getattr(llm, how)(given, **kwargs)
    if how.startswith("a"):
        called = await called
    if "astream" in how:
        return [chunk async for chunk in called]
    return list(called) if "stream" in how else called


def texts(answer: Any) -> str:
    """What an answer says; of a stream what it says in its end."""
    last = answer[-1] if isinstance(answer, list) else answer
    return last.text if isinstance(last, CompletionResponse) else last.message.content or ""
