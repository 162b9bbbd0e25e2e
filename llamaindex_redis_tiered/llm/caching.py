"""What a class of models gets to have its answers cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM

from llamaindex_redis_tiered._subclass import Subclasses, plain, state_of
from llamaindex_redis_tiered.llm import calls
from llamaindex_redis_tiered.llm.call import Given
from llamaindex_redis_tiered.llm.state import State

if TYPE_CHECKING:
    _Base = LLM
else:
    _Base = object

__all__ = ["Caching", "with_state"]


class Caching(_Base):
    """Comes before a model's class among the bases: the eight ways to ask it, by way of the cache.

    They are not in the dict of the class that is made, so LlamaIndex puts no span around them: a hit is
    no call of a model. On a miss the model's own methods make spans and events as ever.
    """

    __slots__ = ()

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        return calls.whole(self._rt_call("chat"), Given("chat", messages, False, kwargs))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        return await calls.awhole(self._rt_call("achat"), Given("chat", messages, False, kwargs))

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        return calls.stream(self._rt_call("stream_chat"), Given("chat", messages, False, kwargs))

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        given = Given("chat", messages, False, kwargs)
        return await calls.astream(self._rt_call("astream_chat"), given)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return calls.whole(self._rt_call("complete"), Given("complete", prompt, formatted, kwargs))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        given = Given("complete", prompt, formatted, kwargs)
        return await calls.awhole(self._rt_call("acomplete"), given)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        given = Given("complete", prompt, formatted, kwargs)
        return calls.stream(self._rt_call("stream_complete"), given)

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        given = Given("complete", prompt, formatted, kwargs)
        return await calls.astream(self._rt_call("astream_complete"), given)

    def __reduce__(self) -> tuple[Any, ...]:
        state = self._rt_state
        inner = self._rt_plain()
        return _again, (self._rt_around, inner, None if state is None else state.parts())

    @property
    def _rt_state(self) -> State | None:
        """None: made by somebody who called the class of a cached model; it works without a cache."""
        state: State | None = state_of(self)
        return state

    def _rt_plain(self) -> LLM:
        inner: LLM = plain(self)
        return inner

    @property
    def _rt_around(self) -> Callable[[LLM, State | None], Any]:
        """A function of a module, which makes the like of this one."""
        return _with_state_if_any

    def _rt_subject(self) -> LLM:
        """The model whose settings are part of a request."""
        return self

    def _rt_call(self, name: str) -> calls.Target:
        ask: Callable[..., Any] = getattr(super(), name)
        return calls.Target(self, self._rt_state, ask, self)


def _again(around: Callable[[LLM, State | None], Any], llm: LLM, parts: Any) -> Any:
    return around(llm, None if parts is None else State.of(llm, *parts))


with_state = Subclasses(Caching, "llm", "use CachedLLM.of(llm, ...), which holds the model instead")


def _with_state_if_any(llm: LLM, state: State | None) -> Any:
    return llm if state is None else with_state(llm, state)
