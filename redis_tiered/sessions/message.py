"""A message as every framework can read it, and the bytes it is stored as.

    version  flags  id length  checksum  head length  |  id  |  head (JSON)  native
    1 byte   1      2          4         4            |

`head` is what all frameworks share; `native` is what only the one that wrote it can read. Flag 1:
head and native are compressed. The checksum covers everything else.
"""

from __future__ import annotations

import secrets
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from redis_tiered.checks import text
from redis_tiered.errors import InvalidInput, Unreadable

__all__ = [
    "MAX_MESSAGE",
    "ROLES",
    "Message",
    "Stored",
    "ToolCall",
    "checked",
    "fresh_id",
    "pack",
    "unpack",
    "verify",
]

ROLES: Final = ("system", "human", "ai", "tool", "other")
MEDIA: Final = ("image", "audio", "video", "document")
MAX_MESSAGE: Final = 32 << 20  # bytes, uncompressed
_MAX_ID: Final = 256

_VERSION: Final = 1
_COMPRESSED: Final = 1
_HEADER: Final = struct.Struct(">BBHII")
_CHECKSUM: Final = slice(4, 8)
_COMPRESS_FROM: Final = 4096
# Of the head's items, in order; trailing ones are not written.
_DEFAULTS: Final[tuple[Any, ...]] = (None, "", "", None, None, "", (), [])


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool that a model asked for.

    Attributes:
        id: what the tool's result refers to.
        name: of the tool.
        arguments: by name; or the text that the model wrote where it is not a JSON object.
    """

    id: str | None
    name: str
    arguments: dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `"system"`, `"human"`, `"ai"`, `"tool"` (the result of a tool) or `"other"`.
        text: its text, all blocks of text joined.
        id: unique in its session, 1 to 256 characters; empty: a new one is made when it is
            appended. Appending an id that is there already changes nothing.
        name: of the author or the tool.
        tool_calls: what an `"ai"` message asks for.
        tool_call_id: what a `"tool"` message is the result of.
        thinking: the model's reasoning, if it is shown.
        media: `"image"`, `"audio"`, `"video"` or `"document"`, once per attachment; the
            attachments themselves are in `native`.
        format: who can read `native`, such as `"langchain"`.
        native: what that framework needs to restore its own object.
    """

    role: str
    text: str = ""
    id: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    thinking: str = ""
    media: tuple[str, ...] = ()
    format: str = ""
    native: bytes = b""


class Stored(NamedTuple):
    """A message in a session's log.

    Attributes:
        message: with its id.
        sequence: its place; grows with each message and is never used again in this session.
        tokens: as counted by `counter`.
        counter: name of the counter.
        created: when it was appended, milliseconds since 1970.
        archived: kept in the log, shown in no window.
    """

    message: Message
    sequence: int
    tokens: int
    counter: str
    created: int
    archived: bool = False


def fresh_id() -> str:
    return secrets.token_hex(12)


