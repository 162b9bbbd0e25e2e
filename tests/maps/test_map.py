"""Maps on real servers, blocking and with asyncio."""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis

from redis_tiered import Message, Tiers
from redis_tiered.errors import InvalidInput
from redis_tiered.maps.map import MAX_NAME
from tests.maps.twin import Bench
from tests.servers import RedisCluster3, RedisServer, redis_options
from tests.waiting import wait_until

NAMES = [
    *("q", "a:b", "a", "b", "{a}", "}", "*", "?", "[a]", "%3A", "\0", "\n", " ", "é", "e\u0301"),
    *("\U0001f600", "../..", "'; --", "n" * 1000, "n" * 1001, "n" * 999 + "é", "n" * 5000 + "x"),
    *("n" * 5000 + "y", "epoch", "0", "names"),
]


# Reading and writing.


def test_what_was_put_is_found(bench: Bench) -> None:
    map = bench.map()
    for i, name in enumerate(NAMES):
        map.put(name, f"{i}".encode())
    values = [f"{i}".encode() for i in range(len(NAMES))]
    for other in (map, map, bench.map(tiers=bench.more())):
        assert other.get_many(NAMES) == values
        assert [other.get(name) for name in NAMES] == values
        assert dict(other.items()) == dict(zip(NAMES, values, strict=True))
        assert other.get("nobody put this") is None
    map.put("q", b"again")
    assert map.get("q") == b"again"


def test_get_many_keeps_order_and_repeats(bench: Bench) -> None:
    map = bench.map()
    map.write({"a": b"1", "b": b"2"})
    asked = ["b", "no", "a", "b", "b", "no"]
    for _ in range(3):
        assert map.get_many(asked) == [b"2", None, b"1", b"2", b"2", None]
    assert map.get_many(iter(("a",))) == [b"1"]
    assert map.get_many([]) == []


def test_nothing_is_a_value(bench: Bench) -> None:
    map = bench.map()
    map.put("q", b"")
    for _ in range(2):
        assert map.get("q") == b""
    assert map.page() == [("q", b"")]
    assert map.delete("q") is True
    assert map.get("q") is None


def test_deletions_are_counted(bench: Bench) -> None:
    map = bench.map()
    map.write(dict.fromkeys("abcd", b"A"))
    assert map.delete("a") is True
    assert map.delete("a") is False
    assert map.write(delete=["b", "b", "no", "c"]) == 2
    assert map.write({"a": b"B"}, ["d", "no"]) == 1
    assert map.write() == 0
    assert map.items() == [("a", b"B")]


def test_many_values_at_once(bench: Bench) -> None:
    map = bench.map()
    values = {f"{i:04}": f"{i}".encode() for i in range(1203)}
    map.write(values)
    assert map.get_many(values) == list(values.values())
    assert map.items() == list(values.items())
    some = list(values)[1:]
    assert map.write({"0000": b"new"}, some) == 1202
    assert map.items() == [("0000", b"new")]
    assert bench.map(tiers=bench.more()).get_many(values) == [b"new", *[None] * 1202]


def test_large_values(one: Bench) -> None:
    map = one.map(max_value=5 << 20)
    values = {f"{i}": bytes([i]) * (5 << 20) for i in range(3)}
    map.write(values)
    assert one.map(tiers=one.more()).get_many(values) == list(values.values())
    with pytest.raises(InvalidInput, match="value must have at most 5242880 bytes, got 5242881"):
        map.write({"0": b"new", "1": bytes((5 << 20) + 1)})
    assert map.get("0") == values["0"]


def test_compressed_values(bench: Bench) -> None:
    map = bench.map(compress_from=100)
    values = {"small": b"A" * 99, "large": b"A" * 100_000, "n" * 2000: b"B" * 1000}
    map.write(values)
    plain = bench.map(tiers=bench.more())
    assert plain.get_many(values) == list(values.values())
    assert dict(plain.items()) == values


@pytest.mark.parametrize("value", [bytearray(b"A"), memoryview(b"A")], ids=["array", "view"])
def test_bytes_of_other_types(one: Bench, value: Any) -> None:
    map = one.map()
    map.put("q", value)
    assert type(map.get("q")) is bytes


# Time.


