"""Which epoch of a cache is current: the part of its Redis keys that makes entries reachable.

The durable tier holds the truth. The epoch changes when the cache is cleared, and when Redis may
hold something older than the durable tier because it missed a write. After every outage the epoch
in Redis is compared with the truth before anything that Redis holds is believed.
"""

from __future__ import annotations

import secrets

from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.flow import Flow, Redis, Sql
from redis_tiered.keys import LLMKeys
from redis_tiered.tiers.tiers import Tiers

__all__ = ["Epoch"]

# Changes the epoch only if nobody else did since we looked ('' stands for absent).
_COMPARE_AND_SET = """
local now = redis.call('GET', KEYS[1]) or ''
if now == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return ARGV[2] end
return now
"""
_ATTEMPTS = 5


class Epoch:
    """The current epoch of one cache, as this process knows it."""

    def __init__(self, tiers: Tiers, keys: LLMKeys) -> None:
        self._tiers = tiers
        self._keys = keys
        self._known: str | None = None
        self._checked = -1

    def certain(self) -> str | None:
        """The epoch, if no other process can have changed it unnoticed; costs no I/O."""
        if self._checked != self._tiers.guards.redis_incarnation:
            return None
        epoch = self._tiers.memory.get(self._keys.epoch)
        return None if epoch is None else epoch.decode()

    def likely(self) -> str | None:
        """The epoch to try, to be confirmed by reading its key along with what it is needed for."""
        return self._known if self._checked == self._tiers.guards.redis_incarnation else None

    def confirm(self, stored: bytes | None, ticket: int) -> bool:
        """Compare the likely epoch with what Redis holds; False: `establish` it and start again."""
        if stored is None or self._known is None or stored != self._known.encode():
            return False
        self._tiers.memory.put(self._keys.epoch, stored, ticket)
        return True

    def establish(self) -> Flow[str]:
        """Read the truth and make Redis agree with it.

        Raises:
            TierError: Redis failed, or knows no epoch while the durable tier cannot be asked.
        """
        for _ in range(_ATTEMPTS):
            incarnation = self._tiers.guards.redis_incarnation
            ticket = self._tiers.memory.ticket()
            [stored] = yield Redis((("GET", self._keys.epoch),))
            text = stored.decode(errors="replace") if isinstance(stored, bytes) else ""
            truth, checked = text, True
            if self._tiers.durable is not None:
                try:
                    truth = yield from self._truth()
                except TierError:
                    # Better an unconfirmed epoch than none; it is checked at the next use.
                    checked = False
            if not truth:
                if not checked:
                    raise TierUnavailable(
                        "redis", "epoch", "unknown while the durable tier is away"
                    )
                truth = new_token()
            if truth != text:
                # Refused when out of memory: then the epoch is simply used without being kept there.
                try:
                    [now] = yield Redis(
                        (("EVAL", _COMPARE_AND_SET, 1, self._keys.epoch, text, truth),), write=True
                    )
                except TierError as error:
                    if error.kind not in ("oom", "open") or (
                        not text and self._tiers.durable is None
                    ):
                        raise
                    now = truth.encode()
                if now != truth.encode():
                    continue
            else:
                self._tiers.memory.put(self._keys.epoch, truth.encode(), ticket)
            self._known = truth
            self._checked = incarnation if checked else -1
            return truth
        raise TierUnavailable("redis", "epoch", "it keeps changing")

    def renew(self, *, clear: bool) -> Flow[str]:
        """Begin a new epoch: durable tier first, then Redis.

        Args:
            clear: also make what the durable tier holds unreachable.

        Raises:
            TierError: the durable tier failed and nothing changed; or Redis failed. In the latter
                case every process learns of the change when it next finds Redis back.
        """
        from redis_tiered.llm_cache import rows

        fresh = new_token()
        if self._tiers.durable is not None:
            begin = rows.new_generation if clear else rows.new_epoch
            yield Sql(begin(self._keys.scope, fresh), write=True)
        self._known, self._checked = None, -1
        self._tiers.memory.invalidate((self._keys.epoch,))
        if self._tiers.durable is None:
            yield Redis((("SET", self._keys.epoch, fresh),), write=True)
            return fresh
        # Out of memory refuses SET but never DEL; the next reader asks the durable tier.
        yield Redis((("DEL", self._keys.epoch),))
        return fresh

    def _truth(self) -> Flow[str]:
        from redis_tiered.llm_cache import rows

        epoch = yield Sql(rows.scope_state(self._keys.scope))
        if epoch is None:
            epoch = yield Sql(rows.ensure_scope(self._keys.scope, new_token()), write=True)
        return str(epoch)


def new_token() -> str:
    return secrets.token_hex(6)
