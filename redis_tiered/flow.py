"""One logic for sync and async: flows, their steps, and the two drivers that run them.

A flow is a generator that yields steps and is sent their results; it does no I/O itself. A driver
performs each step with blocking or with asyncio clients. Timeouts belong to those clients; the
circuit breaker, the one retry and the error counters live here and nowhere else. A tier that
fails is thrown into the flow as a `TierError`; the flow decides what that means.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from redis_tiered.breaker import Breaker
from redis_tiered.errors import InvalidInput, RedisTieredError, TierError, TierUnavailable
from redis_tiered.timed import timed

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = [
    "AsyncDriver",
    "Call",
    "Command",
    "Driver",
    "Embed",
    "Embedder",
    "Flow",
    "Guards",
    "Redis",
    "Sleep",
    "Sql",
    "Step",
    "Wait",
]

T = TypeVar("T")
Command = tuple[str | bytes | int | float, ...]


class Redis(NamedTuple):
    """Redis commands, one round trip; the result is the list of raw RESP2 replies.

    Attributes:
        commands: tuples of words. On a cluster each goes to the node of its first key.
        write: refused while the server refuses writes (out of memory, read-only).
        idempotent: may be sent again once when the connection broke.
        node: index of one cluster primary, for commands without a key.
        everywhere: sent to every primary; the result is the replies of all.
    """

    commands: tuple[Command, ...]
    write: bool = False
    idempotent: bool = True
    node: int | None = None
    everywhere: bool = False


class Sql(NamedTuple):
    """A SQL unit of work: a function of a SQLAlchemy `Connection`, in one transaction if it writes."""

    work: Callable[[Connection], Any]
    write: bool = False


class Embed(NamedTuple):
    """Texts to embed; the result is one vector per text.

    Attributes:
        timeout: seconds after which it is given up; None: never.
    """

    embedder: Embedder
    texts: tuple[str, ...]
    timeout: float | None = None


class Call(NamedTuple):
    """A function of the user's that may take long; a failure is one of the tier it is called.

    The asyncio driver awaits a coroutine function and runs any other in a thread.
    """

    tier: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Sleep(NamedTuple):
    """A pause, in seconds."""

    seconds: float


class Wait(NamedTuple):
    """Wait at most `timeout` seconds for a future; the result tells whether it is done."""

    future: concurrent.futures.Future[Any]
    timeout: float


Step = Redis | Sql | Embed | Call | Sleep | Wait
Flow = Generator[Step, Any, T]


class Embedder(Protocol):
    """What an embedding step asks for: texts in, one vector of float per text out."""

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]: ...

    async def aembed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]: ...


class Clients(Protocol):
    """Blocking I/O of the two tiers; every failure is raised as a `TierError`."""

    def redis(self, step: Redis, *, fresh: bool) -> list[Any]: ...

    def sql(self, step: Sql) -> Any: ...


class AsyncClients(Protocol):
    """The same with asyncio."""

    async def redis(self, step: Redis, *, fresh: bool) -> list[Any]: ...

    async def sql(self, step: Sql) -> Any: ...


# Kinds of failure after which a tier is left alone for a while.
_DOWN = frozenset(
    {"refused", "timeout", "reset", "loading", "clusterdown", "auth", "pool", "start"}
)
# Kinds that concern writes only: reads go on.
_WRITES_REFUSED = frozenset({"oom", "readonly", "misconf", "noreplicas"})
# Kinds where one more try on a fresh connection is cheap and may help. A timeout is not among
# them (it would cost a second one); nor is a refused connection.
_RETRY = frozenset({"reset", "readonly", "moved", "serialization"})


class Guards:
    """Breakers and error counters of one `Tiers`, shared by both drivers and all tenants."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.redis = Breaker(clock=clock)
        self.redis_writes = Breaker(clock=clock)
        self.durable = Breaker(clock=clock)
        self.errors: Counter[str] = Counter()
        self.retries = 0

    def breakers(self) -> tuple[Breaker, ...]:
        return self.redis, self.redis_writes, self.durable

    @property
    def redis_incarnation(self) -> int:
        """Grows whenever Redis, or its readiness to take writes, came back."""
        return self.redis.incarnation + self.redis_writes.incarnation

    def count(self, error: TierError) -> None:
        self.errors[f"{error.tier}.{error.kind}"] += 1


class _Attempt(NamedTuple):
    fresh: bool


def _persist(
    guards: Guards, step: Redis | Sql, error: TierError | None
) -> Generator[_Attempt, Any, Any]:
    """The slow path of a step: breaker half open, or a first attempt that failed with `error`."""
    if isinstance(step, Redis):
        tier, breakers = (
            "redis",
            (guards.redis, guards.redis_writes) if step.write else (guards.redis,),
        )
        retry = step.idempotent
    else:
        tier, breakers, retry = "durable", (guards.durable,), True
    admitted: list[Breaker] = []
    first = error
    try:
        if error is None:
            for breaker in breakers:
                if not breaker.admit():
                    raise TierUnavailable(tier, "open", "the circuit breaker is open")
                admitted.append(breaker)
            try:
                result = yield _Attempt(fresh=True)
            except TierError as failure:
                error = failure
        if error is not None and retry and error.kind in _RETRY:
            guards.retries += 1
            try:
                result = yield _Attempt(fresh=True)
                error = None
            except TierError as failure:
                error = failure
    except BaseException:
        for breaker in admitted:
            breaker.abandoned()
        raise
    if error is None:
        for breaker in breakers:
            breaker.succeeded()
        if first is not None and first.kind == "reset":
            breakers[0].interrupted()
        return result
    guards.count(error)
    if error.kind in _DOWN:
        for breaker in admitted[1:]:
            breaker.abandoned()
        breakers[0].failed()
    elif isinstance(step, Redis) and error.kind in _WRITES_REFUSED:
        breakers[0].succeeded()
        guards.redis_writes.failed()
    else:  # the tier is up and refused this one request
        for breaker in breakers:
            breaker.succeeded()
    raise error


