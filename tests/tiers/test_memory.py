"""L1 against a model: least recently used, bounded, expiring, and never older than a drop."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from redis_tiered.tiers import memory as module
from redis_tiered.tiers.memory import Memory
from tests.waiting import wait_until

OVERHEAD = module._OVERHEAD
KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"long key " * 5])
VALUES = st.binary(max_size=400)
BOUND = 3 * OVERHEAD + 600


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class AgainstModel(RuleBasedStateMachine):
    """The model keeps values with their end, in order of use, and when each key was dropped."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.memory = Memory(BOUND, 10.0, clock=self.clock)
        self.coherent = False
        self.model: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self.event = 0
        self.dropped: dict[bytes, int] = {}
        self.flushed = 0

    def size(self) -> int:
        return sum(len(key) + len(value) + OVERHEAD for key, (value, _) in self.model.items())

    @rule(target=tickets)
    def ticket(self) -> tuple[int, int]:
        self.event += 1
        return self.memory.ticket(), self.event

    @rule(key=KEYS, value=VALUES, ticket=tickets, ttl=st.none() | st.floats(-1, 20))
    def put(self, key: bytes, value: bytes, ticket: tuple[int, int], ttl: float | None) -> None:
        number, taken = ticket
        seconds = 10.0 if ttl is None else min(ttl, 10.0)
        kept = (
            self.coherent
            and seconds > 0
            and len(key) + len(value) + OVERHEAD <= BOUND
            and taken > self.flushed
            and taken > self.dropped.get(key, 0)
        )
        assert self.memory.put(key, value, number, ttl=ttl) == kept
        if kept:
            self.model.pop(key, None)
            self.model[key] = (value, self.clock.now + seconds)
            while self.size() > BOUND:
                self.model.popitem(last=False)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        held = self.model.get(key)
        if held is not None and held[1] <= self.clock.now:
            del self.model[key]
            held = None
        if held is not None:
            self.model.move_to_end(key)
        assert self.memory.get(key) == (None if held is None else held[0])

    @rule(keys=st.lists(KEYS, max_size=3))
    def invalidate(self, keys: list[bytes]) -> None:
        self.event += 1
        self.memory.invalidate(keys)
        for key in keys:
            self.dropped[key] = self.event
            self.model.pop(key, None)

    @rule(coherent=st.sampled_from([True, True, True, False]))
    def flush(self, coherent: bool) -> None:
        self.event += 1
        self.flushed = self.event
        self.memory.flush(coherent=coherent)
        self.coherent = coherent
        self.model.clear()

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def same_size_within_the_bound(self) -> None:
        assert self.memory.size == self.size() <= BOUND
        assert len(self.memory) == len(self.model)
        assert self.memory.coherent == self.coherent
        assert self.coherent or len(self.memory) == 0


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def coherent_memory(max_bytes: int = 1 << 20) -> Memory:
    memory = Memory(max_bytes, 60.0)
    memory.flush(coherent=True)
    return memory


def test_an_invalidation_between_ticket_and_put_wins_however_many_followed() -> None:
    memory = coherent_memory()
    ticket = memory.ticket()
    memory.invalidate((b"k",))
    for number in range(module._REMEMBERED_DROPS * 2):
        memory.invalidate((b"other %d" % number,))
    assert not memory.put(b"k", b"old", ticket)
    assert memory.put(b"k", b"new", memory.ticket())
    assert len(memory._drops) == module._REMEMBERED_DROPS


def test_one_message_about_more_keys_than_are_remembered() -> None:
    memory = coherent_memory()
    ticket = memory.ticket()
    keys = [b"%d" % number for number in range(module._REMEMBERED_DROPS + 10)]
    memory.invalidate(keys)
    assert not any(memory.put(key, b"old", ticket) for key in keys)
    assert all(memory.put(key, b"new", memory.ticket()) for key in keys[:5])


def test_nothing_is_kept_where_nothing_fits() -> None:
    memory = coherent_memory(0)
    assert not memory.put(b"k", b"", memory.ticket())
    memory = coherent_memory(OVERHEAD + 10)
    assert memory.put(b"k", b"123456789", memory.ticket())
    assert not memory.put(b"k", b"1234567890", memory.ticket())


def test_a_watcher_is_woken_by_a_drop_or_a_flush() -> None:
    memory = coherent_memory()
    one, two, other = memory.watch(b"k"), memory.watch(b"k"), memory.watch(b"other")
    memory.invalidate((b"unrelated",))
    assert not one.done()
    memory.unwatch(b"k", two)
    memory.invalidate((b"k",))
    assert one.done()
    assert not two.done()
    memory.flush(coherent=False)
    assert other.done()
    memory.unwatch(b"k", one)
    assert memory._watchers == {}


def test_a_child_begins_empty_though_a_thread_of_the_parent_held_the_lock() -> None:
    memory = coherent_memory()
    memory.put(b"k", b"v", memory.ticket())
    ticket = memory.ticket()
    watched = memory.watch(b"k")
    memory._lock.acquire()
    memory.reset_after_fork()
    assert not memory.coherent
    assert memory.get(b"k") is None
    assert not watched.done()
    memory.flush(coherent=True)
    assert not memory.put(b"k", b"v", ticket)


def test_threads_never_read_what_was_dropped_before_they_took_their_ticket() -> None:
    """A store of versions: a reader that fills L1 never makes an older one than the last drop."""
    memory = coherent_memory(50 * OVERHEAD)
    store = {b"%d" % number: 0 for number in range(20)}
    problems: list[str] = []
    stop = threading.Event()

    def write() -> None:
        version = 0
        while not stop.is_set():
            version += 1
            for key in store:
                store[key] = version
                memory.invalidate((key,))

    def read() -> None:
        while not stop.is_set():
            for key in store:
                ticket = memory.ticket()
                memory.put(key, b"%d" % store[key], ticket)
                least = store[key]
                held = memory.get(key)
                # The writer may be between its write and its drop, one version ahead.
                if held is not None and int(held) < least - 1:
                    problems.append(f"{key!r}: {held!r} < {least}")

    threads = [threading.Thread(target=write)]
    threads += [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    wait_until(lambda: problems or time.monotonic() - began > 0.7)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    held = sum(len(key) + len(value) + OVERHEAD for key, (value, _) in memory._items.items())
    assert memory.size == held <= memory.max_bytes


@pytest.mark.parametrize("coherent", [True, False])
def test_emptying_keeps_whether_it_is_coherent(coherent: bool) -> None:
    memory = coherent_memory()
    memory.flush(coherent=coherent)
    ticket = memory.ticket()
    memory.put(b"k", b"v", ticket)
    memory.empty()
    assert memory.coherent is coherent
    assert memory.get(b"k") is None
    assert not memory.put(b"k", b"v", ticket)
