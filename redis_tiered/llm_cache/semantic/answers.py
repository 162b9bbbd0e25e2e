"""Which stored answers are the same: names and texts at once, meaning in the background."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Protocol

from redis_tiered.embedders import NamedEmbedder
from redis_tiered.errors import InvalidInput, TierError
from redis_tiered.flow import Flow
from redis_tiered.llm_cache.control import Control
from redis_tiered.llm_cache.envelope import Envelope
from redis_tiered.llm_cache.semantic.neighbour import rounded
from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
from redis_tiered.llm_cache.semantic.same_answer import (
    SameAnswer,
    SimilarAnswers,
    answer_key,
    judged,
)
from redis_tiered.llm_cache.stats import Tally
from redis_tiered.timed import timed

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.neighbourhood import Neighbourhood
    from redis_tiered.llm_cache.semantic.quest import Quest
    from redis_tiered.tiers.tiers import Tiers

__all__ = ["Answers", "Entries"]

logger = logging.getLogger("redis_tiered")

# How an identity begins tells how it came to be: a name of the user's is the last word.
_NAMED: Final = "n"
_TEXT: Final = "t"
_LONGEST: Final = 60.0


class Entries(Protocol):
    """What the exact part of a cache does for the semantic one."""

    def answer_of(self, digest: str) -> Flow[Envelope | None]:
        """What an entry holds, wherever it is; None: it is gone."""

    def rename(self, digest: str, entry: str, text: str) -> Flow[None]:
        """Have an entry's answer found under another digest for good, if what is there now still is
        an answer of this text."""


class Answers:
    """Identities of answers; two are equal if their answers are the same.

    Arguments are those of `Semantic`.
    """

    def __init__(
        self,
        policy: SemanticPolicy,
        tally: Tally,
        read_answer: Callable[[bytes], str | None],
        entries: Entries,
        embedder: NamedEmbedder,
    ) -> None:
        self._policy = policy
        self._tally = tally
        self._read_answer = read_answer
        self._entries = entries
        self._embedder = embedder

    def text(self, payload: bytes) -> str | None:
        """An answer's text; None: it is not plain text, or none at all."""
        text = self._read_answer(payload)
        return text if text is not None and text.strip() else None

    def identity(self, text: str, control: Control) -> str:
        """Of a fresh answer: the user's name for it, or else its text."""
        if control.answer_id is not None:
            return _NAMED + _digest(control.answer_id)
        if self._policy.answer_id is not None:
            try:
                return _NAMED + _digest(_name(self._policy.answer_id(text)))
            except Exception as error:
                self._tally.add("semantic.answer_id.failed")
                logger.warning("answer_id of a semantic cache failed: %s", type(error).__name__)
        return _TEXT + answer_key(text)[:16]

    @staticmethod
    def equal(one: str, other: str) -> bool | None:
        """Whether two answers are the same, as far as their identities tell."""
        if one == other:
            return True
        return False if one.startswith(_NAMED) and other.startswith(_NAMED) else None

    def compare(
        self,
        tiers: Tiers,
        quest: Quest,
        place: Neighbourhood,
        text: str,
        identity: str,
        unsure: Sequence[int],
    ) -> dict[int, bool]:
        """Compare a fresh answer's text with those of neighbours; blocking.

        An answer that is the same gets the same identity. Where a judge said so, the question becomes
        an alias of the neighbour.

        Args:
            tiers: of the cache.
            quest: whose question was answered.
            place: where its neighbours are.
            text: of the answer.
            identity: of the answer.
            unsure: indexes of the neighbours.

        Returns:
            By index, whether the neighbour's answer is the same; left out: nobody knows.
        """
        verdicts: dict[int, bool] = {}
        by_judge: set[int] = set()
        try:
            texts: dict[int, str] = {}
            for index in unsure:
                held = tiers.run(self._entries.answer_of(quest.neighbours[index].entry))
                other = None if held is None else self.text(held.payload)
                if other is not None:
                    texts[index] = other
            if not texts:
                return {}
            fresh, *others = map(rounded, self._vectors([text, *texts.values()]))
            similar = SimilarAnswers.of_model(place.model_name)
            for vector, (index, other) in zip(others, texts.items(), strict=True):
                same = similar(text, other, float(fresh @ vector))
                if same is None and self._policy.same_answer is not None:
                    same = self._judge(text, other)
                    by_judge.add(index)
                if same is not None:
                    verdicts[index] = same
            self._unite(tiers, quest, place, text, identity, verdicts, by_judge)
        except TierError as error:
            self._tally.add(f"semantic.compare.{error.tier}")
        except Exception as error:
            self._tally.add("semantic.compare.failed")
            logger.warning("answers could not be compared: %s", type(error).__name__)
        return verdicts

    def _unite(
        self,
        tiers: Tiers,
        quest: Quest,
        place: Neighbourhood,
        text: str,
        identity: str,
        verdicts: dict[int, bool],
        by_judge: set[int],
    ) -> None:
        """Give the fresh answer the identity of the nearest neighbour that has the same."""
        equal = [index for index, same in verdicts.items() if same]
        if not equal or identity.startswith(_NAMED):
            return
        near = quest.neighbours[min(equal)]
        tiers.run(place.same_answer(quest.mark.digest, near.answer))
        self._tally.add("semantic.united")
        if min(equal) in by_judge:
            tiers.run(self._entries.rename(quest.mark.digest, near.entry, text))

    def _vectors(self, texts: Sequence[str]) -> Sequence[Any]:
        limit = _LONGEST if self._policy.embed_timeout is None else self._policy.embed_timeout
        made: Sequence[Any] = timed(_embedded, (self._embedder, texts), limit)
        return made

    def _judge(self, text: str, other: str) -> bool | None:
        judge = self._policy.same_answer
        assert judge is not None
        try:
            verdict: bool | None = timed(_asked, (judge, text, other), _LONGEST)
            self._tally.add("semantic.judge.asked")
            return verdict
        except Exception as error:
            self._tally.add("semantic.judge.failed")
            logger.warning("same_answer of a semantic cache failed: %s", type(error).__name__)
            return None


def _embedded(embedder: NamedEmbedder, texts: Sequence[str]) -> Sequence[Any]:
    try:
        return embedder.embed(texts)
    except InvalidInput:  # it can be awaited only
        return asyncio.run(_awaited(embedder.aembed(texts)))


def _asked(judge: SameAnswer, text: str, other: str) -> bool | None:
    verdict: Any = judge(text, other)
    return judged(asyncio.run(_awaited(verdict)) if inspect.isawaitable(verdict) else verdict)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _name(given: Any) -> str:
    """A name of the user's for an answer.

    Raises:
        InvalidInput: it is none.
    """
    if isinstance(given, bool) or not isinstance(given, str | int):
        if inspect.iscoroutine(given):
            given.close()
        raise InvalidInput(f"answer_id must return a str or an int, got {type(given).__name__}")
    return str(given)


def _digest(name: str) -> str:
    return blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
