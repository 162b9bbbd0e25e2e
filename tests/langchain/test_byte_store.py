"""`RedisTieredByteStore`: langchain-tests' suites, and what they do not ask."""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.stores import BaseStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import BaseStoreAsyncTests, BaseStoreSyncTests

from langchain_redis_tiered import RedisTieredByteStore, Tiers
from redis_tiered.errors import InvalidInput, TierError
from tests.servers import RedisServer

ODD_KEYS = [
    "a:b",
    "a{b}c",
    "*",
    "[a-z]?",
    "%",
    "a_b",
    "nul\0",
    "é",
    "e\u0301",
    "🦜",
    " ",
    "\n",
    "\\",
]


class TestSync(BaseStoreSyncTests[bytes]):
    @pytest.fixture
    def kv_store(self, urls: tuple[str, str | None]) -> Iterator[RedisTieredByteStore]:
        with Tiers(*urls) as tiers:
            yield RedisTieredByteStore(tiers)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\0\xff" * 1000


class TestAsync(BaseStoreAsyncTests[bytes]):
    @pytest.fixture
    async def kv_store(self, urls: tuple[str, str | None]) -> AsyncIterator[RedisTieredByteStore]:
        async with Tiers(*urls) as tiers:
            yield RedisTieredByteStore(tiers)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"foo", b"", b"\0\xff" * 1000


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture(params=[True, False], ids=["sqlite", "no-durable"])
def store(
    request: pytest.FixtureRequest, valkey: RedisServer, sqlite_url: str
) -> Iterator[RedisTieredByteStore]:
    with Tiers(valkey.url, sqlite_url if request.param else None) as tiers:
        yield RedisTieredByteStore(tiers)


def test_odd_keys(store: RedisTieredByteStore) -> None:
    pairs = [(key, key.encode()) for key in [*ODD_KEYS, "k" * 999, "k" * 2000, "k" * 2001]]
    store.mset(pairs)
    assert store.mget([key for key, _ in pairs]) == [value for _, value in pairs]
    assert sorted(store.yield_keys()) == sorted(key for key, _ in pairs)
    assert sorted(store.yield_keys(prefix="k" * 1500)) == ["k" * 2000, "k" * 2001]
    for key in ODD_KEYS:
        assert key in set(store.yield_keys(prefix=key))
    assert list(store.yield_keys(prefix="*")) == ["*"]
    assert list(store.yield_keys(prefix="a_")) == ["a_b"]
    store.mdelete([key for key, _ in pairs])
    assert list(store.yield_keys()) == []


async def test_more_keys_than_a_page(store: RedisTieredByteStore) -> None:
    keys = [f"{kind}/{i:04}" for kind in ("a", "b", "é") for i in range(1100)]
    await store.amset([(key, b"") for key in keys])
    assert list(store.yield_keys()) == sorted(keys, key=str.encode)
    assert list(store.yield_keys(prefix="b/")) == keys[1100:2200]
    assert [key async for key in store.ayield_keys(prefix="é")] == keys[2200:]
    assert list(store.yield_keys(prefix="")) == list(store.yield_keys(prefix=None))
    assert list(store.yield_keys(prefix="c")) == []
    assert store.mget(keys) == [b""] * 3300
    await store.amdelete(keys[:2200])
    assert list(store.yield_keys()) == keys[2200:]
    await store.tiers.aclose()


KEYS = st.sampled_from(["a", "a:", "a:b", "ab", "é", "\0", "A"])


