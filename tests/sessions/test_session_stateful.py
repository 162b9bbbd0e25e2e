"""The sessions' promises under any order of steps and any faults: a machine looks for a way to break one."""

from __future__ import annotations

import contextlib
import os
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from redis_tiered.errors import TierError
from redis_tiered.flow import Sql
from tests.servers import RedisServer
from tests.sessions.simulation import KINDS, Fault, Operation, Process, World

# For a long search: how many examples, of how many rules each.
_EXAMPLES = int(os.environ.get("REDIS_TIERED_TEST_EXAMPLES", "40"))
_STEPS = int(os.environ.get("REDIS_TIERED_TEST_STEPS", "60"))

WHO = st.integers(0, 1)
PICK = st.integers(0, 1000)
STEPS = st.integers(1, 8)
HALVES = st.integers(1, 3)
CHANGES = (
    "edit",
    "delete",
    "take",
    "archive",
    "pop",
    "replace",
    "clear",
    "close",
    "update",
    "forget",
)

totals = {"steps": 0, "reads": 0, "from redis": 0, "examples": 0}


class Machine(RuleBasedStateMachine):
    """Two processes, one or two sessions; every operation may be cut into half steps."""

    url: ClassVar[str] = ""
    options: ClassVar[dict[str, Any]] = {}
    kinds: ClassVar[tuple[str, ...]] = KINDS
    changes: ClassVar[tuple[str, ...]] = CHANGES

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.url, **self.options)
        self.world.__enter__()
        self.who = [self.world.process(), self.world.process()]
        self.saved: list[Any] = []

    def teardown(self) -> None:
        try:
            self.world.settle()
        finally:
            self.world.__exit__()
            totals["examples"] += 1
            totals["steps"] += self.world.steps
            totals["reads"] += self.world.reads
            totals["from redis"] += self.world.from_redis

    def name(self, pick: int) -> str:
        return self.world.names[pick % len(self.world.names)]

    def alive(self, which: int) -> Process:
        if self.who[which].dead:
            away = self.who[which].redis_away, self.who[which].sql_away
            self.who[which] = self.world.process()
            self.who[which].redis_away, self.who[which].sql_away = away
        return self.who[which]

    def go(self, operation: Operation, whole: bool) -> None:
        if whole:
            with contextlib.suppress(TierError):
                operation.finish()

    def some_id(self, name: str, pick: int) -> str:
        rows = self.world.histories[name].versions[-1].rows or ()
        return rows[pick % len(rows)][1] if rows else "nobody"

    # Operations.

    @rule(which=WHO, pick=PICK, n=st.sampled_from([1, 1, 2, 4]), whole=st.booleans())
    def append(self, which: int, pick: int, n: int, whole: bool) -> None:
        role = "system" if pick % 7 == 0 else "human"
        self.go(self.alive(which).start("append", self.name(pick), n=n, role=role), whole)

    @rule(which=WHO, pick=PICK, whole=st.booleans())
    @precondition(lambda self: self.world.refused)
    def append_again(self, which: int, pick: int, whole: bool) -> None:
        again = [one for one in self.world.refused if one.kind == "append"]
        if again:
            one = again[pick % len(again)]
            self.go(self.alive(which).start("append", one.session, ids=one.ids), whole)

    @rule(
        which=WHO,
        pick=PICK,
        count=st.sampled_from([None, None, 0, 1, 3, 10]),
        whole=st.booleans(),
    )
    def read(self, which: int, pick: int, count: int | None, whole: bool) -> None:
        self.go(self.alive(which).start("read", self.name(pick), count=count), whole)

    @rule(which=WHO, pick=PICK, most=st.sampled_from([None, 2]), whole=st.booleans())
    def view(self, which: int, pick: int, most: int | None, whole: bool) -> None:
        self.go(self.alive(which).start("view", self.name(pick), most=most), whole)

    @rule(pick=PICK)
    def everybody_reads(self, pick: int) -> None:
        for which in (0, 1):
            self.go(self.alive(which).start("read", self.name(pick)), True)

    @rule(which=WHO, pick=PICK, kind=PICK, whole=st.booleans())
    def change(self, which: int, pick: int, kind: int, whole: bool) -> None:
        name, what = self.name(pick), self.changes[kind % len(self.changes)]
        about: dict[str, Any] = {}
        if what in ("edit", "delete"):
            about["id"] = self.some_id(name, pick)
        elif what in ("take", "archive"):
            about = {"n": pick % 3, "archive": what == "archive"}
            what = "take"
        elif what == "pop":
            about["index"] = pick % 2 - 1
        elif what == "replace":
            about["n"] = pick % 4
        elif what == "summarize":
            about["since"] = 0
        self.go(self.alive(which).start(what, name, **about), whole)

    @rule(which=WHO, pick=PICK, kind=PICK, back=st.booleans())
    def change_what_redis_misses(self, which: int, pick: int, kind: int, back: bool) -> None:
        self.alive(which).redis_away = True
        self.change(which, pick, kind, True)
        self.alive(1 - which).start("read", self.name(pick))
        self.append(which, pick, 1, True)
        if back:
            self.alive(which).redis_away = False

    @rule(pick=PICK, cut=HALVES)
    def windows_are_there(self, pick: int, cut: int) -> None:
        """Without what went wrong before, so that there is something to break."""
        self.world.heal()
        self.everybody_reads(pick)
        self.everybody_reads(pick)
        reading = self.alive(pick % 2).start("read", self.name(pick))
        for _ in range(cut):
            reading.advance()

    # Time and order.

    @rule(pick=PICK, halves=HALVES)
    @precondition(lambda self: self.world.running)
    def step(self, pick: int, halves: int) -> None:
        running = self.world.running
        operation = running[pick % len(running)]
        for _ in range(halves):
            operation.advance()

    @rule(pick=PICK)
    @precondition(lambda self: self.world.running)
    def finish(self, pick: int) -> None:
        running = self.world.running
        self.go(running[pick % len(running)], True)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.2, 0.26, 0.31, 1.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    # What goes wrong.

    @rule(which=WHO, kind=PICK)
    def fault(self, which: int, kind: int) -> None:
        process = self.alive(which)
        if len(process.faults) < 2:
            process.faults.append(Fault(self.kinds[kind % len(self.kinds)]))

    @rule(which=WHO)
    def crash(self, which: int) -> None:
        self.alive(which).die()

    @rule(which=WHO, away=st.booleans())
    def part_from_redis(self, which: int, away: bool) -> None:
        self.alive(which).redis_away = away

    @rule(away=st.booleans())
    def part_all_from_redis(self, away: bool) -> None:
        for which in (0, 1):
            self.alive(which).redis_away = away

    @rule(away=st.booleans())
    def stop_the_database(self, away: bool) -> None:
        self.world.sql_away = away

    @rule(full=st.booleans())
    def fill_memory(self, full: bool) -> None:
        if full:
            self.world.fill_memory()
        else:
            self.world.remember()

    @rule()
    def save(self) -> None:
        self.saved.append(self.world.snapshot())

    @rule(pick=PICK)
    def restart(self, pick: int) -> None:
        self.world.restart(self.saved[pick % len(self.saved)] if self.saved else [])

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @rule(pick=PICK)
    def evict(self, pick: int) -> None:
        keys = self.world.window_keys()
        if keys:
            self.world.evict(keys[pick % len(keys)])

    @rule()
    def expire(self) -> None:
        for key in self.world.window_keys():
            self.world.evict(key)

    @rule(which=WHO)
    def everything_is_back(self, which: int) -> None:
        self.world.heal()


