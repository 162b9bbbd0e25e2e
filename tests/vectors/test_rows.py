"""Collections in the durable tier against a dict, and what happens when two write at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.flow import Sql
from redis_tiered.tiers.durable import AsyncDurable, DurableURL, SyncDurable
from redis_tiered.vectors import rows
from redis_tiered.vectors.document import Document, Draft, Removal, drafted
from redis_tiered.vectors.filters import Field

NOW = 1_700_000_000_000
_scopes = (f"scope {number}" for number in itertools.count())


class Database:
    """Units of work, run one after another."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._durable = SyncDurable(DurableURL(url), 30)

    def read(self, work: Callable[[Any], Any]) -> Any:
        return self._durable.execute(Sql(work))

    def write(self, work: Callable[[Any], Any]) -> Any:
        return self._durable.execute(Sql(work, write=True))

    def close(self) -> None:
        self._durable.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    made = Database(request.getfixturevalue(f"{request.param}_url"))
    yield made
    made.close()


def drafts_of(*documents: Document, expires: int | None = None, dims: int = 2) -> list[Draft]:
    filled = [
        document
        if document.vector is not None
        else Document(
            document.id,
            np.ones(dims),
            document.text,
            document.metadata,
            document.payload,
            document.parent,
        )
        for document in documents
    ]
    return drafted(filled, dims, "cosine", NOW, expires)[1]


def put(database: Database, scope: str, *documents: Document, **more: Any) -> rows.Change:
    dims = more.get("dims", 2)
    drafts = drafts_of(*documents, **more)
    change: rows.Change = database.write(rows.upsert(scope, drafts, dims, "cosine", NOW))
    return change


@dataclass
class Model:
    """What a collection should be, and one that follows its changes."""

    version: int = 0
    held: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    used: dict[bytes, int] = field(default_factory=dict)
    seen: int = 0
    copy: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)

    def follow(self, database: Database, scope: str, limit: int) -> None:
        while True:
            news = database.read(rows.changes(scope, self.seen, limit))
            assert news.version == self.version
            if not news.complete:  # as who reads it does: anew, from pages
                self.copy, self.seen = {}, 0
                while page := database.read(rows.page(scope, self.seen, 3, now=NOW)):
                    self.copy |= {row.id: (row.version, row.text) for row in page}
                    self.seen = page[-1].version
                self.seen = self.version
                continue
            versions = [change.version for change in news.changes]
            assert versions == sorted(set(versions))
            for change in news.changes:
                if not isinstance(change, Removal):
                    self.copy[change.id] = (change.version, change.text)
                elif change.id is None:
                    self.copy.clear()
                else:
                    self.copy.pop(change.id, None)
            self.seen = news.upto
            if self.seen == news.version:
                break
        assert self.copy == self.held


IDS = st.sampled_from(["a", "b", "c", "d\0", "é", "'\"\\"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(IDS, max_size=4, unique=True), st.integers(0, 2)),
        st.tuples(st.just("remove"), st.lists(IDS, max_size=3), st.integers(1, 2)),
        st.tuples(st.just("parent"), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("where"), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("clear"), st.none(), st.none()),
        st.tuples(st.just("prune"), st.integers(0, 2), st.none()),
        st.tuples(st.just("follow"), st.integers(1, 3), st.none()),
        st.tuples(st.just("use"), IDS, st.integers(1, 3)),
    ),
    max_size=14,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=OPERATIONS)
