"""A collection under any order of operations and losses: every answer is that of a plain model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from redis_tiered import Tiers
from redis_tiered.vectors.document import Document
from redis_tiered.vectors.filters import Field
from tests.servers import RedisServer
from tests.vectors.twin import Bench, Model, Place, Twin, hits, ids

# For a long search: how many examples, of how many operations each.
_EXAMPLES = int(os.environ.get("REDIS_TIERED_TEST_EXAMPLES", "10"))
_STEPS = int(os.environ.get("REDIS_TIERED_TEST_STEPS", "25"))

WHO = st.integers(0, 1)
PICK = st.integers(0, 1000)
IDS = st.sampled_from([f"d{i}" for i in range(10)])
PARENTS = st.sampled_from(["", "p", "q"])
NUMBERS = st.integers(0, 3)
# Small whole numbers: their distances are exact, and many are equal.
VECTORS = st.tuples(*[st.integers(-2, 2)] * 3).filter(any)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        IDS,
        VECTORS,
        st.sampled_from(["", "some words", "other words"]),
        st.fixed_dictionaries({"n": NUMBERS}),
        st.binary(max_size=2),
        PARENTS,
    ),
    min_size=1,
    max_size=6,
)
FILTERS = st.sampled_from(
    [None, Field("n") == 1, Field("n") >= 2, ~(Field("n") == 0), Field("x").present()]
)
CRITERIA = st.fixed_dictionaries(
    {},
    optional={
        "filter": FILTERS,
        "ids": st.lists(IDS, max_size=4),
        "parents": st.lists(PARENTS.filter(bool), max_size=2),
    },
)

served: dict[str, int] = {}


class Machine(RuleBasedStateMachine):
    """Two processes, the second with asyncio, use one collection."""

    bench: ClassVar[Bench]
    metric: ClassVar[str]
    exact: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.bench = type(self).again()
        self.model = Model(self.metric)
        self.lasts = self.bench.lasts
        options = {"metric": self.metric, "auto_rebuild": False}
        self.who: list[Twin] = [
            self.bench.collection(**options),
            self.bench.elsewhere(**options),
        ]
        self.who[1].loop = Placed.loop
        self.snapshot: dict[bytes, bytes] | None = None

    @classmethod
    def again(cls) -> Bench:
        """The same place, and a tenant of its own."""
        old = cls.bench
        return Bench(old.tiers, old.other, old.url, old.place, Placed.loop)

    def teardown(self) -> None:
        for collection in self.who:
            for name, count in collection.stats().items():
                served[name] = served.get(name, 0) + count
        self.bench.lose()

    def agree(self, who: int) -> None:
        wanted, collection = list(self.model.held.values()), self.who[who]
        assert ids(collection.find(limit=None)) == ids(wanted)
        assert collection.count() == len(wanted)

    # Changes.

    @rule(who=WHO, documents=DOCUMENTS)
    def upsert(self, who: int, documents: list[Document]) -> None:
        assert self.who[who].upsert(documents) == tuple(ids(documents))
        self.model.upsert(documents)

    @rule(who=WHO, criteria=CRITERIA.filter(lambda criteria: any(v is not None for v in criteria.values())))  # fmt: skip
    def delete(self, who: int, criteria: dict[str, Any]) -> None:
        assert self.who[who].delete(**criteria) == self.model.delete(**criteria)

    @rule(who=WHO)
    def delete_all(self, who: int) -> None:
        assert self.who[who].delete_all() == len(self.model.held)
        self.model.held.clear()

    # Questions.

    @rule(
        who=WHO,
        vector=VECTORS,
        k=st.sampled_from([None, 1, 2, 5, 50]),
        criteria=CRITERIA,
        within=st.sampled_from([float("inf"), 0.5, 1.0, 2.0]),
    )
    def search(
        self, who: int, vector: Any, k: int | None, criteria: dict[str, Any], within: float
    ) -> None:
        found = self.who[who].search(vector, k, max_distance=within, **criteria)
        wanted = self.model.search(vector, k, within, **criteria)
        if self.exact:
            assert hits(found) == wanted
        else:  # equally near ones may differ in the last digit, and so be in any order
            every = {id: distance for distance, id in self.model.search(vector, None, **criteria)}
            if within == float("inf"):
                near = [distance for distance, _ in hits(found)]
                assert near == pytest.approx([distance for distance, _ in wanted], abs=1e-6)
            for distance, id in hits(found):
                assert distance == pytest.approx(every[id], abs=1e-6)
        for hit in found:
            self.same(hit.document)

    @rule(who=WHO, wanted=st.lists(IDS, max_size=5, unique=True), vectors=st.booleans())
    def get(self, who: int, wanted: list[str], vectors: bool) -> None:
        found = self.who[who].get(wanted, with_vectors=vectors)
        assert ids(found) == [id for id in wanted if id in self.model.held]
        for document in found:
            self.same(document)
            if vectors:
                assert np.array_equal(document.vector, self.model.held[document.id].vector)

    @rule(who=WHO, criteria=CRITERIA)
    def find(self, who: int, criteria: dict[str, Any]) -> None:
        found = self.who[who].find(**criteria)
        assert ids(found) == ids(self.model.find(**criteria))
        for document in found:
            self.same(document)

    @rule(who=WHO, filter=FILTERS)
    def count(self, who: int, filter: Any) -> None:
        assert self.who[who].count(filter) == len(self.model.find(filter))

    @rule(who=WHO, vector=VECTORS)
    def everybody_looks(self, who: int, vector: Any) -> None:
        for one in (who, 1 - who):
            self.agree(one)
            self.search(one, vector, 5, {}, float("inf"))

    def same(self, found: Document) -> None:
        wanted = self.model.held[found.id]
        assert (found.text, found.metadata) == (wanted.text, wanted.metadata)
        assert (found.payload, found.parent) == (wanted.payload, wanted.parent)

    # What happens to Redis.

    @rule()
    def flush(self) -> None:
        self.bench.lose()
        if not self.lasts:
            self.model.held.clear()

    @precondition(lambda self: self.lasts and self.bench.local)
    @rule(pick=PICK)
    def evict(self, pick: int) -> None:
        if keys := sorted(key for key in self.bench.stored_keys() if not key.endswith(b":lease")):
            self.bench.lose(keys[pick % len(keys)])

    @precondition(lambda self: self.lasts and self.bench.local)
    @rule()
    def save(self) -> None:
        self.snapshot = self.bench.dump()

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def restore(self) -> None:
        assert self.snapshot is not None
        self.bench.load(self.snapshot)

    @precondition(lambda self: self.lasts)
    @rule(who=WHO)
    def rebuild(self, who: int) -> None:
        assert self.who[who].rebuild().documents == len(self.model.held)
        assert self.who[1 - who].verify().clean

    @precondition(lambda self: self.lasts)
    @rule(who=WHO)
    def repair(self, who: int) -> None:
        self.who[who].verify(repair=True)
        assert self.who[1 - who].verify().clean

    @rule(who=WHO)
    def restart(self, who: int) -> None:
        """A process forgets what it knew."""
        self.who[who].collection._shared.reset_after_fork()


class Placed:
    loop: ClassVar[asyncio.AbstractEventLoop]


@pytest.fixture(autouse=True)
def _loop() -> Iterator[None]:
    Placed.loop = asyncio.new_event_loop()
    yield
    Placed.loop.close()


PLACES = {
    "l2": Place("valkey", "sqlite", "redis", "float32", "sync"),
    "ip": Place("valkey", "sqlite", "durable", "float16", "sync"),
    "cosine": Place("valkey", "none", "redis", "float32", "sync"),
    "search": Place("search", "sqlite", "redis", "float32", "sync"),
}


@pytest.mark.parametrize("name", PLACES)
def test_every_answer_is_the_model_s(
    request: pytest.FixtureRequest,
    valkey: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    # What is waited for when Redis missed a change.
    monkeypatch.setattr("redis_tiered.vectors.truth.LEASE", 0.02)
    monkeypatch.setattr("redis_tiered.vectors.truth._MARGIN", 0.005)
    place = PLACES[name]
    url = request.getfixturevalue("search_url") if place.redis == "search" else valkey.url
    durable = f"sqlite:///{tmp_path / 'durable.db'}" if place.durable != "none" else None
    patient = {"redis_timeout": 5.0, "durable_timeout": 10.0}
    with Tiers(url, durable, **patient) as one, Tiers(url, durable, **patient) as two:

        class Here(Machine):
            bench = Bench(one, two, url, place, Placed.loop)
            metric = "l2" if name == "search" else name
            exact = name not in ("cosine", "search")

        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=_EXAMPLES if name != "search" else _EXAMPLES // 3,
                stateful_step_count=_STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        Placed.loop.run_until_complete(two.aclose())
        Placed.loop.run_until_complete(Placed.loop.shutdown_default_executor())
    print(name, served)
