"""Both drivers run the same flows: results, retries, breakers, cancellation."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from redis_tiered.errors import TierError, TierReplyError, TierUnavailable
from redis_tiered.flow import (
    AsyncDriver,
    Call,
    Driver,
    Embed,
    Flow,
    Guards,
    Redis,
    Sleep,
    Sql,
    Wait,
)
from tests.waiting import await_until, wait_until

GET = Redis((("GET", "k"),))
SET = Redis((("SET", "k", "v"),), write=True)
POP = Redis((("SPOP", "k"),), write=True, idempotent=False)
READ = Sql(lambda connection: "row")
WRITE = Sql(lambda connection: "written", write=True)

DOWN = ["refused", "timeout", "reset", "loading", "clusterdown", "auth", "pool", "start"]
WRITES_REFUSED = ["oom", "readonly", "misconf", "noreplicas"]
RETRIED = ["reset", "readonly", "moved", "serialization"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Clients:
    """Answers from a script: a result to return or an error to raise; then `"ok"` for ever."""

    def __init__(self, script: Sequence[object] = ()) -> None:
        self.script = list(script)
        self.asked: list[tuple[Redis | Sql, bool]] = []

    def _next(self, step: Redis | Sql, fresh: bool) -> Any:
        self.asked.append((step, fresh))
        outcome = self.script.pop(0) if self.script else "ok"
        if isinstance(outcome, Exception):
            raise outcome
        return [outcome] if isinstance(step, Redis) else outcome

    def redis(self, step: Redis, *, fresh: bool) -> list[Any]:
        return self._next(step, fresh)  # type: ignore[no-any-return]

    def sql(self, step: Sql) -> Any:
        return self._next(step, False)


class AsyncClients(Clients):
    async def redis(self, step: Redis, *, fresh: bool) -> list[Any]:  # type: ignore[override]
        await asyncio.sleep(0)
        return self._next(step, fresh)  # type: ignore[no-any-return]

    async def sql(self, step: Sql) -> Any:
        await asyncio.sleep(0)
        return self._next(step, False)


class Bench:
    """One driver over scripted clients."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.clock = Clock()
        self.guards = Guards(clock=self.clock)
        self.clients = Clients() if kind == "sync" else AsyncClients()

    def run(self, flow: Flow[Any]) -> Any:
        if self.kind == "sync":
            return Driver(self.clients, self.guards).run(flow)
        return asyncio.run(AsyncDriver(self.clients, self.guards).run(flow))  # type: ignore[arg-type]

    def perform(self, step: Any, *script: object) -> Any:
        """One step; its result, or the kind of the error that the flow caught."""
        self.clients.script = list(script)
        self.clients.asked.clear()
        return self.run(one(step))

    @property
    def attempts(self) -> int:
        return len(self.clients.asked)


def one(step: Any) -> Flow[Any]:
    try:
        return (yield step)
    except TierError as error:
        return error.kind


