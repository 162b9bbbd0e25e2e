"""A session that is summarised: what the user's function is given, when, and what is kept of it."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from redis_tiered import Message, Stored, Tiers, Window
from redis_tiered.errors import InvalidInput
from tests.sessions.twin import Bench, Named, Twin, calls, conversation, talk, texts
from tests.waiting import wait_until


class Summarizer:
    """Joins the texts it is given; keeps what it was called with."""

    def __init__(self) -> None:
        self.given: list[tuple[Message | None, list[str]]] = []

    def __call__(self, previous: Message | None, overflow: tuple[Stored, ...]) -> Message | None:
        assert isinstance(overflow, tuple)
        self.given.append((previous, [item.message.text for item in overflow]))
        text = (previous.text + "," if previous else "") + ",".join(self.given[-1][1])
        return Message("system", text)

    @property
    def seen(self) -> list[str]:
        """Every message it was ever given, in order."""
        return [text for _, part in self.given for text in part]


def head(window: Window) -> str | None:
    """The text of the summary in a view."""
    found = [item.message.text for item in window.messages if item.sequence == -1]
    assert len(found) <= 1
    return found[0] if found else None


def test_what_falls_out_is_summarised_once(small: Bench) -> None:
    summarize = Summarizer()
    session = small.session(summarize=summarize)
    session.append(conversation(2))
    for _ in range(2):
        window = session.window(max_messages=5)
        assert texts(window) == ["be kind", "q0", "a0", "q1", "a1"]
        assert window.hidden == 0
    assert summarize.given == []
    session.append(talk(1, first=2))
    for _ in range(3):
        window = session.window(max_messages=6)
        # Seven messages and a summary: the summary itself takes a place.
        assert texts(window) == ["be kind", "q0,a0", "q1", "a1", "q2", "a2"]
        assert window.hidden == 2
    assert summarize.given == [(None, ["q0", "a0"])]
    session.append(talk(1, first=3))
    for _ in range(2):
        window = session.window(max_messages=6)
        assert texts(window) == ["be kind", "q0,a0,q1,a1", "q2", "a2", "q3", "a3"]
    previous, overflow = summarize.given[1]
    assert previous is not None
    assert previous.text == "q0,a0"
    assert previous.id
    assert overflow == ["q1", "a1"]
    assert len(summarize.given) == 2
    # The log has no summary in it, and its counts neither.
    assert texts(session.log()) == [message.text for message in conversation(4)]
    assert session.count() == session.info().messages == 9
    assert session.search("q0,a0") == ()
    # Nothing is hidden: nothing needs to stand for it.
    assert head(session.window()) is None
    assert head(session.window(max_messages=50)) is None
    assert len(summarize.given) == 2


def test_limits_count_the_summary(small: Bench) -> None:
    summarize = Summarizer()
    session = small.session(summarize=summarize, token_counter=Named())
    session.append([Message("system", "s" * 10), *talk(8)])  # 10 and 16 * 2 tokens
    for most in (3, 4, 5, 8, 12):
        window = session.window(max_messages=most)
        assert len(window.messages) <= most
        assert head(window) is not None
    for most in (80, 90):
        window = session.window(max_tokens=most)
        assert sum(len(text) for text in texts(window)) <= most, texts(window)
    assert summarize.seen == list(dict.fromkeys(summarize.seen))  # never one twice
    assert summarize.seen == [message.text for message in talk(8)][: len(summarize.seen)]
    bare = session.window(max_messages=4, include_system=False)
    assert texts(bare)[0] == head(bare)
    assert len(bare.messages) == 3  # whole turns


def test_calls_and_their_results_fall_out_together(small: Bench) -> None:
    summarize = Summarizer()
    session = small.session(summarize=summarize)
    session.append([*calls(0), *calls(1), *calls(2)])
    session.window(max_messages=6)
    session.window(max_messages=4)
    for _, part in summarize.given:
        assert {"c0" in part, "x0" in part, "y0" in part} in ({True}, {False})
    assert summarize.seen == list(dict.fromkeys(summarize.seen))


def test_others_see_it_without_a_function(small: Bench) -> None:
    summarize = Summarizer()
    session = small.session(summarize=summarize)
    session.append(talk(5))
    wanted = texts(session.window(max_messages=3))
    assert len(wanted) == 3
    assert head(session.window(max_messages=3)) is not None
    count = len(summarize.given)
    same = small.session(summarize=summarize)
    plain = small.session()
    with pickle.loads(pickle.dumps(small.tiers)) as tiers:
        elsewhere = small.session(tiers=tiers, summarize=summarize)
        for each in (same, plain, elsewhere):
            assert texts(each.window(max_messages=3)) == wanted
        small.forget_windows() if small.durability != "none" else None
        for each in (same, plain, elsewhere):
            assert texts(each.window(max_messages=3)) == wanted
        session.close()
        assert texts(elsewhere.window(max_messages=3)) == wanted
        if elsewhere.loop is not None:
            elsewhere.loop.run_until_complete(tiers.aclose())
    assert len(summarize.given) == count


def test_a_coroutine_function(small: Bench) -> None:
    summarize = Summarizer()

    async def function(previous: Message | None, overflow: tuple[Stored, ...]) -> Message | None:
        await asyncio.sleep(0)
        return summarize(previous, overflow)

    class Awaited:
        async def __call__(
            self, previous: Message | None, overflow: tuple[Stored, ...]
        ) -> Message | None:
            return await function(previous, overflow)

    for number, given in enumerate((function, Awaited())):
        session = small.session(f"s{number}", summarize=given)
        session.append(talk(4))
        if small.kind == "sync":
            with pytest.raises(InvalidInput, match="awindow"):
                session.window(max_messages=3)
            assert session.count() == 8  # everything else works
            continue
        assert head(session.window(max_messages=3)) == "q0,a0,q1,a1,q2,a2"


class Broken(Exception):
    pass


def _raises(previous: object, overflow: object) -> Message:
    raise Broken("sk-secret")


@pytest.mark.parametrize(
    ("result", "warns"),
    [
        (_raises, True),
        (lambda *_: "a text", True),
        (lambda *_: 5, True),
        (lambda *_: Message("nobody", "x"), True),
        (lambda *_: Message("system", "\ud800"), True),
        (lambda *_: Message("system", native=b"x" * (33 << 20)), True),
        (lambda *_: None, False),
    ],
    ids=["raises", "str", "int", "role", "surrogate", "huge", "None"],
)
def test_a_function_that_fails_hides_nothing_but_the_summary(
    small: Bench,
    result: Callable[..., Any],
    warns: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good, bad = Summarizer(), small.session(summarize=result)
    bad.append(talk(3))
    with caplog.at_level(logging.WARNING, "redis_tiered"):
        window = bad.window(max_messages=3)
    assert texts(window) == ["q2", "a2"]
    assert window.hidden == 4
    assert ("summar" in caplog.text) == warns
    assert "sk-secret" not in caplog.text
    # Nothing was lost for the next who can, and it need not wait for a lease.
    session = small.session(summarize=good)
    assert texts(session.window(max_messages=3)) == ["q0,a0,q1,a1", "q2", "a2"]
    bad.append(talk(1, first=3))
    # The one before is still shown, and stands for what it stood for.
    assert texts(bad.window(max_messages=3)) == ["q0,a0,q1,a1", "q3", "a3"]
    assert texts(session.window(max_messages=3)) == ["q0,a0,q1,a1,q2,a2", "q3", "a3"]
    assert good.seen == [message.text for message in talk(3)]


def test_readers_at_once_call_it_once(small: Bench) -> None:
    summarize = Summarizer()
    release = threading.Event()

    def slow(previous: Message | None, overflow: tuple[Stored, ...]) -> Message | None:
        made = summarize(previous, overflow)
        release.wait(10)
        return made

    session = small.session(summarize=slow)
    session.append(talk(5))

    views: list[list[str]] = []
    if small.loop is None:
        with ThreadPoolExecutor(5) as pool:
            first = pool.submit(session.window, max_messages=4)
            wait_until(lambda: summarize.given)
            # The others do not wait: they see the view without a summary.
            for other in [pool.submit(session.window, max_messages=4) for _ in range(4)]:
                views.append(texts(other.result(10)))
            release.set()
            found = first.result(10)
    else:

        async def read() -> Window:
            window = session.session.awindow
            first = asyncio.ensure_future(window(max_messages=4))
            while not summarize.given:
                await asyncio.sleep(0.001)
            for view in await asyncio.gather(*(window(max_messages=4) for _ in range(4))):
                views.append(texts(view))
            release.set()
            return await first

        found = small.loop.run_until_complete(read())
    assert views == [["q3", "a3", "q4", "a4"]] * 4
    assert summarize.seen == list(dict.fromkeys(summarize.seen))
    assert texts(session.window(max_messages=4)) == texts(found)
    assert head(found) == ",".join(summarize.seen)


def test_a_huge_overflow_comes_in_pages(small: Bench) -> None:
    summarize = Summarizer()
    session = small.session(summarize=summarize, window=20)
    session.append(talk(600))
    session.window(max_messages=5)
    assert summarize.seen == [message.text for message in talk(600)][:1196]
    assert 2 < len(summarize.given) < 5
    for (previous, _), (_, before) in zip(summarize.given[1:], summarize.given, strict=False):
        assert previous is not None
        assert previous.text.endswith(before[-1])
    count = len(summarize.given)
    assert len(session.window(max_messages=5).messages) == 5
    session.window(max_messages=400)  # what is shown now is in the summary as well
    assert len(summarize.given) == count


def test_changes_below_what_is_summarised(small: Bench) -> None:
    """A summary is of what was said then; it does not follow edits."""
    summarize = Summarizer()
    session = small.session(summarize=summarize)
    session.append([Message("human", f"m{i}", f"{i}") for i in range(8)])
    session.window(max_messages=4)
    assert summarize.seen == ["m0", "m1", "m2", "m3", "m4"]
    session.edit("1", Message("human", "edited"))
    session.delete("0")
    session.take(1)
    count = len(summarize.given)
    for _ in range(2):
        assert texts(session.window(max_messages=4)) == ["m0,m1,m2,m3,m4", "m5", "m6", "m7"]
    assert len(summarize.given) == count
    # Where the summary ends is gone too; the next overflow goes on behind it.
    session.delete("4")
    session.delete("5")
    session.say("m8", "m9")
    assert texts(session.window(max_messages=4)) == ["m0,m1,m2,m3,m4,m6", "m7", "m8", "m9"]
    # All of it is gone: there is nothing that a summary could stand for.
    session.take(3, archive=True)
    window = session.window(max_messages=4)
    assert texts(window) == ["m7", "m8", "m9"]
    session.say("m10", "m11")
    assert texts(session.window(max_messages=4))[1:] == ["m9", "m10", "m11"]
    assert summarize.given[-1][1] == ["m7", "m8"]


def test_a_gap_behind_the_summary_is_not_looked_into_again_and_again(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    summarize = Summarizer()
    session = small.session(summarize=summarize, window=4)
    session.append([Message("human", f"m{i}", f"{i}") for i in range(8)])
    session.window(max_messages=4)
    session.delete("5")
    assert texts(session.window(max_messages=3)) == ["m0,m1,m2,m3,m4", "m6", "m7"]
    asked: list[object] = []
    log = session.session._log
    page = log.page
    monkeypatch.setattr(log, "page", lambda *a, **k: (asked.append(a), page(*a, **k))[1])
    for _ in range(3):
        assert texts(session.window(max_messages=3)) == ["m0,m1,m2,m3,m4", "m6", "m7"]
    assert asked == []


@pytest.mark.parametrize("how", ["clear", "replace", "forget"])
def test_a_new_beginning_has_no_summary(small: Bench, how: str) -> None:
    summarize = Summarizer()
    session = small.session(summarize=summarize)
    session.append(talk(4))
    assert head(session.window(max_messages=3)) is not None
    if how == "replace":
        session.replace(talk(4, first=10))
    else:
        getattr(session, how)()
        session.append(talk(4, first=10))
    summarize.given.clear()
    assert head(session.window(max_messages=3)) == "q10,a10,q11,a11,q12,a12"
    assert summarize.given[0][0] is None


def test_a_summary_is_no_activity(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = small.session(summarize=Summarizer())
    with monkeypatch.context() as frozen:
        frozen.setattr("redis_tiered.sessions.log.time.time", lambda: 2e9)
        session.append(talk(4))
        small.drain()
    session.window(max_messages=3)
    assert session.info().last_activity == 2_000_000_000_000


def test_what_is_stored_of_a_summary(small: Bench) -> None:
    session = small.session(summarize=Summarizer(), token_counter=Named())
    session.append(talk(4))
    [summary, *_] = session.window(max_messages=3).messages
    assert summary.sequence == -1
    assert summary.message.role == "system"
    assert (summary.tokens, summary.counter) == (len(summary.message.text), "letters")
    again: Twin = small.session(token_counter=Named())
    [other, *_] = again.window(max_messages=3).messages
    assert other.message == summary.message


def test_a_function_is_what_is_asked_for(small: Bench) -> None:
    tiers: Tiers = small.tiers
    for given in (5, "text", Message("system")):
        with pytest.raises(InvalidInput, match="summarize"):
            tiers.session("s", summarize=given)
