"""The rules of the LLM cache, by stepping its flows: two processes, each step made to fail."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from redis_tiered.errors import TierError
from redis_tiered.flow import Redis, Sql, Wait
from redis_tiered.llm_cache import cache as cache_module
from redis_tiered.llm_cache.control import Control, cache_control
from redis_tiered.llm_cache.envelope import Envelope, seal, unseal
from redis_tiered.llm_cache.fingerprint import fingerprint
from redis_tiered.llm_cache.semantic.cacheable import Asked, Verdict
from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
from redis_tiered.llm_cache.shelf import Served
from tests.llm_cache.simulation import Crash, Fault, Process, Running, Server, World, request_of
from tests.semantic.toy import Toy

FREE = Control()


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture(params=[True, False], ids=["durable", "no-durable"])
def any_world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(durable=request.param) as world:
        yield world


def back(process: Process) -> None:
    """Reach Redis again, and let the process notice."""
    process.reconnect()
    process.recover()


# The tiers, one after the other.


def test_an_answer_is_found_in_the_nearest_tier_that_holds_it(world: World) -> None:
    one, two = world.process(), world.process()
    one.update("q", "A")
    assert one.cache.lookup(request_of("q")) == (b"A", "redis", 0.0, None)
    assert one.cache.lookup(request_of("q")) == (b"A", "memory", 0.0, None)
    assert two.cache.lookup(request_of("q")) == (b"A", "redis", 0.0, None)
    world.server.flush()
    assert two.cache.lookup(request_of("q")) == (b"A", "durable", 0.0, None)
    assert one.cache.lookup(request_of("q")) == (b"A", "redis", 0.0, None)


def test_a_warm_hit_costs_no_step_and_every_other_lookup_one(any_world: World) -> None:
    process = any_world.process()
    process.update("q", "A")
    process.lookup("q")
    process.steps = 0
    assert process.lookup("q") == "A"
    assert process.steps == 0
    process.memory.invalidate((process.key("q"),))
    assert process.lookup("q") == "A"
    assert process.steps == 1
    process.steps = 0
    assert process.lookup("absent") is None
    assert [type(step) for step in process.log[-process.steps :]] == (
        [Redis, Sql] if process.durable else [Redis]
    )


def test_an_update_goes_to_the_durable_tier_first(world: World) -> None:
    process = world.process()
    process.lookup("q")
    process.log.clear()
    process.update("q", "A")
    assert [type(step) for step in process.log] == [Sql, Redis]


def test_a_write_in_one_process_reaches_the_memory_of_another(any_world: World) -> None:
    one, two = any_world.process(), any_world.process()
    one.update("q", "A")
    assert two.lookup("q") == two.lookup("q") == "A"
    one.update("q", "B")
    assert two.lookup("q") == "B"
    two.delete("q")
    assert one.lookup("q") is None


def test_names_and_tenants_share_nothing(world: World) -> None:
    one, two = world.process(name="one"), world.process(name="two")
    one.update("q", "A")
    assert two.lookup("q") is None
    two.cache.clear()
    assert one.lookup("q") == "A"


# Controls.


def test_controls_decide_about_reading_and_writing(any_world: World) -> None:
    process = any_world.process()
    with cache_control(write=False):
        process.update("q", "A")
    assert process.lookup("q") is None
    process.update("q", "A")
    for bypass in ({"read": False}, {"refresh": True}):
        with cache_control(**bypass):
            assert process.lookup("q") is None
    with cache_control(refresh=True):
        process.update("q", "B")
    assert process.lookup("q") == "B"
    stats = process.cache.stats()
    assert stats.skipped == {"no_store": 1}
    assert process.cache._tally.counts()["miss.bypassed"] == 2


def test_a_caller_who_may_not_store_does_not_end_the_flight_of_another(world: World) -> None:
    process = world.process()
    flight = process.cache._flights.lead(
        fingerprint(request_of("q")).digest, FOREIGN, "token", b"lease"
    )
    with cache_control(write=False):
        process.update("q", "mine alone")
    assert flight.answer is None
    process.update("q", "A")
    assert unseal(flight.answer).payload == b"A"


class _Somebody:
    identity = -1

    def alive(self) -> bool:
        return True


FOREIGN = _Somebody()


# TTL.


@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.5])
def test_ttl_stays_within_its_jitter_in_every_tier(any_world: World, jitter: float) -> None:
    process = any_world.process(ttl=100.0, jitter=jitter)
    seen = set()
    for number in range(30):
        process.update(f"q{number}", "A")
        seen.add(any_world.server.ttl(process.key(f"q{number}")))
    assert all(100.0 * (1 - jitter) - 0.01 <= ttl <= 100.0 for ttl in seen if ttl is not None)
    assert None not in seen
    assert len(seen) == 1 if jitter == 0 else len(seen) > 5
    any_world.clock.advance(100.0 * (1 - jitter) - 1)
    assert all(process.lookup(f"q{number}") == "A" for number in range(30))
    any_world.clock.advance(100.0 * jitter + 1)
    assert all(process.lookup(f"q{number}") is None for number in range(30))


def test_ttl_of_an_entry_and_for_ever(world: World) -> None:
    process = world.process(ttl=None)
    process.update("kept", "A")
    with cache_control(ttl=10):
        process.update("brief", "B")
    assert world.server.ttl(process.key("kept")) == cache_module.DEFAULT_TTL
    world.clock.advance(11)
    assert process.lookup("brief") is None
    world.clock.advance(400 * 86_400)
    assert process.lookup("kept") == "A"


def test_an_expired_entry_is_over_even_where_redis_still_has_it(world: World) -> None:
    process = world.process(ttl=10.0)
    process.update("q", "A")
    key = process.key("q")
    assert process.lookup("q") == "A"
    world.server.execute([("PEXPIRE", key, 10_000_000)])
    world.clock.advance(11)
    assert process.lookup("q") is None


# Sliding.


def test_sliding_begins_the_ttl_anew_in_redis_and_in_the_durable_tier(world: World) -> None:
    process = world.process(ttl=100.0, sliding=True)
    process.update("q", "A")
    for _ in range(5):
        world.clock.advance(70)
        assert process.lookup("q") == "A"
    world.server.flush()
    world.clock.advance(70)
    assert process.lookup("q") == "A"
    world.clock.advance(101)
    assert process.lookup("q") is None


def test_without_sliding_the_ttl_is_fixed(world: World) -> None:
    process = world.process(ttl=100.0)
    process.update("q", "A")
    world.clock.advance(70)
    assert process.lookup("q") == "A"
    world.clock.advance(31)
    assert process.lookup("q") is None


# Early recompute.


def test_early_one_caller_leads_and_all_others_get_the_old_answer(any_world: World) -> None:
    one, two = any_world.process(ttl=100.0, early=0.2), any_world.process(ttl=100.0, early=0.2)
    one.update("q", "old")
    any_world.clock.advance(79)
    assert one.lookup("q") == two.lookup("q") == "old"
    any_world.clock.advance(2)
    answers = [process.lookup("q") for process in (one, two, two, one, two)]
    assert answers.count(None) == 1
    assert set(answers) == {None, "old"}
    counts = one.cache._tally.counts() | two.cache._tally.counts()
    assert {name: n for name, n in counts.items() if name.startswith("miss")} == {"miss.early": 1}
    one.update("q", "new")
    assert one.lookup("q") == two.lookup("q") == "new"


def test_early_a_leader_that_died_is_replaced(world: World) -> None:
    one, two = world.process(ttl=100.0, early=0.2), world.process(ttl=100.0, early=0.2)
    one.update("q", "old")
    world.clock.advance(85)
    assert one.lookup("q") is None
    assert two.lookup("q") == "old"
    world.clock.advance(3.1)
    assert two.lookup("q") is None


# Unreadable bytes, values that cannot be stored.


@pytest.mark.parametrize(
    "damage",
    [b"", b"garbage", b"\x02" + bytes(29), lambda data: data[:-1], lambda data: data[:20]],
    ids=["empty", "foreign", "unknown version", "cut", "header cut"],
)
def test_unreadable_bytes_are_a_counted_miss(
    any_world: World, damage: bytes | Callable[[bytes], bytes]
) -> None:
    process = any_world.process()
    process.update("q", "A")
    good = any_world.server.data[process.key("q")][b"r"]
    bad = damage(good) if callable(damage) else damage
    any_world.server.execute([("HSET", process.key("q"), "r", bad)])
    assert process.lookup("q") == ("A" if process.durable else None)
    assert sum(process.cache.stats().unreadable.values()) == 1
    process.update("q", "B")
    assert process.lookup("q") == "B"


def test_a_refused_answer_is_counted_and_frees_the_waiters_of_every_process(world: World) -> None:
    one, two = world.process(), world.process()
    assert one.lookup("q") is None
    one.cache.refuse(request_of("q"), "truncated")
    waits: list[Wait] = []
    two.on_wait = waits.append
    assert two.lookup("q") is None
    assert waits == []
    assert one.cache.stats().skipped == {"truncated": 1}
    one.cache.refuse(None, "no_model")
    assert one.cache.stats().skipped == {"truncated": 1, "no_model": 1}


# Single flight.


def test_a_waiter_gets_the_answer_of_another_process(any_world: World) -> None:
    one, two = any_world.process(), any_world.process()
    assert one.lookup("q") is None
    two.on_wait = lambda _: one.update("q", "A")
    assert two.lookup("q") == "A"


def test_a_dead_leader_is_replaced_when_its_lease_ends(any_world: World) -> None:
    one, two = any_world.process(), any_world.process()
    assert one.lookup("q") is None
    began = any_world.clock()
    assert two.lookup("q") is None
    assert 2.5 <= any_world.clock() - began <= 4
    two.update("q", "A")
    assert two.lookup("q") == "A"


def test_a_living_leader_keeps_its_lease_and_waiting_is_bounded(world: World) -> None:
    one, two = world.process(single_flight=10.0), world.process(single_flight=10.0)
    assert one.lookup("q") is None

    def renew(_: Wait) -> None:
        one.housekeeper.run()

    two.on_wait = renew
    began = world.clock()
    assert two.lookup("q") is None
    assert 10 <= world.clock() - began <= 10.5
    assert two.cache._tally.counts() == {"miss.waited": 1}


def test_the_same_caller_never_waits_for_itself(any_world: World) -> None:
    process = any_world.process()
    assert process.lookup("q") is None
    began = any_world.clock()
    assert process.lookup("q") is None
    assert any_world.clock() == began


def test_without_single_flight_nobody_waits_and_no_lease_is_written(world: World) -> None:
    one, two = world.process(single_flight=0), world.process(single_flight=0)
    assert one.lookup("q") is None
    assert two.lookup("q") is None
    assert not any(key.startswith(b"sim!:") for key in world.server.data)


# Forgetting.


def test_delete_by_tag(any_world: World) -> None:
    one, two = any_world.process(), any_world.process()
    for number in range(7):
        with cache_control(tags=["even" if number % 2 == 0 else "odd", "all"]):
            one.update(f"q{number}", "A")
    assert two.cache.delete_tag("even") == 4
    assert [one.lookup(f"q{number}") for number in range(7)] == [None, "A"] * 3 + [None]
    assert two.cache.delete_tag("even") == 0
    assert two.cache.delete_tag("never used") == 0


def test_a_deleted_answer_is_not_brought_back_by_a_reader_who_fetched_it_before(
    world: World,
) -> None:
    one, two = world.process(), world.process()
    one.update("q", "A")
    one.lookup("warm up")
    world.server.flush()
    two.lookup("warm up")
    for steps in range(8):
        reader = Running(two, two.cache.look_up(fingerprint(request_of("q")), FREE))
        for _ in range(steps):
            reader.advance()
        one.delete("q")
        assert reader.finish() in (None, (b"A", "durable", 0.0, None), (b"A", "redis", 0.0, None))
        assert one.lookup("q") is None
        assert two.lookup("q") is None
        one.update("q", "A")
        world.server.flush()
        two.cache._flights.land(fingerprint(request_of("q")).digest, None)


def test_clear_reclaims_what_it_made_unreachable(any_world: World) -> None:
    process = any_world.process()
    for number in range(20):
        process.update(f"q{number}", "A")
    keys = [process.key(f"q{number}") for number in range(20)]
    assert all(key in any_world.server.data for key in keys)
    process.cache.clear()
    process.update("another", "B")
    process.housekeeper.run()
    assert not any(key in any_world.server.data for key in keys)
    assert process.lookup("another") == "B"
    assert all(process.lookup(f"q{number}") is None for number in range(20))


def test_clear_with_redis_away_is_told_and_holds_once_redis_is_back(world: World) -> None:
    one, two = world.process(), world.process()
    one.update("q", "A")
    one.cut()
    with pytest.raises(TierError):
        one.cache.clear()
    assert one.lookup("q") is None
    back(one)
    assert one.lookup("q") is None
    assert two.lookup("q") is None


@pytest.mark.parametrize("by_tag", [False, True])
def test_delete_with_redis_away_is_told_and_holds_once_redis_is_back(
    world: World, by_tag: bool
) -> None:
    one, two = world.process(), world.process()
    with cache_control(tags=["t"]):
        one.update("q", "A")
    assert two.lookup("q") == "A"
    one.cut()
    with pytest.raises(TierError):
        one.cache.delete_tag("t") if by_tag else one.delete("q")
    assert one.lookup("q") is None
    back(one)
    assert one.lookup("q") is None
    assert two.lookup("q") is None


def test_clear_with_the_database_away_changes_nothing(world: World) -> None:
    process = world.process()
    process.update("q", "A")
    world.database_away = True
    with pytest.raises(TierError):
        process.cache.clear()
    assert process.lookup("q") == "A"


# Epochs.


def test_a_write_that_redis_missed_is_seen_once_redis_is_back(world: World) -> None:
    one, two = world.process(), world.process()
    one.update("q", "A")
    assert two.lookup("q") == "A"
    one.cut()
    one.update("q", "B")
    assert one.lookup("q") == "B"
    back(one)
    assert one.lookup("q") == "B"
    assert two.lookup("q") == "B"


def test_an_answer_that_only_redis_had_does_not_outlive_a_write_that_redis_missed(
    world: World,
) -> None:
    process = world.process()
    world.database_away = True
    process.update("q", "A")
    world.database_away = False
    world.clock.advance(1)
    process.cut()
    process.update("q", "B")
    process.update("q", "B")
    back(process)
    assert process.lookup("q") == "B"


def test_out_of_memory_neither_hides_answers_nor_keeps_old_ones(world: World) -> None:
    one, two = world.process(), world.process()
    one.update("q", "A")
    two.lookup("q")
    world.server.full = True
    one.update("q", "B")
    assert one.lookup("q") == two.lookup("q") == "B"
    one.update("new", "C")
    assert one.lookup("new") == two.lookup("new") == "C"
    one.delete("q")
    assert one.lookup("q") is None
    assert two.lookup("q") is None
    one.cache.clear()
    assert two.lookup("new") is None


def test_out_of_memory_without_an_epoch_ends_every_operation(world: World) -> None:
    process = world.process()
    world.server.full = True
    for _ in range(3):
        process.steps = 0
        process.update("q", "A")
        assert process.lookup("q") == "A"
        assert process.steps < 25


def test_a_late_epoch_does_not_undo_a_clear(world: World) -> None:
    """Every interleaving of a process that restores a lost epoch with another that clears twice."""
    for schedule in _schedules(5, 5):
        with World() as fresh:
            one, two = fresh.process(), fresh.process()
            one.update("q", "A")
            fresh.server.flush()
            reader = Running(two, two.cache._epoch.establish())
            clears = [one.cache.clear_all, one.cache.clear_all]
            writer = Running(one, clears.pop()())
            for turn in schedule:
                (reader, writer)[turn].advance()
                if writer.done and clears:
                    one.update("q", "B")
                    writer = Running(one, clears.pop()())
            reader.finish()
            writer.finish()
            while clears:
                Running(one, clears.pop()()).finish()
            assert two.lookup("q") is None, schedule
            assert one.lookup("q") is None, schedule


def _schedules(first: int, second: int) -> Iterator[tuple[int, ...]]:
    """All orders of `first` turns of the one and `second` turns of the other."""
    turns = first + second
    for places in itertools.combinations(range(turns), first):
        yield tuple(0 if place in places else 1 for place in range(turns))


# Two operations at the same time, in every order of their steps.


def _look_up(process: Process) -> Running:
    return Running(process, process.cache.look_up(fingerprint(request_of("q")), FREE))


def _store(process: Process, answer: bytes) -> Running:
    request = request_of("q")
    return Running(process, process.cache.store(request, fingerprint(request), answer, 0, FREE))


def _update(process: Process) -> Running:
    # Briefer than the answer it replaces, so that nothing takes it for the earlier of the two.
    request = request_of("q")
    control = Control(ttl=60.0)
    return Running(process, process.cache.store(request, fingerprint(request), b"B", 0, control))


def _bury(process: Process) -> Running:
    return Running(process, process.cache.bury((fingerprint(request_of("q")).digest,)))


def _clear(process: Process) -> Running:
    return Running(process, process.cache.clear_all())


@pytest.mark.parametrize("same", [True, False], ids=["one process", "two processes"])
@pytest.mark.parametrize("held", ["redis", "durable", "sliding"])
@pytest.mark.parametrize("change", ["update", "delete", "clear"])
def test_no_reader_brings_an_old_answer_back(change: str, held: str, same: bool) -> None:
    for schedule in _schedules(4, 5):
        with World(sliding=held == "sliding", ttl=100.0) as world:
            one = world.process()
            two = one if same else world.process()
            one.update("q", "A")
            two.lookup("warm up")
            one.lookup("warm up")
            if held == "durable":
                world.server.execute([("DEL", one.key("q"))])
            world.clock.advance(50)
            for process in (one, two):
                process.lookup("still warm")
            reader = _look_up(two)
            begin = {"update": _update, "delete": _bury, "clear": _clear}[change]
            writer = begin(one)
            # The server's messages to L1 are late; the caller of a write reads it nonetheless.
            world.server.delayed = same
            for turn in schedule:
                (reader, writer)[turn].advance()
            writer.finish()
            after = one.lookup("q") if reader.done else None
            reader.finish()
            world.server.delayed = False
            world.server.deliver()
            expected = "B" if change == "update" else None
            assert not reader.done or after in (expected, None), schedule
            for process in (one, two):
                process.cache._flights.land(fingerprint(request_of("q")).digest, None)
                assert process.lookup("q") == expected, schedule
            world.server.flush()
            assert two.lookup("q") == expected, schedule


@pytest.mark.parametrize("change", ["delete", "clear"])
def test_an_update_at_the_same_time_as_a_clear_leaves_no_tier_alone_with_the_old_answer(
    change: str,
) -> None:
    for schedule in _schedules(3, 5):
        with World() as world:
            one, two = world.process(), world.process()
            one.update("q", "A")
            one.lookup("q")
            two.lookup("q")
            writer = _store(one, b"B")
            other = _bury(two) if change == "delete" else _clear(two)
            for turn in schedule:
                (writer, other)[turn].advance()
            writer.finish()
            other.finish()
            assert one.lookup("q") in ("B", None), schedule
            assert two.lookup("q") in ("B", None), schedule


@pytest.mark.parametrize("change", ["update", "delete"])
def test_writers_at_the_same_time_leave_the_tiers_agreed(change: str) -> None:
    for schedule in _schedules(3, 5):
        with World() as world:
            one, two = world.process(), world.process()
            one.update("q", "A")
            one.lookup("q")
            two.lookup("q")
            writer = _store(one, b"B")
            other = _bury(two) if change == "delete" else _store(two, b"C")
            for turn in schedule:
                (writer, other)[turn].advance()
            writer.finish()
            other.finish()
            before = one.lookup("q")
            world.server.flush()
            assert one.lookup("q") == before, schedule


# The model: which answers may be found.


class Model:
    """What a lookup of each process may return; `None` stands for no answer.

    An operation that was acknowledged replaces what was possible; one that was not (an exception,
    a crash, a write that the durable tier did not confirm) adds to it. While a process is cut off
    from Redis alone, the others may go on finding what it replaced, until it is back.
    """

    def __init__(self) -> None:
        self.truth: dict[str, set[str | None]] = {}
        self.stale: dict[Process, dict[str, set[str | None]]] = {}

    def of(self, process: Process, name: str) -> set[str | None]:
        truth = self.truth.setdefault(name, {None})
        return truth | self.stale.get(process, {}).get(name, set())

    def happened(self, process: Process, name: str, now: str | None, *, acknowledged: bool) -> None:
        before = self.truth.setdefault(name, {None})
        for other in self.stale:
            if other is not process and not process.connected and other.connected:
                self.stale[other].setdefault(name, set()).update(before)
        self.truth[name] = {now} if acknowledged else before | {now}
        if acknowledged and process in self.stale and not process.connected:
            self.stale[process].pop(name, None)

    def agreed(self, process: Process) -> None:
        """A process has compared Redis with the durable tier."""
        self.stale.get(process, {}).clear()


# One operation of a scenario: process, what, name, answer.
Operation = tuple[int, str, str, str]


class Story:
    """Runs operations, checks each result against the model, keeps count of steps for faults."""

    def __init__(self, world: World, processes: int = 2) -> None:
        self.world = world
        self.model = Model()
        self.processes = [world.process() for _ in range(processes)]
        for process in self.processes:
            self.model.stale[process] = {}

    def perform(self, operation: Operation, fault: Fault | None = None) -> None:
        which, what, name, answer = operation
        process = self.processes[which]
        self.world.clock.advance(0.01)
        with self.world.fault(process, fault):
            try:
                getattr(self, what)(process, name, answer)
            except Crash:
                self.restart(which)
        if fault is not None:
            # Until it is back, a process that was refused is as good as cut off.
            self.processes[which].recover()

    def restart(self, which: int) -> None:
        gone = self.processes[which]
        self.world.server.disconnect(gone.memory)
        new = self.processes[which] = self.world.process()
        if not gone.connected:
            new.cut()
        # What it had not yet told Redis, nobody will.
        self.model.stale[new] = self.model.stale.pop(gone)

    def update(self, process: Process, name: str, answer: str) -> None:
        acknowledged = False
        try:
            process.update(name, answer)
            acknowledged = Sql not in process.failed
        finally:
            self.model.happened(process, name, answer, acknowledged=acknowledged)

    def lookup(self, process: Process, name: str, answer: str) -> None:
        possible = self.model.of(process, name)
        found = process.lookup(name)
        if found is None and process.failed:
            return
        assert found in possible, f"found {found!r} of {name!r}, possible: {possible}"

    def delete(self, process: Process, name: str, answer: str) -> None:
        self._forget(process, [name], lambda: process.delete(name))

    def alike(self, process: Process, name: str, answer: str) -> None:
        """Look it up as it is spelled otherwise: what is found is an alias."""
        possible = self.model.of(process, name)
        found = process.lookup(name + "?")
        if found is None and process.failed:
            return
        assert found in possible, f"found {found!r} of {name + '?'!r}, possible: {possible}"

    def unsay(self, process: Process, name: str, answer: str) -> None:
        """Delete it as it is spelled otherwise."""
        self._forget(process, [name], lambda: process.delete(name + "?"))

    def clear(self, process: Process, name: str, answer: str) -> None:
        self._forget(process, list(self.model.truth), process.cache.clear)

    def _forget(self, process: Process, names: list[str], action: Callable[[], None]) -> None:
        acknowledged = False
        try:
            action()
            acknowledged = True
        except TierError:
            pass
        finally:
            for name in names:
                self.model.happened(process, name, None, acknowledged=acknowledged)

    def cut(self, process: Process, name: str, answer: str) -> None:
        process.cut()

    def back(self, process: Process, name: str, answer: str) -> None:
        was_cut = not process.connected
        process.reconnect()
        process.recover()
        if was_cut:
            self.model.agreed(process)
        if all(other.connected for other in self.processes):
            for other in self.processes:
                self.model.agreed(other)

    def flush(self, process: Process, name: str, answer: str) -> None:
        self.world.server.flush()

    def tidy(self, process: Process, name: str, answer: str) -> None:
        process.housekeeper.run()

    def check(self) -> None:
        """With everything back, all processes find what the model says; also without Redis."""
        for which in range(len(self.processes)):
            self.perform((which, "back", "", ""))
        for _ in range(2):
            for name in list(self.model.truth):
                for process in self.processes:
                    process.cache._flights.reset_after_fork()
                    process.failed.clear()
                    self.lookup(process, name, "")
                    if process.cache._semantic is not None:
                        self.alike(process, name, "")
            self.world.clock.advance(4)  # leases of the dead end
            self.world.server.flush()


def _ops(text: str) -> list[Operation]:
    """`"0 update q A; 1 lookup q"`"""
    operations = []
    for line in text.split(";"):
        which, what, *rest = line.split()
        name, answer = (*rest, "", "")[:2]
        operations.append((int(which), what, name, answer))
    return operations


SCENARIOS = {
    "replace": "0 update q A; 0 lookup q; 1 update q B; 0 lookup q; 1 lookup q",
    "delete": "0 update q A; 1 lookup q; 1 delete q; 0 lookup q; 1 lookup q",
    "delete and store": "0 update q A; 0 delete q; 1 lookup q; 1 update q B; 0 lookup q",
    "clear": "0 update q A; 0 update r A; 1 lookup q; 1 clear; 0 lookup q; 0 update q B; 1 lookup q",
    "flush": "0 update q A; 1 lookup q; 0 flush; 1 lookup q; 0 lookup q; 1 update q B; 0 lookup q",
    "outage": "0 update q A; 0 cut; 0 update q B; 0 lookup q; 0 back; 0 lookup q; 1 lookup q",
    "outage of all": "0 update q A; 1 lookup q; 0 cut; 1 cut; 1 update q B; 0 lookup q; 0 back; "
    "0 lookup q; 1 back; 1 lookup q; 0 lookup q",
    "outage and clear": "0 update q A; 1 lookup q; 0 cut; 1 cut; 0 clear; 1 back; 1 lookup q; "
    "1 update q B; 0 back; 0 lookup q",
    "outage and delete": "0 update q A; 1 lookup q; 0 cut; 0 delete q; 0 update q B; 0 delete q; "
    "0 back; 0 lookup q; 1 lookup q",
    "two outages": "0 update q A; 0 cut; 0 update q B; 0 back; 1 lookup q; 0 cut; 0 update q C; "
    "0 back; 1 lookup q; 0 lookup q",
}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        pytest.param(text, kind, id=f"{name}-{kind}")
        for name, text in SCENARIOS.items()
        for kind in Fault.KINDS
        if kind != "reset" or name in ("replace", "clear", "outage")
    ],
)
def test_a_fault_at_any_step_of_a_scenario_breaks_no_promise(text: str, kind: str) -> None:
    _check_with_faults(text, kind)


def _check_with_faults(text: str, kind: str, **options: object) -> None:
    operations = _ops(text)
    faults = 0
    for number in range(len(operations)):
        for at in range(40):
            with World(**options) as world:
                story = Story(world)
                reached = False
                for index, operation in enumerate(operations):
                    story.perform(operation, Fault(at, kind) if index == number else None)
                    if index == number:
                        reached = story.processes[operation[0]].steps > at or (
                            story.processes[operation[0]].steps == 0 and kind.startswith("crash")
                        )
                story.check()
            if not reached:
                break
            faults += 1
    assert faults > 3


@pytest.mark.parametrize("text", SCENARIOS.values(), ids=SCENARIOS)
def test_scenarios_without_faults(text: str) -> None:
    with World() as world:
        story = Story(world)
        for operation in _ops(text):
            story.perform(operation)
        story.check()


def nothing_by_meaning(asked: Asked) -> Verdict:
    return Verdict(False, "spelling only", None)


# Aliases by spelling alone: they need no vectors, and are aliases like all others.
SPELLING = SemanticPolicy(Toy(), rules=nothing_by_meaning)

SPELLED_OTHERWISE = {
    "replace": "0 update q A; 1 alike q; 1 alike q; 0 update q B; 1 alike q; 1 lookup q",
    "delete": "0 update q A; 1 alike q; 0 delete q; 1 alike q; 0 alike q",
    "unsay": "0 update q A; 1 alike q; 0 unsay q; 1 alike q; 1 lookup q; 0 lookup q",
    "unsay what nobody asked": "0 update q A; 1 lookup q; 0 unsay q; 1 lookup q",
    "clear": "0 update q A; 1 alike q; 0 clear; 1 alike q; 0 update q B; 1 alike q",
    "flush": "0 update q A; 1 alike q; 0 flush; 1 alike q; 0 unsay q; 1 lookup q; 1 alike q",
    "outage": "0 update q A; 1 alike q; 0 cut; 0 update q B; 0 alike q; 0 back; 1 alike q",
    "outage and unsay": "0 update q A; 1 alike q; 0 cut; 0 unsay q; 0 back; 1 alike q; 0 alike q",
}


@pytest.mark.parametrize("kind", ["before", "after", "crash"])
@pytest.mark.parametrize("text", SPELLED_OTHERWISE.values(), ids=SPELLED_OTHERWISE)
def test_a_fault_at_any_step_breaks_no_promise_of_aliases(text: str, kind: str) -> None:
    _check_with_faults(text, kind, semantic=SPELLING)


@pytest.mark.parametrize("topology", ["single", "cluster"])
@pytest.mark.parametrize("text", SPELLED_OTHERWISE.values(), ids=SPELLED_OTHERWISE)
def test_aliases_without_faults(text: str, topology: str) -> None:
    with World(semantic=SPELLING, topology=topology) as world:
        story = Story(world)
        for operation in _ops(text):
            story.perform(operation)
        story.check()


# Aliases.


@pytest.fixture(params=["single", "cluster"])
def spelled(request: pytest.FixtureRequest, any_world: World) -> Callable[..., Process]:
    """Makes processes that answer other spellings, too."""
    return functools.partial(any_world.process, semantic=SPELLING, topology=request.param)


def test_an_alias_costs_one_round_trip_and_then_none(
    any_world: World, spelled: Callable[..., Process]
) -> None:
    one, two = spelled(), spelled()
    one.update("q", "A")
    assert two.lookup("q?") == "A"
    for process, steps in ((one, 1), (two, 1), (one, 0), (two, 0)):
        process.steps = 0
        found = process.cache.lookup(request_of("q?"))
        assert found is not None
        assert found.payload == b"A"
        assert found.served is not None
        assert found.served.entry == fingerprint(request_of("q")).digest
        # A cluster needs one more for the entry, if that is not in memory.
        assert process.steps <= steps + (process.topology == "cluster" and steps)


def test_an_alias_shows_what_its_entry_holds_now(
    any_world: World, spelled: Callable[..., Process]
) -> None:
    one, two = spelled(), spelled()
    one.update("q", "A")
    assert two.lookup("q?") == two.lookup("q?") == "A"
    one.update("q", "B")
    assert two.lookup("q?") == "B"
    one.delete("q")
    assert two.lookup("q?") is None
    assert one.lookup("q?") is None


def test_an_alias_never_outlives_its_entry(
    any_world: World, spelled: Callable[..., Process]
) -> None:
    one, two = spelled(ttl=100.0), spelled(ttl=100.0)
    one.update("q", "A")
    any_world.clock.advance(60)
    assert two.lookup("q?") == "A"
    assert any_world.server.ttl(two.key("q?")) == 40.0
    any_world.clock.advance(41)
    assert two.lookup("q?") is None
    with cache_control(ttl=10):
        one.update("q", "B")
    assert two.lookup("q?") == "B"
    any_world.clock.advance(11)
    assert two.lookup("q?") is None


def test_an_entry_that_slides_slides_by_its_alias_too(spelled: Callable[..., Process]) -> None:
    one = spelled(ttl=100.0, sliding=True)
    one.update("q", "A")
    assert one.lookup("q?") == "A"
    for _ in range(5):
        one.world.clock.advance(70)
        one.memory.empty()
        assert one.lookup("q?") == "A"


def test_whoever_asks_by_an_alias_never_renews_early(spelled: Callable[..., Process]) -> None:
    one, two = spelled(ttl=100.0, early=0.2), spelled(ttl=100.0, early=0.2)
    one.update("q", "A")
    assert two.lookup("q?") == "A"
    one.world.clock.advance(90)
    assert two.lookup("q?") == one.lookup("q?") == "A"
    assert one.lookup("q") is None
    one.update("q", "B")
    assert two.lookup("q?") == "B"


@pytest.mark.parametrize("other", [{"semantic": None}, {}], ids=["no policy", "opted out"])
def test_who_wants_no_other_words_is_served_none(
    spelled: Callable[..., Process], other: dict[str, None]
) -> None:
    one, two = spelled(), spelled(**other)
    one.update("q", "A")
    assert one.lookup("q?") == one.lookup("q?") == "A"
    with cache_control(semantic=None if other else False):
        assert two.lookup("q?") is None
        two.update("q?", "B")
        assert two.lookup("q?") == "B"
    assert one.lookup("q?") == "B"
    assert one.lookup("q") == "A"


def test_an_alias_takes_no_answer_s_place(spelled: Callable[..., Process]) -> None:
    """One is about to write an alias, another stores an answer under its key meanwhile."""
    for turns in range(8):
        one, two = spelled(single_flight=0), spelled(single_flight=0)
        one.cache.clear()
        one.update("q", "A")
        mark = fingerprint(request_of("q?"))
        quest = one.cache._quest(request_of("q?"), mark, FREE)
        reader = Running(one, one.cache.look_up(mark, FREE, None, quest))
        for _ in range(turns):
            reader.advance()
        two.update("q?", "B")
        assert reader.finish().payload in (b"A", b"B")
        for process in (one, two):
            assert process.lookup("q?") == "B", turns
        one.world.server.disconnect(one.memory)
        one.world.server.disconnect(two.memory)


def test_what_was_wrong_for_some_words_is_not_served_to_them_again(
    any_world: World, spelled: Callable[..., Process]
) -> None:
    one, two = spelled(), spelled()
    one.update("q", "A")
    found = two.cache.lookup(request_of("q?"))
    assert found is not None
    assert found.served is not None
    two.cache.feedback(found.served, correct=False)
    for process in (one, two, one, two):
        assert process.lookup("q?") is None
        assert process.lookup("q") == "A"
    if any_world.engine is not None:
        any_world.server.flush()
        assert one.lookup("q?") is None
    two.update("q?", "B")
    assert one.lookup("q?") == "B"
    assert one.lookup("q") in ("A", "B")  # if Redis lost it, the latest of its spelling


def test_of_many_who_ask_by_an_alias_to_nothing_one_leads(spelled: Callable[..., Process]) -> None:
    one, two = spelled(), spelled()
    one.update("q", "A")
    assert one.lookup("q?") == "A"
    one.delete("q")
    assert one.lookup("q?") is None
    waits: list[Wait] = []

    def arrives(wait: Wait) -> None:
        waits.append(wait)
        one.update("q?", "B")

    two.on_wait = arrives
    assert two.lookup("q?") == "B"
    assert len(waits) == 1


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x01", b"garbage", b"\x01\x02" + bytes(40), lambda data: data[:-1]],
    ids=["empty", "a byte", "foreign", "a foreign alias", "cut"],
)
@pytest.mark.parametrize("which", ["q", "q?"])
def test_what_cannot_be_read_behind_an_alias_is_a_counted_miss(
    spelled: Callable[..., Process], which: str, damage: bytes | Callable[[bytes], bytes]
) -> None:
    one = spelled()
    one.update("q", "A")
    assert one.lookup("q?") == "A"
    held = one.world.server.data[one.key(which)][b"r"]
    bad = damage(held) if callable(damage) else damage
    one.world.server.execute([("HSET", one.key(which), "r", bad)])
    assert one.lookup("q?") == ("A" if one.durable or which == "q?" else None)
    assert sum(one.cache.stats().unreadable.values()) == 1
    one.update("q", "B")
    assert one.lookup("q?") == "B"


def test_a_waiter_is_told_that_the_answer_is_to_other_words(world: World) -> None:
    one = world.process(semantic=SPELLING)
    mark = fingerprint(request_of("q?"))
    flight = one.cache._flights.lead(mark.digest, FOREIGN, "token", b"lease")

    def land(_: Wait) -> None:
        envelope = Envelope(b"A", 0, 0, 0)
        flight.served = Served(mark.digest, "entry")
        one.cache._flights.land(mark.digest, seal(envelope, compress_from=None), flight=flight)

    world.server.execute([("SET", one.cache._keys.lease(one.key("q?")), "token")]) if (
        one.lookup("warm") is None
    ) else None
    one.on_wait = land
    found = one.cache.lookup(request_of("q?"))
    assert found is not None
    assert (found.payload, found.tier, found.served) == (
        b"A",
        "flight",
        Served(mark.digest, "entry"),
    )


def test_a_lookup_that_is_given_up_gives_its_lease_back(world: World) -> None:
    one, two = world.process(semantic=SPELLING), world.process(semantic=SPELLING)
    one.lookup("warm")
    mark = fingerprint(request_of("q"))
    flow = one.cache.look_up(mark, FREE, None, one.cache._quest(request_of("q"), mark, FREE))
    running = Running(one, flow)
    running.advance()  # the lease is taken; L3 is about to be asked
    lease = one.cache._keys.lease(one.key("q"))
    assert lease in world.server.data
    flow.close()
    one.housekeeper.run(within=0.0)
    assert lease not in world.server.data
    began = world.clock()
    assert two.lookup("q") is None
    assert world.clock() == began


NAMES = st.sampled_from(["q", "q", "r"])
WHICH = st.sampled_from([0, 1])
FAULTS = st.none() | st.builds(
    Fault, st.integers(0, 6), st.sampled_from(Fault.KINDS), st.sampled_from([None, Redis])
)


class TwoProcesses(RuleBasedStateMachine):
    """No lookup finds what was replaced, deleted or cleared before it began; none loses an answer."""

    options: ClassVar[dict[str, object]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.world = World(**self.options)
        self.world.__enter__()
        self.story = Story(self.world)
        self.answers = itertools.count()

    def teardown(self) -> None:
        try:
            self.story.check()
        finally:
            self.world.__exit__(None, None, None)

    def answer(self) -> str:
        return f"A{next(self.answers)}"

    @rule(which=WHICH, name=NAMES, fault=FAULTS)
    def update(self, which: int, name: str, fault: Fault | None) -> None:
        self.story.perform((which, "update", name, self.answer()), fault)

    @rule(which=WHICH, name=NAMES)
    def replace(self, which: int, name: str) -> None:
        self.story.perform((1 - which, "update", name, self.answer()))
        self.story.perform((which, "lookup", name, ""))
        self.story.perform((which, "update", name, self.answer()))

    @rule(which=WHICH, name=NAMES, fault=FAULTS)
    def lookup(self, which: int, name: str, fault: Fault | None) -> None:
        self.story.perform((which, "lookup", name, ""), fault)

    @rule()
    def look_around(self) -> None:
        for which, name in itertools.product((0, 1), ("q", "r")):
            self.story.perform((which, "lookup", name, ""))

    @rule(
        which=WHICH,
        name=NAMES,
        what=st.sampled_from(["delete", "delete", "clear"]),
        fault=FAULTS,
    )
    def forget(self, which: int, name: str, what: str, fault: Fault | None) -> None:
        self.story.perform((which, what, name, ""), fault)

    @rule(
        which=WHICH,
        name=NAMES,
        what=st.sampled_from(["update", "update", "delete", "clear"]),
        returns=st.booleans(),
    )
    def change_what_redis_misses(self, which: int, name: str, what: str, returns: bool) -> None:
        self.story.perform((which, "cut", "", ""))
        self.story.perform((which, what, name, self.answer()))
        if returns:
            self.story.perform((which, "back", "", ""))

    @rule(which=WHICH)
    @precondition(lambda self: not all(one.connected for one in self.story.processes))
    def back(self, which: int) -> None:
        self.story.perform((which, "back", "", ""))

    @rule(full=st.booleans())
    @precondition(lambda self: self.world.server.data)
    def flush_or_fill(self, full: bool) -> None:
        if full:
            self.world.server.full = not self.world.server.full
        else:
            self.story.perform((0, "flush", "", ""))

    @rule(which=WHICH, seconds=st.sampled_from([0.05, 1.0, 5.0, 30.0, 70.0]))
    def wait(self, which: int, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.story.perform((which, "tidy", "", ""))

    @invariant()
    def redis_keys_expire(self) -> None:
        for key in self.world.server.data:
            lasting = key.endswith((b":epoch", b":stats"))
            assert lasting or self.world.server.ttl(key) is not None, key


class TwoProcessesSliding(TwoProcesses):
    options: ClassVar[dict[str, object]] = {"sliding": True, "ttl": 100_000.0, "early": 0.0}


class TwoProcessesWithAliases(TwoProcesses):
    options: ClassVar[dict[str, object]] = {"semantic": SPELLING}

    @rule(which=WHICH, name=NAMES, fault=FAULTS)
    def alike(self, which: int, name: str, fault: Fault | None) -> None:
        self.story.perform((which, "alike", name, ""), fault)

    @rule(which=WHICH, name=NAMES, fault=FAULTS)
    def unsay(self, which: int, name: str, fault: Fault | None) -> None:
        self.story.perform((which, "unsay", name, ""), fault)


@pytest.mark.parametrize("machine", [TwoProcesses, TwoProcessesSliding, TwoProcessesWithAliases])
def test_two_processes(machine: type[TwoProcesses]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Clocks that disagree.


def test_a_clock_that_is_behind_does_not_undo_a_write(any_world: World) -> None:
    ahead, behind = any_world.process(ahead=30.0), any_world.process(ahead=-30.0)
    ahead.update("q", "A")
    behind.update("q", "B")
    for process in (ahead, behind):
        assert process.lookup("q") == "B"
    ahead.delete("q")
    behind.update("q", "C")
    for process in (ahead, behind):
        assert process.lookup("q") == "C"


def test_a_clock_that_is_ahead_does_not_keep_what_only_redis_took(world: World) -> None:
    ahead, behind = world.process(ahead=30.0), world.process(ahead=-30.0)
    world.database_away = True
    ahead.update("q", "A")
    world.database_away = False
    world.clock.advance(1)
    behind.update("q", "B")
    assert behind.lookup("q") == "B"
    assert ahead.lookup("q") == "B"


# Servers that are not to be believed.


def test_a_server_that_forgot_its_last_writes_is_not_believed(world: World) -> None:
    one = world.process()
    one.update("q", "A")
    before = world.server.snapshot()
    one.update("q", "B")
    one.cut()
    one.lookup("q")
    world.server.restore(before)
    back(one)
    assert one.lookup("q") == "B"


def test_redis_is_not_believed_unconfirmed_after_it_missed_a_write(world: World) -> None:
    process = world.process()
    process.update("q", "A")
    process.cut()
    process.update("q", "B")
    world.database_away = True
    back(process)
    assert process.lookup("q") in ("B", None)


def test_sealed_bytes_of_the_test_are_those_of_the_cache(world: World) -> None:
    process = world.process(ttl=None)
    process.update("q", "A")
    stored = world.server.data[process.key("q")][b"r"]
    created = int(world.clock() * 1000)
    assert stored == seal(Envelope(b"A", created, 0, 0), compress_from=None)
    assert Server(world.clock).data == {}
