"""LlamaIndex's database chat store, as `Memory` uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from pydantic import PrivateAttr

from llamaindex_redis_tiered._messages import opened, to_core
from llamaindex_redis_tiered._store import (
    TieredStore,
    called_blocking,
    messages_from,
    messages_of,
    perform,
)
from redis_tiered.errors import InvalidInput
from redis_tiered.sessions.message import Stored

__all__ = ["RedisTieredMemoryStore"]


class RedisTieredMemoryStore(TieredStore, AsyncDBChatStore):
    """The queue and the archive of `Memory`, in Redis and the durable tier.

        memory = Memory.from_defaults(session_id="user-1", chat_store=RedisTieredMemoryStore())

    `Memory.aput` adds a message, reads the queue, decides what is too much and asks to archive
    so many of the oldest: not one step, so of two concurrent ones the second would archive
    what the first meant to keep. Therefore, what `archive_oldest_messages` takes after
    `get_messages` in the same task are the oldest of the messages *read there*, those of them that
    are still in the queue. So concurrent `aput`s lose nothing, archive no message twice and, as each
    keeps at least the newest message that it read, never the whole queue: in the end archived is
    what the one among them archives that saw most. That holds across processes. (`Memory` hands
    what it read to its `memory_blocks`, whoever archived it: these may get a message twice.)

    Under the blocking methods of `Memory` it works with the blocking clients.

    Args:
        tiers: where conversations live; None: `Tiers.default()`.
        ttl, window, durability, token_counter: see `redis_tiered.Session`.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    # Of each task, the messages of the queue that it read last and has not taken: key and ids.
    _read: WeakKeyDictionary[asyncio.Task[Any], tuple[str, tuple[str, ...]]] = PrivateAttr(
        default_factory=WeakKeyDictionary
    )

    @classmethod
    def class_name(cls) -> str:
        return "RedisTieredMemoryStore"

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """Messages of a status, oldest first.

        Args:
            key: of the conversation.
            status: None: both, in the order they came in.
            limit: at most so many, the oldest.
            offset: leave out so many of the oldest.
        """
        archived = _archived(status)
        session = self._session(key)
        self._forget_read()
        if archived is False and limit is None and not offset:
            found = (await perform(session, "window")).messages
            self._remember_read(key, tuple(stored.message.id for stored in found))
        else:
            found = await perform(session, "log", offset or 0, limit, archived=archived)
        return messages_of(found)

    async def count_messages(
        self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE
    ) -> int:
        """How many messages have this status; None: either."""
        session = self._session(key)
        return cast(int, await perform(session, "count", archived=_archived(status)))

    async def add_message(
        self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Append a message.

        Raises:
            InvalidInput: it cannot be stored.
            TierError: a tier failed; it is not stored.
        """
        written = to_core(message, "message")
        self._forget_read()
        await perform(self._session(key), "append", (written,), archived=_is_archived(status))

    async def add_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Append messages: all of them or, after an error, none."""
        written = messages_from(messages)
        self._forget_read()
        if written:
            await perform(self._session(key), "append", written, archived=_is_archived(status))

    async def set_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Replace a conversation, of both statuses: wholly or, after an error, not at all."""
        written = messages_from(messages)
        self._forget_read()
        await perform(self._session(key), "replace", written, archived=_is_archived(status))

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete one message of the queue and return it; None: there is none there.

        Args:
            key: of the conversation.
            idx: its place in `get_messages(key)`, negative from the end. (In
                `SQLAlchemyChatStore` it is the number of a row, which no method tells.)
        """
        self._forget_read()
        stored = await perform(self._session(key), "pop", idx)
        return None if stored is None else opened(stored.message)

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Delete all messages of a status; None: of both."""
        self._forget_read()
        await perform(self._session(key), "forget", archived=_archived(status))

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Delete the n oldest messages of the queue, as `archive_oldest_messages` archives them."""
        return messages_of(await self._take(key, n, archive=False))

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the n oldest messages of the queue and return those that this call archived.

        After this task has read the whole queue with `get_messages(key)`, and changed nothing
        since, they are the n oldest that it read and has not taken yet; those that
        somebody else took in the meantime are not made up for.
        """
        return messages_of(await self._take(key, n, archive=True))

    async def get_keys(self) -> list[str]:
        """The keys of all conversations of this tenant that hold messages, of both frameworks."""
        return self._keys() if called_blocking() else await self._akeys()

    async def _take(self, key: str, n: int, *, archive: bool) -> Sequence[Stored]:
        if type(n) is not int or n < 0:
            raise InvalidInput(f"n must be an int >= 0, got {n!r:.100}")
        session = self._session(key)
        task = asyncio.current_task()
        read = None if task is None else self._read.get(task)
        if task is None or read is None or read[0] != key:
            self._forget_read()
            return cast(Sequence[Stored], await perform(session, "take", n, archive=archive))
        ids = read[1]
        self._read[task] = (key, ids[n:])
        among = frozenset(ids[:n])
        taken = await perform(session, "take", n, archive=archive, among=among)
        return cast(Sequence[Stored], taken)

    def _remember_read(self, key: str, ids: tuple[str, ...]) -> None:
        if (task := asyncio.current_task()) is not None:
            self._read[task] = (key, ids)

    def _forget_read(self) -> None:
        if (task := asyncio.current_task()) is not None:
            self._read.pop(task, None)


def _archived(status: MessageStatus | None) -> bool | None:
    return None if status is None else _is_archived(status)


def _is_archived(status: MessageStatus) -> bool:
    try:
        return MessageStatus(status) is MessageStatus.ARCHIVED
    except ValueError:
        accepted = [status.value for status in MessageStatus]
        raise InvalidInput(f"status must be one of {accepted}, got {status!r:.100}") from None
