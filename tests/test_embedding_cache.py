"""The embedding cache of the core: what is asked of whom, what is stored, and whose it is."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import multiprocessing
import os
import pickle
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from demo.openai_server import OpenAIServer, embed
from redis_tiered import LLMCache, OpenAIEmbedder, SemanticPolicy, Tiers, cached_embeddings
from redis_tiered.embedders import CachedEmbedder, as_embedder
from redis_tiered.embedders.cache import DOCUMENT, QUERY, EmbeddingCache, Source, _names
from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.flow import AsyncDriver, Driver
from tests.semantic.toy import Toy, asked, direction, taught
from tests.servers import RedisServer
from tests.waiting import wait_until

WAYS = pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
KEY = "sk-" + "very-secret"
ODD = ["", "a" * 100_000, "\ud800 alone", "🦜" * 3, "nul \0 nul", "a:b{c}*", " a", "a ", "A"]


class Model:
    """An embedder; remembers what it was asked.

    Attributes:
        vector: of a text.
        spoil: what becomes of the vectors before they are given.
    """

    def __init__(self, model: str = "small", length: int = 6) -> None:
        self.model = model
        self.length = length
        self.asked: list[list[str]] = []
        self.spoil: Callable[[list[Any]], Any] = lambda made: made

    def vector(self, text: str) -> Any:
        seed = f"{self.model} {text}".encode("utf-8", "surrogatepass").hex()
        return direction(seed, self.length)

    def embed(self, texts: Sequence[str]) -> Any:
        self.asked.append(list(texts))
        return self.spoil([self.vector(text) for text in texts])

    async def aembed(self, texts: Sequence[str]) -> Any:
        await asyncio.sleep(0)
        return self.embed(texts)


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url, durable_timeout=0.1) as tiers:
        yield tiers


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of the steps that this thread's flows take from now on."""
    taken: list[str] = []
    thread = threading.get_ident()
    blocking, awaiting = Driver._perform, AsyncDriver._perform

    def record(step: Any) -> None:
        if threading.get_ident() == thread:
            taken.append(type(step).__name__)

    def perform(self: Any, step: Any) -> Any:
        record(step)
        return blocking(self, step)

    async def aperform(self: Any, step: Any) -> Any:
        record(step)
        return await awaiting(self, step)

    monkeypatch.setattr(Driver, "_perform", perform)
    monkeypatch.setattr(AsyncDriver, "_perform", aperform)
    return taken


async def vectors(embedder: CachedEmbedder, texts: Sequence[str], awaited: bool = False) -> Any:
    return await embedder.aembed(texts) if awaited else embedder.embed(texts)


def rounded(model: Model, texts: Sequence[str], dtype: str = "float32") -> Any:
    return [model.vector(text).astype(dtype) for text in texts]


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    with contextlib.closing(other):
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


# --- what is asked -------------------------------------------------------------------------------


@WAYS
async def test_every_backend_gives_what_it_was_told(
    urls: tuple[str, str | None], awaited: bool
) -> None:
    model = Model()
    async with Tiers(*urls) as tiers:
        first = await vectors(cached_embeddings(model, tiers), ["a", "b", "a"], awaited)
        np.testing.assert_array_equal(first, rounded(model, "aba"))
    async with Tiers(*urls) as tiers:  # another process, as it were
        embedder = cached_embeddings(model, tiers)
        again = await vectors(embedder, ["c", "b", "a", "b"], awaited)
        np.testing.assert_array_equal(again, rounded(model, "cbab"))
        assert embedder.stats().hits["redis"] == 2
        assert embedder.stats().misses == 1
        assert embedder.stats().hit_rate == 2 / 3
    assert model.asked == [["a", "b"], ["c"]]


@WAYS
async def test_a_call_is_one_batch_read_and_one_batch_write(
    valkey: RedisServer, sqlite_url: str, steps: list[str], awaited: bool
) -> None:
    texts = [f"text {i}" for i in range(300)]
    async with Tiers(valkey.url, sqlite_url) as tiers:
        embedder = cached_embeddings(Model(), tiers)
        await vectors(embedder, texts[:2], awaited)
        steps.clear()
        await vectors(embedder, texts, awaited)
        assert steps == ["Redis", "Sql", "Call", "Sql", "Redis"]
    async with Tiers(valkey.url, sqlite_url) as tiers:
        await tiers.asetup()
        embedder = cached_embeddings(Model(), tiers)
        await vectors(embedder, texts[:1], awaited)
        steps.clear()
        await vectors(embedder, texts, awaited)
        assert steps == ["Redis"]
        steps.clear()
        await vectors(embedder, texts, awaited)
        assert steps == []
        assert embedder.stats().hits == {"memory": 301, "redis": 300, "durable": 0}


