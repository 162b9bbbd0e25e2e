"""A map: names to values, through process memory, Redis and the durable tier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from redis_tiered.checks import integer, seconds
from redis_tiered.errors import InvalidInput, TierError, Unreadable
from redis_tiered.flow import Flow
from redis_tiered.maps.item import MAX_NAME, MAX_VALUE, Data, prefix_of, sealed, stored_name
from redis_tiered.maps.store import Store
from redis_tiered.tiers.tiers import Tiers
from redis_tiered.values import KINDS, CarefulWriter, Refused, Writer, loaded

__all__ = ["MAX_NAME", "MAX_VALUE", "Codec", "Data", "Found", "Map", "codec"]

V = TypeVar("V")
_UNSET: Final[Any] = object()
_PAGE: Final = 500
_MAX_PAGE: Final = 10_000


class Codec(Protocol[V]):
    """How values become bytes."""

    def dumped(self, where: str, value: V) -> bytes: ...

    def loaded(self, data: Data) -> V: ...


class BytesCodec:
    """Values that are bytes."""

    def dumped(self, where: str, value: bytes) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise InvalidInput(f"{where} must be bytes, got {type(value).__name__}")
        return bytes(value)

    def loaded(self, data: Data) -> bytes:
        return bytes(data)


class JSONCodec:
    """Values made of JSON's types, and of those of Python that come back the same."""

    def dumped(self, where: str, value: Any) -> bytes:
        writer = Writer()
        try:
            return writer.dumped(writer.value(value), lambda: CarefulWriter().value(value))
        except Refused as refused:
            raise refused.invalid(where, KINDS) from None

    def loaded(self, data: Data) -> Any:
        return loaded(data)


def codec(values: object) -> Codec[Any]:
    """That of `Tiers.map`.

    Raises:
        InvalidInput: neither "bytes" nor "json".
    """
    if values == "bytes":
        return BytesCodec()
    if values == "json":
        return JSONCodec()
    raise InvalidInput(f'values must be "bytes" or "json", got {values!r}')


class Found(NamedTuple, Generic[V]):
    """What a read found.

    Attributes:
        values: one per name; None: there is none, or it could not be found out.
        failure: what a tier said that could not be asked; None: all is known.
        tiers: how many values came from `"memory"`, `"redis"` and `"durable"`.
    """

    values: list[V | None]
    failure: TierError | None
    tiers: Mapping[str, int]


