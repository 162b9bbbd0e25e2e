"""A message with what the session knows of it, and the session's own counts, as both tiers keep them.

An item of a window is `sequence tokens created archived counter-length | counter | message`, so
that neither tier's copy of a message must be rewritten for the other.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import orjson

from redis_tiered.errors import Unreadable
from redis_tiered.sessions.message import Stored, unpack, verify

__all__ = ["Record", "SessionInfo", "State", "from_item"]

# A counter's name has at most 100 characters, which can be 400 bytes.
_FRAME: Final = struct.Struct(">qQQBH")


class Record(NamedTuple):
    """One message of a log, still as bytes; see `Stored` for the attributes."""

    value: bytes
    sequence: int
    tokens: int
    counter: str
    created: int
    archived: bool = False

    def item(self) -> bytes:
        """As it stands in a window."""
        counter = self.counter.encode()
        frame = _FRAME.pack(self.sequence, self.tokens, self.created, self.archived, len(counter))
        return frame + counter + self.value

    def stored(self) -> Stored:
        """Decoded.

        Raises:
            Unreadable: the bytes are not what `message.pack` writes.
        """
        value, sequence, tokens, counter, created, archived = self
        return Stored(unpack(value), sequence, tokens, counter, created, archived)


def from_item(item: bytes) -> Record:
    """Read an item of a window; its message is verified, not decoded.

    Raises:
        Unreadable: it is not one.
    """
    try:
        sequence, tokens, created, archived, length = _FRAME.unpack_from(item)
        start = _FRAME.size + length
        counter = item[_FRAME.size : start].decode()
    except (struct.error, ValueError):
        raise Unreadable("truncated") from None
    verify(item[start:])
    return Record(item[start:], sequence, tokens, counter, created, archived == 1)


class SessionInfo(NamedTuple):
    """What is known of a session beside its messages.

    Attributes:
        id, tenant: which session, whose.
        status: `"active"` or `"closed"`.
        agent: who is answering now, as `update` set it.
        turns: active messages of role `"human"`.
        tokens: of all active messages, each as counted when it was written.
        messages: active messages.
        archived: messages in the log that no window shows.
        started, last_activity: milliseconds since 1970.
        context: what `update` set; JSON values.
    """

    id: str
    tenant: str
    status: str
    agent: str | None
    turns: int
    tokens: int
    messages: int
    archived: int
    started: int
    last_activity: int
    context: dict[str, Any]


class State(NamedTuple):
    """The row of a session.

    Attributes:
        version: grows with every change; a window in Redis is of one version.
        next: sequence of the next message.
        counter: name of the counter that `tokens` was counted with.
        summary: message that stands for all active ones before sequence `summarized`; None: none.
    """

    version: int
    next: int
    status: str
    agent: str | None
    context: bytes
    messages: int
    archived: int
    turns: int
    tokens: int
    counter: str
    started: int
    last_activity: int
    summary: bytes | None
    summarized: int

    def info(self, session: str, tenant: str) -> SessionInfo:
        return SessionInfo(
            session,
            tenant,
            self.status,
            self.agent,
            self.turns,
            self.tokens,
            self.messages,
            self.archived,
            self.started,
            self.last_activity,
            orjson.loads(self.context) if self.context else {},
        )

    def closed(self) -> State:
        return self._replace(status="closed")

    def counted(self, role: str, tokens: int, *, archived: bool, sign: int = 1) -> State:
        """With one message more, or less."""
        if archived:
            return self._replace(archived=self.archived + sign)
        return self._replace(
            messages=self.messages + sign,
            turns=self.turns + (sign if role == "human" else 0),
            tokens=self.tokens + sign * tokens,
        )