def test_it_is_a_dict_that_lasts(tiers: Tiers) -> None:
    """Any writes and reads, from two objects in turn, are those of a dict."""
    names = itertools.count()
    pairs = st.lists(st.tuples(KEYS, st.binary(max_size=4)), max_size=4)
    step = st.tuples(st.just("mset"), pairs) | st.tuples(st.just("mdelete"), st.lists(KEYS))

    @settings(max_examples=25)
    @given(steps=st.lists(step, max_size=6), prefix=st.sampled_from(["", "a", "a:", "b"]))
    def holds(steps: list[tuple[str, Any]], prefix: str) -> None:
        name = str(next(names))
        stores = itertools.cycle(RedisTieredByteStore(tiers, name=name) for _ in range(2))
        expected: dict[str, bytes] = {}
        for (method, argument), store in zip(steps, stores, strict=False):
            getattr(store, method)(argument)
            if method == "mset":
                expected.update(argument)
            else:
                expected = {key: expected[key] for key in expected.keys() - set(argument)}
            asked = ["a", "none", "a:", "a", "é", "\0"]
            assert store.mget(asked) == [expected.get(key) for key in asked]
        listed = sorted((key for key in expected if key.startswith(prefix)), key=str.encode)
        assert list(next(stores).yield_keys(prefix=prefix)) == listed

    holds()


def test_values_of_any_size(tiers: Tiers) -> None:
    store = RedisTieredByteStore(tiers, compress_from=100, max_value=1_000_000)
    values = [b"", b"\0", b"x" * 99, b"x" * 1_000_000, bytes(range(256)) * 9]
    pairs = [(str(i), value) for i, value in enumerate(values)]
    store.mset(pairs)
    assert store.mget([key for key, _ in pairs]) == values
    store.mset([("view", memoryview(b"ab")), ("array", bytearray(b"cd"))])  # type: ignore[list-item]
    assert store.mget(["view", "array"]) == [b"ab", b"cd"]
    assert all(type(value) is bytes for value in store.mget(["view", "array"]))
    with pytest.raises(InvalidInput, match="at most 1000000 bytes, got 1000001"):
        store.mset([("kept", b""), ("large", b"x" * 1_000_001)])
    assert store.mget(["kept", "large"]) == [None, None]


def test_of_one_key_the_last_value(tiers: Tiers) -> None:
    store = RedisTieredByteStore(tiers)
    store.mset([("a", b"1"), ("a", b"2")])
    store.mset(iter([("b", b"3")]))  # type: ignore[arg-type]
    store.mset([])
    store.mdelete([])
    assert store.mget(("a", "b")) == [b"2", b"3"]
    assert store.mget([]) == []
    store.mdelete(["a", "a", "none"])
    assert store.mget(["a", "b"]) == [None, b"3"]


WRONG: list[tuple[str, Any, str]] = [
    ("mget", "abc", "keys must be several str, got str"),
    ("mget", None, "keys must be several str, got NoneType"),
    ("mget", 3, "keys must be several str, got int"),
    ("mget", ["a", b"b"], r"keys\[1\] must be a str, got bytes"),
    ("mget", ["a", ""], "1 to 1048576 bytes"),
    ("mget", ["\ud800"], "lone surrogate"),
    ("mdelete", "abc", "keys must be several str, got str"),
    ("mdelete", [None], r"keys\[0\] must be a str, got NoneType"),
    ("mset", None, "key_value_pairs must be several pairs"),
    ("mset", ["abc"], "key_value_pairs must be several pairs"),
    ("mset", [("a", b"b", "c")], "key_value_pairs must be several pairs"),
    ("mset", [("a", "b")], "must be bytes, got str"),
    ("mset", [("a", None)], "must be bytes, got NoneType"),
    ("mset", [("a", b"a"), (3, b"b")], "must be a str, got int"),
    ("mset", [("a", b"a"), ("", b"b")], "1 to 1048576 bytes"),
]


