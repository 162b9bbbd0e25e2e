"""Reading back what `repr` writes."""

from __future__ import annotations

import ast
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_redis_tiered._literals import Items, NotLiteralError, Pairs, Repr, parse

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[]))
    | st.binary()
)
literals = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(scalars, inner, max_size=4)
        | st.sets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=12,
)


def plain(value: Any) -> Any:
    """The value with our dicts and sets as Python's."""
    match value:
        case Pairs(pairs):
            return {plain(key): plain(item) for key, item in pairs}
        case Items(items):
            return {plain(item) for item in items}
        case tuple():
            return tuple(plain(item) for item in value)
        case list():
            return [plain(item) for item in value]
    return value


def same(a: Any, b: Any) -> bool:
    """Equal, and of equal types all the way down: 1, 1.0 and True are not the same."""
    return repr(a) == repr(b) or (a == b and isinstance(a, set))


@given(literals)
def test_what_repr_writes_is_read_back(value: Any) -> None:
    if not isinstance(value, set) and "{" not in repr(value):
        assert same(plain(parse(repr(value))), value)
    assert plain(parse(repr(value))) == value


@given(st.text(st.sampled_from("[](){}<>'\",: \\ab1.-e\n") | st.characters(), max_size=30))
def test_any_text_is_read_as_python_reads_it_or_refused(text: str) -> None:
    try:
        value = parse(text)
    except NotLiteralError:
        return
    if any(isinstance(part, Repr) for part in walk(value)):
        return
    try:
        expected = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError, TypeError, MemoryError):
        return  # more lenient than Python: nothing else may come of it than a fingerprint
    assert plain(value) == expected or (value != value and expected != expected)


def walk(value: Any) -> list[Any]:
    match value:
        case Pairs(pairs):
            return [part for pair in pairs for item in pair for part in walk(item)]
        case Items(items):
            return [part for item in items for part in walk(item)]
        case Repr():
            return [value]
        case list() | tuple():
            return [part for item in value for part in walk(item)]
    return [value]


@pytest.mark.parametrize(
    "text",
    [
        "<class 'a.B'>",
        "<A <b> '>' \">\">",
        "Timeout(timeout=3, text=')')",
        "SecretStr('**********')",
        "nan",
        "torch.float16",
    ],
)
def test_what_is_no_literal_is_told_apart(text: str) -> None:
    assert parse(f"[('a', {text}), ('b', 1)]") == [("a", Repr(text)), ("b", 1)]
    assert parse(repr([("a", text)])) == [("a", text)]


@pytest.mark.parametrize(
    "text", ["", "[", "[1", "[1 2]", "{1: 2, 3}", "<", "f(", "'a", "1__0", "1 2", "'\\q'"]
)
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(NotLiteralError):
        parse(text)


def test_floats_keep_their_value() -> None:
    for number in (0.1, 1e300, 5e-324, -0.0, 1e16):
        assert math.copysign(1, parse(repr(number))) == math.copysign(1, number)
        assert parse(repr(number)) == number


def test_many_threads_leave_the_parser_of_python_alone() -> None:
    text = repr([("a", {"b": [1, 2, {"c": ("d", None)}]})] * 50)
    with ThreadPoolExecutor(8) as pool:
        assert len({repr(value) for value in pool.map(parse, [text] * 64)}) == 1
    ast.parse("[1]")
