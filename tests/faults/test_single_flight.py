"""Many miss the same answer at once: one asks the model, the others wait, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.llms import LLM

from langchain_redis_tiered.cache import RedisTieredCache
from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.tiers.tiers import Tiers
from tests.faults.traffic import Loop, request, timed
from tests.faults.worker import Worker
from tests.servers import RedisServer
from tests.waiting import await_until, wait_until

CALL = 0.2  # seconds that the model takes


class Model:
    """Asked through a cache; counts its calls."""

    def __init__(self, cache: LLMCache, *, seconds: float = CALL) -> None:
        self.cache = cache
        self.seconds = seconds
        self.calls = 0

    def ask(self, prompt: str = "q") -> str:
        if (found := self.cache.lookup(request(prompt))) is not None:
            return found.payload.decode()
        self.calls += 1
        time.sleep(self.seconds)
        self.cache.update(request(prompt), b"a")
        return "a"

    async def aask(self, prompt: str = "q") -> str:
        if (found := await self.cache.alookup(request(prompt))) is not None:
            return found.payload.decode()
        self.calls += 1
        await asyncio.sleep(self.seconds)
        await self.cache.aupdate(request(prompt), b"a")
        return "a"


def _together(number: int, action: Any) -> list[Any]:
    """Results of so many threads that start at the same time."""
    barrier = threading.Barrier(number)
    results: list[Any] = []

    def run() -> None:
        barrier.wait(10)
        results.append(action())

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.fixture
def tiers(valkey: RedisServer) -> Iterator[Tiers]:
    with Tiers(valkey.url) as tiers:
        tiers.setup()
        yield tiers


# --- one call ------------------------------------------------------------------------------------


def test_threads(tiers: Tiers) -> None:
    model = Model(LLMCache(tiers))
    begin = time.monotonic()
    assert _together(32, model.ask) == ["a"] * 32
    assert time.monotonic() - begin < CALL + 1.5
    assert model.calls == 1


def test_tasks(tiers: Tiers) -> None:
    model = Model(LLMCache(tiers))

    async def main() -> list[str]:
        return await asyncio.gather(*(model.aask() for _ in range(50)))

    assert asyncio.run(main()) == ["a"] * 50
    assert model.calls == 1


def test_threads_and_loops_together(tiers: Tiers) -> None:
    model = Model(LLMCache(tiers))

    async def several() -> list[str]:
        return await asyncio.gather(*(model.aask() for _ in range(10)))

    numbers = iter(range(6))
    lock = threading.Lock()

    def run() -> list[str]:
        with lock:
            number = next(numbers)
        return asyncio.run(several()) if number < 2 else [model.ask()]

    results = _together(6, run)
    assert sorted(map(len, results)) == [1, 1, 1, 1, 10, 10]
    assert {answer for result in results for answer in result} == {"a"}
    assert model.calls == 1


def test_without_redis_one_call_per_process(valkey: RedisServer, tiers: Tiers) -> None:
    model = Model(LLMCache(tiers))
    valkey.kill()
    assert model.cache.lookup(request("opens the breaker")) is None
    assert _together(16, model.ask).count("a") == 16
    # Without any tier the answer is handed on by the flight alone.
    assert model.calls == 1


def test_processes(valkey: RedisServer, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(valkey.url)) for _ in range(3)]
        for _ in range(2):
            for worker in workers:
                worker.send("ask_model", "q", 8, str(calls), 0.5)
        for _ in range(2):
            for worker in workers:
                assert worker.receive() == ["the answer"] * 8
    assert len(calls.read_text().splitlines()) == 1


# --- the leader fails ----------------------------------------------------------------------------


def test_a_task_that_raises_is_replaced_at_once(tiers: Tiers) -> None:
    cache = LLMCache(tiers)

    async def main() -> float:
        led = asyncio.Event()

        async def fails() -> None:
            assert await cache.alookup(request("q")) is None
            led.set()
            await asyncio.sleep(0.1)
            raise RuntimeError("the model failed")

        async def waits() -> float:
            await led.wait()
            begin = time.monotonic()
            assert await cache.alookup(request("q")) is None
            took = time.monotonic() - begin
            await cache.aupdate(request("q"), b"a")
            return took

        first = asyncio.create_task(fails())
        others = [asyncio.create_task(waits())]
        others += [asyncio.create_task(_gets(cache)) for _ in range(5)]
        took, *_ = await asyncio.wait_for(asyncio.gather(*others), 10)
        with pytest.raises(RuntimeError):
            await first
        return took

    assert asyncio.run(main()) < 0.1 + 0.5


async def _gets(cache: LLMCache) -> float:
    await asyncio.sleep(0.05)
    found = await cache.alookup(request("q"))
    if found is None:
        await cache.aupdate(request("q"), b"a")
    return 0.0


def test_a_cancelled_task_is_replaced_at_once(tiers: Tiers) -> None:
    cache = LLMCache(tiers)

    async def main() -> float:
        async def leads() -> None:
            assert await cache.alookup(request("q")) is None
            await asyncio.sleep(60)

        leader = asyncio.create_task(leads())
        await await_until(lambda: len(cache._flights) == 1)
        waiter = asyncio.create_task(cache.alookup(request("q")))
        await asyncio.sleep(0.05)
        leader.cancel()
        begin = time.monotonic()
        assert await asyncio.wait_for(waiter, 10) is None
        return time.monotonic() - begin

    assert asyncio.run(main()) < 0.5


def test_a_cancelled_waiter_disturbs_nobody(tiers: Tiers, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the leader nor other waiters, in this loop or another one."""
    cache = LLMCache(tiers)
    assert cache.lookup(request("q")) is None  # this thread leads
    other = Loop()
    waiting = asyncio.run_coroutine_threadsafe(cache.alookup(request("q")), other.loop)

    async def gives_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cache.alookup(request("q")), 0.1)

    asyncio.run(gives_up())
    asyncio.run(gives_up())
    cache.update(request("q"), b"a")  # wakes those whose loop is closed, too
    found = waiting.result(5)
    assert found is not None
    assert found.payload == b"a"
    other.close()
    assert caplog.records == []


