"""The budget: how sure a decision must be so that wrong answers stay within what the user allows.

Theta is the lowest probability at which the wrong answers expected among the last lookups stay
within the budget. Probabilities are not trusted: they are held against what fresh answers showed.
A request that was a miss shows it for nothing; of the would-be hits a share is audited - the model
answers, and the answers are compared. From both follow

    safety   by how much the probabilities near theta promise too much (or too little)
    lapse    the share of would-be hits that is wrong whatever the probability says: labels that
             contradict themselves, traps that no neighbourhood shows

and a hit of probability p is expected to be wrong with safety * (1 - p) + lapse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import islice
from math import sqrt
from random import Random
from typing import Any

__all__ = ["NEVER", "Controller"]

NEVER = 1.1  # a theta that no probability reaches

_HISTORY = 3_000  # lookups that theta looks back on; at most the later half of all,
_LEAST_HISTORY = 150  # for a store that fills makes probabilities rise
_FIRST = 50  # theta is placed for the first time when so many are known
_EVERY = 100  # and again after so many more
_FIRST_THETA = 0.90
_LEAST_P = 0.5  # what is more likely wrong than right is not served, whatever the budget

_BAND = 3.0  # safety is measured where p errs at most so many times as much as theta does,
_WIDEST_BAND = 0.1  # and by at most so much more,
_LEAST_BAND = 0.05  # or so much in all
_SAFETY = 1.5  # assumed until then, with the weight of so many wrong answers promised:
_SAFETY_WEIGHT = 4.0
_LEAST_SAFETY = 0.7
_AUDIT_WEIGHT = 5.0  # an audit stands for the hits that were not audited, up to so many
_SAFETY_KEEP = 0.998  # what each label leaves of the weight of those before it
_REFIT_KEEP = 0.9  # what a refit of the head leaves of it

_LAPSE = 0.005  # assumed until audits tell, with the weight of so many audits:
_LAPSE_WEIGHT = 40.0
_LAPSE_KEEP = 0.997
_DOUBTFUL = 0.01  # a lapse from which more is audited

_ALARM_KEEP = 0.97  # some 33 labels
_ALARM_DEVIATIONS = 3.0
_ALARM_TIMES = 2.0

_EARLY_AUDITS = 30.0  # the n-th would-be hit is audited at a rate of at least this / (this + n)
_MORE_AUDITS = 0.08  # where questions seldom repeat, or audits found lapses
_REPEATS_KEEP = 0.995
_SPARSE = (
    0.5  # share of lookups whose answer was there: below, answers serve fewer than two prompts
)


class Controller:
    """Theta, audits and what they found, of one decider; not thread-safe by itself.

    Args:
        max_error: wrong answers per request that may be spent.
        audit_rate: least share of would-be hits that is audited; 0.0: none is.
        floor: theta is never below it.
        warmup: lookups after which `sparse` is known.
        seed: of the draw of audits.

    Attributes:
        theta: probability from which a candidate may be served.
        lookups, would_serve, audits, audits_wrong: counts.
    """

    def __init__(
        self, *, max_error: float, audit_rate: float, floor: float, warmup: int, seed: int | None
    ) -> None:
        self._max_error = max_error
        self._audit_rate = audit_rate
        self._floor = floor
        self._warmup = warmup
        self._random = Random(seed)
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._since = 0
        self.theta = max(_FIRST_THETA, floor)
        self.lookups = self.would_serve = self.audits = self.audits_wrong = 0
        self._near = _Tally(_SAFETY_KEEP)
        self._top = _Tally(_LAPSE_KEEP)
        self._recent = _Tally(_ALARM_KEEP)
        self._repeats = _Tally(_REPEATS_KEEP)
        self._alarmed = False

    @property
    def safety(self) -> float:
        """By how much probabilities promise too much."""
        near, recent = self._near, self._recent
        usual = (near.wrong + _SAFETY * _SAFETY_WEIGHT) / (near.expected + _SAFETY_WEIGHT)
        return max(_LEAST_SAFETY, usual, _surprise(recent))

    @property
    def lapse(self) -> float:
        """Share of wrong answers among would-be hits that no probability foresees."""
        top = self._top
        excess = top.wrong - min(self.safety, 1.0) * top.expected
        return max(0.0, excess + _LAPSE * _LAPSE_WEIGHT) / (top.count + _LAPSE_WEIGHT)

    @property
    def expected(self) -> float:
        """Wrong answers that the audited probabilities promised; older ones count less."""
        return self._top.expected

    @property
    def sparse(self) -> bool:
        """Most questions have an answer that was not there before: neighbours tell little."""
        repeats = self._repeats
        return self.lookups >= self._warmup and repeats.wrong > (1.0 - _SPARSE) * repeats.count

    @property
    def rate(self) -> float:
        """Share of would-be hits that is audited now: more while little is known."""
        if self._audit_rate <= 0.0:
            return 0.0
        doubtful = self.sparse or self.lapse > _DOUBTFUL
        least = max(self._audit_rate, _MORE_AUDITS) if doubtful else self._audit_rate
        return max(least, _EARLY_AUDITS / (_EARLY_AUDITS + self.would_serve))

    def record(self, p: float) -> None:
        """Remember the best servable probability of one lookup (0.0: there was no candidate)."""
        self.lookups += 1
        self._since += 1
        self._history.append(round(p, 5))
        if self._since >= _EVERY or self._since == len(self._history) == _FIRST:
            self.place()

    def draw(self) -> bool:
        """Whether this would-be hit is audited."""
        audit = self._random.random() < self.rate
        self.would_serve += 1
        if not audit:
            self._repeats.add(0.0, 0.0)
        return audit

    def labelled(self, p: float, right: bool, *, would: bool, audit: bool) -> None:
        """What a fresh answer shows of the best candidate.

        Args:
            p: its probability.
            right: its answer was right.
            would: `p` reached theta: it was audited, or blocked by the warm-up only.
            audit: it was audited.
        """
        wrong, error = float(not right), 1.0 - p
        if audit:
            self.audits += 1
            self.audits_wrong += not right
        if would:
            self._top.add(wrong, error)
        least = 1.0 - self.theta
        if error <= max(min(_BAND * least, _WIDEST_BAND + least), _LEAST_BAND):
            weight = min(_AUDIT_WEIGHT, 1.0 / max(self.rate, 0.01)) if audit else 1.0
            self._near.add(weight * wrong, weight * error)
        if p > 0.5:
            self._recent.add(wrong, error)
            self._sound()

    def repeated(self, there: bool) -> None:
        """Whether the fresh answer of a miss was among the candidates' answers."""
        self._repeats.add(float(not there), 0.0)

    def blamed(self, p: float) -> None:
        """A served answer was said to be wrong."""
        self._top.add(1.0, 1.0 - p)
        self._near.add(1.0, 1.0 - p)
        if len(self._history) >= _FIRST:
            self.place()

    def _sound(self) -> None:
        """Place theta at once when labels turn out far worse than promised, not at the next turn."""
        alarmed = _surprise(self._recent) > _ALARM_TIMES
        if alarmed and not self._alarmed:
            self.place()
        self._alarmed = alarmed

    def refitted(self, *, first: bool) -> None:
        """The head is another one; `first`: there was none, and its probabilities mean nothing now."""
        self._near.fade(_REFIT_KEEP)
        if first:
            self._history.clear()
            self._since = 0
            self.theta = max(_FIRST_THETA, self._floor)
            for tally in (self._near, self._top, self._recent):
                tally.fade(0.0)

    def place(self) -> None:
        """Put theta as low as the budget allows."""
        self._since = 0
        count = min(len(self._history), max(_LEAST_HISTORY, self.lookups // 2))
        safety, lapse = self.safety, self.lapse
        theta = last = NEVER
        left = self._max_error * count
        for p in sorted(islice(self._history, len(self._history) - count, None), reverse=True):
            if p != last:  # all of the equals before it fit
                theta, last = last, p
            left -= safety * (1.0 - p) + lapse
            if left < 0.0 or p < _LEAST_P:
                break
        else:
            # All of them fit. What is left may be spent, but not all of it before the next time.
            theta = min(last, max(0.0, 1.0 - (left / _EVERY - lapse) / safety))
        self.theta = max(theta, self._floor)

    def state(self) -> dict[str, Any]:
        """Plain JSON, bounded."""
        return {
            "history": list(self._history),
            "since": self._since,
            "theta": self.theta,
            "counts": [self.lookups, self.would_serve, self.audits, self.audits_wrong],
            "tallies": [tally.state() for tally in self._tallies()],
            "alarmed": self._alarmed,
            "random": list(self._random.getstate()[1]),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else; this object is spoilt then.
        """
        history = [_number(p, 1.0) for p in state["history"]]
        self._history = deque(history, maxlen=_HISTORY)
        self._since = int(_number(state["since"], _EVERY))
        self.theta = max(_number(state["theta"], NEVER), self._floor)
        counts = [int(_number(count, 1e15)) for count in state["counts"]]
        self.lookups, self.would_serve, self.audits, self.audits_wrong = counts
        for tally, numbers in zip(self._tallies(), state["tallies"], strict=True):
            tally.restore(numbers)
        self._alarmed = bool(state["alarmed"])
        self._random.setstate((3, tuple(int(word) for word in state["random"]), None))

    def _tallies(self) -> tuple[_Tally, ...]:
        return self._near, self._top, self._recent, self._repeats


class _Tally:
    """Wrong answers seen and promised, and how many labels there were; older ones count less."""

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self.wrong = self.expected = self.count = 0.0

    def add(self, wrong: float, expected: float) -> None:
        self.fade(self._keep)
        self.wrong += wrong
        self.expected += expected
        self.count += 1.0

    def fade(self, keep: float) -> None:
        self.wrong *= keep
        self.expected *= keep
        self.count *= keep

    def state(self) -> list[float]:
        return [self.wrong, self.expected, self.count]

    def restore(self, numbers: Any) -> None:
        self.wrong, self.expected, self.count = (_number(number, 1e9) for number in numbers)


def _surprise(recent: _Tally) -> float:
    """How many times as much as promised is surely wrong among the latest labels."""
    promised = recent.expected + 1.0
    return (recent.wrong - _ALARM_DEVIATIONS * sqrt(promised)) / promised


def _number(value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is not a number from 0 to {most:g}")
    return float(value)
