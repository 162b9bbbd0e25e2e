"""`cached_embeddings` for LangChain: still Embeddings, asked only for what is new."""

from __future__ import annotations

import asyncio
import copy
import inspect
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings, FakeEmbeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings

import langchain_redis_tiered
from demo.openai_server import OpenAIServer, embed
from langchain_redis_tiered import RedisTieredVectorStore, Tiers, cached_embeddings
from langchain_redis_tiered.embeddings import CachedEmbeddings
from redis_tiered import LLMCache, SemanticPolicy
from redis_tiered.embedders import as_embedder
from redis_tiered.embedders.cache import Source
from redis_tiered.errors import InvalidInput
from tests.semantic.toy import asked, direction, taught
from tests.servers import RedisServer

WAYS = pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
KEY = "sk-" + "very-secret"


class Two(Embeddings):
    """Queries and documents have different vectors. Remembers what it was asked, and how."""

    def __init__(self, model: str = "two") -> None:
        self.model = model
        self.asked: list[tuple[str, Any]] = []
        self.fail: Exception | None = None

    def vector(self, kind: str, text: str) -> list[float]:
        made: list[float] = direction(f"{self.model} {kind} {text}", 5).tolist()
        return made

    def told(self, how: str, what: Any) -> None:
        self.asked.append((how, what))
        if self.fail is not None:
            raise self.fail

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.told("embed_documents", list(texts))
        return [self.vector("document", text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.told("embed_query", text)
        return self.vector("query", text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self.told("aembed_documents", list(texts))
        return [self.vector("document", text) for text in texts]

    async def aembed_query(self, text: str) -> list[float]:
        self.told("aembed_query", text)
        return self.vector("query", text)


class Alike(Embeddings):
    """A topic before a colon, as the toy of the semantic cache has it."""

    model = "all-MiniLM-L6-v2"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.asked.append(text)
        topic = text.partition(":")[0].strip().lower()
        made: list[float] = (direction(topic, 64) + 0.17 * direction(text, 64)).tolist()
        return made


@pytest.fixture
def tiers(valkey: RedisServer) -> Iterator[Tiers]:
    with Tiers(valkey.url) as tiers:
        yield tiers


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


async def documents(embeddings: Embeddings, texts: list[str], awaited: bool) -> Any:
    if awaited:
        return await embeddings.aembed_documents(texts)
    return embeddings.embed_documents(texts)


async def query(embeddings: Embeddings, text: str, awaited: bool) -> Any:
    return await embeddings.aembed_query(text) if awaited else embeddings.embed_query(text)


def rounded(model: Two, kind: str, texts: str | list[str]) -> list[list[float]]:
    return [np.float32(model.vector(kind, text)).tolist() for text in texts]


@WAYS
async def test_every_backend_gives_what_it_was_told(
    urls: tuple[str, str | None], awaited: bool
) -> None:
    model = Two()
    for texts in (["a", "b", "a"], ["c", "b", "", "c"]):
        async with Tiers(*urls) as tiers:
            embeddings = cached_embeddings(model, tiers)
            assert isinstance(embeddings, Embeddings)
            made = await documents(embeddings, texts, awaited)
            assert made == rounded(model, "document", texts)
            assert type(made[0][0]) is float
            assert [await query(embeddings, "a", awaited)] == rounded(model, "query", "a")
    a = "a" * awaited
    many, one = f"{a}embed_documents", f"{a}embed_query"
    assert model.asked == [(many, ["a", "b"]), (one, "a"), (many, ["c", ""])]


@WAYS
async def test_a_query_as_a_document(tiers: Tiers, awaited: bool) -> None:
    model = Two()
    embeddings = cached_embeddings(model, tiers, query_as_document=True)
    await documents(embeddings, ["a"], awaited)
    assert [await query(embeddings, "a", awaited)] == rounded(model, "document", "a")
    assert [await query(embeddings, "b", awaited)] == rounded(model, "document", "b")
    assert [what for _, what in model.asked] == [["a"], ["b"]]
    assert await documents(embeddings, [], awaited) == []
    await tiers.aclose()


@WAYS
async def test_what_the_model_raises_is_raised(tiers: Tiers, awaited: bool) -> None:
    model = Two()
    embeddings = cached_embeddings(model, tiers)
    model.fail = LookupError("gone")
    for ask, what in ((documents, ["a"]), (query, "a")):
        with pytest.raises(LookupError) as caught:
            await ask(embeddings, what, awaited)  # type: ignore[operator]
        assert caught.value is model.fail
    model.fail = None
    assert await documents(embeddings, ["a"], awaited) == rounded(model, "document", "a")
    assert embeddings.stats().misses == 1
    await tiers.aclose()


async def test_without_tiers_it_goes_on(valkey: RedisServer) -> None:
    model = Two()
    valkey.kill()
    async with Tiers(valkey.url) as tiers:
        embeddings = cached_embeddings(model, tiers)
        for awaited in (False, True):
            assert await documents(embeddings, ["a"], awaited) == rounded(model, "document", "a")
            assert [await query(embeddings, "a", awaited)] == rounded(model, "query", "a")
        assert embeddings.stats().unstored == 4


@pytest.mark.parametrize(
    "bad", ["text", None, 3, [3], [None], (t for t in "ab")], ids=itertools.count()
)
def test_texts_that_are_none(tiers: Tiers, bad: Any) -> None:
    model = Two()
    embeddings = cached_embeddings(model, tiers)
    with pytest.raises(InvalidInput, match="texts"):
        embeddings.embed_documents(bad)
    if not isinstance(bad, str):
        with pytest.raises(InvalidInput, match="texts"):
            embeddings.embed_query(bad)
    assert model.asked == []


@pytest.mark.parametrize(
    ("embeddings", "options", "told"),
    [
        (FakeEmbeddings(size=3), {}, "model must be given: FakeEmbeddings"),
        ("m", {}, "must be Embeddings of LangChain, got str"),
        (Two(), {"query_as_document": 1}, "query_as_document must be a bool"),
        (Two(), {"name": None}, "name must be a str"),
        (Two(), {"dtype": "int8"}, "dtype must be one of"),
        (Two(), {"batch_size": 0}, "batch_size must be"),
        (Two(), {"model": ""}, "model must be"),
    ],
    ids=["unnamed", "str", "query", "name", "dtype", "batch", "model"],
)
def test_arguments_that_cannot_be(
    tiers: Tiers, embeddings: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        cached_embeddings(embeddings, tiers, **options)


def test_cached_already(tiers: Tiers) -> None:
    with pytest.raises(InvalidInput, match="cached already"):
        cached_embeddings(cached_embeddings(Two(), tiers), tiers)
    with pytest.raises(InvalidInput, match="tiers must be a Tiers or None"):
        cached_embeddings(Two(), "redis://here")  # type: ignore[arg-type]


# --- which model ---------------------------------------------------------------------------------


def openai(server: OpenAIServer, **options: Any) -> OpenAIEmbeddings:
    given = {
        "model": "text-embedding-3-small",
        "base_url": server.base_url,
        "api_key": KEY,
        "check_embedding_ctx_length": False,  # else it asks for a tokenizer from the network
    }
    return OpenAIEmbeddings(**{**given, **options})


def test_models_of_openai_are_told_apart(server: OpenAIServer) -> None:
    """OpenAIEmbeddings have a default `deployment`, the same whatever their model is."""
    small, large = openai(server), openai(server, model="text-embedding-3-large")
    assert small.deployment == large.deployment
    assert as_embedder(small).model_name == "text-embedding-3-small"
    assert as_embedder(large).model_name == "text-embedding-3-large"
    assert as_embedder(openai(server, deployment="own")).model_name == "own"


@pytest.mark.parametrize("option", ["azure_deployment", "model"])
def test_what_decides_on_azure(option: str) -> None:
    options: Any = {option: "mine"}
    made = AzureOpenAIEmbeddings(
        azure_endpoint="https://here", api_key=KEY, api_version="1", **options
    )
    assert as_embedder(made).model_name == "mine"
    assert KEY not in Source(made, None).model


def test_settings_of_openai_are_told_apart(server: OpenAIServer) -> None:
    every = [
        openai(server),
        openai(server, dimensions=8),
        openai(server, model="text-embedding-3-large"),
        openai(server, model_kwargs={"truncate": 8}),
        openai(server, base_url="http://elsewhere/v1"),
        openai(server).model_copy(update={"model": "another"}),
        openai(server).model_copy(update={"dimensions": 16}),
    ]
    names = {Source(each, None).model for each in every}
    assert len(names) == len(every)
    indifferent = openai(server, api_key="another", max_retries=9, timeout=1, chunk_size=3)
    assert Source(indifferent, None).model == Source(every[0], None).model


@WAYS
async def test_openai(tiers: Tiers, server: OpenAIServer, awaited: bool) -> None:
    server.reset()
    names = ("text-embedding-3-small", "text-embedding-3-large")
    async with httpx.AsyncClient() as waiting:
        with httpx.Client() as blocking:
            clients = {"http_client": blocking, "http_async_client": waiting}
            models = [openai(server, model=name, dimensions=8, **clients) for name in names]
            cached = [cached_embeddings(each, tiers, query_as_document=True) for each in models]
            for _ in range(2):
                for embeddings, name in zip(cached, names, strict=True):
                    made = await documents(embeddings, ["a", "b"], awaited)
                    np.testing.assert_array_equal(made, [embed(text, name, 8) for text in "ab"])
                    assert await query(embeddings, "a", awaited) == made[0]
    assert server.calls == 2
    assert KEY not in repr(cached)
    await tiers.aclose()


def test_a_model_that_is_changed_later_is_another(tiers: Tiers) -> None:
    model = Two()
    embeddings = cached_embeddings(model, tiers)
    embeddings.embed_documents(["a"])
    model.model = "three"
    assert embeddings.embed_documents(["a"]) == rounded(model, "document", "a")
    assert embeddings.embed_query("a") == rounded(model, "query", "a")[0]
    assert len(model.asked) == 3


def test_a_model_without_a_name_is_given_one(tiers: Tiers) -> None:
    fake = DeterministicFakeEmbedding(size=4)
    for _ in range(2):
        embeddings = cached_embeddings(fake, tiers, model="fake-4")
        np.testing.assert_array_equal(
            embeddings.embed_documents(["a"]), np.float32(fake.embed_documents(["a"]))
        )
    assert embeddings.stats().misses == 0


def test_tenants_and_names_share_nothing(tiers: Tiers) -> None:
    model = Two()
    for where in (tiers, tiers.tenant("other")):
        for name in ("default", "other"):
            cached_embeddings(model, where, name=name).embed_documents(["a"])
    assert len(model.asked) == 4


# --- where embeddings are used -------------------------------------------------------------------


def test_the_interface_is_langchains() -> None:
    for name in ("embed_documents", "embed_query", "aembed_documents", "aembed_query"):
        ours = list(inspect.signature(getattr(CachedEmbeddings, name)).parameters)
        theirs = list(inspect.signature(getattr(Embeddings, name)).parameters)
        assert ours == theirs
    assert "cached_embeddings" in dir(langchain_redis_tiered)


@pytest.mark.parametrize("ours", [False, True], ids=["in-memory", "redis-tiered"])
@WAYS
async def test_a_vector_store(tiers: Tiers, ours: bool, awaited: bool) -> None:
    model = Two()
    model.vector = lambda kind, text: direction(text, 5).tolist()  # type: ignore[method-assign]
    texts = ["red", "green", "blue"]
    for number in range(2):
        embeddings = cached_embeddings(model, tiers)
        store: Any = (
            RedisTieredVectorStore(embeddings, f"c{number}", tiers)
            if ours
            else InMemoryVectorStore(embeddings)
        )
        found: list[Document]
        if awaited:
            await store.aadd_texts(texts)
            found = await store.asimilarity_search("green", k=1)
        else:
            store.add_texts(texts)
            found = store.similarity_search("green", k=1)
        assert [each.page_content for each in found] == ["green"]
    assert len(model.asked) == 2
    await tiers.aclose()


def test_a_semantic_cache_over_cached_embeddings(tiers: Tiers) -> None:
    model = Alike()

    def cache(embeddings: Embeddings) -> LLMCache:
        policy = SemanticPolicy(embeddings, warmup=0, audit_rate=0.0, engine="local")
        return LLMCache(tiers, semantic=policy)

    taught(cache(model))
    embeddings = cached_embeddings(model, tiers)
    embeddings.embed_query("topic3: another wording")
    model.asked.clear()
    assert as_embedder(embeddings).model == as_embedder(model).model
    assert as_embedder(embeddings).model_name == "all-MiniLM-L6-v2"
    found = cache(embeddings).lookup(asked("topic3: another wording"))
    assert found is not None
    assert found.payload == b"A3"
    assert model.asked == []


def test_a_pickle_reads_the_same_cache(tiers: Tiers) -> None:
    embeddings = cached_embeddings(Two(), tiers, query_as_document=True, dtype="float16")
    [first] = embeddings.embed_documents(["a"])
    again = pickle.loads(pickle.dumps(embeddings))
    with again.cache.tiers:
        assert again.embed_query("a") == first
        assert again.stats().misses == 0
        assert len(again.underlying_embeddings.asked) == 1


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_share_the_cache(tiers: Tiers, duplicate: Any) -> None:
    embeddings = cached_embeddings(Two(), tiers)
    twin = duplicate(embeddings)
    assert twin.cache is embeddings.cache
    embeddings.embed_documents(["a"])
    twin.embed_documents(["a"])
    assert twin.stats().misses == 1


async def test_cancelled_in_the_middle(tiers: Tiers) -> None:
    begun = asyncio.Event()

    class Slow(Two):
        async def aembed_query(self, text: str) -> list[float]:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    model = Slow()
    embeddings = cached_embeddings(model, tiers)
    task = asyncio.create_task(embeddings.aembed_query("a"))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert embeddings.embed_query("a") == rounded(model, "query", "a")[0]
    await tiers.aclose()
