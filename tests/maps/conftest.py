"""Maps over real servers, called blocking and in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import pytest

from tests.maps.twin import Bench


@pytest.fixture(params=["sync", "async"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop | None]:
    if request.param == "sync":
        yield None
        return
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture
def bench(urls: tuple[str, str | None], request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Over every Redis and durable tier, by turns blocking and with asyncio."""
    turn = request.node.callspec.indices["urls"] + crc32(request.node.originalname.encode())
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(asyncio.Runner()).get_loop() if turn % 2 else None
        yield stack.enter_context(Bench(*urls, loop))


@pytest.fixture
def one(valkey: Any, sqlite_url: str, loop: asyncio.AbstractEventLoop | None) -> Iterator[Bench]:
    """Over Valkey and SQLite alone."""
    with Bench(valkey.url, sqlite_url, loop) as bench:
        yield bench
