"""Documents and filters for the search module: tags of a single field, and unions of them.

A document's tags are hashes of what it says: `lang` is "en", `tags` has an element "x", `year` is a
number. A filter is an expression of such hashes, so that nothing in a value can be syntax.

Ranges: the order of numbers and of datetimes is that of *digits*, hexadecimal, of a fixed length.
A document has a tag for each prefix of its digits; a range is a union of prefixes. What a document
spares: the digits at the end that say nothing (0 of a number or datetime, F of a negative number;
8000 of the rest of an int that is a float). A number that ends before a prefix does is the prefix
and nothing but such digits, one single value: there a union takes the tag of equality with it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from redis_tiered.checks import text
from redis_tiered.vectors.normal import Joint, Literal, Node, OneOf, joint, normal
from redis_tiered.vectors.terms import Kind, Term, elements, term
from redis_tiered.vectors.tree import Filter, Present, Range, Text

__all__ = ["compile", "tokens"]

# A tag's first letter is what it says; with it, no search module takes a tag for a number.
_ELEMENT: Final = "e"
_ID: Final = "i"
_KIND: Final = "k"
_PARENT: Final = "p"
_PREFIX: Final = "r"
_VALUE: Final = "v"
_REMEMBERED: Final = 64  # bytes of a value whose tags are kept in mind
_NOTHING: Final = "nothing"  # no document has it
_DAY: Final = 86_400_000_000
_DAY_ZERO: Final = 1_000_000  # 1970: more days than since the year 1
_MOMENT_ZERO: Final = 1 << 63
_REST: Final = 16  # where the rest of an int begins in a number's digits
# From 2**53 on, ints have the same nearest float as others; so may what is below its negative.
_EXACT: Final = range(int("3cc0000000000000", 16), int("c340000000000000", 16))


def tokens(metadata: Mapping[str, Any], id: str, parent: str) -> list[str]:
    """The tags of a document: lowercase letters and digits, 21 of them, each tag once.

    A field has two; a list one more for each element, a number up to 19 more and a datetime up to
    15 - those that need few digits (2024, 0.5, a whole day), about 6.

    Args:
        metadata: of the document.
        id: of the document.
        parent: of the document; empty: none.

    Raises:
        InvalidInput: metadata cannot hold a value.
    """
    tags = [_tag(_ID, "", id.encode())]
    if parent:
        tags.append(parent_token(parent))
    for name, value in metadata.items():
        found = term(value)
        if found is None:
            continue
        short = len(found.key) <= _REMEMBERED
        tags += (_of_value if short else _of_value.__wrapped__)(name, found)
        for element in dict.fromkeys(elements(value)):
            if not element.equals_nothing:
                tags.append(_equality(_ELEMENT, name, element))
    return tags


@functools.lru_cache(maxsize=8192)
def _of_value(name: str, found: Term) -> tuple[str, ...]:
    """The tags of a field, but those of a list's elements. Most values come again and again."""
    tags = [_tag(_KIND, name, found.kind.encode())]
    if not found.equals_nothing:
        tags.append(_equality(_VALUE, name, found))
    if found.kind in (Kind.NUMBER, Kind.MOMENT):
        digits = _digits(found)
        most = len(digits) - 1  # all of them are what equality has a tag for
        spared = _spared(found.kind, digits)
        while most and digits[most:] == spared[most:] and digits[most - 1] == spared[most - 1]:
            most -= 1
        tags += [_prefix(name, found.kind, digits[:length]) for length in range(1, most + 1)]
    return tuple(tags)


def parent_token(parent: str) -> str:
    """The tag of a document that has this parent."""
    return _tag(_PARENT, "", parent.encode())


def compile(
    filter: Filter | None,
    *,
    ids: Sequence[str] | None = None,
    parents: Sequence[str] | None = None,
    tag: str = "f",
) -> tuple[str, bool]:
    """An expression of the search module's query syntax, dialect 2.

    Args:
        filter: None: everything.
        ids: of the documents, one of which it must be; None: any.
        parents: of their parents, the same.
        tag: name of the field (TAG, SEPARATOR ",", CASESENSITIVE) that has `tokens`.

    Returns:
        The expression, "*" if everything passes; and whether it lets through just what passes. If
        not, more: what is compared within texts the caller must look at.

    Raises:
        InvalidInput: ids or parents are no texts.
    """
    node, exact = (True, True) if filter is None else _widened(normal(filter))
    parts = []
    for letter, names in ((_ID, ids), (_PARENT, parents)):
        if names is not None:
            node = node if names else False
            given = [text("ids" if letter == _ID else "parents", name) for name in names]
            parts.append(_any_of(tag, [_tag(letter, "", name.encode()) for name in given]))
    if node is False:
        return f"@{tag}:{{{_NOTHING}}}", True
    if not isinstance(node, bool):
        parts.insert(0, _rendered(node, tag))
    if not parts:
        return "*", exact
    return parts[0] if len(parts) == 1 else f"({' '.join(parts)})", exact


def _widened(node: Node) -> tuple[Node, bool]:
    """A node of what has tags, which lets through at least as much; and whether no more."""
    if isinstance(node, bool):
        return node, True
    if isinstance(node, Joint):
        parts = [_widened(part) for part in node.parts]
        return joint(node.every, [part for part, _ in parts]), all(exact for _, exact in parts)
    leaf = node.leaf
    if isinstance(leaf, Range) and _is_empty(leaf):
        return node.negated, True
    if isinstance(leaf, Text) and not leaf.needle:
        return node, True
    if isinstance(leaf, Text) or (isinstance(leaf, Range) and leaf.kind == Kind.TEXT):
        return node.negated or Literal(Text(leaf.field, ""), False), False
    return node, True


