"""Values that are bytes before a map gets them, with errors that say where they stood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import BaseModel

from llamaindex_redis_tiered._blocks import READERS, BlockWriter
from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.maps.map import Data
from redis_tiered.values import KINDS, Refused, loaded

__all__ = ["Written", "dict_from", "dumped_dict"]


class Written:
    """The codec of a map that is given bytes, and gives back what they say.

    Args:
        read: what they say; it raises Unreadable for what it cannot tell.
    """

    def __init__(self, read: Callable[[Data], Any]) -> None:
        self._read = read

    def dumped(self, where: str, value: bytes) -> bytes:
        return value

    def loaded(self, data: Data) -> Any:
        return self._read(data)


class _ValueWriter(BlockWriter):
    """A writer that knows what comes back equal: numbers of numpy, members of enums that are texts,
    and URLs, as well."""

    def other(self, value: Any, depth: int) -> Any:
        if isinstance(value, np.generic):
            return self.value(value.item(), depth)
        if isinstance(value, BaseModel):
            return NotImplemented  # it would come back as a dict
        return super().other(value, depth)


def dumped_dict(where: str, value: object) -> bytes:
    """A dict as bytes.

    Raises:
        InvalidInput: something else, or something in it would not come back equal.
    """
    if type(value) is not dict:
        raise InvalidInput(f"{where} must be a dict, got {type(value).__name__}")
    writer = _ValueWriter()
    try:
        return writer.dumped(writer.value(value))
    except Refused as refused:
        raise refused.invalid(where, f"{KINDS} and URLs") from None


def dict_from(data: Data) -> dict[str, Any]:
    """What `dumped_dict` wrote."""
    value = loaded(data, READERS)
    if type(value) is not dict:
        raise Unreadable("shape")
    return value
