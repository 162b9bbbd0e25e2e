"""The circuit breaker on a clock of its own."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from redis_tiered.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(retry_after=0.1, max_retry_after=0.8, clock=clock)


def test_opens_at_the_first_failure_and_admits_one_when_due(breaker: Breaker, clock: Clock) -> None:
    assert breaker.admit()
    assert breaker.admit()
    breaker.failed()
    assert not breaker.closed
    assert not breaker.admit()
    clock.now += 0.099
    assert not breaker.admit()
    clock.now += 0.002
    assert breaker.admit()
    assert not breaker.admit()
    breaker.succeeded()
    assert breaker.closed
    assert breaker.admit()
    assert breaker.admit()


def test_waits_double_up_to_the_longest_and_begin_anew_after_a_success(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.failed()
    for wait in (0.1, 0.2, 0.4, 0.8, 0.8, 0.8):
        clock.now += wait - 0.001
        assert not breaker.admit()
        clock.now += 0.002
        assert breaker.admit()
        breaker.failed()
    clock.now += 1
    assert breaker.admit()
    breaker.succeeded()
    breaker.failed()
    clock.now += 0.101
    assert breaker.admit()


def test_incarnation_grows_with_each_return_and_each_interruption(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.succeeded()
    assert breaker.incarnation == 0
    for number in range(1, 4):
        breaker.failed()
        breaker.failed()
        assert breaker.incarnation == number - 1
        breaker.succeeded()
        breaker.succeeded()
        assert breaker.incarnation == number
    breaker.interrupted()
    assert breaker.incarnation == 4
    assert breaker.closed


def test_a_late_failure_of_an_earlier_request_does_not_postpone_the_probe(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.failed()
    clock.now += 0.09
    breaker.failed()
    clock.now += 0.02
    assert breaker.admit()


def test_an_abandoned_probe_lets_another_try(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.now += 1
    assert breaker.admit()
    breaker.abandoned()
    assert breaker.admit()


def test_a_hint_lets_the_next_caller_try_at_once(breaker: Breaker, clock: Clock) -> None:
    breaker.hint()
    assert breaker.closed
    breaker.failed()
    assert not breaker.admit()
    breaker.hint()
    assert breaker.admit()
    assert not breaker.admit()


def test_a_child_does_not_wait_for_a_probe_or_a_lock_of_its_parent(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.failed()
    clock.now += 1
    assert breaker.admit()
    breaker._lock.acquire()
    breaker.reset_after_fork()
    assert breaker.admit()


@given(st.integers(2, 30))
def test_of_many_threads_one_is_admitted(threads: int) -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    breaker.failed()
    clock.now += 1
    start = threading.Barrier(threads)
    admitted: list[bool] = []

    def ask() -> None:
        start.wait()
        admitted.append(breaker.admit())

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert admitted.count(True) == 1


class OneProbe(RuleBasedStateMachine):
    """Whatever happens in whatever order, an open breaker has at most one probe under way."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(clock=self.clock)
        self.probing = False

    @rule(seconds=st.floats(0, 1))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def ask(self) -> None:
        was_closed = self.breaker.closed
        if self.breaker.admit() and not was_closed:
            assert not self.probing
            self.probing = True

    @rule(outcome=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def finish(self, outcome: str) -> None:
        if self.probing:
            getattr(self.breaker, outcome)()
            self.probing = False

    @rule()
    def an_ordinary_request_fails(self) -> None:
        if self.breaker.closed:
            self.breaker.failed()

    @rule()
    def a_sign_of_life(self) -> None:
        self.breaker.hint()

    @invariant()
    def in_the_end_somebody_may_try(self) -> None:
        if not self.probing:
            self.clock.now += 1
            if not self.breaker.closed:
                assert self.breaker.admit()
                self.breaker.abandoned()


TestOneProbe = OneProbe.TestCase
