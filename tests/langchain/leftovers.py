"""What tests leave in a server that others use too."""

from __future__ import annotations

import contextlib
from typing import Any

import redis

from tests.servers import redis_options

__all__ = ["forget"]


def forget(search_url: str, namespace: str) -> None:
    """Remove the keys and the search indexes of a namespace."""
    prefix = namespace.encode()
    client: Any = redis.Redis.from_url(search_url, **redis_options())
    with contextlib.closing(client):
        for name in client.execute_command("FT._LIST"):
            if name.startswith(prefix):
                client.execute_command("FT.DROPINDEX", name)
        for key in client.scan_iter(prefix + b"*", count=1000):
            client.unlink(key)
