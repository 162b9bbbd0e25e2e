"""Whether a stored answer is served to a question in other words; pure, no I/O.

The steps of one request, the same in `replay` and in the live cache:

1. Find the nearest entries of the request's scope, at most k, highest cosine first.
2. `decide`: candidates that the guard vetoes fall through to the next; the first three that are left
   get a probability from the head; the best of them is served if its probability reaches theta,
   its cosine the floor, and, while little is known, the warm-up's cosine.
3. A would-be hit may be drawn as an audit: it is treated as a miss.
4. On a hit nothing is learned and nothing is stored. (An exact alias may be.)
5. On a miss or audit the model answers. `learn` is told, for each scored candidate, whether its
   answer equals the fresh one; then the question is stored with the fresh answer, an audited one too.

An exact repeat of a stored prompt never comes here: the exact cache answers it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from redis_tiered.checks import integer
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.controller import Controller
from redis_tiered.llm_cache.semantic.features import FEATURES, Features, leading
from redis_tiered.llm_cache.semantic.head import Head
from redis_tiered.llm_cache.semantic.learning import Learner, Offsets
from redis_tiered.llm_cache.semantic.neighbour import Neighbour

__all__ = ["Decider", "Decision", "Mode", "Options"]

Mode = Literal["balanced", "strict", "shadow", "off"]
Guard = Callable[[str, str], str | None]

_MODES = ("balanced", "strict", "shadow", "off")
_CANDIDATES = 3
_STRICT_THETA = 0.97
_LEAST_MARGIN = 0.08  # best unlearned rule, where the embedding model has no head
_VERSION = 1
_MOST_WEIGHT = 5.0  # an audit stands for the hits that were not audited, up to so many


@dataclass(frozen=True)
class Options:
    """How a decider decides.

    Attributes:
        mode: `"balanced"`; `"strict"`: at least p 0.97; `"shadow"`: decide and learn, never serve;
            `"off"`.
        max_error: wrong answers per request that may be spent, 0 to 1.
        audit_rate: share of would-be hits that the model answers, to compare, 0 to 1. More are
            audited at the beginning and where questions seldom repeat; 0.0: none ever.
        warmup: lookups that serve only from `warmup_cosine` on.
        floor: cosine below which nothing is ever served.
        k: neighbours that are looked at.
        seed: of the draw of audits; None: another one each time.
        theta: probability below which nothing is served whatever the budget allows, from a
            calibration; None: the budget alone decides.
        learning: refit the head and the entries' offsets from fresh answers.

    Raises:
        InvalidInput: a value is outside its bounds.
    """

    mode: Mode = "balanced"
    max_error: float = 0.01
    audit_rate: float = 0.03
    warmup: int = 200
    warmup_cosine: float = 0.92
    floor: float = 0.55
    k: int = 10
    seed: int | None = None
    theta: float | None = None
    learning: bool = True

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise InvalidInput(f"mode must be one of {', '.join(_MODES)}, got {self.mode!r}")
        for name in ("max_error", "audit_rate", "warmup_cosine", "floor"):
            _fraction(name, getattr(self, name))
        if self.theta is not None:
            _fraction("theta", self.theta)
        integer("warmup", self.warmup, 0)
        integer("k", self.k, 1, 1_000)


class Decision(NamedTuple):
    """What was decided about one question.

    Attributes:
        chosen: index of the neighbour that is served; None: none is.
        best: index of the best candidate after the guard, served or not.
        p, cosine, margin: the best candidate's; 0.0 where there is none.
        theta: that was in force.
        reason: `"served"`, `"audit"`, `"shadow"`, `"below_theta"`, `"below_floor"`, `"warmup"`,
            `"lone_answer"`, `"vetoed"`, `"no_neighbour"` or `"off"`.
        audit: would have been served; its answer is to be checked against a fresh one.
        scored: (index, features, p without the entry's offset) of up to three candidates.
        vetoes: (index, reason) of the candidates that the guard refused.
    """

    chosen: int | None
    best: int | None
    p: float
    cosine: float
    margin: float
    theta: float
    reason: str
    audit: bool
    scored: tuple[tuple[int, Features, float], ...]
    vetoes: tuple[tuple[int, str], ...]


class Decider:
    """Decides, keeps to the budget, and learns; thread-safe, without I/O.

    One for each cache, tenant and embedding model.

    Args:
        options: how.
        guard: `(asked, stored)` to the reason of a veto, or None; None: nothing is vetoed.
        head: of the embedding model; None: only near repeats are served until one was learned.
    """

    def __init__(
        self, options: Options, guard: Guard | None = None, head: Head | None = None
    ) -> None:
        self.options = options
        self._guard = guard
        self._lock = threading.Lock()
        self._learner = Learner(head)
        self._offsets = Offsets()
        self._rule = (0, 0)
        floor = options.theta or 0.0
        if options.mode == "strict":
            floor = max(floor, _STRICT_THETA)
        self._control = Controller(
            max_error=options.max_error,
            audit_rate=options.audit_rate,
            floor=floor,
            warmup=options.warmup,
            seed=options.seed,
        )
        self._served = 0

    @property
    def head(self) -> Head | None:
        """In force now; None while the embedding model has none."""
        return self._learner.head

    @property
    def theta(self) -> float:
        """Probability from which a candidate is served now; above 1: none is."""
        return self._control.theta

    def decide(self, prompt: str, neighbours: Sequence[Neighbour]) -> Decision:
        """Whether one of the neighbours' answers is served.

        Args:
            prompt: text of the asked question's last user turn.
            neighbours: of its scope, highest cosine first.
        """
        if self.options.mode == "off":
            return _nothing("off", 0.0)
        vetoes, candidates = self._guarded(prompt, neighbours)
        with self._lock:
            theta = self._control.theta
            if not candidates:
                self._control.record(0.0)
                return _nothing("vetoed" if vetoes else "no_neighbour", theta, vetoes)
            scored = self._score(neighbours, candidates)
            best, numbers, p = max(scored, key=_probability)
            refusal = self._refusal(neighbours, numbers, p)
            self._control.record(0.0 if refusal in _NEVER_SERVED else p)
            reason = refusal or self._outcome()
        return Decision(
            chosen=best if reason == "served" else None,
            best=best,
            p=p,
            cosine=numbers[_COSINE],
            margin=numbers[_MARGIN],
            theta=theta,
            reason=reason,
            audit=reason in ("audit", "shadow"),
            scored=scored,
            vetoes=vetoes,
        )

    def _guarded(
        self, prompt: str, neighbours: Sequence[Neighbour]
    ) -> tuple[tuple[tuple[int, str], ...], list[int]]:
        """What the guard refused, and the first three that it let pass."""
        if self._guard is None:
            return (), list(range(min(_CANDIDATES, len(neighbours))))
        vetoes: list[tuple[int, str]] = []
        passed: list[int] = []
        for index, neighbour in enumerate(neighbours):
            reason = self._guard(prompt, neighbour.prompt)
            if reason is not None:
                vetoes.append((index, reason))
                continue
            passed.append(index)
            if len(passed) == _CANDIDATES:
                break
        return tuple(vetoes), passed

    def _score(self, neighbours: Sequence[Neighbour], candidates: Sequence[int]) -> Scored:
        head, offsets = self._learner.head, self._offsets
        found = leading(neighbours, candidates)
        if head is None:
            return tuple(
                (index, numbers, self._unlearned(numbers))
                for index, numbers in zip(candidates, found, strict=True)
            )
        return tuple(
            (index, numbers, head.probability(numbers, offsets.of(neighbours[index].entry)))
            for index, numbers in zip(candidates, found, strict=True)
        )

    def _unlearned(self, numbers: Features) -> float:
        """How often the rule for models without a head was right so far; 0.0 where it is not met."""
        if numbers[_COSINE] < self.options.warmup_cosine or numbers[_MARGIN] < _LEAST_MARGIN:
            return 0.0
        right, asked = self._rule
        return (right + 19.0) / (asked + 20.0)

    def _refusal(self, neighbours: Sequence[Neighbour], numbers: Features, p: float) -> str | None:
        """Why the best candidate is not served, or None."""
        options, cosine = self.options, numbers[_COSINE]
        if not cosine >= options.floor:  # nor is NaN
            return "below_floor"
        near_repeat = cosine >= options.warmup_cosine
        if numbers[_NO_OTHER] and len(neighbours) < options.k and not near_repeat:
            return "lone_answer"  # all that is stored has one answer: agreement means nothing
        if p < self._control.theta:
            return "below_theta"
        if self._control.lookups < options.warmup and not near_repeat:
            return "warmup"
        return None

    def _outcome(self) -> str:
        """Of a would-be hit."""
        if self.options.mode == "shadow":
            self._control.would_serve += 1
            return "shadow"
        if self._control.draw():
            return "audit"
        self._served += 1
        return "served"

    def learn(self, decision: Decision, entries: Sequence[str], same: Mapping[int, bool]) -> None:
        """Told after a miss or an audit what the fresh answer says of the candidates.

        Args:
            decision: of `decide`.
            entries: ids of the neighbours, by index.
            same: by index of a scored candidate, whether its answer equals the fresh one. One that
                is left out is unknown.
        """
        with self._lock:
            if len(same) == len(decision.scored):
                self._control.repeated(any(same.values()))
            right = None if decision.best is None else same.get(decision.best)
            if right is not None and decision.reason not in _NEVER_SERVED:
                would = decision.p >= decision.theta
                self._control.labelled(decision.p, right, would=would, audit=decision.audit)
            if self.options.learning:
                weight = 1.0
                if decision.reason == "audit":
                    weight = min(_MOST_WEIGHT, 1.0 / max(self._control.rate, 0.01))
                for index, numbers, p in decision.scored:
                    if index in same:
                        self._example(entries[index], numbers, p, same[index], weight)

    def _example(self, entry: str, numbers: Features, p: float, right: bool, weight: float) -> None:
        first = self._learner.head is None
        if not first:
            self._offsets.learn(entry, p, right)
        elif p > 0.0:
            self._rule = self._rule[0] + right, self._rule[1] + 1
        if self._learner.add(numbers, right, weight):
            self._control.refitted(first=first)

    def feedback(self, entry: str, p: float, correct: bool) -> None:
        """The user's word on a served answer: a wrong one counts against its entry and the budget.

        Args:
            entry: id of the entry that was served.
            p: its probability when it was served.
            correct: whether the answer was right.
        """
        with self._lock:
            p = p if 0.0 <= p <= 1.0 else 0.5
            if correct:
                self._offsets.learn(entry, p, True)
            else:
                self._offsets.blame(entry)
                self._control.blamed(p)

    def report(self) -> dict[str, Any]:
        """What was decided so far, and what the budget rests on."""
        with self._lock:
            control, learner = self._control, self._learner
            return {
                "lookups": control.lookups,
                "would_serve": control.would_serve,
                "served": self._served,
                "audits": control.audits,
                "wrong": control.audits_wrong,
                "expected": control.expected,
                "safety": control.safety,
                "theta": control.theta,
                "warm": control.lookups >= self.options.warmup,
                "sparse": control.sparse,
                "audit_rate": control.rate,
                "examples": learner.examples,
                "refits": learner.refits,
                "head": learner.head is not None,
            }

    def reset_after_fork(self) -> None:
        """Forget a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """Plain JSON, bounded: under 200 kB."""
        with self._lock:
            return {
                "version": _VERSION,
                "served": self._served,
                "rule": list(self._rule),
                "control": self._control.state(),
                "learner": self._learner.state(),
                "offsets": self._offsets.state(),
            }

    def restore(self, state: object) -> bool:
        """Continue from what `state` gave; what cannot be read is ignored, and False comes back."""
        fresh = Decider(self.options, self._guard, None)
        try:
            if not isinstance(state, Mapping) or state["version"] != _VERSION:
                return False
            served, rule = int(state["served"]), tuple(int(count) for count in state["rule"])
            fresh._control.restore(state["control"])
            fresh._learner.restore(state["learner"])
            fresh._offsets.restore(state["offsets"])
            if len(rule) != 2 or not 0 <= rule[0] <= rule[1]:
                return False
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return False
        with self._lock:
            self._control, self._learner = fresh._control, fresh._learner
            self._offsets, self._served, self._rule = fresh._offsets, served, rule
        return True


_COSINE, _MARGIN, _NO_OTHER = (FEATURES.index(name) for name in ("cosine", "margin", "no_other"))
_NEVER_SERVED = ("below_floor", "lone_answer")
Scored = tuple[tuple[int, Features, float], ...]


def _probability(scored: tuple[int, Features, float]) -> float:
    return scored[2]


def _nothing(reason: str, theta: float, vetoes: tuple[tuple[int, str], ...] = ()) -> Decision:
    return Decision(None, None, 0.0, 0.0, 0.0, theta, reason, False, (), vetoes)


def _fraction(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{name} must be a number, got {type(value).__name__}")
    if not 0.0 <= value <= 1.0:
        raise InvalidInput(f"{name} must be from 0 to 1, got {value}")
