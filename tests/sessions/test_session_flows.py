"""The sessions' promises, by stepping flows: each step made to fail, two flows in all orders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_tiered.errors import TierError
from redis_tiered.flow import Redis, Sleep, Sql
from redis_tiered.sessions import durable_log
from redis_tiered.sessions.trust import LEASE
from tests.servers import RedisServer
from tests.sessions.simulation import KINDS, PROMOTED, Fault, Operation, Process, World, shown

CHANGES: dict[str, dict[str, Any]] = {
    "append": {},
    "append two": {"n": 2},
    "edit": {"id": "m1"},
    "delete": {"id": "m1"},
    "take": {"n": 2},
    "archive": {"n": 2, "archive": True},
    "pop": {"index": -1},
    "replace": {"n": 2},
    "clear": {},
    "close": {},
    "update": {},
    "forget": {},
    "summarize": {"since": 0},
    "recount": {},
}


@pytest.fixture
def world(valkey: RedisServer) -> Iterator[World]:
    with World(valkey.url) as world:
        yield world


def begin(process: Process, change: str) -> Operation:
    about = dict(CHANGES.get(change, {}))
    return process.start({"append two": "append", "archive": "take"}.get(change, change), **about)


def read(process: Process, **about: Any) -> list[str]:
    return [id_ for id_, _ in shown(process.do("read", **about))]


def tier(process: Process) -> str:
    return str(process.do("read").tier)


def until(operation: Operation, step: type) -> Operation:
    """Let it ask for a step of a kind, but not have it performed."""
    while not isinstance(operation.step, step):
        assert not operation.done
        operation.advance()
    return operation


# Without faults.


def test_a_window_is_filled_by_a_reader_and_kept_up_by_appends(world: World) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    assert tier(two) == "durable"
    assert tier(one) == tier(two) == "redis"
    two.do("append", n=3)
    assert read(one) == ["m0", "m1", "m2", "m3"]
    assert tier(one) == "redis"


def test_steps_of_a_read_and_of_an_append(world: World) -> None:
    process = world.process()
    process.do("append")
    process.do("read")
    reading = process.start("read")
    reading.finish()
    appending = process.start("append")
    appending.finish()
    assert (reading.steps, appending.steps) == (1, 2)
    world.clock.advance(LEASE + 0.01)
    reading = process.start("read")
    reading.finish()
    assert reading.steps == 2


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_read_at_once(world: World, change: str) -> None:
    one, two = world.process(), world.process()
    one.do("append", n=4)
    two.do("read")
    begin(one, change).finish()
    two.do("read")  # compared with the truth by the world
    one.do("read")
    world.settle()


# One fault at each step.

SCENARIOS = {
    "append": "0 append; 1 read; 1 append; 0 read; 0 append; 1 read",
    "append two": "0 append; 0 read; 1 append two; 0 read; 1 read",
    "edit": "0 append two; 1 read; 1 edit; 0 read; 1 append; 0 read",
    "delete": "0 append two; 1 read; 0 delete; 1 read; 0 append; 1 read",
    "take": "0 append two; 0 append; 1 read; 0 take; 1 read; 1 take; 0 read",
    "archive": "0 append two; 0 append; 1 read; 0 archive; 1 read; 1 append; 0 read",
    "pop": "0 append two; 1 read; 0 pop; 1 read; 1 pop; 0 read",
    "replace": "0 append two; 1 read; 0 replace; 1 read; 1 append; 0 read",
    "clear": "0 append two; 1 read; 0 clear; 1 read; 1 append; 0 read; 1 clear; 0 read",
    "close": "0 append two; 1 read; 0 close; 1 read; 1 append; 0 read",
    "update": "0 append two; 1 read; 0 update; 1 read; 1 summarize; 0 read; 1 recount; 0 read",
    "outage": "0 append; 1 read; 0 away; 0 append; 1 read; 0 read; 0 back; 1 read; 0 append; 1 read",
    "outage of all": "0 append; 1 read; 0 away; 1 away; 0 append; 1 append; 1 read; 1 back; 1 read; "
    "0 append; 1 read; 0 back; 0 read; 0 append; 1 read; 0 read",
    "restart": "0 append; 1 read; 0 save; 0 append; 1 restart; 1 read; 0 append; 1 read; 0 read",
    "restart twice": "0 append; 1 read; 0 save; 1 append; 0 restart; 0 append; 0 restart; 1 read; 0 read",
    "flush": "0 append; 1 read; 0 flush; 0 append; 1 read; 1 flush; 1 append; 0 read; 1 read",
    "out of memory": "0 append; 1 read; 0 full; 0 append; 1 read; 1 append; 0 room; 0 read; 1 append; 0 read",
    "evicted": "0 append; 1 read; 0 evict; 0 append; 1 read; 0 read; 1 evict; 1 read; 0 append; 1 read",
}


FEW_KINDS = ("before", "reset after", "lost after", "crash after")


def perform(
    world: World, processes: list[Process], words: str, fault: tuple[int, str] | None
) -> bool:
    """One operation of a scenario; whether the fault happened."""
    which, what = int(words.split()[0]), words.split(maxsplit=1)[1]
    if processes[which].dead:
        away = processes[which].redis_away
        processes[which] = world.process()
        processes[which].redis_away = away
        world.clock.advance(3)
        world.lose_lease("s")
    process = processes[which]
    if what in ("away", "back"):
        process.redis_away = what == "away"
        if what == "back":
            world.clock.advance(1)
    elif what == "save":
        world.saved = world.snapshot()  # type: ignore[attr-defined]
    elif what == "restart":
        world.restart(world.saved)  # type: ignore[attr-defined]
    elif what == "flush":
        world.flush()
    elif what in ("full", "room"):
        world.fill_memory() if what == "full" else world.remember()
    elif what == "evict":
        for key in world.window_keys()[:1]:
            world.evict(key)
    else:
        operation = begin(process, what)
        happened = False
        while not operation.done:
            due = fault is not None and not happened and operation.steps == fault[0]
            if due and isinstance(operation.step, Redis | Sql):
                process.faults.append(Fault(fault[1]))
                happened = True
            operation.advance()
        process.faults.clear()
        return happened
    return False


@pytest.mark.parametrize(
    ("scenario", "durability"),
    [
        *[(scenario, "through") for scenario in SCENARIOS],
        *[(scenario, "behind") for scenario in ("append", "outage")],
    ],
)
def test_a_fault_at_any_step_breaks_no_promise(
    valkey: RedisServer, scenario: str, durability: Any
) -> None:
    operations = SCENARIOS[scenario].split("; ")
    thorough = scenario in ("append", "clear")
    every_step = thorough and durability == "through"
    faults = 0
    with World(valkey.url, durability=durability) as world:
        for which, kind in enumerate(KINDS if thorough else FEW_KINDS):
            for number in range(len(operations)):
                for at in range(60):
                    # Else each step fails in every second way, its neighbours in the others: the
                    # scenarios repeat their operations, and so meet every way.
                    if not every_step and (which + number + at) % 2:
                        continue
                    world.reset()
                    processes = [world.process(), world.process()]
                    happened = False
                    try:
                        for index, words in enumerate(operations):
                            fault = (at, kind) if index == number else None
                            happened |= perform(world, processes, words, fault)
                        world.settle()
                    except AssertionError as error:
                        error.add_note(f"{kind} at step {at} of operation {number}")
                        raise
                    if not happened:
                        break
                    faults += 1
    assert faults > 20


# Two flows, in every order of their half steps.


def every_order(run: Callable[[Callable[[], int]], None]) -> int:
    """Run something once for each outcome of the choices between two that it asks for."""
    path: list[int] = []
    count = 0
    while True:
        taken: list[int] = []

        def choose(taken: list[int] = taken, path: list[int] = path) -> int:
            taken.append(path[len(taken)] if len(taken) < len(path) else 0)
            return taken[-1]

        run(choose)
        count += 1
        while taken and taken[-1] == 1:
            taken.pop()
        if not taken:
            return count
        path = [*taken[:-1], 1]


def together(
    choose: Callable[[], int], *operations: Operation, interruptions: int | None = None
) -> None:
    """Until all are done; the one whose turn it is, is interrupted at most so many times."""
    turn: Operation | None = None
    while running := [one for one in operations if not one.done]:
        if turn not in running:
            turn = running[choose() if len(running) > 1 else 0]
        elif len(running) > 1 and interruptions != 0:
            before, turn = turn, running[choose()]
            if interruptions is not None and turn is not before:
                interruptions -= 1
        turn.advance()


PAIRS = [
    *[("read", change) for change in CHANGES],
    *[("append", change) for change in CHANGES],
    ("clear", "clear"),
    ("clear", "edit"),
    ("take", "take"),
    ("pop", "take"),
    ("replace", "clear"),
    ("read", "read"),
]
# Every order of these. Of the others, which do the same steps with other statements, the orders with
# at most two interruptions: a step of the one between two of the other, and one more.
IN_EVERY_ORDER = (
    ("read", "append"),
    ("read", "clear"),
    ("append", "append"),
    ("append", "clear"),
    ("clear", "clear"),
    ("take", "take"),
)


@pytest.mark.parametrize(
    ("first", "second", "filled"),
    [
        pytest.param(*pair, filled, id=f"{'-'.join(pair)}-{'window' if filled else 'no window'}")
        for pair in PAIRS
        for filled in ((True, False) if pair[0] == "read" else (True,))
    ],
)
def test_two_flows_in_any_order(valkey: RedisServer, first: str, second: str, filled: bool) -> None:
    interruptions = None if (first, second) in IN_EVERY_ORDER else 2
    with World(valkey.url) as world:

        def run(choose: Callable[[], int]) -> None:
            world.reset()
            one, two = world.process(), world.process()
            one.do("append", n=4)
            one.do("read")
            two.do("read")
            for key in [] if filled else world.window_keys():
                world.evict(key)
            both = begin(one, first), begin(two, second)
            together(choose, *both, interruptions=interruptions)
            for process in (one, two, one):
                process.do("read")
            world.settle()

        assert every_order(run) >= 6


@pytest.mark.parametrize("change", ["append", "edit", "clear"])
def test_an_append_that_redis_misses_while_another_reads_in_any_order(
    valkey: RedisServer, change: str
) -> None:
    """The reader's process reaches Redis all the time: it may believe its window for a while."""
    with World(valkey.url) as world:

        def run(choose: Callable[[], int]) -> None:
            world.reset()
            one, two = world.process(), world.process()
            one.do("append", n=4)
            two.do("read")
            one.do("read")
            one.redis_away = True
            changing = begin(one, change)
            reading = two.start("read")
            together(choose, changing, reading)
            two.do("read")
            one.do("read")
            world.settle()

        assert every_order(run) >= 6


