"""Token counts of a session: counted once, kept with the counter's name, counted again for another."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redis_tiered import Message
from redis_tiered.errors import InvalidInput
from redis_tiered.sessions.message import pack
from redis_tiered.sessions.record import Record, from_item
from tests.sessions.twin import Bench, Named, Twin, conversation, talk, texts
from tests.waiting import wait_until


class Watched:
    """Counts letters; keeps what it was asked to count."""

    def __init__(self, name: str = "letters", each: int = 1) -> None:
        self.name = name
        self.each = each
        self.asked: list[str] = []

    def count(self, message: Message) -> int:
        self.asked.append(message.text)
        return self.each * len(message.text)


class Failing:
    """Fails while `error` is set."""

    name = "failing"

    def __init__(self, error: object = None) -> None:
        self.error = error

    def count(self, message: Message) -> Any:
        if isinstance(self.error, Exception):
            raise self.error
        return 1 if self.error is None else self.error


def counted(session: Twin) -> set[tuple[int, str]]:
    """Whether all counts of the log are of one counter: tokens per letter and the counter's name."""
    return {(item.tokens // max(1, len(item.message.text)), item.counter) for item in session.log()}


def test_counted_once_when_written(small: Bench) -> None:
    counter = Watched()
    session = small.session(token_counter=counter, window=2)
    session.append(conversation(3))
    small.drain()
    assert counter.asked == [message.text for message in conversation(3)]
    for _ in range(2):
        session.window()
        session.window(max_tokens=9)
        session.log()
        session.count()
    session.take(1, archive=True)
    session.pop()
    small.forget_windows() if small.durability != "none" else None
    session.window(max_tokens=9)
    assert len(counter.asked) == 7
    assert counted(session) == {(1, "letters")}
    info = session.info()
    assert info.tokens == sum(len(text) for text in texts(session.window())) == 2 * 5
    session.edit(session.log()[1].message.id, Message("human", "longer"))
    assert counter.asked[7:] == ["longer"]
    assert session.info().tokens == 2 * 4 + 6


def test_max_tokens_is_of_the_counter(small: Bench) -> None:
    session = small.session(token_counter=Named(), window=4)
    session.append([Message("system", "s" * 7), *talk(9)])
    for _ in range(2):
        for most in (1, 7, 9, 10, 11, 14, 15, 30, 42, 43, 44):
            view = session.window(max_tokens=most)
            whole = [view.messages[0], *view.messages[1:]]
            cost = sum(item.tokens for item in whole)
            shown = min(18, max(1, (most - 7) // 4 * 2 or (most >= 9)))
            assert texts(view) == ["s" * 7, *[m.text for m in talk(9)][18 - shown :]], most
            assert cost <= most or len(whole) == 2


def test_another_counter_counts_again(small: Bench) -> None:
    """What a view shows is counted at once, the log in the background."""
    session = small.session(token_counter=Named(), window=4)
    session.append([Message("system", "s" * 4), *talk(300)])
    session.take(1, archive=True)
    before = session.info()
    activity = before.last_activity
    other = Watched("doubled", 2)
    again = small.session(token_counter=other, window=4)
    # Two turns are 8 letters, or 16 tokens of the other counter.
    assert texts(again.window(max_tokens=16)) == ["q298", "a298", "q299", "a299"][2:]
    assert texts(again.window(max_tokens=32)) == ["q298", "a298", "q299", "a299"]
    wait_until(lambda: again.info().tokens == 2 * before.tokens, 20, "the log to be counted again")
    wait_until(lambda: counted(again) == {(2, "doubled")}, 20)
    assert len(again.log()) == 601
    info = again.info()
    assert (info.messages, info.archived, info.turns) == (600, 1, 300)
    assert info.last_activity == activity  # nobody said anything
    other.asked.clear()
    for _ in range(2):
        again.window(max_tokens=32)
    assert other.asked == []
    # And back: the first counter finds the other's counts.
    back = small.session(token_counter=Named("letters"), window=4)
    assert texts(back.window(max_tokens=16)) == ["q298", "a298", "q299", "a299"]
    wait_until(lambda: back.info().tokens == before.tokens, 20)


def test_appends_meanwhile_are_counted_too(small: Bench) -> None:
    session = small.session(token_counter=Named())
    session.append(talk(10))
    gate, entered = threading.Event(), threading.Event()

    class Slow(Watched):
        def count(self, message: Message) -> int:
            if threading.current_thread().name == "redis-tiered housekeeping":
                entered.set()
                gate.wait(0.02)
            return super().count(message)

    again = small.session(token_counter=Slow("slow", 3))
    again.window()
    entered.wait(10)
    for i in range(5):
        (again if i % 2 else session).append([Message("human", "12345")])
    gate.set()
    small.drain()
    total = sum(len(text) for text in texts(session.log()))
    # Either counter may have come last; whoever reads now settles it, with counts that agree.

    def settled() -> bool:
        last = small.session(token_counter=Slow("settled", 5))
        last.window()
        return bool(last.info().tokens == 5 * total) and counted(last) == {(5, "settled")}

    wait_until(settled, 20, "all to be counted by one")


def test_a_session_without_messages_yet_takes_the_first_counter(small: Bench) -> None:
    session = small.session(token_counter=Named())
    session.update(agent="a")
    session.window()
    session.append(talk(2))
    session.window()
    again = small.session(token_counter=Named("doubled", 2))
    again.window()
    wait_until(lambda: again.info().tokens == 16, 10, "the log to be counted again")


def test_the_default_counter_counts(small: Bench) -> None:
    session = small.session(token_counter=None)
    session.append(conversation(1))
    assert session.log()[0].tokens > 3
    assert session.log()[0].counter
    plain = small.session()
    assert plain.log()[0].counter in ("approximate-1", session.log()[0].counter)


WRONG = [ValueError("no"), "5", 2.5, True, -1, 2**31, 10**400, float("nan")]


@pytest.mark.parametrize("error", WRONG, ids=lambda e: repr(e)[:20])
def test_a_counter_that_fails(small: Bench, error: object) -> None:
    counter = Failing()
    session = small.session(token_counter=counter)
    session.append([Message("human", "one", "1")])
    session.window()
    before = session.log(), session.info()
    counter.error = error
    for change in (
        lambda: session.append([Message("human", "two")]),
        lambda: session.append([Message("human", "two")], archived=True),
        lambda: session.replace([Message("human", "two")]),
        lambda: session.edit("1", Message("human", "two")),
    ):
        with pytest.raises(InvalidInput, match="token_counter"):
            change()
    small.drain()
    assert (session.log(), session.info()) == before
    # What is counted already can be read.
    assert texts(session.window(max_tokens=5)) == ["one"]
    counter.error = None
    session.append([Message("human", "two")])
    assert session.info().tokens == 2


def test_a_new_counter_that_fails(small: Bench, caplog: pytest.LogCaptureFixture) -> None:
    session = small.session(token_counter=Named())
    session.append(talk(3))
    broken = small.session(token_counter=Failing(ValueError("no")))
    with pytest.raises(InvalidInput, match="token_counter raised ValueError: no"):
        broken.window(max_tokens=5)
    assert len(broken.log()) == 6
    assert broken.info().tokens == 12
    assert broken.count() == 6
    assert texts(session.window(max_tokens=4)) == ["q2", "a2"]
    assert counted(session) == {(1, "letters")}


def test_a_counter_of_a_long_name(small: Bench) -> None:
    name = "\N{GRINNING FACE}" * 100
    session = small.session(token_counter=Named(name))
    session.append(talk(1))
    session.window()
    session.append(talk(1, first=1))
    for _ in range(2):
        assert {item.counter for item in session.window().messages} == {name}
    assert {item.counter for item in session.log()} == {name}


@pytest.mark.parametrize("given", [5, "exact", "", object(), Named, Named(""), Named("a\0")])
def test_what_is_no_counter(small: Bench, given: object) -> None:
    with pytest.raises(InvalidInput, match="token_counter"):
        small.tiers.session("s", token_counter=given)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5))
def test_counts_of_any_size_are_kept(counts: list[int]) -> None:
    for number, tokens in enumerate(counts):
        record = Record(pack(Message("human")), number, tokens, "c", 1, False)
        assert from_item(record.item()) == record
