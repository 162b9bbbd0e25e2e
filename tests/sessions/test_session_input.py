"""What a session refuses, clearly and before anything is written; what it accepts though it is odd."""

from __future__ import annotations

import itertools
import json
import os
import time
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any
from unittest import mock

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redis_tiered import Message, Stored, Tiers, ToolCall
from redis_tiered.errors import InvalidInput, TierError, Unreadable
from redis_tiered.sessions.message import MAX_MESSAGE, MEDIA, ROLES, checked, pack, unpack
from redis_tiered.sessions.record import Record, from_item
from redis_tiered.sessions.trust import trust_of
from tests.sessions.twin import Bench, conversation, raw, talk, texts

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
CALLS = st.builds(ToolCall, st.none() | TEXT, TEXT, st.dictionaries(TEXT, JSON, max_size=3) | TEXT)
MESSAGES = st.builds(
    Message,
    st.sampled_from(ROLES),
    TEXT | st.builds(lambda text, times: text * times, TEXT, st.integers(0, 900)),
    TEXT.map(lambda text: text[:256]),
    st.none() | TEXT,
    st.lists(CALLS, max_size=3).map(tuple),
    st.none() | TEXT,
    TEXT,
    st.lists(st.sampled_from(MEDIA), max_size=3).map(tuple),
    TEXT,
    st.binary(max_size=50) | st.integers(4000, 5000).map(bytes),
)


# Messages and their bytes.


@given(MESSAGES)
@example(Message("other", "", "x" * 256, "", (ToolCall("", "", ""),), "", "", (), "", b""))
@settings(deadline=None)
def test_a_message_comes_back(message: Message) -> None:
    data = pack(checked(message, "message"))
    assert unpack(data) == message
    assert pack(unpack(data)) == data


@given(MESSAGES, st.data())
@settings(deadline=None, max_examples=100)
def test_damaged_bytes_are_unreadable(message: Message, data: st.DataObject) -> None:
    good = pack(message)
    kind = data.draw(st.sampled_from(["cut", "flip", "more", "any"]))
    if kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    elif kind == "flip":
        at = data.draw(st.integers(0, len(good) - 1))
        bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    elif kind == "more":
        bad = good + data.draw(st.binary(min_size=1, max_size=9))
    else:
        bad = data.draw(st.binary(max_size=60))
    with pytest.raises(Unreadable):
        unpack(bad)


def sealed(version: int, flags: int, id: bytes, head: bytes, rest: bytes = b"") -> bytes:
    """Bytes whose checksum is right, whatever is in them."""
    front = bytes([version, flags]) + len(id).to_bytes(2, "big")
    back = len(head).to_bytes(4, "big") + id + head + rest
    return front + zlib.crc32(back, zlib.crc32(front)).to_bytes(4, "big") + back


@given(
    st.integers(0, 3),
    st.integers(0, 3),
    st.binary(max_size=5),
    st.binary(max_size=20) | JSON.map(orjson.dumps) | JSON.map(orjson.dumps).map(zlib.compress),
    st.binary(max_size=5),
)
@example(1, 0, b"i", b"[" * 2000 + b"]" * 2000, b"")
@example(1, 0, b"\xff", b'["human"]', b"")
@example(1, 0, b"i", b'["human",1,2,3,4,5,6,7,8,9,10,11]', b"")
@example(1, 0, b"i", b'["human","","",null,null,"",[],[5]]', b"")
@example(1, 0, b"i", b'["human","","",null,null,"",5]', b"")
@example(1, 0, b"i", b'"human"', b"")
@example(1, 0, b"i", b'{"human":1}', b"")
@example(1, 1, b"i", b'["human"]', b"")
@settings(deadline=None, max_examples=150)
def test_sealed_bytes_of_others_are_unreadable_or_a_message(
    version: int, flags: int, id: bytes, head: bytes, rest: bytes
) -> None:
    """Who writes our format with another content gets no other exception out of us."""
    data = sealed(version, flags, id, head, rest)
    if version > 1:
        with pytest.raises(Unreadable, match="newer"):
            unpack(data)
        return
    try:
        found = unpack(data)
    except Unreadable:
        return
    assert version == 1
    assert isinstance(found, Message)


