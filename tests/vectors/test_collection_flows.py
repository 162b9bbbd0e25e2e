"""A collection's promises, by stepping flows: each step made to fail, several flows in all orders."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from sqlalchemy import Connection, select

from redis_tiered import Tiers
from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.flow import Flow, Guards, Redis, Sleep, Sql, Step
from redis_tiered.tiers.schema import documents as table
from redis_tiered.vectors import rows
from redis_tiered.vectors.collection import Collection
from redis_tiered.vectors.document import Document
from redis_tiered.vectors.place import Item
from redis_tiered.vectors.reads import Head
from redis_tiered.vectors.truth import LEASE, Truth
from tests.servers import RedisServer

DIMS: Final = 2
NOT_THERE: Final = ""


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Process:
    """A collection as one process has it.

    Attributes:
        redis_away: whether it cannot reach Redis.
    """

    def __init__(self, world: World, tiers: Tiers) -> None:
        self.world = world
        self.tiers = tiers
        self.redis_away = False
        self.collection = Collection(tiers, "c", engine="local", auto_rebuild=False)
        self.place = self.collection._place
        self.place.truth._clock = world.clock

    def begin(self, flow: Flow[Any]) -> Operation:
        return Operation(self, flow)

    def do(self, flow: Flow[Any]) -> Any:
        return self.begin(flow).finish()

    def put(self, **texts: str) -> Flow[tuple[str, ...]]:
        return self.collection._upsert([document(id, text) for id, text in texts.items()], None)

    def delete(self, *ids: str) -> Flow[int]:
        return self.collection._delete(list(ids), None, None)

    def clear(self) -> Flow[int]:
        return self.collection._writing.remove_all()

    def read(self) -> dict[str, str]:
        """What a search shows: texts by id."""
        search = self.collection._search([1, 1], 50, None, None, None, None, None, False)
        return {hit.document.id: hit.document.text for hit in self.do(search)}

    def get(self, *ids: str) -> dict[str, str]:
        return {d.id: d.text for d in self.do(self.collection._get(list(ids), False))}

    def perform(self, step: Step) -> Any:
        if isinstance(step, Sleep):
            self.world.clock.now += step.seconds
            return None
        if isinstance(step, Redis) and self.redis_away:
            raise TierUnavailable("redis", "refused", "away")
        result = self.tiers.run(_one(step))
        if isinstance(step, Sql) and step.write:
            self.world.note()
        return result


class Operation:
    """A flow that waits before its next step.

    Attributes:
        step: the one it asks for.
        steps: how many were performed.
    """

    def __init__(self, process: Process, flow: Flow[Any]) -> None:
        self.process = process
        self.flow = flow
        self.done = False
        self.result: Any = None
        self.error: TierError | None = None
        self.steps: list[Step] = []
        self.step: Step
        self._go(lambda: next(flow))

    def advance(self) -> None:
        try:
            result = self.process.perform(self.step)
        except TierError as error:
            self.fail(error)
        else:
            self.steps.append(self.step)
            self._go(lambda: self.flow.send(result))

    def fail(self, error: TierError | None = None) -> None:
        """The step fails."""
        self.steps.append(self.step)
        tier = "redis" if isinstance(self.step, Redis) else "durable"
        failure = error or TierUnavailable(tier, "reset", "cut off")
        self._go(lambda: self.flow.throw(failure))

    def until(self, kind: type, word: str = "") -> Operation:
        """Let it ask for a step of a kind, but not have it performed."""
        while not (isinstance(self.step, kind) and word in str(self.step)):
            assert not self.done
            self.advance()
        return self

    def finish(self) -> Any:
        while not self.done:
            self.advance()
        if self.error is not None:
            raise self.error
        return self.result

    def abandon(self) -> None:
        self.flow.close()
        self.done = True

    def _go(self, to: Callable[[], Step]) -> None:
        try:
            self.step = to()
        except StopIteration as stop:
            self.done, self.result = True, stop.value
        except TierError as error:
            self.done, self.error = True, error


class World:
    """Processes with one Redis, one database and one clock."""

    def __init__(self, url: str, durable: str) -> None:
        self.clock = Clock()
        self._stack = contextlib.ExitStack()
        client: Any = redis.Redis.from_url(url)
        self.redis = self._stack.enter_context(contextlib.closing(client))
        self._tiers = [
            self._stack.enter_context(Tiers(url, durable, redis_timeout=5)) for _ in range(3)
        ]
        self._tenants = itertools.count()
        self.truth: list[dict[str, str]] = []
        self.begin()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self) -> None:
        """A new collection, of which the processes know nothing."""
        self.redis.flushall()
        tenant = f"t{next(self._tenants)}"
        self.one, self.two, self.three = (
            Process(self, tiers.tenant(tenant)) for tiers in self._tiers
        )
        self.keys = self.one.place.keys
        self.truth = [{}]

    def note(self) -> None:
        """Remember what the durable tier has, if that is new."""
        now = self.held()
        if now != self.truth[-1]:
            self.truth.append(now)

    def held(self) -> dict[str, str]:
        def work(connection: Connection) -> Any:
            wanted = select(table.c.id, table.c.text).where(table.c.scope == self.keys.scope)
            return connection.execute(wanted).all()

        return {id.decode(): text.decode() for id, text in self._tiers[0].run(_one(Sql(work)))}

    def check(
        self, shown: dict[str, str], since: int, acknowledged: Mapping[str, int] = {}
    ) -> None:
        """Each document is as it was in the durable tier at some time from the `since`-th on, or
        from when a change of it was acknowledged."""
        for id in set().union(*self.truth, shown):
            states = self.truth[max(since, acknowledged.get(id, 0)) :]
            allowed = {state.get(id, NOT_THERE) for state in states}
            assert shown.get(id, NOT_THERE) in allowed, (id, shown, states)

    def in_redis(self) -> dict[str, Any]:
        """All of the generation that is read."""
        generation = self.redis.hget(self.keys.meta, "g").decode()
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.hgetall(self.keys.meta)
        for key in self.keys.log(generation):
            pipeline.zrange(key, 0, -1, withscores=True)
        for key in self.keys.local(generation):
            pipeline.hgetall(key)
        meta, early, ids, gone, expiring, *hashes = pipeline.execute()
        del meta[b"g"]
        return {
            "meta": meta,
            "early": early,
            "ids": ids,
            "gone": gone,
            "expiring": expiring,
            "hashes": hashes,
        }


def document(id: str, text: str) -> Document:
    return Document(id, [len(text) + 1, ord(id[0])], text)


def _one(step: Step) -> Flow[Any]:
    return (yield step)


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory, server_directory: Path) -> Iterator[World]:
    durable = f"sqlite:///{tmp_path_factory.mktemp('flows') / 'durable.db'}"
    with (
        RedisServer(directory=server_directory / "flows") as server,
        World(server.url, durable) as world,
    ):
        yield world


@pytest.fixture
def world(_world: World) -> World:
    _world.begin()
    return _world


# The order of steps.


def kinds(operation: Operation) -> list[str]:
    return [
        type(step).__name__ + (" write" if getattr(step, "write", False) else "")
        for step in operation.steps
    ]


CHANGES: dict[str, Callable[[Process], Flow[Any]]] = {
    "put": lambda process: process.put(a="new", n="n"),
    "delete": lambda process: process.delete("a", "b"),
    "clear": lambda process: process.clear(),
}
CONCERNS = {"put": ("a", "n"), "delete": ("a", "b"), "clear": ("a", "b", "c", "n")}


def begun(world: World) -> None:
    """Three documents, and processes that have read them."""
    world.one.do(world.one.put(a="a", b="b", c="c"))
    for process in (world.one, world.two, world.three):
        assert process.read() == {"a": "a", "b": "b", "c": "c"}
        assert process.place.stats["from redis"] == 1
    world.truth = [world.held()]


@pytest.mark.parametrize("change", CHANGES)
def test_the_durable_tier_comes_first(world: World, change: str) -> None:
    begun(world)
    operation = world.one.begin(CHANGES[change](world.one))
    operation.finish()
    if change == "clear":
        assert kinds(operation)[:3] == ["Sql write", "Redis write", "Redis write"]
    elif change == "delete":  # sees that it was not the first of several
        assert kinds(operation) == ["Sql write", "Redis write", "Redis"]
    else:
        assert kinds(operation) == ["Sql write", "Redis write"]


def test_steps_of_a_search(world: World) -> None:
    begun(world)
    search = ([1, 1], 5, None, None, None, None, None, False)
    operation = world.two.begin(world.two.collection._search(*search))
    operation.finish()
    assert set(kinds(operation)) == {"Redis"}
    assert len(operation.steps) <= 2
    world.clock.now += LEASE + 0.01
    operation = world.two.begin(world.two.collection._search(*search))
    operation.finish()
    assert kinds(operation).count("Sql") == 1


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_goes_to_redis_if_the_durable_tier_fails(world: World, change: str) -> None:
    begun(world)
    before = world.in_redis()
    operation = world.one.begin(CHANGES[change](world.one))
    operation.until(Sql).fail()
    assert operation.done
    assert operation.error is not None
    assert operation.error.tier == "durable"
    assert world.in_redis() == before
    for process in (world.one, world.two):
        assert process.read() == {"a": "a", "b": "b", "c": "c"}


# Changes that come to Redis in any order.

ITEMS: dict[str, Sequence[tuple[str, str]]] = {
    "put a": [("u", "a")],
    "put b": [("u", "b")],
    "delete a": [("r", "a")],
    "put a, b": [("u", "a"), ("u", "b")],
    "delete a, b": [("r", "a"), ("r", "b")],
    "clear": [],
}
FEW = ("put a", "delete a", "put a, b", "clear")


def changes(names: Sequence[str], first: int) -> list[tuple[int, int, list[Item] | None]]:
    """Version before, version after, items; None: everything goes."""
    made: list[tuple[int, int, list[Item] | None]] = []
    version = first
    for name in names:
        before, items = version, []
        for kind, id in ITEMS[name]:
            version += 1
            words = (b"\0" * 8 + b"%8d" % version, b"\0\0{}", b"\0\0\0\0") if kind == "u" else ()
            items.append(Item(kind, id.encode(), version, 0, words))
        if name == "clear":
            version += 1
        made.append((before, version, items if name != "clear" else None))
    return made


def apply(process: Process, change: tuple[int, int, list[Item] | None]) -> None:
    before, after, items = change
    engine = process.do(process.place.engine())
    if items is None:
        process.do(process.place.clear(after))
    else:
        assert process.do(process.place.apply(engine, before, after, items))


def test_changes_in_any_order_end_alike(world: World) -> None:
    """Two and three changes of two writers, in all orders; each comes again, too."""
    one, two = world.one, world.two
    for process in (one, two):
        process.place.dims = DIMS
    sequences = [
        *itertools.product(ITEMS, repeat=2),
        *(s for s in itertools.product(FEW, repeat=3) if s.count("clear") < 2),
    ]
    start = changes(["put a"], 0)[0]
    for names in sequences:
        made = changes(names, 1)
        ends = []
        for order in itertools.permutations(made):
            world.redis.flushall()
            for process in (one, two):
                process.place.forget_generation()
            apply(one, start)
            for number, change in enumerate(order):
                apply((one, two)[number % 2], change)
            end = world.in_redis()
            if "clear" not in names:
                assert end["early"] == []
                assert end["meta"][b"w"] == b"%d" % made[-1][1]
            elif end["meta"][b"w"] != b"%d" % made[-1][1]:
                # What came before a clear that was earlier is asked for again.
                water = int(end["meta"][b"w"])
                for before, after, items in made:
                    if items and after > water:
                        apply(one, (before, after, items))
                end = world.in_redis()
            ends.append(end)
            if order[0] is not made[0]:
                for change in order:
                    apply(two, change)
                assert world.in_redis() == end, (names, order)
        for end in ends:
            del end["meta"][b"f"]
        assert all(end == ends[0] for end in ends), names
        there = dict(ends[0]["ids"])
        assert ends[0]["meta"][b"n"] == b"%d" % len(there)
        for hash in ends[0]["hashes"]:
            assert set(hash) == set(there)
            for id, value in hash.items():
                assert int.from_bytes(value[:8], "big") == there[id]


def test_catching_up_again_does_nothing(world: World) -> None:
    begun(world)
    one, two = world.one, world.two
    late = [one.begin(one.put(a="1", d="d")), one.begin(one.delete("b")), one.begin(one.put(b="2"))]
    for operation in late:
        operation.until(Redis)
    expected = {"a": "1", "b": "2", "c": "c", "d": "d"}
    engine = two.do(two.place.engine())
    for _ in range(2):
        assert two.do(two.place.catch_up(engine, 3, 6))
        once = world.in_redis()
        assert two.do(two.place.catch_up(engine, 0, 6))
        assert world.in_redis() == once
    # The writers find it done.
    for operation in reversed(late):
        operation.finish()
        assert world.in_redis() == once
    assert one.read() == two.read() == expected
    assert one.place.stats["missed"] == 0


@pytest.mark.parametrize("change", CHANGES)
def test_a_writer_that_comes_late(world: World, change: str) -> None:
    begun(world)
    one, two = world.one, world.two
    late = one.begin(CHANGES[change](one)).until(Redis)
    world.clock.now += LEASE + 0.01
    expected = world.held()
    assert two.read() == expected  # which brought it to Redis
    assert two.place.stats["caught up"] == 1
    two.do(two.put(a="newer", e="e"))
    state = world.in_redis()
    late.finish()
    assert world.in_redis() == state
    assert one.read() == two.read() == {**expected, "a": "newer", "e": "e"}


# Who is told what, and when.


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("fault", ["before", "after"])
def test_one_fault_at_each_step_of_a_change(world: World, change: str, fault: str) -> None:
    """Whatever fails: what was acknowledged is seen by everybody, and so are later changes."""
    for which in range(20):
        world.begin()
        begun(world)
        one, two, three = world.one, world.two, world.three
        operation = one.begin(CHANGES[change](one))
        for _ in range(which):
            if not operation.done:
                operation.advance()
        if operation.done:
            break
        if isinstance(operation.step, Sleep):
            operation.advance()
        elif fault == "before":
            operation.fail()
        else:  # it was done, and nobody heard of it
            with contextlib.suppress(TierError):
                one.perform(operation.step)
            operation.fail()
        with contextlib.suppress(TierError):
            operation.finish()
            world.check(two.read(), len(world.truth) - 1)
        world.check(three.read(), 0)
        for process in (two, one):
            process.do(process.put(z="z"))
            for reader in (one, two, three):
                assert reader.read()["z"] == "z"
                world.check(reader.read(), len(world.truth) - 1 if operation.error is None else 0)
        world.clock.now += LEASE + 0.01
        assert one.read() == two.read() == three.read() == world.held()
        assert one.do(one.collection._upkeep.verify(repair=False)).clean
    assert which > 1


@pytest.mark.parametrize("change", CHANGES)
def test_a_writer_that_dies_at_each_step(world: World, change: str) -> None:
    """Readers see it when their leases end, and nobody waits longer than for one on its way."""
    for which in range(20):
        world.begin()
        begun(world)
        one, two, three = world.one, world.two, world.three
        operation = one.begin(CHANGES[change](one))
        for _ in range(which):
            if not operation.done:
                operation.advance()
        if operation.done:
            break
        operation.abandon()
        world.check(two.read(), 0)
        world.clock.now += LEASE + 0.01
        before = world.clock.now
        assert two.read() == three.read() == world.held()
        assert world.clock.now - before < 0.05
        before = world.clock.now
        assert two.read() == three.read() == world.held()
        assert world.clock.now == before
        two.do(two.put(z="z"))
        assert three.read() == world.held()
        assert two.do(two.collection._upkeep.verify(repair=True)).clean
    assert which > 1


def interleavings(*lengths: int) -> Iterator[tuple[int, ...]]:
    """All orders of the steps of several flows."""
    if not any(lengths):
        yield ()
    for which, length in enumerate(lengths):
        if length:
            rest = [n - (i == which) for i, n in enumerate(lengths)]
            for after in interleavings(*rest):
                yield (which, *after)


def steps_of(world: World, flow: Callable[[Process], Flow[Any]]) -> int:
    world.begin()
    begun(world)
    operation = world.one.begin(flow(world.one))
    operation.finish()
    return len(operation.steps)


def both(
    world: World,
    flows: Sequence[Callable[[Process], Flow[Any]]],
    concerns: Sequence[Sequence[str]],
    order: Sequence[int],
    *,
    every_step: bool = True,
) -> None:
    """Two flows in one order of their steps; a reader with a lease from before looks on."""
    world.begin()
    begun(world)
    running = [
        process.begin(flow(process))
        for process, flow in zip((world.one, world.two), flows, strict=True)
    ]
    acknowledged: dict[str, int] = {}

    def look(process: Process) -> None:
        world.check(process.read(), 0, acknowledged)
        world.check(process.get("a", "b", "c", "n"), 0, acknowledged)

    # What the durable tier had when a change had committed.
    ends = [0, 0]
    for which in (*order, *[0] * 20, *[1] * 20):
        operation = running[which]
        if operation.done:
            continue
        writes = isinstance(operation.step, Sql) and operation.step.write
        operation.advance()
        if writes:
            ends[which] = len(world.truth) - 1
        if operation.done:
            assert operation.error is None
            for id in concerns[which]:
                acknowledged[id] = max(acknowledged.get(id, 0), ends[which])
        if every_step or operation.done:
            look(world.three)
    for process in (world.one, world.two, world.three):
        look(process)
    world.clock.now += LEASE + 0.01
    assert world.one.read() == world.two.read() == world.three.read() == world.held()


@pytest.mark.parametrize(
    "names",
    [*itertools.combinations_with_replacement(CHANGES, 2)],
    ids="-".join,
)
def test_two_changes_in_all_orders(world: World, names: tuple[str, str]) -> None:
    """A reader with a lease from before misses nothing that was acknowledged."""
    flows = [CHANGES[name] for name in names]
    # The last steps of a clear delete what nobody reads.
    lengths = [min(steps_of(world, flow), 3) for flow in flows]
    for order in interleavings(*lengths):
        both(world, flows, [CONCERNS[name] for name in names], order)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_at_each_moment_of_a_rebuild(world: World, change: str) -> None:
    def rebuild(process: Process) -> Flow[Any]:
        try:
            yield from process.collection._upkeep.rebuild(None)
        except TierError as error:
            if "everything was removed" not in str(error):
                raise

    length = steps_of(world, rebuild)
    for start in range(length + 1):
        for end in {start, start + 2, length}:
            order = [*[0] * start, 1, *[0] * (end - start), 1, 1, 1]
            concerns = [(), CONCERNS[change]]
            both(world, [rebuild, CHANGES[change]], concerns, order, every_step=False)


def test_a_lease_ends_with_another_generation(world: World) -> None:
    """A rebuild took over that lacks the latest change; who has a lease asks anew."""
    begun(world)
    one, two, three = world.one, world.two, world.three
    rebuilding = two.begin(two.collection._upkeep.rebuild(None))
    rebuilding.until(Redis, "'HGET', KEYS[2], 'g'")  # all that it will have is there
    one.do(one.put(a="acknowledged"))
    one.do(one.delete("b"))
    rebuilding.finish()
    assert three.read() == {"a": "acknowledged", "c": "c"}
    assert three.get("a", "b") == {"a": "acknowledged"}


def test_a_lease_ends_with_a_clear_that_comes_late(world: World) -> None:
    begun(world)
    one, two, three = world.one, world.two, world.three
    clearing = two.begin(two.clear()).until(Redis, "'HSET', KEYS[1], 'g'")
    one.do(one.put(a="acknowledged"))
    clearing.finish()
    assert three.read() == {"a": "acknowledged"}


def test_a_lease_ends_when_redis_was_away(world: World) -> None:
    """It came back with older data while a query was on its way there."""
    begun(world)
    one, three = world.one, world.three
    saved = {key: world.redis.dump(key) for key in world.redis.scan_iter("*")}
    one.do(one.put(a="acknowledged"))
    search = three.collection._search([1, 1], 50, None, None, None, None, None, False)
    operation = three.begin(search)
    assert isinstance(operation.step, Redis)
    world.redis.flushall()
    for key, value in saved.items():
        world.redis.restore(key, 0, value)
    three.tiers.guards.redis.interrupted()  # its connection broke, and the next one did not
    hits = {hit.document.id: hit.document.text for hit in operation.finish()}
    assert hits["a"] == "acknowledged"


# The lease and the mark.


def head(version: int, missed: int | None = None) -> Head:
    return Head(1, DIMS, "cosine", version, missed, 0)


def answered(flow: Flow[Any], *answers: Any, clock: Clock | None = None) -> tuple[Any, float]:
    """The result of a flow, each SQL step of which gets the next answer; and how long it slept."""
    waiting, slept = list(answers), 0.0
    result: Any = None
    try:
        step = next(flow)
        while True:
            if isinstance(step, Sleep):
                slept += step.seconds
                if clock is not None:
                    clock.now += step.seconds
                step = flow.send(None)
            else:
                assert isinstance(step, Sql)
                step = flow.send(waiting.pop(0))
    except StopIteration as stop:
        result = stop.value
    assert not waiting
    return result, slept


def test_a_lease_is_no_longer_than_it_says() -> None:
    clock = Clock()
    truth = Truth("s", Guards(), clock=clock)
    flow = truth.ask()
    next(flow)
    clock.now += 0.2  # the answer takes so long, and is of the beginning
    with pytest.raises(StopIteration):
        flow.send(head(1))
    clock.now += LEASE - 0.2
    assert answered(truth.ask())[0].version == 1
    clock.now += 0.001
    assert answered(truth.ask(), head(2))[0].version == 2


def test_an_answer_that_comes_late_does_not_replace_a_later_one() -> None:
    clock = Clock()
    truth = Truth("s", Guards(), clock=clock)
    slow = truth.ask()
    next(slow)
    clock.now += 0.1
    assert answered(truth.ask(), head(2))[0].version == 2
    with pytest.raises(StopIteration):
        slow.send(head(1))
    assert truth.known.head == head(2)
    clock.now += LEASE
    assert answered(truth.ask())[0].version == 2


def test_nobody_has_a_lease_while_there_is_a_mark() -> None:
    truth = Truth("s", Guards(), clock=Clock())
    assert answered(truth.ask(), head(1, 5))[0].version == 1
    assert answered(truth.ask(), head(2, 5))[0].version == 2
    assert answered(truth.ask(), head(3))[0].version == 3
    assert answered(truth.ask())[0].version == 3


def test_a_lease_ends_with_what_redis_was() -> None:
    guards = Guards()
    truth = Truth("s", guards, clock=Clock())
    answered(truth.ask(generation="g"), head(1))
    known = truth.known
    assert truth.holds(known, "g")
    assert not truth.holds(known, "h")
    guards.redis.interrupted()
    assert not truth.holds(known, "g")
    assert answered(truth.ask(generation="g"), head(2))[0].version == 2
    assert truth.holds(truth.known, "g")
    assert not truth.holds(known, "g")


def test_a_missed_change_waits_for_the_leases_of_others() -> None:
    clock = Clock()
    truth = Truth("s", Guards(), clock=clock)
    _, slept = answered(truth.missed(None, 5), None, clock=clock)
    assert slept > LEASE
    # The mark of that is there still: nobody has a lease.
    assert answered(truth.missed(5, 6), clock=clock) == (None, 0.0)
    # Somebody took it away.
    _, slept = answered(truth.missed(None, 7), None, clock=clock)
    assert slept > LEASE


def test_a_mark_that_was_made_again_is_waited_for_again() -> None:
    """In between somebody had a lease."""
    clock = Clock()
    truth = Truth("s", Guards(), clock=clock)
    answered(truth.missed(None, 5), None, clock=clock)
    clock.now += 10
    _, slept = answered(truth.missed(9000, 9001), clock=clock)
    assert slept > LEASE
    assert answered(truth.missed(9000, 9002), clock=clock) == (None, 0.0)
    # Seen by a reader, it counts from when it was seen.
    answered(truth.ask(), head(4, 12_000))
    clock.now += LEASE / 2
    _, slept = answered(truth.missed(12_000, 12_100), clock=clock)
    assert LEASE / 2 < slept < LEASE
    flow = truth.ask()
    next(flow)
    clock.now += 2  # when the mark was made, between asking and being told, nobody knows
    with pytest.raises(StopIteration):
        flow.send(head(5, 14_000))
    _, slept = answered(truth.missed(14_000, 14_000), clock=clock)
    assert slept > LEASE


def test_a_missed_change_is_acknowledged_when_no_lease_is_left(world: World) -> None:
    """A process that is cut off from Redis alone writes; another reads on, with its lease."""
    begun(world)
    one, two, three = world.one, world.two, world.three
    one.redis_away = True
    for number in range(4):
        world.clock.now += 1.0 if number == 2 else 0.0
        assert "c" in two.read()  # has a lease
        begin = world.clock.now
        one.do(one.put(a=f"{number}"))
        if number == 0:
            assert world.clock.now - begin > LEASE
        assert two.read()["a"] == f"{number}"
        assert three.read()["a"] == f"{number}"
        assert one.read()["a"] == f"{number}"
    one.redis_away = False
    one.do(one.put(a="last"))
    assert one.read() == two.read() == three.read() == {"a": "last", "b": "b", "c": "c"}


def test_a_missed_change_is_not_acknowledged_if_the_mark_cannot_be_made(world: World) -> None:
    begun(world)
    operation = world.one.begin(world.one.put(a="1"))
    operation.until(Redis).fail()
    assert isinstance(operation.step, Sql)
    operation.fail()
    with pytest.raises(TierUnavailable, match="durable"):
        operation.finish()
    # It is in the durable tier all the same, and seen in time.
    world.clock.now += LEASE + 0.01
    assert world.two.read()["a"] == "1"


def test_two_are_cut_off_and_a_third_takes_the_mark_away(world: World) -> None:
    begun(world)
    one, two, three = world.one, world.two, world.three
    one.redis_away = two.redis_away = True
    one.do(one.put(a="1"))
    for number in range(3):
        assert three.read() == world.held()  # brings Redis up to date, and takes the mark away
        three.read()  # has a lease again
        begin = world.clock.now
        two.do(two.put(b=f"{number}"))
        assert world.clock.now - begin > LEASE
        assert three.read()["b"] == f"{number}"
        assert three.read() == world.held()
        three.read()
        # Its own mark is long gone; that of the other came and went since.
        marking = two.begin(two.put(c=f"{number}")).until(Sleep)
        one.do(one.put(a=f"again {number}"))
        assert three.read()["a"] == f"again {number}"
        marking.finish()
        assert three.read() == world.held()


def test_a_rebuild_whose_removals_were_forgotten_begins_anew(world: World) -> None:
    begun(world)
    one, two = world.one, world.two
    rebuilding = two.begin(two.collection._upkeep.rebuild(None)).until(
        Redis, "'HGET', KEYS[2], 'g'"
    )
    rebuilding.fail()
    with pytest.raises(TierError):
        rebuilding.finish()
    one.do(one.delete("a", "b"))
    assert one.do(_one(Sql(rows.prune(world.keys.scope, 0), write=True))) == 2
    rebuilding = two.begin(two.collection._upkeep.rebuild(None))
    with pytest.raises(TierError, match="removals were forgotten"):
        rebuilding.finish()
    assert two.do(two.collection._upkeep.rebuild(None)).resumed == 0
    assert one.read() == two.read() == {"c": "c"}
    assert one.do(one.collection._upkeep.verify(repair=False)).clean
