"""Sessions over every Redis, every durable tier, every durability, sync and async.

Servers, connections and databases are shared by a whole module; each test has a tenant of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from redis_tiered import Tiers
from tests.servers import PostgresDatabases
from tests.sessions.twin import Bench

_PLACES = [
    ("none", "none"),
    ("sqlite", "through"),
    ("sqlite", "behind"),
    ("postgres", "through"),
    ("postgres", "behind"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On the cluster each place in one kind: both run the same steps, on every other Redis twice."""

    def wanted(item: pytest.Item) -> bool:
        given = item.callspec.params if "bench" in getattr(item, "fixturenames", ()) else {}
        if given.get("redis_url") != "cluster":
            return True
        return given["kind"] == ("sync", "async")[_PLACES.index(given["place"]) % 2]

    items[:] = filter(wanted, items)


@pytest.fixture(scope="module")
def databases(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str | None]]:
    """The URL of a durable tier by its name, the same for a whole module."""
    urls: dict[str, str | None] = {"none": None}
    made: list[tuple[PostgresDatabases, str]] = []

    def get(name: str) -> str | None:
        if name not in urls and name == "sqlite":
            urls[name] = f"sqlite:///{tmp_path_factory.mktemp('sessions') / 'durable.db'}"
        elif name not in urls:
            given = os.environ.get("REDIS_TIERED_TEST_POSTGRES_URL")
            server: PostgresDatabases = (
                PostgresDatabases(given) if given else request.getfixturevalue("_postgres")
            )
            urls[name] = server.create_database()
            made.append((server, str(urls[name])))
        return urls[name]

    yield get
    for server, url in made:
        server.drop_database(url)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="module")
def open_tiers(
    databases: Callable[[str], str | None], loop: asyncio.AbstractEventLoop
) -> Iterator[Callable[[str, str], Tiers]]:
    """Tiers on a Redis and a durable tier, the same for a whole module."""
    opened: dict[tuple[str, str], Tiers] = {}

    def get(url: str, durable: str) -> Tiers:
        if (url, durable) not in opened:
            opened[url, durable] = Tiers(
                url, databases(durable), l1_max_bytes=0, redis_timeout=5, durable_timeout=10
            )
        return opened[url, durable]

    yield get
    for tiers in opened.values():
        loop.run_until_complete(tiers.aclose())


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=_PLACES, ids=["-".join(place) for place in _PLACES])
def place(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A durable tier and a durability that it allows."""
    found: tuple[str, Any] = request.param
    return found


@pytest.fixture
def bench(
    redis_url: str,
    place: tuple[str, Any],
    kind: str,
    loop: asyncio.AbstractEventLoop,
    open_tiers: Callable[[str, str], Tiers],
) -> Bench:
    """Every way to have sessions."""
    durable, durability = place
    tiers = open_tiers(redis_url, durable)
    return Bench(tiers, redis_url, durability, loop if kind == "async" else None)


@pytest.fixture(params=["through", "behind", "none"])
def small(
    request: pytest.FixtureRequest,
    valkey: Any,
    kind: str,
    loop: asyncio.AbstractEventLoop,
    open_tiers: Callable[[str, str], Tiers],
) -> Bench:
    """One Redis and one durable tier, for what does not depend on them."""
    tiers = open_tiers(valkey.url, "sqlite" if request.param != "none" else "none")
    return Bench(tiers, valkey.url, request.param, loop if kind == "async" else None)