# Trust.


def test_an_append_that_redis_missed_waits_until_nobody_believes_the_window(world: World) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    two.do("read")
    assert tier(two) == "redis"
    one.redis_away = True
    appending = until(one.start("append"), Sleep)
    # The epoch has ended, but another process may not have heard of it yet.
    assert tier(two) == "redis"
    began = world.clock()
    appending.finish()
    assert LEASE < world.clock() - began <= 2 * LEASE
    assert read(two) == ["m0", "m1"]


def test_a_long_outage_is_waited_for_once(world: World) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    two.do("read")
    one.redis_away = two.redis_away = True
    one.do("append")
    began = world.clock()
    for _ in range(5):
        one.do("append")
        one.do("read")
    assert world.clock() == began
    two.do("append")  # which cannot know for how long it has been over
    assert world.clock() - began <= 2 * LEASE
    began = world.clock()
    for process in (one, two, one, two):
        process.do("append")
    assert world.clock() == began


def test_two_who_miss_redis_at_once_wait_at_once(world: World) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    one.do("read")
    one.redis_away = two.redis_away = True
    began = world.clock()
    first = until(one.start("append"), Sleep)
    second = until(two.start("append"), Sleep)
    first.finish()
    second.finish()
    assert world.clock() - began <= 2 * LEASE


