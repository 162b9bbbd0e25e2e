"""LlamaIndex's content blocks, and values around them, as JSON and back.

A block is `[block_type, fields]`, fields at their default left out. A block type is looked up in a
table of the classes and of what each of their fields may hold, checked on both ways. Core's own
serializers are not used: pydantic 2.14 breaks some, and validators on the way back look for the
file of a path and encode bytes once more.
"""

from __future__ import annotations

from collections.abc import Callable
from io import IOBase
from pathlib import Path
from types import NoneType
from typing import Any, Final

import pydantic
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from pydantic import BaseModel

from redis_tiered import values
from redis_tiered.errors import Unreadable
from redis_tiered.values import CarefulWriter, Reader, Refused

__all__ = ["KINDS", "MEDIA", "READERS", "BlockWriter", "block_from", "new", "settled"]

KINDS: Final = f"{values.KINDS}, pydantic models, URLs and blocks"

Check = Callable[[Any], bool]
Model = type[BaseModel]

# Before pydantic 2.10 some of them were not classes.
_URLS: Final = {
    kind.__name__: kind
    for name in ("AnyUrl", "AnyHttpUrl", "HttpUrl", "FileUrl", "FtpUrl", "WebsocketUrl")
    if isinstance(kind := getattr(pydantic, name), type)
}


def _of(*kinds: type) -> Check:
    return lambda value: type(value) in kinds


def _all_of(*kinds: type) -> Check:
    return lambda value: type(value) is list and all(type(item) in kinds for item in value)


def _is_path(value: Any) -> bool:
    return value is None or isinstance(value, Path)


def _is_path_or_text(value: Any) -> bool:
    return type(value) is str or _is_path(value)


def _are_locations(value: Any) -> bool:
    return type(value) is dict and all(
        type(key) is str and type(item) is int for key, item in value.items()
    )


_TEXT: Final = _of(str)
_TEXT_OR_NONE: Final = _of(str, NoneType)
_NUMBER_OR_NONE: Final = _of(int, NoneType)
_DATA: Final = _of(bytes, NoneType)
_URL: Final = _of(str, NoneType, *_URLS.values())
_FIELDS: Final[dict[Model, dict[str, Check]]] = {
    TextBlock: {"text": _TEXT},
    ImageBlock: {
        "image": _DATA,
        "path": _is_path,
        "url": _URL,
        "image_mimetype": _TEXT_OR_NONE,
        "detail": _TEXT_OR_NONE,
    },
    AudioBlock: {"audio": _DATA, "path": _is_path, "url": _URL, "format": _TEXT_OR_NONE},
    VideoBlock: {
        "video": _DATA,
        "path": _is_path,
        "url": _URL,
        "video_mimetype": _TEXT_OR_NONE,
        "detail": _TEXT_OR_NONE,
        "fps": _NUMBER_OR_NONE,
    },
    DocumentBlock: {
        "data": _DATA,
        "path": _is_path_or_text,
        "url": _TEXT_OR_NONE,
        "title": _TEXT_OR_NONE,
        "document_mimetype": _TEXT_OR_NONE,
    },
    CacheControl: {"type": _TEXT, "ttl": _TEXT},
    CachePoint: {"cache_control": _of(CacheControl)},
    CitableBlock: {
        "title": _TEXT,
        "source": _TEXT,
        "content": _all_of(TextBlock, ImageBlock, DocumentBlock),
    },
    CitationBlock: {
        "cited_content": _of(TextBlock, ImageBlock),
        "source": _TEXT,
        "title": _TEXT,
        "additional_location_info": _are_locations,
    },
    ThinkingBlock: {
        "content": _TEXT_OR_NONE,
        "num_tokens": _NUMBER_OR_NONE,
        "additional_information": _of(dict),
    },
    ToolCallBlock: {
        "tool_call_id": _TEXT_OR_NONE,
        "tool_name": _TEXT,
        "tool_kwargs": _of(dict, str),
    },
}
_TAG: Final[dict[Model, str]] = {
    kind: "cache_control" if kind is CacheControl else kind.model_fields["block_type"].default
    for kind in _FIELDS
}
_ABSENT: Final = object()
_DEFAULTS: Final[dict[Model, dict[str, Any]]] = {
    kind: {
        name: _ABSENT if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
    }
    for kind in _FIELDS
}
_CLASS: Final = {tag: kind for kind, tag in _TAG.items()}
_ACCEPTED: Final = ", ".join(kind.__name__ for kind in _FIELDS if kind is not CacheControl)
_SOURCE: Final[dict[Model, str]] = {
    ImageBlock: "image",
    AudioBlock: "audio",
    VideoBlock: "video",
    DocumentBlock: "data",
}
MEDIA: Final[dict[Model, str]] = {
    ImageBlock: "image",
    AudioBlock: "audio",
    VideoBlock: "video",
    DocumentBlock: "document",
}


