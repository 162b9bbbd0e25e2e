"""Filters over all documents at once: fields as columns of small numbers.

A column gives every distinct value of a field a code. A comparison is decided once for every
distinct value, and which documents it holds for is then a look-up by numpy. A column is made when
a filter first asks for its field, and kept up to date with what is put and taken.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from redis_tiered.errors import InvalidInput, Unreadable
from redis_tiered.vectors.codes import Codes, Mask
from redis_tiered.vectors.document import loaded_metadata
from redis_tiered.vectors.terms import Kind, Term, elements, term
from redis_tiered.vectors.tree import (
    And,
    Element,
    Equal,
    Filter,
    Leaf,
    Not,
    Or,
    Present,
    Range,
    Text,
)

__all__ = ["Columns"]

Order = NDArray[np.int64]

_TABLES: Final = 16  # of one column
# Numbers and datetimes as int64: their keys, unsigned, less 2**63. No key is as low as this.
_LOWEST: Final = -(1 << 63)


class _Column(Codes):
    """The values of a field, by their terms."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._holders: dict[Term, list[int]] = defaultdict(list)
        self._orders: dict[str, Order] = {}
        self._tables: OrderedDict[Leaf, Mask] = OrderedDict()

    def number(self, value: object) -> int:
        """The number of a value of metadata, which may be new; 0 of None."""
        try:
            found = term(value)
        except InvalidInput:  # nothing that is written now
            return 0
        if found is None:
            return 0
        number = self.keys.get(found)
        if number is not None and not found.equals_nothing:
            return number
        if found.kind != Kind.LIST:
            return self.of(found)
        items = elements(value)
        # Lists that hold NaN have all the same term, but not the same elements.
        key = (found, *items) if found.equals_nothing else found
        if (number := self.keys.get(key)) is None:
            number = self.of(key)
            for item in set(items):
                self._holders[item].append(number)
        return number

    def mask(self, leaf: Leaf, used: int) -> Mask:
        """Which of the first `used` slots have a value that a comparison accepts."""
        if isinstance(leaf, Equal):
            return self.any((leaf.term,), used)
        if isinstance(leaf, Element):
            return self.one_of(self._holders.get(leaf.term, []), used)
        if isinstance(leaf, Present):
            found: Mask = self.numbers[:used] != 0
            return found
        table = self._tables.pop(leaf, None)
        if table is None:
            table = np.zeros(1, np.bool_)
            if len(self._tables) >= _TABLES:
                self._tables.popitem(last=False)
        if len(table) <= len(self.keys):
            table = np.concatenate((table, self._accepted(leaf, len(table) - 1)))
        self._tables[leaf] = table
        return self.looked_up(table, used)

    def holding(self, terms: Collection[Term], used: int) -> Mask:
        """Which of the first `used` slots have a list with one of these elements."""
        wanted = {number for item in terms for number in self._holders.get(item, ())}
        return self.one_of(list(wanted), used)

    def _accepted(self, leaf: Leaf, start: int) -> Mask:
        """What a comparison says of the distinct values from one on."""
        if isinstance(leaf, Range) and leaf.kind != Kind.TEXT:
            return self._between(leaf, start)
        keys = self.listed[start:]
        if isinstance(leaf, Text):
            found = [key[0] == Kind.TEXT and leaf.accepts(key[1].decode()) for key in keys]
        elif isinstance(leaf, Range):
            found = [key[0] == Kind.TEXT and leaf.holds(key[1]) for key in keys]
        else:
            raise NotImplementedError(type(leaf).__name__)
        return np.array(found, np.bool_)

    def _between(self, leaf: Range, start: int) -> Mask:
        """Values between bounds; those with the same float as a bound are compared by their keys."""
        order = self._ordered(leaf.kind)[start:]
        low, high = (
            None if bound is None else int.from_bytes(bound.key[:8], "big") - (1 << 63)
            for bound in (leaf.low, leaf.high)
        )
        found: Mask = order > (_LOWEST if low is None else low)
        if high is not None:
            found &= order < high
        for bound in {low, high} - {None}:
            for place in (order == bound).nonzero()[0].tolist():
                found[place] = leaf.holds(self.listed[start + place][1])
        return found

    def _ordered(self, kind: str) -> Order:
        """The distinct values of a kind in an order that int64 keeps, but for ints that no float
        is; `_LOWEST` for those of other kinds."""
        order = self._orders.get(kind)
        known = 0 if order is None else len(order)
        if order is None or known < len(self.keys):
            none = bytes(8)
            packed = b"".join([k[1][:8] if k[0] == kind else none for k in self.listed[known:]])
            new = (np.frombuffer(packed, ">u8") ^ np.uint64(1 << 63)).astype(np.uint64)
            added = new.view(np.int64)
            order = added if order is None else np.concatenate((order, added))
            self._orders[kind] = order
        return order

    def renumbered(self, renumbered: NDArray[np.int32]) -> None:
        holders: dict[Term, list[int]] = defaultdict(list)
        for item, numbers in self._holders.items():
            if kept := [int(number) for number in renumbered[numbers] if number]:
                holders[item] = kept
        self._holders = holders
        self._orders.clear()
        self._tables.clear()

    @property
    def bytes(self) -> int:
        arrays = (*self._tables.values(), *self._orders.values())
        held = sum(len(numbers) for numbers in self._holders.values())
        return (
            super().bytes
            + sum(each.nbytes for each in arrays)
            + 300 * len(self._holders)
            + 8 * held
        )