def test_what_redis_lost_the_durable_tier_has(tiers: Tiers, valkey: RedisServer) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers)
    embedder.embed(["a", "b"])
    with valkey.client() as client:
        client.flushall()
    tiers.memory.empty()
    np.testing.assert_array_equal(embedder.embed(["b", "a"]), rounded(model, "ba"))
    assert embedder.stats().hits["durable"] == 2
    assert len(model.asked) == 1


TEXTS = st.lists(st.sampled_from(["", "a", "b", "\ud800", "é", "e\u0301", "a" * 3000]), max_size=7)


def test_any_calls_in_any_order(tiers: Tiers) -> None:
    """Each text is embedded once, whoever asks with whatever; vectors come in the texts' order."""
    names = itertools.count()

    @settings(max_examples=25)
    @given(
        calls=st.lists(st.tuples(TEXTS, st.booleans(), st.booleans()), max_size=6),
        batch_size=st.none() | st.integers(1, 3),
        dtype=st.sampled_from(["float32", "float16"]),
    )
    def holds(
        calls: list[tuple[list[str], bool, bool]], batch_size: int | None, dtype: str
    ) -> None:
        model = Model()
        embedder = cached_embeddings(
            model, tiers, name=str(next(names)), batch_size=batch_size, dtype=dtype
        )
        known: set[str] = set()
        for texts, awaited, forgetful in calls:
            if forgetful:
                tiers.memory.empty()
            made = asyncio.run(embedder.aembed(texts)) if awaited else embedder.embed(texts)
            np.testing.assert_array_equal(made, rounded(model, texts, dtype))
            known |= set(texts)
            told = list(itertools.chain.from_iterable(model.asked))
            assert len(told) == len(known)
            assert set(told) == known
        assert all(len(batch) <= (batch_size or 7) for batch in model.asked)

    holds()
    asyncio.run(tiers.aclose())


@WAYS
async def test_odd_texts_and_none(tiers: Tiers, awaited: bool) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers)
    assert await vectors(embedder, [], awaited) == []
    for _ in range(2):
        made = await vectors(embedder, tuple(ODD), awaited)
        np.testing.assert_array_equal(made, rounded(model, ODD))
    assert model.asked == [ODD]
    await tiers.aclose()


def test_five_thousand_texts(valkey: RedisServer, sqlite_url: str) -> None:
    texts = [f"text {i}" for i in range(5000)]
    model = Model()
    for _ in range(2):
        with Tiers(valkey.url, sqlite_url) as tiers:
            made = cached_embeddings(model, tiers).embed(texts)
    np.testing.assert_array_equal(made, rounded(model, texts))
    assert model.asked == [texts]


def test_queries_and_documents_are_kept_apart(tiers: Tiers) -> None:
    model, cache = Model(), EmbeddingCache(tiers)
    source = Source(model, None)
    document = cache.vectors(["a"], model.embed, source, kind=DOCUMENT)
    query = cache.vectors(
        ["a"], lambda texts: [-row for row in model.embed(texts)], source, kind=QUERY
    )
    np.testing.assert_array_equal(query[0], -document[0])
    assert cache.vectors(["a"], model.embed, source)[0][0] == document[0][0]
    assert len(model.asked) == 2


@given(
    st.lists(
        st.tuples(
            st.text(max_size=4),
            st.sampled_from([DOCUMENT, QUERY, "in data", "1:a"]),
            st.text(max_size=4),
        ),
        unique=True,
        min_size=2,
        max_size=8,
    )
)
def test_no_two_have_one_name(entries: list[tuple[str, str, str]]) -> None:
    named = {_names(model, kind, [text])[0] for model, kind, text in entries}
    assert len(named) == len(entries)


