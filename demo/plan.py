"""How much is asked, who asks what, in which order and in which words."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from demo.questions import COMPANIES, QUESTIONS

__all__ = ["FULL", "QUICK", "REAL_API", "Ask", "Size", "plan", "rules", "shares_rules"]


@dataclass(frozen=True)
class Size:
    """How much the demo does.

    Attributes:
        requests: in the four phases: cold, warm, outage, afterwards.
        questions: different ones in use.
        workers: processes; the last one is asynchronous.
        users: of each worker.
        pause: seconds a user thinks before a request, on average; none in the cold phase.
        outage: seconds that Redis is kept away.
        latency: least and most seconds of the local model.
        wordings: part of the questions in other words that is asked.
    """

    requests: tuple[int, int, int, int] = (250, 250, 450, 300)
    questions: int = len(QUESTIONS)
    workers: int = 3
    users: int = 6
    pause: float = 0.3
    outage: float = 4.0
    latency: tuple[float, float] = (0.4, 0.8)
    wordings: float = 1.0


FULL = Size()
QUICK = Size((60, 60, 160, 60), 40, 2, 6, 0.2, 1.5, (0.05, 0.1), 0.6)
REAL_API = Size((60, 100, 400, 100), 24)


class Ask(NamedTuple):
    """One request: a tenant's customer asks a question, by its number."""

    tenant: str
    question: int


_RULES = (
    "You are the support desk of {who}: an online shop with a payment account. Answer the "
    "customer's question in at most 80 words, friendly and to the point. Say what the customer can "
    "do next and where. Never ask for a password, a PIN or a full card number. If money may be at "
    "risk, name the quickest way to stop it first. Do not promise a date that depends on a courier "
    "or on another bank. Use plain words, no lists, no links."
)


def shares_rules(question: int) -> bool:
    """Whether both tenants put this question to the model in the very same words."""
    return question % 2 == 0


def rules(tenant: str, question: int, *, named: bool = False) -> str:
    """The system prompt. For every other question it does not name the company, unless `named`."""
    same = shares_rules(question) and not named
    return _RULES.format(who="our company" if same else COMPANIES[tenant].name)


def plan(
    counts: Sequence[int], *, questions: int = len(QUESTIONS), new: int = 12, seed: int = 7
) -> list[list[Ask]]:
    """Requests for each phase: few questions are asked often, many seldom (Zipf's law).

    Args:
        counts: requests per phase.
        questions: how many different ones are in use.
        new: how many of them nobody asks in the first two phases.
        seed: the same seed gives the same plan.
    """
    chance = random.Random(seed)
    order = list(range(questions))
    chance.shuffle(order)
    early, late = order[: questions - new], order[questions - new :]
    phases = []
    for i, count in enumerate(counts):
        known = early if i < 2 else [*early[:20], *late, *early[20:]]
        weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(known))))
        drawn = chance.choices(known, cum_weights=weights, k=count)
        phases.append([Ask(chance.choice(list(COMPANIES)), question) for question in drawn])
    return phases
