"""What the stores share: how one is saved and loaded; of the chat stores, options and sessions.

A dump names the place of its tiers (endpoint, database, namespace, tenant) and holds no way in. It
is loaded on a live `Tiers` of that place that a store of this process was made with, else on
`Tiers.default()` if that is of this place, else not at all: a conversation must not go on elsewhere
without anybody noticing. A pickle holds the `Tiers`, and with it the credentials.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Annotated, Any, Final, Literal, Self
from weakref import WeakKeyDictionary

from llama_index.core.async_utils import asyncio_run
from llama_index.core.base.llms.types import ChatMessage
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from llamaindex_redis_tiered._messages import opened, to_core
from redis_tiered.errors import InvalidInput, RedisTieredError
from redis_tiered.sessions.message import Message, Stored
from redis_tiered.sessions.session import Session
from redis_tiered.sessions.sessions import Page
from redis_tiered.sessions.tokens import TokenCounter
from redis_tiered.tiers.tiers import Tiers

__all__ = [
    "Configured",
    "PlacedTiers",
    "TieredStore",
    "called_blocking",
    "messages_from",
    "messages_of",
    "perform",
    "tiers_from",
]

_PAGE: Final = 500  # keys per query
# LlamaIndex's way from a blocking method to a coroutine, and the function in it that a thread runs.
_BLOCKING: Final = {inspect.unwrap(asyncio_run).__code__}
_BLOCKING.update(code for code in next(iter(_BLOCKING)).co_consts if isinstance(code, CodeType))
_HOW: Final = (
    "make a store with that Tiers before loading, set the environment so that Tiers.default() is "
    'it, or put a Tiers in place of "tiers" in the dump'
)


class _Live:
    """The tiers that stores of this process were made with, as long as anybody holds them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tiers: WeakKeyDictionary[Tiers, None] = WeakKeyDictionary()  # oldest first

    def add(self, tiers: Tiers) -> Tiers:
        with self._lock:
            self._tiers.setdefault(tiers)
        return tiers

    def of(self, place: str) -> Tiers | None:
        with self._lock:
            found = [
                tiers for tiers in self._tiers if not tiers.closed and place_of(tiers) == place
            ]
        return found[0] if found else None


_live: Final = _Live()


def place_of(tiers: Tiers) -> str:
    """Where its data is, without credentials."""
    return tiers.place


def called_blocking() -> bool:
    """Whether a blocking method of LlamaIndex waits for this coroutine, by `asyncio_run`.

    Then the blocking clients serve it, which are connected already. The loop may be of this one
    call: `asyncio_run` makes one in a thread, and closes it without an end to what goes on there.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _BLOCKING:
            return True
        frame = frame.f_back
    return False


async def perform(target: object, name: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of a session, or a collection, by its blocking name.

    It is that method or its twin, on the clients that the caller needs.
    """
    if called_blocking():
        return getattr(target, name)(*arguments, **options)
    return await getattr(target, f"a{name}")(*arguments, **options)


def tiers_from(given: object) -> Tiers:
    """What a store is made with: a `Tiers`, the place of one, or None for the default.

    Raises:
        InvalidInput: something else, or no `Tiers` of that place is open in this process.
    """
    return _live.add(_tiers_from(given))


def _tiers_from(given: object) -> Tiers:
    if given is None:
        return Tiers.default()
    if isinstance(given, Tiers):
        return given
    if not isinstance(given, str) or not given.startswith("Tiers("):
        # A URL is not repeated, for its password.
        raise InvalidInput(f"tiers must be a Tiers or None, got {type(given).__name__}")
    if (found := _live.of(given)) is not None:
        return found
    try:
        default = Tiers.default()
    except RedisTieredError:  # the environment names none that can be had here
        default = None
    if default is None or place_of(default) != given:
        raise InvalidInput(f"tiers must be open in this process, this was saved on {given}: {_HOW}")
    return default


def _name_of(counter: object) -> str | None:
    return counter if isinstance(counter, str) else None


# Dumped as its place.
PlacedTiers = Annotated[Tiers, PlainSerializer(place_of), WithJsonSchema({"type": "string"})]


