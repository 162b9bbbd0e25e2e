"""What a person knows of their own traffic: a log of prompts with answers, or judged pairs.

Both come as an iterable or as a JSON Lines file. They are read whole, checked, and told apart by
their first item. What contradicts itself is counted here, for no measurement is better than its data.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redis_tiered.checks import text
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.normal import normal

__all__ = ["Groups", "Log", "Pairs", "read"]

_ACCEPTED = (
    'a log, {"prompt": str, "answer": str} with "scope": str and "embedding": [number, ...] if '
    'wanted, or (prompt, answer) tuples; or pairs, {"a": str, "b": str, "same": bool}, or '
    "(a, b, same) tuples"
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN = 3


@dataclass(frozen=True)
class Log:
    """Distinct prompts in the order they were first asked.

    Attributes:
        prompts: their texts; no two of a scope have the same normal form.
        answers: identity of the answer of each: what most of its occurrences say, the first of equals.
        scopes: what may be compared with what, "" where nothing was said.
        embeddings: (prompts, dims) numbers as they came, or None.
        rows: how many items there were, repeats among them.
        repeated: prompts that were asked more than once.
        contradicting: prompts with more than one answer.
        empty: items without text, left out.
        examples: some of the contradicting prompts.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    scopes: tuple[str, ...]
    embeddings: NDArray[np.float32] | None
    rows: int
    repeated: int = 0
    contradicting: int = 0
    empty: int = 0
    examples: tuple[str, ...] = ()

    @property
    def contradiction(self) -> float:
        """Share of the prompts that carry more than one answer."""
        return self.contradicting / max(1, len(self.prompts))

    def part(self, rows: NDArray[np.int64]) -> Log:
        """Some of its prompts, in the order of `rows`."""
        return Log(
            prompts=tuple(self.prompts[row] for row in rows),
            answers=tuple(self.answers[row] for row in rows),
            scopes=tuple(self.scopes[row] for row in rows),
            embeddings=None if self.embeddings is None else self.embeddings[rows],
            rows=len(rows),
        )


@dataclass(frozen=True)
class Pairs:
    """Pairs of prompts, each judged to have the same answer or not.

    Attributes:
        left, right: the texts; (a, b) and (b, a) are one pair.
        same: (pairs,) of bool.
        component: (pairs,) of int: pairs that share a prompt, directly or through others, share one.
        rows, empty: as in `Log`.
        contradicting: pairs judged different whose prompts other pairs judge to be the same.
        examples: some of them.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    same: NDArray[np.bool_]
    component: NDArray[np.int64]
    rows: int
    contradicting: int = 0
    empty: int = 0
    examples: tuple[str, ...] = ()

    @property
    def contradiction(self) -> float:
        """Share of the pairs that contradict others."""
        return self.contradicting / max(1, len(self.left))


class Groups:
    """Things that belong together, by union and find."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, one: str) -> str:
        """The one that stands for the group of `one`."""
        parents = self._parents
        root = parents.setdefault(one, one)
        while root != parents[root]:
            root = parents[root]
        while one != root:
            parents[one], one = root, parents[one]
        return root

    def join(self, one: str, other: str) -> None:
        """Put two, and all that belong to them, together."""
        self._parents[self.find(one)] = self.find(other)


def read(data: object) -> Log | Pairs:
    """A log or pairs, from an iterable of them or the path of a JSON Lines file.

    Raises:
        InvalidInput: the file cannot be read; an item is neither, or not what the first was. The
            message names the item by its number, or the file and line.
    """
    if isinstance(data, Log | Pairs):
        return data
    if isinstance(data, str | os.PathLike):
        items = list(_lines(os.fspath(data)))
        name = os.fspath(data)
    elif isinstance(data, Iterable) and not isinstance(data, bytes | Mapping):
        items = [(f"item {number}", item) for number, item in enumerate(data, 1)]
        name = "data"
    else:
        raise InvalidInput(
            f"data must be {_ACCEPTED}; or the path of a JSONL file of one of them; "
            f"got {type(data).__name__}"
        )
    if not items:
        raise InvalidInput(f"{name} is empty; accepted is {_ACCEPTED}")
    if _is_pair(items[0][1]):
        return _pairs(items)
    return _log(items)


def _lines(path: str) -> Iterator[tuple[str, Any]]:
    import orjson

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None
    for number, line in enumerate(content.removeprefix(_BYTE_ORDER_MARK).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"{path}, line {number}", orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"{path}, line {number}: not JSON: {error}") from None


def _is_pair(item: object) -> bool:
    if isinstance(item, Mapping):
        return "same" in item or ("a" in item and "b" in item)
    return isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) == 3


@dataclass
class _Heard:
    """All that was said of one prompt."""

    prompt: str
    scope: str
    embedding: Any
    answers: Counter[str] = field(default_factory=Counter)


