"""LangChain's cache arguments as a canonical request."""

from __future__ import annotations

from langchain_redis_tiered._conversation import conversation_from
from langchain_redis_tiered._memo import Memo
from langchain_redis_tiered._parameters import parameters_from
from redis_tiered.llm_cache.fingerprint import Request, Traits

__all__ = ["request_from"]

_LONGEST = 16 << 10
_memo: Memo[tuple[str, str], Request] = Memo(
    entries=2048,
    weight=8 << 20,
    weigh=lambda key, request: 2 * len(key[0]) + len(key[1]) + len(request.params),
)


def request_from(prompt: str, llm_string: str) -> Request:
    """What a provider would be asked, from what LangChain hands to a cache.

    Args:
        prompt: `dumps(messages)` of a chat model, or the plain text for a completion model.
        llm_string: the model and the arguments of this call, in any form LangChain makes.

    Raises:
        Uncacheable: the two do not say what the provider would see.
    """
    key = (prompt, llm_string)
    if len(prompt) <= _LONGEST and (known := _memo.get(key)) is not None:
        return known
    conversation = conversation_from(prompt, llm_string)
    parameters = parameters_from(llm_string)
    turns = 1 if conversation is None else conversation.turns
    traits = Traits(turns, parameters.temperature, parameters.tools)
    if conversation is None:
        request = Request(parameters.text, b"", prompt, traits)
    else:
        request = Request(parameters.chat, conversation.context, conversation.prompt, traits)
    # A class in the llm_string may mean another schema next time.
    if parameters.settled and len(prompt) <= _LONGEST:
        _memo.put(key, request)
    return request
