"""Which epoch of a scope is current: the part of its Redis keys that makes entries reachable.

A scope is a cache or a map of a tenant. The durable tier holds the truth. The epoch changes when the
scope is cleared, and when Redis may hold something older than the durable tier because it missed a write. After every outage the epoch
in Redis is compared with the truth before anything that Redis holds is believed.

With a durable tier the epoch also names the very server processes that the entries were written to:
one that was restarted, or a promoted replica, may hold an older state than it acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.flow import Command, Flow, Redis, Sql
from redis_tiered.tiers import identity
from redis_tiered.tiers.identity import new_token

if TYPE_CHECKING:
    from redis_tiered.tiers.tiers import Tiers

__all__ = ["Answers", "Epoch", "ScopeKeys"]

logger = logging.getLogger("redis_tiered")

# Changes the epoch only if nobody else did since we looked ('' stands for absent). Out of memory
# refuses SET but never DEL: then the old one goes at least, and 0 tells that there is none now.
_COMPARE_AND_SET = """
local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return now end
local set = redis.pcall('SET', KEYS[1], ARGV[2])
if set.err then redis.call('DEL', KEYS[1]) return 0 end
return ARGV[2]
"""
_ATTEMPTS = 5
# How often a process that could not tell Redis of a change tries again: the others do not know.
_REPAIR_EVERY = 0.25


class ScopeKeys(Protocol):
    """Where a scope and its epoch are.

    Attributes:
        scope: for SQL.
        epoch: key of Redis.
    """

    @property
    def scope(self) -> str: ...

    @property
    def epoch(self) -> bytes: ...


class Answers(NamedTuple):
    """What Redis said.

    Attributes:
        replies: one per command.
        epoch: under which it was asked.
        ticket: of L1, taken before.
    """

    replies: list[Any]
    epoch: str
    ticket: int


class Epoch:
    """The current epoch of one scope, as this process knows it."""

    def __init__(self, tiers: Tiers, keys: ScopeKeys) -> None:
        self._tiers = tiers
        self._guards = tiers.guards
        self._memory = tiers.memory
        self._keys = keys
        self._known: str | None = None
        self._checked = -1
        self._doubted = False
        # How often the durable tier could not be told to begin a new epoch, and up to where it was.
        self._missed = 0
        self._renewed = 0
        self._repairing = False

    def reset_after_fork(self) -> None:
        self._repairing = False

    def certain(self) -> str | None:
        """The epoch, if no other process can have changed it unnoticed; costs no I/O."""
        if self._checked != self._guards.redis_incarnation or self._renewed < self._missed:
            return None
        epoch = self._memory.get(self._keys.epoch)
        return None if epoch is None else epoch.decode()

    def likely(self) -> str | None:
        """The epoch to try, to be confirmed by reading its key along with what it is needed for."""
        if self._checked != self._guards.redis_incarnation or self._renewed < self._missed:
            return None
        return self._known

    def doubt(self) -> None:
        """Believe nothing before the durable tier was asked."""
        self._known, self._checked, self._doubted = None, -1, True
        self._memory.invalidate((self._keys.epoch,))

    def confirm(self, epoch: str, stored: bytes | None, ticket: int) -> bool:
        """Compare the epoch that was likely with what Redis holds; False: `establish` it and start
        again. What is known may be another by now: of another thread's asking."""
        if epoch != self._known or stored != epoch.encode():
            return False
        self._memory.put(self._keys.epoch, stored, ticket)
        return True

    def ask(
        self, commands: Callable[[str], tuple[Command, ...]], *, write: bool = False
    ) -> Flow[Answers]:
        """Commands on keys of the current epoch: one round trip, unless the epoch must be found first.

        Args:
            commands: made of an epoch; made and sent again if that was not the current one.
            write: as `Redis` has it.

        Raises:
            TierError: Redis failed, or the epoch cannot be known.
        """
        epoch = self.certain()
        confirmed = epoch is not None
        if epoch is None:
            epoch = self.likely()
        for _ in range(_ATTEMPTS):
            incarnation = self._guards.redis_incarnation
            if epoch is None:
                epoch, confirmed = (yield from self.establish()), True
            ticket = self._memory.ticket()
            if confirmed:
                replies = yield Redis(commands(epoch), write)
                believed = True
            else:
                own = (("GET", self._keys.epoch), *commands(epoch))
                [stored, *replies] = yield Redis(own, write)
                believed = self.confirm(epoch, stored, ticket)
            # Nor is believed what a server says that may have been away and come back meanwhile.
            if believed and (write or incarnation == self._guards.redis_incarnation):
                return Answers(replies, epoch, ticket)
            epoch = None
        raise TierUnavailable("redis", "epoch", "it keeps changing")

    def establish(self) -> Flow[str]:
        """Read the truth and make Redis agree with it.

        Raises:
            TierError: Redis failed, or knows no epoch while the durable tier cannot be asked.
        """
        if self._renewed < self._missed:
            yield from self.renew(clear=False)
        for _ in range(_ATTEMPTS):
            incarnation = self._guards.redis_incarnation
            ticket = self._memory.ticket()
            servers = "" if self._tiers.durable is None else (yield from identity.servers())
            [stored] = yield Redis((("GET", self._keys.epoch),))
            text = stored.decode(errors="replace") if isinstance(stored, bytes) else ""
            begun, checked = text, True
            if self._tiers.durable is not None:
                try:
                    begun = yield from self._truth()
                except TierError:
                    if self._doubted or self._checked not in (-1, incarnation):
                        raise  # Redis may hold what the durable tier has replaced
                    # A process that just began takes what is there, and checks at its next use.
                    begun, checked = text.partition(".")[0], False
            if not begun:
                if not checked:
                    raise TierUnavailable(
                        "redis", "epoch", "unknown while the durable tier is away"
                    )
                begun = new_token()
            truth = begun + servers
            if truth != text:
                [now] = yield Redis((("EVAL", _COMPARE_AND_SET, 1, self._keys.epoch, text, truth),))
                if now == 0 and self._tiers.durable is None:
                    raise TierUnavailable("redis", "oom", "there is no room for the epoch")
                # Not kept (0), it is simply used without being kept there.
                if now != 0 and now != truth.encode():
                    continue
                # A `renew` between our two reads may have found nothing to delete.
                if self._tiers.durable is not None and (yield from self._truth()) != begun:
                    continue
            else:
                self._memory.put(self._keys.epoch, truth.encode(), ticket)
            self._known = truth
            self._checked = incarnation if checked else -1
            if checked:
                self._doubted = False
            return truth
        raise TierUnavailable("redis", "epoch", "it keeps changing")

    def renew(self, *, clear: bool) -> Flow[None]:
        """Begin a new epoch: durable tier first, then Redis. What Redis could not be told now it is
        told as soon as it is back.

        Args:
            clear: also make what the durable tier holds unreachable.

        Raises:
            TierError: the durable tier failed and nothing changed; or Redis failed. In the latter
                case every process learns of the change when it next finds Redis back.
        """
        try:
            yield from self._begin(clear)
        except TierError as error:
            if self._tiers.durable is not None:
                if error.tier == "durable" and not clear:
                    self._missed += 1
                    self.doubt()
                unrenewed = self._renewed < self._missed
                if (unrenewed or error.tier == "redis") and not self._repairing:
                    self._repairing = True
                    self._tiers.housekeeper.submit(self._repair_now, after=_REPAIR_EVERY)
            raise

    def _begin(self, clear: bool) -> Flow[None]:
        from redis_tiered.tiers import scopes

        if self._tiers.durable is not None:
            missed = self._missed
            begin = scopes.new_generation if clear else scopes.new_epoch
            yield Sql(begin(self._keys.scope, new_token()), write=True)
            self._renewed = max(self._renewed, missed)
        self.doubt()
        # Out of memory refuses SET but never DEL; the next reader asks the durable tier, or makes up
        # a new epoch.
        yield Redis((("DEL", self._keys.epoch),))

    def repair(self) -> Flow[None]:
        """Tell Redis what it could not be told.

        Raises:
            TierError: nor can it be now.
        """
        yield from self.establish()
        if self.likely() is None:
            raise TierUnavailable("durable", "epoch", "not confirmed yet")

    def _repair_now(self) -> float | None:
        try:
            self._tiers.run(self.repair())
        except TierError as error:
            logger.debug("epoch not confirmed: %s", error)
            return _REPAIR_EVERY
        self._repairing = False
        return None

    def _truth(self) -> Flow[str]:
        from redis_tiered.tiers import scopes

        epoch = yield Sql(scopes.epoch(self._keys.scope))
        if epoch is None:
            epoch = yield Sql(scopes.ensure(self._keys.scope, new_token()), write=True)
        return str(epoch)
