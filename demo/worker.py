"""A worker process of the demo: an ordinary LangChain application with several users at once."""

from __future__ import annotations

import asyncio
import queue
import random
import signal
import threading
import time
from collections import Counter
from hashlib import blake2b
from multiprocessing.connection import Connection

from demo.chain import NotedCache, Notes, make_chain, take_notes
from demo.messages import Answered, Ended, Setup
from demo.plan import Ask, rules
from demo.questions import COMPANIES, QUESTIONS

__all__ = ["run"]


def run(setup: Setup, parent: Connection) -> None:
    """Serve batches until the parent says None, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    try:
        with setup.tiers:
            office = _Office(setup, parent)
            setup.tiers.setup()
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

    def serve(self) -> None:
        while (batch := self._parent.recv()) is not None:
            asks: queue.SimpleQueue[Ask] = queue.SimpleQueue()
            for ask in batch.asks:
                asks.put(ask)
            users = [
                threading.Thread(target=self._user, args=(asks, batch.pause), daemon=True)
                for _ in range(self._setup.users)
            ]
            for user in users:
                user.start()
            for user in users:
                user.join()

    def _user(self, asks: queue.SimpleQueue[Ask], pause: float) -> None:
        while True:
            time.sleep(_thinking(pause))
            try:
                ask = asks.get_nowait()
            except queue.Empty:
                return
            notes, began, text, error = take_notes(), time.monotonic(), "", ""
            try:
                text = self._chains[ask.tenant].invoke(self._input(ask))
            except Exception as failure:  # what a user would have seen: counted
                error = repr(failure)
            self._tell(ask, notes, began, text, error)

    async def aserve(self) -> None:
        while (batch := await asyncio.to_thread(self._parent.recv)) is not None:
            asks = list(reversed(batch.asks))
            users = (self._auser(asks, batch.pause) for _ in range(self._setup.users))
            await asyncio.gather(*users)

    async def _auser(self, asks: list[Ask], pause: float) -> None:
        while True:
            await asyncio.sleep(_thinking(pause))
            if not asks:
                return
            ask = asks.pop()
            notes, began, text, error = take_notes(), time.monotonic(), "", ""
            try:
                text = await self._chains[ask.tenant].ainvoke(self._input(ask))
            except Exception as failure:
                error = repr(failure)
            self._tell(ask, notes, began, text, error)

    def _input(self, ask: Ask) -> dict[str, str]:
        named = not self._setup.ports  # only its rules tell the real API the company
        return {
            "rules": rules(ask.tenant, ask.question, named=named),
            "question": QUESTIONS[ask.question],
        }

    def _tell(self, ask: Ask, notes: Notes, began: float, text: str, error: str) -> None:
        others = (company.name for name, company in COMPANIES.items() if name != ask.tenant)
        answered = Answered(
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
        )


def _thinking(pause: float) -> float:
    return random.expovariate(1 / pause) if pause else 0.0