class Map(Generic[V]):
    """Names to values: each read from the nearest tier that has it, each change durable at once.

    A name is any text of at most 1 MiB in UTF-8. What was put is there after Redis is killed,
    flushed or full; without a durable tier, Redis is all there is. Several names cost one round trip
    per tier. Thread-safe; made by `Tiers.map`.

    Args:
        tiers: where values live and for which tenant.
        name: maps of different names share nothing.
        codec: how values become bytes.
        ttl: seconds that values stay; None: for ever.
        jitter: up to this share is taken off each TTL at random. 0 to 0.5.
        compress_from: values of at least so many bytes are compressed; None: none are.
        max_value: most bytes of a value, before compression.
    """

    def __init__(
        self,
        tiers: Tiers,
        name: str,
        codec: Codec[V],
        *,
        ttl: float | None = None,
        jitter: float = 0.0,
        compress_from: int | None = None,
        max_value: int = MAX_VALUE,
    ) -> None:
        keys = tiers.keys.map(name)
        self.tiers = tiers
        self.name = name
        self._codec = codec
        self._ttl = None if ttl is None else seconds("ttl", ttl)
        if (
            isinstance(jitter, bool)
            or not isinstance(jitter, int | float)
            or not 0 <= jitter <= 0.5
        ):
            raise InvalidInput(f"jitter must be a number from 0 to 0.5, got {jitter!r}")
        self._jitter = float(jitter)
        if compress_from is not None:
            integer("compress_from", compress_from, 0)
        self._compress_from = compress_from
        self._max_value = integer("max_value", max_value, 1, MAX_VALUE)
        self._store = tiers.shared(("map", keys.scope), lambda: Store(tiers, keys))

    def __repr__(self) -> str:
        return f"Map({self.tiers!r}, name={self.name!r})"

    # Reading.

    def get(self, name: str) -> V | None:
        """A value; None: there is none.

        Raises:
            InvalidInput: not a name.
            TierError: it was not found, and a tier that may have it failed.
        """
        return self._got([stored_name("name", name)])[0]

    async def aget(self, name: str) -> V | None:
        """As `get`."""
        return (await self._agot([stored_name("name", name)]))[0]

    def get_many(self, names: Iterable[str]) -> list[V | None]:
        """Values in the order of their names; None where there is none.

        Raises:
            InvalidInput: not names.
            TierError: some were not found, and a tier that may have them failed.
        """
        return self._got(_names("names", names))

    async def aget_many(self, names: Iterable[str]) -> list[V | None]:
        """As `get_many`."""
        return await self._agot(_names("names", names))

    def _got(self, stored: list[bytes]) -> list[V | None]:
        held = self._store.recall(stored)
        return self.tiers.run(self._having(stored)) if held is None else self._loaded(held)

    async def _agot(self, stored: list[bytes]) -> list[V | None]:
        held = self._store.recall(stored)
        return await self.tiers.arun(self._having(stored)) if held is None else self._loaded(held)

    def reading(self, stored: list[bytes]) -> Flow[Found[V]]:
        """For other capabilities: as `get_many`, by stored names; it tells of a failure and goes on."""
        values, failure, tiers = yield from self._store.read(stored)
        return Found(self._loaded(values), failure, tiers)

    def having(self, names: Iterable[str]) -> Flow[list[V | None]]:
        """For other capabilities: the flow of `get_many`."""
        return self._having(_names("names", names))

    def _having(self, stored: list[bytes]) -> Flow[list[V | None]]:
        return self._whole((yield from self.reading(stored)))

    def remembered(self, name: str) -> V | None:
        """A value, if this process's memory has it: no other process has changed it that this one was
        told of. None: it must be asked for.

        Raises:
            InvalidInput: not a name.
        """
        held = self._store.recall([stored_name("name", name)])
        return None if held is None else self._value(held[0])

    def _whole(self, found: Found[V]) -> list[V | None]:
        if found.failure is not None:
            raise found.failure
        return found.values

    def _loaded(self, values: Iterable[Data | None]) -> list[V | None]:
        return [None if value is None else self._value(value) for value in values]

    def _value(self, data: Data) -> V | None:
        try:
            return self._codec.loaded(data)
        except Unreadable as problem:
            self._store.not_read(problem.reason)
            return None

    # Changing.

    def put(self, name: str, value: V, *, ttl: float | None = _UNSET) -> None:
        """Store a value in place of the one before.

        Args:
            name: of the value.
            value: of the map's kind.
            ttl: seconds that it stays; None: for ever; left out: the map's own.

        Raises:
            InvalidInput: an argument has the wrong type or size.
            TierError: it is not stored.
        """
        self.write({name: value}, ttl=ttl)

    async def aput(self, name: str, value: V, *, ttl: float | None = _UNSET) -> None:
        """As `put`."""
        await self.awrite({name: value}, ttl=ttl)

    def delete(self, name: str) -> bool:
        """Delete a value; tells whether there was one.

        Raises:
            InvalidInput: not a name.
            TierError: it is not deleted.
        """
        stored_name("name", name)
        return self.write(delete=(name,)) > 0

    async def adelete(self, name: str) -> bool:
        """As `delete`."""
        stored_name("name", name)
        return await self.awrite(delete=(name,)) > 0

    def write(
        self,
        put: Mapping[str, V] | None = None,
        delete: Iterable[str] = (),
        *,
        ttl: float | None = _UNSET,
    ) -> int:
        """Store and delete several values; with a durable tier all or nothing, in one transaction.

        Args:
            put: values by name.
            delete: names, none of them among `put`.
            ttl: as for `put`.

        Returns:
            How many values were deleted.

        Raises:
            InvalidInput: an argument has the wrong type or size; nothing was written.
            TierError: with a durable tier, nothing was written; without one, some may be.
        """
        return self.tiers.run(self.changing(put, delete, ttl))

    async def awrite(
        self,
        put: Mapping[str, V] | None = None,
        delete: Iterable[str] = (),
        *,
        ttl: float | None = _UNSET,
    ) -> int:
        """As `write`."""
        return await self.tiers.arun(self.changing(put, delete, ttl))

    def changing(
        self,
        put: Mapping[str, V] | None = None,
        delete: Iterable[str] = (),
        ttl: float | None = _UNSET,
    ) -> Flow[int]:
        """For other capabilities: the flow of `write`; arguments are checked before its first step."""
        if put is not None and not isinstance(put, Mapping):
            raise InvalidInput(f"put must be a mapping or None, got {type(put).__name__}")
        ttl = self._ttl if ttl is _UNSET else None if ttl is None else seconds("ttl", ttl)
        values: dict[bytes, bytes] = {}
        for name, value in (put or {}).items():
            stored = stored_name("name", name)
            data = self._codec.dumped("value", value)
            if len(data) > self._max_value:
                raise InvalidInput(
                    f"value must have at most {self._max_value} bytes, got {len(data)}"
                )
            values[stored] = sealed(name, stored, data, compress_from=self._compress_from)
        remove = list(dict.fromkeys(_names("delete", delete)))
        if any(name in values for name in remove):
            raise InvalidInput("delete must not name what is put as well")
        return self._store.change(values, remove, ttl, self._jitter)

    def clear(self) -> None:
        """Delete every value of this map and tenant, in every process.

        Raises:
            TierError: a tier could not be told.
        """
        self.tiers.run(self._store.clear())

    async def aclear(self) -> None:
        """As `clear`."""
        await self.tiers.arun(self._store.clear())

    # Listing.

    def page(
        self, prefix: str = "", *, after: str | None = None, limit: int = _PAGE
    ) -> list[tuple[str, V]]:
        """Names and values whose names begin with a prefix, in the order of their UTF-8 bytes; of
        names of more than 1000 bytes, in that of their beginnings.

        Args:
            prefix: of the names; "": all.
            after: the last name of the page before; None: from the first.
            limit: how many at most, 1 to 10,000; fewer: there are no more.

        Raises:
            InvalidInput: an argument has the wrong type or range.
            TierError: the durable tier failed, or Redis if there is none.
        """
        found, *_ = self.tiers.run(self.listing(prefix, after, limit))
        return found

    async def apage(
        self, prefix: str = "", *, after: str | None = None, limit: int = _PAGE
    ) -> list[tuple[str, V]]:
        """As `page`."""
        found, *_ = await self.tiers.arun(self.listing(prefix, after, limit))
        return found

    def items(self, prefix: str = "") -> Iterator[tuple[str, V]]:
        """All names and values, page by page; what is put meanwhile may be among them.

        Raises:
            InvalidInput, TierError: as `page`.
        """
        after = b""
        while True:
            found, after, more = self.tiers.run(self.listing(prefix, after, _PAGE))
            yield from found
            if not more:
                return

    async def aitems(self, prefix: str = "") -> AsyncIterator[tuple[str, V]]:
        """As `items`."""
        after = b""
        while True:
            found, after, more = await self.tiers.arun(self.listing(prefix, after, _PAGE))
            for item in found:
                yield item
            if not more:
                return

    def names(self, prefix: str = "") -> Iterator[str]:
        """All names, as `items`; a durable tier does not read the values for it."""
        after = b""
        while True:
            found, after, more = self.tiers.run(self._paged(prefix, after, _PAGE, values=False))
            yield from (name for name, _ in found)
            if not more:
                return

    async def anames(self, prefix: str = "") -> AsyncIterator[str]:
        """As `names`."""
        after = b""
        while True:
            flow = self._paged(prefix, after, _PAGE, values=False)
            found, after, more = await self.tiers.arun(flow)
            for name, _ in found:
                yield name
            if not more:
                return

    def listing(
        self, prefix: str, after: str | bytes | None, limit: int
    ) -> Flow[tuple[list[tuple[str, V]], bytes, bool]]:
        """For other capabilities: a page, the stored name after which the next begins, and whether there
        is one."""
        most = integer("limit", limit, 1, _MAX_PAGE)
        found: list[tuple[str, V]] = []
        while True:
            page, begin, more = yield from self._paged(prefix, after, most - len(found))
            for name, data in page:
                try:
                    found.append((name, self._codec.loaded(data)))
                except Unreadable as problem:
                    self._store.not_read(problem.reason)
            if not more or len(found) == most:
                return found, begin, more
            after = begin

    def _paged(
        self, prefix: str, after: str | bytes | None, limit: int, *, values: bool = True
    ) -> Flow[tuple[list[tuple[str, Data]], bytes, bool]]:
        """As `listing`, before the values are read; fewer than `limit` only if there are no more."""
        low = prefix_of(prefix)
        begin = after if isinstance(after, bytes) else b""
        if isinstance(after, str):
            begin = stored_name("after", after)
        elif after is not None and not isinstance(after, bytes):
            raise InvalidInput(f"after must be a str or None, got {type(after).__name__}")
        found: list[tuple[str, Data]] = []
        while True:
            page = yield from self._store.page(low, begin, limit - len(found), values=values)
            found += [(name, data) for name, data in page.found if name.startswith(prefix)]
            if page.after is None:
                return found, b"", False
            begin = page.after
            if len(found) == limit:
                return found, begin, True


def _names(argument: str, names: object) -> list[bytes]:
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise InvalidInput(f"{argument} must be several str, got {type(names).__name__}")
    return [stored_name(argument, name) for name in names]
