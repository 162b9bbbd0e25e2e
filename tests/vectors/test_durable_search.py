"""Full text and nearest neighbours in the durable tier against what they should find."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from redis_tiered.errors import TierReplyError
from redis_tiered.flow import Sql
from redis_tiered.tiers.durable import AsyncDurable, DurableURL, SyncDurable
from redis_tiered.vectors import fulltext, nearest, pgvector, rows
from redis_tiered.vectors.document import Document, Metric, drafted
from redis_tiered.vectors.filters import Field, Filter
from redis_tiered.vectors.words import words

NOW = 1_700_000_000_000
HOSTILE = [
    '"',
    '""',
    "alpha*",
    "AND",
    "alpha AND",
    "NOT alpha",
    "NEAR(alpha beta, 5)",
    "words:alpha",
    "-alpha",
    "^alpha",
    "alpha' | 'beta",
    "alpha':*",
    "alpha \\",
    "alpha & !beta <-> x",
    "(((",
    "+ - * / : ; , .",
    "\0alpha\0",
    "😀",
    "😀alpha",
    "%s %(x)s :x ?",
    "",
    " \t\n",
    "x" * 5000,
    "alpha " * 5000,
    " ".join(f"w{number}" for number in range(3000)),
    "1_alpha",
    "_",
    "\uff41\uff4c\uff50\uff48\uff41",
    "ALPHA Ⅷ ǅ ß ﬁ İ",
    "中文 日本語",
    "हिन्दी",
]
_scopes = (f"scope {number}" for number in itertools.count())
_metrics: list[Metric] = ["cosine", "ip", "l2"]


class Database:
    def __init__(self, url: str) -> None:
        self._durable = SyncDurable(DurableURL(url), 30)

    def read(self, work: Callable[[Any], Any]) -> Any:
        return self._durable.execute(Sql(work))

    def write(self, work: Callable[[Any], Any]) -> Any:
        return self._durable.execute(Sql(work, write=True))

    def put(
        self, scope: str, documents: list[Document], metric: Metric = "l2", ttl: int | None = None
    ) -> rows.Change:
        expires = None if ttl is None else NOW + ttl
        drafts = drafted(documents, None, metric, NOW, expires)[1]
        dims = len(drafts[0].vector) // 4
        change: rows.Change = self.write(rows.upsert(scope, drafts, dims, metric, NOW))
        return change

    def close(self) -> None:
        self._durable.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    made = Database(request.getfixturevalue(f"{request.param}_url"))
    yield made
    made.close()


@pytest.fixture
def plain_url(postgres_url: str) -> str:
    """A database of PostgreSQL whose user may not enable an extension."""
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        name = connection.execute("SELECT quote_ident(current_database())").fetchone()
        assert name is not None
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            connection.execute("CREATE ROLE redis_tiered_plain")
        connection.execute("GRANT ALL ON SCHEMA public TO redis_tiered_plain")
        connection.execute(f"ALTER DATABASE {name[0]} SET role TO redis_tiered_plain")
    return postgres_url


@pytest.fixture(params=["sqlite", "postgres", "plain"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Also PostgreSQL without pgvector."""
    made = Database(request.getfixturevalue(f"{request.param}_url"))
    yield made
    made.close()


def texts(*contents: str) -> list[Document]:
    return [
        Document(f"d{number}", [1.0, 0.0], content, {"n": number}, b"", f"p{number % 2}")
        for number, content in enumerate(contents)
    ]


def ids(found: list[tuple[float, Any]]) -> list[str]:
    return [row.id.decode() for _, row in found]


# Full text.


def test_words_are_folded_split_and_cut() -> None:
    assert words("It's a_b C3-PO, Straße Ǆ!") == ("it", "s", "a_b", "c3", "po", "strasse", "dž")
    assert words("e\u0301") == words("é") == words("É")
    assert words("日本語 kana") == ("日", "本", "語", "kana")
    assert words("हिन्दी।") == ("हिन्दी",)
    assert words("x" * 100) == ("x" * 64,)
    assert len(words("é " * 60_000)) == 16_383
    assert words("\0 '\" \\ -- 😀") == ()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    contents=st.lists(
        st.one_of(st.sampled_from(HOSTILE), st.text(st.sampled_from("aAbß 'é\"*:-\0"), max_size=9)),
        min_size=1,
        max_size=5,
    ),
    query=st.one_of(
        st.sampled_from(HOSTILE),
        st.text(st.sampled_from("aAbß 'é\"*:-\0\\"), max_size=9),
        st.text(max_size=20).filter(lambda s: s.isprintable()),
    ),
)
def test_any_word_matches_and_nothing_is_syntax(
    database: Database, contents: list[str], query: str
) -> None:
    scope, other = next(_scopes), next(_scopes)
    database.put(scope, texts(*contents))
    database.put(other, texts(query, *contents))
    looked_for = set(list(dict.fromkeys(words(query)))[:64])
    found = database.read(fulltext.search(scope, query, None, now=NOW))
    assert sorted(ids(found)) == [
        f"d{number}" for number, content in enumerate(contents) if looked_for & {*words(content)}
    ]
    scores = [score for score, _ in found]
    assert scores == sorted(scores, reverse=True)
    assert all(score > 0 for score in scores)