@given(st.binary(max_size=80))
@settings(deadline=None)
def test_foreign_items_are_unreadable(data: bytes) -> None:
    try:
        record = from_item(data)
    except Unreadable:
        return
    with pytest.raises(Unreadable):
        record.stored()


@given(
    MESSAGES,
    st.integers(-1, 2**63 - 1),
    st.integers(0, 2**63),
    TEXT,
    st.integers(0, 2**60),
    st.booleans(),
)
@settings(deadline=None)
def test_a_record_comes_back(
    message: Message, sequence: int, tokens: int, counter: str, created: int, archived: bool
) -> None:
    record = Record(pack(message), sequence, tokens, counter, created, archived)
    assert from_item(record.item()) == record
    assert record.stored() == Stored(message, sequence, tokens, counter, created, archived)


class Text(str):
    __slots__ = ()


class Child(Message):
    __slots__ = ()


def _deep() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(2000):
        made = {"a": made}
    return made


def with_arguments(arguments: object) -> Message:
    return Message("ai", tool_calls=(ToolCall("1", "f", arguments),))  # type: ignore[arg-type]


ANY: Any = None
BAD: list[tuple[str, Any]] = [
    ("must be a Message", "text"),
    ("must be a Message", None),
    ("must be a Message", {"role": "human"}),
    ("must be a Message", Child("human")),
    ("must be a Message", Message),
    ("role", Message("user")),
    ("role", Message("")),
    ("role", Message(["human"])),  # type: ignore[arg-type]
    ("role", Message(None)),  # type: ignore[arg-type]
    ("text", Message("human", 5)),  # type: ignore[arg-type]
    ("text", Message("human", None)),  # type: ignore[arg-type]
    ("text", Message("human", b"bytes")),  # type: ignore[arg-type]
    ("text", Message("human", Text("text"))),
    ("text", Message("human", "a\ud800")),
    ("text", Message("human", ["blocks"])),  # type: ignore[arg-type]
    ("id", Message("human", id="x" * 257)),
    ("id", Message("human", id="\udfff")),
    ("id", Message("human", id=None)),  # type: ignore[arg-type]
    ("id", Message("human", id=7)),  # type: ignore[arg-type]
    ("name", Message("human", name=5)),  # type: ignore[arg-type]
    ("name", Message("human", name="\ud800")),
    ("tool_call_id", Message("tool", tool_call_id=b"x")),  # type: ignore[arg-type]
    ("thinking", Message("ai", thinking=None)),  # type: ignore[arg-type]
    ("media", Message("human", media=["image"])),  # type: ignore[arg-type]
    ("media", Message("human", media=("picture",))),
    ("media", Message("human", media=([],))),  # type: ignore[arg-type]
    ("media", Message("human", media="image")),  # type: ignore[arg-type]
    ("format", Message("human", format=None)),  # type: ignore[arg-type]
    ("native", Message("human", native="text")),  # type: ignore[arg-type]
    ("native", Message("human", native=bytearray(b"x"))),  # type: ignore[arg-type]
    ("tool_calls", Message("ai", tool_calls=[ToolCall("1", "f", {})])),  # type: ignore[arg-type]
    ("tool_calls", Message("ai", tool_calls=({"id": "1"},))),  # type: ignore[arg-type]
    ("tool_calls", Message("ai", tool_calls=(ToolCall(5, "f", {}),))),  # type: ignore[arg-type]
    ("tool_calls", Message("ai", tool_calls=(ToolCall("1", None, {}),))),  # type: ignore[arg-type]
    ("arguments", with_arguments(None)),
    ("arguments", with_arguments(5)),
    ("arguments", with_arguments(["a"])),
    ("tool_calls", with_arguments({1: "a"})),
    ("tool_calls", with_arguments({"a": object()})),
    ("tool_calls", with_arguments({"a": {1, 2}})),
    ("tool_calls", with_arguments({"a": b"bytes"})),
    ("tool_calls", with_arguments({"a": 1 << 64})),
    ("tool_calls", with_arguments({"a": "\ud800"})),
    ("tool_calls", with_arguments({"\ud800": 1})),
    ("tool_calls", with_arguments({"a": float("nan")})),
    ("tool_calls", with_arguments({"a": float("inf")})),
    ("tool_calls", with_arguments({"a": (1, 2)})),
    ("tool_calls", with_arguments(_deep())),
    ("bytes", Message("human", "x" * (MAX_MESSAGE + 1))),
    ("bytes", Message("human", native=bytes(MAX_MESSAGE))),
]
_IDS = [f"{i}-{where}" for i, (where, _) in enumerate(BAD)]


