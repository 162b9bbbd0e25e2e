"""Processes over a real Valkey and a real SQLite in one thread, interleaved step by step.

The shipped Lua and the shipped SQL run as they are; what is simulated is time, threads, processes
and what goes wrong: a step may fail before or after it was performed, a process may die between any
two, the server may forget. After each step the truth is observed, so that what a reader was given
can be compared with what there was while it read.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import redis as redis_py
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from redis_tiered.endpoint import Endpoint
from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.flow import Driver, Flow, Guards, Redis, Sleep, Sql, Step
from redis_tiered.keys import Keyspace, SessionKeys
from redis_tiered.sessions import queued_log, scripts
from redis_tiered.sessions.conversation import Durability, Window
from redis_tiered.sessions.log import Recent
from redis_tiered.sessions.message import Message, pack, unpack
from redis_tiered.sessions.queued_log import queues_of
from redis_tiered.sessions.record import from_item
from redis_tiered.sessions.session import Session
from redis_tiered.sessions.trimming import Limits
from redis_tiered.sessions.trust import Trust, trust_of
from redis_tiered.tiers.connections import ConnectionFactory
from redis_tiered.tiers.redis import SyncRedis
from redis_tiered.tiers.schema import messages, migrate, scopes, sessions
from redis_tiered.tiers.tiers import Tiers

__all__ = ["KINDS", "PROMOTED", "Clock", "Crash", "Fault", "Operation", "Process", "World", "shown"]

# Number of the server that a replica becomes.
PROMOTED = -1


class Clock:
    """Seconds; passes only by `advance`."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Crash(BaseException):
    """The process is gone, in the middle of what it did."""


# before, after: an error, and the step was not, or was, performed. A reset is tried once more by the
# driver: "lost" means that the second try fails like the first. "refused": no breaker opens.
KINDS = (
    "before",
    "after",
    "reset before",
    "reset after",
    "lost before",
    "lost after",
    "refused",
    "crash before",
    "crash after",
)


class Fault:
    """What goes wrong with one step."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.times = 2 if kind.startswith("lost") else 1

    def __repr__(self) -> str:
        return f"Fault({self.kind!r})"

    @property
    def performed(self) -> bool:
        return self.kind.endswith("after")

    def error(self, tier: str) -> BaseException:
        if self.kind.startswith("crash"):
            return Crash()
        if self.kind.startswith(("reset", "lost")):
            return TierUnavailable(tier, "reset")
        if self.kind == "refused":
            return TierUnavailable(tier, "locked" if tier == "durable" else "busy")
        return TierUnavailable(tier, "timeout")


# What there is of one message: sequence, id, text, whether it is archived.
Row = tuple[int, str, str, bool]


class Version(NamedTuple):
    """A session at one moment.

    Attributes:
        number: as the tier that holds the truth counts them.
        rows: in order; None: there is no such session.
    """

    number: int
    rows: tuple[Row, ...] | None

    @property
    def active(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows or () if not row[3])

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Ids and texts of what a reader may be shown."""
        return tuple((id_, text) for _, id_, text, archived in self.rows or () if not archived)


class History:
    """All that a session ever was.

    Attributes:
        versions: of the truth; where appends wait in a queue, with what waits.
        durable: of the durable tier alone.
        since: for each version of the durable tier, the version of the truth when it came.
        queued: ids of what was accepted into a queue, and into the window that is read.
        floor, durable_floor: the version that a reader who begins now must see at least.
    """

    def __init__(self) -> None:
        self.versions = [Version(0, None)]
        self.durable = [Version(0, None)]
        self.since = [0]
        self.queued: set[str] = set()
        self.floor = 0
        self.durable_floor = 0

    def unaware(self, floor: int, durable_floor: int) -> Iterator[Version]:
        """What a window may show that was filled from some version of the durable tier.

        Appends that wait are added to it; of a change that is not acknowledged it may know nothing
        until one of them, accepted after that, is written.
        """
        for since in self.since[durable_floor:]:
            shown = {row[1]: row for row in self.versions[since].active}
            for number, version in enumerate(self.versions[since:], since):
                for row in version.active:
                    if row[1] in self.queued:
                        shown.setdefault(row[1], row)
                if number >= floor:
                    yield Version(0, tuple(shown.values()))


