"""`OpenAIEmbedder` against a server on loopback that speaks as OpenAI's does."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from demo.openai_server import OpenAIServer, embed
from redis_tiered import OpenAIEmbedder
from redis_tiered.embedders import as_embedder
from redis_tiered.errors import InvalidInput, MissingExtra

KEY = "sk-" + "very-secret"
MODEL = "text-embedding-3-small"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def environment(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def make(server: OpenAIServer) -> Iterator[Any]:
    made: list[OpenAIEmbedder] = []

    def make(**settings: Any) -> OpenAIEmbedder:
        defaults: dict[str, Any] = {
            "dimensions": 8,
            "base_url": server.base_url,
            "api_key": KEY,
        }
        settings = defaults | settings
        made.append(OpenAIEmbedder(**settings))
        return made[-1]

    yield make
    for embedder in made:
        embedder.close()


def expected(texts: list[str], dimensions: int = 8) -> Any:
    return [embed(text, MODEL, dimensions) for text in texts]


async def aembedded(embedder: OpenAIEmbedder, texts: list[str]) -> Any:
    try:
        return await embedder.aembed(texts)
    finally:
        await embedder.aclose()


@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
@pytest.mark.parametrize("dimensions", [None, 8], ids=["full", "short"])
def test_vectors_come_in_order(
    server: OpenAIServer, make: Any, awaited: bool, dimensions: int | None
) -> None:
    embedder = make(dimensions=dimensions, batch_size=3)
    texts = [f"text number {i} ☃" for i in range(10)]
    vectors = asyncio.run(aembedded(embedder, texts)) if awaited else embedder.embed(texts)
    np.testing.assert_array_equal(vectors, expected(texts, dimensions or 1536))
    assert sorted(len(request["input"]) for request in server.requests) == [1, 3, 3, 3]
    assert {request["encoding_format"] for request in server.requests} == {"base64"}
    assert {request.get("dimensions") for request in server.requests} == {dimensions}


async def test_nothing_is_asked_for_no_texts(server: OpenAIServer, make: Any) -> None:
    assert make().embed([]) == []
    assert await make().aembed(()) == []
    assert server.calls == 0


def test_a_request_has_no_more_bytes_than_the_api_takes_tokens(
    server: OpenAIServer, make: Any
) -> None:
    make().embed(["a" * 200_000, "b" * 100_000, "c", "é" * 150_001, "d"])
    sizes = [sum(len(text.encode()) for text in each["input"]) for each in server.requests]
    assert sizes == [300_000, 1, 300_002, 1]  # a single text goes out whatever its length


@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(
    server: OpenAIServer, make: Any, status: int, awaited: bool
) -> None:
    embedder = make()
    server.fail_next(status, 2)
    vectors = asyncio.run(aembedded(embedder, ["a"])) if awaited else embedder.embed(["a"])
    np.testing.assert_array_equal(vectors, expected(["a"]))
    assert server.calls == 3


def test_retries_have_an_end(server: OpenAIServer, make: Any) -> None:
    server.fail_next(429, 2)
    with pytest.raises(openai.RateLimitError):
        make(max_retries=1).embed(["a"])
    server.fail_next(400)
    with pytest.raises(openai.BadRequestError):
        make().embed(["a"])
    assert server.calls == 3


def test_a_slow_answer_is_given_up(server: OpenAIServer, make: Any) -> None:
    server.latency = 5
    with pytest.raises(openai.APITimeoutError):
        make(timeout=0.05, max_retries=0).embed(["a"])
    with pytest.raises(openai.APITimeoutError):
        asyncio.run(aembedded(make(timeout=0.05, max_retries=0), ["a"]))


def test_no_server(make: Any) -> None:
    with pytest.raises(openai.APIConnectionError):
        make(base_url="http://127.0.0.1:9/v1", max_retries=0).embed(["a"])


def test_a_batch_that_fails_ends_the_others(server: OpenAIServer, make: Any) -> None:
    server.fail_next(400)
    with pytest.raises(openai.BadRequestError):
        asyncio.run(aembedded(make(batch_size=1), [str(i) for i in range(50)]))
    assert server.calls < 50


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["a", ""], r"texts\[1\] is empty"),
        (["a", "\ud800"], r"texts\[1\] holds a lone surrogate"),
        (["a", None], r"texts\[1\] must be a str"),
        ("a", "texts must be a sequence of str"),
    ],
    ids=["empty", "surrogate", "none", "str"],
)
def test_texts_that_the_api_refuses(server: OpenAIServer, make: Any, texts: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        make(batch_size=1).embed(texts)
    assert server.calls == 0


# --- answers that are wrong ----------------------------------------------------------------------


class _Answer:
    def __init__(self, *data: tuple[int, Any]) -> None:
        self.data = [type("Data", (), {"index": i, "embedding": each}) for i, each in data]


class _Client:
    """A client whose API answers with what it is given."""

    def __init__(self, answer: Any) -> None:
        self.embeddings = self
        self._answer = answer

    def create(self, **asked: Any) -> Any:
        return self._answer


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (_Answer((0, [1.0])), "one vector for each of 2 texts; got 1"),
        (_Answer((0, [1.0]), (1, [1.0]), (2, [1.0])), "got 3"),
        (_Answer((0, [1.0]), (0, [1.0])), "some with the same index"),
        (_Answer((0, [1.0]), (1, [1.0, 2.0])), "vectors of 1 and of 2 numbers"),
        (_Answer((0, "AAAA"), (1, "AAAA")), "no base64 of float32"),
        (_Answer((0, "AADAfw=="), (1, "AAAAAA==")), "holds NaN"),
        (_Answer((0, None), (1, None)), "list of NoneType"),
        ("<html>", "got 0"),
        (None, "got 0"),
    ],
    ids=["few", "many", "twice", "uneven", "base64", "nan", "none", "html", "nothing"],
)
def test_answers_that_hold_no_vectors_are_refused(answer: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        OpenAIEmbedder(client=_Client(answer)).embed(["a", "b"])  # type: ignore[arg-type]


def test_plain_numbers_in_another_order_are_taken() -> None:
    client: Any = _Client(_Answer((1, [3.0, 4.0]), (0, [1.0, 2.0])))
    np.testing.assert_array_equal(OpenAIEmbedder(client=client).embed(["a", "b"]), [[1, 2], [3, 4]])


def test_other_dimensions_than_asked_for_are_refused() -> None:
    client: Any = _Client(_Answer((0, [1.0, 2.0])))
    with pytest.raises(InvalidInput, match=r"vectors of 2 numbers, not of 8"):
        OpenAIEmbedder("ada", dimensions=8, client=client).embed(["a"])


# --- clients -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("environment")
def test_key_and_address_come_from_the_environment(server: OpenAIServer) -> None:
    embedder = OpenAIEmbedder(dimensions=8)
    np.testing.assert_array_equal(embedder.embed(["a"]), expected(["a"]))
    embedder.close()
    np.testing.assert_array_equal(embedder.embed(["a"]), expected(["a"]))  # with a new client
    embedder.close()


def test_a_given_client_is_used_and_not_closed(server: OpenAIServer) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key=KEY) as client:
        embedder = OpenAIEmbedder(dimensions=8, client=client)
        np.testing.assert_array_equal(embedder.embed(["a"]), expected(["a"]))
        np.testing.assert_array_equal(asyncio.run(embedder.aembed(["a"])), expected(["a"]))
        embedder.close()
        assert not client.is_closed()


async def test_a_given_asyncio_client(server: OpenAIServer) -> None:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY) as client:
        embedder = OpenAIEmbedder(dimensions=8, async_client=client)
        np.testing.assert_array_equal(await embedder.aembed(["a"]), expected(["a"]))
        with pytest.raises(InvalidInput, match="async_client can only be awaited"):
            embedder.embed(["a"])
        await embedder.aclose()
        assert not client.is_closed()


def test_every_loop_has_a_client_of_its_own(server: OpenAIServer, make: Any) -> None:
    embedder = make()
    for _ in range(3):
        np.testing.assert_array_equal(asyncio.run(aembedded(embedder, ["a"])), expected(["a"]))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(5):
                vectors = asyncio.run(aembedded(embedder, ["a", "b"]))
                np.testing.assert_array_equal(vectors, expected(["a", "b"]))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_clients_of_closed_loops_are_let_go(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    embedder = make()
    for _ in range(5):
        asyncio.run(embedder.aembed(["a"]))  # an application that closes nothing
    assert len(embedder._async_clients) == 1

    async def go_on() -> None:
        await aembedded(embedder, ["a"])
        gc.collect()  # what is collected must not begin anything in this loop
        await asyncio.sleep(0)

    asyncio.run(go_on())
    gc.collect()
    assert not embedder._async_clients
    assert "never retrieved" not in caplog.text


def test_one_client_serves_all_threads(server: OpenAIServer, make: Any) -> None:
    embedder = make()
    results: dict[int, Any] = {}

    def run(number: int) -> None:
        results[number] = embedder.embed([f"text {number}"])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, vectors in results.items():
        np.testing.assert_array_equal(vectors, expected([f"text {number}"]))
    assert len(results) == 8


def _in_child(embedder: OpenAIEmbedder, connection: Any) -> None:
    vectors = embedder.embed(["child"])
    awaited = asyncio.run(aembedded(embedder, ["child"]))
    connection.send([[each.tolist() for each in made] for made in (vectors, awaited)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_makes_clients_of_its_own(make: Any) -> None:
    embedder = make()
    embedder.embed(["parent"])
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(embedder, theirs))
    embedder._lock.acquire()  # as another thread of the parent might have
    child.start()
    embedder._lock.release()
    assert ours.poll(30)
    for made in ours.recv():
        np.testing.assert_array_equal(made, expected(["child"]))
    child.join()
    np.testing.assert_array_equal(embedder.embed(["parent"]), expected(["parent"]))


# --- settings, and what is not shown --------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"model": ""},
        {"model": None},
        {"dimensions": 0},
        {"dimensions": True},
        {"batch_size": 0},
        {"batch_size": 2049},
        {"max_retries": -1},
        {"timeout": 0},
        {"timeout": "1"},
        {"api_key": ""},
        {"base_url": 3},
        {"organization": b"o"},
        {"client": object()},
        {"async_client": 3},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    [name] = settings
    with pytest.raises(InvalidInput, match=f"^{name} "):
        OpenAIEmbedder(**settings)


def test_settings_of_a_client_are_its_own() -> None:
    with pytest.raises(
        InvalidInput, match="timeout and api_key must be set on the client"
    ) as caught:
        OpenAIEmbedder(client=_Client(None), api_key=KEY, timeout=1)  # type: ignore[arg-type]
    assert KEY not in str(caught.value)


@pytest.mark.usefixtures("environment")
def test_a_pickle_holds_settings_and_no_key() -> None:
    embedder = OpenAIEmbedder("ada", dimensions=8, batch_size=3, timeout=4)
    embedder.embed(["a"])
    pickled = pickle.dumps(as_embedder(embedder))
    assert KEY.encode() not in pickled
    embedder.close()
    again = pickle.loads(pickled)
    assert again.model == "OpenAIEmbedder:ada@8"
    assert again.wrapped.batch_size == 3
    assert len(again.embed(["a"])[0]) == 8
    again.wrapped.close()


@pytest.mark.parametrize(
    "settings",
    [{"api_key": KEY}, {"base_url": f"http://user:{KEY}@host/v1"}, {"client": _Client(None)}],
    ids=["key", "password", "client"],
)
def test_what_holds_a_key_is_not_pickled(settings: dict[str, Any]) -> None:
    embedder = OpenAIEmbedder(**settings)
    with pytest.raises(InvalidInput, match="cannot be pickled") as caught:
        pickle.dumps(embedder)
    assert KEY not in str(caught.value) + repr(embedder)


def test_without_openai_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"redis-tiered\[openai\]"):
        OpenAIEmbedder().embed(["a"])