# --- what is stored ------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("dtype", ["float32", "float16"])
async def test_the_first_caller_gets_what_later_ones_get(
    tiers: Tiers, dtype: str, awaited: bool
) -> None:
    model = Model(length=64)
    embedder = cached_embeddings(model, tiers, dtype=dtype)
    [first] = await vectors(embedder, ["a"], awaited)
    [again] = await vectors(embedder, ["a"], awaited)
    assert first.tolist() == again.tolist() == model.vector("a").astype(dtype).tolist()
    assert first.tolist() != model.vector("a").tolist()
    [(_, stored)] = tiers.map("embeddings:default").page()
    assert len(stored) == 6 + 64 * np.dtype(dtype).itemsize
    assert b"a" * 20 not in stored
    await tiers.aclose()


def test_caches_of_both_types_read_each_other(tiers: Tiers) -> None:
    model = Model()
    half = cached_embeddings(model, tiers, dtype="float16").embed(["a"])
    np.testing.assert_array_equal(cached_embeddings(model, tiers).embed(["a"]), half)
    assert len(model.asked) == 1


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("float16", 1e5), ("float16", -7e4), ("float16", 1e-9), ("float32", 1e300)],
    ids=["large", "negative", "vanishing", "double"],
)
def test_what_does_not_fit_is_given_as_it_is_and_not_stored(
    tiers: Tiers, dtype: str, number: float
) -> None:
    model = Model(length=2)
    model.spoil = lambda made: [[number, 0.0], *made[1:]]
    embedder = cached_embeddings(model, tiers, dtype=dtype)
    for _ in range(2):
        made = embedder.embed(["much", "little"])
        assert made[0].tolist() == [number, 0.0]
    assert model.asked == [["much", "little"], ["much"]]
    assert embedder.stats().unstored == 0  # no tier's fault


def test_a_vector_of_zeros_is_one(tiers: Tiers) -> None:
    model = Model()
    model.spoil = lambda made: [[0.0, -0.0] for _ in made]
    embedder = cached_embeddings(model, tiers)
    for _ in range(2):
        np.testing.assert_array_equal(embedder.embed(["a"]), [[0, 0]])
    assert len(model.asked) == 1


@pytest.mark.parametrize(
    "spoil",
    [np.array, np.float32, lambda made: [row.tolist() for row in made], tuple],
    ids=["array", "float32", "lists", "tuple"],
)
def test_whatever_holds_vectors(tiers: Tiers, spoil: Any) -> None:
    model = Model()
    model.spoil = spoil
    for _ in range(2):
        made = cached_embeddings(model, tiers).embed(["a", "b"])
        np.testing.assert_array_equal(made, rounded(model, "ab"))
    assert len(model.asked) == 1


WRONG: dict[str, Callable[[list[Any]], Any]] = {
    "nan": lambda made: [*made[:-1], made[-1] * np.nan],
    "infinite": lambda made: [*made[:-1], made[-1] * np.inf],
    "few": lambda made: made[:-1],
    "many": lambda made: [*made, made[0]],
    "ragged": lambda made: [*made[:-1], made[-1][:-1]],
    "single": lambda made: made[0],
    "none": lambda made: None,
    "words": lambda made: ["vector"] * len(made),
    "empty": lambda made: [[]] * len(made),
}


@WAYS
@pytest.mark.parametrize("wrong", WRONG)
async def test_what_are_no_vectors_is_not_stored(tiers: Tiers, wrong: str, awaited: bool) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers)
    model.spoil = WRONG[wrong]
    with pytest.raises(InvalidInput, match="Model must"):
        await vectors(embedder, ["a", "b"], awaited)
    model.spoil = lambda made: made
    made = await vectors(embedder, ["a", "b"], awaited)
    np.testing.assert_array_equal(made, rounded(model, "ab"))
    assert model.asked == [["a", "b"]] * 2
    await tiers.aclose()


def test_batches_of_different_lengths(tiers: Tiers) -> None:
    model = Model()
    model.spoil = lambda made: [[1.0] * len(model.asked)]
    with pytest.raises(InvalidInput, match="of one length, batch by batch"):
        cached_embeddings(model, tiers, batch_size=1).embed(["a", "b"])


