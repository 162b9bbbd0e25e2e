"""What a session's log is to the session, wherever it is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from redis_tiered.errors import Unreadable
from redis_tiered.flow import Flow
from redis_tiered.sessions import scripts
from redis_tiered.sessions.message import Message, verify
from redis_tiered.sessions.record import Record, State, from_item

__all__ = ["Draft", "Log", "Recent", "content_of", "fields_of", "microseconds"]


class Draft(NamedTuple):
    """A message about to be written, and its bytes."""

    message: Message
    value: bytes
    tokens: int
    counter: str
    created: int
    archived: bool

    def record(self, sequence: int) -> Record:
        return Record(self.value, sequence, self.tokens, self.counter, self.created, self.archived)


class Recent(NamedTuple):
    """The end of a session's log at one moment.

    Attributes:
        newest: active messages, in order; maybe not all.
        lead: the first active message, if that is a system message.
        tier: `"redis"` or `"durable"`.
    """

    state: State
    newest: Sequence[Record]
    lead: Record | None
    tier: str


class Log(Protocol):
    """The flows of one session's log. All raise `TierError`; then nothing was acknowledged."""

    def append(self, drafts: Sequence[Draft]) -> Flow[None]:
        """Write messages at the end; those whose id is there already change nothing."""

    def replace(self, drafts: Sequence[Draft]) -> Flow[None]:
        """Write messages, of different ids, in place of all that there are."""

    def remove(
        self,
        *,
        id: str | None = None,
        index: int | None = None,
        oldest: int | None = None,
        among: Collection[str] | None = None,
        archived: bool | None = None,
        archive: bool = False,
    ) -> Flow[tuple[Record, ...]]:
        """Delete, or archive, one message by id, the active one at a place, the oldest active ones
        (up to the first whose id is not `among` those given), or all that are archived, or are
        not, or both (None); gives them."""

    def edit(self, id: str, draft: Draft) -> Flow[bool]:
        """Put another message of the same id in the place of one."""

    def touch(self, change: Callable[[State], State], *, make: bool) -> Flow[None]:
        """Change the session's `State`; make the session if it is not there."""

    def clear(self) -> Flow[None]:
        """Delete the session."""

    def close(self) -> Flow[None]:
        """Write what waits to be written, and drop the window."""

    def summarize(self, summary: bytes, since: int, until: int) -> Flow[State | None]:
        """Keep a summary up to sequence `until`, if the one that is kept reaches to `since`; gives
        what the session is then."""

    def count_again(self, counter: str, tokens: Callable[[Message], int]) -> Flow[None]:
        """Count what another counter counted."""

    def recent(self, count: int | None) -> Flow[Recent | None]:
        """The newest `count` active messages at least, or as many as a window holds (None)."""

    def page(
        self,
        offset: int,
        limit: int | None,
        *,
        newest: bool,
        archived: bool | None,
        before: int | None = None,
    ) -> Flow[tuple[Record, ...]]:
        """Part of the log, in the order asked for; `before`: only sequences below it."""

    def search(self, text: str, offset: int, limit: int) -> Flow[tuple[Record, ...]]:
        """Messages whose text holds another, case folded; newest first."""


def microseconds() -> int:
    return int(time.time() * 1_000_000)


def fields_of(state: State, lead: Record | None = None) -> list[Any]:
    """Fields of a window's hash and their values, in turns; see `scripts.FIELDS`."""
    words: list[Any] = []
    for field, value in zip(scripts.FIELDS, state, strict=False):
        words += (field, b"" if value is None else value)
    if lead is not None:
        words += ("s", lead.item())
    return words


def content_of(reply: Any) -> tuple[State, list[Record], Record | None]:
    """What `scripts.READ` gave: state, items, and the first message if it is a system message.

    Raises:
        Unreadable: something in it is not ours.
    """
    _, fields, items = reply
    v, n, st, ag, cx, m, x, t, k, c, b, last, y, z, s = fields
    try:
        state = State(
            int(v),
            int(n),
            st.decode(),
            ag.decode() if ag else None,
            cx,
            int(m),
            int(x),
            int(t),
            int(k),
            c.decode(),
            int(b),
            int(last),
            y or None,
            int(z),
        )
        if cx:
            orjson.loads(cx)
    except (TypeError, ValueError, AttributeError):
        raise Unreadable("fields") from None
    if y:
        verify(y)
    return state, [from_item(item) for item in items], from_item(s) if s else None
