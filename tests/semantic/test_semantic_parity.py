"""What `evaluate` promises is what the live cache does: the same stream through both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage

from langchain_redis_tiered import RedisTieredCache
from redis_tiered import LLMCache, SemanticPolicy, Tiers
from redis_tiered.llm_cache.semantic.cacheable import Asked, Verdict
from redis_tiered.llm_cache.semantic.decision import Decider
from redis_tiered.llm_cache.semantic.head import shipped_head
from redis_tiered.llm_cache.semantic.replay import Question, Replay, replay
from tests.semantic.toy import asked, direction

_MODEL = "all-MiniLM-L6-v2"
_DIMS = 48


class Stream:
    """Questions about some topics, some of them alike, worded nearer to their topic or less near."""

    def __init__(self, length: int, seed: int = 7) -> None:
        generator = np.random.default_rng(seed)
        self.vectors: dict[str, np.ndarray] = {}
        self.questions: list[Question] = []
        for number in range(length):
            topic = int(generator.integers(24))
            kin = direction(f"kin {topic // 3}", _DIMS)
            base = direction(f"topic {topic}", _DIMS) + 1.1 * kin
            noise = generator.standard_normal(_DIMS) / np.sqrt(_DIMS)
            vector = base + generator.uniform(0.2, 0.9) * noise
            prompt = f"please tell me {_letters(number)}"
            self.vectors[prompt] = vector
            self.questions.append(Question(prompt, vector, f"answer {topic}"))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [self.vectors[text].tolist() for text in texts]


def _letters(number: int) -> str:
    names = itertools.islice(itertools.product("bcdfghjk", repeat=4), number, None)
    return "".join(next(names))


def allow(asked: Asked) -> Verdict:
    return Verdict(True, "", None)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return Stream(450)


def policy(stream: Stream, engine: str) -> SemanticPolicy:
    return SemanticPolicy(
        stream.embed,
        model=_MODEL,
        rules=allow,
        answer_id=lambda text: text,
        seed=11,
        max_error=0.03,
        warmup=60,
        guard="off",
        engine=engine,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def expected(stream: Stream) -> Replay:
    wanted = policy(stream, "local")
    decider = Decider(wanted.options(None), wanted.make_guard(), shipped_head(_MODEL))
    result = replay(stream.questions, decider)
    # A stream that proves something: hits, audits, and near ones that are not served.
    assert result.served.sum() > 60
    assert result.audit.sum() > 5
    assert (~result.served & (result.p > 0.3)).sum() > 60
    return result


@pytest.fixture(params=["local", "redisvl"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tiers(request: pytest.FixtureRequest, engine: str) -> Iterator[Tiers]:
    if engine == "redisvl":
        url = request.getfixturevalue("search_url")
    else:
        url = request.getfixturevalue("valkey").url
    durable = request.getfixturevalue("sqlite_url")
    with Tiers(url, durable, namespace=f"parity-{request.node.name[:40]}") as tiers:
        yield tiers


def test_the_core(stream: Stream, expected: Replay, tiers: Tiers, engine: str) -> None:
    cache = LLMCache(tiers, semantic=policy(stream, engine))
    served: list[bool] = []
    right: list[bool] = []
    for question in stream.questions:
        found = cache.lookup(asked(question.prompt))
        served.append(found is not None)
        if found is None:
            cache.update(asked(question.prompt), question.answer.encode())
        else:
            assert found.tier == "semantic"
            right.append(found.payload == question.answer.encode())
    assert served == expected.served.tolist()
    assert right == expected.right[expected.served].tolist()


def test_langchain(stream: Stream, expected: Replay, tiers: Tiers, engine: str) -> None:
    cache = RedisTieredCache(tiers, semantic=policy(stream, engine))
    answers = {question.prompt: question.answer for question in stream.questions}
    called: list[str] = []

    class Model(GenericFakeChatModel):
        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            called.append(messages[-1].content)
            self.messages = iter([AIMessage(answers[messages[-1].content])])
            return super()._generate(messages, *args, **kwargs)

    model = Model(messages=iter([]), cache=cache)
    given = [model.invoke([HumanMessage(q.prompt)]).content for q in stream.questions]
    asked_for = set(called)
    assert [q.prompt not in asked_for for q in stream.questions] == expected.served.tolist()
    right = [a == q.answer for a, q in zip(given, stream.questions, strict=True)]
    assert [r for r, s in zip(right, expected.served, strict=True) if s] == (
        expected.right[expected.served].tolist()
    )
