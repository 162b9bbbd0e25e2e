"""What a decider learns from fresh answers: its head, refitted, and what each entry has earned.

Every miss and every audit shows whether the candidates' answers would have been right. Examples
are folded into the head in batches; of the batches before, only the curvature of their loss is
kept, so that memory stays small however long the traffic runs, and fades, so that the head follows
it where it drifts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redis_tiered.llm_cache.semantic.features import FEATURES, Features
from redis_tiered.llm_cache.semantic.head import Head, curvature, maximum, slope

__all__ = ["Learner", "Offsets"]

Array = NDArray[np.float64]

_FIRST_BATCH = 1_500  # examples, where nothing was known before
_BATCH = 500
_LEAST = 4  # of each class in a batch
_L2 = 10.0  # on standardised weights
_FADE = 0.95  # what a batch leaves of the weight of those before it
_TRUST = 100.0  # a head that came along counts like so many examples
# Spread of the features on questions of users; only the strength of the prior rests on it.
_SCALES = (0.13, 0.05, 0.02, 0.007, 0.1, 0.4, 0.25, 0.3, 0.04, 0.05, 0.1)
_SIZE = len(FEATURES) + 1
_DIGITS = 5
_BLAME = 3.0
_MOST_OFFSET = 20.0


class Learner:
    """A head and the examples that wait to be folded into it; not thread-safe by itself.

    Attributes:
        head: in force, None while there is none.
        examples: seen so far.
        refits: made so far.
    """

    def __init__(self, head: Head | None) -> None:
        self.head = head
        self.examples = 0
        self.refits = 0
        self._x: list[Features] = []
        self._y: list[float] = []
        self._counts: list[float] = []
        self._base = np.zeros((_SIZE, _SIZE))
        self._base_pull = np.zeros(_SIZE)
        self._known = np.zeros((_SIZE, _SIZE))
        self._known_pull = np.zeros(_SIZE)
        if head is not None:
            self._base = np.diag([*(_TRUST * scale**2 for scale in _SCALES), 0.1 * _TRUST])
            self._base_pull = self._base @ _vector(head)

    def add(self, numbers: Features, same: bool, weight: float = 1.0) -> bool:
        """Learn one example, that counts like `weight`; whether the head is another one now."""
        self._x.append(tuple(round(number, _DIGITS) for number in numbers))
        self._y.append(float(same))
        self._counts.append(weight)
        self.examples += 1
        needed = _BATCH if self.head is not None else _FIRST_BATCH
        if len(self._y) < needed:
            return False
        right = sum(self._y)
        if self.head is None and not _LEAST <= right <= len(self._y) - _LEAST:
            del self._x[: needed // 2], self._y[: needed // 2], self._counts[: needed // 2]
            return False
        self._refit()
        return True

    def _refit(self) -> None:
        x, y = np.array(self._x), np.array(self._y)
        counts = np.array(self._counts)
        if self.head is None:
            scale = np.append(x.std(axis=0), 0.0)
            self._base = np.diag(_L2 * np.where(scale > 1e-6, scale, 1.0) ** 2)
            self._base[-1, -1] = 1e-3
        start = np.zeros(_SIZE) if self.head is None else _vector(self.head)
        precision = self._base + self._known
        pull = self._base_pull + self._known_pull
        w = maximum(x, y, counts, precision=precision, pull=pull, start=start)
        curved = curvature(x, counts, w)
        self._known = _FADE * self._known + curved
        self._known_pull = _FADE * self._known_pull + curved @ w - slope(x, y, counts, w)
        model = self.head.model if self.head is not None else ""
        self.head = Head(model, tuple(map(float, w[:-1])), float(w[-1]), self.examples)
        self._x, self._y, self._counts = [], [], []
        self.refits += 1

    def state(self) -> dict[str, Any]:
        """Plain JSON, bounded."""
        return {
            "head": None if self.head is None else self.head.as_dict(),
            "examples": self.examples,
            "refits": self.refits,
            "x": [list(row) for row in self._x],
            "y": [int(label) for label in self._y],
            "counts": self._counts,
            "base": np.diag(self._base).tolist(),
            "base_pull": self._base_pull.tolist(),
            "known": self._known.tolist(),
            "known_pull": self._known_pull.tolist(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else; nothing was changed.
        """
        head = None if state["head"] is None else Head.from_dict(state["head"])
        x = [tuple(_array(row, len(FEATURES)).tolist()) for row in state["x"]]
        y = [float(bool(label)) for label in state["y"]]
        counts = _array(state["counts"], len(y)).tolist()
        if len(x) != len(y) or len(y) >= _FIRST_BATCH or not all(0 < c <= 100 for c in counts):
            raise ValueError("examples and labels do not fit together")
        base = np.diag(_array(state["base"], _SIZE))
        known = np.array([_array(row, _SIZE) for row in state["known"]])
        if known.shape != (_SIZE, _SIZE) or not np.allclose(known, known.T):
            raise ValueError("the curvature is not symmetric")
        if (base < 0).any() or np.linalg.eigvalsh(known).min() < -1e-3:
            raise ValueError("the curvature is not positive")
        pulls = _array(state["base_pull"], _SIZE), _array(state["known_pull"], _SIZE)
        examples, refits = int(state["examples"]), int(state["refits"])
        self.head, self._x, self._y, self._counts = head, x, y, counts
        self._base, self._known = base, known
        self._base_pull, self._known_pull = pulls
        self.examples, self.refits = examples, refits


class Offsets:
    """What single entries have earned: their answers fit more, or less, than the head says."""

    def __init__(self, most: int = 1_000) -> None:
        self._most = most
        self._rows: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, entry: str) -> float:
        """To be added to the logit of this entry."""
        row = self._rows.get(entry)
        return row[0] if row else 0.0

    def learn(self, entry: str, p: float, same: bool) -> None:
        """One Newton step of the entry's own intercept, under a prior that it is 0."""
        offset, count = self._rows.get(entry, (0.0, 0.0))
        certain = p * (1.0 - p)
        self._put(entry, offset + (same - p) / (certain + 1.0 + count), count + certain)

    def blame(self, entry: str) -> None:
        """Its answer was said to be wrong: a strong word, for nobody was asked."""
        offset, count = self._rows.get(entry, (0.0, 0.0))
        self._put(entry, offset - _BLAME, count)

    def _put(self, entry: str, offset: float, count: float) -> None:
        offset = max(-_MOST_OFFSET, min(_MOST_OFFSET, offset))
        self._rows[entry] = round(offset, _DIGITS), round(count, _DIGITS)
        self._rows.move_to_end(entry)
        if len(self._rows) > self._most:
            self._rows.popitem(last=False)

    def state(self) -> dict[str, list[float]]:
        """Plain JSON, bounded."""
        return {entry: list(row) for entry, row in self._rows.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave.

        Raises:
            AttributeError, TypeError, ValueError: it is something else; nothing was changed.
        """
        rows = {str(entry): tuple(_array(row, 2).tolist()) for entry, row in state.items()}
        self._rows = OrderedDict(list(rows.items())[-self._most :])


def _vector(head: Head) -> Array:
    return np.array([*head.weights, head.bias])


def _array(values: Any, size: int) -> Array:
    found = np.array(values, dtype=np.float64)
    if found.shape != (size,) or not np.isfinite(found).all():
        raise ValueError(f"{size} finite numbers are needed")
    return found
