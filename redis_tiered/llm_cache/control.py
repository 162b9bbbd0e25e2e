"""Per-request control of a cache, from outside the chain that uses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from redis_tiered.checks import seconds
from redis_tiered.errors import InvalidInput
from redis_tiered.keys import part

__all__ = ["Control", "cache_control", "controlled", "current_control"]

_MAX_TAGS = 64


class Control(NamedTuple):
    """What one request may do: read, write, refresh, be answered by other wordings; with which TTL,
    tags and identity of its answer."""

    read: bool = True
    write: bool = True
    refresh: bool = False
    ttl: float | None = None
    tags: tuple[str, ...] = ()
    semantic: bool = True
    answer_id: str | None = None


_UNCONTROLLED = Control()
_current: ContextVar[Control] = ContextVar("redis_tiered_cache_control", default=_UNCONTROLLED)


def current_control() -> Control:
    return _current.get()


@contextmanager
def controlled(control: Control) -> Iterator[None]:
    """Have a block go by what was read elsewhere: a stream ends outside of the block it began in."""
    token = _current.set(control)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def cache_control(
    *,
    read: bool | None = None,
    write: bool | None = None,
    refresh: bool | None = None,
    ttl: float | None = None,
    tags: Iterable[str] | None = None,
    semantic: bool | None = None,
    answer_id: str | None = None,
) -> Iterator[None]:
    """Control every cached call in a block, sync or async, however deep in a chain.

    Blocks nest: what an inner block does not name stays as the outer one says.

    Args:
        read: False: call the model even if an answer is stored.
        write: False: do not store the answer.
        refresh: True: call the model and store its answer in place of the old one.
        ttl: seconds that answers stored in this block stay valid.
        tags: at most 64 names under which they can be deleted.
        semantic: False: neither serve an answer that was stored for another wording, nor serve this
            one to other wordings.
        answer_id: what answers stored in this block answer, by a name of yours: answers of one name
            are the same to the semantic cache, others are not. 1 to 256 characters.

    Raises:
        InvalidInput: a value has the wrong type or range.
    """
    outer = _current.get()
    flags = (("read", read), ("write", write), ("refresh", refresh), ("semantic", semantic))
    for name, value in flags:
        if value is not None and not isinstance(value, bool):
            raise InvalidInput(f"{name} must be a bool or None, got {type(value).__name__}")
    inner = Control(
        outer.read if read is None else read,
        outer.write if write is None else write,
        outer.refresh if refresh is None else refresh,
        outer.ttl if ttl is None else seconds("ttl", ttl),
        outer.tags if tags is None else _checked_tags(tags),
        outer.semantic if semantic is None else semantic,
        outer.answer_id if answer_id is None else _checked_name(answer_id),
    )
    token = _current.set(inner)
    try:
        yield
    finally:
        _current.reset(token)


def _checked_name(name: str) -> str:
    part("answer_id", name)
    return name


def _checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise InvalidInput(f"tags must be several strings, got one {type(tags).__name__}")
    given = tuple(tags)
    for tag in given:
        part("tags", tag)
    checked = tuple(dict.fromkeys(given))
    if len(checked) > _MAX_TAGS:
        raise InvalidInput(f"tags must be at most {_MAX_TAGS}, got {len(checked)}")
    return checked
