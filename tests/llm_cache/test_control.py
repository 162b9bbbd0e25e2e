"""Per-request control: nesting, validation, isolation."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.control import Control, cache_control, current_control, seconds


def test_without_a_block_everything_is_allowed() -> None:
    assert current_control() == Control(True, True, False, None, ())


def test_blocks_nest_and_end() -> None:
    with cache_control(write=False, ttl=10, tags=["a"]):
        assert current_control() == Control(write=False, ttl=10.0, tags=("a",))
        with cache_control(read=False, tags=["b", "b", "c"]):
            assert current_control() == Control(False, False, False, 10.0, ("b", "c"))
            with cache_control(write=True, refresh=True, tags=[]):
                assert current_control() == Control(False, True, True, 10.0, ())
        assert current_control() == Control(write=False, ttl=10.0, tags=("a",))
    assert current_control() == Control()


def test_a_block_left_by_an_exception_ends() -> None:
    with pytest.raises(ZeroDivisionError), cache_control(read=False):
        _ = 1 / 0
    assert current_control() == Control()


@pytest.mark.parametrize(
    "bad",
    [
        {"read": 1},
        {"write": "no"},
        {"refresh": 0},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": True},
        {"ttl": "10"},
        {"ttl": math.nan},
        {"ttl": math.inf},
        {"ttl": 10**400},
        {"ttl": 101 * 365 * 86_400},
        {"tags": "one"},
        {"tags": b"one"},
        {"tags": 5},
        {"tags": [1]},
        {"tags": [["nested"]]},
        {"tags": [{}]},
        {"tags": [""]},
        {"tags": ["\ud800"]},
        {"tags": ["x" * 257]},
        {"tags": [str(number) for number in range(65)]},
    ],
    ids=repr,
)
def test_bad_values_are_refused_by_name_and_change_nothing(bad: dict[str, Any]) -> None:
    [name] = bad
    with pytest.raises(InvalidInput, match=name), cache_control(**bad):
        pytest.fail("the block was entered")
    assert current_control() == Control()


def test_tags_may_come_from_any_iterable() -> None:
    with cache_control(tags=(tag for tag in ("a", "b", "a"))):
        assert current_control().tags == ("a", "b")
    with cache_control(tags=[str(number % 64) for number in range(200)]):
        assert len(current_control().tags) == 64


def test_a_thread_begins_uncontrolled() -> None:
    seen: list[Control] = []
    with cache_control(read=False):
        thread = threading.Thread(target=lambda: seen.append(current_control()))
        thread.start()
        thread.join()
    assert seen == [Control()]


async def test_a_task_inherits_its_block_and_keeps_its_own_to_itself() -> None:
    inside = asyncio.Event()
    checked = asyncio.Event()

    async def other() -> Control:
        with cache_control(write=False):
            inside.set()
            await checked.wait()
            return current_control()

    with cache_control(ttl=5):
        task = asyncio.create_task(other())
    await inside.wait()
    assert current_control() == Control()
    checked.set()
    assert await task == Control(write=False, ttl=5.0)


def test_seconds_accepts_whole_and_broken_ones() -> None:
    assert seconds("ttl", 1) == 1.0
    assert seconds("ttl", 0.001) == 0.001
    assert isinstance(seconds("ttl", 1), float)
