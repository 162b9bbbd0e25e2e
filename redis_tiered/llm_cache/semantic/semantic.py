"""Answers for other wordings: what a lookup may take of them, and what each fresh answer teaches."""

from __future__ import annotations

import inspect
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from redis_tiered.breaker import Breaker
from redis_tiered.checks import seconds
from redis_tiered.errors import InvalidInput, RedisTieredError, TierError
from redis_tiered.flow import Embed, Flow
from redis_tiered.keys import LLMKeys
from redis_tiered.llm_cache.control import Control
from redis_tiered.llm_cache.fingerprint import Fingerprint, Request, wording
from redis_tiered.llm_cache.semantic.answers import Answers, Entries
from redis_tiered.llm_cache.semantic.cacheable import Asked, Verdict
from redis_tiered.llm_cache.semantic.neighbour import rounded
from redis_tiered.llm_cache.semantic.neighbourhood import Neighbourhood, known_dims
from redis_tiered.llm_cache.semantic.normal import normal
from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
from redis_tiered.llm_cache.semantic.quest import Quest
from redis_tiered.llm_cache.semantic.records import Records
from redis_tiered.llm_cache.shelf import DEFAULT_TTL, Served
from redis_tiered.llm_cache.stats import Tally
from redis_tiered.tiers.housekeeping import Housekeeper
from redis_tiered.tiers.tiers import Tiers

if TYPE_CHECKING:
    from redis_tiered.llm_cache.semantic.decision import Decision
    from redis_tiered.llm_cache.semantic.tools.calibration import Calibration

__all__ = ["Semantic"]

logger = logging.getLogger("redis_tiered")

_UNDER_WAY: Final = 4096
_SAVE_EVERY: Final = 5.0
_TRIM_EVERY: Final = 256  # questions stored
_TRIMMED: Final = 500
_COMPARING: Final = 1000  # fresh answers that wait to be compared


