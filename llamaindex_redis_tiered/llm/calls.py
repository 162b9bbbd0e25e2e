"""Calls of a cached model, for answers given whole and in pieces, sync and async.

Whoever misses an answer may be the one that others wait for. So every way out of a call stores an
answer, refuses one, or abandons the wait; a stream that is dropped without a word is noticed because
what others wait for lasts as long as the stream does.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from llama_index.core.base.llms.base import BaseLLM

from llamaindex_redis_tiered.llm.call import Call, Given
from llamaindex_redis_tiered.llm.codec import Answer
from llamaindex_redis_tiered.llm.outcome import Response
from llamaindex_redis_tiered.llm.replay import Recorder, replayed
from llamaindex_redis_tiered.llm.state import State
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.control import controlled

__all__ = ["Given", "Target", "astream", "awhole", "stream", "whole"]

# The models that are being asked in this context: what they ask of themselves meanwhile is part of it.
_asked: ContextVar[frozenset[int]] = ContextVar("redis_tiered_models_asked", default=frozenset())


class Target(NamedTuple):
    """A model and one way to ask it.

    Attributes:
        model: that is cached.
        state: its cache; None: it has none.
        ask: the model's own method.
        subject: the model whose settings are part of a request.
    """

    model: BaseLLM
    state: State | None
    ask: Callable[..., Any]
    subject: BaseLLM


def whole(target: Target, given: Given) -> Response:
    """An answer that is given as one."""
    call = _begun(target, given, streaming=False, blocking=True)
    if call is None:
        return given.to(target.ask)  # type: ignore[no-any-return]
    with controlled(call.control):
        answer = call.opened(call.lookup())
    if answer is not None:
        return answer.response
    try:
        with _asking(target, call, blocking=True):
            response: Response = given.to(target.ask)
    except BaseException:
        call.abandon("failed")
        raise
    call.keep(call.verdict_on(response))
    return response


async def awhole(target: Target, given: Given) -> Response:
    """As `whole`."""
    call = _begun(target, given, streaming=False, blocking=False)
    if call is None:
        return await given.to(target.ask)  # type: ignore[no-any-return]
    with controlled(call.control):
        answer = call.opened(await call.alookup())
    if answer is not None:
        return answer.response
    try:
        with _asking(target, call, blocking=False):
            response: Response = await given.to(target.ask)
    except BaseException:
        call.abandon("failed")
        raise
    await call.akeep(call.verdict_on(response))
    return response


def stream(target: Target, given: Given) -> Iterator[Any]:
    """An answer in pieces."""
    call = _begun(target, given, streaming=True, blocking=True)
    if call is None:
        return given.to(target.ask)  # type: ignore[no-any-return]
    with controlled(call.control):
        answer = call.opened(call.lookup())
    if answer is not None:
        return replayed(answer)
    try:
        with _asking(target, call, blocking=True):
            inner = iter(given.to(target.ask))
    except BaseException:
        call.abandon("failed")
        raise
    generator = _followed(target, call, inner)
    call.lasts_as_long_as(generator, lambda each: each.gi_frame is None)
    return generator


async def astream(target: Target, given: Given) -> AsyncIterator[Any]:
    """As `stream`."""
    call = _begun(target, given, streaming=True, blocking=False)
    if call is None:
        return await _awaited(given.to(target.ask))  # type: ignore[no-any-return]
    with controlled(call.control):
        answer = call.opened(await call.alookup())
    if answer is not None:
        return _areplayed(answer)
    try:
        with _asking(target, call, blocking=False):
            inner = aiter(await _awaited(given.to(target.ask)))
    except BaseException:
        call.abandon("failed")
        raise
    generator = _afollowed(target, call, inner)
    call.lasts_as_long_as(generator, lambda each: each.ag_frame is None)
    return generator


async def _awaited(given: Any) -> Any:
    # Some classes declare `astream_chat` as the generator itself.
    return await given if inspect.isawaitable(given) else given


async def _areplayed(answer: Answer) -> AsyncIterator[Any]:
    for chunk in replayed(answer):
        yield chunk


def _followed(target: Target, call: Call, inner: Iterator[Any]) -> Iterator[Any]:
    """The provider's stream; stored when it has ended."""
    recorder = Recorder()
    try:
        while True:
            # Only while the provider is at it: between two pieces the caller may ask this model.
            with _asking(target, call, blocking=True):
                chunk = next(inner, _END)
            if chunk is _END:
                break
            recorder.see(chunk)
            yield chunk
    except GeneratorExit:
        call.unfinished()
        raise
    except BaseException:
        call.abandon("failed")
        raise
    finally:
        if (close := getattr(inner, "close", None)) is not None:
            close()
    call.keep(call.verdict(recorder))


async def _afollowed(target: Target, call: Call, inner: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """As `_followed`."""
    recorder = Recorder()
    try:
        while True:
            with _asking(target, call, blocking=False):
                chunk = await anext(inner, _END)
            if chunk is _END:
                break
            recorder.see(chunk)
            yield chunk
    except GeneratorExit:
        call.unfinished()
        raise
    except BaseException:
        call.abandon("failed")
        raise
    finally:
        if (close := getattr(inner, "aclose", None)) is not None:
            await close()
    await call.akeep(call.verdict(recorder))


_END: Final[Any] = object()


@contextmanager
def _asking(target: Target, call: Call, *, blocking: bool) -> Iterator[None]:
    """While the model is at it."""
    token = _asked.set(_asked.get() | {id(target.model)})
    asking = call.asking
    asking.begin(target.model, call.key, blocking)
    try:
        yield
    finally:
        asking.end(target.model, call.key, blocking)
        try:
            _asked.reset(token)
        except ValueError:
            pass  # a coroutine that is closed with its loop, from elsewhere


def _begun(target: Target, given: Given, *, streaming: bool, blocking: bool) -> Call | None:
    """The call, or None if the provider is to be asked right away.

    Raises:
        InvalidInput: `cache` is no bool.
    """
    use = given.options.pop("cache", True)
    if not isinstance(use, bool):
        raise InvalidInput(f"cache must be a bool, got {type(use).__name__}")
    if target.state is None or id(target.model) in _asked.get():
        return None
    call = Call(target.state, target.subject, given, streaming, use)
    # Some classes answer `achat` by `chat` in a thread that knows nothing of the context. That must
    # not wait for the call that it is part of.
    if call.key and call.asking.is_asked(target.model, call.key, not blocking):
        return None
    return call
