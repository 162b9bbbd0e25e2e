"""The part of a session that is shown: which messages fit, and what stands for the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from redis_tiered.sessions.log import Recent
from redis_tiered.sessions.message import Stored, unpack
from redis_tiered.sessions.record import Record
from redis_tiered.sessions.trimming import Limits, view_start

__all__ = ["View"]

# Messages are decoded from the newest on, so many and then as many again, until it is known what fits.
_SOME: Final = 32


class View:
    """The newest messages of a session while it is decided which are shown.

    Attributes:
        body: in order, without the leading system message.
        older: active messages before `body`.
    """

    def __init__(
        self,
        recent: Recent,
        limits: Limits,
        include_system: bool,
        tokens: Callable[[Stored], int],
        counter: str,
        decode: Callable[[Sequence[Record]], Sequence[Stored]],
    ) -> None:
        self.state = recent.state
        self.lead = None if recent.lead is None else decode((recent.lead,))[0]
        self._decode = decode
        self._limits = limits
        self._shows_lead = include_system and self.lead is not None
        self._count = tokens
        self._counter = counter
        self.body: list[Stored] = []
        self._tokens: list[int] = []
        self.older = self.state.messages - (self.lead is not None)
        self._undecoded = list(recent.newest)

    def extend(self, older: Sequence[Stored], *, whole: bool) -> None:
        """Put messages before what there is; `whole`: there are none before them."""
        held = {item.message.id for item in self.body}
        if self.lead is not None:
            held.add(self.lead.message.id)
        new = [item for item in older if item.message.id not in held]
        self.body[:0] = new
        self._tokens[:0] = [self._count(item) for item in new]
        self.older = 0 if whole else max(0, self.older - len(new))

    def start(self) -> int | None:
        """Where in `body` the view starts; None: that depends on messages that are not here."""
        while (start := self._start()) is None and self._undecoded:
            some = max(_SOME, len(self.body))
            part, self._undecoded = self._undecoded[-some:], self._undecoded[:-some]
            self.extend(self._decode(part), whole=False)
        return start

    def _start(self) -> int | None:
        if not self.body and self.older > 0:
            return None
        fits = view_start(self.body, self._tokens, self._left(summary=False), more=self.older > 0)
        if fits is None or (fits == 0 and self.older == 0) or self.state.summary is None:
            return fits
        return view_start(self.body, self._tokens, self._left(summary=True), more=self.older > 0)

    def overflows(self, start: int) -> bool:
        """Whether a message that is not shown is not in the summary either."""
        if start > 0:
            return self.body[start - 1].sequence >= self.state.summarized
        first = self.body[0].sequence if self.body else self.state.next
        return self.older > 0 and first > self.state.summarized

    def hidden(self, start: int) -> int:
        return self.older + start + (self.lead is not None and not self._shows_lead)

    def shown(self, start: int) -> tuple[Stored, ...]:
        fixed = [self.lead] if self._shows_lead and self.lead is not None else []
        if self.state.summary is not None and (start > 0 or self.older > 0):
            fixed.append(self._summary())
        return (*fixed, *self.body[start:])

    def _left(self, *, summary: bool) -> Limits:
        """What the limits leave to `body`."""
        fixed = [self.lead] if self._shows_lead and self.lead is not None else []
        if summary:
            fixed.append(self._summary())
        most, tokens, turns = self._limits
        return Limits(
            None if most is None else most - len(fixed),
            None if tokens is None else tokens - sum(map(self._count, fixed)),
            turns,
        )

    def _summary(self) -> Stored:
        assert self.state.summary is not None
        item = Stored(unpack(self.state.summary), -1, 0, "", self.state.last_activity)
        return item._replace(tokens=self._count(item), counter=self._counter)