class Operation:
    """A flow of a process, performed a half step at a time, so that others can act in between.

    A request is on its way until the first half performs it, and its reply until the second gives
    it to the flow.

    Attributes:
        kind: `"append"`, `"read"`, ...
        done, result, error: how it ended.
        at: version with its effect.
        began: versions that it must see at least: of the truth, of the durable tier.
        failed: kinds of steps (`Redis`, `Sql`) that failed.
        wrote: by session, the version of the durable tier with what it last drained.
    """

    def __init__(
        self, process: Process, kind: str, session: str, flow: Flow[Any], **about: Any
    ) -> None:
        self.process = process
        self.world = process.world
        self.kind = kind
        self.session = session
        self.about = about
        self.ids: tuple[str, ...] = tuple(about.get("ids", ()))
        self.done = False
        self.result: Any = None
        self.error: TierError | None = None
        history = self.world.histories[session]
        self.began = history.floor, history.durable_floor
        self.at: int | None = None
        self.durable_at: int | None = None
        self.removed: list[str] = []
        self.wrote: dict[str, int] = {}
        self.failed: set[type] = set()
        self.steps = 0
        self.slept = 0.0
        self.start = self.world.tick()
        self.end: int | None = None
        self._flow = flow
        self._step: Step | None = None
        self._reply: tuple[bool, Any] | None = None
        self._wake = 0.0
        self._resume(lambda: flow.send(None))

    def __repr__(self) -> str:
        return f"<{self.kind} {self.session} by {self.process.name} {self.about}>"

    @property
    def step(self) -> Step | None:
        """What it asks for next; None: a reply is on its way, or it is done."""
        return None if self.done or self._reply is not None else self._step

    def advance(self) -> None:
        """Half a step."""
        if self.done:
            return
        if self._reply is not None:
            good, reply = self._reply
            self._reply = None
            self._resume(
                (lambda: self._flow.send(reply)) if good else (lambda: self._flow.throw(reply))
            )
            return
        assert self._step is not None
        self.steps += 1
        world = self.world
        world.steps += 1
        if isinstance(self._step, Sleep):
            self.slept += self._step.seconds
            # Whoever is stepped first once it is due: the clock may be past it already.
            world.clock.now = max(world.clock.now, self._wake)
            self._reply = True, None
            return
        world.current = self
        try:
            self._reply = True, self.process.driver._perform(self._step)
        except TierError as error:
            self.failed.add(type(self._step))
            self._reply = False, error
        except Crash:
            self.process.die()
            return
        finally:
            world.current = None

    def finish(self) -> Any:
        for _ in range(4000):
            if self.done:
                break
            self.advance()
        else:
            raise AssertionError(f"{self!r} never ends")
        if self.error is not None:
            raise self.error
        return self.result

    def drop(self) -> None:
        """Its process is gone."""
        self.done = True
        self._flow.close()

    def _resume(self, resume: Callable[[], Step]) -> None:
        try:
            self._step = resume()
        except StopIteration as stop:
            self.done, self.result = True, stop.value
        except TierError as error:
            self.done, self.error = True, error
        if isinstance(self._step, Sleep):
            self._wake = self.world.clock.now + self._step.seconds
        if self.done:
            self.end = self.world.tick()
            self.world.ended(self)


class _Driver(Driver):
    """The real one; an operation never gives it a pause."""


class _Housekeeper:
    """The machine decides itself when something is drained."""

    def submit(self, job: Callable[[], float | None], *, after: float = 0.0) -> None:
        pass


