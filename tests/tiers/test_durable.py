"""L3 on SQLite and PostgreSQL: migrations, atomic units of work, what a bad database means."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pickle
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from redis_tiered.errors import (
    ClosedError,
    ConfigurationError,
    MissingExtra,
    SchemaError,
    TierError,
    TierUnavailable,
)
from redis_tiered.flow import Sql
from redis_tiered.llm_cache import rows
from redis_tiered.maps import rows as map_rows
from redis_tiered.tiers import durable as module
from redis_tiered.tiers import scopes as scope_rows
from redis_tiered.tiers.durable import AsyncDurable, DurableURL, SyncDurable
from redis_tiered.tiers.schema import MIGRATIONS, entries, items, messages, scopes, sessions, tags
from tests.servers import PostgresServer
from tests.waiting import wait_until

Work = Callable[[Any], Any]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> DurableURL:
    return DurableURL(request.getfixturevalue(f"{request.param}_url"))


class Database:
    """Runs units of work blocking or with asyncio; the test sees no difference."""

    def __init__(self, url: DurableURL, kind: str) -> None:
        self.kind = kind
        self._sync = SyncDurable(url, 2.0)
        self._async = AsyncDurable(url, 2.0)
        self._loop = asyncio.new_event_loop()

    def do(self, work: Work, *, write: bool = True) -> Any:
        step = Sql(work, write=write)
        if self.kind == "sync":
            return self._sync.execute(step)
        return self._loop.run_until_complete(self._async.execute(step))

    def close(self) -> None:
        self._sync.close()
        self._loop.run_until_complete(self._async.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


@pytest.fixture(params=["sync", "async"])
def database(url: DurableURL, request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(url, request.param)
    yield database
    database.close()


def row(digest: str = "d", value: bytes = b"v", **changes: Any) -> rows.Row:
    given = {
        "scope": "s",
        "digest": digest,
        "value": value,
        "prompt": b"p",
        "prompt_scope": "ps",
        "created": 1000,
        "expires": None,
        "revision": 100,
        "tokens": 1,
        **changes,
    }
    return rows.Row(**given)


def count(table: Any) -> Work:
    return lambda connection: connection.execute(select(func.count()).select_from(table)).scalar()


# The URL.


@pytest.mark.parametrize(
    "source",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+aiosqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x?mode=memory&cache=shared&uri=true",
        "sqlite:///file:/x?vfs=memdb&uri=true",
    ],
)
def test_a_database_in_memory_is_refused(source: str) -> None:
    with pytest.raises(ConfigurationError, match="in-memory"):
        DurableURL(source)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x",
        "hunter2",
        "mysql://u:hunter2@h/d",
        "postgresql://u:hunter2@h:port/d",
        "sqlite:///a\0b",
        "sqlite:///\ud800",
        "sqlite:///a%00b",
        b"sqlite:///x",
        5,
        None,
        ...,
    ],
    ids=repr,
)
def test_what_cannot_be_used_is_refused_without_repeating_it(source: object) -> None:
    with pytest.raises(ConfigurationError, match="durable") as raised:
        DurableURL(source)
    assert "hunter2" not in str(raised.value)


def test_shown_without_credentials_and_pickled_with_them() -> None:
    url = DurableURL("postgresql://u:hunter2@h:1/d?password=hunter2&sslmode=require")
    assert repr(url) == "DurableURL('postgresql://u:***@h:1/d')"
    again = pickle.loads(pickle.dumps(url))
    assert again == url
    assert hash(again) == hash(url)
    assert again.sync().password == "hunter2"
    assert again != DurableURL("postgresql://u:hunter3@h:1/d?password=hunter2&sslmode=require")


def test_drivers_are_ours_whatever_the_url_says(tmp_path: Path) -> None:
    for text_ in ("postgres://h/d", "postgresql://h/d", "postgresql+asyncpg://h/d"):
        url = DurableURL(text_)
        assert url.sync().drivername == url.aio().drivername == "postgresql+psycopg"
    for text_ in (f"sqlite:///{tmp_path}/x", f"sqlite+aiosqlite:///{tmp_path}/x"):
        url = DurableURL(text_)
        assert url.sync().drivername == "sqlite+pysqlite"
        assert url.aio().drivername == "sqlite+aiosqlite"


async def test_an_engine_is_read_and_left_alone(tmp_path: Path) -> None:
    text_ = f"sqlite:///{tmp_path / 'x.db'}"
    engine = create_engine(text_)
    aio = create_async_engine(text_.replace("sqlite", "sqlite+aiosqlite", 1))
    assert DurableURL(engine) == DurableURL(text_) == DurableURL(engine.url)
    assert DurableURL(aio).sync() == DurableURL(text_).sync()
    assert engine.pool.status() == create_engine(text_).pool.status()


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"redis-tiered\[postgres\]"):
        DurableURL("postgresql://h/d")


# Migrations.


def _migrate(url: DurableURL) -> int:
    durable = SyncDurable(url, 10.0)
    try:
        return int(durable.execute(Sql(count(scopes))))
    finally:
        durable.close()


def test_many_threads_and_processes_migrate_at_once(url: DurableURL) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as processes, ThreadPoolExecutor(4) as threads:
        remote = [processes.apply_async(_migrate, (url,)) for _ in range(2)]
        local = [threads.submit(_migrate, url) for _ in range(4)]
        assert [future.result(60) for future in local] == [0] * 4
        assert [result.get(60) for result in remote] == [0] * 2


async def test_tasks_and_threads_migrate_at_once(url: DurableURL) -> None:
    durable = AsyncDurable(url, 10.0)
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(_migrate, url) for _ in range(2)]
        results = await asyncio.gather(*(durable.execute(Sql(count(scopes))) for _ in range(5)))
        assert results == [0] * 5
        for future in futures:
            await asyncio.wrap_future(future)
    await durable.close()


def _execute(url: DurableURL, statement: str) -> Any:
    """One statement, without migrations; its first value."""
    engine = create_engine(url.sync())
    try:
        with engine.connect() as connection:
            return connection.execute(text(statement)).scalar()
    finally:
        engine.dispose()


def _kind_of(error: pytest.ExceptionInfo[TierError]) -> str:
    assert isinstance(error.value, TierUnavailable)
    assert error.value.tier == "durable"
    return error.value.kind


@pytest.fixture
def prepared(url: DurableURL) -> Iterator[Callable[[str], None]]:
    engine = create_engine(url.sync())

    def run(statement: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(statement))

    yield run
    engine.dispose()


def test_a_newer_schema_is_left_alone(
    url: DurableURL, database: Database, prepared: Callable[[str], None]
) -> None:
    _migrate(url)
    prepared(f"UPDATE redis_tiered_schema SET version = {len(MIGRATIONS) + 1}")
    with pytest.raises(TierError, match="newer") as raised:
        database.do(count(scopes))
    assert _kind_of(raised) == "schema"
    assert isinstance(raised.value.__cause__, SchemaError)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_an_older_schema_is_brought_up_to_date_with_its_rows(
    url: DurableURL,
    database: Database,
    prepared: Callable[[str], None],
    version: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as older:
        older.setattr("redis_tiered.tiers.schema.MIGRATIONS", MIGRATIONS[:version])
        assert _migrate(url) == 0
    old = SyncDurable(url, 2.0)
    with monkeypatch.context() as older:
        older.setattr("redis_tiered.tiers.schema.MIGRATIONS", MIGRATIONS[:version])
        old.execute(Sql(rows.write(row(), "fresh"), write=True))
    old.close()
    assert _execute(url, "SELECT version FROM redis_tiered_schema") == version
    assert database.do(rows.read("s", "d", 0), write=False)[0] == b"v"
    assert database.do(count(sessions), write=False) == 0
    assert database.do(count(messages), write=False) == 0
    assert database.do(scope_rows.epoch("s"), write=False) == "fresh"
    assert _execute(url, "SELECT version FROM redis_tiered_schema") == len(MIGRATIONS)
    assert _migrate(url) == 1  # and again changes nothing


def test_scopes_of_the_version_before_maps_are_brought_up_to_date(
    url: DurableURL,
    database: Database,
    prepared: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That version's own table of scopes: without what counts the changes of a map."""
    with monkeypatch.context() as older:
        older.setattr("redis_tiered.tiers.schema.MIGRATIONS", MIGRATIONS[:4])
        assert _migrate(url) == 0
    prepared("DROP TABLE redis_tiered_scope")
    prepared(
        "CREATE TABLE redis_tiered_scope "
        "(scope TEXT NOT NULL PRIMARY KEY, generation TEXT NOT NULL, epoch TEXT NOT NULL)"
    )
    prepared("INSERT INTO redis_tiered_scope VALUES ('s', 'fresh', 'fresh')")
    old = SyncDurable(url, 2.0)
    with monkeypatch.context() as older:
        older.setattr("redis_tiered.tiers.schema.MIGRATIONS", MIGRATIONS[:4])
        old.execute(Sql(rows.write(row(), "other"), write=True))
    old.close()
    assert database.do(rows.read("s", "d", 0), write=False)[0] == b"v"
    assert _execute(url, "SELECT version FROM redis_tiered_schema") == len(MIGRATIONS)
    assert _execute(url, "SELECT version FROM redis_tiered_scope") == 0
    database.do(rows.write(row("e"), "other"))
    assert database.do(rows.read("s", "e", 0), write=False)[0] == b"v"
    written = database.do(map_rows.write("s", [(b"n", b"v")], [], 0, 5, "other"))
    assert written == (5, 0, "fresh")
    assert database.do(map_rows.read("s", [b"n"], 0), write=False)[b"n"].value == b"v"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE redis_tiered_entry (x INTEGER)",
        "CREATE TABLE redis_tiered_schema (x INTEGER)",
        "CREATE TABLE redis_tiered_schema (version TEXT)",
    ],
)
def test_foreign_tables_are_left_alone(
    database: Database, prepared: Callable[[str], None], statement: str
) -> None:
    prepared(statement)
    for _ in range(2):
        with pytest.raises(TierError, match="did not make") as raised:
            database.do(count(scopes))
        assert _kind_of(raised) == "schema"
    prepared("DROP TABLE " + statement.split()[2])
    assert database.do(count(scopes)) == 0


