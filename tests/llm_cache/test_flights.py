"""Single flight within a process: who leads, who is gone, who is told."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from redis_tiered.llm_cache.flights import _PER_OWNER, Flights, Owner, current_owner
from tests.waiting import wait_until


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Subject:
    alive = True


def owner() -> tuple[Subject, Owner]:
    subject = Subject()
    return subject, Owner(subject, lambda subject: not subject.alive)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def flights(clock: Clock) -> Flights:
    return Flights(30.0, clock=clock)


def test_a_flight_lands_once_with_its_answer(flights: Flights) -> None:
    me, mine = owner()
    flight = flights.lead("d", mine, "token", b"lease")
    landing = flight.landing()
    assert flights.find("d") is flight
    assert not landing.done()
    assert flights.land("d", b"answer") is flight
    assert landing.done()
    assert flight.answer == b"answer"
    assert flight.landing().done()
    assert flights.land("d", b"other") is None
    assert flight.answer == b"answer"
    assert flights.find("d") is None
    assert len(flights) == 0
    assert me.alive


def test_only_the_flight_that_is_meant_lands(flights: Flights) -> None:
    _one, first = owner()
    _two, second = owner()
    old = flights.lead("d", first, "1", b"lease")
    new = flights.lead("d", second, "2", b"lease")
    assert old.landing().done()
    assert old.answer is None
    assert flights.land("d", b"late", flight=old) is None
    assert not new.landing().done()
    assert flights.land("d", b"answer", flight=new) is new


def test_without_a_lease_nobody_takes_over_a_flight_that_is_not_over(
    flights: Flights, clock: Clock
) -> None:
    leader, first = owner()
    _other, second = owner()
    flight = flights.lead("d", first, "1", None)
    assert flights.lead("d", second, "2", None) is flight
    leader.alive = False
    taken = flights.lead("d", second, "2", None)
    assert taken is not flight
    assert flight.landing().done()
    assert flights.find("d") is taken


def test_over_when_its_owner_is_gone_or_its_time_has_come(flights: Flights, clock: Clock) -> None:
    leader, mine = owner()
    flight = flights.lead("d", mine, "t", None)
    assert not flight.over(clock.now)
    assert not flight.over(29.9)
    assert flight.over(30.0)
    assert flight.led_by(mine)
    assert not flight.led_by(owner()[1])
    leader.alive = False
    assert flight.over(clock.now)
    assert not flight.led_by(mine)
    again, reborn = owner()
    flight = flights.lead("e", reborn, "t", None)
    del again
    gc.collect()
    assert flight.over(clock.now)


def test_one_owner_leads_so_many_at_most(flights: Flights) -> None:
    _me, mine = owner()
    _you, yours = owner()
    other = flights.lead("other", yours, "t", b"l")
    led = [flights.lead(f"d{number}", mine, "t", b"l") for number in range(_PER_OWNER + 3)]
    assert [flight.landing().done() for flight in led] == [True] * 3 + [False] * _PER_OWNER
    assert flights.find("d0") is None
    assert not other.landing().done()
    assert len(flights) == _PER_OWNER + 1


def test_leading_the_same_request_again_leaves_nothing_behind(flights: Flights) -> None:
    _me, mine = owner()
    for _ in range(_PER_OWNER * 3):
        flight = flights.lead("d", mine, "t", b"l")
    assert len(flights) == 1
    assert not flight.landing().done()
    flights.land("d", None)
    assert flights._by_owner == {}


def test_sweep_parts_the_living_from_the_ended(flights: Flights, clock: Clock) -> None:
    one, first = owner()
    _two, second = owner()
    dead = flights.lead("dead", first, "1", b"l1")
    old = flights.lead("old", second, "2", b"l2")
    clock.now = 20.0
    young = flights.lead("young", second, "3", b"l3")
    one.alive = False
    clock.now = 31.0
    live, ended = flights.sweep()
    assert live == [young]
    assert set(ended) == {dead, old}
    assert dead.landing().done()
    assert flights.sweep() == ([young], [])


def test_tokens_are_unique_over_threads_and_processes(flights: Flights) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda _: flights.token(), range(2000)))
    assert len(set(tokens)) == 2000
    assert Flights(1.0).token() not in tokens
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, flights.token().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 100).decode()[:16] != tokens[0][:16]
    os.close(reader)
    os.close(writer)


def test_a_thread_is_an_owner_until_it_ends() -> None:
    owners: list[Owner] = []
    stay, began = threading.Event(), threading.Event()

    def work() -> None:
        owners.append(current_owner())
        began.set()
        stay.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(10)
    assert owners[0].alive()
    assert owners[0].identity != current_owner().identity
    stay.set()
    thread.join()
    assert not owners[0].alive()
    assert current_owner().identity == current_owner().identity


async def test_a_task_is_an_owner_until_it_is_done_or_cancelled() -> None:
    async def work() -> Owner:
        await asyncio.sleep(0)
        return current_owner()

    task = asyncio.create_task(work())
    mine = current_owner()
    its = await task
    assert its.identity == id(task)
    assert not its.alive()
    assert mine.alive()
    assert mine.identity != its.identity

    seen: list[Owner] = []

    async def hang() -> None:
        seen.append(current_owner())
        await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await asyncio.sleep(0)
    assert seen[0].alive()
    task.cancel()
    await asyncio.wait((task,))
    assert not seen[0].alive()


def test_waiters_in_threads_are_all_woken(flights: Flights) -> None:
    _me, mine = owner()
    flight = flights.lead("d", mine, "t", b"l")
    with ThreadPoolExecutor(16) as pool:
        waits = [pool.submit(lambda: flight.landing().result(10)) for _ in range(16)]
        wait_until(lambda: any(wait.running() for wait in waits))
        flights.land("d", b"a")
        for wait in waits:
            assert wait.result() is None
    assert flight.answer == b"a"


def test_a_child_leads_nothing(flights: Flights) -> None:
    _me, mine = owner()
    flight = flights.lead("d", mine, "t", b"l")
    flights._lock.acquire()
    flights.reset_after_fork()
    assert len(flights) == 0
    assert flights.find("d") is None
    assert flights.land("d", b"a") is None
    assert not flight.landing().done()