@pytest.fixture(params=["sync", "async"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


def down(kind: str, tier: str = "redis") -> TierError:
    return TierUnavailable(tier, kind)


def test_a_flow_is_sent_results_and_returns_its_own(bench: Bench) -> None:
    def flow() -> Flow[tuple[Any, ...]]:
        replies = yield GET
        row = yield READ
        return replies, row, (yield from inner())

    def inner() -> Flow[str]:
        yield Sleep(0.0)
        return "inner"

    bench.clients.script = ["reply", "row"]
    assert bench.run(flow()) == (["reply"], "row", "inner")
    assert bench.clients.asked == [(GET, False), (READ, False)]


def test_a_flow_without_steps_only_returns(bench: Bench) -> None:
    def flow() -> Flow[int]:
        return 7
        yield

    assert bench.run(flow()) == 7


@pytest.mark.parametrize("step", [GET, READ])
def test_a_failure_is_thrown_in_and_may_be_caught_or_let_pass(bench: Bench, step: Any) -> None:
    error = TierReplyError("redis", "reply", "WRONGTYPE")
    assert bench.perform(step, error) == "reply"

    def uncaught() -> Flow[None]:
        yield step

    bench.clients.script = [error]
    with pytest.raises(TierReplyError) as raised:
        bench.run(uncaught())
    assert raised.value is error


def test_what_is_no_failure_of_a_tier_is_not_thrown_into_the_flow(bench: Bench) -> None:
    closed = []

    def flow() -> Flow[None]:
        try:
            yield GET
        except TierError:
            raise AssertionError("not a TierError") from None
        finally:
            closed.append(True)

    bench.clients.script = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        bench.run(flow())
    assert closed == [True]


def test_what_is_not_a_step_is_refused(bench: Bench) -> None:
    with pytest.raises(TypeError, match="not a step"):
        bench.run(one("GET k"))


@pytest.mark.parametrize("kind", sorted({*DOWN, *WRITES_REFUSED, *RETRIED, "reply", "open"}))
@pytest.mark.parametrize("step", [GET, SET, POP, READ, WRITE], ids=["get", "set", "pop", "r", "w"])
def test_retried_once_and_only_where_it_may_help(bench: Bench, step: Any, kind: str) -> None:
    assert bench.perform(step, down(kind), down(kind)) == kind
    retried = kind in RETRIED and step is not POP
    assert bench.attempts == (2 if retried else 1)
    assert bench.guards.retries == int(retried)
    assert bench.guards.errors == {f"redis.{kind}": 1}


def test_a_retry_that_succeeds_trusts_no_old_connection_and_counts_no_error(bench: Bench) -> None:
    assert bench.perform(GET, down("reset"), "fine") == ["fine"]
    assert bench.clients.asked == [(GET, False), (GET, True)]
    assert bench.guards.errors == {}
    assert bench.guards.redis.closed


def test_a_lost_connection_makes_what_was_known_of_redis_doubtful(bench: Bench) -> None:
    before = bench.guards.redis_incarnation
    bench.perform(GET, down("moved"), "fine")
    assert bench.guards.redis_incarnation == before
    bench.perform(GET, down("reset"), "fine")
    assert bench.guards.redis_incarnation == before + 1


@pytest.mark.parametrize("kind", DOWN)
@pytest.mark.parametrize("step", [GET, SET, READ, WRITE], ids=["get", "set", "read", "write"])
def test_a_tier_that_is_down_is_left_alone_then_probed_then_back(
    bench: Bench, step: Any, kind: str
) -> None:
    breaker = bench.guards.redis if isinstance(step, Redis) else bench.guards.durable
    bench.perform(step, down(kind), down(kind))
    assert not breaker.closed
    assert bench.perform(step) == "open"
    assert bench.attempts == 0
    bench.clock.now += 0.1
    assert bench.perform(step, down("refused")) == "refused"
    assert bench.attempts == 1
    bench.clock.now += 0.1
    assert bench.perform(step) == "open"
    bench.clock.now += 0.1
    result = bench.perform(step, "back")
    assert result == (["back"] if isinstance(step, Redis) else "back")
    assert breaker.closed
    assert breaker.incarnation == 1


def test_the_tiers_have_breakers_of_their_own(bench: Bench) -> None:
    bench.perform(GET, down("refused"))
    assert bench.perform(READ, "row") == "row"
    bench.clock.now += 1
    bench.perform(GET)
    bench.perform(READ, down("refused", "durable"))
    assert bench.perform(GET, "reply") == ["reply"]
    assert bench.perform(WRITE) == "open"


@pytest.mark.parametrize("kind", WRITES_REFUSED)
def test_refused_writes_leave_reads_alone(bench: Bench, kind: str) -> None:
    assert bench.perform(SET, down(kind), down(kind)) == kind
    assert bench.perform(SET) == "open"
    assert bench.attempts == 0
    assert bench.perform(GET, "reply") == ["reply"]
    assert bench.guards.redis.closed
    bench.clock.now += 0.1
    assert bench.perform(SET, "done") == ["done"]
    assert bench.guards.redis_writes.closed


@pytest.mark.parametrize("kind", WRITES_REFUSED)
def test_a_database_that_takes_no_writes_is_no_concern_of_redis(bench: Bench, kind: str) -> None:
    bench.perform(WRITE, down(kind, "durable"), down(kind, "durable"))
    assert bench.guards.redis_writes.closed
    assert bench.perform(SET, "done") == ["done"]


def test_a_write_that_finds_redis_down_frees_the_probe_of_both_breakers(bench: Bench) -> None:
    bench.perform(SET, down("oom"))
    bench.perform(GET, down("refused"))
    bench.clock.now += 0.15
    assert bench.perform(SET, down("refused")) == "refused"
    bench.clock.now += 0.3
    assert bench.perform(GET, "reply") == ["reply"]
    assert bench.perform(SET, "done") == ["done"]


def test_a_refused_request_leaves_its_tier_open(bench: Bench) -> None:
    for _ in range(3):
        assert bench.perform(GET, TierReplyError("redis", "reply")) == "reply"
    assert bench.guards.redis.closed
    assert bench.guards.errors == {"redis.reply": 3}


def test_sleep_pauses(bench: Bench) -> None:
    began = time.monotonic()
    assert bench.perform(Sleep(0.03)) is None
    assert time.monotonic() - began >= 0.03


def test_wait_tells_whether_the_future_is_done(bench: Bench) -> None:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    began = time.monotonic()
    assert bench.perform(Wait(future, 0.02)) is False
    assert time.monotonic() - began >= 0.02
    threading.Timer(0.02, future.set_result, (None,)).start()
    assert bench.perform(Wait(future, 5)) is True
    assert time.monotonic() - began < 4
    assert bench.perform(Wait(future, 5)) is True


class Embedder:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self.error is not None:
            raise self.error
        return [[float(len(text))] for text in texts]

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return self.embed(texts)


def test_embed_asks_the_embedder(bench: Bench) -> None:
    assert bench.perform(Embed(Embedder(), ("a", "bcd"))) == [[1.0], [3.0]]


def test_a_failing_embedder_is_a_failed_tier_that_keeps_its_message_to_itself(
    bench: Bench,
) -> None:
    def flow() -> Flow[None]:
        yield Embed(Embedder(ValueError("key sk-secret")), ("a",))

    with pytest.raises(TierUnavailable, match="ValueError") as raised:
        bench.run(flow())
    assert "secret" not in str(raised.value)
    assert raised.value.tier == "embedder"
    assert bench.guards.errors == {"embedder.failed": 1}


def test_a_function_is_called_with_its_arguments(bench: Bench) -> None:
    threads = []

    def join(*parts: str) -> str:
        threads.append(threading.current_thread())
        return "".join(parts)

    assert bench.perform(Call("joiner", join, ("a", "b"))) == "ab"
    assert bench.perform(Call("joiner", join, ())) == ""
    # One that takes long must not keep the event loop.
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [bench.kind == "sync"] * 2
    assert bench.attempts == 0


def test_a_coroutine_function_is_awaited_in_the_loop() -> None:
    bench = Bench("async")
    threads = []

    async def join(*parts: str) -> str:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())
        return "".join(parts)

    class Joiner:
        async def join(self, *parts: str) -> str:
            return await join(*parts)

    for function in (join, Joiner().join, functools.partial(join, "a")):
        given = ("b",) if isinstance(function, functools.partial) else ("a", "b")
        assert bench.perform(Call("joiner", function, given)) == "ab"
    assert threads == [threading.current_thread()] * 3


def _fails(*_: object) -> None:
    raise ValueError("key sk-secret")


async def _fails_later(*_: object) -> None:
    await asyncio.sleep(0)
    raise ValueError("key sk-secret")


def test_a_failing_function_is_a_failed_tier_that_keeps_its_message_to_itself(
    bench: Bench,
) -> None:
    def flow(function: Callable[..., Any]) -> Flow[None]:
        yield Call("summarizer", function, ("sk-argument",))

    functions: list[Callable[..., Any]] = [_fails]
    if bench.kind == "async":
        functions.append(_fails_later)
    for number, function in enumerate(functions, 1):
        with pytest.raises(TierUnavailable, match="ValueError") as raised:
            bench.run(flow(function))
        shown = f"{raised.value} {raised.value!r} {raised.value.detail}"
        assert "secret" not in shown
        assert "sk-argument" not in shown
        assert (raised.value.tier, raised.value.kind) == ("summarizer", "failed")
        assert isinstance(raised.value.__cause__, ValueError)
        assert bench.guards.errors == {"summarizer.failed": number}
    assert bench.perform(Call("summarizer", _fails, ())) == "failed"  # a flow may catch it
    assert all(breaker.closed for breaker in bench.guards.breakers())


def test_what_ends_the_process_is_no_failure_of_a_function(bench: Bench) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    if bench.kind == "async":
        pytest.skip("a thread cannot be interrupted")
    with pytest.raises(KeyboardInterrupt):
        bench.perform(Call("x", interrupt, ()))
    assert bench.guards.errors == {}


async def test_a_cancelled_caller_cancels_the_coroutine_and_closes_the_flow() -> None:
    begun, ended, closed = asyncio.Event(), [], []

    async def function() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(True)
            raise

    def flow() -> Flow[None]:
        try:
            yield Call("x", function, ())
        finally:
            closed.append(True)

    driver = AsyncDriver(AsyncClients(), Guards())  # type: ignore[arg-type]
    task = asyncio.create_task(driver.run(flow()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == closed == [True]


# Many callers.


def _half_open() -> tuple[Clock, Guards]:
    clock = Clock()
    guards = Guards(clock=clock)
    guards.redis.failed()
    clock.now += 0.1
    return clock, guards


def test_of_many_threads_one_probes() -> None:
    _, guards = _half_open()
    gate = threading.Event()
    asked: list[int] = []

    class Slow(Clients):
        def redis(self, step: Redis, *, fresh: bool) -> list[Any]:
            asked.append(1)
            assert gate.wait(10)
            return ["ok"]

    driver = Driver(Slow(), guards)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(driver.run, one(GET)) for _ in range(20)]
        wait_until(lambda: sum(future.done() for future in futures) == 19)
        gate.set()
        results = [future.result() for future in futures]
    assert len(asked) == 1
    assert results.count("open") == 19
    assert results.count(["ok"]) == 1
    assert guards.redis.closed


async def test_of_many_tasks_one_probes() -> None:
    _, guards = _half_open()
    gate = asyncio.Event()
    asked: list[int] = []

    class Slow(AsyncClients):
        async def redis(self, step: Redis, *, fresh: bool) -> list[Any]:  # type: ignore[override]
            asked.append(1)
            await gate.wait()
            return ["ok"]

    driver = AsyncDriver(Slow(), guards)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(driver.run(one(GET))) for _ in range(50)]
    await await_until(lambda: sum(task.done() for task in tasks) == 49)
    gate.set()
    results = await asyncio.gather(*tasks)
    assert len(asked) == 1
    assert results.count("open") == 49


class _Hanging(AsyncClients):
    async def redis(self, step: Redis, *, fresh: bool) -> list[Any]:  # type: ignore[override]
        self.asked.append((step, fresh))
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def test_a_cancelled_caller_closes_the_flow_and_frees_the_probe() -> None:
    _, guards = _half_open()
    closed: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield GET
        except GeneratorExit:
            closed.append("closed")
            raise

    clients = _Hanging()
    task = asyncio.create_task(AsyncDriver(clients, guards).run(flow()))  # type: ignore[arg-type]
    await await_until(lambda: clients.asked)
    assert not guards.redis.admit()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == ["closed"]
    assert guards.redis.admit()


async def test_a_cancelled_waiter_leaves_the_future_to_the_others() -> None:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    driver = AsyncDriver(AsyncClients(), Guards())  # type: ignore[arg-type]
    tasks = [asyncio.create_task(driver.run(one(Wait(future, 10)))) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert not future.cancelled()
    future.set_result(None)
    assert await asyncio.gather(*tasks[1:]) == [True, True]


def test_a_loop_that_closed_while_somebody_waited_does_not_hurt_who_sets_the_future(
    caplog: pytest.LogCaptureFixture,
) -> None:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    driver = AsyncDriver(AsyncClients(), Guards())  # type: ignore[arg-type]

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(driver.run(one(Wait(future, 10))), 0.01)

    asyncio.run(give_up())
    future.set_result(None)
    assert caplog.records == []


@pytest.mark.parametrize("work", [lambda: Guards(), lambda: Guards(clock=Clock())])
def test_guards_start_closed(work: Callable[[], Guards]) -> None:
    guards = work()
    assert all(breaker.closed for breaker in guards.breakers())
    assert guards.redis_incarnation == 0
