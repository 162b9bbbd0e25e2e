"""What a session does, written once for sync and async: checks, counts, views."""

from __future__ import annotations

import inspect
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import orjson

from redis_tiered.checks import integer, seconds, text
from redis_tiered.errors import InvalidInput, TierError, TierReplyError, Unreadable
from redis_tiered.flow import Call, Flow, Redis
from redis_tiered.sessions import scripts
from redis_tiered.sessions.log import Draft, Log, microseconds
from redis_tiered.sessions.message import Message, Stored, checked, fresh_id, pack, unpack
from redis_tiered.sessions.record import Record, SessionInfo, State
from redis_tiered.sessions.tokens import TokenCounter, counted, resolve
from redis_tiered.sessions.trimming import Limits
from redis_tiered.sessions.trust import trust_of
from redis_tiered.sessions.view import View
from redis_tiered.tiers.tiers import Tiers

__all__ = ["Conversation", "Durability", "Summarize", "Window", "stored"]

logger = logging.getLogger("redis_tiered")

Durability = Literal["through", "behind", "none"]
Summarize = Callable[
    [Message | None, tuple[Stored, ...]], Message | Awaitable[Message | None] | None
]

_DURABILITIES: Final = ("through", "behind", "none")
_MOST_HELD: Final = 2000
_MAX_CONTEXT: Final = 1 << 20
_PAGE: Final = 500
_ROUNDS: Final = 3
_SUMMARY_MS: Final = 60_000


class Window(NamedTuple):
    """A view of a session that fits its limits.

    Attributes:
        messages: system message, summary, and the newest messages that fit.
        info: what is known of the session; None: nothing was ever appended.
        hidden: number of active messages that are not shown.
        tier: `"redis"` or `"durable"`, where they were read.
    """

    messages: tuple[Stored, ...]
    info: SessionInfo | None
    hidden: int
    tier: str


