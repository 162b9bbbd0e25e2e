"""LlamaIndex's metadata filters mean here what they mean in LlamaIndex."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.schema import Document, ImageNode, IndexNode, NodeRelationship, TextNode
from llama_index.core.vector_stores import (
    ExactMatchFilter,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    SimpleVectorStore,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from llamaindex_redis_tiered._filters import filter_from
from llamaindex_redis_tiered._nodes import stored_from
from redis_tiered.errors import InvalidInput

ORDER = (FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE)
LISTS = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
TEXTS = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)

words = st.sampled_from(["", "a", "A", "b", "ab", "Ab c", "None", "doc-1", "ImageNode", "ẞ", "ß"])
numbers = st.sampled_from([0, 1, -1, 2, 1.0, 0.5, -0.0, 2**53 + 1, 2.0**53, 1e300, math.inf])
scalars = words | numbers | st.booleans()
keys = st.sampled_from(["x", "y", "z"])
all_keys = keys | st.sampled_from(
    ["doc_id", "document_id", "ref_doc_id", "_node_type", "_node_content"]
)
metadata = st.dictionaries(
    all_keys,
    st.one_of(
        scalars,
        st.none(),
        st.just(math.nan),
        st.lists(scalars | st.none(), max_size=3),
        st.lists(words, max_size=3),
        st.lists(st.lists(words, max_size=2), max_size=2),
        st.dictionaries(words.filter(bool), scalars, max_size=2),
        st.tuples(words, words),
        st.datetimes(),
    ),
    max_size=4,
)


@st.composite
def nodes(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from([TextNode, TextNode, ImageNode, IndexNode, Document]))
    extra = {"index_id": "i"} if kind is IndexNode else {}
    node = kind(id_="n", text="t", embedding=[1.0], metadata=draw(metadata), **extra)
    if draw(st.booleans()):
        source = Document(id_="doc-1", text="d")
        node.relationships[NodeRelationship.SOURCE] = source.as_related_node_info()
    return node


@st.composite
def leaves(draw: st.DrawFn) -> MetadataFilter:
    operator = draw(st.sampled_from(FilterOperator))
    flat = words | numbers | st.just(math.nan)
    lists = st.lists(words, max_size=3) | st.lists(numbers, max_size=3)
    if operator in ORDER:
        value = draw(flat | st.none())
    elif operator in LISTS:
        value = draw(lists)
    elif operator in TEXTS:
        value = draw(words | words | numbers | st.none() | lists)
    elif operator is FilterOperator.CONTAINS:
        value = draw(flat | lists)
    else:
        value = draw(flat | st.none() | lists)
    return MetadataFilter(key=draw(all_keys), value=value, operator=operator)


def flat_groups() -> st.SearchStrategy[MetadataFilters]:
    conditions = st.none() | st.sampled_from(FilterCondition)
    return st.builds(MetadataFilters, filters=st.lists(leaves(), max_size=4), condition=conditions)


def groups() -> st.SearchStrategy[MetadataFilters]:
    conditions = st.none() | st.sampled_from(FilterCondition)
    return st.recursive(
        flat_groups(),
        lambda inner: st.builds(
            MetadataFilters,
            filters=st.lists(leaves() | inner, max_size=3),
            condition=conditions,
        ),
        max_leaves=6,
    )


def seen_by_llamaindex(node: Any) -> dict[str, Any]:
    store = SimpleVectorStore()
    store.add([node])
    found: dict[str, Any] = store.data.metadata_dict[node.node_id]
    return found


def reaches_into(seen: dict[str, Any], leaf: MetadataFilter) -> bool:
    """Whether Python's `in` would look at the keys of a dict, which is no metadata array."""
    looking = (FilterOperator.CONTAINS, FilterOperator.ANY, FilterOperator.ALL)
    return leaf.operator in looking and isinstance(seen.get(leaf.key), dict)


def holds(seen: dict[str, Any], part: MetadataFilter | MetadataFilters) -> bool:
    """What LlamaIndex's own function says of a leaf, joined as it joins them."""
    if isinstance(part, MetadataFilter):
        if reaches_into(seen, part):
            return part.operator is FilterOperator.ALL and part.value == []
        try:
            return build_metadata_filter_fn(lambda _: seen, MetadataFilters(filters=[part]))("n")
        except TypeError:
            return False
    if not part.filters:
        return True
    match part.condition:
        case FilterCondition.OR:
            return any(holds(seen, each) for each in part.filters)
        case FilterCondition.NOT:
            return not any(holds(seen, each) for each in part.filters)
        case _:
            return all(holds(seen, each) for each in part.filters)