def test_values_end(bench: Bench) -> None:
    map = bench.map(ttl=0.05)
    map.write({"a": b"1", "b": b"2"})
    map.put("kept", b"3", ttl=None)
    map.put("long", b"4", ttl=100)
    wait_until(lambda: map.get_many(["a", "b"]) == [None, None], 2)
    assert map.get_many(["a", "kept", "long"]) == [None, b"3", b"4"]
    assert map.names() == ["kept", "long"]
    assert bench.map(tiers=bench.more()).get_many(["a", "b"]) == [None, None]
    map.put("a", b"again", ttl=None)
    assert map.get("a") == b"again"
    assert map.names() == ["a", "kept", "long"]


def test_jitter_takes_off_up_to_its_share(valkey: RedisServer) -> None:
    with Tiers(valkey.url) as tiers, contextlib.closing(valkey.client()) as client:
        map = tiers.map("m", ttl=100, jitter=0.5)
        for i in range(40):
            map.put(f"{i}", b"A")
        left = {client.pttl(key) for key in client.scan_iter("redis-tiered:*")}
    assert all(49_000 < each <= 100_000 for each in left)
    assert len(left) > 5
    assert min(left) < 90_000


# Listing.


def test_pages(bench: Bench) -> None:
    map = bench.map()
    names = sorted({*NAMES, *(f"p{i}" for i in range(20)), "p", "pé", "o", "q"}, key=_order)
    map.write({name: name.encode()[:10] for name in names})
    assert map.names() == names
    for limit in (1, 7, 20, 24, 100):
        for prefix in ("", "p", "p1", "n", "é", "\0", "none"):
            expected = [name for name in names if name.startswith(prefix)]
            found: list[str] = []
            while True:
                page = map.page(prefix, after=found[-1] if found else None, limit=limit)
                found += [name for name, _ in page]
                assert all(value == name.encode()[:10] for name, value in page)
                if len(page) < limit:
                    break
            assert found == expected, (limit, prefix)


def _order(name: str) -> bytes:
    from redis_tiered.maps.item import stored_name

    return stored_name("name", name)


def test_names_and_prefixes_longer_than_what_is_stored(bench: Bench) -> None:
    map = bench.map()
    start = "n" * 3000
    names = [start + "a", start + "ab", start + "b", "n" * 2999 + "m", "n" * 990]
    map.write({name: name[-2:].encode() for name in names})
    assert set(map.names(start + "a")) == {start + "a", start + "ab"}
    assert set(map.names(start)) == set(names[:3])
    assert map.names(start + "c") == []
    assert set(map.names("n" * 950)) == set(names)
    assert [name for name, _ in map.page(start, limit=3)] == map.names(start)
    first = [name for name, _ in map.page(start, limit=2)]
    rest = [name for name, _ in map.page(start, after=first[-1], limit=2)]
    assert sorted(first + rest) == sorted(names[:3])
    longest = "x" * MAX_NAME
    map.put(longest, b"A")
    assert map.get(longest) == b"A"
    assert map.get(longest[:-1]) is None
    assert map.names("x") == [longest]


def test_a_page_after_a_name_that_is_no_more(bench: Bench) -> None:
    map = bench.map()
    map.write(dict.fromkeys("abcd", b"A"))
    map.delete("b")
    assert map.page(after="b", limit=2) == [("c", b"A"), ("d", b"A")]
    assert map.page("c", after="a") == [("c", b"A")]
    assert map.page("a", after="c") == []


def test_items_while_others_write(bench: Bench) -> None:
    map = bench.map()
    map.write({f"{i:04}": b"A" for i in range(1100)})
    blocking = bench.tiers.map("m")
    seen = []
    for i, (name, _) in enumerate(blocking.items()):
        seen.append(name)
        if i == 10:
            map.write({"0400x": b"B", "0000x": b"B", "z": b"B"}, ["0450", "1050", "0005"])
    assert seen[-1] == "z"
    assert sorted(set(seen)) == seen
    assert {f"{i:04}" for i in range(1100)} - {"0450", "1050", "0005"} <= set(seen)


# Forgetting.