class Through(Machine):
    options: ClassVar[dict[str, Any]] = {"window": 4}


class ThroughTwoSessions(Machine):
    options: ClassVar[dict[str, Any]] = {"window": 200, "sessions": ("s", "t")}
    changes: ClassVar[tuple[str, ...]] = (*CHANGES, "summarize", "recount")


class Behind(Machine):
    options: ClassVar[dict[str, Any]] = {"durability": "behind", "window": 200}

    @rule(which=WHO, pick=PICK, whole=st.booleans())
    def drain(self, which: int, pick: int, whole: bool) -> None:
        self.go(self.alive(which).start("drain", self.name(pick)), whole)

    @rule(which=WHO, pick=PICK, kind=PICK)
    def change_that_nobody_is_told_of(self, which: int, pick: int, kind: int) -> None:
        self.everybody_reads(pick)
        self.change(which, pick, kind, False)
        for operation in self.world.running[-1:]:
            while not operation.done:
                if isinstance(operation.step, Sql) and operation.step.write:
                    operation.process.faults.insert(0, Fault("crash after"))
                operation.advance()
        self.append(1 - which, pick, 1, True)
        self.drain(1 - which, pick, True)
        self.everybody_reads(pick)

    @rule(pick=PICK)
    def lose_lease(self, pick: int) -> None:
        self.world.lose_lease(self.name(pick))


class RedisAlone(Machine):
    options: ClassVar[dict[str, Any]] = {"durability": "none"}


@pytest.mark.parametrize(
    "machine",
    [Through, ThroughTwoSessions, Behind, RedisAlone],
    ids=lambda machine: machine.__name__,
)
def test_no_order_of_steps_and_faults_breaks_a_promise(
    valkey: RedisServer, machine: type[Machine]
) -> None:
    class Placed(machine):  # type: ignore[misc, valid-type]
        url = valkey.url

    Placed.__name__ = Placed.__qualname__ = machine.__name__
    run_state_machine_as_test(
        Placed,
        settings=settings(
            max_examples=_EXAMPLES,
            stateful_step_count=_STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(machine.__name__, totals)