def test_full_text_is_ranked_and_restricted(database: Database) -> None:
    filler = [f"common words {number}" for number in range(20)]
    database.put("s", texts("rare common thing", "rare rare thing", "other words", *filler))
    database.put("s", [Document("late", [1.0, 0.0], "rare")], ttl=1)

    def search(query: str, k: int | None = None, **more: Any) -> list[str]:
        return ids(database.read(fulltext.search("s", query, k, **more)))

    # Shorter, more often, rarer.
    assert search("RARE", now=NOW) == ["late", "d1", "d0"]
    assert search("RARE", now=NOW + 1) == ["d1", "d0"]
    assert search("common other", 1) == ["d2"]
    assert search("common rare", 2, where=~(Field("n") == 1), now=NOW + 1)[0] == "d0"
    assert search("rare", where=Field("n") == 0) == ["d0"]
    assert search("rare", ids=[b"d1", b"gone"]) == ["d1"]
    assert search("rare", parents=[b"p0"]) == ["d0"]
    assert len(search("common words")) == 22
    assert len(search("common words", 3)) == 3
    assert search("rare", 0) == []
    assert database.read(fulltext.search("s", ("rare", "thing"), 1))[0][1].id == b"d1"
    assert database.read(fulltext.search("none", "rare", 5)) == []


def test_full_text_forgets_what_was_replaced_or_removed(database: Database) -> None:
    database.put("s", texts("one", "two", "three"))
    database.put("other", texts("one"))
    database.put("s", [Document("d0", [1.0, 0.0], "four")])
    database.write(rows.remove("s", NOW, ids=[b"d1"], limit=9))
    every = "one two three four"
    assert sorted(ids(database.read(fulltext.search("s", every, 9)))) == ["d0", "d2"]
    assert ids(database.read(fulltext.search("s", "one", 9))) == []
    database.write(rows.remove_all("s", NOW))
    assert database.read(fulltext.search("s", every, 9)) == []
    assert ids(database.read(fulltext.search("other", every, 9))) == ["d0"]


def test_texts_of_any_length_are_taken(database: Database) -> None:
    longest = " ".join(f"{number:x}é" for number in range(60_000))
    database.put("s", texts(longest, "日本" * 40_000, "x" * 200_000, "\0" * 9, "'" * 9))
    assert ids(database.read(fulltext.search("s", "0é", 9))) == ["d0"]
    assert ids(database.read(fulltext.search("s", "本", 9))) == ["d1"]
    assert ids(database.read(fulltext.search("s", "x" * 70, 9))) == ["d2"]