def test_clear(bench: Bench) -> None:
    map, other = bench.map(), bench.map(tiers=bench.more())
    map.write({f"{i}": b"A" for i in range(30)})
    assert other.get("1") == map.get("1") == b"A"
    map.clear()
    assert map.items() == []
    assert map.get_many(["1", "2"]) == [None, None]
    wait_until(lambda: other.get("1") is None, 2)
    map.put("1", b"B")
    assert map.items() == [("1", b"B")]
    assert map.delete("2") is False
    map.clear()
    map.clear()
    assert map.names() == []


@pytest.mark.parametrize("where", ["valkey", "cluster"])
def test_cleared_redis_alone_holds_nothing(request: pytest.FixtureRequest, where: str) -> None:
    server = request.getfixturevalue("valkey" if where == "valkey" else "redis_cluster")
    with Tiers(server.url) as tiers, contextlib.closing(server.client()) as client:
        map = tiers.map("m")
        map.write({f"{i}": b"A" for i in range(700)})
        map.write({f"{i}": b"A" for i in range(10)}, ttl=0.01)
        tiers.map("other").put("q", b"A")
        wait_until(lambda: map.get("1") is None)
        map.clear()
        assert map.page() == []
        tiers.map("other").delete("q")
        assert list(client.scan_iter(count=10_000)) == []


def test_the_index_forgets_what_expired(valkey: RedisServer) -> None:
    with Tiers(valkey.url) as tiers, contextlib.closing(valkey.client()) as client:
        map = tiers.map("m", ttl=0.01)
        map.write({f"{i}": b"A" for i in range(40)})
        wait_until(lambda: map.page() == [] and client.keys() == [], 2, "an index of nothing")


# Apart.


def test_maps_and_tenants_share_nothing(bench: Bench) -> None:
    maps = [
        bench.map(name, tiers=bench.tiers.tenant(tenant))
        for tenant, name in itertools.product(("a", "a:b", "{a}"), ("m", "b:m", "m:b", "*"))
    ]
    for i, map in enumerate(maps):
        map.put("q", f"{i}".encode())
    for i, map in enumerate(maps):
        assert map.items() == [("q", f"{i}".encode())]
    maps[0].clear()
    maps[1].delete("q")
    assert [map.get("q") for map in maps[:3]] == [None, None, b"2"]


def test_another_namespace(one: Bench) -> None:
    other = one.map(tiers=one.more(namespace="other"))
    one.map().put("q", b"A")
    assert other.get("q") is None
    other.clear()
    assert one.map().get("q") == b"A"


def test_other_capabilities_are_left_alone(one: Bench) -> None:
    one.map("s").put("q", b"A")
    session = one.tiers.session("s", token_counter="approximate")
    session.append([Message("human", "hello")])
    one.map("s").clear()
    assert len(session.window().messages) == 1


# More processes than one.


def test_what_one_process_writes_the_memory_of_another_forgets(bench: Bench) -> None:
    mine, theirs = bench.map(), bench.map(tiers=bench.more())
    for tiers in (mine.map.tiers, theirs.map.tiers):
        tiers.setup()
    for i in range(5):
        value = f"{i}".encode()
        mine.put("q", value)
        assert mine.get("q") == value
        wait_until(lambda v=value: theirs.get("q") == v, 2)  # type: ignore[misc]
        wait_until(lambda: theirs.get("q") and theirs.map._store.recall([b"q"]), 2)
        mine.delete("q")
        assert mine.get("q") is None
        wait_until(lambda: theirs.get("q") is None, 2)


def test_pickled_tiers_reach_the_same_values(one: Bench) -> None:
    one.map().put("q", b"A")
    with pickle.loads(pickle.dumps(one.tiers.tenant("default"))) as other:
        assert other.map("m").get("q") == b"A"
        other.map("m").put("q", b"B")
    wait_until(lambda: one.map().get("q") == b"B", 2)


def test_a_cluster_and_a_database(redis_cluster: RedisCluster3, sqlite_url: str) -> None:
    with Bench(redis_cluster.url, sqlite_url) as bench:
        map, other = bench.map(), bench.map(tiers=bench.more(l1_max_bytes=0))
        values = {f"{i:03}": f"{i}".encode() for i in range(150)}
        map.write(values)
        assert other.get_many(values) == map.get_many(values) == list(values.values())
        assert map.write({"000": b"new"}, ["001"]) == 1
        assert other.get_many(["000", "001", "002"]) == [b"new", None, b"2"]
        redis_cluster.flush()
        assert other.get_many(["000", "001", "002"]) == [b"new", None, b"2"]
        map.clear()
        assert other.get_many(values) == [None] * 150


