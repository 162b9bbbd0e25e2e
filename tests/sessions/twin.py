"""A session as the tests use it: blocking or with asyncio, the test sees no difference."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any, NamedTuple

import redis

from redis_tiered import Message, Session, Tiers, ToolCall, Window
from redis_tiered.sessions.sessions import Page
from tests.servers import redis_options

__all__ = ["Bench", "Named", "Twin", "calls", "conversation", "raw", "talk", "texts"]

_tenants = itertools.count()


class Bench:
    """Sessions of one fresh tenant, of one durability, called one way.

    Attributes:
        kind: `"sync"` or `"async"`.
        lists: whether `tiers.sessions.list` shows these sessions.
    """

    def __init__(
        self, tiers: Tiers, url: str, durability: Any, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        self.tiers = tiers.tenant(f"t{next(_tenants)}")
        self.url = url
        self.durability = durability
        self.loop = loop
        self.kind = "sync" if loop is None else "async"
        self.lists = durability != "none" or tiers.durable is None

    def session(self, id: str = "s", *, tiers: Tiers | None = None, **options: Any) -> Twin:
        options = {
            "durability": self.durability,
            "token_counter": "approximate",
            **options,
        }
        return Twin((tiers or self.tiers).session(id, **options), self.loop)

    def list(self, **options: Any) -> Page:
        if self.loop is None:
            return self.tiers.sessions.list(**options)
        return self.loop.run_until_complete(self.tiers.sessions.alist(**options))

    def drain(self) -> int:
        if self.loop is None:
            return self.tiers.sessions.drain()
        return self.loop.run_until_complete(self.tiers.sessions.adrain())

    def ttls(self) -> dict[bytes, int]:
        """Every key of this tenant and its milliseconds to live; -1: for ever."""
        with raw(self.url) as client:
            pattern = f"*:{self.tiers.keys.tenant}:*"
            keys = list(client.scan_iter(match=pattern, count=1000))
            found = {key: int(client.pttl(key)) for key in keys}
        return {key: left for key, left in found.items() if left != -2}  # gone meanwhile

    def stored_keys(self) -> set[bytes]:
        """Every key of this tenant in Redis."""
        return set(self.ttls())

    def forget_windows(self) -> None:
        """Redis evicts all that it holds of this tenant but what waits to be written."""
        with raw(self.url) as client:
            for key in self.stored_keys():
                if not key.endswith((b":queue", b":rejected")):
                    client.delete(key)


class Twin:
    """Calls either twin of a method by the name of the blocking one."""

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop | None) -> None:
        self.session = session
        self.loop = loop

    def __getattr__(self, name: str) -> Any:
        loop = self.loop
        if loop is None:
            return getattr(self.session, name)
        method = getattr(self.session, "a" + name)
        return lambda *args, **kwargs: loop.run_until_complete(method(*args, **kwargs))

    def say(self, *said: str) -> None:
        """Append one human message after another."""
        self.append([Message("human", text) for text in said])


def raw(url: str) -> contextlib.closing[Any]:
    """A client of our own to look at, and spoil, what is in Redis."""
    if "cluster" in url:
        host, _, port = url.split("//")[1].split(",")[0].partition(":")
        client: Any = redis.RedisCluster(host=host, port=int(port), socket_timeout=5)
    else:
        client = redis.Redis.from_url(url, **redis_options())
    return contextlib.closing(client)


def texts(found: Window | tuple[Any, ...]) -> list[str]:
    messages = found.messages if isinstance(found, Window) else found
    return [item.message.text for item in messages]


def talk(count: int, *, first: int = 0) -> list[Message]:
    """Turns of a question and an answer: `q0 a0 q1 a1 ...`."""
    return [
        Message(role, f"{letter}{i}")
        for i in range(first, first + count)
        for role, letter in (("human", "q"), ("ai", "a"))
    ]


def calls(i: int) -> list[Message]:
    """A turn with two calls of tools and their results."""
    return [
        Message("human", f"q{i}"),
        Message("ai", f"c{i}", tool_calls=(ToolCall(f"{i}x", "f", {}), ToolCall(f"{i}y", "g", {}))),
        Message("tool", f"x{i}", tool_call_id=f"{i}x"),
        Message("tool", f"y{i}", tool_call_id=f"{i}y"),
        Message("ai", f"a{i}"),
    ]


def conversation(turns: int) -> list[Message]:
    return [Message("system", "be kind"), *talk(turns)]


class Named(NamedTuple):
    """A token counter: so many tokens per character."""

    name: str = "letters"
    each: int = 1

    def count(self, message: Message) -> int:
        return self.each * len(message.text)
