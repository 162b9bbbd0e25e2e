"""Values of metadata as filters see them: what is equal, and what comes before what.

The predicate, SQL, the tokens of the search module and the index in memory all decide by these
terms, so that they agree.

A number is a bool, int or float; they are equal as in Python, exactly: `True == 1 == 1.0`,
`2**53 + 1 != 2.0**53`, `-0.0 == 0.0`. A datetime without a time zone is in UTC. Different kinds
are never equal and never ordered. None is as if the field were not there. NaN, and whatever holds
one, is there and equals nothing. What has no order of its own here (dict, tuple, date, bytes, ...;
an int too large for a number's key) is opaque: equal as Python has it for dicts, tuples and sets of
equal values, otherwise where `redis_tiered.values` keeps it as the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np

from redis_tiered.checks import text
from redis_tiered.errors import InvalidInput
from redis_tiered.values import KINDS, CarefulWriter, Refused

__all__ = [
    "Kind",
    "Term",
    "checked_field",
    "elements",
    "hashed",
    "plain",
    "rows",
    "shown",
    "term",
]

_MAX_FIELD: Final = 256
_MAX_DEPTH: Final = 200  # what `redis_tiered.values` writes is no deeper
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT_ZERO: Final = 1 << 63
_REST_ZERO: Final = 0x8000
_EXACT: Final = 1 << 53  # ints up to it are floats
_DOUBLE: Final = struct.Struct(">d")
_BITS: Final = struct.Struct(">Q")
_NUMBER: Final = struct.Struct(">QH")
_PART: Final = struct.Struct(">cI")
_PLAIN: Final = frozenset({str, bool, int, float, datetime, list, dict, type(None)})


class Kind:
    """Kinds of terms. Within NUMBER, TEXT and MOMENT the order is that of the keys."""

    NUMBER: Final = "n"
    TEXT: Final = "s"
    MOMENT: Final = "d"
    LIST: Final = "l"
    OPAQUE: Final = "o"
    ALL: Final = frozenset("nsdlo")
    ORDERED: Final = frozenset("nsd")


class Term(NamedTuple):
    """A value that is not None. Equal values have equal terms, others have not.

    Attributes:
        kind: see `Kind`.
        key: NUMBER: 8 bytes of the nearest float, big-endian and in order as bytes, and 2 of what
            an int is more than that, plus 0x8000. TEXT: UTF-8. MOMENT: 8 bytes of microseconds
            since 1970 in UTC, plus 2**63. LIST and OPAQUE: never empty, but for what holds NaN.
    """

    kind: str
    key: bytes

    @property
    def equals_nothing(self) -> bool:
        """Whether it is NaN or holds one; no filter asks for such a term."""
        return not self.key and self.kind != Kind.TEXT


def term(value: object, where: str = "value", depth: int = 0) -> Term | None:
    """The term of a value of metadata; None: there is no value.

    Args:
        value: of any kind that metadata may hold; scalars of numpy and subclasses of Python's own
            scalars are what they derive from.
        where: what to call it in an error.
        depth: of the value in what holds it.

    Raises:
        InvalidInput: metadata cannot hold it, or it holds a lone surrogate.
    """
    kind = type(value)
    if kind is str:
        return Term("s", _utf8(value, where))  # type: ignore[arg-type]
    if kind is int or kind is float or kind is bool:
        return _number(value)  # type: ignore[arg-type]
    if value is None:
        return None
    if kind is datetime:
        return Term("d", _moment(value))  # type: ignore[arg-type]
    if kind not in _PLAIN and (same := plain(value)) is not value:
        return term(same, where, depth)
    if depth > _MAX_DEPTH:
        raise InvalidInput(f"{where} must be nested at most {_MAX_DEPTH} levels deep")
    if kind is list:
        return _joined("l", b"[", _parts(value, where, depth))  # type: ignore[arg-type]
    if kind is tuple:
        return _joined("o", b"(", _parts(value, where, depth))  # type: ignore[arg-type]
    if kind is set or kind is frozenset:
        return _unordered(b"<", _parts(value, where, depth))  # type: ignore[arg-type]
    if kind is dict:
        names = _parts(value.keys(), where, depth)  # type: ignore[attr-defined]
        return _unordered(b"{", names, _parts(value.values(), where, depth))  # type: ignore[attr-defined]
    return Term("o", _written(value, where))


def elements(value: object) -> list[Term]:
    """Of a list, the terms of what is not None in it; of anything else none."""
    if type(value) is not list:
        return []
    return [found for item in value if (found := term(item)) is not None]


def plain(value: Any) -> Any:
    """Scalars of numpy, and of classes that derive from Python's scalars, as Python's own.

    Raises:
        InvalidInput: a datetime that is none (pandas' NaT).
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]").item()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, datetime):
        try:
            return datetime.combine(value.date(), value.timetz()).replace(fold=value.fold)
        except (ValueError, TypeError):
            raise InvalidInput(
                f"value must be a datetime with a date, got {type(value).__name__}"
            ) from None
    return value


def checked_field(argument: str, name: object) -> str:
    """The name of a field of metadata: 1 to 256 characters that UTF-8 can encode.

    Args:
        argument: where it was given, for the error.
        name: what was given.

    Raises:
        InvalidInput: it is none.
    """
    return text(f"a field's name in {argument}", name, least=1, most=_MAX_FIELD)


