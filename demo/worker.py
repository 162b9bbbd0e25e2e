"""A worker process of the demo: an ordinary LangChain application with several users at once."""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import signal
import threading
import time
from collections import Counter
from hashlib import blake2b
from multiprocessing.connection import Connection

from demo.chain import NotedCache, Notes, make_chain, take_notes
from demo.conversation import Conversation, recall
from demo.messages import Answered, Ended, Look, Recall, Setup, Talk
from demo.plan import Ask, rules
from demo.questions import COMPANIES, QUESTIONS
from demo.tickets import Tickets
from redis_tiered.sessions.tokens import load_encoding

__all__ = ["run"]


def run(setup: Setup, parent: Connection) -> None:
    """Serve batches until the parent says None, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    try:
        with setup.tiers:
            office = _Office(setup, parent)
            setup.tiers.setup()
            if setup.name:
                load_encoding()  # for token counts; else the first to add a turn waits for it
            parent.send(None)  # ready
            if setup.native_async:
                asyncio.run(office.aserve())
            else:
                office.serve()
            parent.send(office.counted())
    except (EOFError, BrokenPipeError):
        return  # the parent is gone, so are we


class _Office:
    def __init__(self, setup: Setup, parent: Connection) -> None:
        self._setup = setup
        self._parent = parent
        self._sending = threading.Lock()
        self._caches = {
            tenant: NotedCache(setup.tiers.tenant(tenant), prices=setup.prices)
            for tenant in COMPANIES
        }
        self._chains = {
            tenant: make_chain(setup.model, cache, setup.ports.get(tenant))
            for tenant, cache in self._caches.items()
        }
        # A user's conversations have the same name with all companies.
        self._conversations = {
            (user, tenant): Conversation(Talk(tenant, f"{setup.name}-user-{user + 1}"), setup.tiers)
            for user in range(setup.users)
            for tenant in COMPANIES
            if setup.name
        }
        self._tickets = Tickets(setup.tiers)
        self._numbers = itertools.count(1)

    def serve(self) -> None:
        while (batch := self._parent.recv()) is not None:
            if isinstance(batch, Recall):
                self._parent.send(recall(self._setup.tiers))
                continue
            if isinstance(batch, Look):
                self._parent.send([self._tickets.look(ask) for ask in batch.asks])
                continue
            asks: queue.SimpleQueue[Ask] = queue.SimpleQueue()
            for ask in batch.asks:
                asks.put(ask)
            users = [
                threading.Thread(target=self._user, args=(user, asks, batch.pause), daemon=True)
                for user in range(self._setup.users)
            ]
            for thread in users:
                thread.start()
            for thread in users:
                thread.join()

    def _user(self, user: int, asks: queue.SimpleQueue[Ask], pause: float) -> None:
        while True:
            time.sleep(_thinking(pause))
            try:
                ask = asks.get_nowait()
            except queue.Empty:
                return
            conversation = self._conversations.get((user, ask.tenant))
            seen = conversation.look() if conversation else None
            looked = self._tickets.look(ask) if conversation else None
            notes, began, text, error = take_notes(), time.monotonic(), "", ""
            try:
                text = self._chains[ask.tenant].invoke(self._input(ask))
            except Exception as failure:  # what a user would have seen: counted
                error = repr(failure)
            answered = self._answered(ask, notes, began, text, error)
            answered = answered._replace(seen=seen, looked=looked)
            if conversation and not error:
                answered = answered._replace(
                    added=conversation.add(QUESTIONS[ask.question], text),
                    filed=self._tickets.file(ask, self._new_name(), text),
                )
            self._tell(answered)

    async def aserve(self) -> None:
        while (batch := await asyncio.to_thread(self._parent.recv)) is not None:
            if isinstance(batch, Look):
                self._parent.send([await self._tickets.alook(ask) for ask in batch.asks])
                continue
            asks = list(reversed(batch.asks))
            users = (self._auser(user, asks, batch.pause) for user in range(self._setup.users))
            await asyncio.gather(*users)

    async def _auser(self, user: int, asks: list[Ask], pause: float) -> None:
        while True:
            await asyncio.sleep(_thinking(pause))
            if not asks:
                return
            ask = asks.pop()
            conversation = self._conversations.get((user, ask.tenant))
            seen = await conversation.alook() if conversation else None
            looked = await self._tickets.alook(ask) if conversation else None
            notes, began, text, error = take_notes(), time.monotonic(), "", ""
            try:
                text = await self._chains[ask.tenant].ainvoke(self._input(ask))
            except Exception as failure:
                error = repr(failure)
            answered = self._answered(ask, notes, began, text, error)
            answered = answered._replace(seen=seen, looked=looked)
            if conversation and not error:
                answered = answered._replace(
                    added=await conversation.aadd(QUESTIONS[ask.question], text),
                    filed=await self._tickets.afile(ask, self._new_name(), text),
                )
            self._tell(answered)

    def _new_name(self) -> str:
        return f"{self._setup.name}-ticket-{next(self._numbers)}"

    def _input(self, ask: Ask) -> dict[str, str]:
        named = not self._setup.ports  # only its rules tell the real API the company
        return {
            "rules": rules(ask.tenant, ask.question, named=named),
            "question": QUESTIONS[ask.question],
        }

    def _answered(self, ask: Ask, notes: Notes, began: float, text: str, error: str) -> Answered:
        others = (company.name for name, company in COMPANIES.items() if name != ask.tenant)
        return Answered(
            ask=ask,
            began=began,
            tier=notes.tier,
            lookup=notes.lookup,
            chain=time.monotonic() - began,
            digest=blake2b(text.encode(), digest_size=8).hexdigest(),
            foreign=any(other in text for other in others),
            tokens=notes.tokens,
            error=error,
        )

    def _tell(self, answered: Answered) -> None:
        with self._sending:
            self._parent.send(answered)

    def counted(self) -> Ended:
        stats = [cache.stats() for cache in self._caches.values()]
        hits: Counter[str] = Counter()
        for each in stats:
            hits.update(each.hits)
        return Ended(
            hits=hits,
            misses=sum(each.misses for each in stats),
            tokens=(
                sum(each.saved_input_tokens for each in stats),
                sum(each.saved_output_tokens for each in stats),
            ),
            money=sum(each.saved_money or 0.0 for each in stats),
            served=self._tickets.served(),
        )


def _thinking(pause: float) -> float:
    return random.expovariate(1 / pause) if pause else 0.0
