"""Nodes as documents, and back."""

from __future__ import annotations

import datetime
import enum
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)

from llamaindex_redis_tiered._nodes import SYSTEM_KEYS, node_from, stored_from
from redis_tiered.errors import InvalidInput
from redis_tiered.vectors.document import Document as Stored
from redis_tiered.vectors.document import drafted, loaded_metadata
from tests import values

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def kept(node: BaseNode) -> Stored:
    """What a collection gives back of it."""
    stored = stored_from(node, "nodes[0]")
    [id], [draft] = drafted([stored], None, "ip", 0, None)
    assert id == node.node_id
    return Stored(
        draft.id.decode(),
        None,
        draft.text.decode(),
        loaded_metadata(draft.metadata),
        draft.payload,
        draft.parent.decode(),
    )


def back(node: BaseNode) -> BaseNode:
    return node_from(kept(node))


def bare(node: BaseNode) -> BaseNode:
    return node.model_copy(update={"embedding": None})


def assert_same(node: BaseNode) -> None:
    found = back(node)
    assert type(found) is type(node)
    assert found == bare(node)
    assert found.hash == node.hash
    assert list(found.metadata) == list(node.metadata)
    assert values.state(found.metadata) == values.state(node.metadata)
    assert found.get_content() == node.get_content()


names = values.words.filter(bool) | st.sampled_from(sorted(SYSTEM_KEYS))
metadata = st.dictionaries(names, values.values, max_size=4)
related = st.builds(
    RelatedNodeInfo,
    node_id=st.text(min_size=1, max_size=4),
    node_type=st.none() | st.sampled_from(ObjectType) | st.just("own"),
    metadata=metadata,
    hash=st.none() | st.just("h"),
)
relationships = st.fixed_dictionaries(
    {},
    optional={
        NodeRelationship.SOURCE: related,
        NodeRelationship.PREVIOUS: related,
        NodeRelationship.NEXT: related,
        NodeRelationship.PARENT: related,
        NodeRelationship.CHILD: st.lists(related, max_size=2),
    },
)
common = {
    "id_": st.text(min_size=1, max_size=8),
    "embedding": st.just([0.5, 1.0]),
    "metadata": metadata,
    "relationships": relationships,
    "excluded_embed_metadata_keys": st.lists(values.words, max_size=2),
    "excluded_llm_metadata_keys": st.lists(values.words, max_size=2),
    "metadata_template": st.sampled_from(["{key}: {value}", "{key}={value}", ""]),
    "metadata_separator": st.sampled_from(["\n", "; "]),
    "text_template": st.sampled_from(["{metadata_str}\n\n{content}", "{content}"]),
}
text = {
    "text": values.words,
    "mimetype": st.sampled_from(["text/plain", "text/html"]),
    "start_char_idx": st.none() | st.integers(0, 9),
    "end_char_idx": st.none() | st.integers(0, 9),
}
image = {
    "image": st.none() | st.just(PIXEL),
    "image_path": st.none() | st.sampled_from(["a.png", "/b/c", ""]),
    "image_url": st.none() | st.just("https://example.org/a.png"),
    "image_mimetype": st.none() | st.just("image/webp"),
    "text_embedding": st.none() | st.just([0.25]),
}
resources = st.none() | st.builds(
    MediaResource,
    data=st.none() | st.sampled_from([b"", b"\xff\0", PIXEL.encode()]),
    text=st.none() | values.words,
    path=st.none() | st.just("a.png"),
    url=st.none() | st.just("https://example.org/ü?a=1"),
    mimetype=st.none() | st.just("image/webp"),
    embeddings=st.none() | st.just({"dense": [0.5], "sparse": [1.0]}),
)
several = {f"{name}_resource": resources for name in ("text", "image", "audio", "video")}
nodes = st.one_of(
    st.builds(TextNode, **common, **text),
    st.builds(ImageNode, **common, **text, **image),
    st.builds(IndexNode, **common, **text, index_id=values.words),
    st.builds(Node, **common, **several),
    st.builds(Document, **common, **several),
    st.builds(Document, **common, text=values.words),
)