@pytest.mark.parametrize(
    ("method", "argument", "told"), WRONG, ids=[f"{m}-{a!r}" for m, a, _ in WRONG]
)
async def test_arguments_that_cannot_be(
    tiers: Tiers, method: str, argument: Any, told: str
) -> None:
    store = RedisTieredByteStore(tiers)
    with pytest.raises(InvalidInput, match=told):
        getattr(store, method)(argument)
    with pytest.raises(InvalidInput, match=told):
        await getattr(store, f"a{method}")(argument)
    assert list(store.yield_keys()) == []
    await tiers.aclose()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tiers": "redis://here"}, "tiers must be a Tiers or None, got str"),
        ({"name": ""}, "name must have at least 1"),
        ({"name": None}, "name must be a str, got NoneType"),
        ({"name": "n" * 300}, "name must have"),
        ({"ttl": -1}, "ttl must be more than 0"),
        ({"jitter": 1}, "jitter must be"),
        ({"compress_from": "1"}, "compress_from must be an int"),
        ({"max_value": 0}, "max_value must be from 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_cannot_be(tiers: Tiers, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        RedisTieredByteStore(**{"tiers": tiers, **options})


def test_a_prefix_that_cannot_be(tiers: Tiers) -> None:
    with pytest.raises(InvalidInput, match="prefix must be a str"):
        list(RedisTieredByteStore(tiers).yield_keys(prefix=3))  # type: ignore[arg-type]


async def test_tenants_and_names_share_nothing(tiers: Tiers) -> None:
    stores = [
        RedisTieredByteStore(where, name=name)
        for where in (tiers, tiers.tenant("other"))
        for name in ("default", "other", "default:other")
    ]
    for i, store in enumerate(stores):
        await store.amset([("a", str(i).encode())])
    assert [await store.amget(["a"]) for store in stores] == [[b"%d" % i] for i in range(6)]
    stores[0].mdelete(["a"])
    assert [list(store.yield_keys()) for store in stores] == [[], *[["a"]] * 5]
    await tiers.aclose()


def test_what_was_stored_is_there_without_redis(tiers: Tiers, valkey: RedisServer) -> None:
    store = RedisTieredByteStore(tiers)
    store.mset([("a", b"1"), ("b", b"2")])
    valkey.kill()
    assert store.mget(["a", "none", "b"]) == [b"1", None, b"2"]
    store.mdelete(["b"])
    store.mset([("c", b"3")])
    assert store.mget(["b", "c"]) == [None, b"3"]
    valkey.start()
    assert list(store.yield_keys()) == ["a", "c"]


def test_without_any_tier_nothing_is_said_to_be_stored(valkey: RedisServer) -> None:
    valkey.kill()
    with Tiers(valkey.url) as tiers:
        store = RedisTieredByteStore(tiers)
        for call in (
            lambda: store.mset([("a", b"")]),
            lambda: store.mget(["a"]),
            lambda: store.mdelete(["a"]),
            lambda: list(store.yield_keys()),
        ):
            with pytest.raises(TierError):
                call()


def test_a_pickle_and_copies(tiers: Tiers) -> None:
    store = RedisTieredByteStore(tiers, name="n", ttl=60, compress_from=9, max_value=99)
    store.mset([("a", b"1")])
    again = pickle.loads(pickle.dumps(store))
    with again.tiers:
        assert again.mget(["a"]) == [b"1"]
        assert again._options == store._options
    assert isinstance(again, BaseStore)
    for twin in (copy.copy(store), copy.deepcopy(store)):
        assert twin.tiers is tiers
        assert twin.mget(["a"]) == [b"1"]


def test_two_loops_and_blocking_code(tiers: Tiers) -> None:
    store = RedisTieredByteStore(tiers)

    async def use(key: str) -> list[bytes | None]:
        await store.amset([(key, key.encode())])
        try:
            return await store.amget(["a", "b"])
        finally:
            await tiers.aclose()

    assert asyncio.run(use("a")) == [b"a", None]
    with pickle.loads(pickle.dumps(tiers)) as other:
        assert RedisTieredByteStore(other).mget(["a", "b"]) == [b"a", None]


def test_parents_of_what_a_vector_store_found(tiers: Tiers) -> None:
    """As MultiVectorRetriever and ParentDocumentRetriever use a byte store."""
    store = RedisTieredByteStore(tiers, name="parents")
    parents = {f"p{i}": Document(f"parent {i}", metadata={"i": i}) for i in range(3)}
    children = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    for key in parents:
        children.add_texts([f"child {n} of {key}" for n in range(2)], [{"parent": key}] * 2)
    store.mset([(key, each.model_dump_json().encode()) for key, each in parents.items()])
    found = children.similarity_search("child 1 of p2", k=1)
    values = store.mget([each.metadata["parent"] for each in found] + ["gone"])
    assert [value and Document.model_validate_json(value) for value in values] == [
        parents["p2"],
        None,
    ]