def test_an_append_under_an_epoch_that_another_ended_waits_as_well(world: World) -> None:
    one, two, three = world.process(), world.process(), world.process()
    one.do("append")
    two.do("read")
    two.do("read")
    one.redis_away = True
    until(one.start("append"), Sleep)
    three.do("append")
    assert read(two)[-1] == "m2"


def test_an_ended_epoch_is_adopted_only_when_nobody_believes_the_one_before(world: World) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    two.do("read")
    one.redis_away = True
    until(one.start("append"), Sleep)
    world.clock.advance(LEASE + 0.01)
    # Two learns only now that it ended; a third could have asked a moment before it did.
    assert tier(two) == "durable"
    assert world.epoch.startswith("?")
    assert tier(two) == "durable"
    world.clock.advance(LEASE + 0.06)
    assert tier(two) == "durable"
    assert not world.epoch.startswith("?")
    assert tier(two) == "redis"


def test_a_grant_that_ran_out_before_the_reply_came_is_not_believed(world: World) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    two.do("read")
    reading = until(two.start("read"), Redis)
    reading.advance()  # performed; the reply is on its way
    one.redis_away = True
    one.do("append")
    later = two.start("read")
    for operation in (reading, later):
        assert [id_ for id_, _ in shown(operation.finish())] == ["m0", "m1"]


