"""A session over every tier: what each operation does, and what is left behind in Redis."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.crc import key_slot

from redis_tiered import Message, Session, ToolCall
from redis_tiered.errors import InvalidInput
from tests.sessions.twin import Bench, Twin, calls, conversation, raw, talk, texts
from tests.waiting import wait_until

KEPT = (b":meta", b":window", b":ids")


def key_of(bench: Bench, session: Twin, name: bytes) -> bytes:
    """A key of the one session that there is, which is in Redis when this returns."""
    bench.drain()  # what was accepted twice drops its window
    session.window()
    [key] = [key for key in bench.stored_keys() if key.endswith(name)]
    return key


def check(session: Twin, active: list[str], archived: list[str] = []) -> None:  # noqa: B006
    """Everything that tells what a session holds agrees: from Redis, from the log, and its counts."""
    for _ in range(2):  # the second view comes from Redis
        window = session.window()
        assert texts(window) == active
        assert window.hidden == 0
    assert texts(session.log(archived=False)) == active
    assert texts(session.log(archived=True)) == archived
    every = session.log()
    assert sorted(texts(every)) == sorted(active + archived)
    sequences = [item.sequence for item in every]
    assert sequences == sorted(set(sequences))
    shown = [item for item in every if not item.archived]
    for info in (session.info(), window.info):
        assert info is not None
        assert (info.messages, info.archived) == (len(active), len(archived))
        assert info.turns == sum(item.message.role == "human" for item in shown)
        assert info.tokens == sum(item.tokens for item in shown)
    assert session.count() == len(active)
    assert session.count(archived=True) == len(archived)
    assert session.count(archived=None) == len(active) + len(archived)


def check_absent(session: Twin) -> None:
    for _ in range(2):
        assert session.window().messages == ()
        assert session.window().info is None
        assert session.info() is None
        assert session.count(archived=None) == 0
        assert session.log() == ()
        assert session.search("a") == ()


# Appending.


def test_a_session_that_never_was(small: Bench) -> None:
    session = small.session()
    check_absent(session)
    assert session.append([]) == ()
    assert session.edit("x", Message("human", "x")) is False
    assert session.delete("x") is None
    assert session.pop() is None
    assert session.pop(0) is None
    assert session.take(3) == ()
    assert session.forget() == ()
    session.close()
    session.clear()
    check_absent(session)
    assert small.list().sessions == ()


def test_order_and_sequences(bench: Bench) -> None:
    session = bench.session()
    said = conversation(4)
    for message in said[:3]:
        [id] = session.append([message])
        assert id
    session.window()  # from here on there is a window to append to
    for message in said[3:6]:
        session.append([message])
    assert len(set(session.append(said[6:]))) == len(said[6:])
    check(session, [message.text for message in said])
    assert [item.sequence for item in session.log()] == list(range(len(said)))
    window = session.window()
    assert [item.sequence for item in window.messages] == list(range(len(said)))
    assert window.info.started <= window.messages[0].created
    assert window.info.last_activity >= window.messages[6].created
    bench.drain()
    session.window()
    assert session.window().tier == "redis"
    assert (window.info.id, window.info.tenant) == ("s", bench.tiers.keys.tenant)
    assert (window.info.status, window.info.agent, window.info.context) == ("active", None, {})


def test_every_attribute_comes_back(small: Bench) -> None:
    said = [
        Message("system", "", "first"),
        Message("human", "é\0 \U0001f600 %_'\"\\", name="A:{b}*\0"),
        Message(
            "ai", "", "i", "n", (ToolCall(None, "f", {"a": [1, None]}), ToolCall("c", "g", "{"))
        ),
        Message("tool", "r", tool_call_id="c", media=("image", "document")),
        Message("other", "x" * 9000, thinking="hm", format="llamaindex", native=bytes(range(256))),
    ]
    session = small.session()
    ids = session.append(said[:2]) + session.append(said[2:])
    assert ids[0] == "first"
    assert ids[2] == "i"
    for items in (session.log(), session.window().messages, session.window().messages):
        found = [item.message for item in items]
        assert [item.id for item in found] == list(ids)
        for message, wanted in zip(found, said, strict=True):
            assert message == Message(
                **{name: getattr(wanted, name) for name in Message.__slots__} | {"id": message.id}
            )


@pytest.mark.parametrize("warm", [False, True])
def test_an_id_that_is_there_changes_nothing(bench: Bench, warm: bool) -> None:
    session = bench.session(window=3)
    one = [Message("human", "one", "1"), Message("ai", "two", "2")]
    again = [Message("ai", "other", "1"), Message("human", "three", "3"), Message("ai", "4", "3")]
    assert session.append(one) == ("1", "2")
    if warm:
        session.window()
    assert session.append(again) == ("1", "3", "3")
    assert session.append(one) == ("1", "2")
    check(session, ["one", "two", "three"])
    session.say("a", "b", "c", "d")
    session.window()
    session.append(one)  # its window does not know the id any more
    bench.drain()
    check(session, ["one", "two", "three", "a", "b", "c", "d"])
    session.append([Message("human", "kept", "k")], archived=True)
    session.append([Message("human", "kept", "k")])
    bench.drain()
    check(session, ["one", "two", "three", "a", "b", "c", "d"], ["kept"])


def test_an_id_that_is_there_takes_no_place(small: Bench) -> None:
    session = small.session(window=2)
    session.append([Message("human", text, text) for text in "abcdef"])
    session.window()
    session.append([Message("human", "again", "f"), Message("human", "g", "g")])
    session.append([Message("human", "h", "h"), Message("human", "again", "g")])
    session.append([Message("human", "i", "i"), Message("human", "again", "i")])
    check(session, list("abcdefghi"))
    assert [item.sequence for item in session.log()] == list(range(9))
    assert [item.sequence for item in session.window().messages] == list(range(9))


def test_archived_messages_are_in_the_log_alone(small: Bench) -> None:
    session = small.session(window=4)
    session.append([Message("system", "hidden")], archived=True)
    session.append(conversation(1))
    session.window()
    session.append([Message("human", "aside"), Message("ai", "too")], archived=True)
    session.say("end")
    check(session, ["be kind", "q0", "a0", "end"], ["hidden", "aside", "too"])
    assert texts(session.window(max_messages=2)) == ["be kind", "end"]
    assert texts(session.search("aside")) == ["aside"]


# Changing what is there.


def test_edit(small: Bench) -> None:
    session = small.session()
    session.append([Message("human", "one", "1"), Message("ai", "two", "2")])
    session.append([Message("human", "old", "3")], archived=True)
    before = session.log()
    session.window()
    assert session.edit("2", Message("human", "TWO, and longer by far"))
    assert session.edit("1", Message("ai", "ONE", "1"))
    assert session.edit("3", Message("ai", "new"))
    assert not session.edit("4", Message("ai", "x"))
    check(session, ["ONE", "TWO, and longer by far"], ["new"])
    after = session.log()
    assert [item.message.id for item in after] == ["1", "2", "3"]
    for old, new in zip(before, after, strict=True):
        assert (old.sequence, old.created) == (new.sequence, new.created)
    assert texts(session.search("longer")) == ["TWO, and longer by far"]
    assert session.search("two ") == ()
    with pytest.raises(InvalidInput, match="id"):
        session.edit("1", Message("ai", "x", "2"))


def test_the_leading_system_message_is_edited_deleted_and_comes_again(small: Bench) -> None:
    session = small.session(window=2)
    session.append([Message("system", "one", "s"), *talk(3)])
    assert texts(session.window(max_messages=3)) == ["one", "q2", "a2"]
    session.edit("s", Message("system", "two"))
    assert texts(session.window(max_messages=3)) == ["two", "q2", "a2"]
    session.edit("s", Message("human", "three"))
    assert texts(session.window(max_messages=2)) == ["q2", "a2"]
    session.edit("s", Message("system", "four"))
    assert texts(session.window(max_messages=3)) == ["four", "q2", "a2"]
    assert session.delete("s").message.text == "four"
    assert texts(session.window(max_messages=3)) == ["q2", "a2"]
    session.forget()
    session.append([Message("system", "five"), *talk(1)])
    assert texts(session.window(max_messages=3)) == ["five", "q0", "a0"]


def test_delete_and_pop(bench: Bench) -> None:
    session = bench.session(window=3)
    session.append([Message("human", text, text) for text in "abcdefg"])
    session.append([Message("human", "z", "z")], archived=True)
    session.window()
    assert session.delete("c").message.text == "c"
    assert session.delete("c") is None
    check(session, list("abdefg"), ["z"])
    assert session.pop().message.text == "g"  # not the archived one
    assert session.pop(-2).message.text == "e"
    assert session.pop(0).message.text == "a"
    assert session.pop(2).message.text == "f"
    assert session.pop(2) is None
    assert session.pop(-3) is None
    check(session, list("bd"), ["z"])
    assert session.delete("z").archived
    check(session, list("bd"))
    session.append([Message("human", "again", "c")])  # its id is free, its place is not
    assert session.log()[-1].sequence == 8
    check(session, ["b", "d", "again"])


def test_take(small: Bench) -> None:
    session = small.session()
    session.append(conversation(3))
    session.window()
    assert session.take(0) == ()
    assert texts(session.take(2, archive=True)) == ["be kind", "q0"]
    check(session, ["a0", "q1", "a1", "q2", "a2"], ["be kind", "q0"])
    assert texts(session.take(1)) == ["a0"]
    check(session, ["q1", "a1", "q2", "a2"], ["be kind", "q0"])
    assert texts(session.take(99, archive=True)) == ["q1", "a1", "q2", "a2"]
    check(session, [], ["be kind", "q0", "q1", "a1", "q2", "a2"])
    assert session.take(1) == ()
    session.say("new")
    check(session, ["new"], ["be kind", "q0", "q1", "a1", "q2", "a2"])


def test_forget(small: Bench) -> None:
    session = small.session()
    session.append(conversation(2))
    session.update(agent="a", context={"k": 1})
    session.take(2, archive=True)
    session.window()
    assert texts(session.forget(archived=True)) == ["be kind", "q0"]
    check(session, ["a0", "q1", "a1"])
    session.take(1, archive=True)
    assert texts(session.forget(archived=False)) == ["q1", "a1"]
    check(session, [], ["a0"])
    session.say("b")
    assert sorted(texts(session.forget())) == ["a0", "b"]
    check(session, [])
    assert session.forget() == ()
    info = session.info()
    assert (info.status, info.agent, info.context) == ("active", "a", {"k": 1})
    session.say("c")
    assert session.log()[0].sequence == 6


def test_replace(small: Bench) -> None:
    session = small.session()
    session.replace(talk(1))  # of a session that is not there
    check(session, ["q0", "a0"])
    session.append([Message("human", "old")], archived=True)
    session.update(context={"k": 1})
    session.window()
    ids = session.replace([Message("ai", "x", "1"), Message("ai", "y"), Message("ai", "z", "1")])
    assert (ids[0], ids[2]) == ("1", "1")
    check(session, ["x", "y"])
    assert [item.sequence for item in session.log()] == [3, 4]
    session.replace([Message("human", "kept")], archived=True)
    check(session, [], ["kept"])
    session.close()
    session.replace([])
    check(session, [])
    info = session.info()
    assert (info.status, info.context, info.tokens, info.turns) == ("active", {"k": 1}, 0, 0)


def test_update(small: Bench) -> None:
    session = small.session()
    session.update(agent="support:{1}*")
    info = session.info()
    assert (info.agent, info.messages, info.status) == ("support:{1}*", 0, "active")
    session.update(context={"a": {"b": [1, 2.5, "é\0", None]}, "c": 1})
    session.window()
    session.say("hello")
    session.update(context={"c": None, "d": True})
    session.update()
    session.update(agent="other")
    for _ in range(2):
        info = session.window().info
        assert info.context == {"a": {"b": [1, 2.5, "é\0", None]}, "d": True}
        assert info.agent == "other"
    info.context["a"] = "spoilt"  # the caller's own copy
    assert session.info().context["a"] == {"b": [1, 2.5, "é\0", None]}
    with pytest.raises(InvalidInput, match="context has"):
        session.update(context={"huge": "x" * (1 << 20)})
    assert set(session.info().context) == {"a", "d"}
    check(session, ["hello"])


def test_close_drops_the_window_and_an_append_reopens(small: Bench) -> None:
    session = small.session()
    session.append(conversation(2))
    session.window()
    session.close()
    if small.durability != "none":  # there is nothing but the window
        assert not [key for key in small.stored_keys() if key.endswith(b":window")]
    assert session.info().status == "closed"
    check(session, [message.text for message in conversation(2)])
    session.close()
    session.update(context={"noted": "after"})
    assert session.info().status == "closed"
    session.append([Message("human", "again", "i")])
    assert session.info().status == "active"
    session.close()
    session.append([Message("human", "again", "i")])  # nothing new, and yet somebody is there
    assert session.info().status == "active"
    check(session, [*(message.text for message in conversation(2)), "again"])


def test_clear_leaves_nothing(small: Bench) -> None:
    session, other = small.session(), small.session("other")
    for each in (session, other):
        each.append(conversation(3))
        each.append(talk(1), archived=True)
        each.update(context={"k": 1}, agent="a")
        each.window()
    kept = {key for key in small.stored_keys() if b"other" in key}
    session.clear()
    left = {key for key in small.stored_keys() if not key.endswith((b":queue", b":index"))}
    assert left == kept
    check_absent(session)
    session.clear()
    if small.lists:
        assert [info.id for info in small.list().sessions] == ["other"]
    session.say("new")
    check(session, ["new"])
    assert session.log()[0].sequence == 0
    assert session.info().context == {}
    assert other.count(archived=None) == 9


# Views.


def test_more_messages_than_redis_holds(bench: Bench) -> None:
    session = bench.session(window=5)
    said = conversation(30)
    session.append(said[:31])
    session.window(max_messages=3)
    for message in said[31:]:
        session.append([message])
    wanted = [message.text for message in said]
    check(session, wanted)
    if bench.durability != "none":
        with raw(bench.url) as client:
            assert client.llen(key_of(bench, session, b":window")) == 5
    for _ in range(2):
        for limits, shown in (
            ({"max_messages": 1}, 1),
            ({"max_messages": 4}, 2),
            ({"max_messages": 5}, 4),
            ({"max_messages": 12}, 10),
            ({"max_messages": 60}, 58),
            ({"max_messages": 61}, 60),
            ({"max_messages": 10**30}, 60),
            ({"turns": 1}, 2),
            ({"turns": 17}, 34),
            ({"turns": 10**20}, 60),
            ({"max_tokens": 10**20}, 60),
            ({"turns": 9, "max_messages": 8}, 6),
        ):
            view = session.window(**limits)
            assert texts(view) == ["be kind", *wanted[len(wanted) - shown :]], limits
            assert view.hidden == 60 - shown
            bare = session.window(include_system=False, **limits)
            assert bare.hidden == len(wanted) - len(bare.messages)
            assert "be kind" not in texts(bare)
    assert texts(session.window(turns=2, include_system=False)) == ["q28", "a28", "q29", "a29"]


def test_a_first_append_that_is_longer_than_a_window(small: Bench) -> None:
    session = small.session(window=4)
    session.update(agent="a")
    session.window()
    session.append(conversation(5))
    for _ in range(2):
        assert texts(session.window(max_messages=3)) == ["be kind", "q4", "a4"]


def test_a_system_message_larger_than_the_limit(small: Bench) -> None:
    session = small.session(window=3)
    session.append([Message("system", "long " * 100), *talk(4)])
    for _ in range(2):
        view = session.window(max_tokens=20)
        assert texts(view) == ["long " * 100, "a3"]  # the newest is shown always
        assert view.hidden == 7
        each = session.log()[-1].tokens
        assert texts(session.window(max_tokens=each * 2, include_system=False)) == ["q3", "a3"]
        assert texts(session.window(max_messages=1, include_system=False)) == ["a3"]


def test_a_call_and_its_results_stay_together(small: Bench) -> None:
    session = small.session(window=3)
    session.append([Message("system", "s"), *calls(0), *calls(1)])
    for _ in range(2):
        assert texts(session.window(max_messages=2)) == ["s", "a1"]
        assert texts(session.window(max_messages=4)) == ["s", "a1"]
        assert texts(session.window(max_messages=5)) == ["s", "c1", "x1", "y1", "a1"]
        assert texts(session.window(max_messages=6)) == ["s", "q1", "c1", "x1", "y1", "a1"]
        assert texts(session.window(turns=1)) == ["s", "q1", "c1", "x1", "y1", "a1"]
    session.append(calls(2)[:3])  # a result is still to come
    for _ in range(2):
        assert texts(session.window(max_messages=2)) == ["s", "c2", "x2"]


def test_paging_the_log(small: Bench) -> None:
    session = small.session(window=2)
    session.append([Message("human", text) for text in "abcdefg"])
    session.take(2, archive=True)
    session.pop(1)
    kept = list("abcefg")
    for order, wanted in (("oldest", kept), ("newest", kept[::-1])):
        assert texts(session.log(order=order)) == wanted
        for limit in (1, 2, 4, 6, 9):
            pages = [texts(session.log(at, limit, order=order)) for at in range(0, 12, limit)]
            assert list(itertools.chain(*pages)) == wanted
        assert texts(session.log(2, None, order=order)) == wanted[2:]
        assert session.log(0, 0, order=order) == ()
        assert session.log(6, 1, order=order) == ()
        assert session.log(2**62, 2**62, order=order) == ()
        assert (
            texts(session.log(1, 2, order=order, archived=True))
            == [text for text in wanted if text in "ab"][1:3]
        )
        assert (
            texts(session.log(1, 2, order=order, archived=False))
            == [text for text in wanted if text not in "ab"][1:3]
        )


def test_search(bench: Bench) -> None:
    session = bench.session(window=2)
    said = [
        "Straße 100%_sure",
        "STRASSE 100",
        "ΣΊΣΥΦΟΣ",
        'it\'s "quoted" \\ back',
        "nul\0inside",
        "\U0001f600 smile",
        "e\u0301 is not é",
        "İstanbul",
        "line\nbreak",
    ]
    session.say(*said)
    session.take(1, archive=True)
    for wanted, found in (
        ("strasse", [1, 0]),
        ("STRAßE 1", [1, 0]),
        ("100%", [0]),
        ("%", [0]),
        ("_", [0]),
        ("a_r", []),
        ("σίσυφος", [2]),
        ("'", [3]),
        ('"QUOTED"', [3]),
        ("\\ b", [3]),
        ("\0", [4]),
        ("NUL\0INS", [4]),
        ("\U0001f600", [5]),
        ("\U0001f601", []),
        ("é", [6]),
        ("İ", [7]),
        ("\n", [8]),
        ("100", [1, 0]),
    ):
        assert texts(session.search(wanted)) == [said[i] for i in found], wanted
    assert texts(session.search("s", limit=2)) == texts(session.search("s"))[:2]
    assert texts(session.search("s", offset=1, limit=2)) == texts(session.search("s"))[1:3]
    assert session.search("s", limit=0) == ()
    assert session.search("s", offset=99) == ()
    assert session.search("x" * 100_000) == ()


# Many sessions.


def test_listing_many_of_one_millisecond(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant's sessions, the latest active first; of one moment, in one order whatever the page."""
    ids = [f"a:{i}*{{}}" for i in range(12)]
    with monkeypatch.context() as frozen:
        frozen.setattr("redis_tiered.sessions.log.time.time", lambda: 2e9)
        for id in ids:
            bench.session(id).say("x")
        bench.drain()
    later = bench.session("later")
    with monkeypatch.context() as frozen:
        frozen.setattr("redis_tiered.sessions.log.time.time", lambda: 2e9 + 1)
        later.say("x")
        later.update(agent="me")
        for id in ids[:5]:
            bench.session(id).close()
    if not bench.lists:
        assert bench.list().sessions == ()
        return
    bench.drain()

    def listed(limit: int, **options: Any) -> list[str]:
        found, after = [], None
        while True:
            page = bench.list(limit=limit, after=after, **options)
            assert len(page.sessions) <= limit
            found += [info.id for info in page.sessions]
            if (after := page.next) is None:
                return found
            assert len(page.sessions) == limit

    wanted = listed(1000)
    assert set(wanted[:6]) == {"later", *ids[:5]}
    assert set(wanted[6:]) == set(ids[5:])
    for limit in (1, 2, 3, 5, 6, 13):
        assert listed(limit) == wanted
        assert listed(limit, status="active") == [i for i in wanted if i not in ids[:5]]
        assert listed(limit, status="closed") == [i for i in wanted if i in ids[:5]]
    [info] = [info for info in bench.list().sessions if info.id == "later"]
    assert info == later.info()
    assert info.agent == "me"
    assert listed(50, tenant="nobody") == []
    assert listed(50, tenant=bench.tiers.keys.tenant) == wanted
    exact = bench.list(limit=13)
    assert exact.next is None  # these were the last


