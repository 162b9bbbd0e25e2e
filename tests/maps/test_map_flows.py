"""The promises of maps, by stepping their flows: processes interleaved, each step made to fail."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.flow import Redis, Sql
from redis_tiered.maps import scripts
from tests.llm_cache.simulation import Crash, Fault, Running
from tests.maps.simulation import Link, Process, Register, World
from tests.servers import RedisServer

CHANGES = ("put", "delete", "clear")


@pytest.fixture
def link(valkey: RedisServer) -> Iterator[Link]:
    with Link(valkey.url) as link:
        yield link


@pytest.fixture
def world(link: Link) -> Iterator[World]:
    with World(link) as world:
        yield world


@pytest.fixture(params=[True, False], ids=["durable", "no-durable"])
def any_world(request: pytest.FixtureRequest, link: Link) -> Iterator[World]:
    with World(link, durable=request.param) as world:
        yield world


def kinds(process: Process) -> list[type]:
    return [type(step) for step in process.log]


def reached(process: Process, action: Callable[[], object]) -> list[type]:
    """Kinds of the steps that it takes."""
    process.log.clear()
    action()
    return kinds(process)


# How many steps.


def test_memory_costs_no_step_and_redis_one(any_world: World) -> None:
    process = any_world.process()
    process.map.write({f"q{i}": b"A" for i in range(3)})
    assert reached(process, lambda: process.map.get_many(["q0", "q1", "q2"])) == [Redis]
    assert reached(process, lambda: process.map.get_many(["q2", "q0", "q2"])) == []
    assert reached(process, lambda: process.map.get_many([])) == []
    absent = reached(process, lambda: process.map.get_many(["q0", "absent"]))
    assert absent == ([Redis] if any_world.engine is None else [Redis, Sql])


def test_what_the_durable_tier_has_is_written_to_redis_in_one_step(world: World) -> None:
    process = world.process()
    names = [f"q{i}" for i in range(1200)]
    process.map.write(dict.fromkeys(names, b"A"))
    world.call("DEL", *process.values(*names))
    assert reached(process, lambda: process.map.get_many(names)) == [Redis, Sql, Redis]
    assert reached(process, lambda: process.map.get_many(names)) == [Redis]
    assert reached(process, lambda: process.map.get_many(names)) == []


def test_a_change_is_one_transaction_and_one_round_trip_per_8_megabytes(world: World) -> None:
    process = world.process()
    process.get()
    process.map.put("old", b"A")
    mixed = {f"q{i}": b"A" for i in range(499)}
    assert reached(process, lambda: process.map.write(mixed, ["old"])) == [Sql, Redis]
    many = {f"q{i}": b"A" for i in range(20_001)}
    assert reached(process, lambda: process.map.write(many)) == [Sql, Redis, Redis]
    large = {f"q{i}": bytes(3 << 20) for i in range(4)}
    assert reached(process, lambda: process.map.write(large)) == [Sql, Redis, Redis]
    assert process.map.get_many(large) == [bytes(3 << 20)] * 4
    assert reached(process, lambda: process.map.write({}, [])) == []


def test_bad_input_costs_no_step(any_world: World) -> None:
    process = any_world.process()
    with pytest.raises(InvalidInput):
        process.map.changing({"q": b"A", "": b"B"})
    with pytest.raises(InvalidInput):
        process.map.write({"q": b"A"}, ["q"])
    assert process.log == []


# Interleaved, nothing fails.


def schedules(first: int, second: int) -> Iterator[tuple[int, ...]]:
    """All orders of `first` turns of the one and `second` turns of the other."""
    for places in itertools.combinations(range(first + second), first):
        yield tuple(0 if place in places else 1 for place in range(first + second))


def hold(world: World, one: Process, two: Process, held: str) -> None:
    """Put A, and leave it in one tier."""
    one.map.put("q", b"A")
    one.get("warm up")
    two.get("warm up")
    if held == "memory":
        assert two.get() == one.get() == b"A"
    elif held == "durable":
        world.call("DEL", *one.values("q"))


@pytest.mark.parametrize("same", [True, False], ids=["one process", "two processes"])
@pytest.mark.parametrize("held", ["memory", "redis", "durable"])
@pytest.mark.parametrize("change", CHANGES)
def test_no_reader_brings_an_old_value_back(link: Link, change: str, held: str, same: bool) -> None:
    expected = b"B" if change == "put" else None
    for schedule in schedules(3, 3):
        with World(link) as world:
            one = world.process()
            two = one if same else world.process()
            hold(world, one, two, held)
            reader, writer = two.start("get"), one.start(change, value=b"B")
            # The server's messages to L1 are late; who writes reads it nonetheless.
            world.delayed = same
            for turn in schedule:
                (reader, writer)[turn].advance()
                if writer.done:
                    assert one.get() == expected, schedule
            writer.finish()
            reader.finish()
            world.delayed = False
            world.deliver()
            assert one.get() == two.get() == expected, schedule
            world.flush()
            assert two.get() == expected, schedule


@pytest.mark.parametrize("other", CHANGES)
@pytest.mark.parametrize("change", CHANGES)
def test_writers_at_the_same_time_leave_the_tiers_agreed(
    link: Link, change: str, other: str
) -> None:
    for schedule in schedules(3, 3):
        with World(link) as world:
            one, two, three = world.process(), world.process(), world.process()
            hold(world, one, two, "memory")
            register = Register()
            begun = [
                register.begin(b"B" if change == "put" else None),
                register.begin(b"C" if other == "put" else None),
            ]
            running = one.start(change, value=b"B"), two.start(other, value=b"C")
            for turn in (*schedule, *(0,) * 9, *(1,) * 9):
                if running[turn].done:
                    continue
                running[turn].advance()
                if running[turn].done:
                    register.end(begun[turn], acknowledged=True)
                    # Acknowledged: it, or what came later, is what everybody reads.
                    since = register.now()
                    assert (one, two)[turn].get() in register.possible(since) - {b"A"}, schedule
            found = three.get()
            assert one.get() == two.get() == found, schedule
            world.flush()
            assert one.get() == found, schedule


def test_a_value_put_after_a_clear_committed_is_there(world: World) -> None:
    """Before Redis heard of the clear: what it has of the value is what was cleared."""
    one, two = world.process(), world.process()
    hold(world, one, two, "memory")
    clear = one.start("clear")
    clear.advance()
    two.map.put("other", b"B")
    assert two.get("other") == b"B"
    two.map.put("q", b"C")
    assert two.get() == b"C"
    clear.finish()
    assert one.get() == two.get() == b"C"
    assert one.get("other") == b"B"


def test_a_reader_does_not_go_by_an_epoch_that_another_thread_has_replaced(world: World) -> None:
    """Its question names the old one, and is answered when its own process knows the new one."""
    one, two = world.process(), world.process()
    hold(world, one, two, "redis")
    one.memory.empty()  # the epoch is likely, no longer certain
    two.map.clear()
    reader = one.start("get")
    assert one.get() is None
    [found] = reader.finish().values
    assert found is None


def test_a_value_that_a_clear_overtook_is_gone_from_every_tier(world: World) -> None:
    """It committed first; then Redis learns of the new epoch before it is told of the value."""
    one, two, late = world.process(), world.process(), world.process()
    hold(world, one, two, "redis")
    put = late.start("put", value=b"B")
    put.advance()
    one.map.clear()
    assert two.get() is None
    put.finish()
    assert one.get() is two.get() is late.get() is None
    world.flush()
    assert one.get() is None


# Something fails.

FAULTS = (*Fault.KINDS, "full")


def perform(
    world: World, process: Process, change: str, fault: Fault | None
) -> tuple[str, Register]:
    """Change A into B, or nothing: "done", "failed" or "crashed"."""
    register = Register()
    register.end(register.begin(b"A"), acknowledged=True)
    begun = register.begin(b"B" if change == "put" else None)
    outcome = "done"
    with world.fault(process, fault):
        try:
            process.start(change, value=b"B").finish()
        except TierError:
            outcome = "failed"
        except Crash:
            outcome = "crashed"
    register.end(begun, acknowledged=outcome == "done")
    return outcome, register


@pytest.mark.parametrize("held", ["memory", "durable"])
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("change", CHANGES)
def test_whichever_step_fails_nobody_reads_what_was_before(
    link: Link, change: str, kind: str, held: str
) -> None:
    for database, at in itertools.product((True, False), range(12)):
        with World(link) as world:
            one, two = world.process(), world.process()
            hold(world, one, two, held)
            fault = Fault(at, "after" if kind == "full" else kind)
            if kind == "full":
                fault = Fault(-1, "before")
                world.full(True)
            else:
                # From the fault on, the database is away too, or not.
                one.on_fault = lambda w=world, away=not database: setattr(w, "database_away", away)  # type: ignore[misc]
            outcome, register = perform(world, one, change, fault)
            if one.steps <= at:
                assert outcome == "done"
                break
            where = (database, at, outcome)
            if outcome == "crashed":
                world.disconnect(one)
                one = world.process()
            with contextlib.suppress(TierError):
                assert one.get() in register.possible(register.now()), where
            world.full(False)
            world.database_away = False
            one.recover()
            two.recover()
            found = two.get()
            assert found in register.possible(register.now()), where
            if outcome != "crashed":
                assert one.get() == found, where
                world.flush()
                assert one.get() == found, where
            # Nothing stays broken.
            two.map.put("q", b"C")
            assert one.get() == two.get() == b"C", where


@pytest.mark.parametrize("kind", ["before", "after", "reset"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_slow_reader_does_not_bring_back_what_redis_was_not_told(
    link: Link, change: str, kind: str
) -> None:
    """The reader has read the durable tier when the change comes, and warms Redis after it."""
    expected = b"B" if change == "put" else None
    for steps, at in itertools.product(range(3), range(1, 5)):
        with World(link) as world:
            one, two = world.process(), world.process()
            hold(world, one, two, "durable")
            reader = two.start("get")
            for _ in range(steps):
                reader.advance()
            # Such a failure leaves no breaker open: the next step is tried.
            one.guards.redis._first_wait = 0.0
            outcome, _ = perform(world, one, change, Fault(at, kind, Redis))
            reader.finish()
            one.recover()
            if outcome == "done":
                assert one.get() == two.get() == expected, (steps, at)


def test_a_change_that_redis_has_no_room_for_is_never_taken_for_a_deletion(world: World) -> None:
    one, two = world.process(), world.process()
    hold(world, one, two, "redis")
    world.full(True)
    put = one.start("put", value=b"B")
    while not put.done:
        put.advance()
        assert two.get() in (b"A", b"B")
        assert two.map.get_many(["q", "absent"])[0] in (b"A", b"B")
    assert one.get() == two.get() == b"B"
    # Who crashed in between leaves the same behind.
    world.full(False)
    one.recover()
    assert one.get() == two.get() == b"B"


def test_what_redis_was_not_told_it_learns_from_the_next_reader(world: World) -> None:
    one, two = world.process(), world.process()
    hold(world, one, two, "redis")
    world.full(True)
    one.map.put("q", b"B")
    world.full(False)
    one.recover()
    assert reached(one, one.get) == [Redis, Sql, Redis]
    assert one.get() == two.get() == b"B"  # they see that Redis takes writes again
    one.memory.invalidate(one.values("q"))
    assert reached(one, one.get) == [Redis]


def test_without_room_nothing_is_written_beyond_the_limit(world: World) -> None:
    one = world.process()
    one.map.write({f"q{i}": bytes(1000) for i in range(100)})
    world.full(True)

    def used() -> int:
        return int(world.client.info("memory")["used_memory"])

    before = used()
    values = {f"q{i}": bytes(50_000) for i in range(100)}
    running = Running(one, one.map.changing(values))  # type: ignore[arg-type]
    while not running.done:
        running.advance()
        assert used() < before + 500_000
    assert one.map.get_many(["q0", "q99"]) == [bytes(50_000)] * 2


def test_a_value_is_deleted_when_redis_alone_is_full(link: Link) -> None:
    with World(link, durable=False) as world:
        one = world.process()
        one.map.write({"a": b"A", "b": b"A"})
        world.full(True)
        with pytest.raises(TierError):
            one.map.put("a", b"B")
        assert one.get("a") == b"A"
        assert one.map.delete("a") is True
        assert one.get("a") is None
        with pytest.raises(TierError):
            one.map.put("a", b"B")
        one.map.clear()
        assert world.keys() == set()


# What others did not live to tell.


def test_a_process_that_died_before_it_told_redis_of_the_epoch_blinds_nobody(world: World) -> None:
    """Redis goes by an epoch that has ended: what others change is seen all the same."""
    one, two, three = world.process(), world.process(), world.process()
    hold(world, one, two, "memory")
    one.cut()
    one.map.put("other", b"B")  # which ends the epoch
    two.map.put("q", b"B")
    assert two.get() == three.get() == b"B"
    assert three.get("other") == b"B"
    three.map.delete("q")
    assert two.get() is three.get() is None


def test_a_change_that_no_tier_could_be_told_of_is_seen_by_who_made_it(world: World) -> None:
    one, two = world.process(), world.process()
    hold(world, one, two, "memory")

    def both_away() -> None:
        world.database_away = True

    one.on_fault = both_away
    outcome, _ = perform(world, one, "put", Fault(1, "before"))
    assert outcome == "done"
    with pytest.raises(TierError):
        one.get()
    world.clock.advance(1.0)
    with pytest.raises(TierError):  # Redis is back, the database is not
        one.get()
    world.database_away = False
    world.clock.advance(1.0)
    assert one.get() == b"B"
    assert two.get() == b"B"


def test_a_cancelled_change_is_followed_up(world: World) -> None:
    one, two = world.process(), world.process()
    for change, expected in (("put", b"B"), ("delete", None)):
        hold(world, one, two, "memory")
        running = one.start(change, value=b"B")
        running.advance()
        running._flow.close()
        assert two.get() in (b"A", expected)
        one.housekeeper.run()
        assert one.get() == two.get() == expected


def test_clear_is_told_when_redis_is_back(world: World) -> None:
    one, two = world.process(), world.process()
    hold(world, one, two, "memory")
    one.cut()
    with pytest.raises(TierError):
        one.map.clear()
    assert one.get() is None
    one.recover()
    assert one.get() is two.get() is None


# Time.


def late(world: World, process: Process, meanwhile: Callable[[], object]) -> None:
    """The next answer of the database takes longer than Redis remembers a deletion."""
    commit = world.commit

    def slow(step: Sql) -> object:
        world.commit = commit  # type: ignore[method-assign]
        result = commit(step)
        meanwhile()
        world.clock.advance(scripts.TOMBSTONE_MS / 1000 + 1)
        world.call("DEL", *process.values("q"))
        return result

    world.commit = slow  # type: ignore[method-assign]


@pytest.mark.parametrize("change", ["put", "get"])
def test_who_is_late_does_not_bring_back_what_was_deleted_meanwhile(
    world: World, change: str
) -> None:
    one, two = world.process(), world.process()
    hold(world, one, two, "durable")
    late(world, two, lambda: two.map.delete("q"))
    one.start(change, value=b"B").finish()
    assert one.get() is two.get() is None


def test_a_value_that_ends_soon_guards_against_the_one_before(world: World) -> None:
    one, two = world.process(), world.process()
    hold(world, one, two, "durable")
    reader = two.start("get")
    reader.advance()
    reader.advance()
    one.map.put("q", b"B", ttl=0.001)
    world.clock.advance(0.01)
    # By its own clock Redis keeps what has ended, as long as a mark.
    assert world.client.pttl(one.values("q")[0]) > scripts.TOMBSTONE_MS / 2
    reader.finish()
    assert one.get() is two.get() is None


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
def test_clocks_that_differ_reorder_nothing(world: World, ahead: float) -> None:
    one, two = world.process(), world.process(ahead=ahead)
    for i in range(3):
        for process in (one, two, one):
            value = f"{i}".encode()
            process.map.put("q", value)
            assert one.get() == two.get() == value
            process.map.delete("q")
            assert one.get() is two.get() is None


def test_what_ended_is_gone_from_every_tier(any_world: World) -> None:
    one, two = any_world.process(ttl=10.0), any_world.process()
    one.map.put("q", b"A")
    one.map.put("kept", b"A", ttl=None)
    assert one.get() == two.get() == b"A"
    assert dict(two.map.page()) == {"q": b"A", "kept": b"A"}
    any_world.clock.advance(10.1)
    assert one.get() is two.get() is None
    assert dict(two.map.page()) == {"kept": b"A"}
    if any_world.engine is not None:
        assert one.map.delete("q") is False


# What Redis holds is not what it should.


@pytest.mark.parametrize(
    "damage",
    [b"", b"x", b"garbage that is longer than all heads", lambda data: data[:-1], lambda d: d[:20]],
    ids=["empty", "short", "foreign", "cut", "head cut"],
)
def test_unreadable_bytes_are_counted_and_replaced(
    any_world: World, damage: bytes | Callable[[bytes], bytes]
) -> None:
    process = any_world.process()
    process.map.put("q", b"A")
    [key] = process.values("q") if any_world.engine else process.keys.values("0", [_digest("q")])
    [good] = any_world.call("GET", key)
    any_world.call("SET", key, damage(good) if callable(damage) else damage)
    assert process.get() == (b"A" if any_world.engine else None)
    assert process.store.unreadable.total() == 1
    if any_world.engine:
        assert process.get() == b"A"
        assert process.store.unreadable.total() == 1
    process.map.put("q", b"B")
    assert process.get() == b"B"


def _digest(name: str) -> str:
    from redis_tiered.maps.item import digest_of

    return digest_of(name.encode())


def test_a_key_of_another_type_is_nothing(world: World) -> None:
    one, two = world.process(), world.process()
    one.map.put("q", b"A")
    [key] = one.values("q")
    world.call("DEL", key)
    world.call("EVAL", "return redis.call('RPUSH', KEYS[1], 'x')", 1, key)
    assert one.get() == b"A"
    one.map.put("q", b"B")
    assert one.get() == two.get() == b"B"


def test_a_restored_older_copy_is_not_believed(world: World) -> None:
    one, two = world.process(), world.process()
    one.map.write({"replaced": b"A", "deleted": b"A"})
    snapshot = world.snapshot()
    one.map.write({"replaced": b"B"}, ["deleted"])
    world.restart(snapshot)
    for process in (two, one, world.process()):
        assert process.map.get_many(["replaced", "deleted"]) == [b"B", None]


@pytest.mark.parametrize("what", ["get", "put"])
def test_a_server_that_restarted_while_it_was_asked_is_not_believed(
    world: World, what: str
) -> None:
    """The connection broke, the question was sent again, and an older state answers."""
    one, two = world.process(), world.process()
    one.map.put("q", b"A")
    snapshot = world.snapshot()
    one.map.put("q", b"B")
    one.get("another")
    running = one.start(what, value=b"C")
    if what == "put":
        running.advance()
    world.restart(snapshot)
    result = running.finish()
    expected = b"B" if what == "get" else b"C"
    assert what == "put" or result.values == [expected]
    assert one.get() == two.get() == expected


def test_an_epoch_that_keeps_changing_is_given_up(world: World) -> None:
    """What is read then comes from the durable tier, and what is written is there."""
    one, two = world.process(), world.process()
    one.map.put("q", b"A")
    execute = world.execute

    def restless(step: Redis) -> list[object]:
        if any(command[0] in ("MGET", "EVAL") for command in step.commands):
            one.guards.redis.interrupted()
        return execute(step)

    world.execute = restless  # type: ignore[method-assign]
    assert one.get() == b"A"
    one.log.clear()
    one.map.put("q", b"B")
    assert len(one.log) < 60
    assert one.get() == b"B"
    world.execute = execute  # type: ignore[method-assign]
    one.recover()
    assert one.get() == two.get() == b"B"


# In the background.


def test_clear_reclaims_rows_and_keys(any_world: World) -> None:
    one, two = any_world.process(), any_world.process()
    names = [f"q{i}" for i in range(1200)]
    one.map.write(dict.fromkeys(names, b"A"))
    two.map.clear()
    two.map.put("q0", b"B")
    two.housekeeper.run()
    assert one.map.get_many(["q0", "q1"]) == [b"B", None]
    keys = any_world.keys()
    if any_world.engine is None:
        two.map.clear()
        assert any_world.keys() == set()
        return
    # The epoch, the value, and what q0 was before, whose row was replaced.
    assert len(keys) <= 3
    assert _rows(any_world) == 1


def test_what_expired_is_purged(world: World) -> None:
    process = world.process()
    process.map.write({f"q{i}": b"A" for i in range(1100)}, ttl=5)
    process.map.put("kept", b"A")
    world.clock.advance(6)
    process.map.put("q0", b"B")
    assert _rows(world) == 1101
    process.housekeeper.run()
    assert _rows(world) == 2
    assert process.map.get_many(["q0", "kept", "q1"]) == [b"B", b"A", None]


def test_a_clear_that_redis_missed_is_purged_all_the_same(world: World) -> None:
    process = world.process()
    process.map.put("q", b"A")
    process.cut()
    with pytest.raises(TierError):
        process.map.clear()
    process.recover()
    assert _rows(world) == 0


def _rows(world: World) -> int:
    from sqlalchemy import func, select

    from redis_tiered.tiers.schema import items

    return int(
        world.commit(Sql(lambda c: c.execute(select(func.count()).select_from(items)).scalar()))
    )


# A machine looks for what was not thought of.

WHO = st.integers(0, 1)
PICK = st.integers(0, 1000)


class Machine(RuleBasedStateMachine):
    """Two processes, two names; operations are cut into steps, some fail."""

    link: ClassVar[Link]
    durable: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.link, durable=self.durable)
        self.who = [self.world.process(), self.world.process()]
        self.registers = {"q": Register(), "r": Register()}
        self.running: list[tuple[Running, Callable[[Running], None]]] = []
        self.number = 0
        self.saved = self.world.snapshot()

    def teardown(self) -> None:
        try:
            for running, _ in list(self.running):
                self.go(running)
            for process in self.who:
                self.read(process, "q")
                self.read(process, "r")
        finally:
            self.world.__exit__()

    def begin(self, which: int, what: str, name: str) -> Running:
        """Start an operation, whose end is checked."""
        process = self.who[which]
        if what == "get":
            since = self.registers[name].now()
            running = process.start("get", name)

            def read(running: Running) -> None:
                if running.error is None and running.result.failure is None:
                    [found] = running.result.values
                    assert found in self.registers[name].possible(since), (name, found)

            check = read
        else:
            self.number += 1
            value = f"{self.number}".encode() if what == "put" else None
            names = list(self.registers) if what == "clear" else [name]
            changes = [(name, self.registers[name].begin(value)) for name in names]
            running = process.start(what, name, value)

            def changed(running: Running) -> None:
                for name, change in changes:
                    self.registers[name].end(change, acknowledged=running.error is None)

            check = changed
        self.running.append((running, check))
        self.settle()
        return running

    def settle(self) -> None:
        for entry in [entry for entry in self.running if entry[0].done]:
            self.running.remove(entry)
            entry[1](entry[0])

    def go(self, running: Running) -> None:
        with contextlib.suppress(TierError):
            running.finish()
        self.settle()

    def read(self, process: Process, name: str) -> None:
        since = self.registers[name].now()
        with contextlib.suppress(TierError):
            found = process.get(name)
            assert found in self.registers[name].possible(since), (name, found)

    @rule(
        which=WHO,
        what=st.sampled_from(("get", "get", "put", "put", "delete", "clear")),
        name=st.sampled_from("qr"),
        whole=st.booleans(),
    )
    def operate(self, which: int, what: str, name: str, whole: bool) -> None:
        running = self.begin(which, what, name)
        if whole:
            self.go(running)

    @rule(pick=PICK, steps=st.integers(1, 3))
    @precondition(lambda self: self.running)
    def step(self, pick: int, steps: int) -> None:
        running = self.running[pick % len(self.running)][0]
        for _ in range(steps):
            running.advance()
        self.settle()

    @rule(name=st.sampled_from("qr"))
    def everybody_reads(self, name: str) -> None:
        for process in self.who:
            self.read(process, name)
            self.read(process, name)

    @rule(which=WHO, at=st.integers(0, 4), kind=st.sampled_from(("before", "after", "reset")))
    def fails(self, which: int, at: int, kind: str) -> None:
        """One operation fails at one step; the others go on only when the process has recovered."""
        if not self.durable:
            return
        process = self.who[which]
        with self.world.fault(process, Fault(at, kind)):
            self.go(self.begin(which, "put", "q"))
            self.read(process, "q")
        process.recover()

    @rule(which=WHO)
    def forget(self, which: int) -> None:
        self.who[which].memory.empty()

    @rule()
    @precondition(lambda self: self.durable and not self.running)
    def flush(self) -> None:
        self.world.flush()

    @rule()
    @precondition(lambda self: self.durable)
    def save(self) -> None:
        self.saved = self.world.snapshot()

    @rule()
    @precondition(lambda self: self.durable and not self.running)
    def restart(self) -> None:
        self.world.restart(self.saved)

    @rule(full=st.booleans())
    @precondition(lambda self: self.durable)
    def room(self, full: bool) -> None:
        self.world.full(full)

    @rule(seconds=st.sampled_from([0.05, 0.2, 1.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "no-durable"])
def test_any_story(link: Link, durable: bool) -> None:
    class Story(Machine):
        pass

    Story.link, Story.durable = link, durable
    run_state_machine_as_test(
        Story,
        settings=settings(
            max_examples=60 if durable else 25,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # each step is told; to find fewer takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
