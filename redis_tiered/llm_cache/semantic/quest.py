"""One search for an answer that was stored for other words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis_tiered.flow import Command
from redis_tiered.llm_cache.fingerprint import Fingerprint, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from redis_tiered.llm_cache.semantic.cacheable import Verdict
    from redis_tiered.llm_cache.semantic.decision import Decision
    from redis_tiered.llm_cache.semantic.neighbour import Neighbour
    from redis_tiered.llm_cache.semantic.neighbourhood import Neighbourhood
    from redis_tiered.vectors.neighbours import News

__all__ = ["Quest"]


class Quest:
    """What is learnt on the way from a lookup to the answer that the model then gives.

    Attributes:
        request: what is asked.
        mark: its fingerprint.
        wording: digest of all requests that differ from it in case, white space or final punctuation
            only; under it an alias of the latest one is kept.
        scope: of the questions that it is compared with; None: of any.
        found: what Redis has under `wording`: nothing, an alias, or that and what it names.
        place: where near questions are looked for; None: not known yet.
        news: what Redis told of changes there in the exact lookup's round trip.
        vector: of the prompt; None: not embedded.
        neighbours: near questions with their answers, if they were looked for.
        decision: about them; None: there was none.
        verdict: what the rules say of the request; None: they were not asked.
        over: whether nothing is to be looked for, or learnt, any more.
        withheld: whether an answer to other words was wrong here, so that none is served until the
            model has answered.
    """

    __slots__ = (
        "_rides",
        "decision",
        "found",
        "mark",
        "neighbours",
        "news",
        "over",
        "place",
        "request",
        "scope",
        "vector",
        "verdict",
        "withheld",
        "wording",
    )

    def __init__(
        self, request: Request, mark: Fingerprint, wording: str, place: Neighbourhood | None
    ) -> None:
        self.request = request
        self.mark = mark
        self.wording = wording
        self.place = place
        self.scope: str | None = mark.scope
        self.found: Any = None
        self.news: News | None = None
        self.vector: NDArray[np.float32] | None = None
        self.neighbours: Sequence[Neighbour] = ()
        self.decision: Decision | None = None
        self.verdict: Verdict | None = None
        self.over = False
        self.withheld = False
        self._rides = False

    @property
    def prompt(self) -> str:
        assert self.request.prompt is not None
        return self.request.prompt

    def riding(self) -> tuple[Command, ...]:
        """What is to be asked along with the entry under `wording`."""
        self._rides = self.place is not None
        return () if self.place is None else self.place.ask()

    def told(self, replies: Sequence[Any]) -> None:
        """What Redis said: of `wording`, then of `riding`."""
        self.found, *rest = replies
        if self._rides and self.place is not None:
            self.news = self.place.told(rest)
