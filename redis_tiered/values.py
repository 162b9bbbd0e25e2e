"""Values as JSON, and back, equal and of the same type - or refused.

What JSON has no word for is an object with one key that begins with NUL: `{"\\0tuple": [1, 2]}`.
A user's own key that begins with NUL gets one more. Nothing in the bytes names code: a tag is
looked up in a table. A framework adds its own classes by `Writer.other` and a reader of their tag.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from redis_tiered.errors import InvalidInput, Unreadable

__all__ = [
    "FIXED",
    "KINDS",
    "MALFORMED",
    "READERS",
    "CarefulWriter",
    "Reader",
    "Refused",
    "Writer",
    "copied",
    "is_json",
    "loaded",
    "readable",
]

KINDS: Final = (
    "None, bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset, datetime, "
    "date, time, timedelta, Decimal, UUID, Path"
)
# What unpacking, lookups, constructors and pydantic (ValidationError is a ValueError) say of a
# wrong shape; OSError is what ZoneInfo says of a name that is a directory.
MALFORMED: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
    ArithmeticError,
    OSError,
)
Reader = Callable[[Any], Any]

_PLAIN: Final = 1  # JSON as it is
_TAGGED: Final = 3  # some keys are escaped, some values are tagged; 2 knew no tag but bytes
_MAX_DEPTH: Final = 200  # in JSON, where a value may take three levels; orjson writes 254
_NESTING: Final = frozenset({dict, list})
_PATH: Final = type(Path())
# Neither they nor what is in them can change: a copy may share them.
FIXED: Final = frozenset(
    {
        *(NoneType, bool, int, float, str, bytes, frozenset, Decimal, UUID, _PATH),
        *(datetime, date, time, timedelta),
    }
)


class Refused(Exception):
    """A value would not come back the same.

    Attributes:
        path: where it is, in Python's notation, from what was given to the writer.
        what: its class, or what is wrong with it.
        accepted: what could have been there; None: what the writer knows.
    """

    def __init__(self, what: str, path: str = "", accepted: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.path = path
        self.accepted = accepted

    def invalid(self, where: str, kinds: str) -> InvalidInput:
        """As the error of a user.

        Args:
            where: what was given to the writer.
            kinds: what the writer knows.
        """
        accepted = f"made of {kinds}" if self.accepted is None else self.accepted
        return InvalidInput(f"{where}{self.path} must be {accepted}, got {self.what}")


def loaded(payload: bytes | memoryview, readers: Mapping[str, Reader] | None = None) -> Any:
    """Read what `Writer.dumped` wrote; every call makes new objects.

    Args:
        payload: a format byte and JSON.
        readers: by tag, if they are more than `READERS`; each gets what is in the tag, read.

    Raises:
        Unreadable: foreign, corrupt or written by another version.
    """
    try:
        if payload[0] == _PLAIN:
            return orjson.loads(memoryview(payload)[1:])
        if payload[0] == _TAGGED:
            return _untagged(orjson.loads(memoryview(payload)[1:]), readers or READERS)
    except MALFORMED:
        raise Unreadable("corrupt") from None
    raise Unreadable("format")


def copied(value: Any) -> Any:
    """A copy that shares nothing which can change."""
    kind = type(value)
    if kind is dict:
        if not value:
            return {}
        # A test in place costs a third of a call.
        return {key: item if type(item) in FIXED else copied(item) for key, item in value.items()}
    if kind is list:
        return [item if type(item) in FIXED else copied(item) for item in value] if value else []
    if kind in FIXED:
        return value
    if kind is tuple:
        return tuple([copied(item) for item in value])
    return deepcopy(value)


def is_json(value: Any) -> bool:
    """Whether JSON itself gives back an equal value of the same types."""
    writer = CarefulWriter()
    try:
        writer.value(value)
    except Refused:
        return False
    return not writer.tagged


def readable(value: Any, depth: int = 0) -> Any:
    """A copy for the eyes of others, in JSON's own types.

    What JSON has no word for becomes a list or a string; what nests deeper than a writer writes
    becomes `"..."`.
    """
    kind = type(value)
    if kind is dict or kind is list or kind in _COLLECTIONS:
        if depth > _MAX_DEPTH:
            return "..."
        if kind is dict:
            return {_name(key): readable(item, depth + 1) for key, item in value.items()}
        return [readable(item, depth + 1) for item in value]
    if kind is bytes or kind is bytearray:
        return b64encode(value).decode()
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 64 else hex(value)  # as `Writer.value`
    if value is None or kind is bool or kind is str or (kind is float and isfinite(value)):
        return value
    return _shown(value, str)


def _name(key: Any) -> str:
    return key if type(key) is str else str(readable(key))


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    try:
        return show(value)
    except ValueError:  # an int of more digits than CPython writes (sys.set_int_max_str_digits)
        return f"<{type(value).__name__}>"


# --- writing ---------------------------------------------------------------------------------


class Writer:
    """Turns values of exact types into JSON's own; a subclass is not what it derives from.

    It does not look into texts; `dumped` does.

    Attributes:
        tagged: whether something was that JSON has no word for.
    """

    def __init__(self) -> None:
        self.tagged = False

    def value(self, value: Any, depth: int = 0) -> Any:
        """As JSON's own types; new containers.

        Args:
            value: made of `KINDS`, and what `other` knows.
            depth: of the value, in JSON.

        Raises:
            Refused: it would not come back the same.
        """
        kind = type(value)
        if kind is str or value is None or kind is bool:
            return value
        if kind is int:
            if -(1 << 63) <= value < 1 << 64:
                return value
        elif kind is float:
            if isfinite(value):
                return value
        elif kind is dict:
            return self._dict(value, depth)
        elif kind is list:
            return self._items(value, depth)
        return self._tag(value, kind, depth)

    def other(self, value: Any, depth: int) -> Any:
        """For a framework's own types: as JSON, or NotImplemented.

        Raises:
            Refused: as `value`.
        """
        return NotImplemented

    def dumped(self, content: Any, again: Callable[[], object] | None = None) -> bytes:
        """A format byte and JSON.

        Args:
            content: what was made of values written here.
            again: makes the content once more by a `CarefulWriter`, to say where it is wrong.

        Raises:
            Refused: a lone surrogate.
        """
        try:
            data = orjson.dumps(content)
        except orjson.JSONEncodeError as error:
            if again is not None:
                again()
            raise Refused(str(error), accepted="what JSON can hold") from None
        return bytes((_TAGGED if self.tagged else _PLAIN,)) + data

    def _items(self, value: Any, depth: int) -> list[Any]:
        if depth > _MAX_DEPTH:
            raise _too_deep()
        written: list[Any] = []
        try:
            for item in value:
                written.append(self.value(item, depth + 1))
        except Refused as refused:
            refused.path = f"[{len(written)}]{refused.path}"
            raise
        return written

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        if depth > _MAX_DEPTH:
            raise _too_deep()
        written = {}
        key: Any = None
        try:
            for key, item in value.items():
                if type(key) is not str:
                    return self._pairs(value, depth)
                if key.startswith("\0"):
                    self.tagged = True
                    written["\0" + key] = self.value(item, depth + 1)
                else:
                    written[key] = self.value(item, depth + 1)
        except Refused as refused:
            if type(key) is str:
                refused.path = f"[{key!r:.100}]{refused.path}"
            raise
        return written

    def _pairs(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        self.tagged = True
        pairs = []
        for key, item in value.items():
            try:
                written = self.value(key, depth + 3)
            except Refused as refused:
                raise Refused(f"key of {type(key).__name__}", "", refused.accepted) from None
            try:
                pairs.append([written, self.value(item, depth + 3)])
            except Refused as refused:
                refused.path = f"[{_shown(key, repr):.100}]{refused.path}"
                raise
        return {"\0dict": pairs}

    def _tag(self, value: Any, kind: type[Any], depth: int) -> Any:
        if kind in _COLLECTIONS:
            self.tagged = True
            return {_COLLECTIONS[kind]: self._items(value, depth + 1)}
        if kind not in _WRITERS:
            written = self.other(value, depth)
            if written is NotImplemented:
                raise Refused(kind.__name__)
            self.tagged = True
            return written
        self.tagged = True
        tag, write = _WRITERS[kind]
        return {tag: write(value)}


class CarefulWriter(Writer):
    """A writer that finds lone surrogates, which JSON cannot hold, where they are."""

    def value(self, value: Any, depth: int = 0) -> Any:
        if type(value) is str:
            _check_text(value, "a lone surrogate")
        return super().value(value, depth)

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        for key in value:
            if type(key) is str:
                _check_text(key, "a key with a lone surrogate")
        return super()._dict(value, depth)


def _too_deep() -> Refused:
    return Refused("more", accepted=f"nested at most {_MAX_DEPTH} levels deep in JSON")


def _check_text(value: str, what: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused(what, accepted="text that UTF-8 can encode") from None


def _moment(value: Any) -> Any:
    """A datetime or time: ISO 8601, with what that leaves out where there is any."""
    zone = value.tzinfo
    if zone is not None and type(zone) is not timezone and type(zone) is not ZoneInfo:
        raise Refused(f"{type(value).__name__} with a {type(zone).__name__}")
    name: Any = None
    text = value.isoformat()
    if type(zone) is ZoneInfo and zone.key is not None:
        name = zone.key
        text = value.replace(tzinfo=None).isoformat()
    elif type(zone) is timezone and repr(zone) != repr(timezone(zone.utcoffset(None))):
        name = [zone.tzname(None)]  # as of `datetime.now().astimezone()`
        _check_text(name[0], "a time zone with a lone surrogate")
    written = text if name is None and value.fold == 0 else [text, value.fold, name]
    # A ZoneInfo may have no key.
    if repr(_moment_of(type(value), written)) != repr(value):
        raise Refused(f"{type(value).__name__} with {zone!r}")
    return written


def _path(value: Path) -> str:
    text = str(value)
    _check_text(text, "a path that is not UTF-8")
    return text


_COLLECTIONS: Final[dict[type[Any], str]] = {
    tuple: "\0tuple",
    set: "\0set",
    frozenset: "\0frozenset",
}
_WRITERS: Final[dict[type[Any], tuple[str, Callable[[Any], Any]]]] = {
    bytes: ("\0bytes", lambda value: b64encode(value).decode()),
    bytearray: ("\0bytearray", lambda value: b64encode(value).decode()),
    int: ("\0int", lambda value: f"{value:x}"),  # decimal digits are limited, and slow
    float: ("\0float", repr),
    datetime: ("\0datetime", _moment),
    time: ("\0time", _moment),
    date: ("\0date", date.isoformat),
    timedelta: ("\0timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: ("\0decimal", str),
    UUID: ("\0uuid", str),
    _PATH: ("\0path", _path),
}


# --- reading ---------------------------------------------------------------------------------


def _untagged(value: Any, readers: Mapping[str, Reader]) -> Any:
    kind = type(value)
    if kind is list:
        return [_untagged(item, readers) if type(item) in _NESTING else item for item in value]
    if kind is not dict:
        return value
    if len(value) == 1:
        [key] = value
        if key in readers:
            return readers[key](_untagged(value[key], readers))
    return {
        _unescaped(key) if key.startswith("\0") else key: (
            _untagged(item, readers) if type(item) in _NESTING else item
        )
        for key, item in value.items()
    }


def _unescaped(key: str) -> str:
    if not key.startswith("\0\0"):
        raise Unreadable("tag")  # of a newer version
    return key[1:]


def _text(value: Any) -> str:
    if type(value) is not str:
        raise Unreadable("type")
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise Unreadable("type")
    return value


def _bytes_of(value: Any) -> bytes:
    return b64decode(_text(value), validate=True)


def _moment_of(kind: Any, written: Any) -> Any:
    if type(written) is str:
        return kind.fromisoformat(written)
    text, fold, name = _list(written)
    value = kind.fromisoformat(_text(text)).replace(fold=fold)
    if name is None:
        return value
    if type(name) is str:
        return value.replace(tzinfo=ZoneInfo(name))
    [name] = _list(name)
    return value.replace(tzinfo=timezone(value.utcoffset(), _text(name)))


READERS: Final[dict[str, Reader]] = {
    "\0bytes": _bytes_of,
    "\0bytearray": lambda value: bytearray(_bytes_of(value)),
    "\0int": lambda value: int(_text(value), 16),
    "\0float": lambda value: float(_text(value)),
    "\0datetime": lambda value: _moment_of(datetime, value),
    "\0time": lambda value: _moment_of(time, value),
    "\0date": lambda value: date.fromisoformat(_text(value)),
    "\0timedelta": lambda value: timedelta(*_list(value)),
    "\0decimal": lambda value: Decimal(_text(value)),
    "\0uuid": lambda value: UUID(_text(value)),
    "\0path": lambda value: Path(_text(value)),
    "\0tuple": lambda value: tuple(_list(value)),
    "\0set": lambda value: set(_list(value)),
    "\0frozenset": lambda value: frozenset(_list(value)),
    "\0dict": lambda value: {key: item for key, item in _list(value)},  # noqa: C416
}
