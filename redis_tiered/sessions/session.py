"""One conversation: the public face of `redis_tiered.sessions`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Literal

from redis_tiered.checks import integer, text
from redis_tiered.errors import InvalidInput
from redis_tiered.sessions.conversation import Conversation, Window
from redis_tiered.sessions.log import Draft
from redis_tiered.sessions.message import Message, Stored
from redis_tiered.sessions.record import SessionInfo
from redis_tiered.sessions.trimming import Limits, limits

__all__ = ["Session"]

_MUCH_TEXT = 100_000


class Session(Conversation):
    """A conversation: a log that loses nothing, and a window of its newest messages.

    The log is in the durable tier; Redis holds the window. No reader sees a window older than the
    last append that was acknowledged, whatever died in between. Every method has an asyncio twin
    with an `a` before its name.

    Args:
        tiers: where it lives and for which tenant.
        session_id: 1 to 256 characters, any; together with tenant and namespace at most 1600 bytes
            when percent-encoded (a letter of ASCII is 1, a Chinese one 9).
        ttl: seconds that the window stays in Redis after it was last used.
        window: messages that Redis holds of it, 1 to 2000; more are read from the durable tier.
        durability: `"through"` (what `append` has returned from is in the durable tier);
            `"behind"`: it is in a Redis Stream and drained from there, so it is as safe as Redis is:
            without persistence, what waits is lost with the server. While Redis is away, the durable
            tier is written and read at once: what waits is not seen, and a process that put it
            there may not append. A deletion may be undone if the process that drains is held up for
            seconds in the middle of it. All who use a session must agree on this. `"none"`: in Redis alone, and for
            `ttl` seconds. None: `"through"` if there is a durable tier.
        token_counter: see `redis_tiered.sessions.tokens`; None: tiktoken if one of its encodings is
            on this machine's disk, else an approximation.
        summarize: a function, or coroutine function, of the summary so far (or None) and the
            messages that have just fallen out of a view; it gives the new summary, which is kept
            and shown at the view's head. None gives no summary.

    Raises:
        InvalidInput: an argument has the wrong type or range.
    """

    def __repr__(self) -> str:
        return f"Session({self.tiers!r}, {self.id!r}, durability={self.durability!r})"

    def append(self, messages: Sequence[Message], *, archived: bool = False) -> tuple[str, ...]:
        """Write messages at the end of the log and return their ids.

        A message whose id is in the log already changes nothing, so that an append that failed
        without a word of its fate may be made again.

        Args:
            messages: all of them are written, or none.
            archived: keep them in the log but show them in no window.

        Raises:
            InvalidInput: a message cannot be stored; nothing was written.
            TierError: a tier failed; nothing was acknowledged.
        """
        drafts = self._drafts(messages, archived=archived)
        return self.tiers.run(self._append(drafts))

    async def aappend(
        self, messages: Sequence[Message], *, archived: bool = False
    ) -> tuple[str, ...]:
        """As `append`."""
        drafts = await self._adrafts(messages, archived=archived)
        return await self.tiers.arun(self._append(drafts))

    def window(
        self,
        *,
        max_messages: int | None = None,
        max_tokens: int | None = None,
        turns: int | None = None,
        include_system: bool = True,
    ) -> Window:
        """The newest messages that fit all limits; without a limit, all active messages.

        A view holds the system message that the log begins with, whole turns (a turn begins with a
        human message), and never parts a tool call from its results. A newest turn that does not
        fit is cut between two such units; the newest unit is shown even if it is too large.

        Args:
            max_messages: system message and summary included.
            max_tokens: the same, as `token_counter` counts.
            turns: human messages.
            include_system: show the log's leading system message.

        Raises:
            InvalidInput: a limit is not an int >= 1, or the token counter failed.
            TierError: neither tier can be read.
        """
        self._check_may_call()
        wanted = _checked_limits(max_messages, max_tokens, turns, include_system)
        return self.tiers.run(self._view(wanted, include_system=include_system))

    async def awindow(
        self,
        *,
        max_messages: int | None = None,
        max_tokens: int | None = None,
        turns: int | None = None,
        include_system: bool = True,
    ) -> Window:
        """As `window`."""
        wanted = _checked_limits(max_messages, max_tokens, turns, include_system)
        return await self.tiers.arun(self._view(wanted, include_system=include_system))

    def log(
        self,
        offset: int = 0,
        limit: int | None = None,
        *,
        order: Literal["oldest", "newest"] = "oldest",
        archived: bool | None = None,
    ) -> tuple[Stored, ...]:
        """Part of everything that was ever appended.

        Args:
            offset: how many to skip.
            limit: how many at most; None: all.
            order: which come first.
            archived: True: only archived messages; False: only active ones; None: both.

        Raises:
            InvalidInput: an argument has the wrong type or range.
            TierError: the durable tier (with `durability="none"`, Redis) failed.
        """
        newest = _check_page(offset, limit, order, archived)
        return self.tiers.run(self._page(offset, limit, newest, archived))

    async def alog(
        self,
        offset: int = 0,
        limit: int | None = None,
        *,
        order: Literal["oldest", "newest"] = "oldest",
        archived: bool | None = None,
    ) -> tuple[Stored, ...]:
        """As `log`."""
        newest = _check_page(offset, limit, order, archived)
        return await self.tiers.arun(self._page(offset, limit, newest, archived))

    def count(self, *, archived: bool | None = False) -> int:
        """How many messages there are: active (False), archived (True), or both (None)."""
        _check_archived(archived)
        return self.tiers.run(self._count(archived))

    async def acount(self, *, archived: bool | None = False) -> int:
        """As `count`."""
        _check_archived(archived)
        return await self.tiers.arun(self._count(archived))

    def info(self) -> SessionInfo | None:
        """What is known of the session beside its messages; None: there is no such session."""
        return self.tiers.run(self._info())

    async def ainfo(self) -> SessionInfo | None:
        """As `info`."""
        return await self.tiers.arun(self._info())

    def update(self, *, context: dict[str, Any] | None = None, agent: str | None = None) -> None:
        """Set keys of the session's context (a value None takes a key away), and who answers now.

        Raises:
            InvalidInput: the context is not JSON, or is more than 1 MiB with what is there.
            TierError: a tier failed; nothing was acknowledged.
        """
        self.tiers.run(self._update(context, agent))

    async def aupdate(
        self, *, context: dict[str, Any] | None = None, agent: str | None = None
    ) -> None:
        """As `update`."""
        await self.tiers.arun(self._update(context, agent))

    def edit(self, id: str, message: Message) -> bool:
        """Put another message in the place of the one with an id; False: there is none."""
        _check_id(id)
        return self.tiers.run(self._edited(id, message))

    async def aedit(self, id: str, message: Message) -> bool:
        """As `edit`."""
        _check_id(id)
        return await self.tiers.arun(self._edited(id, message))

    def delete(self, id: str) -> Stored | None:
        """Delete the message with an id and return it; None: there is none."""
        _check_id(id)
        return _one(self.tiers.run(self._remove(id=id)))

    async def adelete(self, id: str) -> Stored | None:
        """As `delete`."""
        _check_id(id)
        return _one(await self.tiers.arun(self._remove(id=id)))

    def pop(self, index: int = -1) -> Stored | None:
        """Delete the active message at a place, negative from the end; None: there is none."""
        integer("index", index, -(1 << 63))
        return _one(self.tiers.run(self._remove(index=index)))

    async def apop(self, index: int = -1) -> Stored | None:
        """As `pop`."""
        integer("index", index, -(1 << 63))
        return _one(await self.tiers.arun(self._remove(index=index)))

    def take(
        self, n: int, *, archive: bool = False, among: Collection[str] | None = None
    ) -> tuple[Stored, ...]:
        """Delete the oldest active messages, or archive them, and return them.

        Args:
            n: at most so many.
            archive: keep them in the log.
            among: stop at the first whose id is not one of these: what came to be the oldest
                since a caller looked is left alone.
        """
        _check_take(n, archive, among)
        return self.tiers.run(self._remove(oldest=n, archive=archive, among=among))

    async def atake(
        self, n: int, *, archive: bool = False, among: Collection[str] | None = None
    ) -> tuple[Stored, ...]:
        """As `take`."""
        _check_take(n, archive, among)
        return await self.tiers.arun(self._remove(oldest=n, archive=archive, among=among))

    def replace(self, messages: Sequence[Message], *, archived: bool = False) -> tuple[str, ...]:
        """Put messages in the place of all that there are, active and archived."""
        drafts = self._drafts(messages, archived=archived)
        return self.tiers.run(self._replace(drafts))

    async def areplace(
        self, messages: Sequence[Message], *, archived: bool = False
    ) -> tuple[str, ...]:
        """As `replace`."""
        drafts = await self._adrafts(messages, archived=archived)
        return await self.tiers.arun(self._replace(drafts))

    def forget(self, *, archived: bool | None = None) -> tuple[Stored, ...]:
        """Delete the active (False), the archived (True) or all messages, and return them."""
        _check_archived(archived)
        return self.tiers.run(self._remove(archived=archived))

    async def aforget(self, *, archived: bool | None = None) -> tuple[Stored, ...]:
        """As `forget`."""
        _check_archived(archived)
        return await self.tiers.arun(self._remove(archived=archived))

    def clear(self) -> None:
        """Delete the session and its log, in every tier."""
        self.tiers.run(self._log.clear())

    async def aclear(self) -> None:
        """As `clear`."""
        await self.tiers.arun(self._log.clear())

    def close(self) -> None:
        """Write what waits to be written and drop the window now; an append reopens the session."""
        self.tiers.run(self._log.close())

    async def aclose(self) -> None:
        """As `close`."""
        await self.tiers.arun(self._log.close())

    def search(self, text: str, *, offset: int = 0, limit: int = 50) -> tuple[Stored, ...]:
        """Messages of the log whose text holds another, whatever its case; newest first."""
        _check_search(text, offset, limit)
        return self.tiers.run(self._search(text, offset, limit))

    async def asearch(self, text: str, *, offset: int = 0, limit: int = 50) -> tuple[Stored, ...]:
        """As `search`."""
        _check_search(text, offset, limit)
        return await self.tiers.arun(self._search(text, offset, limit))

    async def _adrafts(self, messages: Sequence[Message], *, archived: bool) -> list[Draft]:
        # Loading an encoding, counting long texts and packing large contents would keep the loop.
        counters = self.tiers.shared("sessions counters", set)
        long = isinstance(messages, list | tuple) and any(
            isinstance(part, str | bytes) and len(part) > _MUCH_TEXT
            for message in messages
            for part in (getattr(message, "text", ""), getattr(message, "native", b""))
        )
        if self._counter.name in counters and not long:
            return self._drafts(messages, archived=archived)
        drafts = await asyncio.to_thread(self._drafts, messages, archived=archived)
        counters.add(self._counter.name)
        return drafts


def _one(found: tuple[Stored, ...]) -> Stored | None:
    return found[0] if found else None


def _checked_limits(
    max_messages: int | None, max_tokens: int | None, turns: int | None, include_system: object
) -> Limits:
    if not isinstance(include_system, bool):
        raise InvalidInput(f"include_system must be a bool, got {type(include_system).__name__}")
    return limits(max_messages, max_tokens, turns)


def _check_page(offset: object, limit: object, order: object, archived: object) -> bool:
    integer("offset", offset, 0)
    if limit is not None:
        integer("limit", limit, 0)
    if order not in ("oldest", "newest"):
        raise InvalidInput(f"order must be 'oldest' or 'newest', got {order!r:.100}")
    _check_archived(archived)
    return order == "newest"


def _check_search(wanted: object, offset: object, limit: object) -> None:
    text("text", wanted, least=1)
    integer("offset", offset, 0)
    integer("limit", limit, 0)


def _check_archived(value: object) -> None:
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"archived must be a bool or None, got {type(value).__name__}")


def _check_take(n: object, archive: object, among: object) -> None:
    integer("n", n, 0)
    if not isinstance(archive, bool):
        raise InvalidInput(f"archive must be a bool, got {type(archive).__name__}")
    if among is not None and (isinstance(among, str) or not isinstance(among, Collection)):
        raise InvalidInput(f"among must be a collection of ids, got {type(among).__name__}")


def _check_id(id: object) -> None:
    text("id", id, least=1, most=256)
