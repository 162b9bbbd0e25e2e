"""Pairs of answers that a person called equal or not, and the vectors of their texts.

`answers.jsonl` has one topic per line: `same` are answers that say the same in other words, another
form or another length; each of `other` says something else, of the kind before it (another number, the
opposite, another name, a further condition, another step, swapped roles ...). Every two of `same`
are an equal pair; each of `same` with each of `other` an unequal one.

The rule for a label: equal are two answers if a reader who asked would know and do the same after
either. Politeness, form and explanation make no difference; a further condition, number or step does.

Topics, not pairs, are drawn into the half that thresholds were chosen on and the half that is
reported: by the first bit of the SHA-256 of the topic's name.
"""

from __future__ import annotations

import hashlib
import json
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
MODEL = "all-MiniLM-L6-v2"


class Pair(NamedTuple):
    """Two answers, whether they are the same, and in what they differ or what they are about."""

    topic: str
    kind: str
    same: bool
    a: str
    b: str
    chosen_on: bool


def pairs() -> list[Pair]:
    found = []
    for line in (HERE / "answers.jsonl").read_text("utf-8").splitlines():
        topic = json.loads(line)
        name = topic["topic"]
        half = hashlib.sha256(name.encode()).digest()[0] % 2 == 1
        for a, b in combinations(topic["same"], 2):
            found.append(Pair(name, topic["kind"], True, a, b, half))
        for a in topic["same"]:
            for kind, b in topic["other"]:
                found.append(Pair(name, kind, False, a, b, half))
    return found


def texts() -> list[str]:
    """All distinct answers, in the order of the vectors."""
    return list(dict.fromkeys(text for pair in pairs() for text in (pair.a, pair.b)))


def vectors() -> dict[str, NDArray[Any]]:
    """The unit vectors of all answers by all-MiniLM-L6-v2, rounded to float16."""
    with np.load(HERE / "answers.npz") as stored:
        return dict(zip(texts(), stored["vectors"].astype(np.float32), strict=True))