def test_without_memory(valkey: RedisServer, sqlite_url: str) -> None:
    with Tiers(valkey.url, sqlite_url, l1_max_bytes=0) as tiers:
        map = tiers.map("m")
        map.put("q", b"A")
        assert map.get("q") == map.get("q") == b"A"
        map.delete("q")
        assert map.get("q") is None


def test_found_tells_which_tier_had_it(valkey: RedisServer, sqlite_url: str) -> None:
    from redis_tiered.maps.item import stored_name

    with (
        Tiers(valkey.url, sqlite_url) as tiers,
        contextlib.closing(redis.Redis.from_url(valkey.url, **redis_options())) as client,
    ):
        tiers.setup()
        map = tiers.map("m")
        map.write({"a": b"1", "b": b"2", "c": b"3"})

        def read() -> Any:
            tiers.memory.empty()
            map.get("a")
            for key in client.scan_iter("redis-tiered:default:map:m:*{*"):
                if b"3" in client.get(key)[16:]:
                    client.delete(key)
            return tiers.run(map.reading([stored_name("name", n) for n in ("a", "b", "c", "no")]))

        # What the server says of the write may come late, and empty memory.
        wait_until(lambda: read().tiers == {"memory": 1, "redis": 1, "durable": 1}, 3)
        found = read()
        assert found.values == [b"1", b"2", b"3", None]
        assert found.failure is None


def test_what_is_remembered_costs_nothing_and_may_be_nothing(
    valkey: RedisServer, sqlite_url: str
) -> None:
    with Tiers(valkey.url, sqlite_url) as tiers, Tiers(valkey.url, sqlite_url) as others:
        tiers.setup()
        map = tiers.map("m")
        assert map.remembered("q") is None
        map.put("q", b"A")
        wait_until(lambda: map.get("q") and map.remembered("q") == b"A", 2)
        assert tiers.run(map.having(["q", "no"])) == [b"A", None]
        others.map("m").put("q", b"B")
        wait_until(lambda: map.remembered("q") is None, 2)
        with pytest.raises(InvalidInput, match="name"):
            map.remembered(5)  # type: ignore[arg-type]


# JSON.

THINGS: list[Any] = [
    *(None, True, 0, 1.5, "", "text", [], {}, [1, [2, {"a": None}]], {"a": {"b": [True]}}),
    *(
        (1, 2),
        {1, 2},
        frozenset({1}),
        b"bytes",
        bytearray(b"x"),
        1 << 100,
        math.inf,
        Decimal("1.10"),
    ),
    *(datetime(2026, 1, 2, 3, 4, 5, 6, UTC), UUID(int=5), Path("a/b"), {1: "a", (1, 2): "b"}),
    *({"\0tuple": [1]}, "\0", "\U0001f600", {"": ""}),
]


def test_json_comes_back_the_same(bench: Bench) -> None:
    map = bench.map(values="json", compress_from=10)
    things = {f"{i:02}": thing for i, thing in enumerate(THINGS)}
    map.write(things)
    for _ in range(2):
        for thing, again in zip(THINGS, map.get_many(things), strict=True):
            assert again == thing
            assert type(again) is type(thing)
            assert repr(again) == repr(thing)
    assert [name for name, _ in map.items()] == list(things)
    assert dict(map.items()) == things


def test_json_is_made_anew_for_each_reader(one: Bench) -> None:
    map = one.map(values="json")
    given = {"list": [1]}
    map.put("q", given)
    given["list"].append(2)
    for _ in range(3):
        found = map.get("q")
        assert found == {"list": [1]}
        found["list"].append(3)


def test_what_is_no_json_is_as_if_it_were_not_there(one: Bench) -> None:
    one.map().write({"bad": b"\xff", "empty": b""})
    map = one.map(values="json")
    map.put("good", 1)
    assert map.get_many(["bad", "empty", "good"]) == [None, None, 1]
    assert map.items() == [("good", 1)]


