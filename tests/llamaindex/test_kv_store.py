"""`RedisTieredKVStore`."""

from __future__ import annotations

import copy
import datetime
import pickle
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.async_utils import asyncio_run
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import MediaResource, Node, ObjectType
from llama_index.core.storage.docstore.utils import doc_to_json
from llama_index.core.storage.kvstore.types import BaseKVStore

from llamaindex_redis_tiered import RedisTieredKVStore, Tiers
from llamaindex_redis_tiered._written import dict_from, dumped_dict
from redis_tiered.errors import InvalidInput, TierError
from tests import values
from tests.servers import RedisServer

SECRET = "xyzzy-plugh"
Call = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Call a method of a store by its sync name, or its async twin."""

    async def sync(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(store, name)(*arguments, **options)

    async def twin(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        return await getattr(store, f"a{name}")(*arguments, **options)

    return sync if request.param == "sync" else twin


@pytest.fixture
def everywhere(urls: tuple[str, str | None]) -> Iterator[RedisTieredKVStore]:
    """A store on every Redis and every durable tier."""
    with Tiers(*urls) as tiers:
        yield RedisTieredKVStore(tiers)


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
def store(tiers: Tiers) -> RedisTieredKVStore:
    return RedisTieredKVStore(tiers)


# What LlamaIndex asks of a store.


async def test_values_come_and_go(everywhere: RedisTieredKVStore, call: Call) -> None:
    assert isinstance(everywhere, BaseKVStore)
    assert await call(everywhere, "get", "k") is None
    assert await call(everywhere, "get_all") == {}
    assert await call(everywhere, "delete", "k") is False
    await call(everywhere, "put", "k", {"a": 1})
    await call(everywhere, "put", "k", {"a": [1.5, None]}, collection="other")
    await call(everywhere, "put_all", [("x", {"n": 0}), ("y", {}), ("x", {"n": 1})], batch_size=2)
    assert await call(everywhere, "get", "k") == {"a": 1}
    assert await call(everywhere, "get", "k", collection="other") == {"a": [1.5, None]}
    assert await call(everywhere, "get_all") == {"k": {"a": 1}, "x": {"n": 1}, "y": {}}
    assert await call(everywhere, "get_many", ["y", "z", "k"]) == [{}, None, {"a": 1}]
    assert await call(everywhere, "delete", "k") is True
    assert await call(everywhere, "get", "k") is None
    assert await call(everywhere, "delete_many", ["x", "y", "z"]) == 2
    assert await call(everywhere, "get_all") == {}
    assert await call(everywhere, "get_all", "other") == {"k": {"a": [1.5, None]}}
    await call(everywhere, "clear")
    assert await call(everywhere, "get", "k", "other") is None


async def test_nothing_is_put(store: RedisTieredKVStore, call: Call) -> None:
    await call(store, "put_all", [])
    assert await call(store, "delete_many", []) == 0
    assert await call(store, "get_many", []) == []


async def test_a_collection_of_many_pages(store: RedisTieredKVStore, call: Call) -> None:
    pairs = [(f"k{i:04}", {"i": i}) for i in range(1203)]
    await call(store, "put_all", pairs, "c")
    await call(store, "put", "k", {}, "c2")
    assert await call(store, "get_all", "c") == dict(pairs)


def test_what_was_put_is_there_after_redis_was_killed(
    valkey: RedisServer, store: RedisTieredKVStore
) -> None:
    store.put_all([("a", {"n": 1}), ("b", {"n": 2})])
    valkey.kill()
    valkey.start()
    assert store.get_many(["a", "b"]) == [{"n": 1}, {"n": 2}]


def test_a_caller_changes_nothing_that_is_stored(store: RedisTieredKVStore) -> None:
    value = {"a": [1]}
    store.put("k", value)
    value["a"].append(2)
    found = store.get("k")
    assert found == {"a": [1]}
    found["a"].append(3)
    assert store.get("k") == {"a": [1]}


def test_every_value_has_a_key_of_its_own(valkey: RedisServer, store: RedisTieredKVStore) -> None:
    store.put_all([(str(i), {"i": i}) for i in range(50)])
    with redis.Redis.from_url(valkey.url) as client:
        kinds = {client.type(key) for key in client.scan_iter()}
        keys = sum(1 for _ in client.scan_iter(_type="string"))
    assert kinds == {b"string"}
    assert keys >= 50


def test_a_ttl_and_compression(valkey: RedisServer, tiers: Tiers) -> None:
    cache = RedisTieredKVStore(tiers, name="c", ttl=60, jitter=0.5, compress_from=1000)
    cache.put("k", {"text": "a" * 100_000})
    assert cache.get("k") == {"text": "a" * 100_000}
    with redis.Redis.from_url(valkey.url) as client:
        [key] = [key for key in client.scan_iter() if not key.endswith(b":epoch")]
        assert 29_000 <= client.pttl(key) <= 60_000
        assert client.memory_usage(key) < 10_000


def test_stores_of_other_names_and_tenants_share_nothing(tiers: Tiers) -> None:
    stores = [
        RedisTieredKVStore(tiers),
        RedisTieredKVStore(tiers, name="b"),
        RedisTieredKVStore(tiers.tenant("t")),
    ]
    for i, store in enumerate(stores):
        store.put("k", {"i": i})
    assert [store.get_all() for store in stores] == [{"k": {"i": i}} for i in range(3)]
    stores[1].clear()
    assert [store.get("k") for store in stores] == [{"i": 0}, None, {"i": 2}]


# Keys and values of all kinds.


names = st.sampled_from(["", "/", "a", "a/b", "%2F", "%", "data", "a%2Fb", "ü", ":", "{x}", "\0"])


@given(st.dictionaries(st.tuples(names, names), st.integers(), max_size=12))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_two_collections_and_keys_meet(
    store: RedisTieredKVStore, kept: dict[tuple[str, str], int]
) -> None:
    store.clear()
    for collection in {collection for collection, _ in kept}:
        pairs = [(key, {"n": n}) for (of, key), n in kept.items() if of == collection]
        store.put_all(pairs, collection)
    for (collection, key), n in kept.items():
        assert store.get(key, collection) == {"n": n}
    for collection in ["", "/", "a", "%2F", "none"]:
        expected = {key: {"n": n} for (of, key), n in kept.items() if of == collection}
        assert store.get_all(collection) == expected


@given(st.dictionaries(values.words, values.values, max_size=4))
def test_what_is_accepted_comes_back_equal_and_of_the_same_types(value: dict[str, Any]) -> None:
    back = dict_from(dumped_dict("val", value))
    assert values.state(back) == values.state(value)


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ({"type": ObjectType.TEXT}, {"type": "1"}),
        ({"n": np.float32(0.5), "i": np.int64(3)}, {"n": 0.5, "i": 3}),
        ({"at": datetime.date(2024, 2, 29)}, {"at": datetime.date(2024, 2, 29)}),
    ],
)
def test_values_of_other_types_come_back_equal(
    store: RedisTieredKVStore, value: dict[str, Any], back: dict[str, Any]
) -> None:
    store.put("k", value)
    assert store.get("k") == back == value


def test_a_node_with_a_url_comes_back(store: RedisTieredKVStore) -> None:
    node = doc_to_json(Node(image_resource=MediaResource(url="https://example.org/ü.png")))
    store.put("k", node)
    assert store.get("k") == node


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1], "val must be a dict, got list"),
        (None, "val must be a dict, got NoneType"),
        ({"a": [object()]}, r"val\['a'\]\[0\] must be made of .*, got object"),
        ({"a": "\ud800"}, "val.* lone surrogate"),
        ({"a": MediaResource(text="x")}, "got MediaResource"),
        ({"a": "x" * 200}, "val must have at most 100 bytes as JSON, got 2"),
    ],
)
async def test_values_that_are_refused(tiers: Tiers, call: Call, value: Any, said: str) -> None:
    store = RedisTieredKVStore(tiers, max_value=100)
    with pytest.raises(InvalidInput, match=said):
        await call(store, "put", "k", value)
    with pytest.raises(InvalidInput, match=said.replace("val", r"kv_pairs\[1\]\[1\]", 1)):
        await call(store, "put_all", [("j", {}), ("k", value)])
    assert store.get_all() == {}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (1, "must be a str, got int"),
        (None, "must be a str, got NoneType"),
        ("\ud800", "lone surrogate"),
        ("ü" * (1 << 19), "and its collection must have at most 1048576 bytes, got 1048581"),
    ],
)
async def test_keys_that_are_refused(
    store: RedisTieredKVStore, call: Call, key: Any, said: str
) -> None:
    for name, *arguments in [("put", {}), ("get",), ("delete",)]:
        with pytest.raises(InvalidInput, match=said):
            await call(store, name, key, *arguments)
    with pytest.raises(InvalidInput, match=said):
        await call(store, "put_all", [(key, {})])
    for name in ["get_many", "delete_many"]:
        with pytest.raises(InvalidInput, match=said):
            await call(store, name, ["a", key])


async def test_other_arguments_that_are_refused(store: RedisTieredKVStore, call: Call) -> None:
    with pytest.raises(InvalidInput, match="collection must be a str, got int"):
        await call(store, "get_all", 3)
    with pytest.raises(InvalidInput, match="batch_size must be from 1"):
        await call(store, "put_all", [], batch_size=0)
    with pytest.raises(InvalidInput, match="keys must be several str, got str"):
        await call(store, "get_many", "abc")
    with pytest.raises(InvalidInput, match="kv_pairs must be several pairs, got int"):
        await call(store, "put_all", 3)
    with pytest.raises(InvalidInput, match=r"kv_pairs\[0\] must be a pair"):
        await call(store, "put_all", ["ab"])


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": 3},
        {"name": "x" * 201},
        {"ttl": 0},
        {"jitter": 0.6},
        {"compress_from": -1},
        {"max_value": 0},
        {"failures": "ignore"},
        {"tiers": 3},
        {"tiers": f"redis://:{SECRET}@localhost"},
    ],
)
def test_options_that_are_refused(tiers: Tiers, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))) as caught:
        RedisTieredKVStore(**{"tiers": tiers, **options})
    assert SECRET not in str(caught.value)


# What fails.


async def test_a_failing_tier_is_an_error(sqlite_url: str, call: Call) -> None:
    with Tiers("redis://127.0.0.1:1/0", "sqlite:////nowhere/at/all.db") as tiers:
        store = RedisTieredKVStore(tiers)
        for name, *arguments in [("put", "k", {}), ("get", "k"), ("delete", "k"), ("get_all",)]:
            with pytest.raises(TierError):
                await call(store, name, *arguments)


async def test_a_cache_s_failing_tier_is_a_miss(
    call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    with Tiers("redis://127.0.0.1:1/0") as tiers:
        store = RedisTieredKVStore(tiers, failures="miss")
        await call(store, "put", "k", {})
        await call(store, "put_all", [("k", {})])
        assert await call(store, "get", "k") is None
        assert await call(store, "get_many", ["k", "l"]) == [None, None]
        assert await call(store, "get_all") == {}
        assert await call(store, "delete", "k") is False
        assert store.failed == {"writing": 3, "reading": 3}
        messages = [
            record.message for record in caplog.records if "as if nothing" in record.message
        ]
        assert len(messages) == 2
        with pytest.raises(InvalidInput):
            await call(store, "put", 3, {})


async def test_a_cache_leaves_out_what_cannot_be_stored(tiers: Tiers, call: Call) -> None:
    store = RedisTieredKVStore(tiers, failures="miss")
    await call(store, "put_all", [("a", {"x": object()}), ("b", {"x": 1})])
    assert store.get_all() == {"b": {"x": 1}}
    assert store.failed == {"value": 1}


# Around it.


def test_copies_and_pickles_have_the_same_options(valkey: RedisServer, sqlite_url: str) -> None:
    with Tiers(valkey.url, sqlite_url) as tiers:
        store = RedisTieredKVStore(tiers, name="n", ttl=60, compress_from=9, failures="miss")
        store.put("k", {"a": 1})
        assert copy.copy(store).tiers is copy.deepcopy(store).tiers is tiers
        other = pickle.loads(pickle.dumps(store))
        with other.tiers:
            assert other.get("k") == {"a": 1}
            assert other._options == copy.deepcopy(store)._options == store._options


def test_its_words_hold_no_secret() -> None:
    with Tiers(f"redis://:{SECRET}@localhost:1/0") as tiers:
        assert SECRET not in repr(RedisTieredKVStore(tiers))
    assert RedisTieredKVStore.class_name() == "RedisTieredKVStore"


def test_it_is_true_when_it_is_empty(store: RedisTieredKVStore) -> None:
    assert store


def test_without_tiers_it_is_on_the_default(
    valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Tiers(valkey.url) as tiers:
        monkeypatch.setattr(Tiers, "default", lambda: tiers)
        assert RedisTieredKVStore().tiers is tiers


async def test_from_a_blocking_method_of_llamaindex(store: RedisTieredKVStore) -> None:
    asyncio_run(store.aput("k", {"a": 1}))
    assert asyncio_run(store.aget("k")) == {"a": 1}


async def test_as_the_cache_of_embeddings(store: RedisTieredKVStore) -> None:
    model = MockEmbedding(embed_dim=3, embeddings_cache=store)
    texts = ["", "a/b", "long " * 100_000]
    first = model.get_text_embedding_batch(texts)
    assert set(store.get_all("embeddings")) == set(texts)
    assert await model.aget_text_embedding_batch(texts) == first == [[0.5] * 3] * 3
    assert len(store.get_all("embeddings")) == 3
