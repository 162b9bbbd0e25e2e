"""LangChain's `Document` among the values that are stored."""

from __future__ import annotations

from typing import Any, Final

from langchain_core.documents import Document

from redis_tiered import values
from redis_tiered.errors import Unreadable
from redis_tiered.values import Reader, Refused, Writer

__all__ = ["KINDS", "READERS", "DocumentWriter"]

KINDS: Final = f"{values.KINDS} and Document"
_FIELDS: Final = {"id", "metadata", "page_content", "type"}


class DocumentWriter(Writer):
    """A writer that knows `Document` as well."""

    def other(self, value: Any, depth: int) -> Any:
        if type(value) is not Document:
            return NotImplemented
        state = value.__dict__
        names = value.__pydantic_fields_set__
        if (
            state.keys() != _FIELDS
            or state["type"] != "Document"
            or type(state["page_content"]) is not str
            or type(state["metadata"]) is not dict
            or not (state["id"] is None or type(state["id"]) is str)
            or value.__pydantic_extra__
            or value.__pydantic_private__
            or not names <= _FIELDS
        ):
            raise Refused("Document: not as constructed")
        written = {}
        for name in ("page_content", "metadata", "id"):
            try:
                written[name] = self.value(state[name], depth + 2)
            except Refused as refused:
                refused.path = f".{name}{refused.path}"
                raise
        return {"\0document": [*written.values(), " ".join(sorted(names))]}


def _document(written: Any) -> Document:
    text, metadata, id_, names = written
    if type(text) is not str or type(metadata) is not dict or type(names) is not str:
        raise Unreadable("type")
    if not (id_ is None or type(id_) is str):
        raise Unreadable("type")
    document = Document(text, id=id_, metadata=metadata)
    if not (fields := set(names.split())) <= _FIELDS:
        raise Unreadable("fields")
    document.__pydantic_fields_set__.clear()
    document.__pydantic_fields_set__.update(fields)
    return document


READERS: Final[dict[str, Reader]] = values.READERS | {"\0document": _document}
