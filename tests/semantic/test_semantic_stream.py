"""LangChain's cache on real tiers decides, question by question, as `evaluate` says it would."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import SimpleChatModel
from langchain_core.messages import BaseMessage

from langchain_redis_tiered import RedisTieredCache
from notebooks.data.questions import Vectors, questions
from redis_tiered import SemanticPolicy, Tiers, evaluate
from redis_tiered.llm_cache.semantic.cacheable import Asked, Verdict

ASKED = questions()
ANSWERS = {each.prompt: each.answer for each in ASKED}
IDS = {each.answer: each.answer_id for each in ASKED}


class Desk(SimpleChatModel):
    @property
    def _llm_type(self) -> str:
        return "desk"

    def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
        return ANSWERS[str(messages[-1].text)]


def everything(asked: Asked) -> Verdict:
    return Verdict(True, "", None)


@pytest.mark.parametrize("mode", ["balanced", "shadow"])
def test_a_stream_is_served_as_evaluate_says(
    mode: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    policy = SemanticPolicy(
        Vectors(),
        mode=mode,
        max_error=0.02,
        seed=5,
        answer_id=IDS.__getitem__,
        rules=everything,
        engine="local",
    )
    expected = evaluate([(each.prompt, each.answer_id) for each in ASKED], policy)
    wrong = 0
    with Tiers.embedded(tmp_path_factory.mktemp("s")) as tiers:
        cache = RedisTieredCache(tiers, semantic=policy)
        model = Desk(cache=cache)
        for each in ASKED:
            message = model.invoke(each.prompt)
            if "redis_tiered" in message.response_metadata:
                wrong += IDS[str(message.text)] != each.answer_id
        found = cache.stats().semantic
        [report] = cache.semantic_report().values()
    assert {name: found.get(name, 0) for name in expected.reasons} == expected.reasons
    assert wrong == expected.wrong
    assert report["theta"] == pytest.approx(expected.theta, abs=1e-3)
    assert report["audits"] == expected.reasons.get("shadow", expected.audits)
