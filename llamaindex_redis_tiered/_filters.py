"""LlamaIndex's metadata filters as the core's, with the meaning that LlamaIndex itself gives them.

That is what `SimpleVectorStore` does with them, continued to nested ones. Where it fails with
TypeError, as for `5 > "a"`, the node does not match.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from llamaindex_redis_tiered._nodes import SYSTEM_DEFAULTS, SYSTEM_KEYS
from redis_tiered.errors import InvalidInput
from redis_tiered.vectors.filters import And, Field, Filter, Not, Or, Present

__all__ = ["filter_from"]

_MAX_DEPTH: Final = 50  # more, `Filter` refuses; this bounds the recursion
_EVERYTHING: Final = And(())
_NOTHING: Final = Or(())

_ORDER: Final[dict[FilterOperator, Callable[[Field, Any], Filter]]] = {
    FilterOperator.GT: lambda field, value: field > value,
    FilterOperator.GTE: lambda field, value: field >= value,
    FilterOperator.LT: lambda field, value: field < value,
    FilterOperator.LTE: lambda field, value: field <= value,
}


def filter_from(filters: MetadataFilters | None) -> Filter | None:
    """The filter of the core; None: everything matches.

    Raises:
        InvalidInput: not LlamaIndex's filters, an operator or a condition that is none of its
            own, or a value that the operator cannot take.
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        raise InvalidInput(f"filters must be a MetadataFilters, got {type(filters).__name__}")
    return _group(filters, "filters", 1) if filters.filters else None


def _group(filters: MetadataFilters, where: str, depth: int) -> Filter:
    if depth > _MAX_DEPTH:
        raise InvalidInput(f"filters must be nested at most {_MAX_DEPTH} deep")
    if not filters.filters:
        return _EVERYTHING  # under any condition, as in LlamaIndex
    parts = []
    for number, part in enumerate(filters.filters):
        here = f"{where}.filters[{number}]"
        if isinstance(part, MetadataFilters):
            parts.append(_group(part, here, depth + 1))
        elif isinstance(part, MetadataFilter):
            parts.append(_leaf(part, here))
        else:
            raise InvalidInput(
                f"{here} must be a MetadataFilter or MetadataFilters, got {type(part).__name__}"
            )
    try:
        condition = FilterCondition(filters.condition or FilterCondition.AND)
    except ValueError:
        accepted = [condition.value for condition in FilterCondition]
        raise InvalidInput(
            f"{where}.condition must be one of {accepted}, got {filters.condition!r:.100}"
        ) from None
    if condition is FilterCondition.AND:
        return And(tuple(parts))
    either = Or(tuple(parts))
    return either if condition is FilterCondition.OR else Not(either)


def _leaf(leaf: MetadataFilter, where: str) -> Filter:
    try:
        operator = FilterOperator(leaf.operator)
    except ValueError:
        accepted = [operator.value for operator in FilterOperator]
        raise InvalidInput(
            f"{where}.operator must be one of {accepted}, got {leaf.operator!r:.100}"
        ) from None
    if leaf.key not in SYSTEM_KEYS:
        return _condition(Field(leaf.key), operator, leaf.value, where)
    key = SYSTEM_KEYS[leaf.key]
    if key is None:
        missing = _condition(Field(leaf.key), operator, leaf.value, where).matches({})
        return _EVERYTHING if missing else _NOTHING
    # The default of a system field is not written.
    found = _condition(Field(key), operator, leaf.value, where)
    if found.matches({key: SYSTEM_DEFAULTS[key]}):
        return Or((Not(Present(key)), found))
    return And((Present(key), found))


def _condition(field: Field, operator: FilterOperator, value: Any, where: str) -> Filter:
    if operator in _ORDER:
        return _ordered(field, operator, value, where)
    match operator:
        case FilterOperator.EQ:
            return _equal(field, value)
        case FilterOperator.NE:
            return Not(_equal(field, value))
        case FilterOperator.IN | FilterOperator.NIN:
            among = Or(tuple(_equal(field, item) for item in _list(operator, value, where)))
            return among if operator is FilterOperator.IN else Not(among)
        case FilterOperator.CONTAINS:
            return _held(field, value, where)
        case FilterOperator.ANY:
            items = _list(operator, value, where)
            return Or(tuple(_held(field, item, where) for item in items))
        case FilterOperator.ALL:
            items = _list(operator, value, where)
            return And((field.present(), *(_held(field, item, where) for item in items)))
        case FilterOperator.TEXT_MATCH | FilterOperator.TEXT_MATCH_INSENSITIVE:
            if not isinstance(value, str):
                return _NOTHING
            return field.text(value, case_sensitive=operator is FilterOperator.TEXT_MATCH)
        case FilterOperator.IS_EMPTY:
            return field.is_empty()
        case _:
            raise InvalidInput(f"{where}.operator {operator.value!r} is not supported")


def _ordered(field: Field, operator: FilterOperator, value: Any, where: str) -> Filter:
    if isinstance(value, list):
        raise InvalidInput(
            f"{where}.value must be a number or a str for operator {operator.value!r}, got list"
        )
    # Nothing is less or more than None, or than NaN.
    if value is None or value != value:
        return _NOTHING
    return _ORDER[operator](field, value)


def _equal(field: Field, value: Any) -> Filter:
    # None is a missing key, which equals nothing.
    return _NOTHING if value is None else field == value


def _held(field: Field, value: Any, where: str) -> Filter:
    """Python's `in`: of an element in a list, and of a text in a text."""
    if value is None:
        raise InvalidInput(
            f"{where}.value must be an int, float, str or list to look for, not None"
        )
    element = field.contains(value)
    return Or((element, field.text(value))) if isinstance(value, str) else element


def _list(operator: FilterOperator, value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(
            f"{where}.value must be a list for operator {operator.value!r}, "
            f"got {type(value).__name__}"
        )
    return value