def test_a_collection_is_what_was_done_to_it(
    database: Database, operations: list[tuple[str, Any, Any]]
) -> None:
    scope, other = next(_scopes), next(_scopes)
    put(database, other, Document("a", text="of another"))
    model = Model()
    kinds: dict[bytes, int] = {}
    for turn, (operation, what, number) in enumerate(operations):
        if operation == "put":
            text = f"text {turn}"
            change = put(
                database,
                scope,
                *[
                    Document(id, None, text, {"kind": number}, b"", f"parent {number}")
                    for id in what
                ],
            )
            assert (change.before, change.after) == (model.version, model.version + len(what))
            for row in change.rows:
                model.version += 1
                assert (row.version, row.text) == (model.version, text.encode())
                model.held[row.id] = (row.version, row.text)
                model.used.setdefault(row.id, 0)
                kinds[row.id] = number
        elif operation in ("remove", "parent", "where"):
            if operation == "remove":
                asked = {"ids": [id.encode() for id in what]}
                gone = [id for id in model.held if id in asked["ids"]]
            elif operation == "parent":
                asked = {"parents": [f"parent {what}".encode()]}
                gone = [id for id in model.held if kinds[id] == what]
            else:
                asked = {"where": Field("kind") == what}
                gone = [id for id in model.held if kinds[id] == what]
            gone = sorted(gone, key=lambda id: model.held[id])[:number]
            change = database.write(rows.remove(scope, NOW, limit=number, **asked))  # type: ignore[arg-type]
            assert list(change.removed) == gone
            assert (change.before, change.after) == (model.version, model.version + len(gone))
            model.version = change.after
            for id in gone:
                del model.held[id], model.used[id]
        elif operation == "clear":
            change, total = database.write(rows.remove_all(scope, NOW))
            assert total == len(model.held)
            assert change.everything == (change.after > change.before) == (total > 0)
            model.version = change.after
            model.held.clear()
            model.used.clear()
        elif operation == "prune":
            database.write(rows.prune(scope, what))
        elif operation == "follow":
            model.follow(database, scope, what)
        elif operation == "use":
            database.write(rows.add_uses(scope, {what.encode(): (number, NOW + turn)}))
            if what.encode() in model.used:
                model.used[what.encode()] += number
    model.follow(database, scope, 100)
    head = database.read(rows.head(scope))
    assert head is None or head.version == model.version
    ids = [b"a", b"b", b"c", b"d\0", "é".encode(), b"'\"\\"]
    versions = {id: version for id, (version, _) in model.held.items()}
    in_order = sorted(versions, key=lambda id: versions[id])
    assert database.read(rows.found(scope, ids)) == versions
    assert [r.id for r in database.read(rows.get(scope, ids, NOW))] == [
        id for id in ids if id in versions
    ]
    assert [r.id for r in database.read(rows.find(scope, now=NOW))] == in_order
    assert [r.id for r in database.read(rows.find(scope, offset=1, limit=2, now=NOW))] == (
        in_order[1:3]
    )
    assert database.read(rows.count(scope, now=NOW)) == len(versions)
    for kind in range(3):
        where = Field("kind") == kind
        expected = [id for id in in_order if kinds[id] == kind]
        assert [r.id for r in database.read(rows.find(scope, where, now=NOW))] == expected
        assert database.read(rows.count(scope, where, NOW)) == len(expected)
    contents = database.read(rows.contents(scope, list(range(model.version + 2))))
    assert sorted(r.version for r in contents) == sorted(versions.values())
    uses = database.read(rows.uses(scope, ids))
    assert {id: count for id, (count, _) in uses.items()} == model.used
    assert [r.text for r in database.read(rows.find(other, now=NOW))] == [b"of another"]


def test_rows_come_back_as_they_were_written(database: Database) -> None:
    document = Document("id\0 é", [1.5, -2], "text\0\n\t\\.", {"a": [1, None, "É"]}, b"\0p", "pa\0")
    [draft] = drafts_of(document, expires=NOW + 1)
    change = database.write(rows.upsert("s", [draft], 2, "cosine", NOW))
    [row] = change.rows
    assert row[1:] == (
        draft.id,
        draft.vector,
        draft.metadata,
        draft.text,
        draft.payload,
        draft.parent,
        NOW + 1,
    )
    assert database.read(rows.get("s", [draft.id], NOW)) == [row]
    assert database.read(rows.contents("s", [1], vectors=True)) == [row]
    assert database.read(rows.changes("s", 0, 9)).changes == [row]
    assert database.read(rows.find("s", parents=[b"pa\0"], now=NOW)) == [row]
    assert database.read(rows.find("s", ids=[b"id\0 \xc3\xa9"], now=NOW)) == [row]
    bare = row._replace(vector=b"")
    assert database.read(rows.page("s", 0, 9, now=NOW, vectors=False)) == [bare]
    assert database.read(rows.find("s", now=NOW, vectors=False)) == [bare]


def test_what_expired_is_not_there_until_it_is_removed(database: Database) -> None:
    put(database, "s", Document("old", text="x"), expires=NOW)
    put(database, "s", Document("new", text="x"), expires=NOW + 1)
    put(database, "s", Document("kept", text="x"))
    for found in (
        database.read(rows.page("s", 0, 9, now=NOW)),
        database.read(rows.find("s", now=NOW)),
        database.read(rows.get("s", [b"old", b"new", b"kept"], NOW)),
    ):
        assert [row.id for row in found] == [b"new", b"kept"]
    assert database.read(rows.count("s", now=NOW)) == 2
    assert len(database.read(rows.changes("s", 0, 9)).changes) == 3
    assert set(database.read(rows.found("s", [b"old", b"new"]))) == {b"old", b"new"}
    change = database.write(rows.remove("s", NOW, expired_before=NOW, limit=9))
    assert change.removed == (b"old",)
    assert database.write(rows.remove("s", NOW, expired_before=NOW, limit=9)).removed == ()


def test_other_dims_or_metric_are_refused_and_write_nothing(database: Database) -> None:
    put(database, "s", Document("a"))
    before = database.read(rows.head("s"))
    three = drafts_of(Document("b"), dims=3)
    with pytest.raises(InvalidInput, match=r"2 dimensions.*3 dimensions"):
        database.write(rows.upsert("s", three, 3, "cosine", NOW))
    with pytest.raises(InvalidInput, match=r'"cosine".*"l2"'):
        database.write(rows.upsert("s", drafts_of(Document("b")), 2, "l2", NOW))
    assert database.read(rows.head("s")) == before
    assert database.write(rows.opened("s", 9, "ip", NOW)) == before