@pytest.mark.parametrize(("where", "bad"), BAD, ids=_IDS)
def test_a_message_that_cannot_be_stored(where: str, bad: object) -> None:
    with pytest.raises(InvalidInput, match=where):
        pack(checked(bad, "messages[3]"))


def test_the_largest_message_is_accepted() -> None:
    message = Message("human", native=bytes(MAX_MESSAGE - 20))
    assert unpack(pack(message)) == message


# Sessions.


def state(session: Any) -> object:
    return session.log(), session.info()


def test_a_batch_with_one_bad_message_writes_none(small: Bench) -> None:
    session, absent = small.session(), small.session("absent")
    session.append([Message("human", "kept", "k")])
    session.window()
    small.drain()
    before = state(session)
    for where, bad in BAD:
        for call in (
            lambda: session.append([Message("human", "x"), bad]),  # noqa: B023
            lambda: session.append([bad, Message("human", "x")], archived=True),  # noqa: B023
            lambda: session.replace([Message("human", "x"), bad]),  # noqa: B023
            lambda: session.edit("k", bad),  # noqa: B023
            lambda: absent.append([Message("human", "x"), bad]),  # noqa: B023
            lambda: absent.replace([bad]),  # noqa: B023
        ):
            with pytest.raises(InvalidInput, match=where):
                call()
    small.drain()
    assert state(session) == before
    assert texts(session.window()) == ["kept"]
    assert absent.info() is None
    assert absent.log() == ()


@pytest.mark.parametrize(
    "messages", [None, 5, "text", b"bytes", Message("human"), {"a": 1}, {1}, iter([]), (m for m in ())]
)  # fmt: skip
def test_what_is_no_sequence_of_messages(small: Bench, messages: object) -> None:
    session = small.session()
    for call in (session.append, session.replace):
        with pytest.raises(InvalidInput, match="messages must be a sequence"):
            call(messages)
    assert session.info() is None


INTS = [-1, 1.0, "1", None, True, 1 << 63, float("nan"), b"1", [1]]


def refuses(call: Callable[..., object], *arguments: object, **options: object) -> None:
    with pytest.raises(InvalidInput) as raised:
        call(*arguments, **options)
    assert len(str(raised.value)) < 500
    assert "None, got" not in str(raised.value).replace("or None, got", "")


def test_arguments_of_every_method(small: Bench) -> None:
    session = small.session()
    session.append([Message("human", "one", "1"), Message("ai", "two", "2")])
    session.window()
    small.drain()
    before = state(session)
    for value in INTS:
        for name in ("max_messages", "max_tokens", "turns"):
            if value is not None and value != 1 << 63:
                refuses(session.window, **{name: value})
        refuses(session.log, value)
        if value is not None:
            refuses(session.log, 0, value)
        refuses(session.take, value)
        refuses(session.search, "x", offset=value)
        refuses(session.search, "x", limit=value)
        if value != -1:
            refuses(session.pop, value)
    refuses(session.pop, -(1 << 63) - 1)
    for value in (0, -5):
        for name in ("max_messages", "max_tokens", "turns"):
            refuses(session.window, **{name: value})
    for value in (1, "yes", 0, None):
        refuses(session.window, include_system=value)
        refuses(session.append, [Message("human")], archived=value)
        refuses(session.replace, [Message("human")], archived=value)
        refuses(session.take, 1, archive=value)
    for value in (1, "no", 0):
        refuses(session.log, archived=value)
        refuses(session.count, archived=value)
        refuses(session.forget, archived=value)
    for value in ("up", None, 1, [], "OLDEST"):
        refuses(session.log, order=value)
    for value in ("", None, 5, b"x", "\ud800", ["x"]):
        refuses(session.search, value)
    for value in ("", None, 5, b"1", "x" * 257, "\ud800", Message("human", id="1")):
        refuses(session.edit, value, Message("human"))
        refuses(session.delete, value)
    refuses(session.edit, "1", Message("human", "x", "2"))
    for value in (5, "text", [], [("a", 1)], {1: 2}, {"a": object()}, {"a": {1}}, {"a": b"x"}):
        refuses(session.update, context=value)
    for value in (float("nan"), float("inf"), "\ud800", 1 << 64, _deep()):
        refuses(session.update, context={"a": value})
    refuses(session.update, context={"\ud800": 1})
    refuses(session.update, context={"a": "x" * (1 << 20)})
    for value in ("", 5, b"x", "x" * 257, "\ud800", "a\0", ["x"]):
        refuses(session.update, agent=value)
        refuses(session.update, agent=value, context={"written": False})
    small.drain()
    assert state(session) == before
    assert texts(session.window()) == ["one", "two"]


