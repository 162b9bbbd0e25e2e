"""What a cached model has beside the model."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from llama_index.core.llms.llm import LLM

from llamaindex_redis_tiered.llm.codec import answer_text
from llamaindex_redis_tiered.llm.models import Models
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.cache import DEFAULT_TTL, LLMCache
from redis_tiered.tiers.tiers import Tiers

__all__ = ["DEFAULTS", "State"]

# The options of a cache of one's own.
DEFAULTS: dict[str, Any] = {
    "name": "default",
    "ttl": DEFAULT_TTL,
    "jitter": 0.1,
    "sliding": False,
    "early": 0.0,
    "single_flight": 30.0,
    "compress_from": 4096,
    "prices": None,
    "semantic": None,
}

# What the caches that were made here were made of.
_origins: WeakKeyDictionary[LLMCache, tuple[Tiers, dict[str, Any]]] = WeakKeyDictionary()


class Asking:
    """What models are being asked at this moment, by blocking methods and by others. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[tuple[int, str, bool], int] = {}

    def begin(self, model: object, key: str, blocking: bool) -> None:
        place = id(model), key, blocking
        with self._lock:
            self._times[place] = self._times.get(place, 0) + 1

    def end(self, model: object, key: str, blocking: bool) -> None:
        place = id(model), key, blocking
        with self._lock:
            self._times[place] -= 1
            if not self._times[place]:
                del self._times[place]

    def is_asked(self, model: object, key: str, blocking: bool) -> bool:
        return (id(model), key, blocking) in self._times


class State:
    """A cache and what is done with it. Copies of a model share it.

    Args:
        llm: the model.
        tiers: where answers live; None: `Tiers.default()`.
        cache: that others use as well; None: one of these options.
        store_truncated: whether answers that ended at a token limit are stored.
        options: of `LLMCache`; all of `DEFAULTS`.

    Raises:
        InvalidInput: an argument has the wrong type or range, or there are both cache and options.
    """

    __slots__ = ("_origin", "asking", "cache", "models", "store_truncated")

    def __init__(
        self,
        llm: LLM,
        tiers: Tiers | None,
        cache: LLMCache | None,
        store_truncated: bool,
        options: dict[str, Any],
    ) -> None:
        if not isinstance(store_truncated, bool):
            raise InvalidInput(
                f"store_truncated must be a bool, got {type(store_truncated).__name__}"
            )
        self.store_truncated = store_truncated
        self.models = Models(llm)
        self.asking = Asking()
        self._origin: tuple[Tiers, dict[str, Any]] | None = None
        if cache is not None:
            self.cache = _shared(cache, tiers, options)
            self._origin = _origins.get(cache)
            return
        if tiers is not None and not isinstance(tiers, Tiers):
            raise InvalidInput(f"tiers must be a Tiers or None, got {type(tiers).__name__}")
        found = Tiers.default() if tiers is None else tiers
        self.cache = LLMCache(found, read_answer=answer_text, **options)
        self._origin = found, options
        _origins[self.cache] = self._origin

    @classmethod
    def of(cls, llm: LLM, tiers: Tiers, store_truncated: bool, options: dict[str, Any]) -> State:
        """What `parts` told, in another process."""
        return cls(llm, tiers, None, store_truncated, options)

    def parts(self) -> tuple[Tiers, bool, dict[str, Any]]:
        """For a pickle.

        Raises:
            InvalidInput: the cache was made elsewhere, and cannot tell how.
        """
        if self._origin is None:
            raise InvalidInput(
                "a model that was given a cache of its maker's cannot be pickled; give it tiers and "
                "options, or the cache_of a model that was"
            )
        tiers, options = self._origin
        return tiers, self.store_truncated, options

    def __copy__(self) -> State:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        return self

    def __repr__(self) -> str:
        return f"State({self.cache!r})"


def _shared(cache: LLMCache, tiers: Tiers | None, options: dict[str, Any]) -> LLMCache:
    if not isinstance(cache, LLMCache):
        raise InvalidInput(f"cache must be an LLMCache or None, got {type(cache).__name__}")
    given = [name for name, value in options.items() if value != DEFAULTS[name]]
    if tiers is not None:
        given.insert(0, "tiers")
    if given:
        raise InvalidInput(
            f"cache brings its own {', '.join(given)}: give it without them, or them without it"
        )
    if cache.semantic and cache.read_answer is not answer_text:
        raise InvalidInput(
            "cache must read these answers, as cache_of(...) does, or one made with "
            "read_answer=llamaindex_redis_tiered.llm.answer_text: it has a semantic part"
        )
    return cache
