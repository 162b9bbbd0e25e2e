"""Jobs on a thread that comes and goes."""

from __future__ import annotations

import itertools
import logging
import threading
import time

import pytest

from redis_tiered.tiers.housekeeping import Housekeeper
from tests.waiting import wait_until


def test_jobs_run_in_order_of_their_time_on_one_thread_that_ends_when_idle() -> None:
    keeper = Housekeeper()
    ran: list[tuple[str, int]] = []

    def job(name: str) -> None:
        ran.append((name, threading.get_ident()))

    keeper.submit(lambda: job("late"), after=0.3)
    keeper.submit(lambda: job("early"), after=0.02)
    keeper.submit(lambda: job("now"))
    wait_until(lambda: len(ran) == 3)
    assert [name for name, _ in ran] == ["now", "early", "late"]
    assert len({thread for _, thread in ran}) == 1
    assert threading.get_ident() not in {thread for _, thread in ran}
    wait_until(lambda: keeper._thread is None)
    keeper.submit(lambda: job("again"))
    wait_until(lambda: len(ran) == 4)


def test_a_job_runs_again_after_the_seconds_it_returns_until_none() -> None:
    keeper = Housekeeper()
    times: list[float] = []

    def job() -> float | None:
        times.append(time.monotonic())
        return 0.03 if len(times) < 3 else None

    keeper.submit(job)
    wait_until(lambda: keeper._thread is None)
    assert len(times) == 3
    assert all(later - earlier >= 0.03 for earlier, later in itertools.pairwise(times))


def test_a_job_that_raises_is_logged_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    keeper = Housekeeper()
    ran = threading.Event()

    def bad() -> float:
        raise ZeroDivisionError

    def good() -> None:
        ran.set()

    with caplog.at_level(logging.ERROR, "redis_tiered"):
        keeper.submit(bad)
        keeper.submit(good)
        assert ran.wait(5)
    assert [record.message for record in caplog.records] == ["housekeeping job failed"]


def test_stop_drops_what_waits_and_waits_for_what_runs() -> None:
    keeper = Housekeeper()
    began, ended, never = threading.Event(), threading.Event(), threading.Event()

    def long() -> None:
        began.set()
        time.sleep(0.05)
        ended.set()

    def after() -> None:
        never.set()

    keeper.submit(long)
    keeper.submit(after, after=0.01)
    assert began.wait(5)
    keeper.stop(5)
    assert ended.is_set()
    keeper.submit(after)
    wait_until(lambda: keeper._thread is None)
    assert not never.is_set()


def test_a_job_may_stop_its_own_keeper() -> None:
    keeper = Housekeeper()
    done = threading.Event()

    def job() -> float:
        keeper.stop(60)
        done.set()
        return 0.0

    keeper.submit(job)
    assert done.wait(5)
    wait_until(lambda: keeper._thread is None)


def test_stop_gives_up_on_a_job_that_hangs() -> None:
    keeper = Housekeeper()
    gate, began = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        gate.wait(30)

    keeper.submit(hang)
    assert began.wait(5)
    start = time.monotonic()
    keeper.stop(0.05)
    assert time.monotonic() - start < 5
    gate.set()
    wait_until(lambda: keeper._thread is None)
