"""A user's function is given up after a while, in a thread that keeps nobody from going on."""

from __future__ import annotations

import contextvars
import os
import threading
import time

import pytest

from redis_tiered import timed as module
from redis_tiered.timed import timed
from tests.faults.worker import run_script
from tests.waiting import wait_until


def test_it_gives_what_the_function_gives() -> None:
    assert timed(lambda a, b: a + b, (1, 2), 5.0) == 3


@pytest.mark.parametrize("error", [ValueError("x"), StopIteration(1), SystemExit(2)], ids=repr)
def test_it_raises_what_the_function_raises(error: BaseException) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        timed(fails, (), 5.0)
    assert caught.value is error


def test_one_that_takes_too_long_is_given_up() -> None:
    end = threading.Event()
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        timed(end.wait, (10,), 0.05)
    assert time.monotonic() - begin < 1.0
    assert timed(lambda: "others go on", (), 5.0) == "others go on"
    end.set()


def test_the_caller_s_context_is_there() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="no")
    variable.set("yes")
    assert timed(variable.get, (), 5.0) == "yes"


def test_threads_are_used_again() -> None:
    wait_until(lambda: timed(threading.get_ident, (), 5.0) == timed(threading.get_ident, (), 5.0))
    names = {timed(threading.get_ident, (), 5.0) for _ in range(20)}
    assert len(names) <= 2


def test_an_idle_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.01)
    monkeypatch.setattr(module, "_idle", [])
    for _ in range(2):
        thread = timed(threading.current_thread, (), 5.0)
        wait_until(lambda ended=thread: not ended.is_alive())


def test_many_callers_at_once() -> None:
    wrong: list[object] = []

    def call(number: int) -> None:
        for i in range(50):
            if (got := timed(lambda a, b: (a, b), (number, i), 5.0)) != (number, i):
                wrong.append(got)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(10)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own_and_a_stuck_one_keeps_nobody_from_exiting() -> None:
    source = """
import os, threading, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from redis_tiered.timed import timed
assert timed(lambda: 1, (), 5.0) == 1
pid = os.fork()
if pid == 0:
    status = 1
    try:
        status = 0 if timed(lambda: 2, (), 5.0) == 2 else 1
    finally:
        os._exit(status)
assert os.waitpid(pid, 0)[1] == 0
try:
    timed(threading.Event().wait, (), 0.01)
except TimeoutError:
    print("given up")
"""
    assert run_script(source, timeout=20) == "given up\n"