@pytest.fixture(params=["sync", "async"])
def open_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Path], Any]]:
    opened: list[Database] = []

    def make(path: Path) -> Database:
        opened.append(Database(DurableURL(f"sqlite:///{path}"), request.param))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_a_file_that_is_no_database_is_left_alone(
    open_file: Callable[[Path], Database], tmp_path: Path
) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 400)
    with pytest.raises(TierError) as raised:
        open_file(path).do(count(scopes))
    assert _kind_of(raised) == "schema"
    assert path.read_text() == "Dear reader, " * 400


def test_a_missing_directory_or_a_directory(
    open_file: Callable[[Path], Database], tmp_path: Path
) -> None:
    for path in (tmp_path / "absent" / "x.db", tmp_path):
        with pytest.raises(TierError) as raised:
            open_file(path).do(count(scopes))
        assert _kind_of(raised) == "refused"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_file_that_may_not_be_written(
    open_file: Callable[[Path], Database], tmp_path: Path
) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    read_only = f"sqlite:///file:{path}?mode=ro&uri=true"
    database = Database(DurableURL(read_only), "sync")
    with pytest.raises(TierError) as raised:
        database.do(count(scopes))
    assert _kind_of(raised) in ("readonly", "refused")
    database.close()


def test_a_locked_database(open_file: Callable[[Path], Database], tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    database = open_file(path)
    database._sync._timeout = database._async._timeout = 0.1
    database.do(rows.write(row(), "fresh"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert database.do(rows.read("s", "d", 0), write=False)[0] == b"v"
        with pytest.raises(TierError) as raised:
            database.do(rows.write(row(value=b"w"), "fresh"))
        assert _kind_of(raised) == "locked"
        other.execute("ROLLBACK")
    database.do(rows.write(row(value=b"w"), "fresh"))
    assert database.do(rows.read("s", "d", 0), write=False)[0] == b"w"


def test_a_server_that_is_not_there() -> None:
    durable = SyncDurable(DurableURL("postgresql://u:hunter2@127.0.0.1:1/d"), 0.5)
    with pytest.raises(TierError) as raised:
        durable.execute(Sql(count(scopes)))
    assert _kind_of(raised) == "refused"
    assert "hunter2" not in str(raised.value)


def test_a_password_or_a_database_that_is_wrong(postgres: PostgresServer) -> None:
    base = postgres.url.rpartition("/")[0]
    with pytest.raises(TierError) as raised:
        SyncDurable(DurableURL(f"{base}/nowhere"), 1.0).execute(Sql(count(scopes)))
    assert _kind_of(raised) in ("auth", "refused")


# Units of work.


def test_a_unit_of_work_is_written_whole_or_not_at_all(database: Database) -> None:
    def half(connection: Any) -> None:
        rows.write(row("kept not"), "fresh")(connection)
        connection.execute(text("SELECT nonsense FROM nowhere"))

    with pytest.raises(TierError):
        database.do(half)
    assert database.do(count(entries), write=False) == 0
    assert database.do(count(scopes), write=False) == 0
    database.do(rows.write(row(), "fresh"))
    assert database.do(count(entries), write=False) == 1


def test_errors_quote_no_value(database: Database) -> None:
    with pytest.raises(TierError) as raised:
        database.do(lambda c: c.execute(text("SELECT :secret FROM nowhere"), {"secret": "hunter2"}))
    assert "hunter2" not in f"{raised.value} {raised.value.detail}"


def test_writers_of_many_threads_wait_for_each_other(url: DurableURL) -> None:
    durable = SyncDurable(url, 10.0)

    def write(number: int) -> None:
        durable.execute(Sql(rows.write(row(f"d{number % 5}"), "fresh"), write=True))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(60)))
    assert durable.execute(Sql(count(entries))) == 5
    durable.close()


# The rows of the LLM cache.


def test_read_gives_what_was_written_until_it_expires(database: Database) -> None:
    do = database.do
    assert do(rows.read("s", "d", 0), write=False) is None
    assert do(rows.write(row(value=b"\0v\xff", expires=5000), "fresh")) == 100
    assert do(rows.read("s", "d", 4999), write=False) == (b"\0v\xff", 100, "d")
    assert do(rows.read("s", "d", 5000), write=False) is None
    assert do(rows.write(row(value=b"w", prompt=None), "fresh")) == 101
    assert do(rows.read("s", "d", 10**15), write=False) == (b"w", 101, "d")
    assert do(rows.read("other", "d", 0), write=False) is None


def test_revisions_of_an_entry_grow_whatever_the_clocks_say(database: Database) -> None:
    given = [100, 50, 300, 300, 299, 2**52]
    got = [database.do(rows.write(row(revision=revision), "fresh")) for revision in given]
    assert got == [100, 101, 300, 301, 302, 2**52]
    assert database.do(rows.forget("s", ["d"])) == {"d": 2**52}


@pytest.mark.parametrize("prompt", ["NUL \0 inside", "", "\U0001f600", "x" * 100_000])
def test_any_prompt_can_be_kept(database: Database, prompt: str) -> None:
    database.do(rows.write(row(prompt=prompt.encode()), "fresh"))
    kept = database.do(lambda c: c.execute(select(entries.c.prompt)).scalar(), write=False)
    assert bytes(kept).decode() == prompt


def test_scopes_begin_once(database: Database) -> None:
    do = database.do
    assert do(scope_rows.epoch("s"), write=False) is None
    assert do(scope_rows.ensure("s", "first")) == "first"
    assert do(scope_rows.ensure("s", "second")) == "first"
    assert do(scope_rows.epoch("s"), write=False) == "first"
    do(rows.write(row(scope="t"), "third"))
    assert do(scope_rows.epoch("t"), write=False) == "third"


def test_a_new_epoch_keeps_the_rows_and_a_new_generation_hides_them(database: Database) -> None:
    do = database.do
    do(rows.write(row(), "one"))
    do(rows.write(row(scope="other"), "one"))
    do(scope_rows.new_epoch("s", "two"))
    assert do(scope_rows.epoch("s"), write=False) == "two"
    assert do(rows.read("s", "d", 0), write=False)[0] == b"v"
    do(scope_rows.new_generation("s", "three"))
    assert do(scope_rows.epoch("s"), write=False) == "three"
    assert do(rows.read("s", "d", 0), write=False) is None
    assert do(rows.read("other", "d", 0), write=False)[0] == b"v"
    do(rows.write(row(value=b"new"), "four"))
    assert do(rows.read("s", "d", 0), write=False)[0] == b"new"
    do(scope_rows.new_generation("unknown", "five"))
    assert do(scope_rows.epoch("unknown"), write=False) == "five"


def test_slide_moves_the_end_of_the_very_answer_that_was_read(database: Database) -> None:
    do = database.do
    do(rows.write(row(expires=5000, created=1000), "fresh"))
    do(rows.slide("s", "d", b"later", 1000, 9000))
    assert do(rows.read("s", "d", 8999), write=False)[0] == b"later"
    do(rows.slide("s", "d", b"earlier", 1000, 6000))
    assert do(rows.read("s", "d", 8999), write=False)[0] == b"later"
    do(rows.write(row(value=b"replaced", expires=5000, created=2000), "fresh"))
    do(rows.slide("s", "d", b"later", 1000, 9000))
    assert do(rows.read("s", "d", 4999), write=False)[0] == b"replaced"
    do(rows.slide("s", "absent", b"later", 1000, 9000))
    assert do(count(entries), write=False) == 1


def test_forget_takes_entries_and_their_tags(database: Database) -> None:
    do = database.do
    for digest in ("a", "b", "c"):
        do(rows.write(row(digest, tags=("t", digest)), "fresh"))
    assert do(rows.forget("s", ["a", "b", "absent"])) == {"a": 100, "b": 100}
    assert do(rows.forget("other", ["c"])) == {}
    assert do(count(entries), write=False) == 1
    assert do(lambda c: sorted(c.execute(select(tags.c.tag)).scalars()), write=False) == ["c", "t"]


def test_forget_tag_goes_on_until_nothing_is_left(database: Database) -> None:
    def fill(connection: Any) -> None:
        for number in range(503):
            rows.write(row(f"d{number}", tags=("t",)), "fresh")(connection)
        rows.write(row("other", tags=("u",)), "fresh")(connection)

    database.do(fill)
    batches = []
    while batch := database.do(rows.forget_tag("s", "t")):
        batches.append(len(batch))
    assert batches == [500, 3]
    assert database.do(count(entries), write=False) == 1
    assert database.do(count(tags), write=False) == 1


def test_tags_of_a_replaced_entry_are_its_new_ones(database: Database) -> None:
    do = database.do
    do(rows.write(row(tags=("old", "both")), "fresh"))
    do(rows.write(row(tags=("new", "both")), "fresh"))
    assert do(rows.forget_tag("s", "old")) == {}
    assert do(rows.forget_tag("s", "new")) == {"d": 101}


def test_purge_takes_what_expired_or_was_cleared_and_nothing_else(database: Database) -> None:
    do = database.do
    assert do(rows.purge("s", 0)) == (0, [])
    do(rows.write(row("expired", expires=5000, tags=("t",)), "b"))
    do(rows.write(row("kept", expires=5001, tags=("t",)), "b"))
    do(rows.write(row("for ever", tags=("t",)), "b"))
    do(rows.write(row("elsewhere", scope="other", expires=1), "b"))
    assert do(rows.purge("s", 5000)) == (1, [])
    assert do(rows.purge("s", 5000)) == (0, [])
    for generation in ("a", "c"):  # one that sorts before, one that sorts after
        do(scope_rows.new_generation("s", generation))
        do(rows.write(row(f"of {generation}", tags=("t",)), "x"))
    number, digests = do(rows.purge("s", 5000))
    assert number == 3
    assert sorted(digests) == ["for ever", "kept", "of a"]
    assert do(rows.read("s", "of c", 0), write=False)[0] == b"v"
    assert do(lambda c: list(c.execute(select(tags.c.digest)).scalars()), write=False) == ["of c"]


def test_purge_spares_an_entry_that_is_written_anew_meanwhile(postgres_url: str) -> None:
    """PostgreSQL: a writer holds the row while `purge` waits to delete it."""
    url = DurableURL(postgres_url)
    one, two = SyncDurable(url, 10.0), SyncDurable(url, 10.0)
    one.execute(Sql(rows.write(row(expires=1000, tags=("t",)), "fresh"), write=True))
    wrote, go_on = threading.Event(), threading.Event()

    def rewrite(connection: Any) -> None:
        rows.write(row(value=b"new", expires=9000, tags=("t",)), "fresh")(connection)
        wrote.set()
        assert go_on.wait(10)

    def waits(connection: Any) -> bool:
        return bool(
            connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar()
        )

    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(one.execute, Sql(rewrite, write=True))
        assert wrote.wait(10)
        purge = pool.submit(two.execute, Sql(rows.purge("s", 5000), write=True))
        wait_until(lambda: one.execute(Sql(waits)))
        go_on.set()
        writer.result(10)
        assert purge.result(10) == (0, [])
    assert one.execute(Sql(rows.read("s", "d", 5000)))[0] == b"new"
    assert one.execute(Sql(count(tags))) == 1
    one.close()
    two.close()


def test_a_clear_waits_for_a_write_that_began_before_it(postgres_url: str) -> None:
    """PostgreSQL: no entry of the old generation slips into the new one."""
    url = DurableURL(postgres_url)
    one, two = SyncDurable(url, 10.0), SyncDurable(url, 10.0)
    one.execute(Sql(scope_rows.ensure("s", "old"), write=True))
    wrote, go_on = threading.Event(), threading.Event()

    def write(connection: Any) -> None:
        rows.write(row(), "fresh")(connection)
        wrote.set()
        assert go_on.wait(10)

    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(one.execute, Sql(write, write=True))
        assert wrote.wait(10)
        clear = pool.submit(two.execute, Sql(scope_rows.new_generation("s", "new"), write=True))
        with pytest.raises(TimeoutError):
            clear.result(0.1)
        go_on.set()
        writer.result(10)
        clear.result(10)
    assert one.execute(Sql(rows.read("s", "d", 0))) is None
    one.close()
    two.close()


# Maps.


def test_revisions_of_a_map_grow_whatever_the_clocks_say(database: Database) -> None:
    def write(now: int) -> int:
        return int(database.do(map_rows.write("m", [(b"n", b"v")], [], 0, now, "f")).revision)

    assert [write(now) for now in (100, 50, 101, 102, 900, 900)] == [100, 101, 102, 103, 900, 901]
    database.do(scope_rows.new_generation("m", "g"))
    assert write(1) == 902


def test_rows_of_a_map(database: Database) -> None:
    def write(put: dict[bytes, bytes], remove: list[bytes] | None = None, **given: int) -> Any:
        return database.do(
            map_rows.write(
                "m", list(put.items()), remove or [], given.get("expires", 0), 1000, "fresh"
            )
        )

    names = [f"{i:04}".encode() for i in range(2100)]
    assert write(dict.fromkeys(names, b"v")).epoch == "fresh"
    write({b"ends": b"e"}, expires=5000)
    read = database.do(map_rows.read("m", [*names, b"ends", b"no"], 4999), write=False)
    assert len(read) == 2101
    assert database.do(map_rows.read("other", names, 0), write=False) == {}
    assert b"ends" not in database.do(map_rows.read("m", [b"ends"], 5000), write=False)
    page = database.do(map_rows.page("m", b"00", b"01", b"0097", 9, 0), write=False)
    assert [found.name for found in page] == [b"0098", b"0099"]
    assert write({}, [b"0000", b"0001", b"no", b"0000"]).deleted == 2
    assert database.do(map_rows.purge("m", 6_000)) == (1, [])
    database.do(scope_rows.new_generation("m", "other"))
    assert write({b"0002": b"new"}, [b"0003"]).deleted == 0
    gone = []
    while (purged := database.do(map_rows.purge("m", 0)))[0]:
        gone += purged[1]
    assert sorted(gone) == [*names[3:]]
    assert database.do(count(items)) == 1
    assert database.do(map_rows.purge("nobody", 0)) == (0, [])


def test_first_writers_and_clearers_of_a_map_do_not_wait_for_each_other(postgres_url: str) -> None:
    """PostgreSQL: two who hold a row in common, and then both change it, are a deadlock."""
    url = DurableURL(postgres_url)
    made = [SyncDurable(url, 10.0) for _ in range(6)]
    made[0].execute(Sql(count(scopes)))
    failures: list[BaseException] = []
    everybody = threading.Barrier(len(made))

    def use(number: int, one: SyncDurable) -> None:
        try:
            for i in range(12):
                everybody.wait(10)
                put = [(b"%d" % ((number + j) % 5), b"v") for j in range(5)]
                if number % 2 and i % 3 == 2:
                    one.execute(Sql(scope_rows.new_generation(f"m{i}", f"{number}"), write=True))
                one.execute(Sql(map_rows.write(f"m{i}", put, [b"9"], 1, 1, "f"), write=True))
                one.execute(Sql(map_rows.purge(f"m{i}", 5), write=True))
        except BaseException as error:
            failures.append(error)
            everybody.abort()

    threads = [threading.Thread(target=use, args=each) for each in enumerate(made)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert made[0].execute(Sql(count(items))) == 0
    for one in made:
        one.close()


# Life.


def test_closed_is_closed(database: Database) -> None:
    database.do(rows.write(row(), "fresh"))
    for _ in range(2):
        database._sync.close()
        database._loop.run_until_complete(database._async.close())
    with pytest.raises(ClosedError):
        database.do(rows.read("s", "d", 0))


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("40001", "serialization"),
        ("40P01", "serialization"),
        ("57014", "timeout"),
        ("55P03", "timeout"),
        ("57P03", "loading"),
        ("28P01", "auth"),
        ("3D000", "auth"),
        ("53100", "full"),
        ("25006", "readonly"),
        ("57P01", "reset"),
        ("08006", "reset"),
        ("42P01", "reply"),
        ("23505", "reply"),
    ],
)
def test_states_of_postgres(state: str, kind: str) -> None:
    class Refused(Exception):
        sqlstate = state

    assert module._failure(Refused("hunter2")).kind == kind
    assert "hunter2" not in str(module._failure(Refused("hunter2")))