def rows(
    metadata: Mapping[str, Any],
) -> list[tuple[bytes, int, str, bytes, bytes | None, int]]:
    """What the table `fields` holds of a document: name, position, kind, key, folded, hash.

    Position -1 is the whole value; an element of a list has its own, the first of equal ones only.
    `folded` is a text in lower case where that differs.

    Raises:
        InvalidInput: as `term`.
    """
    made: list[tuple[bytes, int, str, bytes, bytes | None, int]] = []
    for name, value in metadata.items():
        whole = term(value, f"metadata[{name!r}]")
        if whole is None:
            continue
        encoded = name.encode()
        folded = None
        if whole.kind == Kind.TEXT:
            key = plain(value).lower().encode()
            folded = None if key == whole.key else key
        made.append((encoded, -1, *whole, folded, hashed(encoded, whole, False)))
        if type(value) is list:
            seen: set[Term] = set()
            for position, item in enumerate(value):
                found = term(item)
                if found is not None and found not in seen:
                    seen.add(found)
                    made.append((encoded, position, *found, None, hashed(encoded, found, True)))
    return made


def hashed(name: bytes, term: Term, element: bool) -> int:
    """The column `hash` of a row: 64 bits, signed.

    Args:
        name: of the field, UTF-8.
        term: of the value or of an element of it.
        element: whether it is that.
    """
    about = b"%d:%b%b%b" % (len(name), name, b"e" if element else b"v", term.kind.encode())
    return int.from_bytes(blake2b(about + term.key, digest_size=8).digest(), "big", signed=True)


def shown(term: Term) -> str:
    """A term for the eyes, as Python would write its value."""
    kind, key = term
    if kind == Kind.TEXT:
        return repr(key.decode())
    if kind == Kind.NUMBER:
        bits, rest = _NUMBER.unpack(key)
        bits = bits ^ 1 << 63 if bits >> 63 else ~bits & (1 << 64) - 1
        number = _DOUBLE.unpack(_BITS.pack(bits))[0]
        whole = rest != _REST_ZERO or (abs(number) <= _EXACT and number == int(number))
        return repr(int(number) + rest - _REST_ZERO if whole else number)
    if kind == Kind.MOMENT:
        micros = int.from_bytes(key, "big") - _MOMENT_ZERO
        try:
            return repr(_EPOCH + timedelta(microseconds=micros))
        except OverflowError:  # its zone puts it just outside the years that there are
            return f"<datetime {micros} microseconds after 1970>"
    if kind == Kind.LIST and key:
        items, at = [], 1
        while at < len(key):
            tag, length = _PART.unpack_from(key, at)
            at += _PART.size
            item = Term(tag.decode(), key[at : at + length])
            items.append("None" if tag == b"-" else shown(item))
            at += length
        return f"[{', '.join(items)}]"
    return f"<opaque {key[:60]!r}>" if key else "<NaN>"


def _utf8(value: str, where: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{where} holds a lone surrogate; any text that UTF-8 can encode is accepted"
        ) from None


def _number(value: float) -> Term:
    rest = 0
    try:
        nearest = float(value)
        if type(value) is int and not -_EXACT <= value <= _EXACT:
            rest = value - int(nearest)
    except OverflowError:
        return Term("o", _written(value, "value"))
    if nearest != nearest:
        return Term("o", b"")
    if not -_REST_ZERO <= rest < _REST_ZERO:
        return Term("o", _written(value, "value"))
    bits = _BITS.unpack(_DOUBLE.pack(nearest + 0.0))[0]  # -0.0 + 0.0 is 0.0
    # Floats are in order as sign and magnitude: https://stereopsis.com/radix.html
    bits = ~bits & 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else bits | 1 << 63
    return Term("n", _NUMBER.pack(bits, rest + _REST_ZERO))


def _moment(value: datetime) -> bytes:
    since = (value if value.utcoffset() is not None else value.replace(tzinfo=UTC)) - _EPOCH
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return (micros + _MOMENT_ZERO).to_bytes(8, "big")


def _parts(items: Iterable[object], where: str, depth: int) -> list[bytes] | None:
    """Terms with their lengths, so that no two sequences of them are the same bytes.

    None: one equals nothing.
    """
    made = []
    for item in items:
        found = term(item, where, depth + 1)
        if found is None:
            made.append(_PART.pack(b"-", 0))
        elif found.equals_nothing:
            return None
        else:
            made.append(_PART.pack(found.kind.encode(), len(found.key)) + found.key)
    return made


def _joined(kind: str, tag: bytes, parts: list[bytes] | None) -> Term:
    return Term(kind, b"" if parts is None else tag + b"".join(parts))


def _unordered(tag: bytes, parts: list[bytes] | None, others: list[bytes] | None = None) -> Term:
    """Of a set, or of the keys and values of a dict."""
    if parts is None or (tag == b"{" and others is None):
        return Term("o", b"")
    if others is not None:
        parts = [key + value for key, value in zip(parts, others, strict=True)]
    return _joined("o", tag, sorted(parts))


def _written(value: object, where: str) -> bytes:
    writer = CarefulWriter()
    try:
        return b"=" + writer.dumped(writer.value(value))
    except Refused as refused:
        raise refused.invalid(where, KINDS) from None
