"""What a lookup would do, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis_tiered.llm_cache.semantic.cacheable import REASONS, Verdict
from redis_tiered.llm_cache.semantic.decision import Decision
from redis_tiered.llm_cache.semantic.neighbour import Neighbour

if TYPE_CHECKING:
    from redis_tiered.llm_cache.fingerprint import Request
    from redis_tiered.llm_cache.semantic.quest import Quest
    from redis_tiered.llm_cache.semantic.semantic import Semantic

__all__ = ["Explanation", "explained"]

_SHOWN = 60  # characters of a stored question
_OUTCOMES = {
    "served": "Its answer is served.",
    "audit": "Its answer would be served, but this time the model answers, to check it.",
    "shadow": 'Its answer would be served, were it not for mode="shadow": the model answers.',
    "below_theta": "That is not sure enough: the model answers.",
    "below_floor": "That is further than an answer is ever served from: the model answers.",
    "warmup": "The cache is too new to serve anything but near repeats: the model answers.",
    "lone_answer": "There is no other answer to compare with yet: the model answers.",
    "vetoed": "The guard refuses all that is near: the model answers.",
    "no_neighbour": "Nothing is stored for requests of this kind: the model answers.",
}


@dataclass(frozen=True)
class Explanation:
    """What a lookup would do.

    Attributes:
        outcome: "exact", "other" (no plain text of the user at the end), "wording" (only case, white
            space or final punctuation differ), "withheld" (an answer to other words was wrong),
            "skipped", "unreachable" (no embedding, or a tier failed), or the reason of the decision:
            "served", "audit", "below_theta" ...
        verdict: of the rules; None: not asked.
        neighbours: the nearest stored questions, nearest first.
        decision: about them; None: there was none.
    """

    outcome: str
    verdict: Verdict | None
    neighbours: tuple[Neighbour, ...]
    decision: Decision | None

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        if self.outcome == "exact":
            return ["This very request is stored: its answer is served."]
        if self.outcome == "wording":
            return [
                "The request is stored with other case, white space or final punctuation: that "
                "answer is served."
            ]
        if self.outcome == "withheld":
            return ["What was served to these words was said to be wrong: the model answers."]
        if self.outcome == "other":
            return ["The request does not end in plain text of the user: only itself will do."]
        lines = ["This very request is not stored."]
        if self.verdict is not None:
            said = REASONS.get(self.verdict.reason, self.verdict.reason)
            if not self.verdict.allowed:
                return [*lines, f"No other wording is looked for: {said}"]
            if self.verdict.reason:
                lines.append(f"Rule: {said}")
        if self.decision is None:
            return [*lines, "Other wordings cannot be looked for now: the model answers."]
        return [*lines, *self._candidates(), self._conclusion(self.decision)]

    def _candidates(self) -> list[str]:
        assert self.decision is not None
        vetoes = dict(self.decision.vetoes)
        sure = {index: p for index, _, p in self.decision.scored}
        lines = []
        for index, near in enumerate(self.neighbours):
            text = near.prompt if len(near.prompt) <= _SHOWN else near.prompt[: _SHOWN - 1] + "…"
            if index in vetoes:
                note = f"refused by the guard: {vetoes[index]}"
            elif index in sure:
                note = f"fits with p = {sure[index]:.3f}"
            else:
                continue
            lines.append(f"  {near.cosine:.3f}  {text!r}: {note}")
        return ["Nearest stored questions, by cosine:", *lines] if lines else []

    def _conclusion(self, decision: Decision) -> str:
        outcome = _OUTCOMES.get(decision.reason, decision.reason)
        if decision.best is None:
            return outcome
        return f"Best: p = {decision.p:.3f}, needed {min(decision.theta, 1.0):.3f}. {outcome}"


def explained(
    semantic: Semantic,
    request: Request,
    *,
    exact: bool,
    quest: Quest | None,
    alike: bool = False,
    withheld: bool = False,
) -> Explanation:
    """Put together what was found out.

    Args:
        semantic: of the cache.
        request: that was looked up.
        exact: whether it is stored itself.
        quest: of `Semantic.preview`; None: there was none.
        alike: whether it is stored with other case, white space or punctuation.
        withheld: whether an answer to other words was wrong here.
    """
    if exact:
        return Explanation("exact", None, (), None)
    if withheld:
        return Explanation("withheld", None, (), None)
    if alike:
        return Explanation("wording", None, (), None)
    if quest is None:
        return Explanation("other", None, (), None)
    verdict = semantic.verdict(request)
    if not verdict.allowed:
        return Explanation("skipped", verdict, (), None)
    if quest.decision is None:
        return Explanation("unreachable", verdict, (), None)
    return Explanation(quest.decision.reason, verdict, tuple(quest.neighbours), quest.decision)
