"""`CachedLLM`: a cache around a model whose class cannot have subclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatResponse, LLMMetadata
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from pydantic import Field, SerializeAsAny

from llamaindex_redis_tiered._subclass import put_state
from llamaindex_redis_tiered.llm.cached import checked_model
from llamaindex_redis_tiered.llm.caching import Caching
from llamaindex_redis_tiered.llm.calls import Target
from llamaindex_redis_tiered.llm.state import DEFAULTS, State
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool

__all__ = ["CachedFunctionCallingLLM", "CachedLLM"]


class CachedLLM(Caching, LLM):
    """A model that holds another one, and a cache of its answers. Made by `CachedLLM.of`.

    For a class of which `cached` can make no subclass. It is no instance of the model's class, and what
    that class has beyond `LLM` (a way of its own to structured output) is reached at `.llm` only,
    without the cache.

    Attributes:
        llm: the model.
    """

    llm: SerializeAsAny[LLM] = Field(description="The model whose answers are cached.")

    @classmethod
    def of(
        cls,
        llm: LLM,
        tiers: Tiers | None = None,
        *,
        cache: LLMCache | None = None,
        store_truncated: bool = False,
        **options: Any,
    ) -> CachedLLM:
        """A cache around a model; a `FunctionCallingLLM` just if the model is one.

        Args:
            llm: the model.
            tiers, cache, store_truncated: see `cached`.
            options: the other options of `cached`.

        Raises:
            InvalidInput: as `cached`; or an option is unknown.
        """
        checked_model(llm)
        if unknown := sorted(options.keys() - DEFAULTS.keys()):
            raise InvalidInput(f"unknown options {unknown}; accepted: {sorted(DEFAULTS)}")
        return _around(llm, State(llm, tiers, cache, store_truncated, DEFAULTS | options))

    @classmethod
    def class_name(cls) -> str:
        return "RedisTieredCachedLLM"

    @property
    def metadata(self) -> LLMMetadata:
        return self.llm.metadata

    def to_payload(self) -> dict[str, Any]:
        """As the model's: without credentials."""
        return self.llm.to_payload()

    def _rt_plain(self) -> LLM:
        return self.llm

    def _rt_subject(self) -> LLM:
        return self.llm

    def _rt_call(self, name: str) -> Target:
        return Target(self, self._rt_state, getattr(self.llm, name), self.llm)

    @property
    def _rt_around(self) -> Any:
        return _around


class CachedFunctionCallingLLM(CachedLLM, FunctionCallingLLM):
    """As `CachedLLM`, of a model that calls functions."""

    def _prepare_chat_with_tools(
        self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        return self._functions._prepare_chat_with_tools_compat(tools, *args, **kwargs)

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Sequence[BaseTool], *args: Any, **kwargs: Any
    ) -> ChatResponse:
        return self._functions._validate_chat_with_tools_response(response, tools, *args, **kwargs)

    def get_tool_calls_from_response(
        self, response: ChatResponse, *args: Any, **kwargs: Any
    ) -> list[ToolSelection]:
        return self._functions.get_tool_calls_from_response(response, *args, **kwargs)

    @property
    def _functions(self) -> FunctionCallingLLM:
        assert isinstance(self.llm, FunctionCallingLLM)
        return self.llm


def _around(llm: LLM, state: State | None) -> CachedLLM:
    kind = CachedFunctionCallingLLM if isinstance(llm, FunctionCallingLLM) else CachedLLM
    made = kind(
        llm=llm,
        callback_manager=llm.callback_manager,
        system_prompt=llm.system_prompt,
        messages_to_prompt=llm.messages_to_prompt,
        completion_to_prompt=llm.completion_to_prompt,
        output_parser=llm.output_parser,
        pydantic_program_mode=llm.pydantic_program_mode,
        query_wrapper_prompt=llm.query_wrapper_prompt,
    )
    if state is not None:
        put_state(made, state)
    return made
