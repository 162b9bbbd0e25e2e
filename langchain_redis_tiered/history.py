"""LangChain's chat message history on the three tiers."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, SystemMessage

from langchain_redis_tiered._messages import from_core, to_core
from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.sessions.message import Message, Stored
from redis_tiered.sessions.session import Session
from redis_tiered.sessions.tokens import TokenCounter, callable_name
from redis_tiered.sessions.trimming import limits
from redis_tiered.tiers.tiers import Tiers

__all__ = ["RedisTieredChatMessageHistory"]

logger = logging.getLogger("redis_tiered")

CountTokens = Callable[[list[BaseMessage]], int]
Summary = BaseMessage | str | None
Summarize = Callable[[BaseMessage | None, list[BaseMessage]], Summary | Awaitable[Summary]]


class RedisTieredChatMessageHistory(BaseChatMessageHistory):
    """A conversation: nothing that was added is lost, and `messages` is the part that fits.

        history = RedisTieredChatMessageHistory("user-7", turns=20)
        RunnableWithMessageHistory(chain, RedisTieredChatMessageHistory)

    Messages come back equal to what was added: class, id, tool calls, usage, metadata, artifact.
    One whose id is there already is not added again; one without an id always is.

    Args:
        session_id: 1 to 256 characters, any.
        tiers: where it lives and for which tenant; None: `Tiers.default()`.
        max_messages, max_tokens, turns, include_system: what `messages` shows, see
            `redis_tiered.Session.window`; without a limit, everything.
        token_counter: `"approximate"`; a function of a list of messages, as `trim_messages` takes
            one; a `redis_tiered` token counter; None: see `redis_tiered.Session`. Each message is
            counted alone, once, when it is added.
        summarize: a function, or coroutine function, of the summary so far (or None) and the
            messages that have just fallen out of `messages`; it gives the new summary as a
            message or text, or None. Text becomes a `SystemMessage`.
        ttl, window, durability: see `redis_tiered.Session`.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __init__(
        self,
        session_id: str,
        tiers: Tiers | None = None,
        *,
        max_messages: int | None = None,
        max_tokens: int | None = None,
        turns: int | None = None,
        include_system: bool = True,
        token_counter: CountTokens | TokenCounter | Literal["approximate"] | None = None,
        summarize: Summarize | None = None,
        ttl: float = 7200.0,
        window: int = 200,
        durability: Literal["through", "behind", "none"] | None = None,
    ) -> None:
        # The base class is deprecated for those who write one; whoever only uses ours must not be
        # warned, so its constructor is passed over. It does nothing else.
        super(BaseChatMessageHistory, self).__init__()
        if tiers is not None and not isinstance(tiers, Tiers):
            raise InvalidInput(f"tiers must be a Tiers or None, got {type(tiers).__name__}")
        if not isinstance(include_system, bool):
            raise InvalidInput(
                f"include_system must be a bool, got {type(include_system).__name__}"
            )
        limits(max_messages, max_tokens, turns)
        self._limits: dict[str, Any] = {
            "max_messages": max_messages,
            "max_tokens": max_tokens,
            "turns": turns,
            "include_system": include_system,
        }
        self._options: dict[str, Any] = {
            **self._limits,
            "token_counter": token_counter,
            "summarize": summarize,
            "ttl": ttl,
            "window": window,
            "durability": durability,
        }
        self._session = Session(
            Tiers.default() if tiers is None else tiers,
            session_id,
            ttl=ttl,
            window=window,
            durability=durability,
            token_counter=_counter(token_counter),
            summarize=_summarizer(summarize),
        )

    @property
    def session(self) -> Session:
        """The conversation itself: edit, delete, search, archive, close, context."""
        return self._session

    @property
    def tiers(self) -> Tiers:
        return self._session.tiers

    def __repr__(self) -> str:
        return f"RedisTieredChatMessageHistory({self._session.id!r}, {self.tiers!r})"

    @property
    def messages(self) -> list[BaseMessage]:
        """The part of the conversation that fits, each time newly made.

        Raises:
            TierError: no tier can be read.
        """
        return _opened(self._session.window(**self._limits).messages)

    @messages.setter
    def messages(self, value: object) -> None:
        # `history.messages = history.messages[-10:]` would delete what does not fit.
        raise AttributeError(
            "messages cannot be set: it shows the part of the log that fits. Limit it by "
            "max_messages, max_tokens or turns; add with add_messages; delete with clear; change "
            "the log itself by session.edit, session.delete or session.replace"
        )

    async def aget_messages(self) -> list[BaseMessage]:
        """As `messages`."""
        return _opened((await self._session.awindow(**self._limits)).messages)

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Write messages, all or none, durable tier first.

        Raises:
            InvalidInput: one cannot be stored as it is; says where in it. Nothing was written.
            TierError: a tier failed; nothing was acknowledged, and it may be done again.
        """
        self._session.append(_closed(messages))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """As `add_messages`."""
        await self._session.aappend(_closed(messages))

    def clear(self) -> None:
        """Delete the conversation and its log, in every tier.

        Raises:
            TierError: a tier could not be told.
        """
        self._session.clear()

    async def aclear(self) -> None:
        """As `clear`."""
        await self._session.aclear()

    def log(
        self,
        offset: int = 0,
        limit: int | None = None,
        *,
        order: Literal["oldest", "newest"] = "oldest",
    ) -> list[BaseMessage]:
        """Part of everything that was ever added, whether it fits or not.

        Args:
            offset: how many to skip.
            limit: how many at most; None: all.
            order: which come first.
        """
        return _opened(self._session.log(offset, limit, order=order))

    async def alog(
        self,
        offset: int = 0,
        limit: int | None = None,
        *,
        order: Literal["oldest", "newest"] = "oldest",
    ) -> list[BaseMessage]:
        """As `log`."""
        return _opened(await self._session.alog(offset, limit, order=order))

    def __reduce__(self) -> tuple[Callable[..., RedisTieredChatMessageHistory], tuple[Any, ...]]:
        return _rebuild, (type(self), self._session.id, self.tiers, self._options)


def _rebuild(
    kind: type[RedisTieredChatMessageHistory],
    session_id: str,
    tiers: Tiers,
    options: dict[str, Any],
) -> RedisTieredChatMessageHistory:
    return kind(session_id, tiers, **options)


def _closed(messages: object) -> list[Message]:
    if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
        raise InvalidInput(f"messages must be a list of BaseMessage, got {type(messages).__name__}")
    return [to_core(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _opened(messages: Iterable[Stored]) -> list[BaseMessage]:
    return [_open(item.message) for item in messages]


def _open(message: Message) -> BaseMessage:
    try:
        return from_core(message)
    except Unreadable as problem:
        # Written by a newer version, as while a fleet is upgraded: the shared part still tells who
        # said what.
        _warn_once(problem.reason)
        return from_core(replace(message, format="", native=b""))


@functools.lru_cache(maxsize=16)
def _warn_once(reason: str) -> None:
    logger.warning(
        "messages of a session were written by another version (%s): "
        "their text and tool calls are read, nothing else",
        reason,
    )


# --- functions of LangChain's messages as those of the session's --------------------------------


class _Counter:
    """A function that counts a list of messages, as a `TokenCounter`."""

    def __init__(self, function: Callable[[Any], int]) -> None:
        self.name = callable_name(function)
        self._function = function
        self._one = _takes_one(function)

    def count(self, message: Message) -> int:
        opened = _open(message)
        return self._function(opened if self._one else [opened])


def _takes_one(function: Callable[..., Any]) -> bool:
    """Whether it counts one message, by the annotation that `trim_messages` looks at."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # of a built-in function
        return False
    return bool(parameters) and parameters[0].annotation in (BaseMessage, "BaseMessage")