def test_a_thread_that_ended_is_replaced_at_once(tiers: Tiers) -> None:
    cache = LLMCache(tiers)
    leader = threading.Thread(target=cache.lookup, args=(request("q"),))
    leader.start()
    leader.join()
    assert timed(lambda: cache.lookup(request("q"))) < 0.5


def test_a_pooled_thread_that_failed_is_replaced(tiers: Tiers) -> None:
    """The thread lives on, so only the bound ends the wait, or its next question."""
    cache = LLMCache(tiers, single_flight=1.0)
    again = threading.Event()

    def fails_and_goes_on() -> None:
        assert cache.lookup(request("q")) is None
        again.wait(10)

    leader = threading.Thread(target=fails_and_goes_on)
    leader.start()
    wait_until(lambda: len(cache._flights) == 1)
    took = timed(lambda: cache.lookup(request("q")))
    assert 0.5 < took < 1.6
    again.set()
    leader.join()


def test_an_answer_that_is_not_stored_frees_all(tiers: Tiers) -> None:
    cache = LLMCache(tiers)
    assert cache.lookup(request("q")) is None
    took: list[float] = []

    def wait() -> None:
        took.append(timed(lambda: cache.lookup(request("q"))))

    waiters = [threading.Thread(target=wait) for _ in range(10)]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.1)  # they wait now
    assert took == []
    begin = time.monotonic()
    cache.refuse(request("q"), "truncated")
    for waiter in waiters:
        waiter.join(10)
    assert time.monotonic() - begin < 0.5
    assert len(took) == 10


def test_an_answer_that_is_not_stored_frees_other_processes(
    valkey: RedisServer, tiers: Tiers
) -> None:
    cache = LLMCache(tiers)
    with Worker(valkey.url) as worker:
        worker.do("get", "warm")
        assert cache.lookup(request("q")) is None
        worker.send("get", "q")
        time.sleep(0.1)
        begin = time.monotonic()
        cache.refuse(request("q"), "truncated")
        assert worker.receive() is None
        assert time.monotonic() - begin < 1


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis", "redis down"])
def test_the_wait_is_bounded(valkey: RedisServer, tiers: Tiers, with_redis: bool) -> None:
    cache = LLMCache(tiers, single_flight=0.3)
    if not with_redis:
        valkey.kill()
        cache.lookup(request("opens the breaker"))
    led = threading.Event()
    end = threading.Event()

    def lead() -> None:
        cache.lookup(request("q"))
        led.set()
        end.wait(10)

    leader = threading.Thread(target=lead)
    leader.start()
    led.wait(10)
    assert 0.1 < timed(lambda: cache.lookup(request("q"))) < 0.3 + 0.4
    assert 0 <= timed(lambda: asyncio.run(cache.alookup(request("q")))) < 0.3 + 0.6
    end.set()
    leader.join()


def test_the_wait_for_another_process_is_bounded(valkey: RedisServer, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with Worker(valkey.url) as leader, Tiers(valkey.url) as tiers:
        leader.send("ask_model", "q", 1, str(calls), 1.2)
        wait_until(calls.exists)
        cache = LLMCache(tiers, single_flight=0.3)
        assert 0.2 < timed(lambda: cache.lookup(request("q"))) < 0.3 + 0.4
        assert leader.receive() == ["the answer"]


# --- LangChain -----------------------------------------------------------------------------------


class Completions(LLM):
    calls: list[str] = []  # noqa: RUF012 - a field of pydantic's

    @property
    def _llm_type(self) -> str:
        return "completions"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        self.calls.append(prompt)
        time.sleep(0.05)
        return f"answer to {prompt}"


def test_one_generate_with_the_same_prompt_twice(tiers: Tiers) -> None:
    model = Completions(cache=RedisTieredCache(tiers))
    prompts = ["p", "q", "p", "p"]
    begin = time.monotonic()
    result = model.generate(prompts)
    assert time.monotonic() - begin < 2
    assert [g[0].text for g in result.generations] == [f"answer to {p}" for p in prompts]
    calls = len(model.calls)
    result = asyncio.run(model.agenerate([*prompts, "r", "r"]))
    assert [g[0].text for g in result.generations][-1] == "answer to r"
    assert model.calls[calls:] in (["r"], ["r", "r"])


def test_batch_of_identical_prompts(tiers: Tiers) -> None:
    model = Completions(cache=RedisTieredCache(tiers))
    answers = _together(16, lambda: model.invoke("q"))
    assert answers == ["answer to q"] * 16
    assert model.calls == ["q"]