# What is refused.


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.get(5), "name must be a str, got int"),
        (lambda m: m.get(""), "1 to 1048576 bytes"),
        (lambda m: m.get("\ud800"), "lone surrogate"),
        (lambda m: m.get("x" * (MAX_NAME + 1)), "got 1048577"),
        (lambda m: m.get_many("abc"), "names must be several str, got str"),
        (lambda m: m.get_many(b"abc"), "names must be several str, got bytes"),
        (lambda m: m.get_many(None), "names must be several str, got NoneType"),
        (lambda m: m.get_many(["a", None]), "names must be a str, got NoneType"),
        (lambda m: m.put(5, b""), "name must be a str, got int"),
        (lambda m: m.put("", b""), "name must have 1 to"),
        (lambda m: m.put("q", "text"), "value must be bytes, got str"),
        (lambda m: m.put("q", None), "value must be bytes, got NoneType"),
        (lambda m: m.put("q", b"A" * 1001), "value must have at most 1000 bytes, got 1001"),
        (lambda m: m.put("q", b"", ttl=True), "ttl must be a number of seconds, got bool"),
        (lambda m: m.put("q", b"", ttl=0), "ttl must be more than 0"),
        (lambda m: m.put("q", b"", ttl=-1), "ttl must be more than 0"),
        (lambda m: m.put("q", b"", ttl=math.inf), "ttl must be more than 0"),
        (lambda m: m.put("q", b"", ttl=math.nan), "ttl must be more than 0"),
        (lambda m: m.put("q", b"", ttl="5"), "ttl must be a number of seconds, got str"),
        (lambda m: m.write(["q"]), "put must be a mapping or None, got list"),
        (lambda m: m.write({"q": b"new", "r": 5}), "value must be bytes, got int"),
        (lambda m: m.write({"q": b"new"}, "abc"), "delete must be several str, got str"),
        (lambda m: m.write({"q": b"new"}, ["a", 5]), "delete must be a str, got int"),
        (lambda m: m.write({"q": b"new"}, ["q"]), "delete must not name what is put"),
        (lambda m: m.delete(None), "name must be a str, got NoneType"),
        (lambda m: m.page(5), "prefix must be a str, got int"),
        (lambda m: m.page(after=5), "after must be a str or None, got int"),
        (lambda m: m.page(after=""), "after must have 1 to"),
        (lambda m: m.page(limit=0), "limit must be from 1 to 10000"),
        (lambda m: m.page(limit=10_001), "limit must be from 1 to 10000"),
        (lambda m: m.page(limit=True), "limit must be an int, got bool"),
        (lambda m: m.items("\ud800"), "prefix holds a lone surrogate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused_before_anything_is_written(
    one: Bench, call: Callable[[Any], object], said: str
) -> None:
    map = one.map(max_value=1000)
    map.put("q", b"A")
    with pytest.raises(InvalidInput, match=said):
        call(map)
    assert map.items() == [("q", b"A")]


@pytest.mark.parametrize("value", [object(), {1j: 1}, ["\ud800"], lambda: 1], ids=lambda v: "")
def test_what_json_cannot_hold_is_refused(one: Bench, value: object) -> None:
    map = one.map(values="json")
    with pytest.raises(InvalidInput, match="value"):
        map.write({"a": 1, "b": value})
    assert map.items() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": 5}, "name must be a str"),
        ({"name": ""}, "name must have 1 to 256"),
        ({"name": "\u4e00" * 250}, "name, tenant and namespace together"),
        ({"values": "xml"}, 'values must be "bytes" or "json"'),
        ({"values": None}, 'values must be "bytes" or "json"'),
        ({"ttl": True}, "ttl must be a number of seconds"),
        ({"ttl": 0}, "ttl must be more than 0"),
        ({"jitter": 0.6}, "jitter must be a number from 0 to 0.5"),
        ({"jitter": -0.1}, "jitter must be"),
        ({"jitter": True}, "jitter must be"),
        ({"jitter": math.nan}, "jitter must be"),
        ({"compress_from": -1}, "compress_from must be from 0"),
        ({"compress_from": 1.5}, "compress_from must be an int"),
        ({"max_value": 0}, "max_value must be from 1"),
        ({"max_value": 1 << 40}, "max_value must be from 1"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], said: str) -> None:
    with Tiers("redis://localhost:1") as tiers, pytest.raises(InvalidInput, match=said):
        tiers.map(**{"name": "m", **options})