def test_a_grant_counts_from_when_it_was_asked_for(world: World) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    two.do("read")
    world.clock.advance(LEASE + 0.01)
    reading = until(two.start("read"), Sql)
    reading.advance()  # the epoch is on its way
    one.redis_away = True
    one.do("append")
    reading.finish()
    assert read(two) == ["m0", "m1"]


def test_reads_go_on_while_the_durable_tier_is_away(world: World) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    one.do("read")
    two.do("read")
    world.sql_away = True
    world.clock.advance(100)
    assert tier(one) == tier(two) == "redis"
    with pytest.raises(TierError):
        one.do("append")
    assert read(one) == ["m0"]


def test_nothing_is_read_if_redis_was_away_too(world: World) -> None:
    one = world.process()
    one.do("append")
    one.do("read")
    world.sql_away = True
    world.clock.advance(100)
    one.redis_away = True
    with pytest.raises(TierError):
        one.do("read")
    one.redis_away = False
    world.clock.advance(100)
    with pytest.raises(TierError):
        one.do("read")
    with pytest.raises(TierError):
        world.process().do("read")
    world.sql_away = False
    world.clock.advance(100)
    assert read(one) == ["m0"]


@pytest.mark.xfail(strict=True, reason="a process believes the epoch that it last knew")
def test_a_process_that_was_idle_learns_that_an_epoch_ended_though_it_cannot_ask(
    world: World,
) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    two.do("read")
    one.redis_away = True
    one.do("append")  # acknowledged; two has not heard of the epoch's end
    one.redis_away = False
    world.clock.advance(1000)
    one.do("read")
    one.do("read")
    world.sql_away = True
    assert read(two) == ["m0", "m1"]


@pytest.mark.parametrize("change", ["append", "edit", "clear"])
@pytest.mark.parametrize("when", [0, 1, 2])
def test_an_old_primary_is_not_read_while_another_writes_to_the_new_one(
    world: World, change: str, when: int
) -> None:
    one, two = world.process(), world.process()
    one.do("append", n=3)
    one.do("read")
    two.do("read")
    changing = begin(one, change)
    for _ in range(when):
        changing.advance()
    world.promote()
    one.server = PROMOTED
    changing.finish()
    two.do("read")  # still connected to the old one
    for _ in range(3):
        world.clock.advance(LEASE)
        one.do("append")
        two.do("read")
        one.do("read")
    two.server = PROMOTED
    two.do("read")
    world.clock.advance(2)
    two.do("read")
    two.do("append")
    one.do("read")


# What the driver sends again after a connection was lost.


@pytest.mark.parametrize("change", CHANGES)
def test_a_commit_whose_reply_was_lost_is_made_once_or_refused(world: World, change: str) -> None:
    one, two = world.process(), world.process()
    one.do("append", n=6)
    two.do("read")
    one.faults.append(Fault("reset after"))
    operation = begin(one, change)
    with contextlib.suppress(TierError):
        operation.finish()
    if change in ("take", "archive", "pop", "delete", "forget"):
        assert operation.error is not None
        assert operation.error.kind == "unknown"
    two.do("read")
    world.settle()


def test_who_clears_what_a_process_that_died_had_cleared_drops_its_window(world: World) -> None:
    one, two = world.process(), world.process()
    one.do("append")
    two.do("read")
    one.faults.append(Fault("crash after"))
    one.start("clear").advance()
    assert read(two) == ["m0"]  # nobody was told that it is cleared
    two.do("clear")
    assert read(two) == []