def test_the_mark_of_a_missed_change_stays_until_all_are_there(database: Database) -> None:
    put(database, "s", Document("a"))
    database.write(rows.miss("s", 5))
    database.write(rows.miss("s", 6))
    assert database.read(rows.head("s")).missed == 5
    assert put(database, "s", Document("b")).missed == 5
    assert database.write(rows.remove("s", NOW, ids=[b"a"], limit=1)).missed == 5
    database.write(rows.recovered("s", 2))
    assert database.read(rows.head("s")).missed == 5
    database.write(rows.recovered("s", 3))
    assert database.read(rows.head("s")).missed is None


def test_uses_survive_a_new_version(database: Database) -> None:
    put(database, "s", Document("a"), Document("b"))
    database.write(rows.add_uses("s", {b"a": (2, 50), b"gone": (1, 50)}))
    put(database, "s", Document("a", text="again"))
    database.write(rows.add_uses("s", {b"a": (1, 40)}))
    assert database.read(rows.uses("s", [b"a", b"b"])) == {b"a": (3, 50), b"b": (0, None)}


def test_nothing_is_asked_of_a_collection_that_is_not_there(database: Database) -> None:
    assert database.read(rows.head("s")) is None
    assert database.read(rows.changes("s", 0, 5)) == ([], 0, 0, True)
    assert database.read(rows.page("s", 0, 5, now=NOW)) == []
    assert database.read(rows.find("s", now=NOW)) == []
    assert database.write(rows.remove("s", NOW, ids=[b"a"], limit=5)) == rows.Change(0, 0)
    assert database.write(rows.remove_all("s", NOW)) == (rows.Change(0, 0), 0)
    assert database.write(rows.prune("s")) == 0


def test_a_large_batch_and_large_documents(database: Database) -> None:
    large = Document("large", None, "y" * 3_000_000, {"t": "z" * 100_000}, b"\1" * 6_000_000)
    many = [Document(f"{number}", None, "word", {"n": [number, 1]}) for number in range(1500)]
    put(database, "s", large, *many)
    [row] = database.read(rows.get("s", [b"large"], NOW))
    assert (len(row.text), len(row.payload)) == (3_000_000, 6_000_000)
    assert database.read(rows.count("s", Field("n").contains(1), NOW)) == 1500
    assert len(put(database, "s", *many).rows) == 1500
    assert database.read(rows.count("s", Field("n").contains(1), NOW)) == 1500


def test_two_who_write_the_same_ids_at_once_agree(database: Database) -> None:
    changes: list[rows.Change] = []
    errors: list[BaseException] = []

    def write(name: str) -> None:
        mine = Database(database.url)
        try:
            for turn in range(8):
                ids = [f"{number}" for number in range(20)]
                order = ids if name == "x" else ids[::-1]
                text = f"{name} {turn}"
                changes.append(put(mine, "s", *[Document(id, text=text) for id in order]))
                mine.write(rows.add_uses("s", {id.encode(): (1, NOW) for id in order}))
        except BaseException as error:
            errors.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    written = sorted(row for change in changes for row in change.rows)
    assert [row.version for row in written] == list(range(1, 321))
    last = {row.id: row for row in written}
    found = database.read(rows.find("s", now=NOW))
    assert {row.id: row for row in found} == last
    assert database.read(rows.changes("s", 0, 999)).changes == found
    uses = database.read(rows.uses("s", list(last)))
    assert [count for count, _ in uses.values()] == [16] * 20


def test_collections_that_are_made_at_once_have_serials_of_their_own(database: Database) -> None:
    found: list[rows.Head] = []

    def make(number: int) -> None:
        for turn in range(3):
            scope = f"{turn}" if number % 2 else f"{turn} {number}"
            found.append(database.write(rows.opened(scope, 2, "l2", NOW)))

    database.read(rows.head("s"))
    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert {head.serial for head in found} == set(range(1, 10))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_the_same_with_asyncio(kind: str, request: pytest.FixtureRequest) -> None:
    durable = AsyncDurable(DurableURL(request.getfixturevalue(f"{kind}_url")), 30)
    try:
        drafts = drafts_of(Document("a", text="a b"), Document("b", metadata={"x": 1}))
        for _ in range(2):
            work = rows.upsert("s", drafts, 2, "cosine", NOW)
            change = await durable.execute(Sql(work, write=True))
        assert (change.before, change.after) == (2, 4)
        assert await durable.execute(Sql(rows.find("s", Field("x") == 1, now=NOW))) == [
            change.rows[1]
        ]
        with pytest.raises(InvalidInput):
            await durable.execute(Sql(rows.upsert("s", drafts, 3, "cosine", NOW), write=True))
        await durable.execute(Sql(rows.remove_all("s", NOW), write=True))
        assert (await durable.execute(Sql(rows.changes("s", 0, 9)))).changes == [Removal(5, None)]
    finally:
        await durable.close()
