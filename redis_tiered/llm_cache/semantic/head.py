"""The decision head: the probability that a candidate's answer fits, from its eleven numbers.

A logistic curve whose weights are kept per embedding model, for cosines of different models live in
different places. It is monotone: raising a candidate's own cosine, everything else fixed, never
lowers its probability. An unconstrained fit breaks that above cosine 0.95, where data are few.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.features import FEATURES

__all__ = ["Head", "fit_head", "model_key", "rules", "shipped_head"]

Array = NDArray[np.float64]

VERSION = 1
_MOST_LOGIT = 30.0
_MOST_WEIGHT = 1e4


@dataclass(frozen=True)
class Head:
    """Weights of the probability that a candidate's answer fits.

    Attributes:
        model: name of the embedding model whose cosines it reads.
        weights: one per name in `FEATURES`, in their raw units.
        bias: added to the weighted sum.
        trained_on: how many examples it was fitted to.
        version: of the features' definition; a head of another version is not read.
    """

    model: str
    weights: tuple[float, ...]
    bias: float
    trained_on: int
    version: int = VERSION

    def __post_init__(self) -> None:
        numbers = (*self.weights, self.bias)
        if len(self.weights) != len(FEATURES) or not all(
            isinstance(number, float | int) and abs(number) <= _MOST_WEIGHT for number in numbers
        ):
            raise InvalidInput(
                f"weights must be {len(FEATURES)} numbers within {_MOST_WEIGHT:g}, got "
                f"{len(self.weights)}; one is too large, not finite, or the count is wrong"
            )

    def logit(self, numbers: Sequence[float]) -> float:
        """The weighted sum, before it is bent into 0 to 1."""
        total = self.bias
        for weight, number in zip(self.weights, numbers, strict=True):
            total += weight * number
        return total

    def probability(self, numbers: Sequence[float], offset: float = 0.0) -> float:
        """Of a candidate with these features; `offset` is what its entry has earned."""
        return sigmoid(self.logit(numbers) + offset)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "model": self.model,
            "weights": dict(zip(FEATURES, self.weights, strict=True)),
            "bias": self.bias,
            "trained_on": self.trained_on,
            "version": self.version,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Head:
        """What `as_dict` gave.

        Raises:
            InvalidInput: it is something else, or of another version.
        """
        try:
            if data["version"] != VERSION or set(data["weights"]) != set(FEATURES):
                raise InvalidInput(f"a head of version {VERSION} is needed")
            return cls(
                model=str(data["model"]),
                weights=tuple(float(data["weights"][name]) for name in FEATURES),
                bias=float(data["bias"]),
                trained_on=int(data["trained_on"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"this is no head: {type(error).__name__} {error}") from None


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)), for any float; 0.0 for NaN, that nothing is served by."""
    if logit != logit:
        return 0.0
    return 1.0 / (1.0 + math.exp(-max(-_MOST_LOGIT, min(_MOST_LOGIT, logit))))


def rules() -> Array:
    """Rows r such that `r @ weights >= 0` for all of them makes a head monotone.

    The slope of the logit over the candidate's cosine is a sum of weights that depends on where the
    candidate stands: alone, nearest, second, or further. Evidence for an answer counts for it.
    """
    at = {name: index for index, name in enumerate(FEATURES)}
    rows = [_row(at, margin=1), _row(at, share=1), _row(at, agree=1)]
    for steps in range(4):
        slope = {"cosine": 1, **dict.fromkeys(("over80", "over90", "over95")[:steps], 1)}
        rows += [
            _row(at, **slope),  # alone
            _row(at, **slope, margin=1, gap=1),  # the nearest
            _row(at, **slope, margin=1, top1=1, gap=-1),  # the second
            _row(at, **slope, margin=1, top1=1),  # further down
        ]
    return np.array(rows)


def _row(at: Mapping[str, int], **signs: int) -> list[float]:
    row = [0.0] * len(FEATURES)
    for name, sign in signs.items():
        row[at[name]] = float(sign)
    return row