def matches(node: Any, filters: MetadataFilters) -> bool:
    found = filter_from(filters)
    return found is None or found.matches(stored_from(node, "node").metadata)


@given(nodes(), flat_groups())
def test_flat_filters_agree_with_llamaindex(node: Any, filters: MetadataFilters) -> None:
    seen = seen_by_llamaindex(node)
    if not any(reaches_into(seen, leaf) for leaf in filters.filters):
        try:
            expected = build_metadata_filter_fn(lambda _: seen, filters)("n")
        except TypeError:
            expected = holds(seen, filters)
        assert holds(seen, filters) == expected
    assert matches(node, filters) == holds(seen, filters)


@given(nodes(), groups())
def test_nested_filters_agree_with_llamaindex(node: Any, filters: MetadataFilters) -> None:
    assert matches(node, filters) == holds(seen_by_llamaindex(node), filters)


def single(operator: str, value: Any, key: str = "x") -> MetadataFilters:
    return MetadataFilters(
        filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))]
    )


def test_without_filters_everything_matches() -> None:
    assert filter_from(None) is None
    for condition in (*FilterCondition, None):
        empty = MetadataFilters(filters=[], condition=condition)
        assert filter_from(empty) is None
        nested = filter_from(MetadataFilters(filters=[empty]))
        assert nested is not None
        assert nested.matches({})


def test_none_of_the_filters_of_not_matches() -> None:
    leaves = [ExactMatchFilter(key="x", value=1), ExactMatchFilter(key="y", value=2)]
    found = filter_from(MetadataFilters(filters=leaves, condition=FilterCondition.NOT))
    assert found is not None
    matching = [{"x": 1}, {"y": 2}, {"x": 1, "y": 2}]
    assert not any(found.matches(each) for each in matching)
    assert all(found.matches(each) for each in ({}, {"x": 2}, {"x": "1", "y": 1}))


def test_nothing_of_a_value_is_syntax() -> None:
    found = filter_from(single("==", "red|blue"))
    assert found is not None
    assert [found.matches({"x": value}) for value in ("red", "blue", "red|blue")] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("operator", ["contains", "any", "all"])
def test_keys_of_a_dict_are_not_its_elements(operator: str) -> None:
    found = filter_from(single(operator, "a" if operator == "contains" else ["a"]))
    assert found is not None
    assert not found.matches({"x": {"a": 1}})


def test_large_filters() -> None:
    many = [str(i) for i in range(9000)]
    found = filter_from(single("in", many))
    assert found is not None
    assert found.matches({"x": "8999"})
    with pytest.raises(InvalidInput, match="10000"):
        filter_from(single("in", [*many, *many]))


def test_filters_nested_too_deep() -> None:
    filters = single("==", 1)
    for _ in range(20):
        filters = MetadataFilters(filters=[filters])
    assert filter_from(filters) is not None
    for _ in range(300):
        filters = MetadataFilters.model_construct(filters=[filters], condition=None)
    with pytest.raises(InvalidInput, match="at most 50 deep"):
        filter_from(filters)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"x": 1}, "filters must be a MetadataFilters, got dict"),
        (single("in", "abc"), r"filters\.filters\[0\]\.value must be a list .*'in', got str"),
        (single("nin", 1), "must be a list for operator 'nin', got int"),
        (single("any", None), "must be a list for operator 'any', got NoneType"),
        (single("all", "a"), "must be a list for operator 'all', got str"),
        (single(">", [1]), "must be a number or a str for operator '>', got list"),
        (single("contains", None), r"filters\.filters\[0\]\.value must be .* not None"),
        (single("==", 1, ""), "field's name"),
        (single("==", "\ud800"), "lone surrogate"),
        (
            MetadataFilters.model_construct(filters=[{"key": "x"}], condition=None),
            r"filters\.filters\[0\] must be a MetadataFilter or MetadataFilters, got dict",
        ),
        (
            MetadataFilters(
                filters=[
                    single("==", 1),
                    MetadataFilters.model_construct(
                        filters=[MetadataFilter.model_construct(key="x", value=1, operator="~")],
                        condition=FilterCondition.AND,
                    ),
                ]
            ),
            r"filters\.filters\[1\]\.filters\[0\]\.operator must be one of .*got '~'",
        ),
        (
            MetadataFilters.model_construct(filters=single("==", 1).filters, condition="xor"),
            r"filters\.condition must be one of .*got 'xor'",
        ),
    ],
)
def test_filters_that_cannot_be(filters: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        filter_from(filters)
