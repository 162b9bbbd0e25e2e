"""The companies' support tickets, in one collection: filed with a vector, looked up by it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from demo.messages import Filed, Looked
from demo.plan import Ask
from demo.questions import QUESTIONS
from redis_tiered import Document, Field, Filter, Hit, Tiers

__all__ = ["SHOWN", "Tickets", "direction", "place"]

# Tickets that a lookup gives, at most.
SHOWN = 5

_DIMS: Final = 64
_SPREAD: Final = 0.03  # of tickets about a question, around it


class Tickets:
    """What one worker files and looks up; any of its threads and tasks may.

    Both companies' tickets lie in the same collection, and both put the same questions: only the
    filter keeps them apart.

    Args:
        tiers: where they live.
    """

    def __init__(self, tiers: Tiers) -> None:
        self._collection = tiers.collection("tickets", _DIMS)

    def look(self, ask: Ask) -> Looked:
        """Find the tickets of this company that are nearest to a question."""
        began, hits, error = time.monotonic(), tuple[Hit, ...](), ""
        try:
            hits = self._collection.search(direction(ask.question), SHOWN, filter=_of(ask.tenant))
        except Exception as failure:  # what a user would have seen: counted
            error = repr(failure)
        return _looked(ask, began, hits, error)

    async def alook(self, ask: Ask) -> Looked:
        began, hits, error = time.monotonic(), tuple[Hit, ...](), ""
        try:
            hits = await self._collection.asearch(
                direction(ask.question), SHOWN, filter=_of(ask.tenant)
            )
        except Exception as failure:
            error = repr(failure)
        return _looked(ask, began, hits, error)

    def file(self, ask: Ask, name: str, answer: str) -> Filed:
        """Store a ticket."""
        began, error = time.monotonic(), ""
        try:
            self._collection.upsert([_ticket(ask, name, answer)])
        except Exception as failure:
            error = repr(failure)
        return Filed(name, ask, began, time.monotonic() - began, error)

    async def afile(self, ask: Ask, name: str, answer: str) -> Filed:
        began, error = time.monotonic(), ""
        try:
            await self._collection.aupsert([_ticket(ask, name, answer)])
        except Exception as failure:
            error = repr(failure)
        return Filed(name, ask, began, time.monotonic() - began, error)

    def served(self) -> Mapping[str, int]:
        """Searches of this process by what served them: "redis", "memory" or "durable"."""
        stats = self._collection.stats()
        return {
            "redis": stats.get("from redis", 0),
            "memory": stats.get("from memory", 0),
            "durable": stats.get("from the durable tier", 0),
        }

    def names(self) -> tuple[str, ...]:
        """Of all tickets, of both companies."""
        return tuple(ticket.id for ticket in self._collection.find(limit=None))


@functools.cache
def direction(question: int) -> NDArray[np.float64]:
    """A question's vector, of length 1. By chance instead of by a model: near to no other's."""
    return _drawn(f"question {question}")


def place(ask: Ask, name: str) -> NDArray[np.float64]:
    """A ticket's vector: of its question, and moved a little by its name."""
    moved: NDArray[np.float64] = direction(ask.question) + _SPREAD * _drawn(name)
    return moved


def _drawn(words: str) -> NDArray[np.float64]:
    seed = int.from_bytes(blake2b(words.encode(), digest_size=8).digest())
    drawn: NDArray[np.float64] = np.random.default_rng(seed).normal(size=_DIMS)
    return drawn / np.linalg.norm(drawn)


def _ticket(ask: Ask, name: str, answer: str) -> Document:
    metadata: dict[str, Any] = {"company": ask.tenant, "question": ask.question}
    text = f"{QUESTIONS[ask.question]}\n{answer}"
    return Document(name, place(ask, name), text, metadata)


def _of(tenant: str) -> Filter:
    return Field("company") == tenant


def _looked(ask: Ask, began: float, hits: Iterable[Hit], error: str) -> Looked:
    seconds = time.monotonic() - began
    names = tuple(hit.document.id for hit in hits)
    return Looked(ask, names, began, seconds, error)
