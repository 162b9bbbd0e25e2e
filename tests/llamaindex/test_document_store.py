"""`RedisTieredDocumentStore`, also against LlamaIndex's own."""

from __future__ import annotations

import asyncio
import copy
import pickle
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from llama_index.core import StorageContext, SummaryIndex
from llama_index.core.node_parser import HierarchicalNodeParser, get_leaf_nodes
from llama_index.core.retrievers import AutoMergingRetriever, BaseRetriever
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.docstore.types import BaseDocumentStore, RefDocInfo

from llamaindex_redis_tiered import RedisTieredDocumentStore, Tiers
from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.flow import Flow, Redis, Sql
from tests.llamaindex.test_nodes import nodes
from tests.servers import RedisServer

SECRET = "xyzzy-plugh"
Call = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    """Call a method of a store by its sync name, or its async twin."""

    async def sync(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(store, name)(*arguments, **options)

    async def twin(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        prefix = "async_" if name == "add_documents" else "a"
        return await getattr(store, prefix + name)(*arguments, **options)

    return sync if request.param == "sync" else twin


@pytest.fixture
def everywhere(urls: tuple[str, str | None]) -> Iterator[RedisTieredDocumentStore]:
    """A store on every Redis and every durable tier."""
    with Tiers(*urls) as tiers:
        yield RedisTieredDocumentStore(tiers)


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
def store(tiers: Tiers) -> RedisTieredDocumentStore:
    return RedisTieredDocumentStore(tiers)


def node(id: str, source: str = "", text: str = "", **metadata: Any) -> TextNode:
    made = TextNode(id_=id, text=text or f"text of {id}", metadata=metadata)
    if source:
        made.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=source)
    return made


def document(id: str, text: str = "", **metadata: Any) -> Document:
    return Document(id_=id, text=text or f"text of {id}", metadata=metadata)


def state(store: BaseDocumentStore) -> Any:
    infos = store.get_all_ref_doc_info()
    assert infos is not None
    return store.docs, infos, set(store.get_all_document_hashes())


# What LlamaIndex asks of a store.


async def test_nodes_come_and_go(everywhere: RedisTieredDocumentStore, call: Call) -> None:
    store = everywhere
    assert isinstance(store, BaseDocumentStore)
    assert store.docs == {}
    assert await call(store, "get_all_ref_doc_info") == {}
    given = [document("d", page=1), node("a", "d", k=1), node("b", "d", j=2), node("c")]
    await call(store, "add_documents", given)
    assert store.docs == {made.node_id: made for made in given}
    assert await call(store, "get_document", "a") == given[1]
    assert await call(store, "get_nodes", ["b", "a"]) == [given[2], given[1]]
    assert await call(store, "get_nodes", ["b", "x"], raise_error=False) == [given[2]]
    assert await call(store, "get_node", "c") == given[3]
    assert await call(store, "get_node_dict", {7: "c", 3: "a"}) == {7: given[3], 3: given[1]}
    assert await call(store, "document_exists", "a")
    assert await call(store, "get_ref_doc_info", "d") == RefDocInfo(["a", "b"], {"k": 1, "j": 2})
    assert await call(store, "ref_doc_exists", "d")
    assert not await call(store, "ref_doc_exists", "a")
    assert await call(store, "get_document_hash", "a") == given[1].hash
    expected = {made.hash: made.node_id for made in given}
    assert await call(store, "get_all_document_hashes") == expected
    await call(store, "delete_document", "a")
    assert await call(store, "get_document", "a", raise_error=False) is None
    assert await call(store, "get_ref_doc_info", "d") == RefDocInfo(["b"], {"k": 1, "j": 2})
    await call(store, "delete_ref_doc", "d")
    assert state(store) == ({"c": given[3]}, {}, {given[3].hash})
    await call(store, "clear")
    assert state(store) == ({}, {}, set())


async def test_hashes_come_and_go(everywhere: RedisTieredDocumentStore, call: Call) -> None:
    store = everywhere
    assert await call(store, "get_document_hash", "a") is None
    await call(store, "set_document_hash", "a", "1")
    await call(store, "set_document_hashes", {"b": "2", "c": "", "d": "2"})
    assert await call(store, "get_document_hashes", ["c", "x", "a"]) == ["", None, "1"]
    assert await call(store, "get_all_document_hashes") == {"1": "a", "2": "d"}
    assert not await call(store, "document_exists", "a")


async def test_what_is_not_there(store: RedisTieredDocumentStore, call: Call) -> None:
    for name in ["get_document", "delete_document", "get_node", "delete_ref_doc"]:
        with pytest.raises(ValueError, match="x"):
            await call(store, name, "x")
        assert await call(store, name, "x", raise_error=False) is None
    with pytest.raises(ValueError, match="doc_id 'x' not found"):
        await call(store, "get_nodes", ["x"])
    with pytest.raises(ValueError, match="doc_id 'x' not found"):
        await call(store, "get_node_dict", {1: "x"})
    assert await call(store, "get_ref_doc_info", "x") is None


async def test_updates_can_be_refused(store: RedisTieredDocumentStore, call: Call) -> None:
    await call(store, "add_documents", [node("a")], allow_update=False)
    with pytest.raises(ValueError, match="'a' is there already"):
        await call(store, "add_documents", [node("b"), node("a")], allow_update=False)
    assert set(store.docs) == {"a"}


async def test_what_is_refused_changes_nothing(store: RedisTieredDocumentStore, call: Call) -> None:
    await call(store, "add_documents", [node("a", "d")])
    with pytest.raises(ValueError, match="'a' is there already"):
        await call(store, "add_documents", [node("b", "d"), node("a", "e")], allow_update=False)
    with pytest.raises(ValueError, match=r"docs\[1\].*'x'.*got object"):
        await call(store, "add_documents", [node("b", "d"), node("c", x=object())])
    assert state(store)[1] == {"d": RefDocInfo(["a"], {})}


async def test_texts_can_be_left_out(store: RedisTieredDocumentStore, call: Call) -> None:
    made = node("a", "d")
    await call(store, "add_documents", [made], store_text=False)
    assert state(store) == ({}, {"d": RefDocInfo(["a"], {})}, {made.hash})


def test_more_nodes_than_a_page(store: RedisTieredDocumentStore) -> None:
    given = [node(f"n{i}", f"d{i % 3}") for i in range(1203)]
    store.add_documents(given)
    assert store.docs == {made.node_id: made for made in given}
    assert store.get_nodes([made.node_id for made in given]) == given
    infos = store.get_all_ref_doc_info()
    assert {id: info.node_ids for id, info in infos.items()} == {
        f"d{k}": [f"n{i}" for i in range(k, 1203, 3)] for k in range(3)
    }
    assert store.get_ref_doc_info("d1") == infos["d1"]


def test_what_was_added_is_there_after_redis_was_killed(
    valkey: RedisServer, store: RedisTieredDocumentStore
) -> None:
    store.add_documents([node("a", "d"), document("d")])
    before = state(store)
    valkey.kill()
    valkey.start()
    assert state(store) == before
    assert store.get_document("a") == node("a", "d")


ODD = ["/", "a/b", "%2F", "ü", "n/a", "{x}", " ", "\0", "long" * 500]


def test_ids_of_any_text(store: RedisTieredDocumentStore) -> None:
    given = [node(f"{source}{id}", source) for source in ODD for id in ODD]
    store.add_documents(given)
    for source in ODD:
        info = store.get_ref_doc_info(source)
        assert info is not None
        assert info.node_ids == [f"{source}{id}" for id in ODD]
    assert set(store.docs) == {made.node_id for made in given}
    store.delete_ref_doc("/")
    assert set(store.docs) == {made.node_id for made in given if made.ref_doc_id != "/"}


# Nodes come back as they were.


def assert_same(store: RedisTieredDocumentStore, made: BaseNode) -> None:
    store.add_documents([made])
    found = store.get_document(made.node_id)
    assert found is not None
    assert type(found) is type(made)
    assert found == made
    assert found.hash == made.hash == store.get_document_hash(made.node_id)


@pytest.mark.parametrize(
    "made",
    [
        TextNode(text="x", embedding=[0.5, 0.25]),
        Document(text="x", metadata={"at": (1, {2})}),
        ImageNode(text="x", image_url="https://example.org/a.png"),
        ImageDocument(image="aGk=", text="x"),
        ImageDocument(text="x", image_resource=MediaResource(url="https://example.org/ü")),
        IndexNode(text="x", index_id="i", obj=TextNode(text="y")),
        Node(text_resource=MediaResource(text="x"), image_resource=MediaResource(data=b"\xff")),
        Node(),
        TextNode(text=""),
        TextNode(text="x", relationships={NodeRelationship.CHILD: [RelatedNodeInfo(node_id="c")]}),
    ],
)
def test_a_node_comes_back(store: RedisTieredDocumentStore, made: BaseNode) -> None:
    assert_same(store, made)


def test_nodes_of_all_kinds_come_back(store: RedisTieredDocumentStore) -> None:
    @given(nodes)
    @settings(max_examples=40)
    def check(made: BaseNode) -> None:
        assert_same(store, made)

    check()


def test_a_caller_changes_nothing_that_is_stored(store: RedisTieredDocumentStore) -> None:
    made = node("a", k=[1])
    store.add_documents([made])
    made.metadata["k"].append(2)
    found = store.get_document("a")
    assert found is not None
    found.metadata["k"].append(3)
    assert store.get_node("a").metadata == {"k": [1]}


# What LlamaIndex's own store does otherwise.


async def test_a_hash_does_not_forget_the_source(
    store: RedisTieredDocumentStore, call: Call
) -> None:
    await call(store, "add_documents", [node("a", "d")])
    await call(store, "set_document_hash", "a", "new")
    await call(store, "delete_document", "a")
    assert state(store) == ({}, {}, set())


async def test_a_node_leaves_its_source(store: RedisTieredDocumentStore, call: Call) -> None:
    await call(store, "add_documents", [node("a", "d", k=1), node("b", "d")])
    await call(store, "add_documents", [node("a", "e"), node("b")])
    assert state(store)[1] == {"e": RefDocInfo(["a"], {})}
    await call(store, "add_documents", [node("a", "d", j=2)])
    assert state(store)[1] == {"d": RefDocInfo(["a"], {"j": 2})}


async def test_a_deletion_tells_the_source(store: RedisTieredDocumentStore, call: Call) -> None:
    await call(store, "add_documents", [document("d"), node("a", "d"), node("b", "d")])
    await call(store, "delete_document", "a")
    assert await call(store, "get_ref_doc_info", "d") == RefDocInfo(["b"], {})
    await call(store, "delete_document", "b")
    assert state(store) == ({}, {}, set())


async def test_a_document_without_text_can_be_deleted(
    store: RedisTieredDocumentStore, call: Call
) -> None:
    await call(store, "add_documents", [document("d")], store_text=False)
    await call(store, "delete_document", "d")
    assert state(store) == ({}, {}, set())


async def test_a_source_that_goes_leaves_its_own(
    store: RedisTieredDocumentStore, call: Call
) -> None:
    made = [document("d"), node("a", "d"), node("b", "a"), node("self", "self")]
    await call(store, "add_documents", made)
    await call(store, "delete_document", "self")
    await call(store, "delete_document", "b")
    assert state(store) == ({}, {}, set())
    await call(store, "add_documents", made)
    await call(store, "delete_ref_doc", "a")
    await call(store, "delete_ref_doc", "self")
    assert state(store) == ({}, {}, set())


IDS = ["d0", "d1", "n0", "n1", "n2", "n3"]


class Expected(SimpleDocumentStore):
    """LlamaIndex's own store, without the above."""

    def get_ref_doc_info(self, ref_doc_id: str) -> RefDocInfo | None:
        return copy.deepcopy(super().get_ref_doc_info(ref_doc_id))

    def add_documents(self, docs: Sequence[BaseNode], *args: Any, **options: Any) -> None:
        before = [self._get_ref_doc_id(made.node_id) for made in docs]
        super().add_documents(docs, *args, **options)
        for made, source in zip(docs, before, strict=True):
            if source is not None and source != made.ref_doc_id:
                info = self.get_ref_doc_info(source)
                assert info is not None
                info.node_ids.remove(made.node_id)
                if info.node_ids:
                    kept = info.to_dict()
                    self._kvstore.put(source, kept, collection=self._ref_doc_collection)
                else:
                    self._kvstore.delete(source, collection=self._ref_doc_collection)

    def set_document_hash(self, doc_id: str, doc_hash: str) -> None:
        before = self._kvstore.get(doc_id, collection=self._metadata_collection) or {}
        kept = {**before, "doc_hash": doc_hash}
        self._kvstore.put(doc_id, kept, collection=self._metadata_collection)

    def delete_document(self, doc_id: str, raise_error: bool = True) -> None:
        there = self.document_exists(doc_id) or self.get_document_hash(doc_id) is not None
        super().delete_document(doc_id, raise_error=raise_error and not there)


class Together(RuleBasedStateMachine):
    """Both stores are told the same."""

    tiers: Tiers

    @initialize()
    def begin(self) -> None:
        self.store = RedisTieredDocumentStore(self.tiers, name=secrets.token_hex(8))
        self.expected = Expected()

    def both(self, name: str, *arguments: Any, **options: Any) -> None:
        outcomes = []
        for store in (self.expected, self.store):
            try:
                outcomes.append(getattr(store, name)(*arguments, **options))
            except ValueError:
                outcomes.append(ValueError)
        assert outcomes[0] == outcomes[1]

    made = st.builds(
        lambda id, source, text, metadata: (
            document(id, text, **metadata)
            if id.startswith("d")
            else node(id, source, text, **metadata)
        ),
        st.sampled_from(IDS),
        st.sampled_from(["", "d0", "d1", "d1"]),
        st.sampled_from(["x", "y"]),
        st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2),
    )

    @rule(
        docs=st.lists(made, max_size=4, unique_by=lambda made: made.node_id),
        allow_update=st.sampled_from([True, True, True, False]),
        store_text=st.sampled_from([True, True, True, False]),
    )
    def add(self, docs: list[BaseNode], allow_update: bool, store_text: bool) -> None:
        self.both("add_documents", docs, allow_update=allow_update, store_text=store_text)

    @rule(id=st.sampled_from(IDS), hash=st.sampled_from(["", "h"]))
    def set_hash(self, id: str, hash: str) -> None:
        self.both("set_document_hash", id, hash)

    @rule(id=st.sampled_from(IDS), raise_error=st.booleans())
    def delete(self, id: str, raise_error: bool) -> None:
        self.both("delete_document", id, raise_error=raise_error)

    @rule(id=st.sampled_from(IDS), raise_error=st.booleans())
    def delete_source(self, id: str, raise_error: bool) -> None:
        self.both("delete_ref_doc", id, raise_error=raise_error)

    @rule(ids=st.lists(st.sampled_from(IDS), max_size=3), raise_error=st.booleans())
    def read(self, ids: list[str], raise_error: bool) -> None:
        self.both("get_nodes", ids, raise_error=raise_error)

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        assert state(self.store) == state(self.expected)
        for id in IDS:
            self.both("get_ref_doc_info", id)
            self.both("get_document_hash", id)
        for hash, id in self.store.get_all_document_hashes().items():
            assert self.expected.get_document_hash(id) == hash


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "redis"])
def test_it_does_what_llamaindex_s_own_does(
    valkey: RedisServer, sqlite_url: str, durable: bool
) -> None:
    with Tiers(valkey.url, sqlite_url if durable else None) as tiers:
        machine = type("Machine", (Together,), {"tiers": tiers})
        run_state_machine_as_test(
            machine, settings=settings(max_examples=30, stateful_step_count=15)
        )


