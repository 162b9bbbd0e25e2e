"""What a neighbourhood says about a candidate, as eleven numbers.

One cosine does not tell whether a stored answer fits: how near is near enough differs from topic to
topic. The answers that the nearest entries carry tell more: a candidate whose neighbours have the
same answer is in the middle of its topic, one with another answer close by is at a border.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from redis_tiered.llm_cache.semantic.neighbour import Neighbour

__all__ = ["FEATURES", "Features", "features", "leading"]

FEATURES: tuple[str, ...] = (
    "cosine",  # c, the candidate's
    "over80",  # max(0, c - 0.80)
    "over90",  # max(0, c - 0.90)
    "over95",  # max(0, c - 0.95)
    "margin",  # c - best cosine of another answer; none: c - the last other neighbour's + 0.05
    "no_other",  # 1.0: no neighbour has another answer
    "share",  # of the neighbours' weights exp(25 cosine), what the candidate's answer has
    "agree",  # fraction of the neighbours with the candidate's answer
    "top1",  # c - the nearest neighbour's cosine, <= 0
    "gap",  # the nearest neighbour's cosine - the second's; 0.3: there is no second
    "density",  # cosine of the last neighbour that is not the candidate; 0.0: there is none
)

Features = tuple[float, ...]

_SHARPNESS = 25.0
_GAP_ALONE = 0.3
_MARGIN_ALONE = 0.05


def features(neighbours: Sequence[Neighbour], index: int) -> Features:
    """The numbers of `FEATURES`, in that order, of one candidate.

    Args:
        neighbours: of one question and one scope, highest cosine first.
        index: which of them is the candidate.
    """
    return leading(neighbours, (index,))[0]


def leading(neighbours: Sequence[Neighbour], indices: Sequence[int]) -> list[Features]:
    """The numbers of several candidates of one question; plain floats are faster here than arrays."""
    count = len(neighbours)
    cosines = [neighbour.cosine for neighbour in neighbours]
    first = cosines[0]
    weights: dict[str, float] = {}
    votes: dict[str, int] = {}
    best: dict[str, float] = {}
    for neighbour, cosine in zip(neighbours, cosines, strict=True):
        answer = neighbour.answer
        weight = exp(_SHARPNESS * (cosine - first))
        if answer in weights:
            weights[answer] += weight
            votes[answer] += 1
        else:
            weights[answer] = weight
            votes[answer] = 1
            best[answer] = cosine
    total = sum(weights.values())
    others = list(best.items())[:2]  # the best answer and the runner-up
    gap = first - cosines[1] if count > 1 else _GAP_ALONE
    found: list[Features] = []
    for index in indices:
        answer = neighbours[index].answer
        cosine = cosines[index]
        last = cosines[count - 1 if index < count - 1 else count - 2] if count > 1 else 0.0
        if len(others) > 1:
            margin = cosine - (others[0][1] if others[0][0] != answer else others[1][1])
            alone = 0.0
        else:
            margin = cosine - last + _MARGIN_ALONE if count > 1 else _MARGIN_ALONE
            alone = 1.0
        found.append(
            (
                cosine,
                cosine - 0.8 if cosine > 0.8 else 0.0,
                cosine - 0.9 if cosine > 0.9 else 0.0,
                cosine - 0.95 if cosine > 0.95 else 0.0,
                margin,
                alone,
                weights[answer] / total,
                votes[answer] / count,
                cosine - first,
                gap,
                last,
            )
        )
    return found