def checked(message: object, where: str) -> Message:
    """Check a message before anything is written.

    Raises:
        InvalidInput: names the message's place and attribute, what came and what is accepted.
    """
    if type(message) is not Message:
        raise InvalidInput(f"{where} must be a Message, got {type(message).__name__}")
    if message.role not in ROLES:
        raise InvalidInput(f"{where}.role must be one of {ROLES}, got {message.role!r:.100}")
    for name in ("text", "thinking", "format"):
        text(f"{where}.{name}", getattr(message, name))
    text(f"{where}.id", message.id, most=_MAX_ID)
    for name in ("name", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            text(f"{where}.{name}", value)
    if type(message.native) is not bytes:
        raise InvalidInput(f"{where}.native must be bytes, got {type(message.native).__name__}")
    if type(message.media) is not tuple or any(kind not in MEDIA for kind in message.media):
        raise InvalidInput(f"{where}.media must be a tuple of {MEDIA}")
    if type(message.tool_calls) is not tuple:
        raise InvalidInput(
            f"{where}.tool_calls must be a tuple, got {type(message.tool_calls).__name__}"
        )
    for i, call in enumerate(message.tool_calls):
        _check_call(f"{where}.tool_calls[{i}]", call)
    return message


def _check_call(where: str, call: object) -> None:
    if type(call) is not ToolCall:
        raise InvalidInput(f"{where} must be a ToolCall, got {type(call).__name__}")
    if call.id is not None:
        text(f"{where}.id", call.id)
    text(f"{where}.name", call.name)
    if type(call.arguments) is not dict:
        text(f"{where}.arguments", call.arguments)


def pack(message: Message) -> bytes:
    """Serialize.

    Raises:
        InvalidInput: larger than 32 MiB, or with tool arguments that JSON does not give back.
    """
    head: list[Any] = [
        message.role,
        message.text,
        message.format,
        message.name,
        message.tool_call_id,
        message.thinking,
        message.media,
        [(call.id, call.name, call.arguments) for call in message.tool_calls],
    ]
    while head[-1] == _DEFAULTS[len(head) - 1]:
        head.pop()
    try:
        start = orjson.dumps(head)
        for call in message.tool_calls:
            # orjson writes NaN as null, tuples as lists, dates and UUIDs as text.
            given = call.arguments
            if type(given) is dict and orjson.loads(orjson.dumps(given)) != given:
                raise InvalidInput(
                    f"tool_calls of message {message.id!r}: arguments of {call.name!r:.100} "
                    "must hold only JSON values"
                )
    except orjson.JSONEncodeError as error:
        raise InvalidInput(f"tool_calls of message {message.id!r}: {error}") from None
    body = start + message.native
    if len(body) > MAX_MESSAGE:
        raise InvalidInput(
            f"message {message.id!r} has {len(body)} bytes, at most {MAX_MESSAGE} are stored"
        )
    flags = 0
    if len(body) >= _COMPRESS_FROM:
        smaller = zlib.compress(body, 1)
        if len(smaller) < len(body) * 0.9:
            body, flags = smaller, _COMPRESSED
    id_ = message.id.encode()
    data = _HEADER.pack(_VERSION, flags, len(id_), 0, len(start)) + id_ + body
    return data[: _CHECKSUM.start] + _checksum(data).to_bytes(4, "big") + data[_CHECKSUM.stop :]


def verify(data: bytes) -> None:
    """Check that bytes are what `pack` wrote, without decoding them.

    Raises:
        Unreadable: truncated, corrupt, not ours, or written by a newer version.
    """
    try:
        version, flags, _, checksum, _ = _HEADER.unpack_from(data)
    except struct.error:
        raise Unreadable("truncated") from None
    if version != _VERSION or flags & ~_COMPRESSED:
        newer = version > _VERSION and _checksum(data) == checksum
        raise Unreadable("newer" if newer else "foreign")
    if _checksum(data) != checksum:
        raise Unreadable("corrupt")


def unpack(data: bytes) -> Message:
    """Read what `pack` wrote.

    Raises:
        Unreadable: as `verify`.
    """
    verify(data)
    _, flags, id_length, _, head_length = _HEADER.unpack_from(data)
    end = _HEADER.size + id_length
    body = data[end:]
    try:
        if flags & _COMPRESSED:
            body = zlib.decompress(body)
        head = orjson.loads(body[:head_length])
        return _message(data[_HEADER.size : end].decode(), body[head_length:], *head)
    except (zlib.error, ValueError, TypeError):
        raise Unreadable("corrupt") from None


def _message(
    id_: str,
    native: bytes,
    role: str,
    text: str = "",
    format_: str = "",
    name: str | None = None,
    tool_call_id: str | None = None,
    thinking: str = "",
    media: Sequence[str] = (),
    calls: Sequence[Sequence[Any]] = (),
) -> Message:
    return Message(
        role,
        text,
        id_,
        name,
        tuple([ToolCall(*call) for call in calls]) if calls else (),
        tool_call_id,
        thinking,
        tuple(media),
        format_,
        native,
    )


def _checksum(data: bytes) -> int:
    return zlib.crc32(data[_CHECKSUM.stop :], zlib.crc32(data[: _CHECKSUM.start]))
