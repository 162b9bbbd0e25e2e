"""The tree of a filter: comparisons of fields, joined. `redis_tiered.vectors.filters` makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from redis_tiered.checks import text
from redis_tiered.errors import InvalidInput
from redis_tiered.vectors.terms import Kind, Term, checked_field, elements, shown, term

__all__ = [
    "And",
    "Element",
    "Equal",
    "Filter",
    "Leaf",
    "Not",
    "Or",
    "Present",
    "Range",
    "Text",
]

_MAX_SIZE: Final = 10_000
_MAX_DEPTH: Final = 50
_SHOWN: Final = 20
_ORDERED: Final = "a number, str or datetime"


class Filter:
    """A condition on a document's metadata: immutable, hashable, picklable.

    Joined by `&`, `|` and `~`; `and`, `or`, `not` and chained comparisons raise InvalidInput. A
    filter has at most 10,000 comparisons, nested at most 50 deep.

    Attributes:
        weight: how many comparisons there are and how deep they are nested.
    """

    __slots__ = ()
    weight: tuple[int, int]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether a document with this metadata is one that is looked for."""
        raise NotImplementedError

    def leaves(self) -> Iterator[Leaf]:
        """The comparisons, from left to right."""
        stack: list[Filter] = [self]
        while stack:
            top = stack.pop()
            if isinstance(top, Leaf):
                yield top
            elif isinstance(top, And | Or):
                stack.extend(reversed(top.parts))
            elif isinstance(top, Not):
                stack.append(top.part)

    def __and__(self, other: Filter) -> Filter:
        return _joined(And, self, other)

    def __or__(self, other: Filter) -> Filter:
        return _joined(Or, self, other)

    def __invert__(self) -> Filter:
        return self.part if isinstance(self, Not) else Not(self)

    def __bool__(self) -> bool:
        raise InvalidInput(
            "a filter is neither true nor false: join filters by & | ~ with each comparison in "
            "parentheses, and write .between(low, high) for a chained comparison"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # What was pickled elsewhere is checked as what is made here.
        return type(self), tuple(getattr(self, each.name) for each in fields(self))  # type: ignore[arg-type]


_Sets = tuple[dict[str, set[Term]], dict[str, set[Term]], list[Filter]]


class Leaf(Filter):
    """A comparison of one field."""

    __slots__ = ()
    weight = (1, 0)
    field: str

    def accepts(self, value: Any) -> bool:
        """Whether it holds for a value of the field; None: there is no such field."""
        raise NotImplementedError

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return self.accepts(metadata.get(self.field))


@dataclass(frozen=True, slots=True, repr=False)
class Equal(Leaf):
    """The whole value equals; of a list, all elements in order."""

    field: str
    term: Term

    def __post_init__(self) -> None:
        checked_field("filter", self.field)
        _check_term("term", self.term)

    def accepts(self, value: Any) -> bool:
        kind, key = self.term
        if type(value) is str:
            return kind == "s" and value.encode() == key
        return value is not None and term(value) == self.term

    def __repr__(self) -> str:
        return f"Field({self.field!r}) == {shown(self.term)}"


@dataclass(frozen=True, slots=True, repr=False)
class Element(Leaf):
    """The value is a list and one of its elements equals."""

    field: str
    term: Term

    def __post_init__(self) -> None:
        checked_field("filter", self.field)
        _check_term("term", self.term)

    def accepts(self, value: Any) -> bool:
        return type(value) is list and self.term in elements(value)

    def __repr__(self) -> str:
        return f"Field({self.field!r}).contains({shown(self.term)})"


@dataclass(frozen=True, slots=True, repr=False)
class Range(Leaf):
    """The value is of the bounds' kind (NUMBER, TEXT or MOMENT) and lies between them.

    Attributes:
        low, high: None: no such bound; at least one is there.
        low_open, high_open: whether the bound itself is out.
    """

    field: str
    low: Term | None
    high: Term | None
    low_open: bool = False
    high_open: bool = False

    def __post_init__(self) -> None:
        checked_field("filter", self.field)
        kinds = set()
        for name, bound in (("low", self.low), ("high", self.high)):
            if bound is not None:
                _check_term(name, bound)
                kinds.add(bound.kind)
        if len(kinds) != 1 or not kinds <= Kind.ORDERED:
            raise InvalidInput(
                f"a range of field {self.field!r} must have one or two bounds of the same kind, "
                f"each {_ORDERED}"
            )

    @property
    def kind(self) -> str:
        bound = self.low or self.high
        assert bound is not None
        return bound.kind

    def accepts(self, value: Any) -> bool:
        found = None if type(value) is list else term(value)
        return found is not None and found.kind == self.kind and self.holds(found.key)

    def holds(self, key: bytes) -> bool:
        """Whether a key of the same kind is between the bounds."""
        low, high = self.low, self.high
        return (low is None or key > low.key or (key == low.key and not self.low_open)) and (
            high is None or key < high.key or (key == high.key and not self.high_open)
        )

    def __repr__(self) -> str:
        name = f"Field({self.field!r})"
        if self.low and self.high and not (self.low_open or self.high_open):
            return f"{name}.between({shown(self.low)}, {shown(self.high)})"
        sides = []
        if self.low:
            sides.append(f"{name} {'>' if self.low_open else '>='} {shown(self.low)}")
        if self.high:
            sides.append(f"{name} {'<' if self.high_open else '<='} {shown(self.high)}")
        return sides[0] if len(sides) == 1 else f"({sides[0]}) & ({sides[1]})"


@dataclass(frozen=True, slots=True, repr=False)
class Text(Leaf):
    """The value is a str that has the needle in it.

    Attributes:
        needle: empty: any str has it.
        fold: whether both are compared in lower case, as `str.lower` has it.
    """

    field: str
    needle: str
    fold: bool = False

    def __post_init__(self) -> None:
        checked_field("filter", self.field)
        needle = text("needle", self.needle)
        object.__setattr__(self, "needle", needle.lower() if self.fold else needle)

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and self.needle in (value.lower() if self.fold else value)

    def __repr__(self) -> str:
        sensitive = ", case_sensitive=False" if self.fold else ""
        return f"Field({self.field!r}).text({self.needle!r}{sensitive})"


@dataclass(frozen=True, slots=True, repr=False)
class Present(Leaf):
    """The field is there and not None."""

    field: str

    def __post_init__(self) -> None:
        checked_field("filter", self.field)

    def accepts(self, value: Any) -> bool:
        return value is not None

    def __repr__(self) -> str:
        return f"Field({self.field!r}).present()"


class _Joined(Filter):
    __slots__ = ("_sets", "weight")
    _sets: _Sets
    parts: tuple[Filter, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple):
            object.__setattr__(self, "parts", tuple(self.parts))
        object.__setattr__(self, "weight", _weighed(self.parts))

    def _shown(self, sign: str) -> str:
        if not self.parts:
            return f"{type(self).__name__}(())"
        made = [f"({part!r})" for part in self.parts[:_SHOWN]]
        if len(self.parts) > _SHOWN:
            made.append(f"... {len(self.parts) - _SHOWN} more")
        return sign.join(made)


@dataclass(frozen=True, slots=True, repr=False)
class And(_Joined):
    """All parts hold; without parts: everything."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        for part in self.parts:  # noqa: SIM110 - a generator doubles the time
            if not part.matches(metadata):
                return False
        return True

    def __repr__(self) -> str:
        return self._shown(" & ")


@dataclass(frozen=True, slots=True, repr=False)
class Or(_Joined):
    """At least one part holds; without parts: nothing."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        try:
            equal, element, rest = self._sets
        except AttributeError:
            equal, element, rest = self._grouped()
        for field, terms in equal.items():
            value = metadata.get(field)
            if value is not None and term(value) in terms:
                return True
        for field, terms in element.items():
            if not terms.isdisjoint(elements(metadata.get(field))):
                return True
        for part in rest:  # noqa: SIM110 - as above
            if part.matches(metadata):
                return True
        return False

    def _grouped(self) -> _Sets:
        """Comparisons for equality by field: one look-up, however many values there are."""
        sets: _Sets = ({}, {}, [])
        for part in self.parts:
            if isinstance(part, Equal):
                sets[0].setdefault(part.field, set()).add(part.term)
            elif isinstance(part, Element):
                sets[1].setdefault(part.field, set()).add(part.term)
            else:
                sets[2].append(part)
        object.__setattr__(self, "_sets", sets)
        return sets

    def __repr__(self) -> str:
        return self._shown(" | ")


@dataclass(frozen=True, slots=True, repr=False)
class Not(Filter):
    """The part does not hold."""

    part: Filter

    def __post_init__(self) -> None:
        _weighed((self.part,))

    @property
    def weight(self) -> tuple[int, int]:  # type: ignore[override]
        size, depth = self.part.weight
        return size, depth + 1

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return not self.part.matches(metadata)

    def __repr__(self) -> str:
        return f"~({self.part!r})"


def _check_term(name: str, value: object) -> None:
    if not isinstance(value, Term) or value.kind not in Kind.ALL or value.equals_nothing:
        raise InvalidInput(f"{name} must be the Term of a value that equals something")


def _joined(kind: type[And | Or], left: Filter, right: object) -> Filter:
    """Not by the constructor: a chain of thousands would look at all parts at each link."""
    if not isinstance(right, Filter):
        raise InvalidInput(f"a filter is joined with a filter, got {type(right).__name__}")
    parts: tuple[Filter, ...] = ()
    size, depth = 0, 1
    for side in (left, right):
        same = isinstance(side, kind)
        parts += side.parts if isinstance(side, And | Or) and same else (side,)
        size += side.weight[0]
        depth = max(depth, side.weight[1] + (not same))
    made = object.__new__(kind)
    object.__setattr__(made, "parts", parts)
    object.__setattr__(made, "weight", _checked(size, depth))
    return made


def _weighed(parts: tuple[Filter, ...]) -> tuple[int, int]:
    size = depth = 0
    for part in parts:
        if not isinstance(part, Filter):
            raise InvalidInput(f"a part of a filter must be a Filter, got {type(part).__name__}")
        of, nested = part.weight
        size += of
        depth = max(depth, nested)
    return _checked(size, depth + 1)


def _checked(size: int, depth: int) -> tuple[int, int]:
    if size > _MAX_SIZE or depth > _MAX_DEPTH:
        raise InvalidInput(
            f"a filter must have at most {_MAX_SIZE} comparisons, nested at most {_MAX_DEPTH} deep"
        )
    return size, depth
