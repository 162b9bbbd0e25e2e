"""Where the view of a conversation starts: pure, so that every rule can be tested alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from redis_tiered.errors import InvalidInput
from redis_tiered.sessions.message import Stored

__all__ = ["Limits", "limits", "view_start"]


class Limits(NamedTuple):
    """What a view may hold at most; None: any number.

    Attributes:
        max_messages: of messages.
        max_tokens: of tokens, summed over its messages.
        turns: of turns; each starts with a `"human"` message.
    """

    max_messages: int | None = None
    max_tokens: int | None = None
    turns: int | None = None


def limits(max_messages: object = None, max_tokens: object = None, turns: object = None) -> Limits:
    """Check limits before anything is read.

    Raises:
        InvalidInput: names the limit, what came and what is accepted.
    """
    return Limits(
        _limit("max_messages", max_messages),
        _limit("max_tokens", max_tokens),
        _limit("turns", turns),
    )


def view_start(
    messages: Sequence[Stored], tokens: Sequence[int], limits: Limits, *, more: bool
) -> int | None:
    """Find the index at which the view of a conversation starts; it reaches to the newest message.

    All messages if they fit. Else the most whole turns that fit; else, where the newest turn
    alone does not, the most of its units that fit; else the newest unit, though it does not.
    A unit is a message together with the results of the tools it calls: they are never parted.
    A result whose call is nowhere in the log belongs to the unit before it.

    Args:
        messages: the newest ones of the log, in order.
        tokens: of each message.
        limits: that the view must keep.
        more: the log has older messages than these.

    Returns:
        None: only older messages can tell. Given them, the answer is the same as for the whole
        log. Linear in the number of messages.
    """
    if not messages:
        return 0
    first = _first_that_fits(messages, tokens, limits)
    if first == 0:
        if not more:
            return 0
        if limits.max_messages != len(messages):
            # Even with `max_tokens` or `turns` used up, older messages may cost none.
            return None
    whole, unsure = _whole(messages)
    start = _choose(messages, whole, first)
    if not more:
        # Every message is the result of a call that is nowhere: the newest, then.
        return len(messages) - 1 if start is None else start
    # A result with no call here either has it in what is older, and then no view may start
    # at or before it, or has none. A start behind the last of them is right in both cases.
    return None if start is None or start <= unsure else start


def _first_that_fits(messages: Sequence[Stored], tokens: Sequence[int], limits: Limits) -> int:
    """The longest suffix within all limits, whatever it starts with; `len(messages)`: none."""
    spent = turns = 0
    for i in range(len(messages) - 1, -1, -1):
        spent += tokens[i]
        turns += messages[i].message.role == "human"
        if (
            _exceeds(len(messages) - i, limits.max_messages)
            or _exceeds(spent, limits.max_tokens)
            or _exceeds(turns, limits.turns)
        ):
            return i + 1
    return 0


def _whole(messages: Sequence[Stored]) -> tuple[list[bool], int]:
    """Which starts part no call from a result, and the last result whose call is not here (or -1).

    Such a result forbids no start.
    """
    n = len(messages)
    latest: dict[str, int] = {}
    call_of = list(range(n))  # itself: no constraint
    unsure = -1
    for i, (message, *_) in enumerate(messages):
        if message.role == "tool" and message.tool_call_id is not None:
            call = latest.get(message.tool_call_id)
            if call is None:
                unsure = i
            else:
                call_of[i] = call
        elif message.role == "ai":
            for made in message.tool_calls:
                if made.id is not None:
                    latest[made.id] = i
    whole = [True] * n
    reach = n
    for i in range(n - 1, -1, -1):
        reach = min(reach, call_of[i])
        whole[i] = reach >= i
    return whole, unsure


def _choose(messages: Sequence[Stored], whole: list[bool], first: int) -> int | None:
    n = len(messages)
    starts = [i for i in range(n) if whole[i] and messages[i].message.role != "tool"]
    fitting = [i for i in starts if i >= first]
    for i in fitting:
        if messages[i].message.role == "human":
            return i
    if fitting:
        return fitting[0]
    return starts[-1] if starts else None


def _exceeds(value: int, limit: int | None) -> bool:
    return limit is not None and value > limit


def _limit(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(
            f"{name} must be an int of at least 1 or None (no limit), got {type(value).__name__}"
        )
    if value < 1:
        raise InvalidInput(f"{name} must be an int of at least 1 or None (no limit), got {value}")
    return value