class Semantic:
    """The semantic part of one cache of one tenant.

    Args:
        tiers, keys, name: of the cache.
        policy: of the user.
        tally: where it is counted what happens: `semantic.<reason>`.
        read_answer: gives an answer's text of its payload; None: it is not plain text.
        entries: what the cache's exact part does for this one.
    """

    def __init__(
        self,
        tiers: Tiers,
        keys: LLMKeys,
        name: str,
        policy: SemanticPolicy,
        tally: Tally,
        read_answer: Callable[[bytes], str | None],
        entries: Entries,
    ) -> None:
        self.policy = policy
        self._tiers = tiers
        self._cache = name
        self._tally = tally
        self._rules = policy.make_rules()
        self._embedder = policy.embedder()
        self._breaker = Breaker(retry_after=0.5, max_retry_after=30.0)
        self._records = Records(tiers, keys)
        self._lock = threading.Lock()
        self._places: dict[tuple[str, int], Neighbourhood] = {}
        self._place: Neighbourhood | None = None
        self._under_way: OrderedDict[str, Quest] = OrderedDict()
        self._stored = 0
        self._worker = Housekeeper()
        self._saving = False
        self._comparing = 0
        self._warned = False
        self._answers = Answers(policy, tally, read_answer, entries, self._embedder)
        tiers.on_fork(self)

    # A lookup.

    def quest(self, request: Request, mark: Fingerprint) -> Quest | None:
        """A search for other wordings; None: the request has none."""
        if request.prompt is None:
            return None
        return Quest(request, mark, wording(mark, normal(request.prompt)), self._place)

    def match(self, quest: Quest) -> Flow[Served | None]:
        """A stored answer for this question; None: the model is to be asked.

        What is found may be gone: then ask again, after `gone`.
        """
        if quest.decision is None and not quest.over:
            quest.over = not (yield from self._look_around(quest))
        place = quest.place
        if quest.over or place is None:
            self._expect(quest)
            return None
        decision = quest.decision = place.decider.decide(quest.prompt, quest.neighbours)
        self._count(decision)
        if decision.chosen is None:
            self._expect(quest)
            return None
        near = quest.neighbours[decision.chosen]
        return Served(
            quest.mark.digest, near.entry, place.model, near.prompt, decision.p, near.cosine
        )

    def gone(self, quest: Quest, entry: str) -> Flow[None]:
        """An entry that was to be served has no answer any more."""
        self._tally.add("semantic.gone")
        quest.neighbours = tuple([near for near in quest.neighbours if near.entry != entry])
        if quest.place is not None:
            try:
                yield from quest.place.index.remove((entry,))
            except RedisTieredError:
                return  # found again, and removed then

    def _look_around(self, quest: Quest) -> Flow[bool]:
        """Find the nearest questions; False: nothing is to be served or learnt."""
        verdict = self._verdict_on(quest)
        if not verdict.allowed:
            self._tally.add(f"semantic.skip.{verdict.reason}")
            return False
        if not (yield from self._embed(quest)):
            return False
        place = quest.place
        assert place is not None
        try:
            yield from place.ready()
            quest.neighbours = yield from place.near(
                quest.vector, self.policy.k, quest.scope, quest.news
            )
        except RedisTieredError as error:
            self._unreachable(error)
            return False
        return True

    def _unreachable(self, error: RedisTieredError) -> None:
        """Count that the index cannot be used; say it if that will not pass by itself."""
        if isinstance(error, TierError):
            self._tally.add(f"semantic.unreachable.{error.tier}")
            return
        self._tally.add("semantic.unreachable.index")
        if not self._warned:
            self._warned = True
            logger.warning("a semantic cache cannot use its index (said once): %s", error)

    def _embed(self, quest: Quest) -> Flow[bool]:
        """The prompt's vector, and where its like are found."""
        if quest.vector is not None:
            return True
        if not self._breaker.admit():
            self._tally.add("semantic.embedder.open")
            return False
        step = Embed(self._embedder, (quest.prompt,), self.policy.embed_timeout)
        try:
            model, name = self._embedder.model, self._embedder.model_name
            [vector] = yield step
            made = rounded(vector)
            if model != self._embedder.model:  # which one made it, nobody can tell
                raise InvalidInput("the embedder changed its model while it was at work")
        except TierError as error:
            if isinstance(error.__cause__, InvalidInput):  # of this text, or no vectors
                self._breaker.succeeded()
                self._tally.add("semantic.embedder.invalid")
            else:
                self._breaker.failed()
                self._tally.add(f"semantic.embedder.{error.kind}")
            return False
        except Exception:
            self._breaker.succeeded()
            self._tally.add("semantic.embedder.invalid")
            return False
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        quest.vector = made
        place = self._place_of(model, name, len(made))
        if place is not quest.place:
            quest.place, quest.news = place, None
        return True

    def _place_of(self, model: str, model_name: str, dims: int) -> Neighbourhood:
        """Vectors of another model, or of another length, are never compared with these."""
        place = self._place
        if place is not None and place.model == model and place.dims == dims:
            return place
        with self._lock:
            place = self._places.get((model, dims))
            if place is None:
                place = Neighbourhood(
                    self._tiers, self._cache, self._records, self.policy, model, model_name, dims
                )
                self._places[model, dims] = place
            self._place = place
        return place

    def _expect(self, quest: Quest) -> None:
        """The model will be asked: what was found out is needed again when it has answered."""
        with self._lock:
            self._under_way[quest.mark.digest] = quest
            self._under_way.move_to_end(quest.mark.digest)
            while len(self._under_way) > _UNDER_WAY:
                self._under_way.popitem(last=False)

    def _expected(self, digest: str) -> Quest | None:
        with self._lock:
            return self._under_way.pop(digest, None)

    def _count(self, decision: Decision) -> None:
        self._tally.add(f"semantic.{decision.reason}")
        for _, reason in decision.vetoes:
            self._tally.add(f"semantic.veto.{reason}")
        self._save_later()

    # A fresh answer.

    def answered(self, request: Request, mark: Fingerprint) -> Quest | None:
        """What is known on the way to an answer that is about to be stored; None: other wordings have
        nothing to do with it."""
        return self._expected(mark.digest) or self.quest(request, mark)

    def verdict(self, request: Request) -> Verdict:
        """What the rules say of a request; a rule that fails allows nothing."""
        assert request.prompt is not None
        turns, temperature, tools = request.traits
        try:
            return _checked(self._rules(Asked(request.prompt, turns, temperature, tools)))
        except Exception as error:
            logger.warning("the rules of a semantic cache failed: %s", type(error).__name__)
            return Verdict(False, "rules_failed", None)

    def _verdict_on(self, quest: Quest) -> Verdict:
        if quest.verdict is None:
            quest.verdict = self.verdict(quest.request)
        return quest.verdict

    def ttl(self, quest: Quest, usual: float | None) -> float | None:
        """How long an answer to this may be used, in seconds; None: for ever.

        The rules may shorten the cache's time; they lengthen it only where nobody chose it.

        Args:
            quest: for what is asked.
            usual: the cache's own time.
        """
        verdict = self._verdict_on(quest)
        if not verdict.allowed or verdict.ttl is None:
            return usual
        if usual == DEFAULT_TTL:
            return verdict.ttl
        longest = math.inf if usual is None else usual
        return verdict.ttl if verdict.ttl < min(longest, DEFAULT_TTL) else usual

    def stored(self, quest: Quest, payload: bytes, ttl_ms: int, control: Control) -> Flow[None]:
        """Have an answer that was stored found by other wordings, and learn from it."""
        mark = quest.mark
        if quest.over:
            return
        if not control.semantic:
            yield from self._withdrawn(mark.digest)
            return
        if not self._verdict_on(quest).allowed:
            return
        text = self._answers.text(payload)
        if text is None:
            self._tally.add("semantic.not_text")
            yield from self._withdrawn(mark.digest)
            return
        if not (yield from self._embed(quest)):
            return
        identity = self._answers.identity(text, control)
        place = quest.place
        assert place is not None
        try:
            yield from place.put(
                mark.digest, quest.vector, quest.prompt, identity, mark.scope, ttl_ms or None
            )
        except RedisTieredError as error:
            self._unreachable(error)
            return
        self._tally.add("semantic.stored")
        self._learn(quest, place, text, identity)
        self._trim_later(place)

    def _withdrawn(self, digest: str) -> Flow[None]:
        """What an entry holds now is not for other words; what it held before was, perhaps."""
        for place in list(self._places.values()):
            try:
                yield from place.index.remove((digest,))
            except RedisTieredError as error:
                self._unreachable(error)

    def _learn(self, quest: Quest, place: Neighbourhood, text: str, identity: str) -> None:
        decision = quest.decision
        if decision is None:
            return
        same: dict[int, bool] = {}
        unsure: list[int] = []
        for index, _, _ in decision.scored:
            equal = self._answers.equal(identity, quest.neighbours[index].answer)
            if equal is None:
                unsure.append(index)
            else:
                same[index] = equal
        if not unsure:
            self._teach(quest, place, same)
            return
        if self._comparing >= _COMPARING:
            self._tally.add("semantic.compare.dropped")
            self._teach(quest, place, same)
            return
        self._comparing += 1

        def compare() -> float | None:
            self._comparing -= 1
            answers = self._answers
            found = answers.compare(self._tiers, quest, place, text, identity, unsure)
            self._teach(quest, place, same | found)
            return None

        self._worker.submit(compare)

    def _teach(self, quest: Quest, place: Neighbourhood, same: dict[int, bool]) -> None:
        decision = quest.decision
        assert decision is not None
        if decision.audit and decision.best in same:
            right = same[decision.best]
            self._tally.add("semantic.audited.right" if right else "semantic.audited.wrong")
        place.decider.learn(decision, [near.entry for near in quest.neighbours], same)
        self._save_later()

    def declined(self, digest: str) -> None:
        """No answer came that may be stored."""
        self._expected(digest)

    # The user's word.

    def judged(self, served: Served, correct: bool) -> Flow[None]:
        """Whether an answer that was served was right: a wrong one is not served again.

        Raises:
            TierError: the index could not be told.
        """
        self._tally.add("semantic.feedback.right" if correct else "semantic.feedback.wrong")
        for place in list(self._places.values()):
            if served.model in ("", place.model):
                if served.model:
                    place.decider.feedback(served.entry, served.p, correct)
                if not correct:
                    yield from self._told(place.index.remove((served.entry,)))
        self._save_later()

    def adopt(self, calibration: Calibration) -> Flow[None]:
        """See `LLMCache.adopt`."""
        model, name = self._embedder.model, self._embedder.model_name
        if calibration.model not in (model, name):
            raise InvalidInput(
                f"calibration must be made with the cache's embedding model {name!r}, got one of "
                f"{calibration.model!r}"
            )
        places = [place for place in self._places.values() if place.model == model]
        if not places:
            places = [self._place_of(model, name, (yield from self._dimensions()))]
        for place in places:
            yield from place.adopt(calibration)

    def _dimensions(self) -> Flow[int]:
        [vector] = yield Embed(self._embedder, ("dimensions",), self.policy.embed_timeout)
        return len(rounded(vector))

    def removed(self, digests: Sequence[str]) -> Flow[None]:
        """Entries were deleted."""
        for place in list(self._places.values()):
            yield from self._told(place.index.remove(tuple(digests)))

    def cleared(self) -> Flow[None]:
        """The cache was emptied; what was learnt of its questions stays."""
        for place in list(self._places.values()):
            yield from self._told(place.index.clear())

    def _told(self, change: Flow[None]) -> Flow[None]:
        """Change an index, unless it cannot be used at all: then it holds nothing either.

        Raises:
            TierError: a tier could not be told.
        """
        try:
            yield from change
        except TierError:
            raise
        except RedisTieredError as error:
            self._unreachable(error)

    def preview(self, request: Request, mark: Fingerprint, *, anywhere: bool) -> Flow[Quest]:
        """What a lookup would find and decide now, without a trace.

        Args:
            request: that would be looked up.
            mark: of the request.
            anywhere: compare it with the questions of every scope.
        """
        quest = self.quest(request, mark)
        assert quest is not None
        if anywhere:
            quest.scope = None
        if not self._verdict_on(quest).allowed or not (yield from self._look_around(quest)):
            return quest
        if quest.place is not None:
            quest.decision = quest.place.copy().decide(quest.prompt, quest.neighbours)
        return quest

    def report(self) -> Flow[dict[str, Any]]:
        """What was decided and learnt, by embedding model; of a process that did nothing yet what
        others did."""
        model, name = self._embedder.model, self._embedder.model_name
        if not any(place.model == model for place in self._places.values()):
            dims = yield from known_dims(self._records, model)
            if dims is not None:
                yield from self._place_of(model, name, dims).ready()
        return {
            place.model_name: {
                **place.decider.report(),
                "dims": place.dims,
                "calibrated": place.calibration is not None,
            }
            for place in list(self._places.values())
        }

    # Later.

    def settle(self, timeout: float) -> bool:
        """Wait until answers are compared that were to be compared in the background."""
        done = threading.Event()

        def last() -> float | None:
            done.set()
            return None

        self._worker.submit(last)
        return done.wait(timeout)

    def _save_later(self) -> None:
        if not self._saving:
            self._saving = True
            self._tiers.housekeeper.submit(self._save, after=_SAVE_EVERY)

    def _save(self) -> float | None:
        self._saving = False
        self.flush()
        return None

    def flush(self) -> None:
        """Keep what was learnt; a failing tier loses it."""
        for place in list(self._places.values()):
            try:
                self._tiers.run(place.save())
            except RedisTieredError as error:
                logger.debug("what a semantic cache learnt is not saved: %s", error)

    def _trim_later(self, place: Neighbourhood) -> None:
        self._stored += 1
        if self._stored % _TRIM_EVERY == 0:
            self._tiers.housekeeper.submit(lambda: self._trim(place))

    def _trim(self, place: Neighbourhood) -> float | None:
        """Forget the oldest questions beyond the bound; their exact answers stay."""
        try:
            surplus = self._tiers.run(place.index.count()) - self.policy.max_entries
            while surplus > 0:
                oldest = self._tiers.run(place.index.oldest(min(surplus, _TRIMMED)))
                if not oldest:
                    break
                self._tiers.run(place.index.remove(oldest))
                surplus -= len(oldest)
        except RedisTieredError as error:
            logger.debug("a semantic cache is not trimmed: %s", error)
        return None

    def reset_after_fork(self) -> None:
        """Threads and locks stayed with the parent."""
        self._lock = threading.Lock()
        self._under_way = OrderedDict()
        self._breaker.reset_after_fork()
        self._worker = Housekeeper()
        self._saving = False
        self._comparing = 0
        for place in self._places.values():
            place.decider.reset_after_fork()


def _checked(verdict: object) -> Verdict:
    """What rules said.

    Raises:
        InvalidInput: it is no verdict.
    """
    if not isinstance(verdict, Verdict):
        if inspect.iscoroutine(verdict):
            verdict.close()
        raise InvalidInput(f"rules must return a Verdict, got {type(verdict).__name__}")
    if verdict.ttl is not None:
        seconds("ttl", verdict.ttl)
    return verdict