def new(kind: Any, **fields: Any) -> Any:
    """An object of a pydantic class, without its validators."""
    return kind.model_construct(**fields)


def settled(block: Any) -> Any:
    """The block, or one like it with bytes where it has an open file.

    A file is read from its start to its end and left where it was.

    Raises:
        Refused: not a block of LlamaIndex's own classes, or a file that cannot be read so.
    """
    kind = type(block)
    if kind not in _FIELDS or kind is CacheControl:
        raise Refused(kind.__name__, accepted=f"one of {_ACCEPTED}")
    source = _SOURCE.get(kind)
    if source is None or not isinstance(file := block.__dict__.get(source), IOBase):
        return block
    data = _whole(file, f".{source}")
    try:
        return kind(**{**block.__dict__, source: data})
    except ValueError as error:
        raise Refused(str(error), f".{source}", f"what {kind.__name__} can hold") from None


def _whole(file: Any, path: str) -> bytes:
    try:
        place = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(place)
    except (OSError, ValueError) as error:  # closed, not seekable, not readable
        raise Refused(
            f"one that cannot: {error}", path, "bytes or a file that can be read"
        ) from None
    if type(data) is not bytes:
        raise Refused("a file of text", path, "bytes or a binary file")
    return data


class BlockWriter(CarefulWriter):
    """A writer that knows blocks, and what stands around them, as well."""

    def block(self, block: Any, depth: int = 0) -> list[Any]:
        """A settled block as `block_from` reads it.

        Raises:
            Refused: a field does not hold what its class declares.
        """
        kind: Model = type(block)
        fields, state, defaults = {}, block.__dict__, _DEFAULTS[kind]
        for name, holds in _FIELDS[kind].items():
            value = state.get(name)
            try:
                if not holds(value):
                    raise Refused(type(value).__name__, accepted=f"what {kind.__name__} declares")
                if value != defaults[name]:
                    fields[name] = self.value(value, depth + 2)
            except Refused as refused:
                refused.path = f".{name}{refused.path}"
                raise
        return [_TAG[kind], fields]

    def other(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _URLS.values():
            return {"\0url": [kind.__name__, self.value(str(value), depth)]}
        if kind in _FIELDS:
            block = value if kind is CacheControl else settled(value)
            return {"\0block": self.block(block, depth + 1)}
        if isinstance(value, BaseModel):
            try:
                dump = value.model_dump(warnings=False)
            except (ValueError, TypeError, AttributeError) as error:
                raise Refused(
                    f"{kind.__name__}: {error}", accepted="a model that can be dumped"
                ) from None
            return self.value(dump, depth)
        if isinstance(value, str):
            # Such as a member of an enum: it equals its text.
            return self.value(str.__str__(value), depth)
        return NotImplemented


def block_from(written: Any) -> Any:
    """Make what `BlockWriter.block` wrote, its values already read.

    Raises:
        Unreadable: a field is missing or holds what its class does not declare.
    """
    tag, given = written
    kind = _CLASS.get(tag)
    if kind is None or type(given) is not dict:
        raise Unreadable("shape")
    fields = {}
    for name, holds in _FIELDS[kind].items():
        if name in given:
            fields[name] = given[name]
            if not holds(fields[name]):
                raise Unreadable("shape")
        elif _DEFAULTS[kind][name] is _ABSENT:
            raise Unreadable("shape")
    return new(kind, **fields)


def _url_from(written: Any) -> Any:
    name, text = written
    return _URLS[name](text)


READERS: Final[dict[str, Reader]] = values.READERS | {"\0url": _url_from, "\0block": block_from}
