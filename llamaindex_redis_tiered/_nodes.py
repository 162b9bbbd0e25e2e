"""LlamaIndex's nodes as documents of a collection, and back.

A document's metadata are what `SimpleVectorStore` lets filters see of the node: its metadata in
JSON's types, without the keys of `SYSTEM_KEYS` that LlamaIndex keeps for itself, and the system
fields where they are not at their default. The payload is the rest of the node, in the codec of
`redis_tiered.values`: fields at their default are left out, and metadata are in it only where they
are not the document's.

For a document store a node is bytes: all of it, in the same codec.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import numpy as np
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from pydantic_core import to_jsonable_python

from llamaindex_redis_tiered._blocks import READERS, BlockWriter
from redis_tiered.checks import text
from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.values import KINDS, MALFORMED, Refused, is_json, loaded
from redis_tiered.vectors.document import Document as Stored
from redis_tiered.vectors.document import Metric, checked_vector

__all__ = [
    "SYSTEM_DEFAULTS",
    "SYSTEM_KEYS",
    "dumped_metadata",
    "dumped_node",
    "node_from",
    "node_of",
    "source_of",
    "stored_from",
]

# What `node_to_metadata_dict` of LlamaIndex puts over the user's metadata, and the field that
# holds it here; None: filters never see it.
SYSTEM_KEYS: Final[dict[str, str | None]] = {
    "_node_content": None,
    "_node_type": "_node_type",
    "document_id": "ref_doc_id",
    "doc_id": "ref_doc_id",
    "ref_doc_id": "ref_doc_id",
}
SYSTEM_DEFAULTS: Final[dict[str, str]] = {
    "_node_type": TextNode.class_name(),
    "ref_doc_id": "None",  # the str, as in LlamaIndex
}

_KINDS: Final[dict[type[BaseNode], str]] = {
    kind: kind.class_name()
    for kind in (TextNode, ImageNode, IndexNode, Node, Document, ImageDocument)
}
_CLASS: Final = {name: kind for kind, name in _KINDS.items()}
_RESOURCES: Final = tuple(name for name in Node.model_fields if name.endswith("_resource"))
# Kept elsewhere in the document, or written by hand.
_ELSEWHERE: Final = frozenset({"id_", "embedding", "metadata", "text", "obj"})
_FIELDS: Final = {kind: set(kind.model_fields) - _ELSEWHERE for kind in _KINDS}
_NATIVE: Final = frozenset({str, int, bool, type(None)})


def stored_from(
    node: BaseNode, where: str, metric: Metric = "cosine", dims: int | None = None
) -> Stored:
    """A node as a document.

    Args:
        node: with an embedding.
        where: what to call it in an error.
        metric: how its embedding will be compared.
        dims: length of the embedding; None: any.

    Raises:
        InvalidInput: not a node of LlamaIndex, without an embedding, or with something that
            cannot be stored.
    """
    kind = _kind_of(node, where)
    text(f"{where}.id_", node.id_, least=1)
    if node.embedding is None:
        raise InvalidInput(f"{where}.embedding must be a list of floats, got None: embed it first")
    vector = checked_vector(f"{where}.embedding", node.embedding, dims, metric)
    content = text(f"{where}.text", node.get_content(metadata_mode=MetadataMode.NONE))
    parent = source_of(node, where) or ""
    fields = _fields(node, kind, content, where)
    written: dict[str, Any] = {"node": _KINDS[kind], "fields": fields}
    metadata = node.metadata
    if not SYSTEM_KEYS.keys().isdisjoint(metadata) or not all(map(_is_plain, metadata.values())):
        written["metadata"] = metadata
    system = {"_node_type": node.class_name(), "ref_doc_id": parent or "None"}
    seen = {key: _seen(item) for key, item in metadata.items() if key not in SYSTEM_KEYS}
    seen |= {key: item for key, item in system.items() if item != SYSTEM_DEFAULTS[key]}
    payload = _dumped(written, where)
    return Stored(node.id_, vector, content, seen, payload, parent)


def _kind_of(node: object, where: str) -> type[BaseNode]:
    kind = next((kind for kind in type(node).__mro__ if kind in _KINDS), None)
    if kind is None or not isinstance(node, BaseNode):
        raise InvalidInput(
            f"{where} must be one of {sorted(_CLASS)} or derived, got {type(node).__name__}"
        )
    return kind


def source_of(node: BaseNode, where: str) -> str | None:
    """The id of its source; None: it has none.

    Raises:
        InvalidInput: it has several.
    """
    try:
        return node.ref_doc_id or None
    except ValueError as error:
        raise _not_stored(where, error) from None


def _not_stored(where: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"{where} cannot be stored: {error}")


def _fields(node: BaseNode, kind: type[BaseNode], content: str, where: str) -> dict[str, Any]:
    try:
        fields = node.model_dump(include=_FIELDS[kind], exclude_defaults=True, warnings=False)
    except (ValueError, TypeError) as error:  # such as an `obj` that is not JSON
        raise _not_stored(where, error) from None
    for extra in ("class_name", "text"):  # LlamaIndex's serializers add them, and "obj"
        fields.pop(extra, None)
    if fields.get("obj", 0) is None:
        del fields["obj"]
    if isinstance(node, TextNode):
        if node.text != content:
            fields["text"] = node.text
    elif isinstance(node, Node):
        for name in _RESOURCES:
            resource = getattr(node, name)
            if resource is not None and resource.data is not None:
                fields[name]["data"] = resource.data  # LlamaIndex leaves it out of its own dumps
        if (resource := node.text_resource) is not None:
            fields["text_resource"].pop("text", None)
            if resource.text != content:
                fields["text_resource"]["text"] = resource.text
    return fields


def _dumped(written: dict[str, Any], where: str) -> bytes:
    writer = _NodeWriter()
    try:
        return writer.dumped(writer.value(written))
    except Refused as refused:
        # What is outside "fields" are the metadata.
        refused.path = refused.path.removeprefix("['fields']")
        raise refused.invalid(where, KINDS) from None


def _is_plain(value: Any) -> bool:
    return type(value) in _NATIVE or is_json(value)


def _seen(value: Any) -> Any:
    """A value of metadata as filters see it."""
    if type(value) in _NATIVE:
        return value
    try:
        return to_jsonable_python(value, inf_nan_mode="null")
    except (ValueError, TypeError):  # such as bytes that are not UTF-8
        return value


class _NodeWriter(BlockWriter):
    """A writer that knows numbers of numpy and members of enums; they come back as their value."""

    def other(self, value: Any, depth: int) -> Any:
        if isinstance(value, np.generic):
            return self.value(value.item(), depth)
        if isinstance(value, Enum):
            return self.value(value.value, depth)
        return super().other(value, depth)


def node_from(stored: Stored) -> BaseNode:
    """The node that a document was made of, equal, with its embedding if the document has one.

    A node of a class that is not LlamaIndex's own comes back as one of the nearest that is. A
    document that was not made of a node comes back as a `TextNode`.
    """
    try:
        node = _node(stored)
    except (Unreadable, *MALFORMED):
        node = _text_node(stored)
    if stored.vector is not None:
        node.embedding = [float(number) for number in stored.vector]
    return node


def _node(stored: Stored) -> BaseNode:
    written = loaded(stored.payload, READERS)
    metadata = written.get("metadata")
    if metadata is None:
        metadata = {key: item for key, item in stored.metadata.items() if key not in SYSTEM_KEYS}
    return _made(written, stored.id, stored.text, metadata)


def _made(written: dict[str, Any], id: str, content: str, metadata: dict[str, Any]) -> BaseNode:
    kind = _CLASS[written["node"]]
    fields = written["fields"]
    if issubclass(kind, TextNode):
        fields.setdefault("text", content)
    elif "text_resource" in fields:
        fields["text_resource"].setdefault("text", content)
    return kind.from_dict({**fields, "id_": id, "metadata": metadata})


def dumped_node(node: object, where: str) -> bytes:
    """A node as bytes, with its embedding if it has one.

    Raises:
        InvalidInput: not a node of LlamaIndex, or with something that cannot be stored.
    """
    kind = _kind_of(node, where)
    assert isinstance(node, BaseNode)
    content = text(f"{where}.text", node.get_content(metadata_mode=MetadataMode.NONE))
    written: dict[str, Any] = {
        "node": _KINDS[kind],
        "id": text(f"{where}.id_", node.id_, least=1),
        "text": content,
        "fields": _fields(node, kind, content, where),
        "metadata": node.metadata,
    }
    if node.embedding is not None:
        written["embedding"] = node.embedding
    return _dumped(written, where)


def dumped_metadata(metadata: dict[str, Any], where: str) -> bytes:
    """The metadata of nodes as bytes.

    Raises:
        InvalidInput: something in them cannot be stored.
    """
    return _dumped({"metadata": metadata}, where)


def node_of(written: dict[str, Any]) -> BaseNode:
    """The node that `dumped_node` wrote.

    Args:
        written: what was in the bytes.

    Raises:
        Unreadable: it is of a class that is not known here, or has another shape.
    """
    try:
        node = _made(written, written["id"], written["text"], written["metadata"])
        node.embedding = written.get("embedding")
    except MALFORMED:
        raise Unreadable("shape") from None
    return node


def _text_node(stored: Stored) -> TextNode:
    node = TextNode(id_=stored.id, text=stored.text, metadata=dict(stored.metadata))
    if stored.parent:
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=stored.parent)
    return node
