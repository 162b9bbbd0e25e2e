"""What the demo and its workers tell each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from demo.plan import Ask
from redis_tiered import Tiers

__all__ = [
    "Added",
    "Answered",
    "Batch",
    "Ended",
    "Filed",
    "Look",
    "Looked",
    "Mark",
    "Recall",
    "Recalled",
    "Seen",
    "Setup",
    "Talk",
]


@dataclass(frozen=True)
class Setup:
    """What a worker is told when it starts.

    Attributes:
        tiers: where answers live, shared by all workers.
        model: name of the model.
        ports: of each tenant's model server on this machine; empty: the real API.
        prices: dollars per million tokens, input and output.
        users: how many ask at the same time.
        native_async: asyncio tasks that `ainvoke`, instead of threads that `invoke`.
        name: begins the names of its users' conversations and tickets; empty: they have none.
    """

    tiers: Tiers
    model: str
    ports: Mapping[str, int]
    prices: Mapping[str, tuple[float, float]]
    users: int
    native_async: bool = False
    name: str = ""


class Batch(NamedTuple):
    """Requests to make; each user pauses `pause` seconds on average before each."""

    asks: Sequence[Ask]
    pause: float


class Look(NamedTuple):
    """Look up tickets, for one request after the other."""

    asks: Sequence[Ask]


class Recall(NamedTuple):
    """Read every conversation and ticket that there is; not for a worker with `native_async`."""


class Mark(NamedTuple):
    """A message of a conversation: its id, "human" or "ai", and a digest of its text."""

    id: str
    kind: str
    digest: str


class Seen(NamedTuple):
    """What became of one reading of a conversation's window.

    Attributes:
        began: `time.monotonic()`.
        seconds: it took.
        fault: "stale" or "torn", see `Transcript.fault_of_window`; or "".
        error: what was raised, or "".
    """

    began: float
    seconds: float
    fault: str
    error: str


class Added(NamedTuple):
    """What became of one turn's addition to a conversation.

    Attributes:
        talk: the conversation.
        marks: of the turn's messages; acknowledged if there was no error.
        began: `time.monotonic()`.
        seconds: it took.
        error: what was raised, or "".
    """

    talk: Talk
    marks: tuple[Mark, ...]
    began: float
    seconds: float
    error: str


class Talk(NamedTuple):
    """Names a conversation: a tenant, and the id of a session of it."""

    tenant: str
    session: str


class Filed(NamedTuple):
    """What became of one ticket.

    Attributes:
        name: its id, different for all.
        ask: whose it is, and about which question.
        began: `time.monotonic()`.
        seconds: it took; then it was acknowledged if there was no error.
        error: what was raised, or "".
    """

    name: str
    ask: Ask
    began: float
    seconds: float
    error: str


class Looked(NamedTuple):
    """What one lookup of tickets gave.

    Attributes:
        ask: whose tickets, and to which question the nearest.
        names: of the tickets.
        began: `time.monotonic()`.
        seconds: it took.
        error: what was raised, or "".
    """

    ask: Ask
    names: tuple[str, ...]
    began: float
    seconds: float
    error: str


class Recalled(NamedTuple):
    """What a process found that knew nothing of the conversations and tickets.

    Attributes:
        logs: of each conversation, from the first message on.
        windows: of each.
        tickets: names of all.
        error: what was raised, or "".
    """

    logs: Mapping[Talk, Sequence[Mark]]
    windows: Mapping[Talk, Sequence[Mark]]
    tickets: Sequence[str] = ()
    error: str = ""


class Answered(NamedTuple):
    """What became of one request.

    Attributes:
        ask: the request.
        began: `time.monotonic()`, the same clock in all processes.
        tier: "memory", "redis", "durable", "flight", or "model" where the model was called.
        lookup: seconds spent in the cache's lookup.
        chain: seconds for the whole chain.
        digest: of the answer's text.
        foreign: the answer names another tenant's company.
        tokens: input and output tokens of the model call, if there was one.
        error: what was raised, or "".
        seen: the user's conversation, before the request.
        added: the question and its answer, to the conversation; None: there was no answer.
        looked: the company's tickets, before the request.
        filed: the ticket of question and answer; None: there was no answer.
    """

    ask: Ask
    began: float
    tier: str
    lookup: float
    chain: float
    digest: str
    foreign: bool
    tokens: tuple[int, int]
    error: str
    seen: Seen | None = None
    added: Added | None = None
    looked: Looked | None = None
    filed: Filed | None = None


class Ended(NamedTuple):
    """Last message of a worker: what its caches counted themselves; and its lookups of tickets by
    what served them: "redis", "memory" or "durable"."""

    hits: Mapping[str, int]
    misses: int
    tokens: tuple[int, int]
    money: float
    served: Mapping[str, int] = {}