@pytest.mark.parametrize(
    "junk",
    [b"", b"\1\4\0\0", b"\1\4\0\0abc", b"\2\4\0\0abcd", b"\1\3\0\0abc", b"junk"],
    ids=["empty", "header", "cut", "newer", "width", "junk"],
)
def test_what_cannot_be_read_is_made_anew(tiers: Tiers, junk: bytes) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers)
    embedder.embed(["a", "b"])
    stored = tiers.map("embeddings:default")
    [(name, _), _] = stored.page()
    stored.put(name, junk)
    for _ in range(2):
        np.testing.assert_array_equal(embedder.embed(["a", "b"]), rounded(model, "ab"))
    assert [len(batch) for batch in model.asked] == [2, 1]
    assert embedder.stats().unreadable == 1


def test_vectors_end(tiers: Tiers) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers, ttl=0.05, jitter=0.5)
    embedder.embed(["a"])
    wait_until(lambda: embedder.embed(["a"]) and len(model.asked) > 1)


@WAYS
async def test_clear(tiers: Tiers, awaited: bool) -> None:
    model, other = Model(), Model()
    embedder = cached_embeddings(model, tiers)
    beside = cached_embeddings(other, tiers, name="beside")
    for each in (embedder, beside):
        await vectors(each, ["a"], awaited)
    if awaited:
        await embedder.cache.aclear()
    else:
        embedder.cache.clear()
    for each in (embedder, beside):
        await vectors(each, ["a"], awaited)
    assert (len(model.asked), len(other.asked)) == (2, 1)
    await tiers.aclose()


# --- whose it is ---------------------------------------------------------------------------------


class Declared(BaseModel):
    """As the frameworks' classes are made."""

    model: str = "m"
    dimensions: int | None = None
    deployment: str | None = "m"
    text_instruction: str = ""
    pooling: str = "mean"
    output_dimension: int | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    of_a_later_version: str = "as ever"
    base_url: str | None = None
    api_key: str | None = None
    timeout: float = 1.0
    max_retries: int = 2
    chunk_size: int = 10
    show_progress_bar: bool = False
    client: Any = None
    _text_engine: str | None = None

    def embed(self, texts: Sequence[str]) -> Any:
        return [Model(repr(self)).vector(text) for text in texts]


def name_of(**options: Any) -> str:
    return Source(Declared(**options), None).model


SHAPING: list[dict[str, Any]] = [
    {"model": "n"},
    {"dimensions": 8},
    {"deployment": "d"},
    {"text_instruction": "passage: "},
    {"text_instruction": "passage: " * 9},
    {"pooling": "cls"},
    {"output_dimension": 8},
    {"model_kwargs": {"truncate": 8}},
    {"model_kwargs": {"truncate": 9}},
    {"of_a_later_version": "changed"},
    {"base_url": "http://here:1/v1"},
    {"base_url": "http://here:2/v1"},
    {"base_url": "http://here:2/v2"},
    {"base_url": "here:1"},
    {"base_url": "there"},
]


def test_what_shapes_vectors_is_part_of_the_name() -> None:
    names = [name_of(), *(name_of(**options) for options in SHAPING)]
    assert len(set(names)) == len(names)
    assert all(len(name) < 150 and name.isprintable() for name in names)


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": KEY},
        {"timeout": 9.0, "max_retries": 9, "chunk_size": 9, "show_progress_bar": True},
        {"client": object()},
        {"of_a_later_version": "as ever"},
        {"model_kwargs": {}},
    ],
    ids=["key", "calling", "client", "default", "nothing"],
)
def test_what_shapes_none_is_no_part_of_it(options: dict[str, Any]) -> None:
    assert name_of(**options) == name_of()


def test_credentials_are_no_part_of_it() -> None:
    with_password = name_of(base_url=f"http://me:{KEY}@here:1/v1?key={KEY}")
    assert with_password == name_of(base_url="http://here:1/v1")
    assert KEY not in name_of(model_kwargs={"token": KEY}, api_key=KEY)


def test_the_order_of_settings_does_not_matter() -> None:
    assert name_of(model_kwargs={"a": 1, "b": {2, 3}}) == name_of(
        model_kwargs={"b": {3, 2}, "a": 1}
    )