def _rendered(node: Joint | Literal, tag: str) -> str:
    if isinstance(node, Literal):
        return ("-" if node.negated else "") + _any_of(tag, _tags(node))
    # What can be one union is: one of all these, none of all those.
    together: list[str] = []
    parts = []
    for part in sorted(node.parts, key=_depth, reverse=True):
        assert not isinstance(part, bool)
        if isinstance(part, Literal) and part.negated == node.every:
            together += _tags(part)
        else:
            made = _rendered(part, tag)
            parts.append(f"({made})" if made.startswith("-") else made)
    if together:
        made = _any_of(tag, together)
        parts.append(f"(-{made})" if node.every else made)
    if len(parts) == 1:
        return parts[0]
    return f"({(' ' if node.every else '|').join(parts)})"


def _depth(node: Node) -> int:
    """The module's parser has a stack as well, and wants what is nested deep to be first."""
    return 1 + max(map(_depth, node.parts)) if isinstance(node, Joint) else 0


def _tags(literal: Literal) -> list[str]:
    leaf = literal.leaf
    if isinstance(leaf, OneOf):
        letter = _ELEMENT if leaf.element else _VALUE
        return [_equality(letter, leaf.field, each) for each in leaf.terms]
    if isinstance(leaf, Range):
        return list(_of_range(leaf))
    kinds = sorted(Kind.ALL) if isinstance(leaf, Present) else [Kind.TEXT]
    return [_tag(_KIND, leaf.field, kind.encode()) for kind in kinds]


def _any_of(tag: str, tags: Iterable[str]) -> str:
    return f"@{tag}:{{{'|'.join(sorted(set(tags)))}}}"


def _equality(letter: str, name: str, term: Term) -> str:
    return _tag(letter, name, term.kind.encode() + term.key)


def _prefix(name: str, kind: str, digits: str) -> str:
    return _tag(_PREFIX, name, (kind + digits).encode())


def _tag(letter: str, name: str, content: bytes) -> str:
    encoded = name.encode()
    digest = blake2b(b"%d:%b%b" % (len(encoded), encoded, content), digest_size=10)
    return letter + digest.hexdigest()


# --- ranges ----------------------------------------------------------------------------------


def _digits(term: Term) -> str:
    """Of a number: its key. Of a datetime: 6 of the day, 5 of the second, 5 of the microsecond."""
    if term.kind == Kind.NUMBER:
        return term.key.hex()
    day, micros = divmod(int.from_bytes(term.key, "big") - _MOMENT_ZERO, _DAY)
    return f"{day + _DAY_ZERO:06x}{micros // 1_000_000:05x}{micros % 1_000_000:05x}"


def _term(kind: str, digits: str) -> Term | None:
    """The other way round; None: they are of nothing."""
    if kind == Kind.NUMBER:
        return Term(kind, bytes.fromhex(digits))
    day, second, micro = (int(part, 16) for part in (digits[:6], digits[6:11], digits[11:]))
    if second >= 86_400 or micro >= 1_000_000:
        return None
    micros = (day - _DAY_ZERO) * _DAY + second * 1_000_000 + micro
    return Term(kind, (micros + _MOMENT_ZERO).to_bytes(8, "big"))


def _spared(kind: str, digits: str) -> str:
    """What a document spares at the end, by digit; depends on nothing but the first digit."""
    if kind == Kind.MOMENT:
        return "0" * 16
    return ("0" if digits[0] >= "8" else "f") * _REST + "8000"


def _of_range(leaf: Range) -> Iterator[str]:
    length = 20 if leaf.kind == Kind.NUMBER else 16
    low, high = _bounds(leaf, length)
    while low <= high:
        # The largest block of values that begins here and ends within the range; never all.
        steps = 0
        while (
            steps < length - 1
            and not low & (size := 1 << 4 * (steps + 1)) - 1
            and low + size - 1 <= high
        ):
            steps += 1
        digits = f"{low:0{length}x}"
        low += 1 << 4 * steps
        prefix = digits[: length - steps]
        spared = _spared(leaf.kind, digits)[len(prefix) - 1 :]
        whole = _term(leaf.kind, prefix + spared[1:])
        if whole is None:
            continue  # then there is nothing in the block: of a datetime, `whole` is its first
        if steps:
            yield _prefix(leaf.field, leaf.kind, prefix)
        if not steps or prefix[-1] == spared[0]:
            yield _equality(_VALUE, leaf.field, whole)


def _bounds(leaf: Range, length: int) -> tuple[int, int]:
    """The least and the greatest digits, both included."""
    low, high = 0, (1 << 4 * length) - 1
    if leaf.low is not None:
        first, last = _around(leaf.low)
        low = last + 1 if leaf.low_open else first
    if leaf.high is not None:
        first, last = _around(leaf.high)
        high = first - 1 if leaf.high_open else last
    return low, high


def _around(bound: Term) -> tuple[int, int]:
    """Digits from and to which there is nothing but this value: rounder, they make fewer blocks."""
    value = int(_digits(bound), 16)
    if bound.kind == Kind.NUMBER and value >> 16 in _EXACT:
        return value & ~0xFFFF, value | 0xFFFF
    return value, value


def _is_empty(leaf: Range) -> bool:
    if leaf.kind != Kind.TEXT:
        # Also between two values there may be none: 0 and the least float, two sides of midnight.
        return next(_of_range(leaf), None) is None
    low, high = leaf.low, leaf.high
    if low is None or high is None:
        return False
    return low.key > high.key or (low.key == high.key and (leaf.low_open or leaf.high_open))
