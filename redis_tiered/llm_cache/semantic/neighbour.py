"""What a decision looks at: stored entries near to a question, and how vectors are prepared."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from redis_tiered.errors import InvalidInput

__all__ = ["Neighbour", "rounded"]


class Neighbour(NamedTuple):
    """A stored entry near to a question.

    Attributes:
        entry: its id.
        cosine: of its prompt's vector and the question's, -1 to 1.
        answer: identity of its answer; entries of one identity have the same answer.
        prompt: text of its last user turn.
    """

    entry: str
    cosine: float
    answer: str
    prompt: str


def rounded(vector: Any) -> NDArray[np.float32]:
    """A vector of unit length whose direction float16 can hold: what is kept is what is compared.

    Args:
        vector: 1-D, at least one number, all finite, not all zero.

    Raises:
        InvalidInput: it is something else.
    """
    try:
        numbers = np.asarray(vector, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"an embedding must be a sequence of numbers, got {type(vector).__name__}"
        ) from None
    if numbers.ndim != 1 or not numbers.size:
        raise InvalidInput(f"an embedding must have one dimension, got shape {numbers.shape}")
    largest = float(np.abs(numbers).max())
    if not np.isfinite(largest) or largest == 0.0:
        raise InvalidInput("an embedding must hold finite numbers, not all of them zero")
    numbers = numbers / largest
    kept = (numbers / np.linalg.norm(numbers)).astype(np.float16).astype(np.float64)
    unit: NDArray[np.float32] = (kept / np.linalg.norm(kept)).astype(np.float32)
    return unit