CURSORS: list[Any] = [
    5,
    b"x",
    "",
    "!",
    "nonsense",
    "é",
    "\ud800",
    *(
        urlsafe_b64encode(text.encode()).decode()
        for text in (
            "",
            "5",
            "null",
            "[]",
            "[1]",
            '["a", 1]',
            '[1, 2]',
            '[true, "a"]',
            '[1.5, "a"]',
            '[1, "a", 2]',
            '{"a": 1, "b": 2}',
            "[1, null]",
            f'[{1 << 70}, "a"]',
            f'[-{1 << 70}, "a"]',
            f'[1{"0" * 5000}, "a"]',
            r'[1, "\u0000"]',
            r'[1, "\ud800"]',
            "[" * 100_000,
        )
    ),
]  # fmt: skip


def test_arguments_of_the_list(small: Bench) -> None:
    small.session().say("x")
    small.drain()
    for value in (-1, 0, 1001, 1.0, "1", None, True, 1 << 70):
        refuses(small.list, limit=value)
    for value in ("open", "", 5, [], b"active"):
        refuses(small.list, status=value)
    for value in ("", 5, "x" * 257, "\ud800", b"t"):
        refuses(small.list, tenant=value)
    for value in CURSORS:
        refuses(small.list, after=value)
    # A cursor of another tenant, or of a session that is gone, is a place like any other.
    for place in ([0, "a"], [1 << 62, "a"], [1, ""]):
        cursor = urlsafe_b64encode(json.dumps(place).encode()).decode()
        assert len(small.list(after=cursor).sessions) in (0, 1)


@pytest.mark.parametrize("id", ["", None, 5, b"x", "x" * 257, "\ud800", "a\udfff", ["a"], ("a",)])
def test_ids_that_cannot_be_used(small: Bench, id: Any) -> None:
    with pytest.raises(InvalidInput, match="session_id"):
        small.tiers.session(id)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(["ttl"], [0, -1, "1", None, True, float("nan"), float("inf"), 1e12]),
        *itertools.product(["window"], [0, -1, 2001, 1.0, "1", None, True]),
        *itertools.product(["durability"], ["", "through ", "both", 5, [], b"none"]),
        *itertools.product(["summarize"], [5, "x", []]),
    ],
)
def test_options_that_cannot_be_used(small: Bench, name: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=name):
        small.tiers.session("s", **{name: value})


def test_durabilities_need_a_durable_tier(small: Bench) -> None:
    if small.tiers.durable is not None:
        assert small.tiers.session("s").durability == "through"
        return
    assert small.tiers.session("s").durability == "none"
    for durability in ("through", "behind"):
        with pytest.raises(InvalidInput, match="needs a durable tier"):
            small.tiers.session("s", durability=durability)


def test_the_shortest_and_longest_ttl(small: Bench) -> None:
    for number, ttl in enumerate((100 * 365 * 86_400, 86_400.5)):
        session = small.session(f"s{number}", ttl=ttl)
        session.append(talk(1))
        assert len(session.window().messages) == 2
        assert session.count() == 2


# Large and odd, and accepted.