class Conversation:
    """The flows of one session; arguments and errors are those of `Session`."""

    def __init__(
        self,
        tiers: Tiers,
        session_id: str,
        *,
        ttl: float = 7200.0,
        window: int = 200,
        durability: Durability | None = None,
        token_counter: TokenCounter | Literal["approximate"] | None = None,
        summarize: Summarize | None = None,
    ) -> None:
        if not isinstance(tiers, Tiers):
            raise InvalidInput(f"tiers must be a Tiers, got {type(tiers).__name__}")
        if durability is None:
            durability = "none" if tiers.durable is None else "through"
        if durability not in _DURABILITIES:
            raise InvalidInput(
                f"durability must be one of {_DURABILITIES} or None, got {durability!r:.100}"
            )
        if durability != "none" and tiers.durable is None:
            raise InvalidInput(
                f"durability={durability!r} needs a durable tier, and this Tiers has none"
            )
        integer("window", window, 1, _MOST_HELD)
        if summarize is not None and not callable(summarize):
            raise InvalidInput(
                f"summarize must be a function or None, got {type(summarize).__name__}"
            )
        self.tiers = tiers
        self.id = session_id
        self.durability: Durability = durability
        self._ttl = max(1, int(seconds("ttl", ttl) * 1000))
        self._keys = tiers.keys.session(session_id)
        self._counter = resolve(token_counter)
        call = getattr(summarize, "__call__", None)  # noqa: B004
        # Of an object the method, which is seen to be awaited.
        self._summarize = call if inspect.iscoroutinefunction(call) else summarize
        self._trust = trust_of(tiers)
        self._log = self._open_log(window)

    def _open_log(self, window: int) -> Log:
        if self.durability == "none":
            from redis_tiered.sessions.redis_log import RedisLog

            return RedisLog(self._keys, self._ttl)
        if self.durability == "through":
            from redis_tiered.sessions.durable_log import DurableLog

            return DurableLog(self._keys, self._trust, self._ttl, window)
        from redis_tiered.sessions.queued_log import QueuedLog, queues_of

        return QueuedLog(self._keys, self._trust, self._ttl, window, queues_of(self.tiers))

    # Changes.

    def _drafts(self, messages: Sequence[Message], *, archived: bool = False) -> list[Draft]:
        """Everything that can be wrong with messages is found here, before any is written."""
        if isinstance(messages, str | bytes) or not isinstance(messages, Sequence):
            raise InvalidInput(
                f"messages must be a sequence of Message, got {type(messages).__name__}"
            )
        if not isinstance(archived, bool):
            raise InvalidInput(f"archived must be a bool, got {type(archived).__name__}")
        return [
            self._draft(message, f"messages[{i}]", archived=archived)
            for i, message in enumerate(messages)
        ]

    def _draft(self, message: Message, where: str, *, archived: bool = False) -> Draft:
        message = named(checked(message, where))
        return Draft(
            message,
            pack(message),
            counted(self._counter, message),
            self._counter.name,
            microseconds() // 1000,
            archived,
        )

    def _append(self, drafts: Sequence[Draft]) -> Flow[tuple[str, ...]]:
        if drafts:
            yield from self._log.append(drafts)
        return tuple([draft.message.id for draft in drafts])

    def _replace(self, drafts: Sequence[Draft]) -> Flow[tuple[str, ...]]:
        first: dict[str, Draft] = {}
        for draft in drafts:
            first.setdefault(draft.message.id, draft)
        yield from self._log.replace(tuple(first.values()))
        return tuple([draft.message.id for draft in drafts])

    def _edited(self, id: str, message: Message) -> Flow[bool]:
        if checked(message, "message").id not in ("", id):
            raise InvalidInput(f"message.id must be {id!r} or empty, got {message.id!r:.100}")
        return (yield from self._log.edit(id, self._draft(replace(message, id=id), "message")))

    def _remove(self, **which: Any) -> Flow[tuple[Stored, ...]]:
        records = yield from self._log.remove(**which)
        return self._stored(records)

    def _update(self, context: object, agent: object) -> Flow[None]:
        changed = _checked_context(context)
        if agent is not None:
            _check_agent(agent)

        def change(at: State) -> State:
            if changed:
                merged = (orjson.loads(at.context) if at.context else {}) | changed
                kept = {key: value for key, value in merged.items() if value is not None}
                data = orjson.dumps(kept)
                if len(data) > _MAX_CONTEXT:
                    raise InvalidInput(
                        f"context has {len(data)} bytes of JSON, at most {_MAX_CONTEXT} are kept"
                    )
                at = at._replace(context=data)
            return at if agent is None else at._replace(agent=str(agent))

        yield from self._log.touch(change, make=True)

    # Reading.

    def _info(self) -> Flow[SessionInfo | None]:
        recent = yield from self._log.recent(0)
        return None if recent is None else self._info_of(recent.state)

    def _count(self, archived: bool | None) -> Flow[int]:
        recent = yield from self._log.recent(0)
        if recent is None:
            return 0
        at = recent.state
        return (0 if archived is True else at.messages) + (0 if archived is False else at.archived)

    def _page(
        self, offset: int, limit: int | None, newest: bool, archived: bool | None
    ) -> Flow[tuple[Stored, ...]]:
        records = yield from self._log.page(offset, limit, newest=newest, archived=archived)
        return self._stored(records)

    def _search(self, text: str, offset: int, limit: int) -> Flow[tuple[Stored, ...]]:
        records = yield from self._log.search(text, offset, limit)
        return self._stored(records)

    def _view(self, limits: Limits, *, include_system: bool) -> Flow[Window]:
        unlimited = limits == Limits()
        most = limits.max_messages
        recent = yield from self._log.recent(None if most is None else min(most, _MOST_HELD))
        if recent is None:
            return Window((), None, 0, "durable" if self.durability != "none" else "redis")
        self._notice(recent.state)
        view = View(recent, limits, include_system, self._tokens, self._counter.name, self._stored)
        while (start := view.start()) is None:
            yield from self._fetch_older(view, None if unlimited else max(_PAGE, len(view.body)))
        if self._summarize is not None:
            start = yield from self._summarized(view, start)
        shown = view.shown(start)
        return Window(shown, self._info_of(view.state), view.hidden(start), recent.tier)

    def _fetch_older(self, view: View, limit: int | None) -> Flow[None]:
        """Bring more of the log into a view, from before what it has."""
        before = view.body[0].sequence if view.body else None
        records = yield from self._log.page(0, limit, newest=True, archived=False, before=before)
        view.extend(self._stored(records)[::-1], whole=limit is None or len(records) < limit)

    def _summarized(self, view: View, start: int) -> Flow[int]:
        """See that a summary stands for what a view does not show; gives where the view starts.

        While another process writes the summary, or if that fails, the one before is shown.
        """
        for _ in range(_ROUNDS):
            if not view.overflows(start):
                break
            lease = yield from self._lease()
            if lease is None:
                break
            try:
                done = yield from self._extend_summary(view, start)
            except (TierError, InvalidInput) as error:
                logger.warning("a session's summary was not renewed: %s", error)
                done = False
            yield from self._release(lease)
            if not done:
                break
            again = view.start()
            if again is None or again <= start:
                break
            start = again
        return start

    def _extend_summary(self, view: View, start: int) -> Flow[bool]:
        """Have the user's function take in what is not shown, a page at a time, oldest first."""
        until = view.body[start].sequence if start < len(view.body) else view.state.next
        since = view.state.summarized
        missing = [item for item in view.body[:start] if item.sequence >= since]
        if view.older > 0 and (not view.body or view.body[0].sequence > since):
            first = view.body[0].sequence if view.body else until
            missing = [
                *(yield from self._between(since, first, view.lead)),
                *missing,
            ]
        for at in range(0, len(missing), _PAGE):
            part = tuple(missing[at : at + _PAGE])
            end = missing[at + _PAGE].sequence if at + _PAGE < len(missing) else until
            previous = None if view.state.summary is None else unpack(view.state.summary)
            made = yield Call("summarizer", self._summarize, (previous, part))  # type: ignore[arg-type]
            if made is None:
                return False
            summary = pack(named(checked(made, "summarize's result")))
            now = yield from self._log.summarize(summary, view.state.summarized, end)
            if now is None or now.summarized != end:
                return False  # somebody else was first, or the session was cleared
            view.state = view.state._replace(summary=now.summary, summarized=now.summarized)
        return True

    def _between(self, since: int, until: int, lead: Stored | None) -> Flow[list[Stored]]:
        """Active messages of sequences from `since` to before `until`, in order."""
        found: list[Stored] = []
        while True:
            records = yield from self._log.page(0, _PAGE, newest=True, archived=False, before=until)
            part = [item for item in self._stored(records) if item.sequence >= since]
            found += part
            if len(part) < _PAGE:
                break
            until = part[-1].sequence
        found.reverse()
        return found[1:] if lead and found and found[0].message.id == lead.message.id else found

    def _lease(self) -> Flow[tuple[bytes, str] | None]:
        """Leave to write the summary; None: somebody else does it."""
        key = self._keys.window("summary", queued=False)[0]
        token = secrets.token_hex(8)
        try:
            [taken] = yield Redis((("SET", key, token, "NX", "PX", _SUMMARY_MS),), write=True)
        except TierError:
            return key, ""  # then two may do it, and one is kept
        return None if taken is None else (key, token)

    def _release(self, lease: tuple[bytes, str]) -> Flow[None]:
        key, token = lease
        try:
            if token:
                yield Redis((("EVAL", scripts.RELEASE, 1, key, token),))
        except TierError:
            return  # it ends by itself

    def _tokens(self, item: Stored) -> int:
        if item.counter == self._counter.name:
            return item.tokens
        return counted(self._counter, item.message)

    def _notice(self, state: State) -> None:
        """Have a session that another counter counted counted again, in the background."""
        name = self._counter.name
        if state.counter in ("", name):
            return
        seen = self.tiers.shared("sessions counted again", _Seen)
        if not seen.add((self._keys.scope, self.id, name)):
            return
        log = self._log

        def job() -> None:
            self.tiers.run(log.count_again(name, lambda message: counted(self._counter, message)))

        self.tiers.housekeeper.submit(job)

    def _stored(self, records: Sequence[Record]) -> tuple[Stored, ...]:
        return stored(records, "redis" if self.durability == "none" else "durable")

    def _info_of(self, state: State) -> SessionInfo:
        return state.info(self.id, self.tiers.keys.tenant)

    def _check_may_call(self) -> None:
        if inspect.iscoroutinefunction(self._summarize):
            raise InvalidInput("summarize is a coroutine function: use awindow, or pass a function")


