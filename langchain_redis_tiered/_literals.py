"""Python literals, as `repr` writes them, without Python's own parser.

`ast.parse` is not used on purpose: in CPython 3.11 and 3.12 it keeps its recursion depth in state
that threads share, and parsing in many threads at once can make every later `ast.parse` of the
process fail (python/cpython#106905). A cache is called from many threads.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

__all__ = ["Items", "NotLiteralError", "Pairs", "Repr", "parse"]

_STRING = r"""[bB]?(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")"""
_TOKEN = re.compile(
    rf"""\s*(?:
        (?P<secret>Secret(?:Str|Bytes)\(b?'\**'\))
      | (?P<string>{_STRING})
      | (?P<number>-?(?:\d+\.\d+(?:e[+-]?\d+)?|\d+e[+-]?\d+|\d+)(?![\w.]))
      | (?P<name>[A-Za-z_][\w.]*)
      | (?P<open>[\[({{])
      | (?P<close>[\])}}])
      | (?P<punctuation>[,:])
      | (?P<angle><)
    )""",
    re.DOTALL | re.VERBOSE,
)
_ANGLES = re.compile(rf"{_STRING}|(?P<open><)|(?P<close>>)", re.DOTALL)
_PARENTHESES = re.compile(rf"{_STRING}|(?P<open>\()|(?P<close>\))", re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_CONSTANTS = {"None": None, "True": True, "False": False}
_CLOSING = {"[": "]", "(": ")", "{": "}"}


class NotLiteralError(ValueError):
    """The text is not a literal; the message says what was met, without strings of the text."""


class Repr(NamedTuple):
    """What is no literal, as a text: `<...>`, `Name(...)`, `name`, or a masked secret."""

    text: str


class Pairs(NamedTuple):
    """A dict as its pairs: keys may be what Python cannot hash."""

    pairs: list[tuple[Any, Any]]


class Items(NamedTuple):
    """A set as its items."""

    items: list[Any]


def parse(text: str) -> Any:
    """Read one literal: None, bools, numbers, strings, bytes, lists, tuples, `Pairs`, `Items`,
    and between them any `Repr`.

    Raises:
        NotLiteralError: it holds anything else.
        RecursionError: it is nested too deep.
    """
    reader = _Reader(text)
    value = reader.value()
    reader.expect_end()
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def expect_end(self) -> None:
        if self._text[self._at :].strip():
            raise NotLiteralError("more than one value")

    def value(self) -> Any:
        found = self._next()
        kind, token = found.lastgroup, found[found.lastgroup or 0]
        if kind == "string":
            return _string(token)
        if kind == "number":
            return _number(token)
        if kind == "secret":
            return Repr(token)
        if kind == "angle":
            return self._repr(found.start("angle"))
        if kind == "open":
            return self._collection(token)
        if kind == "name":
            if token in _CONSTANTS:
                return _CONSTANTS[token]
            if self._text.startswith("()", self._at) and token in ("set", "frozenset"):
                self._at += 2
                return Items([])
            return self._call(found.start("name"))
        raise NotLiteralError("an unexpected character")

    def _collection(self, opening: str) -> Any:
        closing = _CLOSING[opening]
        items: list[Any] = []
        pairs: list[tuple[Any, Any]] = []
        comma = True
        while not self._take(closing):
            if not comma:
                raise NotLiteralError("a missing comma")
            item = self.value()
            if opening == "{" and self._take(":"):
                pairs.append((item, self.value()))
            else:
                items.append(item)
            comma = self._take(",")
        if opening == "[":
            return items
        if opening == "(":
            if len(items) == 1 and not comma:  # not a tuple: parentheses
                return items[0]
            return tuple(items)
        if items and pairs:
            raise NotLiteralError("neither a dict nor a set")
        return Items(items) if items else Pairs(pairs)

    def _repr(self, start: int, brackets: re.Pattern[str] = _ANGLES) -> Repr:
        """From a bracket to the one that closes it; reprs nest, and may hold strings."""
        depth = 0
        for found in brackets.finditer(self._text, start):
            if found.lastgroup == "open":
                depth += 1
            elif found.lastgroup == "close":
                depth -= 1
                if depth == 0:
                    self._at = found.end()
                    return Repr(self._text[start : self._at])
        raise NotLiteralError("a repr without an end")

    def _call(self, start: int) -> Repr:
        """A name, as in `nan`, or a call, as in `Timeout(3)`."""
        if not self._text.startswith("(", self._at):
            return Repr(self._text[start : self._at])
        self._repr(self._at, _PARENTHESES)
        return Repr(self._text[start : self._at])

    def _next(self) -> re.Match[str]:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise NotLiteralError("an unexpected end or character")
        self._at = found.end()
        return found

    def _take(self, mark: str) -> bool:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found.lastgroup not in ("close", "punctuation"):
            return False
        if found[found.lastgroup] != mark:
            return False
        self._at = found.end()
        return True


def _string(token: str) -> str | bytes:
    if token[0] in "bB":
        return _unescaped(token[2:-1]).encode("latin-1")
    return _unescaped(token[1:-1])


def _unescaped(body: str) -> str:
    return _ESCAPE.sub(_character, body) if "\\" in body else body


def _character(found: re.Match[str]) -> str:
    escape = found[1]
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    if escape not in _ESCAPES:
        raise NotLiteralError("an escape that repr does not write")
    return _ESCAPES[escape]


def _number(token: str) -> int | float:
    try:
        return int(token) if token.lstrip("-").isdigit() else float(token)
    except ValueError:  # more digits than Python converts
        raise NotLiteralError("a very long number") from None
