"""What calibration and evaluation need from the outside: vectors, a guard, somebody who watches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.neighbour import rounded

__all__ = ["Progress", "Watch", "embedded", "fraction", "guard_name", "named"]

Progress = Callable[[int, int], None]
_BATCH = 256


def named(embeddings: object, model: str | None) -> tuple[Any, str]:
    """An embedder, or None, and the name of its model.

    Raises:
        InvalidInput: there is neither an embedder nor a name.
    """
    if model is not None and (not isinstance(model, str) or not model.strip()):
        raise InvalidInput(f"model must be the name of an embedding model, got {model!r:.40}")
    if embeddings is None:
        if model is None:
            raise InvalidInput(
                "model must name the embedding model where no embeddings are given: what is "
                "learned from cosines of one model says nothing of another's"
            )
        return None, model
    from redis_tiered.embedders import as_embedder

    embedder = as_embedder(embeddings, model=model)
    return embedder, embedder.model_name


def embedded(
    texts: Sequence[str],
    given: NDArray[np.float32] | None,
    embedder: Any,
    step: Callable[[int], None],
) -> NDArray[np.float32]:
    """Vectors of texts, (texts, dims), of unit length and rounded as the live cache keeps them.

    Args:
        given: vectors that came with the data; None: `embedder` makes them.
        step: told how many were done.

    Raises:
        InvalidInput: there are neither; a vector is unusable, or they differ in length.
    """
    if given is None and embedder is None:
        raise InvalidInput(
            'embeddings must be given, or each prompt of the data an "embedding": vectors decide '
            "what is near"
        )
    rows: list[NDArray[np.float32]] = []
    for begin in range(0, len(texts), _BATCH):
        batch = texts[begin : begin + _BATCH]
        vectors = embedder.embed(batch) if given is None else given[begin : begin + _BATCH]
        if len(vectors) != len(batch):
            raise InvalidInput(f"embeddings gave {len(vectors)} vectors for {len(batch)} texts")
        rows.extend(rounded(vector) for vector in vectors)
        step(len(batch))
    if len({len(row) for row in rows}) > 1:
        raise InvalidInput("embeddings must all have one number of dimensions")
    return np.stack(rows)


def guard_name(guard: object) -> str:
    """How a guard is written down: its name, or `"custom"`."""
    return guard if isinstance(guard, str) else "off" if guard is None else "custom"


def fraction(name: str, value: object) -> float:
    """A share: more than 0, less than 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{name} must be a number, got {type(value).__name__}")
    if not 0.0 < value < 1.0:
        raise InvalidInput(f"{name} must be more than 0 and less than 1, got {value}")
    return float(value)


class Watch:
    """Progress as a function, or as a bar on stderr; a total of steps, done bit by bit."""

    def __init__(self, progress: object, title: str, total: int) -> None:
        if progress not in (None, True, False) and not callable(progress):
            raise InvalidInput(
                f"progress must be a function, True or None, got {type(progress).__name__}"
            )
        self._progress = progress
        self._title = title
        self._total = total
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._progress is True:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a notebook has no widgets: the bar is plain
                from tqdm.auto import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(total=self._total, desc=self._title, unit=" prompts", leave=False)
        return self

    def step(self, count: int) -> None:
        """So many more were done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif callable(self._progress):
            self._progress(self._done, self._total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