@given(nodes)
def test_nodes_come_back_equal(node: BaseNode) -> None:
    assert_same(node)


@given(nodes)
def test_a_document_says_what_others_look_at(node: BaseNode) -> None:
    stored = kept(node)
    assert stored.text == node.get_content()
    assert stored.parent == (node.ref_doc_id or "")
    assert stored.metadata.get("ref_doc_id", "None") == (node.ref_doc_id or "None")
    assert stored.metadata.get("_node_type", "TextNode") == node.class_name()
    assert stored.metadata.keys() - SYSTEM_KEYS.keys() == node.metadata.keys() - SYSTEM_KEYS.keys()


def test_nothing_is_stored_twice() -> None:
    node = TextNode(text="all of it", metadata={"title": "a title"}, embedding=[0.123456789])
    stored = stored_from(node, "node")
    for word in (b"all of it", b"a title", b"0.1234", node.node_id.encode()):
        assert word not in stored.payload
    assert len(stored.payload) < 50
    document = Document(text="all of it", embedding=[1.0])
    assert b"all of it" not in stored_from(document, "node").payload


def test_the_embedding_comes_back_if_it_is_asked_for() -> None:
    node = TextNode(text="a", embedding=[0.5, 0.25])
    stored = replace(kept(node), vector=np.array([0.5, 0.25], np.float32))
    assert node_from(stored) == node
    assert type(node_from(stored).get_embedding()[0]) is float


def test_a_node_shares_nothing_with_its_document() -> None:
    node = TextNode(text="a", embedding=[1.0], metadata={"tags": ["x"]})
    stored = stored_from(node, "node")
    found = node_from(kept(node))
    found.metadata["tags"].append("y")
    found.metadata["more"] = 1
    assert stored.metadata == {"tags": ["x"]}


class Colour(enum.Enum):
    RED = "red"


class Name(str):
    pass


def test_values_that_come_back_as_plain_ones() -> None:
    given = {
        "real": np.float32(0.5),
        "whole": np.int64(3),
        "colour": Colour.RED,
        "name": Name("n"),
        "info": RelatedNodeInfo(node_id="1"),
    }
    found = back(TextNode(text="a", embedding=[1.0], metadata=given)).metadata
    assert values.state({name: found[name] for name in ("real", "whole", "colour", "name")}) == (
        values.state({"real": 0.5, "whole": 3, "colour": "red", "name": "n"})
    )
    assert found["info"]["node_id"] == "1"


def test_filters_see_what_json_makes_of_a_value() -> None:
    given = {
        "when": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        "pair": (1, "a"),
        "odd": float("inf"),
        "bytes": b"\xff",
        "doc_id": "own",
    }
    node = TextNode(text="a", embedding=[1.0], metadata=given)
    assert kept(node).metadata == {
        "when": "2024-01-02T00:00:00Z",
        "pair": [1, "a"],
        "odd": None,
        "bytes": b"\xff",
    }
    assert_same(node)


# The objects of index nodes.


def index_node(obj: Any) -> IndexNode:
    return IndexNode(text="a", index_id="i", embedding=[1.0], obj=obj)


@pytest.mark.parametrize(
    "obj", [TextNode(text="inner", metadata={"a": 1}), Document(text="inner", id_="d")]
)
def test_a_node_in_an_index_node_comes_back(obj: BaseNode) -> None:
    assert_same(index_node(obj))


def test_other_objects_come_back_as_llamaindex_has_it() -> None:
    node = index_node({"a": [1]})
    theirs = IndexNode.from_json(node.to_json()).obj
    ours = back(node)
    assert isinstance(ours, IndexNode)
    assert ours.obj.text == theirs.text == '{"a": [1]}'


