"""What a reader called wrong is not served to the same words again, from whichever entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.language_models.fake_chat_models import SimpleChatModel
from langchain_core.messages import BaseMessage

from langchain_redis_tiered import RedisTieredCache
from redis_tiered import SemanticPolicy, Tiers, cache_control
from redis_tiered.llm_cache.semantic.cacheable import Verdict

NEAR = [f"cat {letter}" for letter in "pqrst"]
FAR = [f"dog {letter}" for letter in "pqrst"]


def embed(texts: list[str]) -> list[Any]:
    """Questions that begin with the same word are near each other."""
    vectors = []
    for text in texts:
        kind, _, letter = text.partition(" ")
        vector = np.random.default_rng(ord(letter[-1])).normal(size=64) / 45
        vector[0 if kind == "cat" else 1] += 1
        vectors.append(vector)
    return vectors


class Model(SimpleChatModel):
    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "model"

    def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
        self.calls += 1
        text = str(messages[-1].text)
        return {"cat u": "To these words, something else."}.get(text, f"About {text[:3]}s.")


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


def test_other_entries_with_the_same_answer_are_not_served_either(place: Path) -> None:
    policy = SemanticPolicy(
        embed,
        model="all-MiniLM-L6-v2",
        max_error=0.2,
        audit_rate=0.0,
        guard="off",
        rules=lambda asked: Verdict(True, "", None),
        engine="local",
    )
    with Tiers.embedded(place) as tiers:
        cache = RedisTieredCache(tiers, semantic=policy)
        model = Model(cache=cache)
        with cache_control(refresh=True):  # have each stored, whatever is near
            for question in (*NEAR, *FAR):
                model.invoke(question)
        served = model.invoke("cat u")
        assert served.text == "About cats."
        cache.feedback(served, correct=False)
        assert cache.explain("cat u", model=model).outcome == "withheld"
        assert "said to be wrong" in str(cache.explain("cat u", model=model))
        calls = model.calls
        assert model.invoke("cat u").text == "To these words, something else."
        assert model.calls == calls + 1
        assert cache.stats().semantic["withheld"] == 1
