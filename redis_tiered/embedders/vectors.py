"""What goes into an embedder and what comes out of it, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redis_tiered.errors import InvalidInput

__all__ = ["Vectors", "texts_of", "vectors_of"]

# One float64 array of one dimension per text. numpy's arrays are no `Sequence` in the eyes of a
# type checker, hence Any.
Vectors = list[Any]

_WANTED = "one vector of finite numbers for each text, all of one length"


def texts_of(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        InvalidInput: it is a single text, or holds something else than str.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise InvalidInput(f"texts must be a sequence of str, got {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"texts[{i}] must be a str, got {type(text).__name__}")
    return list(texts)


def vectors_of(made: object, count: int, who: str) -> Vectors:
    """The vectors that an embedder made of `count` texts.

    Args:
        made: rows of numbers: a sequence of sequences or of arrays, or one array of two dimensions.
        count: how many there must be.
        who: the embedder, for the error.

    Raises:
        InvalidInput: it is something else; the error tells kinds, counts and lengths, no contents.
    """
    if isinstance(made, str | bytes | dict) or not hasattr(made, "__len__"):
        raise InvalidInput(f"{who} must return {_WANTED}; got {type(made).__name__}")
    try:
        numbers: NDArray[Any] = np.asarray(made)
    except (TypeError, ValueError, RuntimeError):  # ragged; a tensor that cannot be read
        raise InvalidInput(f"{who} must return {_WANTED}; got {_uneven(made)}") from None
    if numbers.ndim == 1 and numbers.size and numbers.dtype.kind in "iuf":
        raise InvalidInput(
            f"{who} must take a list of texts and return {_WANTED}; got a single vector of"
            f" {numbers.size} numbers for {count} text{'s' * (count != 1)}. A function of one"
            " text becomes one of several so: lambda texts: [function(text) for text in texts]"
        )
    if numbers.ndim != 2 or numbers.dtype.kind not in "iuf" or not numbers.shape[1]:
        raise InvalidInput(f"{who} must return {_WANTED}; got {_described(made, numbers)}")
    if len(numbers) != count:
        raise InvalidInput(
            f"{who} must return {_WANTED}; got {len(numbers)} vectors for {count} texts"
        )
    rows = numbers.astype(np.float64, copy=False)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise InvalidInput(
            f"{who} must return {_WANTED}; vector {int(finite.argmin())} of {count} holds NaN"
            " or infinity"
        )
    return list(rows)


def _uneven(made: Any) -> str:
    try:
        lengths = sorted({len(each) for each in made})
    except TypeError:
        return f"{type(made).__name__} of what is not a vector"
    if len(lengths) > 1:
        return f"vectors of {lengths[0]} and of {lengths[-1]} numbers"
    return f"{type(made).__name__} that cannot be read as numbers"


def _described(made: Any, numbers: NDArray[Any]) -> str:
    if not len(made):
        return f"an empty {type(made).__name__}"
    if numbers.dtype.kind in "iuf":
        return f"an array of shape {numbers.shape}"
    first = made[0] if isinstance(made, Sequence) else made
    inner = first[0] if isinstance(first, list | tuple) and first else first
    return f"{type(made).__name__} of {type(inner).__name__}"
