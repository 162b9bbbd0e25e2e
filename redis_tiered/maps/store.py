"""The flows of a map: read, change, list, forget.

The durable tier holds the truth, and gives each change a revision; Redis never replaces a later one by
an earlier one, and a deletion leaves a mark there for a while. Without a durable tier Redis is all
there is, and keeps an index of the names.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from redis_tiered.errors import TierError, Unreadable
from redis_tiered.flow import Command, Flow, Redis, Sql
from redis_tiered.keys import MapKeys
from redis_tiered.maps import scripts
from redis_tiered.maps.item import Data, Item, digest_of, gone, name_of, opened, placed, untold
from redis_tiered.tiers.epoch import Answers, Epoch
from redis_tiered.tiers.identity import new_token
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from redis_tiered.maps.rows import Written

__all__ = ["Page", "Read", "Store"]

logger = logging.getLogger("redis_tiered")

N = TypeVar("N", str, bytes)

# Redis keeps what never expires for so long at a time, if the durable tier has it.
_RESIDENCY_MS: Final = 86_400_000
_PURGE_EVERY: Final = 60.0
# What is written in one round trip, at most.
_STEP_BYTES: Final = 8 * 1024 * 1024
_STEP_VALUES: Final = 20_000
# Values of one command, so that no other client waits long behind it.
_COMMAND_VALUES: Final = 500
# Kinds of failure after which the durable tier may have committed all the same.
_UNCERTAIN: Final = frozenset({"reset", "timeout", "refused", "loading"})
_LATEST: Final = 1 << 53  # a revision that none exceeds
_ALONE: Final = "0"  # in place of an epoch, where Redis is all there is


class Read(NamedTuple):
    """What was read.

    Attributes:
        values: one per name; None: there is none, or it was not found where it could be looked for.
        failure: why not everything could be looked for everywhere; None: it could.
        tiers: how many values came from `"memory"`, `"redis"` and `"durable"`.
    """

    values: list[Data | None]
    failure: TierError | None
    tiers: Counter[str]


class Page(NamedTuple):
    """Some values in the order of their stored names.

    Attributes:
        found: names and values.
        after: stored name after which the next page begins; None: there is none.
    """

    found: list[tuple[str, Data]]
    after: bytes | None


class Store:
    """The values of one map of one tenant, as this process reaches them. Names are stored names.

    Args:
        tiers: where.
        keys: of the map.
        now: seconds since 1970.
    """

    def __init__(
        self, tiers: Tiers, keys: MapKeys, *, now: Callable[[], float] = time.time
    ) -> None:
        self._tiers = tiers
        self._keys = keys
        self._now = now
        self._memory = tiers.memory
        # Redis alone is believed, whatever it says: there is nothing to compare it with.
        self._epoch = None if tiers.durable is None else Epoch(tiers, keys)
        self._together = tiers.settings.endpoint.topology != "cluster"
        self._purging = False
        self.unreadable: Counter[str] = Counter()
        tiers.on_fork(self)

    def reset_after_fork(self) -> None:
        if self._epoch is not None:
            self._epoch.reset_after_fork()
        self._purging = False

    def flush(self) -> None:
        """At close: nothing is pending."""

    def _milliseconds(self) -> int:
        return int(self._now() * 1000)

    def _certain(self) -> str | None:
        return _ALONE if self._epoch is None else self._epoch.certain()

    def _ask(
        self, commands: Callable[[str], tuple[Command, ...]], *, write: bool = False
    ) -> Flow[Answers]:
        if self._epoch is not None:
            return (yield from self._epoch.ask(commands, write=write))
        ticket = self._memory.ticket()
        replies = yield Redis(commands(_ALONE), write)
        return Answers(replies, _ALONE, ticket)

    # Reading.

    def recall(self, names: Sequence[bytes]) -> list[Data] | None:
        """All of these values from memory, without any step; None: not all are there."""
        epoch = self._certain()
        if epoch is None:
            return None
        found = []
        now = self._milliseconds()
        for key in self._keys.values(epoch, map(digest_of, names)):
            value = self._remembered(key, now)
            if value is None:
                return None
            found.append(value)
        return found

    def read(self, names: Sequence[bytes]) -> Flow[Read]:
        """Values by names, each from the nearest tier that has it: at most one round trip to Redis, and
        one to the durable tier; what that has is written to Redis in one more."""
        values: list[Data | None] = [None] * len(names)
        tiers: Counter[str] = Counter()
        digests = [digest_of(name) for name in names]
        missing = self._from_memory(digests, values)
        tiers["memory"] = len(names) - len(missing)
        if not missing:
            return Read(values, None, tiers)
        failure: TierError | None = None
        epoch: str | None = None
        try:
            wanted = missing
            missing, epoch = yield from self._from_redis(digests, wanted, values)
            tiers["redis"] = sum(values[i] is not None for i in wanted)
        except TierError as error:
            failure = error
        if self._tiers.durable is None or not missing:
            return Read(values, failure if missing else None, tiers)
        from redis_tiered.maps import rows

        now = self._milliseconds()
        try:
            found = yield Sql(rows.read(self._keys.scope, [names[i] for i in missing], now))
        except TierError as error:
            return Read(values, error, tiers)
        warm: list[tuple[str, bytes, int]] = []
        for i in missing:
            row = found.get(names[i])
            item = None if row is None else self._opened(placed(row.value, *row[2:]))
            if row is None or item is None or item.value is None:
                continue
            values[i] = item.value
            tiers["durable"] += 1
            warm.append((digests[i], placed(row.value, *row[2:]), item.expires))
        if epoch is not None and warm:
            yield from self._warm(epoch, warm, now)
        return Read(values, None, tiers)

    def _from_memory(self, digests: Sequence[str], values: list[Data | None]) -> list[int]:
        """Fill in what memory has; gives the positions of the rest."""
        epoch = self._certain()
        if epoch is None:
            return list(range(len(digests)))
        missing = []
        now = self._milliseconds()
        for i, key in enumerate(self._keys.values(epoch, digests)):
            values[i] = self._remembered(key, now)
            if values[i] is None:
                missing.append(i)
        return missing

    def _remembered(self, key: bytes, now: int) -> Data | None:
        held = self._memory.get(key)
        if held is None:
            return None
        item = opened(held, trusted=True)
        return None if 0 < item.expires <= now else item.value

    def _from_redis(
        self, digests: Sequence[str], wanted: Sequence[int], values: list[Data | None]
    ) -> Flow[tuple[list[int], str]]:
        """Fill in what Redis has; gives the positions of what it does not know, and the epoch."""
        asked = digests if len(wanted) == len(digests) else [digests[i] for i in wanted]
        keys: list[bytes] = []

        def commands(epoch: str) -> tuple[Command, ...]:
            nonlocal keys
            keys = self._keys.values(epoch, asked)
            return self._gets(keys)

        replies, epoch, ticket = yield from self._ask(commands)
        missing = []
        useless: list[Command] = []
        now = self._milliseconds()
        for i, key, data in zip(wanted, keys, self._got(replies), strict=True):
            if data is None:
                missing.append(i)
                continue
            try:
                value, _, _, expires = opened(data)
            except Unreadable as problem:
                self.not_read(problem.reason)
                useless.append(("EVAL", scripts.DISCARD, 1, key, data))
                missing.append(i)
                continue
            if 0 < expires <= now:
                missing.append(i)
            elif value is not None:  # else it was deleted: the durable tier has it no more
                values[i] = value
                left = None if expires == 0 else (expires - now) / 1000
                self._memory.put(key, data, ticket, ttl=left)
        if useless:
            try:
                yield Redis(tuple(useless))
            except TierError:
                pass  # counted; the next reader tries again
        return missing, epoch

    def _gets(self, keys: Sequence[bytes]) -> tuple[Command, ...]:
        if not self._together:
            return tuple(("GET", key) for key in keys)
        return tuple(("MGET", *keys[start:end]) for start, end in self._ranges(len(keys)))

    def _ranges(self, count: int) -> Iterator[tuple[int, int]]:
        """Of what one command is about: no other client waits long behind it, and on a cluster it is
        for one key."""
        most = _COMMAND_VALUES if self._together else 1
        return ((start, min(start + most, count)) for start in range(0, count, most))

    def _got(self, replies: list[Any]) -> list[Any]:
        return [data for reply in replies for data in reply] if self._together else replies

    def _opened(self, data: bytes) -> Item | None:
        try:
            return opened(data)
        except Unreadable as problem:
            self.not_read(problem.reason)
            return None

    def not_read(self, reason: str) -> None:
        """Count stored bytes that are taken for nothing."""
        if not self.unreadable[reason]:
            logger.warning(
                "a stored value cannot be read (%s): as if it were not there (said once)", reason
            )
        self.unreadable[reason] += 1

    def _warm(self, epoch: str, found: list[tuple[str, bytes, int]], read_at: int) -> Flow[None]:
        """Put into Redis what the durable tier had, unless it was written or deleted meanwhile."""
        now = self._milliseconds()
        if now - read_at > scripts.TOMBSTONE_MS // 2:
            return  # what Redis knew of a change since may be gone by now
        keys = self._keys.values(epoch, (digest for digest, _, _ in found))
        commands: list[Command] = []
        for start, end in self._ranges(len(found)):
            words = (
                word
                for _, data, expires in found[start:end]
                for word in (_residency(expires, now), data)
            )
            commands.append(("EVAL", scripts.WARM, end - start, *keys[start:end], *words))
        try:
            yield Redis(tuple(commands), write=True)
        except TierError:
            pass  # counted; the values are in hand

    # Changing.

    def change(
        self, put: Mapping[bytes, bytes], remove: Sequence[bytes], ttl: float | None, jitter: float
    ) -> Flow[int]:
        """Put sealed values and delete others, all or nothing; gives how many were deleted.

        Args:
            put: by name.
            remove: names, none of them among `put`.
            ttl: seconds that what is put stays; None: for ever.
            jitter: up to this share is taken off it at random.

        Raises:
            TierError: the durable tier could not be told and nothing changed; without one, Redis could
                not, and some of it may have.
        """
        if not put and not remove:
            return 0
        kept = 0 if ttl is None else max(1, int(ttl * 1000 * (1 - jitter * random.random())))
        expires = self._milliseconds() + kept if kept else 0
        if self._tiers.durable is None:
            return (yield from self._change_redis(put, remove, kept, expires))
        from redis_tiered.maps import rows

        begun = self._now()
        now = int(begun * 1_000_000)
        work = rows.write(self._keys.scope, list(put.items()), remove, expires, now, new_token())
        try:
            try:
                written = yield Sql(work, write=True)
            except TierError as error:
                if error.kind in _UNCERTAIN:
                    yield from self._perhaps([*put, *remove])
                raise
            residency = _residency(expires, self._milliseconds())
            told = [(name, placed(value, written.revision, expires)) for name, value in put.items()]
            told += [(name, gone(written.revision)) for name in remove]
            for part in _parts(told):
                yield from self._tell(part, written, residency, begun)
        except GeneratorExit:
            # A caller was cancelled.
            self._later(self._perhaps([*put, *remove]))
            raise
        if expires and not self._purging:
            self._purging = True
            self._tiers.housekeeper.submit(self._purge_now, after=_PURGE_EVERY)
        return int(written.deleted)

    def _perhaps(self, names: Sequence[bytes]) -> Flow[None]:
        """The durable tier may have a change of these: for a while Redis is to know nothing of them."""
        yield from self._untold([digest_of(name) for name in names], _LATEST)

    def _later(self, flow: Flow[None]) -> None:
        def job() -> float | None:
            self._attempt(flow)
            return None

        self._tiers.housekeeper.submit(job)

    def _tell(
        self, told: Sequence[tuple[bytes, bytes]], written: Written, lasting: int, begun: float
    ) -> Flow[None]:
        """Have Redis follow the durable tier: with what was written or, if it takes no more, by knowing
        nothing of it.

        Args:
            told: names, and what Redis shall have.
            written: what the durable tier said.
            lasting: milliseconds that Redis keeps values.
            begun: when the change began, in seconds since 1970.
        """
        assert self._epoch is not None
        digests = [digest_of(name) for name, _ in told]
        mark = untold(written.revision)
        words = (written.revision, lasting, mark, scripts.TOMBSTONE_MS)

        def is_current(epoch: str) -> bool:
            return epoch.partition(".")[0] == written.epoch

        def commands(epoch: str) -> tuple[Command, ...]:
            if not is_current(epoch):
                return (("EXISTS", self._keys.epoch),)
            keys = self._keys.values(epoch, digests)
            made: list[Command] = []
            for start, end in self._ranges(len(told)):
                data = (data for _, data in told[start:end])
                made.append(("EVAL", scripts.STORE, end - start, *keys[start:end], *words, *data))
            return tuple(made)

        if (self._now() - begun) * 1000 > scripts.TOMBSTONE_MS // 2:
            # What Redis knew of a change after ours may be gone by now.
            yield from self._untold(digests, written.revision)
            return
        try:
            _, epoch, _ = yield from self._ask(commands, write=True)
            if not is_current(epoch):
                # It has changed since: Redis is to know nothing of before, nor of this. Or it had
                # changed before, and Redis has yet to hear of that.
                self._epoch.doubt()
                if is_current((yield from self._epoch.establish())):
                    _, epoch, _ = yield from self._ask(commands, write=True)
        except TierError:
            yield from self._untold(digests, written.revision)
        else:
            # The server's own message may come after we return: our caller reads its write.
            self._memory.invalidate(self._keys.values(epoch, digests))

    def _untold(self, digests: Sequence[str], revision: int) -> Flow[None]:
        """Redis missed a change: what it holds of these is what was before."""
        assert self._epoch is not None
        words = (revision, untold(revision), scripts.TOMBSTONE_MS)
        try:
            epoch = yield from self._epoch.establish()
            keys = self._keys.values(epoch, digests)
            parts = [keys[start:end] for start, end in self._ranges(len(keys))]
            # Allowed even when the server is out of memory.
            yield Redis(tuple(("EVAL", scripts.MARK, len(part), *part, *words) for part in parts))
            self._memory.invalidate(keys)
        except TierError:
            try:
                yield from self._epoch.renew(clear=False)
            except TierError:
                return  # counted; tried again in the background until both tiers know

    def _change_redis(
        self, put: Mapping[bytes, bytes], remove: Sequence[bytes], kept: int, expires: int
    ) -> Flow[int]:
        """Where Redis is all there is."""
        deleted = 0
        values = [(name, placed(value, 0, expires)) for name, value in put.items()]
        for part in _parts(values):
            yield from self._ask_shards(scripts.PUT, part, (kept,), write=True)
        for start in range(0, len(remove), _STEP_VALUES):
            names = [(name,) for name in remove[start : start + _STEP_VALUES]]
            deleted += sum((yield from self._ask_shards(scripts.REMOVE, names)))
        return deleted

    def _ask_shards(
        self,
        script: str,
        rows: Sequence[tuple[bytes, ...]],
        words: tuple[int, ...] = (),
        *,
        write: bool = False,
    ) -> Flow[list[Any]]:
        """A script once for each shard.

        Args:
            script: its first key is the shard's index, then one for each row.
            rows: names, each with what goes with it.
            words: of the script, before those of the rows.
            write: refused by a server that is out of memory.
        """
        shards: dict[str, list[tuple[bytes, ...]]] = {}
        for row in rows:
            shards.setdefault(digest_of(row[0])[0], []).append(row)

        def commands(epoch: str) -> tuple[Command, ...]:
            made: list[Command] = []
            for shard, mine in shards.items():
                keys = self._keys.values(epoch, (digest_of(row[0]) for row in mine))
                index = self._keys.index(epoch, shard)
                rest = (word for row in mine for word in row)
                made.append(("EVAL", script, 1 + len(keys), index, *keys, *words, *rest))
            return tuple(made)

        replies, epoch, _ = yield from self._ask(commands, write=write)
        self._memory.invalidate(self._keys.values(epoch, (digest_of(row[0]) for row in rows)))
        return replies

    # Listing.

    def page(self, prefix: bytes, after: bytes, most: int, *, values: bool = True) -> Flow[Page]:
        """Values whose stored names begin with a prefix, in order.

        Args:
            prefix: at most what is stored of a long name.
            after: stored name; only what comes after it. b"": from the first.
            most: how many at most; there may be fewer though more follow.
            values: False: the durable tier leaves out what is only a value; it is b"" then.

        Raises:
            TierError: the tier that knows all names failed.
        """
        # No byte of UTF-8 is 255.
        high = prefix[:-1] + bytes((prefix[-1] + 1,)) if prefix else None
        if self._tiers.durable is None:
            return (yield from self._page_redis(prefix, high, after, most))
        from redis_tiered.maps import rows

        now = self._milliseconds()
        work = rows.page(self._keys.scope, prefix, high, after, most, now, values=values)
        found = yield Sql(work)
        listed: list[tuple[str, Data]] = []
        for row in found:
            if not row.value:
                listed.append((row.name.decode(), b""))
                continue
            item = self._opened(placed(row.value, row.revision, row.expires))
            if item is not None and item.value is not None:
                listed.append((name_of(row.name, item), item.value))
        return Page(listed, found[-1].name if len(found) == most else None)

    def _page_redis(self, prefix: bytes, high: bytes | None, after: bytes, most: int) -> Flow[Page]:
        low = b"(" + after if after and after >= prefix else b"[" + prefix
        end = b"+" if high is None else b"(" + high

        def commands(epoch: str) -> tuple[Command, ...]:
            rest = (low, end, "LIMIT", 0, most)
            return tuple(
                ("ZRANGEBYLEX", self._keys.index(epoch, shard), *rest)
                for shard in self._keys.SHARDS
            )

        replies, epoch, _ = yield from self._ask(commands)
        names = sorted(name for reply in replies for name in reply)[:most]
        if not names:
            return Page([], None)
        keys = self._keys.values(epoch, map(digest_of, names))
        values = self._got((yield Redis(self._gets(keys))))
        now = self._milliseconds()
        listed, over = [], []
        for name, key, data in zip(names, keys, values, strict=True):
            item = None if data is None else self._opened(data)
            if data is None:
                index = self._keys.index(epoch, digest_of(name)[0])
                over.append(("EVAL", scripts.FORGET, 2, index, key, name))
            elif item is not None and item.value is not None and not 0 < item.expires <= now:
                listed.append((name_of(name, item), item.value))
        if over:
            try:
                yield Redis(tuple(over))
            except TierError:
                pass  # counted; the next one who lists tries again
        return Page(listed, names[-1] if len(names) == most else None)

    # Forgetting.

    def clear(self) -> Flow[None]:
        """Forget everything at once; memory is reclaimed in the background.

        Raises:
            TierError: a tier could not be told; see `Epoch.renew`.
        """
        if self._epoch is None:
            yield from self._unlink()
            return
        old = self._epoch.likely()
        if old is None:
            try:
                old = yield from self._epoch.establish()
            except TierError:
                old = None  # Redis is away; what it holds ends with its TTL
        try:
            yield from self._epoch.renew(clear=True)
        finally:
            self._later(self._sweep(old))

    def _purge_now(self) -> float | None:
        self._purging = False
        self._attempt(self._sweep(None))
        return None

    def _attempt(self, flow: Flow[None]) -> None:
        try:
            self._tiers.run(flow)
        except TierError as error:
            logger.debug("not reclaimed now: %s", error)

    def _sweep(self, old: str | None) -> Flow[None]:
        """Delete rows that expired or were cleared, and what Redis has of the latter."""
        from redis_tiered.maps import rows

        while True:
            count, cleared = yield Sql(
                rows.purge(self._keys.scope, self._milliseconds()), write=True
            )
            if old is not None and cleared:
                keys = self._keys.values(old, map(digest_of, cleared))
                yield Redis(tuple(("UNLINK", key) for key in keys))
            if not count:
                return

    def _unlink(self) -> Flow[None]:
        """Delete what Redis alone has, by its index."""
        for shard in self._keys.SHARDS:
            index = self._keys.index(_ALONE, shard)
            while True:
                [names] = yield Redis((("ZRANGEBYLEX", index, "-", "+", "LIMIT", 0, 500),))
                if not names:
                    break
                yield from self._ask_shards(scripts.REMOVE, [(name,) for name in names])


def _parts(told: Sequence[tuple[N, bytes]]) -> Iterator[Sequence[tuple[N, bytes]]]:
    """Of a size that is sent at once."""
    start = size = 0
    for i, (_, data) in enumerate(told):
        if i > start and (size + len(data) > _STEP_BYTES or i - start == _STEP_VALUES):
            yield told[start:i]
            start, size = i, 0
        size += len(data)
    if told:
        yield told[start:]


def _residency(expires: int, now: int) -> int:
    """Milliseconds that Redis keeps a value; for a while also when it is over, as a mark."""
    left = _RESIDENCY_MS if expires == 0 else min(expires - now, _RESIDENCY_MS)
    return max(left, scripts.TOMBSTONE_MS)
