"""Where commands go: the primary behind Sentinel, the nodes of a cluster.

Pure logic as generators, driven by the blocking and by the asyncio client: what is yielded is sent
to an address, what is sent back is the replies.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

from redis.crc import key_slot

from redis_tiered.endpoint import Address
from redis_tiered.errors import TierError, TierUnavailable
from redis_tiered.flow import Command, Redis

__all__ = ["ClusterRouter", "Moved", "Send", "find_primary"]

_KEY_AT_3 = frozenset({"EVAL", "EVALSHA"})
_REDIRECTIONS = 5


class Send(NamedTuple):
    """Commands for one address."""

    address: Address
    commands: Sequence[Command]
    fresh: bool


class Moved(TierError):
    """The node that was asked does not hold the slot: `MOVED` or, while it migrates, `ASK`."""

    def __init__(self, message: str) -> None:
        super().__init__("redis", "moved")
        self._message = message
        self.ask = message.startswith("ASK")
        host, _, port = message.split()[-1].rpartition(":")
        self.address: Address = (host.strip("[]"), int(port))

    def __reduce__(self) -> tuple[type[Moved], tuple[str]]:  # type: ignore[override]
        return type(self), (self._message,)


Routing = Generator[Send, list[Any], Any]


def find_primary(sentinels: Sequence[Address], service: str) -> Routing:
    """Ask the sentinels one after the other; the first that knows wins.

    Raises:
        TierUnavailable: none can be reached, or none knows the service.
    """
    for address in sentinels:
        try:
            [reply] = yield Send(
                address, (("SENTINEL", "get-master-addr-by-name", service),), fresh=True
            )
        except TierError:
            continue
        if reply:
            return reply[0].decode(), int(reply[1])
    raise TierUnavailable("redis", "refused", "no sentinel knows the primary")


class ClusterRouter:
    """Routes commands by the slot of their first key and follows the cluster's redirections.

    Args:
        seeds: some nodes of the cluster.
    """

    def __init__(self, seeds: Sequence[Address]) -> None:
        self._seeds = tuple(seeds)
        self._known: tuple[Address, ...] = ()
        self._slots: list[Address | None] | None = None

    def execute(self, step: Redis, *, fresh: bool) -> Routing:
        """Send a step's commands, grouped by node, and return the replies in their order.

        Raises:
            TierError: a node failed, a slot is not served, or redirections do not end.
        """
        slots = yield from self._table(fresh=fresh, drop=fresh)
        if step.everywhere:
            return (yield from self._everywhere(step.commands))
        if step.node is not None:
            primaries = sorted({address for address in slots if address is not None})
            return (yield Send(primaries[step.node % len(primaries)], step.commands, fresh))
        groups: dict[Address, list[int]] = {}
        for index, command in enumerate(step.commands):
            address = slots[key_slot(_key_of(command))]
            if address is None:
                raise TierUnavailable("redis", "clusterdown", "the slot is not served")
            groups.setdefault(address, []).append(index)
        replies: list[Any] = [None] * len(step.commands)
        for address, indexes in groups.items():
            answers = yield from self._follow(
                address, [step.commands[index] for index in indexes], fresh
            )
            for index, answer in zip(indexes, answers, strict=True):
                replies[index] = answer
        return replies

    def primaries(self) -> Generator[Send, list[Any], list[Address]]:
        """The addresses of all primaries."""
        slots = yield from self._table(fresh=True)
        return sorted({address for address in slots if address is not None})

    def _everywhere(self, commands: Sequence[Command]) -> Routing:
        replies: list[Any] = []
        for address in (yield from self.primaries()):
            replies += yield Send(address, commands, False)
        return replies

    def _follow(self, address: Address, commands: list[Command], fresh: bool) -> Routing:
        try:
            return (yield Send(address, commands, fresh))
        except Moved as moved:
            if len(commands) == 1:
                return [(yield from self._redirected(moved, commands[0]))]
        # While a slot migrates each key may be on either side, and the commands of one pipeline
        # need not be of one slot: send each anew, to where it belongs.
        answers: list[Any] = []
        for command in commands:
            try:
                answers += yield Send(address, (command,), False)
            except Moved as moved:
                answers.append((yield from self._redirected(moved, command)))
        return answers

    def _redirected(self, moved: Moved, command: Command) -> Routing:
        for _ in range(_REDIRECTIONS):
            asking: tuple[Command, ...] = (("ASKING",),) if moved.ask else ()
            if not moved.ask:
                self._slots = None
            try:
                return (yield Send(moved.address, (*asking, command), False))[-1]
            except Moved as again:
                moved = again
        raise TierUnavailable("redis", "clusterdown", "redirections do not end")

    def _table(
        self, *, fresh: bool, drop: bool = False
    ) -> Generator[Send, list[Any], list[Address | None]]:
        """The primary of each slot; `fresh` asks for it, `drop` on new connections."""
        if self._slots is not None and not fresh:
            return self._slots
        problem: TierError | None = None
        for address in dict.fromkeys((*self._known, *self._seeds)):
            try:
                [reply] = yield Send(address, (("CLUSTER", "SLOTS"),), drop)
                self._slots = _slots_of(reply, address)
            except TierError as error:
                problem = problem or error
            else:
                self._known = tuple(sorted({a for a in self._slots if a is not None}))
                return self._slots
        self._slots = None
        raise problem or TierUnavailable("redis", "refused", "no node is known")


def _slots_of(reply: Sequence[Any], asked: Address) -> list[Address | None]:
    """Read `[[first, last, [host, port, ...], ...], ...]`; an empty host means the node asked."""
    slots: list[Address | None] = [None] * 16384
    for first, last, primary, *_ in reply:
        address = (primary[0].decode() if primary[0] else asked[0], int(primary[1]))
        slots[first : last + 1] = [address] * (last + 1 - first)
    if not any(slots):
        raise TierUnavailable("redis", "clusterdown", "no slot is served")
    return slots


def _key_of(command: Command) -> bytes:
    key = command[3] if command[0] in _KEY_AT_3 else command[1]
    return key if isinstance(key, bytes) else str(key).encode()
