"""What a model of LlamaIndex and one call to it ask of a provider, beside the messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.generic_utils import messages_to_prompt
from llama_index.core.llms.llm import default_completion_to_prompt

from llamaindex_redis_tiered.llm.models import Model
from llamaindex_redis_tiered.llm.plain import is_credential, plain
from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import canonical, key_order

__all__ = ["Parameters", "parameters_of", "shaped_by"]

# Among the arguments of a call: only what no provider's API takes as a parameter.
_CALL_TRANSPORT: Final = frozenset(
    {"timeout", "request_timeout", "default_request_timeout", "stream_chunk_timeout", "max_retries"}
)
# What the model is shown: nothing in it is a credential, whatever it is named.
_SHOWN: Final = frozenset(
    {"tools", "functions", "tool_choice", "function_call", "response_format", "system", "prompt"}
)


class Parameters(NamedTuple):
    """What a model and the arguments of a call say.

    Attributes:
        content: canonical bytes.
        temperature: that is asked for; None: the model's own.
        tools: whether the model may call tools.
    """

    content: bytes
    temperature: float | None
    tools: bool


def parameters_of(model: Model, endpoint: str, arguments: Mapping[str, Any]) -> Parameters:
    """The parameters of one call.

    Args:
        model: as `model_of` reads it.
        endpoint: requests to different ones are never the same.
        arguments: of the call, without messages or prompt.

    Raises:
        Uncacheable: `unresolved_parameter`, an object stands where a value should;
            `several_answers`, of which LlamaIndex gives only one.
    """
    call = {
        key: plain(value, key, shown=key in _SHOWN)
        for key, value in arguments.items()
        if key not in _CALL_TRANSPORT and not is_credential(key, value)
    }
    given = (call, *model.given)
    # The last are the model's own fields, where a name says what its class wants it to.
    if any(type(each.get("n")) is int and each["n"] > 1 for each in given[:-1]):
        raise Uncacheable("several_answers", "n")
    said = canonical([endpoint, call, key_order(call)])
    return Parameters(
        b"%d:%b%b" % (len(model.content), model.content, said),
        _temperature(given),
        any(each.get(key) for each in given for key in ("tools", "functions")),
    )


def _temperature(given: tuple[Mapping[str, Any], ...]) -> float | None:
    for each in given:
        value = each.get("temperature")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def shaped_by(llm: BaseLLM, endpoint: str, formatted: bool) -> Callable[[Any], str] | None:
    """The model's own function from messages, or a plain prompt, to the text that it is sent; None:
    LlamaIndex's default, which adds nothing to what the request tells.

    Raises:
        Uncacheable: `unresolved_parameter`, it is not a function of one argument.
    """
    if endpoint == "complete" and formatted:
        return None
    default: Any = messages_to_prompt if endpoint == "chat" else default_completion_to_prompt
    name = "messages_to_prompt" if endpoint == "chat" else "completion_to_prompt"
    function: Any = getattr(llm, name, None)
    if function is None or function is default:
        return None
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise Uncacheable("unresolved_parameter", name)
    return function  # type: ignore[no-any-return]
