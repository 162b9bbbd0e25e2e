"""LlamaIndex's chat store, as `ChatMemoryBuffer` uses it."""

from __future__ import annotations

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.storage.chat_store.base import BaseChatStore
from llama_index.core.storage.chat_store.loading import RECOGNIZED_CHAT_STORES

from llamaindex_redis_tiered._messages import opened, to_core
from llamaindex_redis_tiered._store import TieredStore, messages_from, messages_of
from redis_tiered.errors import InvalidInput
from redis_tiered.sessions.message import Stored

__all__ = ["RedisTieredChatStore"]


class RedisTieredChatStore(TieredStore, BaseChatStore):
    """Conversations in Redis and the durable tier, one per key.

        store = RedisTieredChatStore()
        memory = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="user-1")

    Every method is one step that happens as a whole or not at all, and exists natively in sync and
    async. A dump (`to_dict`, `ChatMemoryBuffer.to_string`, a workflow's `Context.to_dict`) says
    where the conversations are, not how to get in: see `from_dict`.

    Args:
        tiers: where conversations live; None: `Tiers.default()`.
        ttl, window, durability, token_counter: see `redis_tiered.Session`.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    @classmethod
    def class_name(cls) -> str:
        return "RedisTieredChatStore"

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace a conversation, archived messages included.

        Raises:
            InvalidInput: a message cannot be stored; nothing is changed.
            TierError: a tier failed; nothing is changed.
        """
        self._session(key).replace(messages_from(messages))

    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """As `set_messages`."""
        await self._session(key).areplace(messages_from(messages))

    def get_messages(self, key: str) -> list[ChatMessage]:
        """The messages of a conversation, oldest first; each call makes new objects."""
        return messages_of(self._session(key).window().messages)

    async def aget_messages(self, key: str) -> list[ChatMessage]:
        """As `get_messages`."""
        return messages_of((await self._session(key).awindow()).messages)

    def add_message(self, key: str, message: ChatMessage, idx: int | None = None) -> None:
        """Append a message.

        Args:
            key: of the conversation.
            message: in which everything can be stored; see `set_messages`.
            idx: only None; a conversation is a log, and `set_messages` rewrites it.
        """
        _refuse(idx)
        self._session(key).append((to_core(message, "message"),))

    async def async_add_message(
        self, key: str, message: ChatMessage, idx: int | None = None
    ) -> None:
        """As `add_message`."""
        _refuse(idx)
        await self._session(key).aappend((to_core(message, "message"),))

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Delete a conversation, archived messages included; returns them, None if there are none."""
        return messages_of(self._session(key).forget()) or None

    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        """As `delete_messages`."""
        return messages_of(await self._session(key).aforget()) or None

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete the message at a place in `get_messages`, negative from the end; None: no such."""
        return _opened(self._session(key).pop(idx))

    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        """As `delete_message`."""
        return _opened(await self._session(key).apop(idx))

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Delete the newest message; None: there is none."""
        return self.delete_message(key, -1)

    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        """As `delete_last_message`."""
        return await self.adelete_message(key, -1)

    def get_keys(self) -> list[str]:
        """The keys of all conversations of this tenant that hold messages, of both frameworks."""
        return self._keys()

    async def aget_keys(self) -> list[str]:
        """As `get_keys`."""
        return await self._akeys()


RECOGNIZED_CHAT_STORES[RedisTieredChatStore.class_name()] = RedisTieredChatStore  # type: ignore[assignment]


def _refuse(idx: object) -> None:
    if idx is not None:
        raise InvalidInput(
            f"idx must be None, got {idx!r:.100}: messages are appended; set_messages rewrites"
        )


def _opened(stored: Stored | None) -> ChatMessage | None:
    return None if stored is None else opened(stored.message)
