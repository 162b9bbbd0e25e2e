"""Filters as LangChain's users write them: a dict in MongoDB's style, and the others as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeGuard

from redis_tiered.errors import InvalidInput
from redis_tiered.vectors.filters import And, Field, Filter, Not, Or

__all__ = ["filter_from"]

_ACCEPTED: Final = (
    "None, a redis_tiered Filter, a dict in MongoDB's style or, on the engine redisvl, a "
    "FilterExpression of redisvl"
)
_MAX_DEPTH: Final = 50


def filter_from(given: object) -> Any:
    """A filter as `redis_tiered.Collection` takes it.

    A dict is MongoDB's query, over top-level fields (a dot is part of a name):

        {"tenant": "red", "year": {"$gte": 2020, "$lt": 2024}}
        {"$or": [{"tags": "a"}, {"tags": {"$all": ["b", "c"]}}, {"note": {"$exists": False}}]}

    - All conditions of a dict must hold; `{}` is everything.
    - A value without an operator is `$eq`: the field is the value, or a list with it as an element.
      None is equal to a field that is None or missing. `$ne`, `$nin` and `$not` are complements, so
      a missing field matches them.
    - `$gt $gte $lt $lte` and `$between: [low, high]`, both included, compare numbers, texts and
      datetimes, each with its own kind; a list matches none of them.
    - `$contains` is Python's `in`: the field is a text with the value as a part, or a list with it
      as an element. `$icontains`, for texts alone, ignores case.

    Args:
        given: None, a `Filter`, such a dict, or a `FilterExpression` of redisvl, which is for the
            engine to take or to refuse.

    Raises:
        InvalidInput: another type, an operator that is not there, an operand it cannot use; says
            where.
    """
    if given is None or isinstance(given, Filter) or _is_redisvls(given):
        return given
    if isinstance(given, Mapping):
        return _query(given, "filter", 0)
    raise InvalidInput(f"filter must be {_ACCEPTED}, got {type(given).__name__}")


def _is_redisvls(given: object) -> bool:
    """Whether it is an expression of redisvl, which need not be installed."""
    return any(
        kind.__name__ == "FilterExpression" and kind.__module__.partition(".")[0] == "redisvl"
        for kind in type(given).__mro__
    )


def _query(given: object, where: str, depth: int) -> Filter:
    """What holds for documents."""
    if not isinstance(given, Mapping):
        raise InvalidInput(f"{where} must be a dict, got {type(given).__name__}")
    if depth >= _MAX_DEPTH:
        raise InvalidInput(f"filter must be nested at most {_MAX_DEPTH} levels deep")
    parts: list[Filter] = []
    for name, condition in given.items():
        here = f"{where}[{name!r:.100}]"
        if not isinstance(name, str):
            raise InvalidInput(f"{where} must have str keys, got {type(name).__name__}")
        if not name.startswith("$"):
            parts.append(_condition(_field(name, where), condition, here, depth + 1))
        elif name in _LOGICAL:
            parts.append(_LOGICAL[name](condition, here, depth + 1))
        elif name in _OPERATORS:
            raise InvalidInput(f"{here} is an operator on a field: {{'field': {{{name!r}: ...}}}}")
        else:
            raise _unknown(here, _LOGICAL)
    return _all(parts)


def _field(name: str, where: str) -> Field:
    try:
        return Field(name)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from None


def _condition(field: Field, given: object, where: str, depth: int) -> Filter:
    """What holds for one field: operators, or the value it equals."""
    if not _has_operators(given, where):
        return _leaf(_equal, field, given, where)
    if depth >= _MAX_DEPTH:
        raise InvalidInput(f"filter must be nested at most {_MAX_DEPTH} levels deep")
    parts: list[Filter] = []
    for name, operand in given.items():
        here = f"{where}[{name!r:.100}]"
        if name == "$not":
            if not _has_operators(operand, here):
                raise InvalidInput(
                    f"{here} must be a dict of operators, got {type(operand).__name__}"
                )
            parts.append(Not(_condition(field, operand, here, depth + 1)))
        elif name in _OPERATORS:
            parts.append(_leaf(_OPERATORS[name], field, operand, here))
        else:
            raise _unknown(here, {**_OPERATORS, "$not": None})
    return _all(parts)


def _has_operators(given: object, where: str) -> TypeGuard[Mapping[str, object]]:
    if not isinstance(given, Mapping):
        return False
    operators = [isinstance(name, str) and name.startswith("$") for name in given]
    if any(operators) and not all(operators):
        raise InvalidInput(
            f"{where} mixes operators and plain keys; to ask for a field that equals a dict with "
            "such keys, use $eq"
        )
    return any(operators)


def _all(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _leaf(make: Callable[[Field, Any], Filter], field: Field, operand: Any, where: str) -> Filter:
    try:
        return make(field, operand)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from None


def _unknown(where: str, accepted: Mapping[str, object]) -> InvalidInput:
    return InvalidInput(f"{where} is no operator here; accepted are {', '.join(sorted(accepted))}")


# --- between queries --------------------------------------------------------------------------


def _queries(given: object, where: str, depth: int) -> tuple[Filter, ...]:
    if not isinstance(given, list | tuple) or not given:
        what = "an empty one" if isinstance(given, list | tuple) else type(given).__name__
        raise InvalidInput(f"{where} must be a list of at least one dict, got {what}")
    return tuple(_query(item, f"{where}[{i}]", depth) for i, item in enumerate(given))


_LOGICAL: Final[dict[str, Callable[[object, str, int], Filter]]] = {
    "$and": lambda given, where, depth: And(_queries(given, where, depth)),
    "$or": lambda given, where, depth: Or(_queries(given, where, depth)),
    "$nor": lambda given, where, depth: Not(Or(_queries(given, where, depth))),
    "$not": lambda given, where, depth: Not(_query(given, where, depth)),
}


# --- on a field -------------------------------------------------------------------------------


def _alternatives(field: Field, value: object) -> list[Filter]:
    """How a field may equal a value: by itself, or by one of its elements."""
    if value is None:
        return [Not(field.present())]
    return [field == value, field.contains(value)]


def _equal(field: Field, value: object) -> Filter:
    return Or(tuple(_alternatives(field, value)))


def _in(field: Field, values: object) -> Filter:
    return Or(tuple(part for value in _listed(values) for part in _alternatives(field, value)))


def _holds_all(field: Field, values: object) -> Filter:
    listed = _listed(values)
    # Of nothing, as MongoDB has it, not of everything.
    return And(tuple(_equal(field, value) for value in listed)) if listed else Or(())


def _listed(values: object) -> list[object]:
    if not isinstance(values, list | tuple | set | frozenset):
        raise InvalidInput(f"must be a list, got {type(values).__name__}")
    return list(values)


def _between(field: Field, bounds: object) -> Filter:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise InvalidInput("must be a list of two, the lowest and the highest value")
    low, high = bounds
    return field.between(low, high)


def _exists(field: Field, given: object) -> Filter:
    if not isinstance(given, bool):
        raise InvalidInput(f"must be a bool, got {type(given).__name__}")
    return field.present() if given else Not(field.present())


def _contains(field: Field, value: object) -> Filter:
    if value is None:
        raise InvalidInput("must be a value, got None")
    if isinstance(value, str):
        return Or((field.text(value), field.contains(value)))
    return field.contains(value)


def _contains_folded(field: Field, value: object) -> Filter:
    if not isinstance(value, str):
        raise InvalidInput(f"must be a str, got {type(value).__name__}")
    return field.text(value, case_sensitive=False)


_OPERATORS: Final[dict[str, Callable[[Field, Any], Filter]]] = {
    "$eq": _equal,
    "$ne": lambda field, value: Not(_equal(field, value)),
    "$gt": lambda field, value: field > value,
    "$gte": lambda field, value: field >= value,
    "$lt": lambda field, value: field < value,
    "$lte": lambda field, value: field <= value,
    "$between": _between,
    "$in": _in,
    "$nin": lambda field, values: Not(_in(field, values)),
    "$all": _holds_all,
    "$exists": _exists,
    "$contains": _contains,
    "$icontains": _contains_folded,
}
