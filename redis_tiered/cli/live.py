"""A running cache, as the command line needs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis_tiered.errors import ConfigurationError

if TYPE_CHECKING:
    from redis_tiered.llm_cache.cache import LLMCache

__all__ = ["opened"]


@contextmanager
def opened(
    *,
    name: str,
    embeddings: object,
    model: str | None,
    redis: str | None,
    durable: str | None,
    namespace: str | None,
    tenant: str | None,
) -> Iterator[LLMCache]:
    """The cache of that name; closed at the end, when all that was written has arrived.

    What is not given comes from the environment, as for `Tiers.default()`.

    Raises:
        ConfigurationError: nothing says where Redis is.
    """
    from redis_tiered.llm_cache.cache import LLMCache
    from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
    from redis_tiered.settings import from_environment
    from redis_tiered.tiers.tiers import Tiers

    found: dict[str, Any] = dict(from_environment(os.environ))
    given = {"redis": redis, "durable": durable, "namespace": namespace, "tenant": tenant}
    found.update({key: value for key, value in given.items() if value is not None})
    if found.get("redis") is None:
        raise ConfigurationError(
            "--redis must say where Redis is, as redis://localhost:6379; or set "
            "REDIS_TIERED_REDIS_URL"
        )
    tiers = Tiers(**found)
    try:
        policy = SemanticPolicy(embeddings, model=model, mode="shadow", audit_rate=0.0)
        yield LLMCache(tiers, name=name, semantic=policy)
    finally:
        tiers.close()
