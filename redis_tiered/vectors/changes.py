"""What Redis says of the changes of a collection to a process that has an index of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Changes", "News", "changes_of", "scored"]


class Changes(NamedTuple):
    """What Redis says when it is asked; `changed` and `removed` are at most a page."""

    generation: str
    layout: str
    water: int
    forgotten: int
    documents: int
    changed: list[tuple[bytes, int]]
    removed: list[tuple[bytes, int]]


class News:
    """What Redis said in somebody else's round trip; see `LocalEngine.ask`.

    It is of use once: who looks again wants to know more.

    Args:
        replies: to what was asked.
    """

    def __init__(self, replies: Sequence[Any]) -> None:
        ((*said, token),) = replies
        self._changes = changes_of(said)
        self._copy: int | None
        self._copy, self._incarnation = map(int, token.split())

    def take(self, copy: int) -> tuple[Changes | None, int] | None:
        """The changes, if they were asked for a copy of this number, and the incarnation of Redis
        before that."""
        asked, self._copy = self._copy, None
        return (self._changes, self._incarnation) if asked == copy else None


def changes_of(replies: Sequence[Any]) -> Changes | None:
    (generation, layout, water, forgotten, count), *pages = replies
    if generation is None:
        return None
    changed, removed = map(scored, pages) if pages else ([], [])
    return Changes(
        generation.decode(),
        layout.decode(),
        int(water),
        int(forgotten),
        int(count or 0),
        changed,
        removed,
    )


def scored(reply: list[bytes]) -> list[tuple[bytes, int]]:
    return [(reply[i], int(float(reply[i + 1]))) for i in range(0, len(reply), 2)]