def test_a_session_begun_anew_by_a_clock_that_is_behind_replaces_its_window(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = world.process(), world.process()
    now = durable_log.microseconds()
    monkeypatch.setattr(durable_log, "microseconds", lambda: now + 10_000_000)
    one.do("append")
    two.do("read")
    one.faults.append(Fault("crash after"))
    one.start("clear").advance()
    monkeypatch.setattr(durable_log, "microseconds", lambda: now)
    two.do("append")
    assert read(two) == ["m1"]


# Appends that wait.


@pytest.mark.parametrize("other", ["append", "drain"])
def test_a_reader_that_fills_a_window_in_any_order_with_one_who_appends(
    valkey: RedisServer, other: str
) -> None:
    with World(valkey.url, durability="behind") as world:

        def run(choose: Callable[[], int]) -> None:
            world.reset()
            one, two = world.process(), world.process()
            one.do("append", n=2)
            one.do("read")
            two.do("read")
            for key in world.window_keys():
                world.evict(key)
            together(choose, begin(one, "read"), begin(two, other))
            for process in (one, two, one):
                process.do("read")

        assert every_order(run) >= 15


@pytest.mark.parametrize("change", ["edit", "take", "replace", "clear"])
def test_a_change_in_any_order_with_one_who_appends_what_waits(
    valkey: RedisServer, change: str
) -> None:
    with World(valkey.url, durability="behind") as world:

        def run(choose: Callable[[], int]) -> None:
            world.reset()
            one, two = world.process(), world.process()
            one.do("append", n=2)
            one.do("read")
            two.do("read")
            both = begin(one, change), begin(two, "append")
            together(choose, *both)
            for process in (one, two, one):
                process.do("read")
            world.settle()

        assert every_order(run) >= 15


@pytest.mark.parametrize("change", [one for one in CHANGES if not one.startswith("append")])
def test_what_is_written_drops_a_window_that_lacks_a_change(
    valkey: RedisServer, change: str
) -> None:
    with World(valkey.url, durability="behind") as world:
        one, two = world.process(), world.process()
        one.do("append", n=3)
        two.do("read")
        changing = until(begin(one, change), Sql)
        one.faults.append(Fault("crash after"))
        changing.advance()
        two.do("append")  # into a window that nobody told of the change
        assert tier(two) == "redis"
        two.do("drain")
        assert tier(two) == "durable"
        assert tier(two) == "redis"


def test_what_is_written_drops_a_window_that_was_not_there_when_it_was_accepted(
    valkey: RedisServer,
) -> None:
    with World(valkey.url, durability="behind") as world:
        one, two = world.process(), world.process()
        one.do("append")
        appending = until(one.start("append"), Redis)
        two.do("read")
        two.redis_away = True
        two.do("append")  # ends the epoch
        two.redis_away = False
        world.clock.advance(10)
        two.do("read")
        one.faults.append(Fault("crash after"))
        appending.advance()  # accepted with the window of the epoch before
        two.do("append")
        assert tier(two) == "redis"
        two.do("drain")
        assert read(two) == ["m0", "m2", "m1", "m3"]


def test_what_is_written_keeps_a_window_that_knows_all_of_it(valkey: RedisServer) -> None:
    with World(valkey.url, durability="behind") as world:
        one, two = world.process(), world.process()
        one.do("append")
        assert tier(one) == "durable"  # it drains and fills, with one ticket
        for _ in range(3):
            two.do("append", n=2)
            one.do("append")
            one.do("drain")
            two.do("drain")
            assert tier(one) == "redis"
        # Written after a change, and the change told: also of what was accepted meanwhile.
        editing = until(one.start("edit", id="m0"), Sql)
        editing.advance()
        two.do("append")
        editing.finish()
        assert tier(two) == "durable"
        assert tier(two) == "redis"
        two.do("append")
        two.do("drain")
        assert tier(one) == "redis"


def test_a_drainer_that_lost_its_lease_brings_nothing_back(valkey: RedisServer) -> None:
    with World(valkey.url, durability="behind") as world:
        slow, two = world.process(), world.process()
        two.do("append", n=2)
        draining = until(slow.start("drain"), Sql)
        world.lose_lease("s")
        two.do("drain")
        draining.finish()
        assert read(two) == ["m0", "m1"]


@pytest.mark.xfail(strict=True, reason="nothing fences a drainer that lost its lease")
def test_a_drainer_that_lost_its_lease_brings_no_deleted_message_back(valkey: RedisServer) -> None:
    with World(valkey.url, durability="behind") as world:
        slow, two = world.process(), world.process()
        two.do("append", n=2)
        draining = until(slow.start("drain"), Sql)
        world.lose_lease("s")
        two.do("take", n=1)
        draining.finish()


# Redis alone.


def test_a_session_that_was_begun_anew_is_not_rewritten_as_the_one_before(
    valkey: RedisServer,
) -> None:
    with World(valkey.url, durability="none") as world:
        one, two = world.process(), world.process()
        one.do("append")
        editing = until(one.start("edit", id="m0"), Redis)
        editing.advance()
        editing.advance()
        two.do("clear")
        two.do("append")
        editing.finish()
        assert read(two) == ["m2"]


def test_a_message_is_there_once_though_redis_evicted_what_knew_of_it(valkey: RedisServer) -> None:
    with World(valkey.url, durability="none") as world:
        process = world.process()
        process.do("append")
        process.do("append", ids=["a longer id, with ü"])
        [ids] = [key for key in world.window_keys() if key.endswith(b":ids")]
        world.evict(ids)
        process.do("append", ids=["m0", "a longer id, with ü", "new"])
        assert read(process) == ["m0", "a longer id, with ü", "new"]