def test_a_sqlite_without_fts5_says_so_when_it_is_searched(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    database.write(lambda connection: connection.execute(text("DROP TABLE redis_tiered_text")))
    for _ in range(2):
        database.put("s", texts("one"))
    with pytest.raises(TierReplyError, match="FTS5"):
        database.read(fulltext.search("s", "one", 9))
    database.write(rows.remove_all("s", NOW))
    database.close()


# Nearest neighbours.


def clustered(count: int, dims: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    # The same centres for any seed.
    centres = np.random.default_rng(99).standard_normal((40, dims))
    random = np.random.default_rng(seed)
    made = centres[random.integers(0, 40, count)] + 0.6 * random.standard_normal((count, dims))
    return made.astype(np.float32)


def brute(
    metric: Metric, vectors: dict[str, Any], query: Any, k: int | None, limit: float
) -> list[tuple[float, str]]:
    found = []
    asked = query.astype(np.float64)
    for id, vector in vectors.items():
        row = vector.astype(np.float64)
        if metric == "l2":
            distance = float(np.linalg.norm(row - asked))
        else:
            norms = np.linalg.norm(row) * np.linalg.norm(asked) if metric == "cosine" else 1
            distance = float(1 - row @ asked / norms)
        if distance <= limit:
            found.append((distance, id))
    return sorted(found)[:k]


@pytest.mark.parametrize("metric", _metrics)
def test_nearest_is_what_comparing_with_all_finds(anywhere: Database, metric: Metric) -> None:
    matrix = clustered(300, 24)
    documents = [
        Document(f"d{number:03}", row, "", {"n": number % 7}, b"", f"p{number % 3}")
        for number, row in enumerate(matrix)
    ]
    change = anywhere.put("s", documents, metric)
    assert not change.index_due
    anywhere.put("other", [Document("d", matrix[0])], metric)
    # Again, so that numbers are not in order of ids; and one that nobody shall see any more.
    anywhere.put("s", documents[:50], metric)
    anywhere.put("s", [Document("gone", matrix[1], "")], metric, ttl=0)
    head = anywhere.read(rows.head("s"))
    held = {document.id: document.vector for document in documents}
    seventh: Filter = Field("n") == 3
    some = [document.id.encode() for document in documents[10:40]]
    cases: list[tuple[int | None, Filter | None, Any, Any, float, Callable[[str], bool]]] = [
        (10, None, None, None, np.inf, lambda id: True),
        (None, None, None, None, 3.0, lambda id: True),
        (400, seventh, None, None, np.inf, lambda id: int(id[1:]) % 7 == 3),
        (5, seventh, None, [b"p1"], 4.0, lambda id: int(id[1:]) % 21 == 10),
        (5, None, some, None, np.inf, lambda id: id.encode() in some),
        (5, None, [], None, np.inf, lambda id: False),
        (0, None, None, None, np.inf, lambda id: True),
        (None, None, None, [b"p2"], np.inf, lambda id: int(id[1:]) % 3 == 2),
    ]
    for query in (*clustered(3, 24, 5), matrix[7]):
        for k, where, of, parents, limit, kept in cases:
            work = nearest.search(
                "s",
                head,
                query,
                k,
                where,
                of,
                parents,
                NOW,
                None if limit == np.inf else limit,
            )
            among = {id: vector for id, vector in held.items() if kept(id)}
            found = anywhere.read(work)
            expected = brute(metric, among, query, k, limit)
            assert ids(found) == [id for _, id in expected]
            assert [distance for distance, _ in found] == pytest.approx(
                [distance for distance, _ in expected], abs=1e-9
            )
            assert all(
                row.vector == held[row.id.decode()].astype("<f4").tobytes() for _, row in found
            )


def test_ties_are_in_order_of_ids_and_equal_vectors_at_distance_0(anywhere: Database) -> None:
    vector = np.random.default_rng(3).standard_normal(37).astype(np.float32)
    order = np.random.default_rng(4).permutation(200)
    anywhere.put("s", [Document(f"d{number:03}", vector) for number in order], "cosine")
    head = anywhere.read(rows.head("s"))
    found = anywhere.read(nearest.search("s", head, vector * 3, 200))
    assert ids(found) == [f"d{number:03}" for number in range(200)]
    assert {round(distance, 6) for distance, _ in found} == {0.0}
    bare = anywhere.read(nearest.search("s", head, vector, 5, vectors=False))
    assert all(row.vector == b"" for _, row in bare)


def test_numbers_of_any_size_have_a_direction(anywhere: Database) -> None:
    sizes = (1e-40, 1e-20, 1.0, 1e20, 3e38)
    documents = [Document(f"d{number}", [size, size / 2]) for number, size in enumerate(sizes)]
    anywhere.put("s", [*documents, Document("x", [-1.0, 3.0])], "cosine")
    head = anywhere.read(rows.head("s"))
    query = np.array([2e38, 1e38], np.float32)
    found = anywhere.read(nearest.search("s", head, query, 6))
    assert ids(found)[-1] == "x"
    assert [distance for distance, _ in found[:-1]] == pytest.approx([0] * 5, abs=1e-6)


def test_more_documents_than_a_page(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_PAGE_BYTES", 4 * 8 * 10)
    database = Database(sqlite_url)
    matrix = clustered(95, 8)
    documents = [Document(f"d{number:02}", row) for number, row in enumerate(matrix)]
    database.put("s", documents)
    head = database.read(rows.head("s"))
    held = {document.id: document.vector for document in documents}
    for k, limit in ((7, None), (None, 4.0), (3, 2.0)):
        found = database.read(nearest.search("s", head, matrix[5], k, max_distance=limit))
        expected = brute("l2", held, matrix[5], k, np.inf if limit is None else limit)
        assert ids(found) == [id for _, id in expected]
    database.close()


@pytest.fixture(autouse=True)
def _early(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index is due from a thousand documents on."""
    monkeypatch.setattr(pgvector, "INDEX_FROM", 1000)


@pytest.mark.parametrize(("metric", "dims"), [("cosine", 64), ("l2", 64), ("cosine", 2100)])
def test_an_index_of_pgvector_is_built_and_finds_nearly_all(
    postgres_url: str, metric: Metric, dims: int
) -> None:
    database = Database(postgres_url)
    if not database.write(lambda connection: pgvector.create(connection, 99, 2)):
        pytest.skip("this PostgreSQL has no pgvector")
    matrix = clustered(1000, dims)
    documents = [
        Document(f"d{number}", row, "", {"n": number % 300}) for number, row in enumerate(matrix)
    ]
    assert database.put("s", documents[:950], metric).index_due is False
    assert database.read(pgvector.index("s")) is False
    assert database.put("s", documents[950:], metric).index_due is True
    assert database.read(pgvector.index("s")) is True
    assert database.read(pgvector.index("s")) is False
    assert database.put("s", documents[:50], metric).index_due is False
    head = database.read(rows.head("s"))
    held = {document.id: document.vector for document in documents}
    right = 0
    for query in clustered(20, dims, 8):
        found = database.read(nearest.search("s", head, query, 10, now=NOW))
        assert len(found) == 10
        assert [distance for distance, _ in found] == sorted(distance for distance, _ in found)
        expected = brute(metric, held, query, 10, np.inf)
        right += len({id for _, id in expected} & set(ids(found)))
    assert right >= 190
    # A filter that few satisfy still gives what there is.
    found = database.read(nearest.search("s", head, matrix[0], 10, Field("n") == 7, now=NOW))
    assert sorted(ids(found)) == ["d307", "d607", "d7", "d907"]
    database.write(rows.remove("s", NOW, ids=[b"d7"], limit=1))
    found = database.read(nearest.search("s", head, matrix[7], 10, Field("n") == 7, now=NOW))
    assert "d7" not in ids(found)
    database.write(rows.remove_all("s", NOW))
    assert database.read(nearest.search("s", head, matrix[0], 10, now=NOW)) == []
    assert database.put("s", documents[:5], metric).index_due is False
    assert len(database.read(nearest.search("s", head, matrix[0], 10, now=NOW))) == 5
    database.close()


def test_what_an_index_does_not_reach_is_found_without_it(postgres_url: str) -> None:
    database = Database(postgres_url)
    if not database.write(lambda connection: pgvector.create(connection, 99, 2)):
        pytest.skip("this PostgreSQL has no pgvector")
    matrix = clustered(1000, 8)
    far = np.argsort(np.linalg.norm(matrix - matrix[0], axis=1))[-3:].tolist()
    database.put(
        "s",
        [
            Document(f"d{number}", row, "", {"far": number in far})
            for number, row in enumerate(matrix)
        ],
    )
    assert database.read(pgvector.index("s")) is True
    database.close()
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        # It goes by the index, and looks at no more vectors than it must.
        for setting in ("hnsw.max_scan_tuples = 1", "enable_sort = off", "enable_seqscan = off"):
            connection.execute(
                f"ALTER ROLE CURRENT_USER IN DATABASE {connection.info.dbname} SET {setting}"
            )
    database = Database(postgres_url)
    head = database.read(rows.head("s"))
    try:
        found = database.read(nearest.search("s", head, matrix[0], 10, ~(Field("far") != True)))  # noqa: E712
        assert sorted(ids(found)) == sorted(f"d{number}" for number in far)
    finally:
        database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_the_same_with_asyncio(kind: str, request: pytest.FixtureRequest) -> None:
    durable = AsyncDurable(DurableURL(request.getfixturevalue(f"{kind}_url")), 30)
    try:
        matrix = clustered(1000, 8)
        documents = [
            Document(f"d{number}", row, f"word{number} all") for number, row in enumerate(matrix)
        ]
        drafts = drafted(documents, None, "l2", NOW, None)[1]
        change = await durable.execute(Sql(rows.upsert("s", drafts, 8, "l2", NOW), write=True))
        assert await durable.execute(Sql(pgvector.index("s"))) is change.index_due
        head = await durable.execute(Sql(rows.head("s")))
        found = await durable.execute(Sql(nearest.search("s", head, matrix[5], 1)))
        assert ids(found) == ["d5"]
        found = await durable.execute(Sql(nearest.search("s", head, matrix[5], None, now=NOW)))
        assert len(found) == 1000
        found = await durable.execute(Sql(fulltext.search("s", "Word7 nowhere", 5)))
        assert ids(found) == ["d7"]
    finally:
        await durable.close()