def fit_head(
    examples_x: Any,
    examples_y: Any,
    *,
    model: str,
    l2: float = 1.0,
    weights: Any = None,
) -> Head:
    """Fit a monotone head: logistic loss, L2 on standardised features.

    Args:
        examples_x: shape (n, 11), rows as `features` gives them.
        examples_y: shape (n,), true or 1 where the candidate's answer was right.
        model: name of the embedding model.
        l2: strength of the penalty; 1 / C in the usual notation.
        weights: shape (n,), how much each example counts; None: 1 each.

    Raises:
        InvalidInput: shapes do not fit, a number is not finite, or all examples are of one class.
    """
    x = np.asarray(examples_x, dtype=np.float64)
    y = np.asarray(examples_y, dtype=np.float64)
    counts = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if (
        x.ndim != 2
        or x.shape[1] != len(FEATURES)
        or y.shape != (len(x),)
        or counts.shape != y.shape
    ):
        raise InvalidInput(
            f"examples must have shapes (n, {len(FEATURES)}) and (n,), got {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(counts).all() and np.isin(y, (0.0, 1.0)).all()):
        raise InvalidInput("examples must be finite, labels true or false")
    if len(np.unique(y)) < 2:
        raise InvalidInput("examples of both classes are needed: right answers and wrong ones")
    scale = x.std(axis=0)
    precision = np.append(l2 * np.where(scale > 1e-9, scale, 1.0) ** 2, 1e-6)
    centre = np.zeros(len(FEATURES) + 1)
    solved = maximum(x, y, counts, precision=np.diag(precision), pull=centre, start=centre)
    return Head(model, tuple(map(float, solved[:-1])), float(solved[-1]), len(y))


def maximum(
    x: Array, y: Array, counts: Array, *, precision: Array, pull: Array, start: Array
) -> Array:
    """Most probable monotone weights and bias, by an interior-point Newton method.

    Minimises the logistic loss plus `w @ precision @ w / 2 - pull @ w` under `rules() @ w >= 0`.
    Weights are in raw units: a penalty on standardised features is one on the raw weights, times
    the squared scales.

    Args:
        x, y, counts: examples, labels 0.0 or 1.0, how much each counts.
        precision: shape (12, 12), positive definite; the bias is last.
        pull: shape (12,).
        start: where to begin, shape (12,); moved inside the rules if it is outside.
    """
    design = np.column_stack((x, np.ones(len(x))))
    constraints = np.column_stack((rules(), np.zeros(len(rules()))))
    w = _inside(constraints, start)
    barrier = 1.0
    while barrier > 1e-3:
        barrier /= 10.0
        for _ in range(30):
            w, moved = _step(w, design, y, counts, precision, pull, constraints, barrier)
            if moved < 1e-4:
                break
    return w


def curvature(x: Array, counts: Array, w: Array) -> Array:
    """Second derivative of the loss at `w`, shape (12, 12)."""
    design = np.column_stack((x, np.ones(len(x))))
    p = _sigmoids(design @ w)
    found: Array = (design * (counts * p * (1.0 - p))[:, None]).T @ design
    return found


def slope(x: Array, y: Array, counts: Array, w: Array) -> Array:
    """First derivative of the loss at `w`, shape (12,)."""
    design = np.column_stack((x, np.ones(len(x))))
    found: Array = design.T @ (counts * (_sigmoids(design @ w) - y))
    return found


def _sigmoids(logits: Array) -> Array:
    found: Array = 1.0 / (1.0 + np.exp(-np.clip(logits, -_MOST_LOGIT, _MOST_LOGIT)))
    return found


def _inside(constraints: Array, start: Array) -> Array:
    """`start`, moved along a direction that raises every constraint until all hold with room."""
    direction = np.zeros(len(start))
    direction[[FEATURES.index(name) for name in ("cosine", "margin", "share", "agree")]] = 1.0
    raised = constraints @ direction
    lacking = (0.01 - constraints @ start) / raised
    return start + direction * max(0.0, float(lacking.max()))


def _step(
    w: Array,
    design: Array,
    y: Array,
    counts: Array,
    precision: Array,
    pull: Array,
    constraints: Array,
    barrier: float,
) -> tuple[Array, float]:
    """One damped Newton step; how much it promised comes with it."""

    def objective(at: Array) -> float:
        room = constraints @ at
        if room.min() <= 0.0:
            return math.inf
        logits = design @ at
        loss = counts @ (np.logaddexp(0.0, logits) - y * logits)
        return float(loss + at @ precision @ at / 2 - pull @ at - barrier * np.log(room).sum())

    p = _sigmoids(design @ w)
    room = constraints @ w
    gradient = (
        design.T @ (counts * (p - y))
        + precision @ w
        - pull
        - barrier * (constraints.T @ (1 / room))
    )
    hessian = (design * (counts * p * (1 - p))[:, None]).T @ design + precision
    hessian = hessian + barrier * (constraints / room[:, None] ** 2).T @ constraints
    move = -np.linalg.solve(hessian, gradient)
    promised = float(-gradient @ move)
    before, size = objective(w), 1.0
    while size > 1e-6:
        if objective(w + size * move) <= before - 0.1 * size * promised:
            return w + size * move, promised * size
        size /= 2.0
    return w, 0.0


def model_key(name: str) -> str:
    """How heads are found: the name without its owner, in lower case."""
    return name.strip().lower().rstrip("/").rsplit("/", 1)[-1]


def shipped_head(model: str) -> Head | None:
    """The head that comes with this package for an embedding model, or None."""
    return _shipped().get(model_key(model))


@cache
def _shipped() -> dict[str, Head]:
    text = files(__package__).joinpath("heads.json").read_text(encoding="utf-8")
    return {model_key(row["model"]): Head.from_dict(row) for row in json.loads(text)}