def test_an_object_that_is_not_json_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"nodes\[0\] cannot be stored: .*obj"):
        stored_from(index_node(object()), "nodes[0]")


# Other classes.


class OwnText(TextNode):
    rank: int = 0

    @classmethod
    def class_name(cls) -> str:
        return "OwnText"

    def get_content(self, metadata_mode: Any = None) -> str:
        return self.text.upper()


class OwnImage(ImageNode):
    pass


def test_a_derived_class_comes_back_as_what_it_derives_from() -> None:
    common = {"id_": "1", "text": "a", "metadata": {"k": 1}, "embedding": [1.0]}
    found = back(OwnText(**common, rank=3))
    assert type(found) is TextNode
    assert found == bare(TextNode(**common))
    assert kept(OwnText(**common)).metadata["_node_type"] == "OwnText"
    found = back(OwnImage(**common, image=PIXEL))
    assert type(found) is ImageNode
    assert found == bare(ImageNode(**common, image=PIXEL))


class Bare(BaseNode):
    @classmethod
    def get_type(cls) -> str:
        return "bare"

    def get_content(self, metadata_mode: Any = None) -> str:
        return ""

    def get_content_blocks(self, metadata_mode: Any = None) -> list[Any]:
        return []

    def set_content(self, value: Any) -> None:
        pass

    @property
    def hash(self) -> str:
        return ""


@pytest.mark.parametrize("node", [Bare(embedding=[1.0]), "text", None, Stored("1", [1.0])])
def test_what_is_no_node_is_refused(node: Any) -> None:
    with pytest.raises(InvalidInput, match=r"nodes\[2\] must be one of .*TextNode.*, got "):
        stored_from(node, "nodes[2]")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01{}",
        b"\x01[]",
        b"\x01null",
        b"\x07{}",
        b'\x01{"node":"Gone","fields":{}}',
        b'\x01{"node":"TextNode"}',
        b'\x01{"node":"TextNode","fields":{"start_char_idx":"x"}}',
        b'\x03{"\\u0000new":1}',
    ],
)
def test_a_document_of_others_is_a_text_node(payload: bytes) -> None:
    found = node_from(Stored("1", [1.0], "text", {"doc_id": "own", "a": 1}, payload, "parent"))
    assert type(found) is TextNode
    assert (found.node_id, found.text, found.ref_doc_id) == ("1", "text", "parent")
    assert found.metadata == {"doc_id": "own", "a": 1}
    assert found.embedding == [1.0]
    assert node_from(Stored("1", None, "text")).ref_doc_id is None


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": None}, r"node\.embedding must be a list of floats, got None"),
        ({"id_": ""}, r"node\.id_ must have at least 1"),
        ({"id_": "\ud800"}, r"node\.id_ holds a lone surrogate"),
        ({"text": "\ud800"}, r"node\.text holds a lone surrogate"),
        (
            {
                "relationships": {
                    NodeRelationship.NEXT: RelatedNodeInfo(node_id="1", metadata={"k": "\ud800"})
                }
            },
            r"node\['relationships'\].*\['k'\] must be text that UTF-8 can encode",
        ),
        ({"metadata": {"k": object()}}, r"node\['metadata'\]\['k'\] must be .*, got object"),
        (
            {"relationships": {NodeRelationship.SOURCE: [RelatedNodeInfo(node_id="1")]}},
            "node cannot be stored: Source object must be a single",
        ),
        (
            {
                "relationships": {
                    NodeRelationship.NEXT: RelatedNodeInfo(node_id="1", metadata={"k": object()})
                }
            },
            r"node\['relationships'\].*\['k'\] must be .*, got object",
        ),
    ],
)
def test_what_cannot_be_stored_is_named(changes: dict[str, Any], message: str) -> None:
    node = TextNode(**{"text": "a", "embedding": [1.0], **changes})
    with pytest.raises(InvalidInput, match=message):
        stored_from(node, "node")