class _Seen:
    """What this process has seen, so far as it remembers."""

    def __init__(self) -> None:
        self._items: dict[Any, None] = {}

    def add(self, item: Any) -> bool:
        """False if it was seen before."""
        if item in self._items:
            return False
        if len(self._items) >= 10_000:
            self._items.clear()
        self._items[item] = None
        return True


def stored(records: Sequence[Record], tier: str = "durable") -> tuple[Stored, ...]:
    """Decoded.

    Raises:
        TierReplyError: one cannot be read.
    """
    try:
        return tuple([record.stored() for record in records])
    except Unreadable as error:
        raise TierReplyError(tier, "unreadable", error.reason) from None


def named(message: Message) -> Message:
    return message if message.id else replace(message, id=fresh_id())


def _checked_context(context: object) -> dict[str, Any]:
    if context is None:
        return {}
    if not isinstance(context, dict):
        raise InvalidInput(f"context must be a dict or None, got {type(context).__name__}")
    try:
        json.dumps(context, allow_nan=False)
        return orjson.loads(orjson.dumps(context))  # type: ignore[no-any-return]
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"context must hold only JSON values: {error}") from None


def _check_agent(agent: object) -> None:
    if "\0" in text("agent", agent, least=1, most=256):
        raise InvalidInput("agent must not hold NUL")
