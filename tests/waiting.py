"""Waiting for a condition instead of sleeping for a guess."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["await_until", "wait_until"]

_POLL = 0.002
T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 5, what: str = "the condition") -> T:
    """Poll `condition` until it is true and return its value.

    Raises:
        AssertionError: naming `what`, after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(_POLL)


async def await_until(
    condition: Callable[[], T], timeout: float = 5, what: str = "the condition"
) -> T:
    """`wait_until` for a test that runs in an event loop: the loop keeps running meanwhile."""
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        await asyncio.sleep(_POLL)
