"""What the LLM cache does a little later: leases, totals, repairs, and reclaiming memory."""

from __future__ import annotations

import logging

from redis_tiered.errors import TierError
from redis_tiered.flow import Command, Flow, Redis, Sql
from redis_tiered.llm_cache import scripts
from redis_tiered.llm_cache.envelope import Envelope, seal
from redis_tiered.llm_cache.fingerprint import Fingerprint
from redis_tiered.llm_cache.flights import Flight, current_owner
from redis_tiered.llm_cache.shelf import Found, Served, Shelf

__all__ = ["Upkeep"]

logger = logging.getLogger("redis_tiered")

# Of leases, which last three times as long.
_RENEW_EVERY = 1.0
_REPORT_EVERY = 2.0
_PURGE_EVERY = 60.0


class Upkeep(Shelf):
    """Jobs on the housekeeper's thread; nothing a caller waits for depends on them."""

    def _hit(self, tier: str, envelope: Envelope, now: int, served: Served | None = None) -> Found:
        self._tally.add(f"hit.{tier}")
        if not self._reporting:
            self._schedule_report()
        return Found(envelope.payload, tier, max(0, now - envelope.created) / 1000, served)

    def _alias(self, digest: str, envelope: Envelope) -> tuple[int, bytes] | None:
        """What has an entry's answer found under another key as long as it is valid: milliseconds,
        and what is kept. None: it is valid no more."""
        residency = self._residency(envelope, self._milliseconds())
        if residency <= 0:
            return None
        alias = envelope._replace(payload=digest.encode(), alias=True)
        return residency, seal(alias, compress_from=None)

    def _miss(self, reason: str) -> None:
        self._tally.add(f"miss.{reason}")
        if not self._reporting:
            self._schedule_report()

    def _board(self, mark: Fingerprint, token: str, key: bytes) -> Flight:
        flight = self._flights.lead(mark.digest, current_owner(), token, self._keys.lease(key))
        if not self._renewing:
            self._renewing = True
            self.tiers.housekeeper.submit(self._renew_leases, after=_RENEW_EVERY)
        return flight

    def reset_after_fork(self) -> None:
        self._flights.reset_after_fork()
        self._tally.reset_after_fork()
        self._epoch.reset_after_fork()
        self._reporting = self._renewing = self._purging = False

    def totals(self) -> Flow[dict[str, int]]:
        """Counters of all processes, this one's included."""
        yield from self._report()
        [flat] = yield Redis(
            (("EVAL", "return redis.call('HGETALL', KEYS[1])", 1, self._keys.stats),)
        )
        return {flat[i].decode(): int(flat[i + 1]) for i in range(0, len(flat), 2)}

    def _report(self) -> Flow[None]:
        pending = self._tally.take_pending()
        if not pending:
            return
        commands = tuple(("HINCRBY", self._keys.stats, name, by) for name, by in pending.items())
        try:
            yield Redis(commands, write=True, idempotent=False)
        except TierError as error:
            if error.kind not in ("timeout", "reset"):  # these may have been counted: not twice
                self._tally.put_back(pending)
            raise

    def _schedule_report(self) -> None:
        if not self._reporting:
            self._reporting = True
            self.tiers.housekeeper.submit(self._report_now, after=_REPORT_EVERY)

    def _report_now(self) -> float | None:
        self._reporting = False
        try:
            self.tiers.run(self._report())
        except TierError as error:
            logger.debug("counters not reported: %s", error)
            self._reporting = True
            return _REPORT_EVERY
        return None

    def flush(self) -> None:
        """Report what is pending, at close; a failing Redis loses it."""
        try:
            self.tiers.run(self._report())
        except TierError as error:
            logger.debug("counters not reported: %s", error)

    def _renew_leases(self) -> float | None:
        live, ended = self._flights.sweep()
        commands: list[Command] = [
            ("EVAL", scripts.RENEW, 1, flight.lease, flight.token, scripts.LEASE_MS)
            for flight in live
            if flight.lease
        ]
        commands += [
            ("EVAL", scripts.RELEASE, 1, flight.lease, flight.token)
            for flight in ended
            if flight.lease
        ]
        if commands:
            try:
                self.tiers.run(_send(commands))
            except TierError as error:
                logger.debug("leases not renewed: %s", error)
        self._renewing = bool(live)
        return _RENEW_EVERY if live else None

    def _release_later(self, flight: Flight) -> None:
        """Give a lease back when its owner was cancelled, and cannot wait for that."""

        def job() -> float | None:
            self.tiers.run(self._release(flight))
            return None

        self.tiers.housekeeper.submit(job)

    def _schedule_purge(self) -> None:
        if not self._purging:
            self._purging = True
            self.tiers.housekeeper.submit(self._purge_now, after=_PURGE_EVERY)

    def _purge_now(self) -> float | None:
        self._purging = False
        self._reclaim_rows(None)
        return None

    def _schedule_reclaim(self, old: str | None) -> None:
        def job() -> float | None:
            try:
                if self.tiers.durable is not None:
                    self._reclaim_rows(old)
                elif old is not None:
                    self.tiers.run(self._scan_away(old))
            except TierError as error:
                logger.debug("memory not reclaimed, it ends with its TTL: %s", error)
            return None

        self.tiers.housekeeper.submit(job)

    def _reclaim_rows(self, old: str | None) -> None:
        try:
            self.tiers.run(self._sweep_rows(old))
        except TierError as error:
            logger.debug("rows not reclaimed: %s", error)

    def _sweep_rows(self, old: str | None) -> Flow[None]:
        from redis_tiered.llm_cache import rows

        while True:
            count, cleared = yield Sql(
                rows.purge(self._keys.scope, self._milliseconds()), write=True
            )
            if old is not None and cleared:
                yield Redis(tuple(("UNLINK", self._keys.entry(old, digest)) for digest in cleared))
            if not count:
                return

    def _scan_away(self, old: str) -> Flow[None]:
        """Without L3 nobody knows the old keys: walk the server's, in small steps."""
        for node in range(len(self.tiers.primaries())):
            cursor = b"0"
            while True:
                scan: Command = ("SCAN", cursor, "MATCH", self._keys.pattern(old), "COUNT", 500)
                [[cursor, keys]] = yield Redis((scan,), node=node)
                if keys:
                    yield Redis(tuple(("UNLINK", key) for key in keys))
                if cursor == b"0":
                    break


def _send(commands: list[Command]) -> Flow[None]:
    yield Redis(tuple(commands), write=True)