def test_what_a_model_asks_counts_whatever_it_is_called(tiers: Tiers) -> None:
    """LlamaIndex's OpenAIEmbedding goes on asking the model it was made for."""
    one, other = Declared(), Declared()
    one._text_engine, other._text_engine = "small", "large"
    assert Source(one, None).model != Source(other, None).model


def test_where_openai_is_asked_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    default = Source(OpenAIEmbedder("m"), None).model
    here = Source(OpenAIEmbedder("m", base_url=f"http://u:{KEY}@here/v1"), None).model
    assert KEY not in here
    with openai.OpenAI(base_url="http://here/v1", api_key=KEY) as client:
        assert Source(OpenAIEmbedder("m", client=client), None).model == here
    with openai.OpenAI(api_key=KEY) as client:
        assert Source(OpenAIEmbedder("m", client=client), None).model == default
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here/v1")
    assert Source(OpenAIEmbedder("m"), None).model == here != default


def test_adapted_or_not_it_is_one_model(tiers: Tiers) -> None:
    model = Model()
    cached_embeddings(model, tiers).embed(["a"])
    cached_embeddings(as_embedder(model), tiers).embed(["a"])
    assert len(model.asked) == 1
    cached_embeddings(as_embedder(model, model="named"), tiers).embed(["a"])
    cached_embeddings(model, tiers, model="named").embed(["a"])
    assert len(model.asked) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "model", "large"),
        lambda model: setattr(model, "dimensions", 6),
        lambda model: setattr(model, "normalize", False),
        lambda model: setattr(model, "api_base", "http://elsewhere/v1"),
    ],
    ids=["name", "dimensions", "setting", "address"],
)
def test_a_model_that_is_changed_later_is_another(
    tiers: Tiers, change: Callable[[Model], None]
) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers)
    embedder.embed(["a"])
    change(model)
    np.testing.assert_array_equal(embedder.embed(["a"]), rounded(model, "a"))
    assert len(model.asked) == 2
    assert embedder.model == as_embedder(model).model


@WAYS
async def test_other_dimensions_under_the_same_name_are_not_mixed(
    tiers: Tiers, awaited: bool
) -> None:
    model = Model(length=4)
    embedder = cached_embeddings(model, tiers, model="latest")
    await vectors(embedder, ["a", "b", "old"], awaited)
    model.length = 6
    made = await vectors(embedder, ["a", "new", "b", "a"], awaited)
    np.testing.assert_array_equal(made, rounded(model, ["a", "new", "b", "a"]))
    assert model.asked == [["a", "b", "old"], ["new"], ["a", "b"]]
    # Of the two lengths that are stored now, the model says which is its own.
    made = await vectors(embedder, ["a", "old"], awaited)
    np.testing.assert_array_equal(made, rounded(model, ["a", "old"]))
    assert (await vectors(embedder, ["a", "old"], awaited))[1].shape == (6,)
    assert len(model.asked) == 4
    await tiers.aclose()


@WAYS
async def test_a_model_that_is_changed_meanwhile(tiers: Tiers, awaited: bool) -> None:
    """Which of the two made them, nobody can tell: they are not stored, and not mixed with others."""
    model = Model("old")
    embedder = cached_embeddings(model, tiers)
    await vectors(embedder, ["a"], awaited)

    def spoil(made: list[Any]) -> list[Any]:
        model.model = "new"
        return [model.vector(text) for text in model.asked[-1]]

    model.spoil = spoil
    np.testing.assert_array_equal(
        await vectors(embedder, ["a", "b"], awaited), rounded(model, "ab")
    )
    for name in ("old", "new"):
        model.model, model.spoil = name, lambda made: made
        made = await vectors(embedder, ["a", "b"], awaited)
        np.testing.assert_array_equal(made, rounded(model, "ab"))
    await tiers.aclose()


def test_tenants_and_names_share_nothing(tiers: Tiers) -> None:
    model = Model()
    for tenant, name in itertools.product(["default", "other"], ["default", "default:other", "é"]):
        cached_embeddings(model, tiers.tenant(tenant), name=name).embed(["a"])
    assert len(model.asked) == 6


