"""L1 stays empty, and everything else works, where the server does not announce changes."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest

from redis_tiered import LLMCache, Tiers
from redis_tiered.llm_cache.fingerprint import Request
from tests.servers import RedisServer
from tests.waiting import wait_until

REQUEST = Request(b"p", b"c", "question")


def test_a_server_that_refuses_tracking_is_used_without_l1(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        RedisServer(directory=tmp_path) as server,
        caplog.at_level(logging.WARNING, "redis_tiered"),
        Tiers(server.url) as tiers,
    ):
        with contextlib.closing(server.client()) as admin:
            admin.execute_command("ACL", "SETUSER", "default", "-client|tracking")
        cache = LLMCache(tiers)
        assert cache.lookup(REQUEST) is None
        cache.update(REQUEST, b"answer")
        wait_until(lambda: "CLIENT TRACKING" in caplog.text, what="the warning")
        for _ in range(3):
            found = cache.lookup(REQUEST)
            assert found is not None
            assert found.tier == "redis"
        assert len(tiers.memory) == 0
    assert caplog.text.count("CLIENT TRACKING") == 1


def test_what_this_process_writes_leaves_its_own_l1(valkey: RedisServer) -> None:
    with Tiers(valkey.url) as tiers:
        tiers.setup()
        cache = LLMCache(tiers)
        cache.update(REQUEST, b"old")
        wait_until(lambda: (f := cache.lookup(REQUEST)) and f.tier == "memory", what="an L1 hit")
        cache.update(REQUEST, b"new")
        found = cache.lookup(REQUEST)
        assert found is not None
        assert found.payload == b"new"