# Writers at once.


def interleaved(flow: Flow[Any], other: Flow[Any]) -> Flow[Any]:
    """A flow, and all of another between what it has read and its first write."""
    pending: Flow[Any] | None = other
    step = next(flow)
    while True:
        if pending is not None and isinstance(step, Sql) and step.write:
            yield from pending
            pending = None
        result = yield step
        try:
            step = flow.send(result)
        except StopIteration as stop:
            return stop.value


def changes(store: RedisTieredDocumentStore) -> dict[str, Callable[[], Flow[Any]]]:
    documents = store._documents
    return {
        "add a": lambda: documents.add([node("a", "d", text="new")], True, True),
        "add c": lambda: documents.add([node("c", "d", k=3), document("d", "new")], True, True),
        "move a": lambda: documents.add([node("a", "e")], True, True),
        "delete a": lambda: documents.delete("a"),
        "delete b": lambda: documents.delete("b"),
        "delete d": lambda: documents.delete_source("d"),
        "hash a": lambda: documents.set_hashes({"a": "h"}),
    }


def test_nothing_is_orphaned_whoever_comes_between(tiers: Tiers) -> None:
    count = len(changes(RedisTieredDocumentStore(tiers)))
    for i in range(count * count):
        store = RedisTieredDocumentStore(tiers, name=f"s{i}")
        store.add_documents([document("d"), node("a", "d"), node("b", "d")])
        given = list(changes(store).items())
        (first, flow), (second, other) = given[i // count], given[i % count]
        tiers.run(interleaved(flow(), other()))
        infos = store.get_all_ref_doc_info()
        of_a_source = {id for info in infos.values() for id in info.node_ids}
        assert set(store.docs) - {"d"} <= of_a_source, (first, second)
        for source, info in infos.items():
            assert store.get_ref_doc_info(source) == info, (first, second)
            store.delete_ref_doc(source)
        assert store.docs.keys() <= {"d"}, (first, second)
        assert store.get_all_ref_doc_info() == {}, (first, second)


def test_the_last_two_nodes_are_deleted_at_once(store: RedisTieredDocumentStore) -> None:
    store.add_documents([document("d"), node("a", "d"), node("b", "d")])
    documents = store._documents
    store.tiers.run(interleaved(documents.delete("a"), documents.delete("b")))
    assert state(store) == ({}, {}, set())


def test_many_writers_lose_nothing_of_each_other(valkey: RedisServer, sqlite_url: str) -> None:
    with Tiers(valkey.url, sqlite_url) as one, Tiers(valkey.url, sqlite_url) as two:
        stores = [RedisTieredDocumentStore(one), RedisTieredDocumentStore(two)]

        def work(writer: int) -> None:
            for i in range(5):
                made = [node(f"n{writer}.{i}.{k}", f"d{k}") for k in range(3)]
                stores[writer % 2].add_documents(made)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        infos = [store.get_all_ref_doc_info() for store in stores]
        assert infos[0] == infos[1]
        for k in range(3):
            expected = {f"n{writer}.{i}.{k}" for writer in range(6) for i in range(5)}
            assert set(infos[0][f"d{k}"].node_ids) == expected
        assert len(stores[0].docs) == 90


async def test_tasks_lose_nothing_of_each_other(store: RedisTieredDocumentStore) -> None:
    calls = [store.async_add_documents([node(f"n{i}", "d")]) for i in range(20)]
    await asyncio.gather(*calls)
    info = await store.aget_ref_doc_info("d")
    assert info is not None
    assert set(info.node_ids) == {f"n{i}" for i in range(20)}
    await asyncio.gather(*(store.adelete_document(f"n{i}") for i in range(20)))
    assert state(store) == ({}, {}, set())


# Round trips.


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each step that is performed from now on."""
    performed: list[Any] = []
    run = Tiers.run

    def watched(flow: Flow[Any]) -> Flow[Any]:
        step = next(flow)
        while True:
            performed.append(step)
            try:
                result = yield step
            except TierError as error:
                step = flow.throw(error)
            else:
                try:
                    step = flow.send(result)
                except StopIteration as stop:
                    return stop.value

    monkeypatch.setattr(Tiers, "run", lambda self, flow: run(self, _guarded(watched, flow)))
    return performed


def _guarded(watched: Callable[[Flow[Any]], Flow[Any]], flow: Flow[Any]) -> Flow[Any]:
    try:
        return (yield from watched(flow))
    except RuntimeError as error:  # the flow ended with its first step
        if isinstance(error.__cause__, StopIteration):
            return error.__cause__.value
        raise


def counted(steps: list[Any]) -> tuple[int, int, int]:
    """Round trips to Redis, reads and transactions of the durable tier; forgotten then."""
    counts = (
        sum(isinstance(step, Redis) for step in steps),
        sum(isinstance(step, Sql) and not step.write for step in steps),
        sum(isinstance(step, Sql) and step.write for step in steps),
    )
    steps.clear()
    return counts


def test_a_thousand_nodes_cost_a_round_trip_per_hundred(
    store: RedisTieredDocumentStore, steps: list[Any]
) -> None:
    store.add_documents([node("first")])  # connects
    counted(steps)
    given = [node(f"n{i}", f"d{i // 50}", text="word " * 200) for i in range(1000)]
    ids = [made.node_id for made in given]
    spent = {}
    for name, act in {
        "add": lambda: store.add_documents(given),
        "again": lambda: store.add_documents(given),
        "get": lambda: store.get_nodes(ids),
        "hashes": lambda: store.get_all_document_hashes(),
        "set hashes": lambda: store.set_document_hashes(dict.fromkeys(ids, "h")),
        "infos": lambda: store.get_all_ref_doc_info(),
        "delete": lambda: [store.delete_ref_doc(f"d{i}") for i in range(20)],
    }.items():
        act()
        spent[name] = counted(steps)
    assert spent == {
        "add": (2, 1, 1),
        "again": (2, 1, 1),
        "get": (1, 0, 0),
        "hashes": (0, 1, 0),
        "set hashes": (1, 0, 1),
        "infos": (0, 2, 0),
        "delete": (40, 40, 20),
    }


# Around it.


async def test_arguments_that_are_refused(store: RedisTieredDocumentStore, call: Call) -> None:
    bad: Any
    for bad, said in [
        (3, "docs must be several, got int"),
        (["a"], r"docs\[0\] must be a node, got str"),
        ([node("")], r"docs\[0\].id_ must have at least 1"),
        ([node("\ud800")], "lone surrogate"),
        ([node("x" * (1 << 21))], "1048576 bytes"),
    ]:
        with pytest.raises(InvalidInput, match=said):
            await call(store, "add_documents", bad)
    with pytest.raises(InvalidInput, match="batch_size must be from 1"):
        await call(store, "add_documents", [], batch_size=0)
    for name in ["get_document", "delete_document", "get_document_hash", "get_ref_doc_info"]:
        with pytest.raises(InvalidInput, match="must be a str, got int"):
            await call(store, name, 3)
    with pytest.raises(InvalidInput, match="doc_hash must be a str, got NoneType"):
        await call(store, "set_document_hashes", {"a": "1", "b": None})
    with pytest.raises(InvalidInput, match="doc_hashes must be a dict, got list"):
        await call(store, "set_document_hashes", ["a"])
    with pytest.raises(InvalidInput, match="node_ids must be several, got str"):
        await call(store, "get_nodes", "abc")
    assert state(store) == ({}, {}, set())


@pytest.mark.parametrize(
    "options", [{"name": ""}, {"name": 3}, {"compress_from": -1}, {"tiers": 3}]
)
def test_options_that_are_refused(tiers: Tiers, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        RedisTieredDocumentStore(**{"tiers": tiers, **options})


async def test_a_failing_tier_is_an_error(call: Call) -> None:
    with Tiers("redis://127.0.0.1:1/0", "sqlite:////nowhere/at/all.db") as tiers:
        store = RedisTieredDocumentStore(tiers)
        for name, *arguments in [
            ("add_documents", [node("a")]),
            ("get_document", "a"),
            ("get_all_document_hashes",),
            ("delete_ref_doc", "d"),
        ]:
            with pytest.raises(TierError):
                await call(store, name, *arguments)


def test_copies_and_pickles_have_the_same_options(tiers: Tiers) -> None:
    store = RedisTieredDocumentStore(tiers, name="n", compress_from=9)
    store.add_documents([node("a")])
    assert copy.copy(store).tiers is copy.deepcopy(store).tiers is tiers
    other = pickle.loads(pickle.dumps(store))
    with other.tiers:
        assert other.docs == {"a": node("a")}
        assert other._options == copy.deepcopy(store)._options == store._options


def test_its_words_hold_no_secret(store: RedisTieredDocumentStore) -> None:
    with Tiers(f"redis://:{SECRET}@localhost:1/0") as tiers:
        assert SECRET not in repr(RedisTieredDocumentStore(tiers))
    assert RedisTieredDocumentStore.class_name() == "RedisTieredDocumentStore"


def test_an_index_keeps_its_nodes_in_it(store: RedisTieredDocumentStore) -> None:
    context = StorageContext.from_defaults(docstore=store)
    index = SummaryIndex.from_documents([document("d"), document("e")], storage_context=context)
    assert set(index.ref_doc_info) == {"d", "e"}
    index.delete_ref_doc("d", delete_from_docstore=True)
    assert set(store.get_all_ref_doc_info()) == {"e"}
    assert index.refresh_ref_docs([document("e"), document("e2")]) == [False, True]


async def test_parents_take_the_place_of_their_children(store: RedisTieredDocumentStore) -> None:
    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[256, 64], chunk_overlap=0)
    made = parser.get_nodes_from_documents([document("d", "word " * 300)])
    store.add_documents(made)

    class Leaves(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            return [NodeWithScore(node=leaf, score=1.0) for leaf in get_leaf_nodes(made)]

    context = StorageContext.from_defaults(docstore=store)
    retriever = AutoMergingRetriever(Leaves(), context)  # type: ignore[arg-type]
    found = {hit.node.node_id for hit in retriever.retrieve("?")}
    assert found == {parent.node_id for parent in made} - {x.node_id for x in get_leaf_nodes(made)}
