"""`cached_embeddings` for LlamaIndex, and `RedisTieredEmbeddingsCache` as its `embeddings_cache`."""

from __future__ import annotations

import asyncio
import copy
import itertools
import multiprocessing
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import Settings, StorageContext, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.embeddings import BaseEmbedding, MockEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.rate_limiter import BaseRateLimiter
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import PrivateAttr

from llamaindex_redis_tiered import (
    RedisTieredEmbeddingsCache,
    RedisTieredVectorStore,
    Tiers,
    cached_embeddings,
    embedding_cache_of,
    uncached_embeddings,
)
from redis_tiered import LLMCache, SemanticPolicy
from redis_tiered.embedders import as_embedder
from redis_tiered.embedders.cache import Source
from redis_tiered.errors import InvalidInput, TierError
from tests.semantic.toy import asked, direction, taught
from tests.servers import RedisServer

WAYS = pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
SIX = [
    f"{a}get_{what}" for a in ("", "a") for what in ("text_embedding", "query_embedding", "batch")
]
ODD = ["", "a" * 100_000, "\ud800", "🦜", "nul\0", "a:b{c}*"]


class Seeing(BaseEmbedding):
    """Queries and texts have different vectors. Its copies remember together what they were asked."""

    style: str = "plain"
    length: int = 5
    api_key: str = ""
    fail: Any = None
    _asked: list[Any] = PrivateAttr(default_factory=list)

    def vector(self, kind: str, text: str) -> list[float]:
        topic = text.partition(":")[0].encode("utf-8", "surrogatepass").hex()
        whole = text.encode("utf-8", "surrogatepass").hex()
        about = f"{self.model_name} {self.style} {kind} "
        made = direction(about + topic, self.length) + 0.17 * direction(about + whole, self.length)
        listed: list[float] = made.tolist()
        return listed

    def told(self, how: str, what: Any) -> None:
        self._asked.append((how, what))
        if self.fail is not None:
            raise self.fail

    def _get_query_embedding(self, query: str) -> list[float]:
        self.told("query", query)
        return self.vector("query", query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        self.told("aquery", query)
        return self.vector("query", query)

    def _get_text_embedding(self, text: str) -> list[float]:
        self.told("text", text)
        return self.vector("text", text)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        self.told("atext", text)
        return self.vector("text", text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self.told("texts", list(texts))
        return [self.vector("text", text) for text in texts]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self.told("atexts", list(texts))
        return [self.vector("text", text) for text in texts]


def seeing(name: str = "m", **options: Any) -> Seeing:
    return Seeing(model_name=name, **options)


class Heard(BaseEventHandler):
    """Every event there is."""

    events: list[Any] = []  # noqa: RUF012 - a field of pydantic's

    @classmethod
    def class_name(cls) -> str:
        return "Heard"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)


class Counted(BaseRateLimiter):
    def __init__(self) -> None:
        self.taken = 0

    def acquire(self, num_tokens: int = 0) -> None:
        self.taken += 1

    async def async_acquire(self, num_tokens: int = 0) -> None:
        self.taken += 1


@pytest.fixture
def tiers(valkey: RedisServer) -> Iterator[Tiers]:
    with Tiers(valkey.url) as tiers:
        yield tiers


@pytest.fixture(autouse=True)
async def _closed_after(request: pytest.FixtureRequest) -> Any:
    tiers = request.getfixturevalue("tiers") if "tiers" in request.fixturenames else None
    yield
    if tiers is not None:
        await tiers.aclose()


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler, root = Heard(events=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


async def ask(model: BaseEmbedding, how: str, *texts: str) -> Any:
    """One of the six ways; the vectors, in order."""
    if how.endswith("batch"):
        made = getattr(model, f"{how.removesuffix('batch')}text_embedding_batch")(list(texts))
        return await made if how.startswith("a") else made
    made = [getattr(model, how)(text) for text in texts]
    return [await each for each in made] if how.startswith("a") else made


def rounded(model: Seeing, kind: str, texts: Sequence[str]) -> list[list[float]]:
    return [np.float32(model.vector(kind, text)).tolist() for text in texts]


def kind_of(how: str) -> str:
    return "query" if "query" in how else "text"


# --- asked once ----------------------------------------------------------------------------------


@WAYS
async def test_every_backend_gives_what_it_was_told(
    urls: tuple[str, str | None], awaited: bool
) -> None:
    model = seeing()
    how = f"{'a' * awaited}get_batch"
    for texts in (["a", "b", "a"], ["c", "b", "", "c"]):
        async with Tiers(*urls) as tiers:
            fast = cached_embeddings(model, tiers)
            assert await ask(fast, how, *texts) == rounded(model, "text", texts)
    assert model._asked == [(f"{'a' * awaited}texts", texts) for texts in (["a", "b"], ["c", ""])]


@pytest.mark.parametrize("how", SIX)
async def test_the_second_time_nobody_is_asked(tiers: Tiers, how: str) -> None:
    model = seeing()
    fast = cached_embeddings(model, tiers)
    first = await ask(fast, how, "a", "b", "a")
    assert len(model._asked) == (1 if "batch" in how else 2)
    assert first == rounded(model, kind_of(how), "aba")
    assert type(first[0]) is list
    assert type(first[0][0]) is float
    model._asked.clear()
    for again in SIX:
        if kind_of(again) == kind_of(how):
            assert await ask(fast, again, "b", "a") == rounded(model, kind_of(how), "ba")
    assert model._asked == []
    for other in SIX:
        if kind_of(other) != kind_of(how):
            assert await ask(fast, other, "a") == rounded(model, kind_of(other), "a")
    assert len(model._asked) == 1


@WAYS
async def test_a_query_as_a_document(tiers: Tiers, awaited: bool) -> None:
    model = seeing()
    fast = cached_embeddings(model, tiers, query_as_document=True)
    a = "a" * awaited
    await ask(fast, f"{a}get_batch", "a")
    assert await ask(fast, f"{a}get_query_embedding", "a") == rounded(model, "text", "a")
    assert len(model._asked) == 1


@pytest.mark.parametrize("how", ["get_batch", "aget_batch"])
async def test_odd_texts_and_none(tiers: Tiers, how: str) -> None:
    model = seeing()
    fast = cached_embeddings(model, tiers, dtype="float32", batch_size=4)
    for _ in range(2):
        assert await ask(fast, how, *ODD) == rounded(model, "text", ODD)
        assert await ask(fast, how) == []
    assert [what for _, what in model._asked] == [ODD[:4], ODD[4:]]


def test_any_calls_in_any_order(tiers: Tiers) -> None:
    """Each text is embedded once as a query and once as a text, whichever way it is asked for."""
    names = itertools.count()
    calls = st.lists(
        st.tuples(st.sampled_from(SIX), st.lists(st.sampled_from("abcd"), max_size=5)), max_size=5
    )

    @settings(max_examples=20)
    @given(calls=calls, batch=st.integers(1, 3))
    def holds(calls: list[tuple[str, list[str]]], batch: int) -> None:
        model = seeing(embed_batch_size=batch)
        fast = cached_embeddings(model, tiers, name=str(next(names)))
        known: set[tuple[str, str]] = set()

        async def run() -> None:
            for how, texts in calls:
                assert await ask(fast, how, *texts) == rounded(model, kind_of(how), texts)
                known.update((kind_of(how), text) for text in texts)

        asyncio.run(run())
        told = [
            ("query" if "query" in how else "text", text)
            for how, what in model._asked
            for text in what
        ]
        assert sorted(told) == sorted(known)

    holds()


@WAYS
async def test_a_full_hit_emits_nothing_and_waits_for_no_limiter(
    tiers: Tiers, heard: Heard, awaited: bool
) -> None:
    counter = TokenCountingHandler(tokenizer=str.split)
    limiter = Counted()
    model = seeing(
        embed_batch_size=2, callback_manager=CallbackManager([counter]), rate_limiter=limiter
    )
    fast = cached_embeddings(model, tiers)
    a = "a" * awaited
    await ask(fast, f"{a}get_batch", "one", "two", "three")
    await ask(fast, f"{a}get_query_embedding", "one")
    before = (limiter.taken, counter.total_embedding_token_count)
    assert before == (3, 4)
    heard.events.clear()
    await ask(fast, f"{a}get_batch", "one", "two", "three")
    await ask(fast, f"{a}get_text_embedding", "one")
    await ask(fast, f"{a}get_query_embedding", "one")
    assert heard.events == []
    assert (limiter.taken, counter.total_embedding_token_count) == before
    await ask(fast, f"{a}get_batch", "one", "four", "two", "five")  # the rest
    assert [event.class_name() for event in heard.events] == [
        "EmbeddingStartEvent",
        "EmbeddingEndEvent",
    ]
    assert heard.events[1].chunks == ["four", "five"]
    assert limiter.taken == before[0] + 1


@WAYS
async def test_show_progress_is_of_the_rest(
    tiers: Tiers, capfd: pytest.CaptureFixture[str], awaited: bool
) -> None:
    fast = cached_embeddings(seeing(), tiers)
    for texts, shown in ((["a"], True), (["a"], False), (["b", "a", "c"], True)):
        if awaited:
            made = await fast.aget_text_embedding_batch(texts, show_progress=True)
        else:
            made = fast.get_text_embedding_batch(texts, show_progress=True)
        assert made == rounded(fast, "text", texts)
        told = capfd.readouterr().err
        assert ("Generating embeddings" in told) is shown
        if len(texts) > 1 and not awaited:
            assert "2/2" in told


@pytest.mark.parametrize("how", SIX)
async def test_what_the_model_raises_is_raised(tiers: Tiers, how: str) -> None:
    model = seeing()
    fast = cached_embeddings(model, tiers)
    fast.fail = LookupError("gone")
    with pytest.raises(LookupError) as caught:
        await ask(fast, how, "a")
    assert caught.value is fast.fail
    fast.fail = None
    assert await ask(fast, how, "a") == rounded(model, kind_of(how), "a")


@pytest.mark.parametrize("how", SIX)
async def test_a_failing_tier_is_a_miss(valkey: RedisServer, how: str) -> None:
    model = seeing()
    valkey.kill()
    async with Tiers(valkey.url) as tiers:
        fast = cached_embeddings(model, tiers)
        for _ in range(2):
            assert await ask(fast, how, "a") == rounded(model, kind_of(how), "a")
        assert embedding_cache_of(fast).stats().unstored == 2


@pytest.mark.parametrize(
    "bad", ["abc", None, [3], (t for t in "ab")], ids=["str", "none", "int", "generator"]
)
def test_texts_that_are_none(tiers: Tiers, bad: Any) -> None:
    model = seeing()
    with pytest.raises(InvalidInput, match="texts"):
        cached_embeddings(model, tiers).get_text_embedding_batch(bad)
    assert model._asked == []


# --- what it is ----------------------------------------------------------------------------------


def test_it_is_of_the_models_class(tiers: Tiers) -> None:
    model = seeing(style="odd")
    fast = cached_embeddings(model, tiers)
    assert isinstance(fast, Seeing)
    assert type(model) is Seeing
    assert type(fast).__name__ == "Seeing"
    assert fast is not model
    assert fast.to_dict() == model.to_dict()
    assert "redis" not in repr(fast) + fast.to_json()
    assert type(cached_embeddings(seeing(), tiers)) is type(fast)
    Settings.embed_model = fast
    try:
        assert Settings.embed_model is fast
    finally:
        Settings._embed_model = None


def test_uncached_is_as_before(tiers: Tiers) -> None:
    model = seeing()
    plain = uncached_embeddings(cached_embeddings(model, tiers))
    assert type(plain) is Seeing
    assert plain.__pydantic_private__ == model.__pydantic_private__
    for _ in range(2):
        assert plain.get_text_embedding("a") == model.vector("text", "a")
    assert len(model._asked) == 2
    assert type(uncached_embeddings(cached_embeddings(plain, tiers))) is Seeing
    mock = MockEmbedding(3, model_name="mock")
    assert uncached_embeddings(cached_embeddings(mock, tiers)) == mock


async def test_one_made_of_its_class_works_without_a_cache(tiers: Tiers) -> None:
    other = type(cached_embeddings(seeing(), tiers))(model_name="other")
    for how in SIX:
        assert await ask(other, how, "a") == [other.vector(kind_of(how), "a")]
    assert pickle.loads(pickle.dumps(other)).model_name == "other"
    with pytest.raises(InvalidInput, match="without a cache"):
        embedding_cache_of(other)


@pytest.mark.parametrize("undo", [uncached_embeddings, embedding_cache_of])
@pytest.mark.parametrize("given", [MockEmbedding(3), None, "x"], ids=["plain", "none", "str"])
def test_what_is_not_cached(undo: Any, given: Any) -> None:
    with pytest.raises(InvalidInput, match=r"must be what cached_embeddings\(...\) gave"):
        undo(given)


class Alone(BaseEmbedding):
    """Shall have no subclasses."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        raise TypeError("no")

    def _get_query_embedding(self, query: str) -> list[float]:
        return [1.0]

    _get_text_embedding = _get_query_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return [1.0]


@pytest.mark.parametrize(
    ("embeddings", "options", "told"),
    [
        ("m", {}, "must be a BaseEmbedding of LlamaIndex, got str"),
        (MockEmbedding(3), {}, "model must be given: MockEmbedding"),
        (
            Alone(model_name="a"),
            {},
            "of a class that can have subclasses.*RedisTieredEmbeddingsCache",
        ),
        (seeing(), {"query_as_document": 1}, "query_as_document must be a bool"),
        (seeing(), {"name": ""}, "name must have"),
        (seeing(), {"dtype": None}, "dtype must be one of"),
        (seeing(), {"model": ""}, "model must be"),
        (seeing(), {"tiers": "redis://here"}, "tiers must be a Tiers or None"),
    ],
    ids=["str", "unnamed", "alone", "query", "name", "dtype", "model", "tiers"],
)
def test_arguments_that_cannot_be(
    tiers: Tiers, embeddings: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        cached_embeddings(embeddings, **{"tiers": tiers, **options})


def test_cached_already(tiers: Tiers) -> None:
    with pytest.raises(InvalidInput, match="cached already"):
        cached_embeddings(cached_embeddings(seeing(), tiers), tiers)


# --- whose it is ---------------------------------------------------------------------------------


def test_what_shapes_vectors_is_part_of_the_name() -> None:
    models = [
        seeing(),
        seeing("n"),
        seeing(style="odd"),
        seeing(length=6),
        MockEmbedding(3, model_name="m"),
        MockEmbedding(4, model_name="m"),
    ]
    names = [Source(each, None).model for each in models]
    assert len(set(names)) == len(names)
    for indifferent in (
        seeing(api_key="sk-secret"),
        seeing(embed_batch_size=3, num_workers=2),
        seeing(callback_manager=CallbackManager([]), rate_limiter=Counted()),
    ):
        assert Source(indifferent, None).model == names[0]


@WAYS
@pytest.mark.parametrize("by", ["copy", "attribute"])
async def test_a_model_that_is_changed_later_is_another(
    tiers: Tiers, by: str, awaited: bool
) -> None:
    model = seeing()
    fast = cached_embeddings(model, tiers)
    how = f"{'a' * awaited}get_batch"
    await ask(fast, how, "a")
    for change in ({"model_name": "n"}, {"style": "odd"}, {"length": 6}):
        if by == "copy":
            fast = fast.model_copy(update=change)
        else:
            [(name, value)] = change.items()
            setattr(fast, name, value)
        assert await ask(fast, how, "a") == rounded(fast, "text", "a")
    assert len(model._asked) == 4
    assert await ask(cached_embeddings(model, tiers), how, "a") == rounded(model, "text", "a")
    assert len(model._asked) == 4


def test_a_given_name_stays(tiers: Tiers) -> None:
    mock = cached_embeddings(MockEmbedding(3), tiers, model="mock-3")
    assert mock.get_text_embedding("a") == [0.5] * 3
    other = cached_embeddings(MockEmbedding(3), tiers, model="mock-3")
    assert other.get_text_embedding("a") == [0.5] * 3
    assert embedding_cache_of(other).stats().misses == 0


def test_tenants_and_names_share_nothing(tiers: Tiers) -> None:
    model = seeing()
    for where in (tiers, tiers.tenant("other")):
        for name in ("default", "other"):
            cached_embeddings(model, where, name=name).get_text_embedding("a")
    assert len(model._asked) == 4


# --- where embeddings are used -------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("ours", [False, True], ids=["in-memory", "redis-tiered"])
async def test_an_index(tiers: Tiers, ours: bool, awaited: bool) -> None:
    model = seeing()
    nodes = [TextNode(text=text, id_=text) for text in ("red: a", "green: b", "blue: c")]
    for number in range(2):
        fast = cached_embeddings(model, tiers, query_as_document=True)
        context = (
            StorageContext.from_defaults(vector_store=RedisTieredVectorStore(f"c{number}", tiers))
            if ours
            else None
        )
        index = VectorStoreIndex(
            copy.deepcopy(nodes), embed_model=fast, storage_context=context, use_async=False
        )
        retriever = index.as_retriever(similarity_top_k=1)
        found = await retriever.aretrieve("green: x") if awaited else retriever.retrieve("green: x")
        assert [each.node_id for each in found] == ["green: b"]
    assert [len(what) for _, what in model._asked] == [3, len("green: x")]


def test_a_semantic_cache_over_cached_embeddings(tiers: Tiers) -> None:
    model = seeing("all-MiniLM-L6-v2", length=64)

    def cache(embeddings: BaseEmbedding) -> LLMCache:
        policy = SemanticPolicy(embeddings, warmup=0, audit_rate=0.0, engine="local")
        return LLMCache(tiers, semantic=policy)

    taught(cache(model))
    fast = cached_embeddings(model, tiers)
    fast.get_query_embedding("topic3: another wording")
    model._asked.clear()
    assert as_embedder(fast).model == as_embedder(model).model
    found = cache(fast).lookup(asked("topic3: another wording"))
    assert found is not None
    assert found.payload == b"A3"
    assert model._asked == []


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, BaseEmbedding.model_copy])
def test_copies_share_the_cache(tiers: Tiers, duplicate: Any) -> None:
    fast = cached_embeddings(seeing(), tiers)
    twin = duplicate(fast)
    assert type(twin) is type(fast)
    assert embedding_cache_of(twin) is embedding_cache_of(fast)
    fast.get_text_embedding("a")
    twin.get_text_embedding("a")
    assert embedding_cache_of(twin).stats().misses == 1


def test_a_pickle_reads_the_same_cache(tiers: Tiers) -> None:
    fast = cached_embeddings(seeing(), tiers, dtype="float16", query_as_document=True)
    first = fast.get_text_embedding("a")
    again = pickle.loads(pickle.dumps(fast))
    cache = embedding_cache_of(again)
    with cache.tiers:
        assert again.get_query_embedding("a") == first
        assert cache.stats().misses == 0
        assert isinstance(again, Seeing)
        assert type(again) is type(fast)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="LlamaIndex starts no processes then")
def test_processes_of_a_pipeline_share_the_cache(tiers: Tiers) -> None:
    # A model that the processes can import: LlamaIndex waits for ever for one that they cannot.
    fast = cached_embeddings(MockEmbedding(3, model_name="mock"), tiers)
    nodes = [TextNode(text=f"{i}: a text of its own") for i in range(4)]
    pipeline = IngestionPipeline(transformations=[fast], disable_cache=True)
    for number in (2, None):
        made = pipeline.run(nodes=copy.deepcopy(nodes), num_workers=number)
        assert [each.embedding for each in made] == [[0.5] * 3] * 4
    assert embedding_cache_of(fast).stats().misses == 0


def _in_child(fast: Any, connection: Any) -> None:
    connection.send(fast.get_text_embedding_batch(["parent's", "child's"]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child(tiers: Tiers) -> None:
    model = seeing()
    fast = cached_embeddings(model, tiers)
    fast.get_text_embedding("parent's")
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(fast, theirs))
    child.start()
    assert ours.poll(30)
    assert ours.recv() == rounded(model, "text", ["parent's", "child's"])
    child.join(10)
    fast.get_text_embedding("child's")
    assert len(model._asked) == 1


def test_threads_and_loops(tiers: Tiers) -> None:
    model = seeing()
    fast = cached_embeddings(model, tiers)
    texts = [f"text {i}" for i in range(8)]

    def run(i: int) -> list[Any]:
        if i < 8:
            return [fast.get_text_embedding_batch(texts) for _ in range(3)]

        async def gathered() -> list[Any]:
            mine = cached_embeddings(model, pickle.loads(pickle.dumps(tiers)))
            async with embedding_cache_of(mine).tiers:
                return await asyncio.gather(*(mine.aget_text_embedding_batch(texts) for _ in "abc"))

        return asyncio.run(gathered())

    with ThreadPoolExecutor(10) as pool:
        for made in pool.map(run, range(10)):
            assert made == [rounded(model, "text", texts)] * 3


async def test_cancelled_in_the_middle(tiers: Tiers) -> None:
    begun = asyncio.Event()

    class Slow(Seeing):
        async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    fast = cached_embeddings(Slow(model_name="slow"), tiers)
    task = asyncio.create_task(fast.aget_text_embedding_batch(["a"]))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fast.get_text_embedding_batch(["a"]) == rounded(fast, "text", "a")


# --- as LlamaIndex's own `embeddings_cache` ------------------------------------------------------


def with_cache(name: str, cache: Any, length: int = 5) -> Seeing:
    return seeing(name, length=length, embeddings_cache=cache)


def test_llamaindexs_own_store_mixes_models() -> None:
    """Why there is a cache that is bound to a model."""
    store = SimpleKVStore()
    one, other = with_cache("one", store), with_cache("other", store, 3)
    first = one.get_text_embedding("a")
    assert other.get_text_embedding("a") == first  # five numbers of a model of three


@pytest.mark.parametrize("how", SIX)
async def test_models_never_meet(tiers: Tiers, how: str) -> None:
    one, other = (
        with_cache(name, RedisTieredEmbeddingsCache(name, tiers), length)
        for name, length in (("one", 5), ("other", 3))
    )
    for model in (one, other):
        first = await ask(model, how, "a", "b")
        assert first == [model.vector(kind_of(how), text) for text in "ab"]
        assert await ask(model, how, "b", "a") == rounded(model, kind_of(how), "ba")
        assert len(model._asked) == (1 if "batch" in how else 2)


@WAYS
async def test_the_store_by_itself(tiers: Tiers, awaited: bool) -> None:
    cache = RedisTieredEmbeddingsCache("m", tiers)

    async def call(method: str, *arguments: Any) -> Any:
        made = getattr(cache, f"{'a' * awaited}{method}")(*arguments)
        return await made if awaited else made

    assert await call("get", "a") is None
    await call("put", "a", {"id": [1.0, 2.0]})
    await call("put_all", [(text, {"id": np.array([3, 4])}) for text in ODD])
    await call("put_all", [])
    assert await call("get", "a") == {"vector": [1.0, 2.0]}
    assert [await call("get", text) for text in ODD] == [{"vector": [3.0, 4.0]}] * len(ODD)
    assert await call("get", "a", "another collection") is None
    await call("put", "a", {"id": [5.0]}, "another collection")
    assert await call("get", "a") == {"vector": [1.0, 2.0]}
    assert await call("delete", "a") is True
    assert await call("delete", "a") is False
    assert await call("get", "a") is None
    assert await call("get", "a", "another collection") == {"vector": [5.0]}
    with pytest.raises(NotImplementedError, match="nothing to list"):
        await call("get_all")


@WAYS
async def test_a_failing_tier_is_a_miss_here_too(valkey: RedisServer, awaited: bool) -> None:
    valkey.kill()
    async with Tiers(valkey.url) as tiers:
        cache = RedisTieredEmbeddingsCache("m", tiers)
        model = with_cache("m", cache)
        for how in SIX:
            if how.startswith("a") == awaited:
                assert await ask(model, how, "a") == [model.vector(kind_of(how), "a")]
        assert cache.cache.stats().unstored == 3
        with pytest.raises(TierError):
            cache.delete("a")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("a", [1.0]),
        ("a", {}),
        ("a", {"one": [1.0], "two": [2.0]}),
        ("a", {"id": "vector"}),
        ("a", {"id": []}),
        ("a", {"id": [float("nan")]}),
        (3, {"id": [1.0]}),
        (3, None),
    ],
    ids=["list", "empty", "two", "word", "none", "nan", "key", "both"],
)
def test_what_it_does_not_keep(tiers: Tiers, key: Any, value: Any) -> None:
    cache = RedisTieredEmbeddingsCache("m", tiers)
    with pytest.raises(InvalidInput):
        cache.put(key, value)
    assert cache.get("a") is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": None}, "model must be a str, got NoneType"),
        ({"model": ""}, "model must be 1 to 200"),
        ({"name": None}, "name must be a str"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"tiers": "redis://here"}, "tiers must be a Tiers or None"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_store_that_cannot_be(tiers: Tiers, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        RedisTieredEmbeddingsCache(**{"model": "m", "tiers": tiers, **options})


def test_a_pickle_and_copies_of_the_store(tiers: Tiers) -> None:
    cache = RedisTieredEmbeddingsCache("m", tiers, name="n", dtype="float16", ttl=60)
    cache.put("a", {"id": [1.0]})
    again = pickle.loads(pickle.dumps(cache))
    with again.cache.tiers:
        assert again.get("a") == {"vector": [1.0]}
        assert again.cache.options == cache.cache.options
    assert copy.copy(cache).cache.tiers is tiers
    assert copy.deepcopy(cache).cache.tiers is tiers
    assert with_cache("m", cache).model_copy(deep=True).embeddings_cache.get("a")
    assert "m" in repr(cache)