@pytest.mark.parametrize("durable", ["none", "sqlite", "postgres"])
@pytest.mark.parametrize("durability", ["through", "behind", "none"])
def test_the_longest_ids(
    durable: str, durability: Any, valkey: Any, open_tiers: Callable[[str, str], Tiers]
) -> None:
    """Letters without a pattern: the index of PostgreSQL can compress none of them."""
    if (durable == "none") != (durability == "none"):
        pytest.skip("not a place of its own")

    def noise(seed: int, first: int, letters: int, count: int = 256) -> str:
        state, made = seed, []
        for _ in range(count):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            made.append(chr(first + (state >> 33) % letters))
        return "".join(made)

    tiers = open_tiers(valkey.url, durable).tenant(noise(1, 0x4E00, 20_000, 50))
    for number, (first, letters, count) in enumerate(((0x61, 26, 256), (0x4E00, 20_000, 120))):
        id = noise(number, first, letters, count)
        session = tiers.session(id, durability=durability, token_counter="approximate")
        message = noise(number + 9, 0x20000, 40_000)
        session.append([Message("human", "a", message), Message("human", "b", message[::-1])])
        session.append([Message("human", "a", message)])
        tiers.sessions.drain()
        assert texts(session.window()) == texts(session.log()) == ["a", "b"]
        assert [item.message.id for item in session.log()] == [message, message[::-1]]
        assert session.info().id == id
        assert [info.id for info in tiers.sessions.list(limit=1).sessions] == [id]
    with pytest.raises(InvalidInput, match="session_id, tenant and namespace"):
        tiers.session(noise(5, 0x20000, 40_000))


def test_large_messages(small: Bench) -> None:
    session = small.session()
    noise = os.urandom(3 << 20)
    large = [
        Message("human", "x" * (10 << 20), "text"),
        Message("human", "", "native", native=noise, format="langchain"),
        Message("human", "\0\u0130" * 100_000, "odd"),
    ]
    for message in large:
        session.append([message])
        assert session.window(max_messages=1).messages[0].message == message
    session.say("end")
    for _ in range(2):
        window = session.window()
        assert [item.message for item in window.messages[:3]] == large
    assert [item.message.id for item in session.search("x" * 1000)] == ["text"]
    assert [item.message.id for item in session.search("\0i\u0307\0")] == ["odd"]
    assert session.delete("native").message.native == noise


def test_many_messages_at_once(small: Bench) -> None:
    session = small.session()
    session.append(conversation(1010))
    assert session.count() == 2021
    session.append(talk(1010))  # to a window
    assert texts(session.window(max_messages=3)) == ["be kind", "q1009", "a1009"]
    assert len(session.window().messages) == 4041
    assert len(session.take(2021, archive=True)) == 2021
    assert session.count(archived=True) == 2021
    assert len(session.forget()) == 4041


def test_an_append_that_outlasts_the_right_to_believe_redis(small: Bench) -> None:
    session = small.session()
    session.append(conversation(10))
    session.window()
    trust, seconds = trust_of(small.tiers), itertools.count(time.monotonic())
    with mock.patch.object(trust, "_clock", side_effect=seconds):
        session.append(talk(300))
    assert texts(session.window(max_messages=3)) == ["be kind", "q299", "a299"]
    assert session.count() == 621


def test_foreign_bytes_where_there_is_nothing_else(small: Bench) -> None:
    """Where Redis is all there is, a log that is spoilt is an error of Redis, not ours."""
    if small.durability != "none":
        pytest.skip("the log knows better; see test_session")
    for number, act in enumerate(
        (
            lambda client, meta, window: client.lset(window, 0, b"nonsense"),
            lambda client, meta, window: client.lset(window, 0, Record(b"x", 0, 0, "", 0).item()),
            lambda client, meta, window: client.hset(meta, "n", "x"),
            lambda client, meta, window: client.hset(meta, "y", b"\xff"),
            lambda client, meta, window: client.hset(meta, "cx", b"{"),
            lambda client, meta, window: (client.delete(meta), client.set(meta, "x")),
        )
    ):
        session = small.session(f"s{number}")
        session.append([Message("human", "a", "1"), Message("ai", "b", "2")])
        [meta] = [key for key in small.stored_keys() if key.endswith(b"{s%d}:meta" % number)]
        [window] = [key for key in small.stored_keys() if key.endswith(b"{s%d}:window" % number)]
        with raw(small.url) as client:
            act(client, meta, window)
        for use in (
            session.window,
            session.log,
            lambda: session.search("a"),  # noqa: B023
            lambda: session.delete("1"),  # noqa: B023
            lambda: session.edit("1", Message("ai", "x")),  # noqa: B023
            lambda: session.take(1),  # noqa: B023
        ):
            with pytest.raises(TierError, match="redis"):
                use()
        session.clear()
        session.say("new")
        assert texts(session.window()) == ["new"]