def test_a_session_that_ends_early_takes_no_other_from_the_list(
    small: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as frozen:
        for number, ttl in enumerate((7200, 60, 5, 7200)):
            frozen.setattr("redis_tiered.sessions.log.time.time", lambda at=number: 2e9 + at * 600)
            small.session(f"s{number}", ttl=ttl).say("x")
            small.drain()
        found = [info.id for info in small.list().sessions]
        assert found == ["s3", "s2", "s1", "s0"]
        assert [info.id for info in small.list(limit=4).sessions] == found
        # Nothing was heard of any of them for longer than the longest may live.
        frozen.setattr("redis_tiered.sessions.log.time.time", lambda: 2e9 + 9600)
        small.session("end", ttl=5).say("x")
    if small.durability == "none":
        with raw(small.url) as client:
            [key] = [key for key in small.stored_keys() if key.endswith(b":index")]
            assert client.zcard(key) == 2  # and the longest time to live
            assert 7_000_000 < client.pttl(key) <= 7_200_000


def test_tenants_and_odd_ids_do_not_meet(small: Bench) -> None:
    tenant = small.tiers.keys.tenant
    ids = ["a", "A", "a:", ":a", "{a}", "a}", "*", "a*", "a b", "a%3A", "a\0", "\n", "é", "e\u0301"]
    ids += ["a\u200b", "\U0001f600", "..", "a/b", "q05", "s:index", "x" * 256]
    sessions = {id: small.session(id) for id in ids}
    elsewhere = small.session("a", tiers=small.tiers.tenant(tenant + ":x"))
    for id, session in sessions.items():
        session.say(id)
    elsewhere.say("elsewhere")
    for id, session in sessions.items():
        assert texts(session.window()) == [id]
        assert texts(session.log()) == [id]
    assert texts(elsewhere.window()) == ["elsewhere"]
    if small.lists:
        small.drain()
        assert sorted(info.id for info in small.list().sessions) == sorted(ids)
    sessions["a"].clear()
    assert texts(elsewhere.window()) == ["elsewhere"]
    assert texts(sessions["a*"].window()) == ["a*"]
    assert small.session("a:").count() == 1
    elsewhere.clear()


# What is in Redis.


def test_keys_of_a_session_share_a_slot_and_end(bench: Bench) -> None:
    ids = [f"s{i}:{{}}" for i in range(3)]
    for id in ids:
        session = bench.session(id, ttl=100)
        session.append(conversation(3))
        session.window()
        session.say("more")
        session.window()
    bench.drain()  # what was accepted twice drops its window
    for id in ids:
        bench.session(id, ttl=100).window()
    slots = defaultdict(set)
    for key, left in bench.ttls().items():
        name = key.rpartition(b":")[2]
        if name == b"queue":  # what is accepted, not a copy: it has no end of its own
            continue
        assert 0 < left <= 100_000, key
        if name in (b"meta", b"window", b"ids"):
            [owner] = [id for id in ids if id.encode()[:2] in key]
            slots[owner].add(key_slot(key))
    assert {id: len(found) for id, found in slots.items()} == dict.fromkeys(ids, 1)


def test_reading_keeps_a_window_alive(small: Bench) -> None:
    session = small.session(ttl=50)
    session.append(conversation(3))
    session.window()

    def shortened() -> None:
        small.drain()
        session.window()
        keys = [key for key in small.stored_keys() if key.endswith(KEPT)]
        assert keys
        with raw(small.url) as client:
            for key in keys:
                client.pexpire(key, 20_000)

    for use in (
        session.window,
        session.info,
        session.count,
        lambda: session.window(max_messages=2),
        lambda: session.say("x"),
    ):
        shortened()
        use()
        lives = {key: left for key, left in small.ttls().items() if key.endswith(KEPT)}
        assert lives
        assert all(40_000 < left <= 50_000 for left in lives.values()), use


def test_a_window_that_is_lost_in_part_or_whole(small: Bench) -> None:
    """Redis evicts keys one by one; the log knows what was in them."""
    if small.durability == "none":
        pytest.skip("nothing else knows")
    session = small.session(window=4)
    session.append(conversation(6))
    session.window()
    for name in (b":meta", b":window"):
        key = key_of(small, session, name)
        with raw(small.url) as client:
            client.delete(key)
        check(session, [message.text for message in conversation(6)])
        with raw(small.url) as client:
            client.delete(key)
        session.say("x")
        assert session.pop().message.text == "x"
        check(session, [message.text for message in conversation(6)])
    small.forget_windows()
    session.say("end")
    check(session, [*(message.text for message in conversation(6)), "end"])


def test_foreign_bytes_in_a_window(small: Bench) -> None:
    if small.durability == "none":
        pytest.skip("nothing else knows; see test_session_input")
    session = small.session()
    wanted = [message.text for message in conversation(2)]
    session.append(conversation(2))
    spoil: list[Callable[[Any, bytes, bytes], object]] = [
        lambda client, meta, window: client.lset(window, 1, b"nonsense"),
        lambda client, meta, window: client.lset(window, 1, b""),
        lambda client, meta, window: client.hset(meta, "v", "x"),
        lambda client, meta, window: client.hset(meta, "s", "\xff"),
        lambda client, meta, window: client.hdel(meta, "n"),
        lambda client, meta, window: (client.delete(window), client.set(window, "x")),
    ]
    for number, act in enumerate(spoil):
        meta, window = (key_of(small, session, name) for name in (b":meta", b":window"))
        with raw(small.url) as client:
            act(client, meta, window)
        for _ in range(2):
            assert texts(session.window()) == wanted, number
        session.say("x")
        assert session.pop().message.text == "x"
        with raw(small.url) as client:
            client.delete(window)
    check(session, wanted)


# Who uses it.


def test_tiers_that_were_pickled_find_it(small: Bench) -> None:
    session = small.session("p")
    session.append(conversation(2))
    with pickle.loads(pickle.dumps(small.tiers)) as tiers:
        again = tiers.session("p", durability=small.durability, token_counter="approximate")
        assert texts(again.window()) == texts(session.window())
        again.append(talk(1, first=2))
        assert texts(session.window())[-1] == "a2"
    check(session, [message.text for message in conversation(3)])


def test_threads_append_and_nothing_is_lost(small: Bench) -> None:
    if small.kind == "async":
        pytest.skip("tasks: see the next test")
    session = small.session(window=10)
    readers_done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        last = 0
        while not readers_done.is_set():
            count = len(session.window().messages)
            assert count >= last
            last = count
        seen.append(last)

    def write(name: int) -> None:
        for i in range(5):
            session.append([Message("human", f"{name} {i}"), Message("ai", f"{name} {i}")])

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read)
        list(pool.map(write, range(4)))
        readers_done.set()
        reader.result()
    assert seen
    said = texts(session.log())
    assert sorted(said) == sorted(
        f"{name} {i}" for name in range(4) for i in range(5) for _ in "qa"
    )
    assert said[::2] == said[1::2]  # each append is whole
    assert texts(session.window()) == said
    check(session, said)


