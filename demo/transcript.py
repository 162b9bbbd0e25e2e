"""What a conversation must hold, by what was acknowledged to its user; and what is wrong if it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from demo.messages import Added, Mark

__all__ = ["SHOWN", "Faults", "Transcript"]

# Messages of a window, at most: whole turns of two.
SHOWN = 10


class Faults(NamedTuple):
    """How many messages of a log are not as they should be.

    Attributes:
        lost: acknowledged, and not there.
        doubled: there once more than they should be.
        moved: not where they were added.
        strange: nobody added them to this conversation.
    """

    lost: int = 0
    doubled: int = 0
    moved: int = 0
    strange: int = 0


@dataclass
class Transcript:
    """One conversation, as its user knows it.

    Attributes:
        acknowledged: what was added, in order.
        unsure: of additions that failed; each of these may be there or not.
    """

    acknowledged: list[Mark] = field(default_factory=list)
    unsure: set[Mark] = field(default_factory=set)

    def note(self, added: Added) -> None:
        """Take down what became of an addition."""
        if added.error:
            self.unsure.update(added.marks)
        else:
            self.acknowledged.extend(added.marks)

    def faults(self, log: Sequence[Mark]) -> Faults:
        """Compare with the whole log: each acknowledged message is there once, and in order."""
        times = Counter(log)
        known = set(self.acknowledged)
        there = [mark for mark in dict.fromkeys(log) if mark in known]
        due = [mark for mark in self.acknowledged if mark in times]
        return Faults(
            lost=sum(mark not in times for mark in self.acknowledged),
            doubled=times.total() - len(times),
            moved=sum(one != other for one, other in zip(there, due, strict=True)),
            strange=sum(mark not in known and mark not in self.unsure for mark in times),
        )

    def fault_of_window(self, window: Sequence[Mark]) -> str:
        """Look at its newest messages, as many as fit.

        Returns:
            "stale": it does not end with what was acknowledged last; "torn": it does, but is not
            the newest whole turns that fit; "": all is well.
        """
        sure = [mark for mark in window if mark not in self.unsure]
        if sure[-1:] != self.acknowledged[-1:]:
            return "stale"
        whole = [mark.kind for mark in window] == ["human", "ai"] * (len(window) // 2)
        newest = sure == self.acknowledged[len(self.acknowledged) - len(sure) :]
        # Only what does not fit may be missing.
        full = len(window) == SHOWN or len(sure) == len(self.acknowledged)
        return "" if whole and newest and full and len(window) <= SHOWN else "torn"
