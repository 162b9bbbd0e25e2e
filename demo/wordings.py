"""The same question in other words: served within a budget for wrong answers, Redis killed or not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_core.language_models.fake_chat_models import SimpleChatModel
from langchain_core.messages import BaseMessage

from demo.outage import EmbeddedRedis
from demo.screen import Screen
from langchain_redis_tiered import RedisTieredCache
from notebooks.data.questions import Question, Vectors, questions
from redis_tiered import SemanticPolicy, Tiers

__all__ = ["BUDGET", "Served", "ask_in_other_words", "stream"]

BUDGET = 0.01  # wrong answers per request
_DOWN = (0.60, 0.75)  # part of the stream during which Redis is away
_AGAIN = 0.3  # after so many new questions, one that was asked before
_EXACT = ("memory", "redis", "durable")


@dataclass
class Served:
    """What came of the stream.

    Attributes:
        requests: asked.
        calls: of the model.
        hits: by tier, "semantic" for those to other words; as the cache counts them.
        down: the same while Redis was away.
        audits: model calls that were made to check what would have been served.
        wrong: answers to other words that are not the question's.
        strange: other answers that are not.
        errors: what was raised.
    """

    requests: int = 0
    calls: int = 0
    hits: Mapping[str, int] = field(default_factory=dict)
    down: Mapping[str, int] = field(default_factory=dict)
    audits: int = 0
    wrong: int = 0
    strange: int = 0
    errors: list[str] = field(default_factory=list)

    def rows(self) -> dict[str, int]:
        """What a table shows."""
        return {
            "requests": self.requests,
            "answered by the very words asked before": sum(self.hits.get(t, 0) for t in _EXACT),
            "answered by other words": self.hits.get("semantic", 0),
            "of these while Redis was down": self.down.get("semantic", 0),
            "model calls": self.calls,
            "of these to check what would have been served": self.audits,
            "wrong answers to other words": self.wrong,
        }

    def verdict(self) -> tuple[bool, str]:
        """Whether all is well, and why."""
        allowed = int(BUDGET * self.requests)
        text = (
            f"wrong answers to other words {self.wrong} in {self.requests:,} requests; the budget of "
            f"{BUDGET:.0%} allows {allowed}"
        )
        if self.errors:
            return False, f"{text}; errors {len(self.errors)}, the first: {self.errors[0]}"
        if self.strange:
            return False, f"{text}; wrong answers to the very same words {self.strange}"
        if self.calls + sum(self.hits.values()) != self.requests:
            return False, f"{text}; the cache counted {dict(self.hits)}, the model {self.calls}"
        return self.hits.get("semantic", 0) > 0 and self.wrong <= allowed, text


class _Desk(SimpleChatModel):
    """Looks the answer up, and counts how often it was asked."""

    answers: dict[str, str]
    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "desk"

    def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
        self.calls += 1
        return self.answers[str(messages[-1].text)]


def stream(seed: int = 7) -> list[Question]:
    """The questions in their order, and between them some that were asked before, word for word."""
    chance = random.Random(seed)
    made: list[Question] = []
    for question in questions():
        made.append(question)
        if chance.random() < _AGAIN:
            made.append(chance.choice(made))
    return made


def ask_in_other_words(place: Path, screen: Screen, part: float = 1.0) -> Served:
    """Ask all questions of the stream one after another, and kill Redis on the way.

    Args:
        place: an empty directory with a short path.
        screen: where to say what happens.
        part: of the stream that is asked, its beginning.
    """
    asked = stream()
    asked = asked[: int(part * len(asked))]
    meant = {each.answer: each.answer_id for each in asked}
    redis = EmbeddedRedis(place / "tiers", place)
    done = Served(requests=len(asked))
    try:
        with Tiers.embedded(place / "tiers") as tiers:
            policy = SemanticPolicy(Vectors(), max_error=BUDGET, seed=1)
            cache = RedisTieredCache(tiers, semantic=policy)
            desk = _Desk(cache=cache, answers={each.prompt: each.answer for each in asked})
            for question in _through_an_outage(asked, redis, cache, done, screen):
                try:
                    message = desk.invoke(question.prompt)
                except Exception as error:
                    done.errors.append(repr(error))
                    continue
                if meant[str(message.text)] != question.answer_id:
                    if "redis_tiered" in message.response_metadata:
                        done.wrong += 1
                    else:
                        done.strange += 1
            stats = cache.stats()
            done.calls, done.hits = desk.calls, dict(stats.hits)
            done.audits = stats.semantic.get("audit", 0)
    finally:
        redis.wait_for_end()
    return done


def _through_an_outage(
    asked: list[Question],
    redis: EmbeddedRedis,
    cache: RedisTieredCache,
    done: Served,
    screen: Screen,
) -> Iterator[Question]:
    """Pass the questions on; in the middle Redis is killed, and for a while nobody can start it."""
    killed, back = (int(share * len(asked)) for share in _DOWN)
    before: Counter[str] = Counter()
    for number, question in enumerate(asked):
        if number == killed:
            before = Counter(cache.stats().hits)
            redis.take_away()
            screen.say(
                f"  {number:>4}/{len(asked)}  kill -9 {redis.kill()} (Redis); its program is moved "
                "away."
            )
        if number == back:
            done.down = Counter(cache.stats().hits) - before
            redis.put_back()
            screen.say(f"  {number:>4}/{len(asked)}  The program is back in its place.")
        yield question
