"""Counters, hit rate, and what was saved."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.stats import Stats, Tally, checked_prices

COUNTS = {
    "hit.memory": 6,
    "hit.durable": 2,
    "miss.absent": 1,
    "miss.waited": 1,
    "update.stored": 3,
    "skip.truncated": 4,
    "unreadable.corrupt": 5,
    "saved_input.gpt-5-mini-2026-01-31": 1_000_000,
    "saved_output.gpt-5-mini-2026-01-31": 2_000_000,
    "saved_output.unknown": 7,
}


def test_counters_are_arranged() -> None:
    stats = Stats.of(COUNTS, None, {"redis.timeout": 9})
    assert stats == Stats(
        hits={"memory": 6, "durable": 2},
        misses=2,
        updates=3,
        skipped={"truncated": 4},
        unreadable={"corrupt": 5},
        errors={"redis.timeout": 9},
        saved_input_tokens=1_000_000,
        saved_output_tokens=2_000_007,
    )
    assert stats.hit_rate == 0.8
    assert stats.saved_money is None


def test_before_the_first_lookup() -> None:
    stats = Stats.of({}, {"m": (1.0, 1.0)})
    assert stats.hit_rate == 0.0
    assert stats.saved_money == 0.0
    assert stats.unpriced == ()


@pytest.mark.parametrize(
    ("prices", "money", "unpriced"),
    [
        ({}, 0.0, ("gpt-5-mini-2026-01-31", "unknown")),
        ({"gpt-5": (100, 100), "gpt-5-mini": (1, 2), "unknown": (0, 0)}, 5.0, ()),
        ({"gpt-5-mini-2026-01-31": (3, 0), "gpt-5-mini": (9, 9)}, 3.0, ("unknown",)),
        ({"gpt-5-min": (9, 9), "gpt": (0, 1)}, 2.0, ("unknown",)),
    ],
)
def test_a_model_costs_what_the_longest_name_it_starts_with_does(
    prices: dict[str, tuple[float, float]], money: float, unpriced: tuple[str, ...]
) -> None:
    stats = Stats.of(COUNTS, checked_prices(prices))
    assert stats.saved_money == pytest.approx(money)
    assert stats.unpriced == unpriced


@pytest.mark.parametrize(
    "prices",
    [
        [],
        "gpt",
        {"m": 1},
        {"m": (1,)},
        {"m": (1, 2, 3)},
        {"m": (1, -1)},
        {"m": (1, True)},
        {"m": (1, "2")},
        {"m": (1, math.nan)},
        {"m": (1, math.inf)},
        {"m": (1, 10**400)},
        {1: (1, 2)},
        {"m": "12"},
    ],
    ids=repr,
)
def test_a_bad_price_table_is_refused(prices: object) -> None:
    with pytest.raises(InvalidInput, match="prices"):
        checked_prices(prices)


def test_prices_may_be_lists_and_whole_numbers() -> None:
    assert checked_prices(None) is None
    assert checked_prices({"m": [1, 2]}) == {"m": (1.0, 2.0)}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=30), st.data())
def test_what_is_pending_and_what_was_taken_add_up(
    added: list[tuple[str, int]], data: st.DataObject
) -> None:
    tally = Tally()
    taken: dict[str, int] = {}
    for name, by in added:
        tally.add(name, by)
        if data.draw(st.booleans()):
            batch = tally.take_pending()
            if data.draw(st.booleans()):
                tally.put_back(batch)
            else:
                taken = {n: taken.get(n, 0) + batch.get(n, 0) for n in taken | batch}
    rest = tally.take_pending()
    total = {n: taken.get(n, 0) + rest.get(n, 0) for n in taken | rest}
    assert total == tally.counts()
    assert not tally.take_pending()


def test_threads_lose_no_count() -> None:
    tally = Tally()
    taken: list[dict[str, int]] = []

    def work() -> None:
        for number in range(500):
            tally.add("x")
            if number % 50 == 0:
                taken.append(tally.take_pending())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.append(tally.take_pending())
    assert tally.counts() == {"x": 4000}
    assert sum(batch.get("x", 0) for batch in taken) == 4000


def test_a_child_counts_from_zero() -> None:
    tally = Tally()
    tally.add("x")
    tally._lock.acquire()
    tally.reset_after_fork()
    assert tally.counts() == tally.take_pending() == {}