def test_given_names_keep_models_apart(tiers: Tiers) -> None:
    one, other = Model(), Model()
    assert cached_embeddings(one.embed, tiers, model="one").model == "one"
    for _ in range(2):
        made = cached_embeddings(one.embed, tiers, model="one").embed(["a"])
        np.testing.assert_array_equal(made, rounded(one, "a"))
        cached_embeddings(other, tiers, model="other").embed(["a"])
    assert len(one.asked) == len(other.asked) == 1


# --- failures ------------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("away", ["redis", "durable", "both"])
async def test_a_failing_tier_is_a_miss(
    tiers: Tiers, valkey: RedisServer, sqlite_url: str, away: str, awaited: bool
) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers)
    await vectors(embedder, ["a"], awaited)
    with contextlib.ExitStack() as stack:
        if away != "redis":
            stack.enter_context(locked(sqlite_url))
        if away != "durable":
            valkey.kill()
        made = await vectors(embedder, ["a", "b"], awaited)
        np.testing.assert_array_equal(made, rounded(model, "ab"))
        # SQLite that is locked is still read, or not, as its journal is; nothing is written to it.
        assert "b" in model.asked[1]
        assert embedder.stats().unstored == (0 if away == "redis" else len(model.asked[1]))
        await vectors(embedder, ["b"], awaited)
        assert len(model.asked) == (2 if away == "redis" else 3)
    await tiers.aclose()


def test_redis_that_is_away_from_the_start(valkey: RedisServer) -> None:
    model = Model()
    valkey.kill()
    with Tiers(valkey.url) as tiers:
        embedder = cached_embeddings(model, tiers)
        for _ in range(2):
            np.testing.assert_array_equal(embedder.embed(["a"]), rounded(model, "a"))
        assert embedder.stats() == ({"memory": 0, "redis": 0, "durable": 0}, 2, 2, 0)
        assert embedder.stats().hit_rate == 0
        with pytest.raises(TierError):
            embedder.cache.clear()


class Lost(Exception):
    """What a model raises."""


@WAYS
async def test_what_the_model_raises_is_raised(tiers: Tiers, awaited: bool) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers, batch_size=2)
    cause, raised = KeyError("cause"), Lost("gone")

    def spoil(made: list[Any]) -> Any:
        try:
            if "c" in model.asked[-1]:
                raise cause
        except KeyError:
            raise raised  # noqa: B904 - as it happens
        return made

    model.spoil = spoil
    with pytest.raises(Lost) as caught:
        await vectors(embedder, ["a", "b", "c", "d", "e"], awaited)
    assert caught.value is raised
    assert raised.__context__ is cause
    assert not raised.__suppress_context__
    assert model.asked == [["a", "b"], ["c", "d"]]
    model.spoil = lambda made: made
    await vectors(embedder, ["a", "b", "c", "d"], awaited)
    assert model.asked[2:] == [["c", "d"]]
    assert embedder.stats().misses == 4
    await tiers.aclose()


@WAYS
@pytest.mark.parametrize("kind", [TimeoutError, TierError, InvalidInput, GeneratorExit])
async def test_whatever_the_model_raises(
    tiers: Tiers, kind: type[BaseException], awaited: bool
) -> None:
    raised = TierError("redis", "reset", "the model's own") if kind is TierError else kind("own")

    def spoil(made: list[Any]) -> Any:
        raise raised

    model = Model()
    model.spoil = spoil
    with pytest.raises(kind) as caught:
        await vectors(cached_embeddings(model, tiers), ["a"], awaited)
    assert caught.value is raised
    await tiers.aclose()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": ""}, "name must have at least 1"),
        ({"name": None}, "name must be a str"),
        ({"name": "n" * 300}, "name must have"),
        ({"name": "\ud800"}, "name holds a lone surrogate"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"dtype": ["float32"]}, "dtype must be one of"),
        ({"ttl": 0}, "ttl must be more than 0"),
        ({"ttl": "1"}, "ttl must be a number"),
        ({"jitter": 0.6}, "jitter must be"),
        ({"batch_size": 0}, "batch_size must be from 1"),
        ({"batch_size": True}, "batch_size must be an int"),
        ({"model": ""}, "model must be 1 to 200"),
        ({"model": 3}, "model must be 1 to 200"),
        ({"tiers": "redis://here"}, "tiers must be a Tiers or None, got str"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_arguments_that_cannot_be(tiers: Tiers, options: dict[str, Any], told: str) -> None:
    given_tiers = options.pop("tiers", tiers)
    with pytest.raises(InvalidInput, match=told):
        cached_embeddings(Model(), given_tiers, **options)


def test_embedders_that_cannot_be(tiers: Tiers) -> None:
    with pytest.raises(InvalidInput, match="model must be given"):
        cached_embeddings(Model().embed, tiers)
    with pytest.raises(InvalidInput, match="embeddings must be"):
        cached_embeddings(3, tiers)
    with pytest.raises(InvalidInput, match="cached already"):
        cached_embeddings(cached_embeddings(Model(), tiers), tiers)


@WAYS
@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ("abc", "sequence of str, got str"),
        (b"abc", "sequence of str, got bytes"),
        (None, "got NoneType"),
        ((text for text in "abc"), "got generator"),
        (["a", 3], r"texts\[1\] must be a str, got int"),
    ],
    ids=["str", "bytes", "none", "generator", "int"],
)
async def test_texts_that_are_none(tiers: Tiers, texts: Any, told: str, awaited: bool) -> None:
    model = Model()
    with pytest.raises(InvalidInput, match=told):
        await vectors(cached_embeddings(model, tiers), texts, awaited)
    assert not model.asked