class TieredStore(BaseModel):
    """Base of the chat stores: a pydantic model, as LlamaIndex wants it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    tiers: PlacedTiers = Field(
        description="Where conversations live; dumped as its place, without credentials."
    )
    ttl: float = Field(description="Seconds a conversation stays in Redis after its last use.")
    window: int = Field(description="Newest messages that Redis holds of a conversation.")
    durability: Literal["through", "behind", "none"] | None = Field(
        description="When an added message is in the durable tier."
    )
    token_counter: Annotated[Any, PlainSerializer(_name_of), WithJsonSchema({"type": "string"})] = (
        Field(description="Counts tokens; an object of the user's is not dumped.")
    )

    def __init__(
        self,
        tiers: Tiers | None = None,
        *,
        ttl: float = 7200.0,
        window: int = 200,
        durability: Literal["through", "behind", "none"] | None = None,
        token_counter: TokenCounter | Literal["approximate"] | None = None,
        **dumped: Any,
    ) -> None:
        # `class_name` is in LlamaIndex's dumps.
        if unknown := sorted(dumped.keys() - {"class_name"}):
            raise InvalidInput(f"unknown arguments {unknown}; accepted: {sorted(_OPTIONS)}")
        found = tiers_from(tiers)
        options: dict[str, Any] = {
            "ttl": ttl,
            "window": window,
            "durability": durability,
            "token_counter": token_counter,
        }
        found.session("checked", **options)  # no I/O: it refuses what cannot be used
        super().__init__(tiers=found, **options)

    @classmethod
    def class_name(cls) -> str:
        """What a dump says it is of."""
        return cls.__name__

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """A dump: options and the place of the tiers, without credentials."""
        return self.model_dump(**kwargs) | {"class_name": self.class_name()}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Load a dump, on the tiers it was made on.

        Those are a `Tiers` that is open in this process and was given to a store, or else
        `Tiers.default()`, if the place is the same: endpoint, database, namespace and tenant.

        Args:
            data: what `to_dict` made. A `Tiers` or None (the default) may replace its `"tiers"`,
                also inside the dump of a memory.
            kwargs: replace items of `data`, such as `tiers=...`.

        Raises:
            InvalidInput: there are no such tiers in this process.
        """
        return cls(**{**data, **kwargs})

    def _session(self, key: str) -> Session:
        return self.tiers.session(key, **self._options())

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OPTIONS if name != "tiers"}

    def _keys(self) -> list[str]:
        keys: dict[str, None] = {}
        after: str | None = None
        while True:
            page = self.tiers.sessions.list(limit=_PAGE, after=after)
            keys |= dict.fromkeys(_keys_of(page))
            if (after := page.next) is None:
                return list(keys)

    async def _akeys(self) -> list[str]:
        keys: dict[str, None] = {}
        after: str | None = None
        while True:
            page = await self.tiers.sessions.alist(limit=_PAGE, after=after)
            keys |= dict.fromkeys(_keys_of(page))
            if (after := page.next) is None:
                return list(keys)

    def __reduce__(self) -> tuple[Callable[..., TieredStore], tuple[Any, ...]]:
        return _rebuild, (type(self), self.tiers, self._options())

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()  # a copy shares the tiers and their connections


_OPTIONS: Final = tuple(TieredStore.model_fields)


class Configured:
    """A store that is pickled and copied as its options and its `Tiers`, and no model of pydantic."""

    tiers: Tiers
    _options: dict[str, Any]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuild, (type(self), self.tiers, self._options)

    def __copy__(self) -> Self:
        made: Self = _rebuild(type(self), self.tiers, self._options)
        return made

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.__copy__()  # a copy shares the tiers and their connections


def _rebuild(kind: type[Any], tiers: Tiers, options: dict[str, Any]) -> Any:
    return kind(tiers, **options)


def _keys_of(page: Page) -> list[str]:
    """Of the sessions that hold messages: one that was emptied is still there."""
    return [info.id for info in page.sessions if info.messages or info.archived]


def messages_from(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """All of them, or none is stored.

    Raises:
        InvalidInput: not a list, or one of its messages cannot be stored.
    """
    if not isinstance(messages, list | tuple):
        raise InvalidInput(f"messages must be a list of ChatMessage, got {type(messages).__name__}")
    return tuple(to_core(message, f"messages[{i}]") for i, message in enumerate(messages))


def messages_of(stored: Sequence[Stored]) -> list[ChatMessage]:
    return [opened(item.message) for item in stored]
