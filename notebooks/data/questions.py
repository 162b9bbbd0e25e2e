"""The questions of the notebook on semantic caching and of the demo, with their vectors.

What people ask the library and the museum of Harrowmere, a city that does not exist, in the order in
which they ask it. All of it was written for this project. `questions.jsonl` has one question a line,
with the answer that is right and its id; `questions.npz` the vectors of all questions and answers,
made with all-MiniLM-L6-v2 by `embed.py`, so that nobody needs the model to try the cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Question", "Vectors", "questions", "texts"]

HERE = Path(__file__).parent


class Question(NamedTuple):
    """What is asked, which answer is right, and one of its texts."""

    prompt: str
    answer_id: str
    answer: str


def questions() -> list[Question]:
    """All questions, each once, in the order in which they are asked."""
    lines = (HERE / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question(**json.loads(line)) for line in lines]


def texts() -> list[str]:
    """Every text that has a vector, in the order of the vectors: questions, then answers."""
    asked = questions()
    return list(dict.fromkeys([each.prompt for each in asked] + [each.answer for each in asked]))


class Vectors:
    """An embedder that looks vectors up; use your own to ask what is not among the texts.

    Attributes:
        model: the name of the embedding model.
        calls: how many texts it was asked for.
    """

    model = "all-MiniLM-L6-v2"

    def __init__(self) -> None:
        self.calls = 0
        with np.load(HERE / "questions.npz") as file:
            vectors = file["vectors"].astype(np.float32)
        # The model does not see case or white space either.
        self._vectors = dict(zip(map(_plain, texts()), vectors, strict=True))

    def embed(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """One vector of 384 numbers and unit length for each text.

        Raises:
            KeyError: a text is not among `texts()`.
        """
        self.calls += len(texts)
        return [self._vectors[_plain(text)] for text in texts]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