# --- many at once --------------------------------------------------------------------------------


def test_ten_threads_and_two_loops(tiers: Tiers) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers, batch_size=3)
    texts = [f"text {i}" for i in range(20)]
    barrier = threading.Barrier(12)

    def threaded(i: int) -> Any:
        barrier.wait(10)
        return [embedder.embed(texts[i:] + texts[:i]) for _ in range(3)]

    def looped(i: int) -> Any:
        async def run() -> Any:
            async with pickle.loads(pickle.dumps(tiers)) as own:
                mine = cached_embeddings(model, own)
                both = (embedder.aembed(texts[i:] + texts[:i]), mine.aembed(texts[i:] + texts[:i]))
                return await asyncio.gather(*both, *map(embedder.aembed, ([t] for t in texts)))

        barrier.wait(10)
        made = asyncio.run(run())
        np.testing.assert_array_equal(np.concatenate(made[2:]), rounded(model, texts))
        return made[:2]

    with ThreadPoolExecutor(12) as pool:
        runs = [pool.submit(threaded if i < 10 else looped, i) for i in range(12)]
        for i, run in enumerate(runs):
            for made in run.result(30):
                np.testing.assert_array_equal(made, rounded(model, texts[i:] + texts[:i]))
    model.asked.clear()
    embedder.embed(texts)
    assert not model.asked


async def test_cancelled_in_the_middle(tiers: Tiers) -> None:
    model = Model()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(texts: list[str]) -> Any:
        if "slow" in texts:
            begun.set()
            await go_on.wait()
        return model.embed(texts)

    embedder = cached_embeddings(slow, tiers, model="slow", batch_size=1)
    task = asyncio.create_task(embedder.aembed(["a", "slow", "b"]))
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    np.testing.assert_array_equal(
        await embedder.aembed(["slow", "a"]), rounded(model, ["slow", "a"])
    )
    assert model.asked == [["a"], ["slow"]]
    await tiers.aclose()


def _in_child(embedder: CachedEmbedder, connection: Any) -> None:
    made = embedder.embed(["parent's", "child's"])
    connection.send(([row.tolist() for row in made], embedder._given[0].asked))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_shares_what_is_stored(tiers: Tiers) -> None:
    model = Model()
    embedder = cached_embeddings(model, tiers)
    embedder.embed(["parent's"])
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(embedder, theirs))
    child.start()
    assert ours.poll(30)
    made, asked_there = ours.recv()
    child.join(10)
    np.testing.assert_array_equal(made, rounded(model, ["parent's", "child's"]))
    assert asked_there == [["parent's"], ["child's"]]
    embedder.embed(["child's"])
    assert model.asked == [["parent's"]]


