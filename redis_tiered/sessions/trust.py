"""Whether what Redis holds of the sessions may be believed, and under which keys.

The log is the truth; a window in Redis is a copy that an append brings up to date after it has
committed. An append that Redis missed must not be acknowledged while somebody may still read the
copy without it. So every process asks the durable tier for the *epoch*, the part of the windows'
keys that makes them reachable, and believes Redis for `LEASE` seconds after it has asked. An
append that Redis missed ends the epoch and waits until no such belief can be left.

The epoch also names the very server processes, as one that was restarted, or a promoted replica, may
hold an older state than it acknowledged. Who is connected to others does not use it, but ends it: so
an old primary that somebody still reaches is not read while others write to the new one. An epoch
that was ended is *unadopted*: nobody uses Redis until somebody reads a session again, so that a long
outage is waited for just once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.flow import Command, Flow, Redis, Sleep, Sql
from redis_tiered.tiers.identity import new_token, servers
from redis_tiered.tiers.tiers import Tiers

__all__ = ["LEASE", "UNADOPTED", "WITHOUT_DURABLE", "Grant", "Trust", "trust_of"]

UNADOPTED = "?"
# Seconds for which a process believes Redis without asking the durable tier.
LEASE = 0.25
# What two processes' clocks may differ in how fast they run, and more.
_MARGIN = 0.05
WITHOUT_DURABLE = "0"
# Seconds for which a reader leaves an epoch alone that is of other servers than its own.
_DISPUTE = 1.0


class Grant(NamedTuple):
    """Leave to use the windows of one epoch.

    Attributes:
        epoch: the part of their keys.
        incarnation: of Redis, when it was given.
        until: when it ends, by the monotonic clock; infinite if the durable tier is not there to ask.
    """

    epoch: str
    incarnation: int
    until: float


class Trust:
    """What this process knows of the epoch; one per `Tiers`, shared by all tenants and sessions."""

    def __init__(self, tiers: Tiers, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._guards = tiers.guards
        self._has_durable = tiers.durable is not None
        self._scope = tiers.keys.sessions.trust
        self._clock = clock
        self._servers = ""
        self._servers_at = -1
        self._grant: Grant | None = None
        self._ended = ""
        self._over = 0.0
        self._disputed = -_DISPUTE

    def grant(self) -> Flow[Grant]:
        """Leave to use Redis now.

        Raises:
            TierError: Redis must not be used: it is away; or an epoch has just ended; or the durable
                tier is away and Redis may have been meanwhile.
        """
        known = self._grant
        if known is not None and self.holds(known):
            return known
        if not self._has_durable:
            return Grant(WITHOUT_DURABLE, -1, float("inf"))
        while True:
            incarnation = yield from self._identify()
            asked = self._clock()
            try:
                epoch = yield from self._adopted()
            except TierError as error:
                # Nobody can acknowledge anything without the durable tier: what was true when it
                # was last seen still is, unless Redis was away.
                if (
                    error.tier == "redis"
                    or known is None
                    or known.incarnation != self._guards.redis_incarnation
                ):
                    raise
                return known._replace(until=float("inf"))
            if incarnation == self._guards.redis_incarnation and epoch.endswith(self._servers):
                self._grant = Grant(epoch, incarnation, asked + LEASE)
                return self._grant

    def holds(self, grant: Grant) -> bool:
        """Whether what was read under a grant may be believed; to be asked after it was read."""
        return self._clock() <= grant.until and (
            grant.incarnation in (-1, self._guards.redis_incarnation)
        )

    def place(self, epoch: str) -> Flow[Grant | None]:
        """Where a change belongs that was committed under an epoch; None: nobody reads Redis now.

        Raises:
            TierError: Redis is away, or is not the one that is read.
        """
        if epoch.startswith(UNADOPTED):
            yield from self._wait_out(epoch)
            return None
        if "." not in epoch:
            return None
        incarnation = yield from self._identify()
        if not epoch.endswith(self._servers):
            incarnation = yield from self._identify(again=True)
            if not epoch.endswith(self._servers):
                raise TierUnavailable("redis", "epoch", "its windows are on other servers")
        return Grant(epoch, incarnation, float("inf"))

    def tell(self, epoch: str, commands: Callable[[str], tuple[Command, ...]]) -> Flow[None]:
        """Tell Redis of what has committed under an epoch; or see to it that nobody believes Redis.

        Args:
            commands: for the windows of an epoch.

        Raises:
            TierError: as for `end`.
        """
        try:
            while True:
                grant = yield from self.place(epoch)
                if grant is None:
                    return
                # Not refused with other writes: out of memory, a window is dropped at least.
                yield Redis(commands(grant.epoch))
                if self.holds(grant):
                    return
        except TierError:
            yield from self.end()

    def end(self) -> Flow[None]:
        """Return when no window that is there now is believed any more, in any process.

        Raises:
            TierError: the durable tier failed; then a change must not be acknowledged.
        """
        from redis_tiered.sessions import epochs

        ended: str = yield Sql(epochs.distrust(self._scope, new_token()), write=True)
        self._grant = None
        yield from self._wait_out(ended)

    def _wait_out(self, ended: str) -> Flow[None]:
        if (remaining := self._remaining(ended)) > 0:
            yield Sleep(remaining)

    def _remaining(self, ended: str) -> float:
        """Seconds until nobody believes what was there before an epoch ended."""
        now = self._clock()
        if ended != self._ended:
            self._ended, self._over = ended, now + LEASE + _MARGIN
        return self._over - now

    def _identify(self, *, again: bool = False) -> Flow[int]:
        """Learn which servers there are; gives the incarnation that this holds for.

        Args:
            again: on new connections, whatever is known.
        """
        if again:
            self._guards.redis.interrupted()
        while self._servers_at != (incarnation := self._guards.redis_incarnation):
            self._servers = (yield from servers()) or "."
            if incarnation == self._guards.redis_incarnation:
                self._servers_at = incarnation
        return incarnation

    def _adopted(self) -> Flow[str]:
        from redis_tiered.sessions import epochs

        found: str | None = yield Sql(epochs.epoch(self._scope))
        epoch = found or new_token()
        if not epoch.startswith(UNADOPTED):
            adoptable = "." not in epoch  # nobody has used it
        else:
            adoptable = self._remaining(epoch) <= 0
        if adoptable:
            epoch = yield Sql(epochs.adopt(self._scope, epoch, self._servers), write=True)
        if self._grant is not None and self._grant.epoch != epoch:
            self._grant = None  # not to be gone back to when the durable tier is away
        if epoch.startswith(UNADOPTED):
            self._remaining(epoch)
            raise TierUnavailable("redis", "epoch", "its windows are from before an outage")
        if not epoch.endswith(self._servers):
            yield from self._dispute(epoch)
        return epoch

    def _dispute(self, epoch: str) -> Flow[None]:
        """Return if we are connected to the servers of an epoch after all.

        Raises:
            TierError: Redis must not be used.
        """
        from redis_tiered.sessions import epochs

        if (now := self._clock()) < self._disputed + _DISPUTE:
            raise TierUnavailable("redis", "epoch", "its windows are on other servers")
        self._disputed = now
        yield from self._identify(again=True)
        if not epoch.endswith(self._servers):
            ended: str = yield Sql(epochs.distrust(self._scope, new_token()), write=True)
            self._remaining(ended)
            raise TierUnavailable("redis", "epoch", "its windows are on other servers")


def trust_of(tiers: Tiers) -> Trust:
    """The one that all tenants and sessions of a `Tiers` share."""
    return tiers.shared("sessions trust", lambda: Trust(tiers))
