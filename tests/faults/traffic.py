"""Callers of one cache, sync and async alike, and the traffic that goes on while a tier fails."""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from redis_tiered.llm_cache.cache import Found, LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.tiers.tiers import Tiers
from tests.waiting import wait_until

__all__ = ["Caller", "Loop", "Traffic", "median", "request", "timed"]

T = TypeVar("T")


def request(prompt: object) -> Request:
    """A plain-text request."""
    return Request(b'{"model":"m"}', b"", str(prompt))


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="test loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop().run_forever()


class Caller:
    """An `LLMCache` whose methods are called blocking or in an event loop.

    Args:
        tiers: closed with the caller.
        style: "sync" or "async".
        options: of the cache.
    """

    def __init__(self, tiers: Tiers, style: str = "sync", **options: Any) -> None:
        self.tiers = tiers
        self.cache = LLMCache(tiers, **options)
        self.loop = Loop() if style == "async" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.loop is not None:
            self.loop.run(self.tiers.aclose())
            self.loop.close()
        self.tiers.close()

    def find(self, prompt: object) -> Found | None:
        asked = request(prompt)
        if self.loop is None:
            return self.cache.lookup(asked)
        return self.loop.run(self.cache.alookup(asked))

    def get(self, prompt: object) -> str | None:
        found = self.find(prompt)
        return None if found is None else found.payload.decode()

    def put(self, prompt: object, answer: str) -> None:
        asked, payload = request(prompt), answer.encode()
        if self.loop is None:
            self.cache.update(asked, payload)
        else:
            self.loop.run(self.cache.aupdate(asked, payload))

    def delete(self, prompt: object) -> None:
        if self.loop is None:
            self.cache.delete(request(prompt))
        else:
            self.loop.run(self.cache.adelete(request(prompt)))

    def clear(self) -> None:
        if self.loop is None:
            self.cache.clear()
        else:
            self.loop.run(self.cache.aclear())

    @property
    def errors(self) -> dict[str, int]:
        """Failures of tiers so far, as `tier.kind`."""
        return self.cache.stats().errors

    def resumed(self, prompt: object, answer: str, timeout: float = 3.0) -> float:
        """Ask until Redis or memory answers, and return how long that took."""
        begin = time.monotonic()

        def served() -> bool:
            found = self.find(prompt)
            if found is None:  # lost with Redis: what the model would be asked for again
                self.put(prompt, answer)
                return False
            assert found.payload.decode() == answer
            return found.tier in ("redis", "memory")

        wait_until(served, timeout, "a hit from Redis or memory")
        return time.monotonic() - begin


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def median(action: Callable[[int], object], times: int = 100) -> float:
    return statistics.median(timed(lambda i=i: action(i)) for i in range(times))  # type: ignore[misc]


class Traffic:
    """Four threads and as many tasks that look up and, on a miss, update.

    The right answer to a prompt is fixed, per tenant; anything else is a wrong one.

    Attributes:
        failures: exceptions that left a cache.
        wrong: answers that were not the right ones.
        done: operations, by name.
        acknowledged: prompts, per tenant, whose row was committed: the update returned, the durable
            tier was asked, and no failure of it was counted meanwhile.
    """

    PROMPTS = 100

    def __init__(self, tiers: Tiers, *, tenants: tuple[str, ...] = ("acme", "evil")) -> None:
        self._caches = {
            tenant: LLMCache(tiers.tenant(tenant), single_flight=0.2) for tenant in tenants
        }
        self._tiers = tiers
        self._stop = threading.Event()
        self.failures: list[BaseException] = []
        self.wrong: list[tuple[str, int, bytes]] = []
        self.done: Counter[str] = Counter()
        self.acknowledged: set[tuple[str, int]] = set()
        self.slowest = 0.0

    @staticmethod
    def answer(tenant: str, prompt: int) -> bytes:
        return f"{tenant} answers {prompt}".encode() * (1 + prompt % 7)

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Traffic during the block; it is checked at the end."""
        threads = [threading.Thread(target=self._thread, args=(seed,)) for seed in range(4)]
        threads.append(threading.Thread(target=lambda: asyncio.run(self._tasks())))
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(30)
        assert not any(thread.is_alive() for thread in threads), "traffic hangs"
        self.check()

    def wait(self, operations: int, timeout: float = 10) -> None:
        """Wait for so many further operations."""
        goal = self.done.total() + operations
        wait_until(lambda: self.done.total() >= goal, timeout, f"{operations} operations")

    def check(self) -> None:
        assert self.failures == []
        assert self.wrong == []
        assert self.done["thread.lookup"] > 0
        assert self.done["task.lookup"] > 0

    def check_nothing_lost(self, tiers: Tiers) -> None:
        """Ask for every acknowledged answer, from tiers that hold nothing in memory."""
        assert self.acknowledged
        caches = {tenant: LLMCache(tiers.tenant(tenant)) for tenant in self._caches}
        for tenant, prompt in sorted(self.acknowledged):
            found = caches[tenant].lookup(request(prompt))
            assert found is not None, (tenant, prompt, dict(self._tiers.guards.errors))
            assert found.payload == self.answer(tenant, prompt)

    def _thread(self, seed: int) -> None:
        choose = random.Random(seed)
        while not self._stop.is_set():
            tenant, prompt = self._pick(choose)
            cache = self._caches[tenant]
            begin = time.monotonic()
            try:
                found = cache.lookup(request(prompt))
                if not self._judge("thread", tenant, prompt, found):
                    failures = self._durable_failures()
                    cache.update(request(prompt), self.answer(tenant, prompt))
                    self._acknowledge(tenant, prompt, failures)
            except BaseException as error:
                self.failures.append(error)
                return  # one is enough
            self.slowest = max(self.slowest, time.monotonic() - begin)
            time.sleep(0.0005)

    async def _tasks(self) -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(4):
                group.create_task(self._task(100 + seed))

    async def _task(self, seed: int) -> None:
        choose = random.Random(seed)
        while not self._stop.is_set():
            tenant, prompt = self._pick(choose)
            cache = self._caches[tenant]
            begin = time.monotonic()
            try:
                found = await cache.alookup(request(prompt))
                if not self._judge("task", tenant, prompt, found):
                    failures = self._durable_failures()
                    await cache.aupdate(request(prompt), self.answer(tenant, prompt))
                    self._acknowledge(tenant, prompt, failures)
            except BaseException as error:
                self.failures.append(error)
                return  # one is enough
            self.slowest = max(self.slowest, time.monotonic() - begin)
            await asyncio.sleep(0.0005)

    def _durable_failures(self) -> int:
        guards = self._tiers.guards
        failed = sum(n for name, n in guards.errors.items() if name.startswith("durable."))
        # What an open breaker turned away is not counted.
        return failed if guards.durable.closed else -1

    def _acknowledge(self, tenant: str, prompt: int, failures_before: int) -> None:
        if failures_before == self._durable_failures() >= 0:
            self.acknowledged.add((tenant, prompt))

    def _pick(self, choose: random.Random) -> tuple[str, int]:
        return choose.choice(list(self._caches)), choose.randrange(self.PROMPTS)

    def _judge(self, who: str, tenant: str, prompt: int, found: Found | None) -> bool:
        self.done[f"{who}.lookup"] += 1
        if found is None:
            return False
        self.done[f"hit.{found.tier}"] += 1
        if found.payload != self.answer(tenant, prompt):
            self.wrong.append((tenant, prompt, found.payload))
        return True
