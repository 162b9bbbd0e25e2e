"""What the numbers of the demo are counted from: every answer, and when what happened."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from demo.messages import Added, Answered, Filed, Looked, Seen, Talk
from demo.plan import Ask, shares_rules
from demo.questions import COMPANIES
from demo.transcript import Transcript

__all__ = ["DOWN", "TIERS", "Tally", "p95", "shown"]

DOWN = "Redis down"

# In the order in which a lookup meets them; "model" is a miss.
TIERS = ("memory", "redis", "durable", "flight", "model")

Step = TypeVar("Step", Added, Seen, Filed, Looked)


@dataclass
class Tally:
    """All answers, and the moments at which a phase began."""

    answers: list[Answered] = field(default_factory=list)
    _moments: list[tuple[float, str]] = field(default_factory=list)

    def begin(self, phase: str) -> None:
        """From now on requests belong to this phase: by when they were made, not answered."""
        self._moments.append((time.monotonic(), phase))

    def by_phase(self) -> dict[str, list[Answered]]:
        phases: dict[str, list[Answered]] = {phase: [] for _, phase in self._moments}
        for answer in self.answers:
            phases[self._phase(answer.began)].append(answer)
        return phases

    def _phase(self, moment: float) -> str:
        return [name for at, name in self._moments if at <= moment][-1]

    def of(self, *tiers: str) -> list[Answered]:
        return [each for each in self.answers if each.tier in tiers and not each.error]

    @property
    def errors(self) -> list[str]:
        parts: tuple[Sequence[Answered | Added | Seen | Filed | Looked], ...] = (
            self.answers,
            self.added,
            self.seen,
            self.filed,
            self.looked,
        )
        return [each.error for part in parts for each in part if each.error]

    @property
    def added(self) -> list[Added]:
        return [each.added for each in self.answers if each.added]

    @property
    def seen(self) -> list[Seen]:
        return [each.seen for each in self.answers if each.seen]

    @property
    def filed(self) -> list[Filed]:
        return [each.filed for each in self.answers if each.filed]

    @property
    def looked(self) -> list[Looked]:
        return [each.looked for each in self.answers if each.looked]

    def while_down(self, steps: Iterable[Step], *, down: bool = True) -> list[Step]:
        """Those that began, and went well, while Redis was down; or while it was not."""
        return [
            each for each in steps if not each.error and (self._phase(each.began) == DOWN) == down
        ]

    def transcripts(self) -> dict[Talk, Transcript]:
        """What each conversation must hold. A user's turns come in the order they were added."""
        transcripts: dict[Talk, Transcript] = defaultdict(Transcript)
        for added in self.added:
            transcripts[added.talk].note(added)
        return dict(transcripts)

    @property
    def hits(self) -> list[Answered]:
        return self.of("memory", "redis", "durable", "flight")

    def bought(self) -> dict[Ask, set[str]]:
        """What the model said, by request: each of these answers was given to the cache."""
        said = defaultdict(set)
        for each in self.of("model"):
            said[each.ask].add(each.digest)
        return dict(said)

    def wrong(self, hits: Iterable[Answered]) -> int:
        """Hits that are not what the model said to this tenant and question."""
        said = self.bought()
        return sum(each.digest not in said.get(each.ask, ()) for each in hits)

    def crossed(self, hits: Iterable[Answered]) -> int:
        """Hits that name another tenant, or that only another tenant's model gave."""
        said = self.bought()
        return sum(
            each.foreign
            or any(
                each.digest in said.get(other, ()) and each.digest not in said.get(each.ask, ())
                for other in _others(each.ask)
            )
            for each in hits
        )

    def tempted(self) -> int:
        """Hits on requests that another tenant had put to its model in the very same words."""
        said = self.bought()
        return sum(
            shares_rules(each.ask.question) and any(other in said for other in _others(each.ask))
            for each in self.hits
        )


def _others(ask: Ask) -> list[Ask]:
    return [Ask(name, ask.question) for name in COMPANIES if name != ask.tenant]


def p95(values: list[float]) -> float:
    """The smallest value that at least 95 % do not exceed."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def shown(seconds: float) -> str:
    """Three digits and a unit."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            value = seconds * factor
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{seconds:.2f} s"
