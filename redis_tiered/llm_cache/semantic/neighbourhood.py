"""The questions stored with the vectors of one embedding model, and what was learnt about them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final

import orjson

from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.flow import Command, Flow
from redis_tiered.llm_cache.semantic.decision import Decider
from redis_tiered.llm_cache.semantic.head import shipped_head
from redis_tiered.llm_cache.semantic.neighbour import Neighbour
from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
from redis_tiered.llm_cache.semantic.records import Records
from redis_tiered.llm_cache.semantic.tools.calibration import Calibration
from redis_tiered.tiers.tiers import Tiers
from redis_tiered.vectors.neighbours import Near, Neighbours, News

__all__ = ["Neighbourhood", "known_dims", "model_id"]

logger = logging.getLogger("redis_tiered")

_ANSWER: Final = "a"
# Seconds after which a process that is told of no changes asks for the calibration again.
_ASK_AGAIN: Final = 1.0


def known_dims(records: Records, model: str) -> Flow[int | None]:
    """Length of the vectors that were last in use with a model; None: none ever were.

    Raises:
        TierError: neither tier can tell.
    """
    state = _json((yield from records.load(_state_name(model_id(model)))) or b"null")
    dims = None if state is None else state.get("dims")
    return dims if isinstance(dims, int) and dims > 0 else None


def _state_name(model: str) -> str:
    return f"learnt:{model}"


def model_id(model: str) -> str:
    """A short name for an embedding model, whatever its own name holds."""
    return blake2b(model.encode(errors="surrogatepass"), digest_size=8).hexdigest()


class Neighbourhood:
    """Where near questions are found, and who decides about them.

    Args:
        tiers: where it is kept.
        cache: name of the cache.
        records: of the cache.
        policy: of the cache.
        model: identity of the embedding model.
        model_name: what its maker calls it.
        dims: length of its vectors.
    """

    def __init__(
        self,
        tiers: Tiers,
        cache: str,
        records: Records,
        policy: SemanticPolicy,
        model: str,
        model_name: str,
        dims: int,
    ) -> None:
        self.model = model
        self.model_name = model_name
        self.dims = dims
        self._records = records
        self._policy = policy
        self._id = model_id(model)
        self.index = Neighbours(tiers, f"{cache}:{self._id}:{dims}", dims, engine=policy.engine)
        self.calibration = self._of_this_model(policy.calibration)
        self.decider = self._decider()
        self._loaded = False
        self._asked = -math.inf
        self._saved: bytes | None = None

    def ask(self) -> tuple[Command, ...]:
        """What may ride in another round trip."""
        return self.index.ask()

    def told(self, replies: Sequence[Any]) -> News | None:
        return self.index.told(replies) if replies else None

    def near(
        self, vector: Any, k: int, scope: str | None, news: News | None
    ) -> Flow[tuple[Neighbour, ...]]:
        found = yield from self.index.near(vector, k, scope, news)
        return tuple([_neighbour(near) for near in found])

    def put(
        self, entry: str, vector: Any, prompt: str, answer: str, scope: str, ttl_ms: int | None
    ) -> Flow[None]:
        yield from self.index.put(entry, vector, prompt, {_ANSWER: answer}, scope, ttl_ms)

    def same_answer(self, entry: str, answer: str) -> Flow[None]:
        """Note that an entry's answer is the same as another's."""
        yield from self.index.change(entry, {_ANSWER: answer})

    # What was learnt.

    def ready(self) -> Flow[None]:
        """Begin with the calibration that is in force, and with what other processes learnt under it."""
        try:
            yield from self._calibrate()
            if not self._loaded:
                state = _json((yield from self._records.load(self._state_name)) or b"null")
                self._loaded = True
                if state is not None and state.get("calibration") == self._calibrated:
                    self.decider.restore(state.get("decider"))
        except TierError:
            return  # tried again with the next question

    def _calibrate(self) -> Flow[None]:
        if self._policy.calibration is not None or self._records.remembered(self._name):
            return
        now = time.monotonic()
        if now - self._asked < _ASK_AGAIN and not self._records.told:
            return
        stored = yield from self._records.load(self._name)
        self._asked = now
        calibration = self._of_this_model(None if stored is None else _calibration(stored))
        if calibration != self.calibration:
            self.calibration = calibration
            self._begin_anew()

    def _of_this_model(self, calibration: Calibration | None) -> Calibration | None:
        if calibration is None or calibration.model in (self.model, self.model_name):
            return calibration
        logger.warning(
            "a calibration for embedding model %r says nothing about %r: the cache decides without it",
            calibration.model,
            self.model_name,
        )
        return None

    @property
    def _calibrated(self) -> str | None:
        """When the calibration that is in force was made."""
        return None if self.calibration is None else self.calibration.created

    def adopt(self, calibration: Calibration) -> Flow[None]:
        """Have all processes decide by a calibration.

        Raises:
            InvalidInput: it was made with another embedding model.
            TierError: a tier could not be told.
        """
        yield from self._records.save(self._name, orjson.dumps(calibration.as_dict()))
        self.calibration = calibration
        self._begin_anew()

    def save(self) -> Flow[None]:
        """Keep what was learnt for processes to come."""
        learnt = {
            "calibration": self._calibrated,
            "dims": self.dims,
            "decider": self.decider.state(),
        }
        state = orjson.dumps(learnt)
        if state != self._saved:
            yield from self._records.save(self._state_name, state)
            self._saved = state

    def copy(self) -> Decider:
        """A decider that decides as this one's would now; what it learns is its own."""
        twin = self._decider()
        twin.restore(self.decider.state())
        return twin

    @property
    def _name(self) -> str:
        return f"calibration:{self._id}"

    @property
    def _state_name(self) -> str:
        return _state_name(self._id)

    def _begin_anew(self) -> None:
        """With another head: what was counted with the one before says nothing about it. But the
        cache is no newer."""
        lookups = self.decider.report()["lookups"]
        self.decider = self._decider(max(0, self._policy.warmup - lookups))

    def _decider(self, warmup: int | None = None) -> Decider:
        calibration = self.calibration
        head = shipped_head(self.model_name) if calibration is None else calibration.head
        theta = None if calibration is None else calibration.theta
        options = self._policy.options(theta)
        if warmup is not None:
            options = replace(options, warmup=warmup)
        return Decider(options, self._policy.make_guard(), head)


def _neighbour(near: Near) -> Neighbour:
    return Neighbour(near.id, near.cosine, str(near.metadata.get(_ANSWER, near.id)), near.text)


def _json(data: bytes) -> Mapping[str, Any] | None:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _calibration(data: bytes) -> Calibration | None:
    try:
        return Calibration.from_dict(_json(data) or {})
    except (InvalidInput, KeyError, TypeError, ValueError):
        logger.warning("a stored calibration cannot be read: the cache decides without it")
        return None