def _log(items: list[tuple[str, Any]]) -> Log:
    heard: dict[tuple[str, str], _Heard] = {}
    empty = 0
    for where, item in items:
        prompt, answer, scope, embedding = _asked(where, item)
        key = normal(prompt)
        if not key:
            empty += 1
            continue
        one = heard.setdefault((scope, key), _Heard(prompt, scope, embedding))
        one.answers[answer] += 1
    if not heard:
        raise InvalidInput(f"data has no prompt with text in it, {empty} were empty")
    kept = list(heard.values())
    contradicting = [one.prompt for one in kept if len(one.answers) > 1]
    return Log(
        prompts=tuple(one.prompt for one in kept),
        answers=tuple(one.answers.most_common(1)[0][0] for one in kept),
        scopes=tuple(one.scope for one in kept),
        embeddings=_matrix([one.embedding for one in kept]),
        rows=len(items),
        repeated=sum(one.answers.total() > 1 for one in kept),
        contradicting=len(contradicting),
        empty=empty,
        examples=tuple(contradicting[:_SHOWN]),
    )


def _asked(where: str, item: object) -> tuple[str, str, str, Any]:
    if isinstance(item, Mapping):
        if "prompt" not in item or "answer" not in item:
            raise InvalidInput(
                f'{where} must have the keys "prompt" and "answer", got {_keys(item)}; '
                f"accepted is {_ACCEPTED}"
            )
        prompt, answer = item["prompt"], item["answer"]
        scope, embedding = item.get("scope"), item.get("embedding")
    elif isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) == 2:
        (prompt, answer), scope, embedding = item, None, None
    else:
        raise InvalidInput(f"{where} is {_what(item)}; accepted is {_ACCEPTED}")
    return (
        text(f"{where}: prompt", prompt),
        _identity(f"{where}: answer", answer),
        "" if scope is None else text(f"{where}: scope", scope),
        embedding,
    )


def _identity(name: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(name, value, least=1)


def _matrix(rows: list[Any]) -> NDArray[np.float32] | None:
    absent = sum(row is None for row in rows)
    if absent == len(rows):
        return None
    if absent:
        raise InvalidInput(f'"embedding" is given for some prompts, but not for {absent}')
    try:
        matrix = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError):
        raise InvalidInput(
            '"embedding" must be a list of numbers, of one length for all prompts'
        ) from None
    if matrix.ndim != 2 or not matrix.shape[1] or not np.isfinite(matrix).all():
        raise InvalidInput('"embedding" must be a list of finite numbers')
    return matrix


def _pairs(items: list[tuple[str, Any]]) -> Pairs:
    left: list[str] = []
    right: list[str] = []
    labels: list[bool] = []
    keys: list[tuple[str, str]] = []
    seen: set[tuple[str, str, bool]] = set()
    empty = 0
    for where, item in items:
        a, b, same = _judged(where, item)
        first, second = normal(a), normal(b)
        if not first or not second:
            empty += 1
            continue
        key = (first, second) if first <= second else (second, first)
        # Equal prompts are the exact tier's; two answers of one prompt are a contradiction.
        if (*key, same) in seen or (first == second and same):
            continue
        seen.add((*key, same))
        left.append(a)
        right.append(b)
        labels.append(same)
        keys.append(key)
    if not left:
        raise InvalidInput("data has no pair of two different prompts with text in them")
    alike, linked = Groups(), Groups()
    for (first, second), same in zip(keys, labels, strict=True):
        linked.join(first, second)
        if same:
            alike.join(first, second)
    wrong = [
        index
        for index, (first, second) in enumerate(keys)
        if not labels[index] and alike.find(first) == alike.find(second)
    ]
    numbers: dict[str, int] = {}
    component = [numbers.setdefault(linked.find(first), len(numbers)) for first, _ in keys]
    return Pairs(
        left=tuple(left),
        right=tuple(right),
        same=np.array(labels),
        component=np.array(component, dtype=np.int64),
        rows=len(items),
        contradicting=len(wrong),
        empty=empty,
        examples=tuple(f"{left[index]} / {right[index]}" for index in wrong[:_SHOWN]),
    )


def _judged(where: str, item: object) -> tuple[str, str, bool]:
    if isinstance(item, Mapping):
        if not {"a", "b", "same"} <= item.keys():
            raise InvalidInput(
                f'{where} must have the keys "a", "b" and "same", got {_keys(item)}; '
                f"accepted is {_ACCEPTED}"
            )
        a, b, same = item["a"], item["b"], item["same"]
    elif isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) == 3:
        a, b, same = item
    else:
        raise InvalidInput(f"{where} is {_what(item)}, the first item is a pair; give one of both")
    if isinstance(same, np.bool_):
        same = bool(same)
    if not isinstance(same, int) or same not in (0, 1):
        raise InvalidInput(f"{where}: same must be true or false, got {same!r:.40}")
    return text(f"{where}: a", a), text(f"{where}: b", b), bool(same)


def _keys(item: Mapping[Any, Any]) -> str:
    return ", ".join(repr(key)[:40] for key in list(item)[:6]) or "none"


def _what(item: object) -> str:
    if isinstance(item, Sequence) and not isinstance(item, str | bytes):
        return f"{type(item).__name__} of {len(item)}"
    return f"of type {type(item).__name__}"
