"""An embedder whose vectors a test can foresee: what a text is about is what stands before its colon."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from redis_tiered.llm_cache.cache import LLMCache
from redis_tiered.llm_cache.fingerprint import Request
from redis_tiered.llm_cache.shelf import Found


def direction(name: str, dims: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(dims)
    return vector / np.linalg.norm(vector)


class Toy:
    """Texts of one topic have a cosine of about 0.97, others of about 0.

    Attributes:
        texts: all that was embedded.
        fail: raised, if it is set, in place of an answer.
        delay: seconds that it takes.
        model: its name; that of a model for which a head is shipped.
    """

    def __init__(self, length: int = 64, *, model: str = "all-MiniLM-L6-v2") -> None:
        self.length = length
        self.model = model
        self.texts: list[str] = []
        self.fail: Exception | None = None
        self.delay = 0.0
        self.change: Callable[[np.ndarray], np.ndarray] = lambda vector: vector

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.texts += texts
        if self.delay:
            time.sleep(self.delay)
        if self.fail is not None:
            raise self.fail
        return [self.change(self.vector(text)).tolist() for text in texts]

    async def aembed(self, texts: Sequence[str]) -> list[list[float]]:
        return self.embed(texts)

    def vector(self, text: str) -> np.ndarray:
        topic = text.partition(":")[0].strip().lower()
        return direction(topic, self.length) + 0.17 * direction(text.strip().lower(), self.length)


def asked(prompt: str | None, *, system: str = "", model: str = "m") -> Request:
    return Request(model.encode(), system.encode(), prompt)


def ask(cache: LLMCache, prompt: str, answer: str, *, system: str = "", model: str = "m") -> Found:
    """Look up and, on a miss, store what the model says; what the user got."""
    request = asked(prompt, system=system, model=model)
    found = cache.lookup(request)
    if found is None:
        cache.update(request, answer.encode())
        return Found(answer.encode(), "model", 0.0)
    return found


def taught(cache: LLMCache, topics: int = 12, wordings: int = 3) -> None:
    """Store answers to some topics, so that a neighbourhood has more than one answer."""
    for topic in range(topics):
        for wording in range(wordings):
            cache.update(
                asked(f"topic{topic}: wording {'abcdefgh'[wording]}"), f"A{topic}".encode()
            )
