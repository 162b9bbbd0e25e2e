"""`as_embedder`: every kind of embedding, checked results, names of models."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import SecretStr
from redisvl.utils.vectorize import CustomVectorizer

from redis_tiered.embedders import NamedEmbedder, OpenAIEmbedder, as_embedder
from redis_tiered.errors import InvalidInput, TierUnavailable
from redis_tiered.flow import AsyncDriver, Driver, Embed, Flow, Guards

KEY = "sk-" + "very-secret"
HELLO = [1.0, 5.0]
WORLD = [2.0, 5.0]


def vector(text: str) -> list[float]:
    return [float("hello world".index(text[0]) == 6) + 1, float(len(text))]


class Asked:
    """Remembers which method was called with what, and in which thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def note(self, method: str, argument: Any) -> None:
        self.calls.append((method, argument))
        self.threads.add(threading.get_ident())

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.calls]


class Langchain(Embeddings, Asked):
    """LangChain's interface; documents get an instruction that shifts their vectors by `shift`."""

    def __init__(self, model: str = "chain-model", shift: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.shift = shift
        self.openai_api_key = SecretStr(KEY)

    def embed_query(self, text: str) -> list[float]:
        self.note("query", text)
        return vector(text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.note("documents", list(texts))
        return [[a + self.shift, b] for a, b in map(vector, texts)]

    async def aembed_query(self, text: str) -> list[float]:
        self.note("aquery", text)
        return vector(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self.note("adocuments", list(texts))
        return [[a + self.shift, b] for a, b in map(vector, texts)]


class Index(BaseEmbedding):
    """LlamaIndex's interface."""

    instruction: float = 0.0

    def _get_query_embedding(self, query: str) -> list[float]:
        return vector(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        await asyncio.sleep(0)
        return vector(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        a, b = vector(text)
        return [a + self.instruction, b]


class Own:
    """Our own interface."""

    model = "own-model"

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [vector(text) for text in texts]

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return [vector(text) for text in texts]


class Generating:
    """An interface like fastembed's: a generator of arrays, nothing to await."""

    model_name = "fast-model"

    def embed(self, texts: list[str]) -> Any:
        return (np.array(vector(text), dtype=np.float32) for text in texts)


class Called:
    """An object that can be called and awaited."""

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        return [vector(text) for text in texts]


def many(texts: list[str]) -> list[list[float]]:
    return [vector(text) for text in texts]


async def amany(texts: list[str]) -> list[list[float]]:
    await asyncio.sleep(0)
    return [vector(text) for text in texts]


def vectorizer(**functions: Any) -> CustomVectorizer:
    return CustomVectorizer(embed=vector, **functions)


KINDS: dict[str, tuple[Any, str | None, str]] = {
    "langchain": (lambda: Langchain(), None, "Langchain:chain-model"),
    "llamaindex": (lambda: Index(model_name="index-model"), None, "Index:index-model"),
    "redisvl": (lambda: vectorizer(), "custom-model", "custom-model"),
    "redisvl-async": (lambda: vectorizer(embed_many=many, aembed_many=amany), "m", "m"),
    "own": (Own, None, "Own:own-model"),
    "generator": (Generating, None, "Generating:fast-model"),
    "function": (lambda: many, "f", "f"),
    "partial": (lambda: functools.partial(many), "f", "f"),
    "numpy": (lambda: lambda texts: np.array(many(texts), dtype=np.float16), "n", "n"),
    "arrays": (lambda: lambda texts: [np.array(each) for each in many(texts)], "n", "n"),
    "tuples": (lambda: lambda texts: tuple(map(tuple, many(texts))), "n", "n"),
    "integers": (lambda: lambda texts: np.array(many(texts), dtype=int), "n", "n"),
}
AWAITED: dict[str, tuple[Any, str | None, str]] = {
    "coroutine-function": (lambda: amany, "c", "c"),
    "awaited-partial": (lambda: functools.partial(amany), "c", "c"),
    "awaited-object": (Called, "c", "c"),
    "lambda-of-coroutine": (lambda: lambda texts: amany(texts), "c", "c"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_blocking(kind: str) -> None:
    make, model, named = KINDS[kind]
    embedder = as_embedder(make(), model=model)
    assert embedder.model == named
    made = embedder.embed(["hello", "world"])
    np.testing.assert_array_equal(made, [HELLO, WORLD])
    assert [each.dtype for each in made] == [np.float64] * 2
    assert embedder.embed([]) == []


@pytest.mark.parametrize("kind", [*KINDS, *AWAITED])
async def test_every_kind_awaited(kind: str) -> None:
    make, model, named = (KINDS | AWAITED)[kind]
    embedder = as_embedder(make(), model=model)
    assert embedder.model == named
    np.testing.assert_array_equal(await embedder.aembed(("hello", "world")), [HELLO, WORLD])
    assert await embedder.aembed([]) == []


@pytest.mark.parametrize("kind", AWAITED)
def test_what_can_only_be_awaited_says_so(kind: str) -> None:
    make, model, _ = AWAITED[kind]
    with pytest.raises(InvalidInput, match="can only be awaited"):
        as_embedder(make(), model=model).embed(["hello"])


# --- how it is asked ------------------------------------------------------------------------------


async def test_a_few_texts_are_embedded_as_queries() -> None:
    chain = Langchain(shift=9)
    embedder = as_embedder(chain)
    embedder.embed(["hello"])
    await embedder.aembed(["hello", "world"])
    assert chain.methods == ["query", "aquery", "aquery"]


TEN = ["hello", *["world"] * 9]


async def test_many_go_in_one_batch_if_documents_are_embedded_alike() -> None:
    chain = Langchain()
    embedder = as_embedder(chain)
    np.testing.assert_array_equal(embedder.embed(TEN), [HELLO, *[WORLD] * 9])
    assert chain.methods == ["query", "documents"]
    np.testing.assert_array_equal(await embedder.aembed(TEN), [HELLO, *[WORLD] * 9])
    assert chain.methods == ["query", "documents", "adocuments"]  # it is known by now
    chain.model, chain.shift = "another", 3.0
    np.testing.assert_array_equal(embedder.embed(TEN), [HELLO, *[WORLD] * 9])
    assert chain.methods[3:] == ["query", "documents", *["query"] * 9]


@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
async def test_many_go_one_by_one_if_documents_are_embedded_otherwise(awaited: bool) -> None:
    chain = Langchain(shift=3.0)
    embedder = as_embedder(chain)
    prefix = "a" if awaited else ""
    for seen in ([f"{prefix}documents"], []):
        chain.calls.clear()
        made = await embedder.aembed(TEN) if awaited else embedder.embed(TEN)
        np.testing.assert_array_equal(made, [HELLO, *[WORLD] * 9])
        assert [each for each in chain.methods if "documents" in each] == seen
        assert chain.methods.count(f"{prefix}query") == 10


@pytest.mark.parametrize("instruction", [0.0, 4.0], ids=["alike", "otherwise"])
async def test_llamaindex_in_bulk(instruction: float) -> None:
    embedder = as_embedder(Index(model_name="m", instruction=instruction))
    for made in (embedder.embed(TEN), await embedder.aembed(TEN)):
        np.testing.assert_array_equal(made, [HELLO, *[WORLD] * 9])


async def test_a_failing_text_ends_the_others() -> None:
    ended: list[str] = []

    class Chain(Langchain):
        async def aembed_query(self, text: str) -> list[float]:
            if text == "hello":
                raise ValueError(KEY)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(text)
            raise AssertionError

    with pytest.raises(ValueError, match="sk-"):
        await as_embedder(Chain()).aembed(["world", "world", "hello"])
    await asyncio.sleep(0)
    assert ended == ["world", "world"]


async def test_blocking_code_runs_in_a_thread_and_native_code_on_the_loop() -> None:
    here = threading.get_ident()
    seen: list[int] = []

    def blocking(texts: list[str]) -> list[list[float]]:
        seen.append(threading.get_ident())
        return many(texts)

    async def native(texts: list[str]) -> list[list[float]]:
        seen.append(threading.get_ident())
        return many(texts)

    class Half:
        embed = staticmethod(blocking)

    for value in (blocking, Half(), vectorizer(embed_many=blocking)):
        seen.clear()
        await as_embedder(value, model="m").aembed(["hello"])
        assert seen
        assert here not in seen
    for value in (native, vectorizer(embed_many=many, aembed_many=native)):
        seen.clear()
        await as_embedder(value, model="m").aembed(["hello"])
        assert seen == [here]


def test_coheres_vectorizer_is_told_that_texts_are_queries() -> None:
    asked: list[dict[str, Any]] = []

    class CohereTextVectorizer:
        model = "embed-english-v3.0"

        def embed_many(self, texts: list[str], **options: Any) -> list[list[float]]:
            asked.append(options)
            return many(texts)

    embedder = as_embedder(CohereTextVectorizer())
    embedder.embed(["hello"])
    assert asked == [{"input_type": "search_query"}]
    asyncio.run(embedder.aembed(["hello"]))  # it has nothing to await
    assert len(asked) == 2


# --- names ----------------------------------------------------------------------------------------


def named(**attributes: Any) -> NamedEmbedder:
    own = Own()
    for name, value in attributes.items():
        setattr(own, name, value)
    return as_embedder(own)


def test_the_name_is_read_anew() -> None:
    chain = Langchain()
    embedder = as_embedder(chain)
    assert (embedder.model, embedder.model_name) == ("Langchain:chain-model", "chain-model")
    chain.model = "next-model"
    assert (embedder.model, embedder.model_name) == ("Langchain:next-model", "next-model")


@pytest.mark.parametrize(
    ("attributes", "model", "name"),
    [
        ({}, "Own:own-model", "own-model"),
        ({"dimensions": 256}, "Own:own-model@256", "own-model@256"),
        ({"dimensions": None, "deployment": "own-model"}, "Own:own-model", "own-model"),
        ({"deployment": "azure"}, "Own:azure", "azure"),
        ({"model": None, "model_name": "b"}, "Own:b", "b"),
        ({"model": object(), "model_name": "b", "deployment": "d"}, "Own:d", "d"),
        ({"query_instruction": "find:"}, "Own:own-model;query_instruction=find:", "own-model"),
    ],
    ids=["plain", "dimensions", "deployment-alike", "deployment", "model_name", "odd", "setting"],
)
def test_names(attributes: dict[str, Any], model: str, name: str) -> None:
    embedder = named(**attributes)
    assert (embedder.model, embedder.model_name) == (model, name)


def test_a_long_setting_is_named_by_its_hash() -> None:
    one, other = (named(query_instruction=each * 500) for each in "ab")
    assert one.model != other.model
    assert len(one.model) < 100


def test_a_cached_embedding_is_named_by_what_it_caches() -> None:
    class Cached(Langchain):
        model = None  # type: ignore[assignment]

        def __init__(self) -> None:
            self.underlying_embeddings = Own()

    assert as_embedder(Cached()).model == "Own:own-model"


def test_a_given_name_is_taken_as_it_is() -> None:
    embedder = as_embedder(Langchain(), model="shared")
    assert (embedder.model, embedder.model_name) == ("shared", "shared")
    assert as_embedder(embedder) is embedder
    assert as_embedder(embedder, model="other").model == "other"


@pytest.mark.parametrize(
    "value",
    [many, DeterministicFakeEmbedding(size=3), vectorizer(), Index(), Generating],
    ids=["function", "langchain", "redisvl", "llamaindex", "class"],
)
def test_what_does_not_name_its_model_needs_a_name(value: Any) -> None:
    accepted = "embeddings must be" if isinstance(value, type) else "model must be given"
    with pytest.raises(InvalidInput, match=accepted):
        as_embedder(value)


@pytest.mark.parametrize("model", ["", "a\nb", "x" * 201, 3, b"m"], ids=repr)
def test_a_name_is_printable_text(model: Any) -> None:
    with pytest.raises(InvalidInput, match="model must be 1 to 200 printable characters"):
        as_embedder(many, model=model)


# --- what is refused ------------------------------------------------------------------------------


class Transformer:
    """A module that can be called, with another meaning."""

    def encode(self, texts: list[str]) -> Any:
        return np.array(many(texts))

    def __call__(self, features: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    "value",
    [None, 3, "text-embedding-3-small", Own, Transformer()],
    ids=lambda each: str(type(each)),
)
def test_what_is_no_embedding_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="embeddings must be LangChain's"):
        as_embedder(value, model="m")


def test_the_method_of_a_transformer_is_a_function() -> None:
    np.testing.assert_array_equal(
        as_embedder(Transformer().encode, model="m").embed(["hello"]), [HELLO]
    )


@pytest.mark.parametrize("texts", ["hello", b"hello", 3, {"hello"}, ["hello", 3], [None]], ids=repr)
def test_texts_are_a_sequence_of_str(texts: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^texts"):
        as_embedder(many, model="m").embed(texts)


NAN = float("nan")


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ([1.0, 2.0], "a single vector of 2 numbers for 2 texts"),
        ([[1.0, 2.0]], "1 vectors for 2 texts"),
        ([[1.0, 2.0]] * 3, "3 vectors for 2 texts"),
        ([[1.0, 2.0], [1.0]], "vectors of 1 and of 2 numbers"),
        ([[1.0, 2.0], [1.0, NAN]], "vector 1 of 2 holds NaN or infinity"),
        ([[1.0, float("inf")], [1.0, 1.0]], "vector 0 of 2 holds NaN or infinity"),
        ([[], []], "an array of shape"),
        ([], "an empty list"),
        ([[[1.0]], [[1.0]]], "an array of shape"),
        ([["1", "2"], ["1", "2"]], "list of str"),
        ([b"\0\0\0\0", b"\0\0\0\0"], "list of bytes"),
        ([[True], [False]], "list of bool"),
        ([None, None], "list of NoneType"),
        ([[1.0], None], "list of what is not a vector"),
        ([{1.0: 2}, {1.0: 2}], "list of dict"),
        ({"data": []}, "got dict"),
        ("secret", "got str"),
        (None, "got NoneType"),
        (3.5, "got float"),
    ],
    ids=lambda each: str(each)[:30],
)
def test_results_that_are_no_vectors_are_refused(result: Any, told: str) -> None:
    embedder = as_embedder(lambda texts: result, model="m")
    with pytest.raises(InvalidInput) as caught:
        embedder.embed(["hello", "world"])
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_function_of_one_text_is_told_what_to_do() -> None:
    with pytest.raises(InvalidInput, match=r"lambda texts: \[function\(text\) for text in texts\]"):
        as_embedder(lambda texts: [0.5] * 3, model="m").embed(["hello"])


@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_finite_vectors_of_one_length_come_as_they_are(rows: list[list[float]]) -> None:
    made = as_embedder(lambda texts: rows, model="m").embed(["x"] * len(rows))
    np.testing.assert_array_equal(made, rows)


# --- in a flow, and what is not shown -------------------------------------------------------------


def embedding(embedder: NamedEmbedder) -> Flow[Any]:
    return (yield Embed(embedder, ("hello",)))


async def test_a_refused_result_is_a_counted_failure_of_a_flow() -> None:
    guards = Guards()
    embedder = as_embedder(lambda texts: [KEY], model="m")
    with pytest.raises(TierUnavailable, match="must return one vector") as caught:
        Driver(None, guards).run(embedding(embedder))  # type: ignore[arg-type]
    assert KEY not in str(caught.value)
    with pytest.raises(TierUnavailable):
        await AsyncDriver(None, guards).run(embedding(embedder))  # type: ignore[arg-type]
    with pytest.raises(TierUnavailable, match="can only be awaited"):
        Driver(None, guards).run(embedding(as_embedder(amany, model="m")))  # type: ignore[arg-type]
    assert guards.errors == {"embedder.failed": 3}


def test_no_credential_is_shown() -> None:
    embedder = as_embedder(Langchain())
    assert KEY not in repr(embedder)
    assert repr(embedder) == "<embedder 'Langchain:chain-model'>"
    mine = as_embedder(OpenAIEmbedder("m", api_key=KEY))
    assert KEY not in repr(mine) + repr(OpenAIEmbedder("m", api_key=KEY)) + mine.model