def _counter(given: Any) -> Any:
    if hasattr(given, "get_num_tokens_from_messages"):
        raise InvalidInput(
            f"token_counter must be a function of a list of messages, got the model "
            f"{type(given).__name__}: models may count over the network. If that is wanted, pass "
            "its get_num_tokens_from_messages"
        )
    if isinstance(given, type) or not callable(given) or callable(getattr(given, "count", None)):
        return given  # for Session to take or to refuse
    if inspect.iscoroutinefunction(given):
        raise InvalidInput("token_counter must be a function, got a coroutine function")
    return _Counter(given)


def _summarizer(given: Any) -> Any:
    if given is None or not callable(given):
        return given  # for Session to take or to refuse
    if inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(
        getattr(given, "__call__", None)  # noqa: B004
    ):

        async def asummarize(
            previous: Message | None, overflow: tuple[Stored, ...]
        ) -> Message | None:
            return _summary(await given(_previous(previous), _opened(overflow)))

        return asummarize

    def summarize(previous: Message | None, overflow: tuple[Stored, ...]) -> Message | None:
        return _summary(given(_previous(previous), _opened(overflow)))

    return summarize


def _previous(summary: Message | None) -> BaseMessage | None:
    return None if summary is None else _open(summary)


def _summary(made: object) -> Message | None:
    if made is None:
        return None
    if isinstance(made, str):
        made = SystemMessage(str(made))
    if inspect.iscoroutine(made):
        made.close()  # or Python warns that it was never awaited
    if not isinstance(made, BaseMessage):
        raise InvalidInput(
            f"summarize must return a message, a str or None, got {type(made).__name__}"
        )
    return to_core(made, "summarize's result")
