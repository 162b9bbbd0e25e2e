"""`SemanticPolicy`: what the user says about answering a question by the answer to another."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from redis_tiered.checks import integer, seconds
from redis_tiered.embedders import NamedEmbedder, as_embedder
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.cacheable import Asked, CacheRules, Verdict
from redis_tiered.llm_cache.semantic.decision import Mode, Options
from redis_tiered.llm_cache.semantic.guard import Guard, LexicalGuard, guard_of
from redis_tiered.llm_cache.semantic.same_answer import SameAnswer, judge_of
from redis_tiered.llm_cache.semantic.tools.calibration import Calibration

__all__ = ["SemanticPolicy"]

logger = logging.getLogger("redis_tiered")

_ENGINES = ("auto", "local", "redisvl")


@dataclass(frozen=True)
class SemanticPolicy:
    """How an LLM cache answers questions that were asked in other words before.

    Requests are compared within their scope only: tenant, model, parameters, system prompt, earlier
    turns, tools and output schema are the same; the text of the last user turn may differ.

    Args:
        embeddings: what makes vectors of questions: LangChain's `Embeddings`, LlamaIndex's
            `BaseEmbedding`, `OpenAIEmbedder`, a redisvl vectorizer, or a function of a list of texts.
        mode: "balanced"; "strict": a stricter guard, and only what is all but certain; "shadow":
            decide, compare with the model's answer and count, but serve nothing; "off".
        max_error: wrong answers per request that may be served, as a share. The cache audits itself to
            stay within it: now and then it lets the model answer although it would have served.
        guard: what no served question may differ in, whatever the vectors say: "default" (numbers,
            names, negation ...), "strict", "off", or a function of the asked and the stored question
            that gives a reason or None. None: as the mode says.
        same_answer: a function of two answers' texts (and of nothing else), sync or async, that says
            whether they are the same: an LLM can judge. It is asked in the background where nothing
            cheaper knows. None: the similarity of the answers decides.
        answer_id: a function of an answer's text that names what it answers; answers of one name are
            the same, others are not. None: the texts are compared.
        audit_rate: share of would-be hits that are audited.
        warmup: lookups that serve near repeats only (cosine 0.92 and more), 0: none.
        floor: cosine below which nothing is served.
        k: how many stored questions are looked at.
        rules: which requests may be answered and stored so, and for how long: a function of `Asked`
            that gives a `Verdict`. None: `CacheRules` with `volatile_ttl`.
        volatile_ttl: seconds for which answers to questions about what changes (the weather, a balance)
            may be used; 0: such questions are left out.
        calibration: what `calibrate` found; None: what was adopted for the cache, or else what comes
            with this package for the embedding model.
        model: a name for the embedding model, where `embeddings` does not tell one.
        engine: of vectors: "redisvl" needs the search module, "local" does not; "auto" finds out.
        embed_timeout: seconds after which an embedding is given up, and the lookup is an exact miss;
            None: never. Blocking code embeds in another thread for its sake.
        max_entries: how many questions are kept for comparison; the oldest go first.
        seed: of the draw of audits; None: another one in each process.

    Raises:
        InvalidInput: an argument cannot be used.
    """

    embeddings: Any = field(repr=False)
    mode: Mode = "balanced"
    max_error: float = 0.01
    guard: Literal["default", "strict", "off"] | Guard | None = None
    same_answer: SameAnswer | None = None
    answer_id: Callable[[str], str] | None = None
    audit_rate: float = 0.03
    warmup: int = 200
    floor: float = 0.55
    k: int = 10
    rules: Callable[[Asked], Verdict] | None = None
    volatile_ttl: float = 0.0
    calibration: Calibration | None = None
    model: str | None = None
    engine: Literal["auto", "local", "redisvl"] = "auto"
    embed_timeout: float | None = 5.0
    max_entries: int = 100_000
    seed: int | None = None

    def __post_init__(self) -> None:
        self.options(None)
        self.make_guard()
        self.embedder()
        judge_of(self.same_answer)
        for name in ("answer_id", "rules"):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise InvalidInput(f"{name} must be a function or None, got {type(given).__name__}")
        if self.engine not in _ENGINES:
            raise InvalidInput(f"engine must be one of {_ENGINES}, got {self.engine!r:.100}")
        if self.calibration is not None and not isinstance(self.calibration, Calibration):
            raise InvalidInput(
                f"calibration must be a Calibration or None, got {type(self.calibration).__name__}"
            )
        if self.volatile_ttl != 0 or isinstance(self.volatile_ttl, bool):
            seconds("volatile_ttl", self.volatile_ttl)
        if self.embed_timeout is not None:
            seconds("embed_timeout", self.embed_timeout)
        integer("max_entries", self.max_entries, 1)
        if self.seed is not None:
            integer("seed", self.seed, 0)

    def options(self, theta: float | None) -> Options:
        """For a decider; `theta` is that of a calibration."""
        return Options(
            mode=self.mode,
            max_error=self.max_error,
            audit_rate=self.audit_rate,
            warmup=self.warmup,
            floor=self.floor,
            k=self.k,
            seed=self.seed,
            theta=theta,
        )

    def make_guard(self) -> Guard | None:
        """The guard; None: there is none."""
        strict = self.mode == "strict"
        chosen = ("strict" if strict else "default") if self.guard is None else self.guard
        guard = guard_of(chosen)
        return guard if guard is None or isinstance(guard, LexicalGuard) else _Careful(guard)

    def make_rules(self) -> Callable[[Asked], Verdict]:
        if self.rules is not None:
            return self.rules
        return CacheRules(volatile_ttl=self.volatile_ttl)

    def embedder(self) -> NamedEmbedder:
        return as_embedder(self.embeddings, model=self.model)


class _Careful:
    """A user's guard; one that fails refuses."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __call__(self, asked: str, stored: str) -> str | None:
        try:
            reason: Any = self._guard(asked, stored)
        except Exception as error:
            logger.warning("the guard of a semantic cache failed: %s", type(error).__name__)
            return "guard_failed"
        if reason is None or (isinstance(reason, str) and reason):
            return reason
        if inspect.iscoroutine(reason):
            reason.close()
        logger.warning("a guard must give a reason or None, got %s", type(reason).__name__)
        return "guard_failed"
