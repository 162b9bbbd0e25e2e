"""One user's conversation with one company, recorded and looked at."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from demo.messages import Added, Mark, Recalled, Seen, Talk
from demo.questions import COMPANIES
from demo.tickets import Tickets
from demo.transcript import SHOWN, Transcript
from langchain_redis_tiered import RedisTieredChatMessageHistory
from redis_tiered import Tiers

__all__ = ["Conversation", "recall"]


class Conversation:
    """A history, and what its user knows of it. Used by one thread or task at a time.

    Args:
        talk: which one.
        tiers: where it lives.
    """

    def __init__(self, talk: Talk, tiers: Tiers) -> None:
        self._talk = talk
        self._history = _history(talk, tiers)
        self._transcript = Transcript()
        self._count = 0

    def look(self) -> Seen:
        """Read the window, and compare it with what was acknowledged."""
        began, window, error = time.monotonic(), list[BaseMessage](), ""
        try:
            window = self._history.messages
        except Exception as failure:  # what a user would have seen: counted
            error = repr(failure)
        return self._seen(began, window, error)

    async def alook(self) -> Seen:
        began, window, error = time.monotonic(), list[BaseMessage](), ""
        try:
            window = await self._history.aget_messages()
        except Exception as failure:
            error = repr(failure)
        return self._seen(began, window, error)

    def add(self, question: str, answer: str) -> Added:
        """Record one turn."""
        turn, began, error = self._turn(question, answer), time.monotonic(), ""
        try:
            self._history.add_messages(turn)
        except Exception as failure:
            error = repr(failure)
        return self._added(began, turn, error)

    async def aadd(self, question: str, answer: str) -> Added:
        turn, began, error = self._turn(question, answer), time.monotonic(), ""
        try:
            await self._history.aadd_messages(turn)
        except Exception as failure:
            error = repr(failure)
        return self._added(began, turn, error)

    def _turn(self, question: str, answer: str) -> list[BaseMessage]:
        # Ids of our own, so that a message is known by what was said, and when.
        self._count += 1
        name = f"{self._talk.session}/{self._count}"
        return [HumanMessage(question, id=f"{name}/asked"), AIMessage(answer, id=f"{name}/told")]

    def _seen(self, began: float, window: list[BaseMessage], error: str) -> Seen:
        seconds = time.monotonic() - began
        fault = "" if error else self._transcript.fault_of_window(_marks(window))
        return Seen(began, seconds, fault, error)

    def _added(self, began: float, turn: list[BaseMessage], error: str) -> Added:
        seconds = time.monotonic() - began
        added = Added(self._talk, _marks(turn), began, seconds, error)
        self._transcript.note(added)
        return added


def recall(tiers: Tiers) -> Recalled:
    """Read every conversation and ticket that there is, of all tenants."""
    logs, windows, error = dict[Talk, Sequence[Mark]](), dict[Talk, Sequence[Mark]](), ""
    tickets: tuple[str, ...] = ()
    try:
        for tenant in COMPANIES:
            for talk in _talks(tiers, tenant):
                history = _history(talk, tiers)
                logs[talk] = _marks(history.log())
                windows[talk] = _marks(history.messages)
        tickets = Tickets(tiers).names()
    except Exception as failure:
        error = repr(failure)
    return Recalled(logs, windows, tickets, error)


def _talks(tiers: Tiers, tenant: str) -> Iterator[Talk]:
    after = None
    while True:
        page = tiers.sessions.list(tenant=tenant, after=after)
        for info in page.sessions:
            yield Talk(info.tenant, info.id)
        if (after := page.next) is None:
            return


def _history(talk: Talk, tiers: Tiers) -> RedisTieredChatMessageHistory:
    return RedisTieredChatMessageHistory(
        talk.session, tiers.tenant(talk.tenant), max_messages=SHOWN
    )


def _marks(messages: Iterable[BaseMessage]) -> tuple[Mark, ...]:
    return tuple(
        Mark(message.id or "", message.type, _digest(str(message.content))) for message in messages
    )


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