def test_tasks_of_two_loops(bench: Bench) -> None:
    if bench.loop is None:
        pytest.skip("threads: see the test before")
    session: Session = bench.session().session

    async def work(name: str) -> None:
        await asyncio.gather(
            *(session.aappend([Message("human", f"{name}{i}", f"{name}{i}")]) for i in range(5))
        )
        assert {f"{name}{i}" for i in range(5)} <= set(texts(await session.awindow()))

    bench.loop.run_until_complete(work("a"))
    asyncio.run(work("b"))
    bench.loop.run_until_complete(work("c"))
    check(bench.session(), texts(session.log()))
    assert session.count() == 15


def test_asyncio_uses_no_thread(small: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The asyncio twins are native: once warm, nothing is handed to a thread pool."""
    if small.loop is None:
        pytest.skip("of asyncio")
    session = small.session()

    def use() -> None:
        session.append([Message("system", "x"), Message("human", "y", "i")])
        session.window(max_messages=2)
        session.log()
        session.info()
        session.count()
        session.update(agent="a")
        session.edit("i", Message("human", "z"))
        session.search("z")
        session.delete("i")
        session.say("b", "c")
        session.pop()
        session.take(1, archive=True)
        session.forget(archived=True)
        session.replace(talk(1))
        session.close()
        small.list()
        small.drain()
        session.clear()

    use()

    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a thread")

    monkeypatch.setattr(asyncio, "to_thread", refuse)
    monkeypatch.setattr(small.loop, "run_in_executor", refuse)
    use()


def test_written_behind_without_being_asked(small: Bench) -> None:
    if small.durability != "behind":
        pytest.skip("nothing waits")
    session = small.session()
    session.append(conversation(2))
    session.window()
    session.append(talk(1, first=2))
    beside = small.session(durability="through")  # whose log does not drain first
    wait_until(lambda: len(beside.log()) == 7, what="the housekeeper to drain")
    assert small.drain() == 0
    check(session, [message.text for message in conversation(3)])