class Driver:
    """Runs flows with blocking clients."""

    def __init__(self, clients: Clients, guards: Guards) -> None:
        self._clients = clients
        self._guards = guards

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result.

        Raises:
            TierError: a tier failed and the flow let it pass.
        """
        try:
            step = flow.send(None)
            while True:
                try:
                    result = self._perform(step)
                except TierError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    def _perform(self, step: Step) -> Any:
        kind = type(step)
        guards = self._guards
        if kind is Redis:
            if not guards.redis.closed or (step.write and not guards.redis_writes.closed):  # type: ignore[union-attr]
                return self._persist(step, None)  # type: ignore[arg-type]
            try:
                return self._clients.redis(step, fresh=False)  # type: ignore[arg-type]
            except TierError as error:
                return self._persist(step, error)  # type: ignore[arg-type]
        if kind is Sql:
            if not guards.durable.closed:
                return self._persist(step, None)  # type: ignore[arg-type]
            try:
                return self._clients.sql(step)  # type: ignore[arg-type]
            except TierError as error:
                return self._persist(step, error)  # type: ignore[arg-type]
        if isinstance(step, Wait):
            return bool(concurrent.futures.wait((step.future,), step.timeout).done)
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            return None
        if isinstance(step, Embed):
            try:
                if step.timeout is None:
                    return step.embedder.embed(step.texts)
                return timed(step.embedder.embed, (step.texts,), step.timeout)
            except Exception as error:
                raise _failed(guards, "embedder", error) from error
        if isinstance(step, Call):
            try:
                result = step.function(*step.arguments)
            except Exception as error:
                raise _failed(guards, step.tier, error) from error
            if inspect.iscoroutine(result):
                result.close()
                unawaited = InvalidInput("its result must be awaited: use the asyncio method")
                raise _failed(guards, step.tier, unawaited)
            return result
        raise TypeError(f"not a step: {step!r}")

    def _persist(self, step: Redis | Sql, error: TierError | None) -> Any:
        attempts = _persist(self._guards, step, error)
        try:
            attempt = attempts.send(None)
            while True:
                try:
                    result = (
                        self._clients.redis(step, fresh=attempt.fresh)
                        if isinstance(step, Redis)
                        else self._clients.sql(step)
                    )
                except TierError as failure:
                    attempt = attempts.throw(failure)
                else:
                    attempt = attempts.send(result)
        except StopIteration as stop:
            return stop.value
        finally:
            attempts.close()


class AsyncDriver:
    """Runs the same flows with asyncio clients."""

    def __init__(self, clients: AsyncClients, guards: Guards) -> None:
        self._clients = clients
        self._guards = guards

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result; a cancelled caller closes the flow.

        Raises:
            TierError: a tier failed and the flow let it pass.
        """
        try:
            step = flow.send(None)
            while True:
                try:
                    result = await self._perform(step)
                except TierError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            flow.close()

    async def _perform(self, step: Step) -> Any:
        kind = type(step)
        guards = self._guards
        if kind is Redis:
            if not guards.redis.closed or (step.write and not guards.redis_writes.closed):  # type: ignore[union-attr]
                return await self._persist(step, None)  # type: ignore[arg-type]
            try:
                return await self._clients.redis(step, fresh=False)  # type: ignore[arg-type]
            except TierError as error:
                return await self._persist(step, error)  # type: ignore[arg-type]
        if kind is Sql:
            if not guards.durable.closed:
                return await self._persist(step, None)  # type: ignore[arg-type]
            try:
                return await self._clients.sql(step)  # type: ignore[arg-type]
            except TierError as error:
                return await self._persist(step, error)  # type: ignore[arg-type]
        if isinstance(step, Wait):
            done, _ = await asyncio.wait((asyncio.wrap_future(step.future),), timeout=step.timeout)
            return bool(done)
        if isinstance(step, Sleep):
            await asyncio.sleep(step.seconds)
            return None
        if isinstance(step, Embed):
            try:
                async with asyncio.timeout(step.timeout):
                    return await step.embedder.aembed(step.texts)
            except Exception as error:
                raise _failed(guards, "embedder", error) from error
        if isinstance(step, Call):
            try:
                if inspect.iscoroutinefunction(step.function):
                    return await step.function(*step.arguments)
                result = await asyncio.to_thread(step.function, *step.arguments)
                return await result if inspect.isawaitable(result) else result
            except Exception as error:
                raise _failed(guards, step.tier, error) from error
        raise TypeError(f"not a step: {step!r}")

    async def _persist(self, step: Redis | Sql, error: TierError | None) -> Any:
        attempts = _persist(self._guards, step, error)
        try:
            attempt = attempts.send(None)
            while True:
                try:
                    result = await (
                        self._clients.redis(step, fresh=attempt.fresh)
                        if isinstance(step, Redis)
                        else self._clients.sql(step)
                    )
                except TierError as failure:
                    attempt = attempts.throw(failure)
                else:
                    attempt = attempts.send(result)
        except StopIteration as stop:
            return stop.value
        finally:
            attempts.close()


def _failed(guards: Guards, tier: str, error: Exception) -> TierUnavailable:
    # Only the type: the message of a user's function may hold its credentials; ours do not.
    what = str(error) if isinstance(error, RedisTieredError) else type(error).__name__
    kind = "timeout" if isinstance(error, TimeoutError) else "failed"
    failure = TierUnavailable(tier, kind, what)
    guards.count(failure)
    return failure
