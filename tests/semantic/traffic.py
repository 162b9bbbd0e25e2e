"""Made-up questions with vectors: answers are places in a space, some of them close to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORDS = [
    "amber",
    "birch",
    "cedar",
    "dusk",
    "ember",
    "fjord",
    "grove",
    "heath",
    "inlet",
    "jade",
    "knoll",
    "larch",
]


class Source:
    """Where questions come from: always the same answers, ever new questions.

    Args:
        seed: of the places.
        answers: how many.
        spread: how far questions lie from their answer's place; 0.2 is easy, 0.5 is hard.
    """

    def __init__(
        self, seed: int, *, answers: int = 30, spread: float = 0.3, dims: int = 16
    ) -> None:
        random = np.random.default_rng(seed)
        centres = random.normal(size=(answers, dims))
        centres[1::2] = centres[::2] + 0.5 * random.normal(size=(answers // 2, dims))
        self._centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
        self._spread = spread
        self._random = random
        self._asked = 0

    def ask(self, count: int, *, answers: Any = None) -> list[dict[str, Any]]:
        """So many items of a log, each with its vector."""
        among = np.arange(len(self._centres)) if answers is None else np.asarray(answers)
        chosen = self._random.choice(among, size=count)
        noise = self._random.normal(size=(count, self._centres.shape[1]))
        vectors = self._centres[chosen] + self._spread * noise / 2.0
        found = []
        for answer, vector in zip(chosen, vectors, strict=True):
            found.append(
                {"prompt": self._name(), "answer": f"a{answer}", "embedding": vector.tolist()}
            )
        return found

    def _name(self) -> str:
        self._asked += 1
        digits = np.base_repr(self._asked, len(_WORDS))
        return " ".join(_WORDS[int(digit, len(_WORDS))] for digit in digits)


class Embeddings:
    """Knows the vectors of the questions it was shown; a function of a list of texts."""

    def __init__(self, *logs: list[dict[str, Any]]) -> None:
        self._known = {item["prompt"]: item["embedding"] for log in logs for item in log}

    def __call__(self, texts: list[str]) -> list[list[float]]:
        return [self._known[text] for text in texts]


def pairs_of(log: list[dict[str, Any]], *, each: int = 1) -> list[dict[str, Any]]:
    """Pairs of two questions that nobody else shares, the same half of the time."""
    by_answer: dict[str, list[str]] = {}
    for item in log:
        by_answer.setdefault(item["answer"], []).append(item["prompt"])
    found = []
    names = sorted(by_answer)
    for number, name in enumerate(names):
        mine = by_answer[name]
        other = by_answer[names[(number ^ 1) % len(names)]]
        while len(mine) > 2 * each:
            found.append({"a": mine.pop(), "b": mine.pop(), "same": True})
            if len(other) > 1 and len(mine) > 1:
                found.append({"a": mine.pop(), "b": other.pop(), "same": False})
    return found


def unit(vector: Any) -> NDArray[np.float64]:
    array = np.asarray(vector, dtype=np.float64)
    result: NDArray[np.float64] = array / np.linalg.norm(array)
    return result