def test_a_pickle_reads_the_same_cache(tiers: Tiers) -> None:
    embedder = cached_embeddings(Declared(), tiers, name="n", dtype="float16", ttl=60, batch_size=7)
    first = embedder.embed(["a"])
    again = pickle.loads(pickle.dumps(embedder))
    with again.cache.tiers:
        np.testing.assert_array_equal(again.embed(["a"]), first)
        assert again.cache.options == embedder.cache.options
        assert again.stats().hits["redis"] == 1
        assert again.model == embedder.model


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_share_the_cache(tiers: Tiers, duplicate: Any) -> None:
    embedder = cached_embeddings(Model(), tiers)
    twin = duplicate(embedder)
    assert twin is not embedder
    assert twin.cache is embedder.cache


# --- with what else there is ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def make(server: OpenAIServer) -> Iterator[Callable[..., OpenAIEmbedder]]:
    made: list[OpenAIEmbedder] = []

    def make(**options: Any) -> OpenAIEmbedder:
        defaults = {"dimensions": 8, "base_url": server.base_url, "api_key": KEY}
        made.append(OpenAIEmbedder(**{**defaults, **options}))
        return made[-1]

    server.reset()
    yield make
    for embedder in made:
        embedder.close()


def of_openai(texts: Sequence[str], dimensions: int = 8) -> Any:
    return [embed(text, "text-embedding-3-small", dimensions) for text in texts]


@WAYS
async def test_openai_is_asked_once_in_batches_and_again_after_what_passes(
    tiers: Tiers, server: OpenAIServer, make: Any, awaited: bool
) -> None:
    inner = make(batch_size=4)
    embedder = cached_embeddings(inner, tiers)
    texts = [f"text {i}" for i in range(10)]
    server.fail_next(429, 2)
    for _ in range(2):
        made = await vectors(embedder, [*texts, texts[0]], awaited)
        np.testing.assert_array_equal(made, of_openai([*texts, texts[0]]))
    assert max(len(each["input"]) for each in server.requests) == 4
    assert server.calls == 5
    short = cached_embeddings(make(dimensions=4), tiers)
    np.testing.assert_array_equal(await vectors(short, texts, awaited), of_openai(texts, 4))
    assert server.calls == 6
    await inner.aclose()
    await short._given[0].aclose()
    await tiers.aclose()


@WAYS
async def test_what_openai_refuses_is_not_stored(
    tiers: Tiers, server: OpenAIServer, make: Any, awaited: bool
) -> None:
    inner = make(max_retries=0)
    embedder = cached_embeddings(inner, tiers, batch_size=2)
    await vectors(embedder, ["a"], awaited)
    for status, kind in ((400, openai.BadRequestError), (429, openai.RateLimitError)):
        server.fail_next(status)
        with pytest.raises(kind):
            await vectors(embedder, ["a", "b", "c"], awaited)
    with pytest.raises(InvalidInput, match="is empty: the API"):
        await vectors(embedder, ["b", "c", ""], awaited)  # a batch of its own
    server.reset()
    await vectors(embedder, ["a", "b", "c"], awaited)
    assert server.calls == 0
    away = make(base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(openai.APIConnectionError) as caught:
        await vectors(cached_embeddings(away, tiers), ["a"], awaited)
    assert caught.value.__cause__ is not None  # httpx tells why
    for each in (inner, away):
        await each.aclose()
    await tiers.aclose()


def test_a_cached_embedder_is_the_embedder_that_it_asks(tiers: Tiers) -> None:
    toy = Toy()
    embedder = cached_embeddings(toy, tiers)
    for each in (embedder, as_embedder(embedder)):
        assert each.model == as_embedder(toy).model
        assert each.model_name == "all-MiniLM-L6-v2"
    assert repr(embedder) == f"<cached embedder {as_embedder(toy).model!r}>"


def test_a_semantic_cache_over_cached_vectors(tiers: Tiers) -> None:
    """What was stored with the plain embedder is found with the cached one, and costs no model."""
    toy = Toy()
    policy = SemanticPolicy(toy, warmup=0, audit_rate=0.0, engine="local")
    with_plain = LLMCache(tiers, semantic=policy)
    taught(with_plain)
    embedder = cached_embeddings(toy, tiers)
    cache = LLMCache(
        tiers, semantic=SemanticPolicy(embedder, warmup=0, audit_rate=0.0, engine="local")
    )
    embedder.embed(["topic3: another wording"])
    toy.texts.clear()
    found = cache.lookup(asked("topic3: another wording"))
    assert found is not None
    assert found.payload == b"A3"
    assert toy.texts == []