class Process:
    """One process, with its own breakers, its own trust and any number of flows at a time.

    Attributes:
        redis_away, sql_away: what it cannot reach.
        server: that it is connected to; None: the world's.
        asked: the epoch when it last learned of it.
        faults: what goes wrong with its next attempts, in order.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.redis_away = False
        self.sql_away = False
        self.faults: list[Fault] = []
        self.dead = False
        self.server: int | None = None
        self.asked = ""
        self.guards = Guards(clock=world.clock)
        self.driver = _Driver(self, self.guards)
        self._server = world.server  # that its connections are to
        shared: dict[Any, Any] = {}

        def share(key: Any, make: Callable[[], Any]) -> Any:
            if key not in shared:
                shared[key] = make()
            return shared[key]

        tiers = object.__new__(Tiers)
        tiers.keys = Keyspace("sim", "tenant")
        tiers._runtime = SimpleNamespace(  # type: ignore[assignment]
            guards=self.guards,
            housekeeper=_Housekeeper(),
            durable=None if world.durability == "none" else object(),
            closed=False,
            settings=None,
            run=self.driver.run,
            on_fork=lambda listener: None,
            shared=share,
        )
        self.tiers = tiers
        share("sessions trust", lambda: Trust(tiers, clock=world.clock))
        self.trust = trust_of(tiers)
        self._sessions: dict[str, Session] = {}

    def session(self, name: str) -> Session:
        if name not in self._sessions:
            self._sessions[name] = Session(
                self.tiers,
                name,
                durability=self.world.durability,
                window=self.world.window,
                token_counter="approximate",
            )
        return self._sessions[name]

    def die(self) -> None:
        self.dead = True
        for operation in self.world.running_of(self):
            operation.drop()
            self.world.running.remove(operation)

    # Operations.

    def start(self, kind: str, session: str = "s", **about: Any) -> Operation:
        """Begin one; see `_flow` for the kinds."""
        if kind in ("append", "replace") and "ids" not in about:
            about["ids"] = [f"m{next(self.world.numbers)}" for _ in range(about.pop("n", 1))]
        if kind == "edit":
            about.setdefault("text", f"edited {next(self.world.numbers)}")
        operation = Operation(self, kind, session, self._flow(kind, session, about), **about)
        if not operation.done:
            self.world.running.append(operation)
        return operation

    def do(self, kind: str, session: str = "s", **about: Any) -> Any:
        """One operation from its beginning to its end."""
        return self.start(kind, session, **about).finish()

    def _flow(self, kind: str, session: str, about: dict[str, Any]) -> Flow[Any]:
        of = self.session(session)
        match kind:
            case "append" | "replace":
                role = about.get("role", "human")
                drafts = of._drafts([Message(role, f"text of {id_}", id_) for id_ in about["ids"]])
                return of._append(drafts) if kind == "append" else of._replace(drafts)
            case "read":
                return of._log.recent(about.get("count"))
            case "view":
                return of._view(Limits(about.get("most")), include_system=True)
            case "edit":
                return of._edited(about["id"], Message("human", about["text"]))
            case "delete":
                return of._remove(id=about["id"])
            case "take":
                return of._remove(oldest=about.get("n", 1), archive=about.get("archive", False))
            case "pop":
                return of._remove(index=about.get("index", -1))
            case "forget":
                return of._remove(archived=None)
            case "update":
                return of._update({"k": next(self.world.numbers)}, None)
            case "summarize":
                return of._log.summarize(pack(Message("ai", "sum", "sum")), about["since"], 10**6)
            case "recount":
                return of._log.count_again("x", lambda message: 1)
            case "clear":
                return of._log.clear()
            case "close":
                return of._log.close()
            case "drain":
                return queues_of(self.tiers).drain(self.world.keys(session).shard)
        raise AssertionError(kind)

    # The two clients.

    def redis(self, step: Redis, *, fresh: bool) -> list[Any]:
        changes = self.world.durability != "through"
        return self._attempt("redis", lambda: self._redis(step), self.redis_away, changes)  # type: ignore[no-any-return]

    def sql(self, step: Sql) -> Any:
        away = self.sql_away or self.world.sql_away
        result = self._attempt("durable", lambda: self.world.commit(step), away, step.write)
        if step.work.__qualname__.startswith(("epoch", "adopt")):
            self.asked = self.world.epoch
        return result

    def _redis(self, step: Redis) -> list[Any]:
        world = self.world
        server = world.server if self.server is None else self.server
        if self._server != server:
            self._server = server
            raise TierUnavailable("redis", "reset")
        if step.everywhere and step.commands[0][0] == "INFO":
            return [b"redis_version:7.2.4\r\nrun_id:%d\r\nos:none\r\n" % server]
        client = world.promoted if server == PROMOTED else world.client
        return client.execute(step, fresh=False)

    def _attempt(self, tier: str, action: Callable[[], Any], away: bool, changes: bool) -> Any:
        if away:
            raise TierUnavailable(tier, "timeout")
        fault = self.faults[0] if self.faults else None
        if fault is None:
            return self._observed(action, changes)
        fault.times -= 1
        if fault.times == 0:
            self.faults.pop(0)
        if fault.performed:
            with contextlib.suppress(TierError):
                self._observed(action, changes)
        raise fault.error(tier)

    def _observed(self, action: Callable[[], Any], changes: bool) -> Any:
        try:
            return action()
        finally:
            if changes:
                self.world.observe()


_engines: list[Engine] = []


def _database() -> Engine:
    """One SQLite in memory for all worlds, emptied: making tables costs more than most examples."""
    if not _engines:
        engine = create_engine("sqlite://", poolclass=StaticPool)
        with engine.begin() as connection:
            migrate(connection)
        _engines.append(engine)
    with _engines[0].begin() as connection:
        for table in (messages, sessions, scopes):
            connection.execute(table.delete())
    return _engines[0]


class World:
    """The servers, the clock, and as many processes as a test starts; a context manager.

    Args:
        url: of a Redis that is emptied.
        durability: of all sessions.
        window: messages that a window holds.
        sessions: their names.

    Attributes:
        histories: by session.
        epoch: as it was last ended or adopted.
        steps: that were performed.
    """

    def __init__(
        self,
        url: str,
        *,
        durability: Durability = "through",
        window: int = 200,
        sessions: Sequence[str] = ("s",),
    ) -> None:
        self.clock = Clock()
        self.durability: Durability = durability
        self.window = window
        self.names = tuple(sessions)
        self.steps = 0
        self.reads = 0
        self.from_redis = 0
        self.unconfirmed = 0
        self._url = url
        self._life = contextlib.ExitStack()
        self._begin()

    def _begin(self) -> None:
        self.numbers = itertools.count()
        self.server = 1
        self.epoch = ""
        self.sql_away = False
        self.current: Operation | None = None
        self.running: list[Operation] = []
        self.processes: list[Process] = []
        self.histories = {name: History() for name in self.names}
        self.acknowledged: list[Operation] = []
        self.refused: list[Operation] = []
        self.inserted: Counter[str] = Counter()
        self.lossy = False  # whether Redis forgot something, where it is more than a copy
        self._ticks = itertools.count()

    def __enter__(self) -> World:
        self.engine = _database()
        self.admin = redis_py.Redis.from_url(self._url)
        self._life.callback(self.admin.close)
        self.client = SyncRedis(ConnectionFactory(Endpoint.of(self._url), 5.0), 2)
        self._life.callback(self.client.close)
        other = self._url.rsplit("/", 1)[0] + "/1"
        self.promoted = SyncRedis(ConnectionFactory(Endpoint.of(other), 5.0), 2)
        self._life.callback(self.promoted.close)
        self._life.callback(self.remember)
        self.remember()
        self.admin.flushall()
        clock = SimpleNamespace(monotonic=self.clock)
        self._life.enter_context(mock.patch.object(queued_log, "time", clock))
        # A lease ends by the server's clock, which does not stand still: the tests end it.
        self._life.enter_context(mock.patch.object(queued_log, "_PATIENCE", 0.03))
        return self

    def __exit__(self, *_: object) -> None:
        for operation in self.running:
            operation.drop()
        self._life.close()

    def reset(self) -> None:
        """An empty world, sooner than a new one."""
        for operation in self.running:
            operation.drop()
        _database()
        self.remember()
        self.admin.flushall()
        self._begin()

    def tick(self) -> int:
        return next(self._ticks)

    def process(self) -> Process:
        process = Process(self, f"p{len(self.processes)}")
        self.processes.append(process)
        return process

    def running_of(self, process: Process) -> list[Operation]:
        return [one for one in self.running if one.process is process and not one.done]

    def keys(self, session: str) -> SessionKeys:
        return Keyspace("sim", "tenant").session(session)

    def commit(self, step: Sql) -> Any:
        with self.engine.begin() as connection:
            result = step.work(connection)
            if "distrust" in step.work.__qualname__ or "adopt" in step.work.__qualname__:
                self.epoch = result
            return result

    # What happens to Redis.

    def fill_memory(self) -> None:
        """It refuses writes that need memory."""
        self.admin.config_set("maxmemory", 1)

    def remember(self) -> None:
        """It has memory again."""
        self.admin.config_set("maxmemory-policy", "noeviction")
        self.admin.config_set("maxmemory", 0)

    def snapshot(self) -> list[tuple[bytes, bytes, int]]:
        return [
            (key, self.admin.dump(key), max(0, self.admin.pttl(key)))
            for key in self.admin.scan_iter()
        ]

    def restart(self, snapshot: list[tuple[bytes, bytes, int]]) -> None:
        """Begin again, as another server process, with what was on disk."""
        self.flush()
        memory = self.admin.config_get("maxmemory")["maxmemory"]
        self.admin.config_set("maxmemory", 0)
        for key, value, ttl in snapshot:
            self.admin.restore(key, ttl, value)
        self.admin.config_set("maxmemory", memory)
        self.server += 1
        self.observe()

    def promote(self) -> None:
        """A replica is made a primary, and the old one does not know: there are two of them."""
        for key in self.admin.scan_iter():
            self.admin.copy(key, key, destination_db=1, replace=True)

    def flush(self) -> None:
        self.lossy = True
        self.admin.flushall()
        self.observe()

    def window_keys(self) -> list[bytes]:
        return sorted(
            key for key in self.admin.scan_iter() if key.endswith((b":meta", b":window", b":ids"))
        )

    def evict(self, key: bytes) -> None:
        self.lossy = self.lossy or self.durability == "none"
        self.admin.delete(key)
        self.observe()

    def lose_lease(self, session: str) -> None:
        """It ended while its holder was slow."""
        keys = Keyspace("sim", "tenant").sessions
        self.admin.delete(keys.queue(self.keys(session).shard)[2])

    # The truth.

    def observe(self) -> None:
        """Note what every session is now, and who made it so."""
        for name, history in self.histories.items():
            durable = None if self.durability == "none" else self._durable(name)
            if durable is None:
                now = self._in_redis(name)
            elif self.durability == "behind":
                now = self._with_queue(name, durable)
            else:
                now = durable
            before = history.versions[-1]
            lost = self.current is None and now != before  # and no window shows it any more
            if now != before:
                history.versions.append(now)
                self._changed(name, before, now)
            if durable is not None and (lost or durable != history.durable[-1]):
                history.durable.append(durable)
                history.since.append(len(history.versions) - 1)
            self._drained(name, history)
            self._attribute(name, history)

    def _drained(self, name: str, history: History) -> None:
        """Windows show no version that is older than what was written and acknowledged."""
        if self.current is None:
            return
        step = self.current._step
        if isinstance(step, Sql) and "append_all" in step.work.__qualname__:
            self.current.wrote[name] = len(history.durable) - 1
        elif isinstance(step, Redis) and step.commands[0][1:2] == (scripts.DONE,):
            written = self.current.wrote.pop(name, 0)
            history.durable_floor = max(history.durable_floor, written)

    def _attribute(self, name: str, history: History) -> None:
        """Which version has the effect of the operation that is being performed."""
        operation = self.current
        if operation is None or operation.session != name or operation.kind in ("read", "view"):
            return
        step = operation._step
        commits = (isinstance(step, Sql) and step.write) or (
            isinstance(step, Redis) and self.durability != "through"
        )
        if not commits:
            return
        last = len(history.versions) - 1
        if operation.kind == "append":
            there = {row[1] for row in history.versions[-1].rows or ()}
            if operation.at is None and there.issuperset(operation.ids):
                operation.at = last
            there = {row[1] for row in history.durable[-1].rows or ()}
            if operation.durable_at is None and there.issuperset(operation.ids):
                operation.durable_at = len(history.durable) - 1
        elif isinstance(step, Sql) if self.durability == "behind" else True:
            if isinstance(step, Sql) and not _is_change(step):
                return
            operation.at = last
            operation.durable_at = len(history.durable) - 1

    def _changed(self, name: str, before: Version, now: Version) -> None:
        """Nobody does more than it was asked to."""
        operation = self.current
        old = {row[1] for row in before.rows or ()}
        new = {row[1] for row in now.rows or ()}
        ids = [row[1] for row in now.rows or ()]
        assert len(ids) == len(new), f"{name} has a message twice: {ids}"
        sequences = [row[0] for row in now.rows or ()]
        assert sequences == sorted(set(sequences)), f"{name} is out of order: {sequences}"
        self.inserted.update(new - old)
        if operation is None:
            return  # Redis forgot something
        gone = [row[1] for row in before.rows or () if row[1] not in new]
        kind = operation.kind
        same_session = operation.session == name
        if kind in ("take", "pop", "delete", "forget") and same_session:
            was = {row[1]: row[3] for row in before.rows or ()}
            gone += [row[1] for row in now.rows or () if row[3] and not was.get(row[1], True)]
            operation.removed += gone
            assert not new - old, f"{operation!r} added {new - old}"
        elif kind in ("replace", "clear") and same_session:
            assert new - old <= set(operation.ids), operation
        else:
            assert not gone, f"{operation!r} took away {gone}"
            added = new - old
            allowed = set(operation.ids) if kind == "append" and same_session else set()
            assert added <= allowed, f"{operation!r} added {added}"
            meta, *_ = self.keys(name).window(self.epoch, queued=True)
            if isinstance(operation._step, Redis) and meta in operation._step.commands[0]:
                self.histories[name].queued |= added
        kept = [id_ for id_ in ids if id_ in old]
        assert kept == [row[1] for row in before.rows or () if row[1] in new], (
            f"{operation!r} changed the order: {before.rows} -> {now.rows}"
        )

    def _durable(self, name: str) -> Version:
        keys = self.keys(name)
        with self.engine.connect() as connection:
            number = connection.exec_driver_sql(
                "SELECT version FROM redis_tiered_session WHERE scope = ? AND session = ?",
                (keys.scope, keys.session),
            ).scalar()
            if number is None:
                return Version(0, None)
            found = connection.exec_driver_sql(
                "SELECT sequence, value, archived FROM redis_tiered_message"
                " WHERE scope = ? AND session = ? ORDER BY sequence",
                (keys.scope, keys.session),
            ).all()
        return Version(number, tuple(_row(*row) for row in found))

    def _with_queue(self, name: str, durable: Version) -> Version:
        """With what waits: what the session will be."""
        keys = self.keys(name)
        queue = Keyspace("sim", "tenant").sessions.queue(keys.shard)[0]
        rows = list(durable.rows or ())
        known = {row[1] for row in rows}
        next_ = rows[-1][0] + 1 if rows else 0
        for _, words in self._ask("XRANGE", queue, "-", "+"):
            if words[1] != keys.session.encode():
                continue
            for item in words[3::2]:
                record = from_item(item)
                message = unpack(record.value)
                if message.id not in known:
                    known.add(message.id)
                    rows.append((next_, message.id, message.text, record.archived))
                    next_ += 1
        if durable.rows is None and not rows:
            return durable
        return Version(0, tuple((i, *row[1:]) for i, row in enumerate(rows)))

    def _ask(self, *command: Any) -> Any:
        """redis-py would make a dict of an entry, in which our repeated fields are one."""
        return self.client.execute(Redis((command,)), fresh=False)[0]

    def _in_redis(self, name: str) -> Version:
        meta, window, _ = self.keys(name).window("0", queued=False)
        held, number = self._ask("HMGET", meta, "h", "v")
        if held is None or self._ask("LLEN", window) != int(held):
            return Version(0, None)
        rows = []
        for item in self._ask("LRANGE", window, 0, -1):
            record = from_item(item)
            message = unpack(record.value)
            rows.append((record.sequence, message.id, message.text, record.archived))
        return Version(int(number), tuple(rows))

    # What was promised.

    def ended(self, operation: Operation) -> None:
        if operation in self.running:
            self.running.remove(operation)
        if operation.process.dead or operation.kind == "drain":
            return
        if operation.error is not None:
            self.refused.append(operation)
            if operation.kind in ("take", "pop"):
                asked = operation.about.get("n", 1)
                assert len(operation.removed) <= asked, f"{operation!r}: {operation.removed}"
            return
        history = self.histories[operation.session]
        if operation.kind in ("read", "view"):
            self.reads += 1
            self._check_read(operation, history)
            return
        self.acknowledged.append(operation)
        assert operation.at is not None, f"{operation!r} was acknowledged without effect"
        history.floor = max(history.floor, operation.at)
        if operation.durable_at is not None:
            history.durable_floor = max(history.durable_floor, operation.durable_at)
        if operation.kind in ("take", "pop", "delete", "forget"):
            given = [stored.message.id for stored in operation.result]
            assert sorted(given) == sorted(operation.removed), (
                f"{operation!r} gave {given}, removed {operation.removed}"
            )

    def _check_read(self, operation: Operation, history: History) -> None:
        result = operation.result
        floor, durable_floor = operation.began
        possible = history.versions[floor:]
        unaware: Iterator[Version] = iter(())
        if self.durability == "behind":
            unaware = history.unaware(floor, durable_floor)
        if self.durability == "behind" and Redis in operation.failed:
            # What waits in a Redis that this reader cannot reach, it cannot be shown.
            possible = [*possible, *history.durable[durable_floor:]]
        if Sql in operation.failed and operation.process.asked != self.epoch:
            # Refuted, and so known: where the durable tier cannot be asked, a process believes the
            # epoch it last knew, though another may have ended it. It is shown some version then.
            self.unconfirmed += 1
            possible = [*history.versions, *history.durable]
            if self.durability == "behind":
                unaware = history.unaware(0, 0)
        if operation.kind == "view":
            assert isinstance(result, Window)
            possible = [*possible, *unaware]
            given = [(item.message.id, item.message.text) for item in result.messages]
            assert len({id_ for id_, _ in given}) == len(given), f"{given} has one twice"
            # A summary, which has no place in the log, stands behind a system message that leads.
            order = [item.sequence for item in result.messages if item.sequence >= 0]
            assert order == sorted(set(order)), f"{operation!r} was given {order}"
            if operation.about.get("most") is None:
                # A view larger than the window is put together of two versions.
                always = set(possible[0].names).intersection(*[v.names for v in possible])
                ever = set().union(*[v.names for v in possible])
                assert always <= set(given) <= ever, self._complaint(operation, given, possible)
            return
        if result is None:
            assert any(not version.active for version in possible), self._complaint(
                operation, None, possible
            )
            return
        assert isinstance(result, Recent)
        self.from_redis += result.tier == "redis"
        newest = shown(result)
        order = [item.sequence for item in result.newest]
        assert order == sorted(set(order)), f"{operation!r} was given {order}"
        wanted = operation.about.get("count")
        wanted = self.window if wanted is None else min(wanted, self.window)
        for version in itertools.chain(possible, unaware):
            names = version.names
            if (
                result.state.messages == len(names)
                and len(newest) >= min(len(names), wanted)
                and newest == names[len(names) - len(newest) :]
                and (self.durability == "behind" or result.state.version == version.number)
            ):
                return
        raise AssertionError(self._complaint(operation, (result.state, newest), possible))

    def _complaint(self, operation: Operation, given: object, possible: Sequence[Version]) -> str:
        versions = "\n  ".join(map(str, possible))
        everything = "\n  ".join(map(str, self.histories[operation.session].versions))
        return f"{operation!r} was given\n  {given}\npossible:\n  {versions}\nall:\n  {everything}"

    def heal(self) -> None:
        """Everything is back, and everybody has noticed."""
        self.remember()
        self.sql_away = False
        for process in self.processes:
            process.redis_away = process.sql_away = False
            process.faults.clear()
        self.clock.advance(10)
        for name in self.names:
            self.lose_lease(name)

    def settle(self) -> None:
        """With everything back and all that was begun ended, every promise holds."""
        self.heal()
        for operation in list(self.running):
            with contextlib.suppress(TierError):
                operation.finish()
        self.clock.advance(10)
        alive = [process for process in self.processes if not process.dead]
        alive.append(self.process())
        if self.durability == "behind":
            for name in self.names:
                alive[-1].do("drain", name)
        for name, process in itertools.product(self.names, alive):
            process.do("read", name)
            process.do("read", name, count=2)
        self._check_messages()

    def _check_messages(self) -> None:
        if self.lossy and self.durability != "through":
            return
        for name in self.names:
            ever: set[str] = set()
            for version in self.histories[name].versions:
                ever.update(row[1] for row in version.rows or ())
            acknowledged = [
                one for one in self.acknowledged if one.kind == "append" and one.session == name
            ]
            for one in acknowledged:
                assert ever.issuperset(one.ids), f"{one!r} was lost"
            asked = Counter(
                id_
                for one in [*self.acknowledged, *self.refused]
                if one.session == name
                for id_ in one.ids
            )
            for id_, times in asked.items():
                assert self.inserted[id_] <= times, f"{id_} was written {self.inserted[id_]} times"
            places = {
                row[1]: (i, row[0])
                for i, row in enumerate(self.histories[name].versions[-1].rows or ())
            }
            for one, other in itertools.combinations(acknowledged, 2):
                if one.end is None or one.end > other.start or set(one.ids) & set(other.ids):
                    continue
                if self.durability == "behind" and one.process is not other.process:
                    continue
                if all(asked[id_] == 1 for id_ in (*one.ids, *other.ids)):
                    late = [places[id_] for id_ in one.ids if id_ in places]
                    early = [places[id_] for id_ in other.ids if id_ in places]
                    assert not late or not early or max(late) < min(early), (
                        f"{one!r} after {other!r}"
                    )


def shown(recent: Recent | None) -> tuple[tuple[str, str], ...]:
    """Ids and texts of what a reader was given."""
    found = [unpack(record.value) for record in recent.newest] if recent else []
    return tuple([(message.id, message.text) for message in found])


def _is_change(step: Sql) -> bool:
    """Whether a unit of work changes a session, not the epoch."""
    return "distrust" not in step.work.__qualname__ and "adopt" not in step.work.__qualname__


@functools.lru_cache(4096)
def _row(sequence: int, value: bytes, archived: object) -> Row:
    message = unpack(bytes(value))
    return sequence, message.id, message.text, bool(archived)