class Columns:
    """The metadata of documents by slot, and columns of the fields that filters ask for.

    To be used under the owner's lock.

    Args:
        capacity: how many slots there are.
        fields: how many columns are kept; those least lately used go first.
    """

    def __init__(self, capacity: int, fields: int = 256) -> None:
        self._metadata: list[bytes | None] = [None] * capacity
        self._fields = fields
        self._columns: OrderedDict[str, _Column] = OrderedDict()
        self._pending: set[int] = set()
        self._held = 0

    def put(self, slot: int, metadata: bytes) -> None:
        """A document is in a slot; its metadata is decoded when a filter asks."""
        self._metadata[slot] = metadata
        self._held += len(metadata)
        if self._columns:
            self._pending.add(slot)

    def drop(self, slot: int) -> None:
        """A document is no longer in a slot."""
        self._held -= len(self._metadata[slot] or b"")
        self._metadata[slot] = None
        self._pending.discard(slot)

    def mask(self, where: Filter, alive: Mask) -> Mask:
        """Which slots have documents that a filter matches, in a new array.

        Args:
            alive: which slots have documents, from the first on; what is said of others is
                arbitrary.
        """
        self._catch_up(alive)
        wanted = dict.fromkeys(leaf.field for leaf in where.leaves())
        self._add([field for field in wanted if field not in self._columns], alive)
        for field in wanted:
            self._columns.move_to_end(field)
        found = self._evaluated(where, len(alive))
        while len(self._columns) > self._fields:
            self._columns.popitem(last=False)
        return found

    def _evaluated(self, where: Filter, used: int) -> Mask:
        if isinstance(where, Leaf):
            return self._columns[where.field].mask(where, used)
        if isinstance(where, Not):
            found = self._evaluated(where.part, used)
            return np.logical_not(found, out=found)
        if isinstance(where, And):
            return self._joined(np.logical_and, where.parts, used)
        if isinstance(where, Or):
            return self._any(where.parts, used)
        raise NotImplementedError(type(where).__name__)

    def _any(self, parts: tuple[Filter, ...], used: int) -> Mask:
        """Comparisons of a field for equality are one look-up, however many there are."""
        equal: dict[str, list[Term]] = {}
        element: dict[str, list[Term]] = {}
        rest: list[Filter] = []
        for part in parts:
            if isinstance(part, Equal):
                equal.setdefault(part.field, []).append(part.term)
            elif isinstance(part, Element):
                element.setdefault(part.field, []).append(part.term)
            else:
                rest.append(part)
        found = self._joined(np.logical_or, rest, used)
        for field, terms in equal.items():
            found |= self._columns[field].any(terms, used)
        for field, terms in element.items():
            found |= self._columns[field].holding(terms, used)
        return found

    def _joined(self, join: Callable[..., Any], parts: Collection[Filter], used: int) -> Mask:
        found: Mask | None = None
        for part in parts:
            other = self._evaluated(part, used)
            found = other if found is None else join(found, other, out=found)
        return np.full(used, join is np.logical_and) if found is None else found

    def _catch_up(self, alive: Mask) -> None:
        if not self._pending:
            return
        for slot in self._pending:
            fields = _decoded(self._metadata[slot])
            for name, column in self._columns.items():
                column.numbers[slot] = column.number(fields.get(name))
        self._pending.clear()
        for column in self._columns.values():
            column.tidy(alive)

    def _add(self, names: list[str], alive: Mask) -> None:
        """Columns of fields, for all of which a document is decoded once."""
        if not names:
            return
        made = [(name, _Column(len(self._metadata)), list[int]()) for name in names]
        for metadata in self._metadata[: len(alive)]:
            fields = _decoded(metadata)
            for name, column, numbers in made:
                value = fields.get(name)
                numbers.append(0 if value is None else column.number(value))
        for name, column, numbers in made:
            column.numbers[: len(numbers)] = numbers
            self._columns[name] = column

    def resize(self, capacity: int) -> None:
        """Make room."""
        self._metadata += [None] * (capacity - len(self._metadata))
        for column in self._columns.values():
            column.resize(capacity)

    def move(self, slots: NDArray[np.intp], capacity: int) -> None:
        """What was in `slots[i]` is in slot i from now on, and nothing else is."""
        places = slots.tolist()
        moved = {slot: place for place, slot in enumerate(places)} if self._pending else {}
        self._pending = {moved[slot] for slot in self._pending}
        self._metadata = [self._metadata[slot] for slot in places]
        self._metadata += [None] * (capacity - len(places))
        for column in self._columns.values():
            column.move(slots, capacity)

    @property
    def bytes(self) -> int:
        """Memory, estimated."""
        return (
            sum(column.bytes for column in self._columns.values())
            + self._held
            + 41 * len(self._metadata)
            + 60 * len(self._pending)
        )


def _decoded(metadata: bytes | None) -> dict[str, Any]:
    """Fields of a document; what cannot be read has none."""
    if metadata is None:
        return {}
    try:
        return loaded_metadata(metadata)
    except Unreadable:
        return {}
