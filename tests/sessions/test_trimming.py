"""Where a view starts: against an oracle that tries every start, and the rules one by one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.sessions.message import Message, Stored, ToolCall
from redis_tiered.sessions.trimming import Limits, limits, view_start

LIMIT = st.none() | st.integers(1, 12)
LIMITS = st.builds(Limits, LIMIT, st.none() | st.integers(1, 60), LIMIT)


def stored(message: Message, sequence: int = 0) -> Stored:
    return Stored(message, sequence, 0, "", 0)


def script(text: str) -> list[Stored]:
    """`"h a:x,y t:x t:y"`: a human, an AI that calls x and y, and their results."""
    made = []
    for sequence, word in enumerate(text.split()):
        role, _, ids = word.partition(":")
        calls = tuple(ToolCall(i, "f", {}) for i in ids.split(",")) if ids and role == "a" else ()
        name = {"h": "human", "a": "ai", "t": "tool", "s": "system", "o": "other"}[role]
        result_of = ids if ids and role == "t" else None
        made.append(stored(Message(name, tool_calls=calls, tool_call_id=result_of), sequence))
    return made


@st.composite
def conversations(draw: st.DrawFn) -> list[Stored]:
    """Turns with parallel calls, results in any order, late, missing, without a call; ids reused."""
    words: list[str] = []
    late: list[str] = []
    for _ in range(draw(st.integers(0, 6))):
        words += draw(st.lists(st.sampled_from(["s", "o"]), max_size=1))
        words += draw(st.sampled_from([["h"], ["h"], ["h"], []]))
        for _ in range(draw(st.integers(0, 3))):
            ids = draw(st.lists(st.sampled_from("pqrstuvw"), max_size=3, unique=True))
            words.append("a:" + ",".join(ids))
            for i in draw(st.permutations(ids)):
                fate = draw(st.sampled_from(["now", "now", "now", "late", "never"]))
                if fate == "now":
                    words.append(f"t:{i}")
                elif fate == "late":
                    late.append(f"t:{i}")
        if late and draw(st.booleans()):
            words.append(late.pop(0))
        words += draw(st.sampled_from([[], [], [], ["t:orphan"], ["t"]]))
    return script(" ".join(words + late))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Stored], list[int], Limits]:
    messages = draw(conversations())
    tokens = draw(st.lists(st.integers(0, 9), min_size=len(messages), max_size=len(messages)))
    return messages, tokens, draw(LIMITS)


def call_of(messages: Sequence[Stored], j: int) -> int | None:
    message = messages[j].message
    if message.role == "tool" and message.tool_call_id is not None:
        for c in range(j - 1, -1, -1):
            earlier = messages[c].message
            if earlier.role == "ai" and message.tool_call_id in [t.id for t in earlier.tool_calls]:
                return c
    return None


def parts(messages: Sequence[Stored], i: int) -> bool:
    """Whether a view from `i` shows a result without its call."""
    calls = [call_of(messages, j) for j in range(i, len(messages))]
    return any(c is not None and c < i for c in calls)


def fits(messages: Sequence[Stored], tokens: Sequence[int], limits: Limits, i: int) -> bool:
    turns = sum(m.message.role == "human" for m in messages[i:])
    amounts = (len(messages) - i, sum(tokens[i:]), turns)
    return all(limit is None or n <= limit for n, limit in zip(amounts, limits, strict=True))


def oracle(messages: Sequence[Stored], tokens: Sequence[int], limits: Limits) -> int:
    if fits(messages, tokens, limits, 0):
        return 0
    valid = [i for i in range(len(messages)) if not parts(messages, i)]
    able = [i for i in valid if messages[i].message.role != "tool"]
    fitting = [i for i in able if fits(messages, tokens, limits, i)]
    human = [i for i in fitting if messages[i].message.role == "human"]
    return (human or fitting or able[-1:] or valid[-1:])[0]


@given(cases())
def test_as_the_oracle_says(case: tuple[list[Stored], list[int], Limits]) -> None:
    messages, tokens, limits = case
    expected = oracle(messages, tokens, limits) if messages else 0
    assert view_start(messages, tokens, limits, more=False) == expected


@given(cases())
def test_never_parts_a_call_from_its_results(
    case: tuple[list[Stored], list[int], Limits],
) -> None:
    messages, tokens, limits = case
    start = view_start(messages, tokens, limits, more=False)
    assert start is not None
    assert not parts(messages, start)
    assert start < len(messages) or not messages


@given(cases(), st.data())
def test_a_suffix_tells_nothing_or_the_same_as_the_whole_log(
    case: tuple[list[Stored], list[int], Limits], data: st.DataObject
) -> None:
    messages, tokens, limits = case
    whole = view_start(messages, tokens, limits, more=False)
    assert whole is not None
    cut = data.draw(st.integers(0, len(messages)))
    if 0 < cut < len(messages):
        start = view_start(messages[cut:], tokens[cut:], limits, more=True)
        assert start is None or cut + start == whole


@given(cases())
def test_none_only_where_older_messages_decide(
    case: tuple[list[Stored], list[int], Limits],
) -> None:
    """Where None is said, two logs that end in these messages have two views."""
    messages, tokens, limits = case
    if not messages or view_start(messages, tokens, limits, more=True) is not None:
        return
    ids = [m.message.tool_call_id for m in messages if m.message.role == "tool"]
    calls = tuple(ToolCall(i, "f", {}) for i in ids if i is not None)
    older = [
        script("s"),
        script("t"),
        script("h"),
        script("s s"),
        script("t " * 20),
        script("h " * 20),
        [stored(Message("ai", tool_calls=calls))],
    ]
    views = {
        len(messages) + len(more) - oracle(more + messages, [0] * len(more) + tokens, limits)
        for more in older
    }
    assert len(views) > 1


@pytest.mark.parametrize(
    ("text", "given", "more", "expected"),
    [
        ("", Limits(1), False, 0),
        ("h a", Limits(), False, 0),
        ("h a", Limits(), True, None),
        ("a h a", Limits(3), False, 0),  # nothing is trimmed, whatever comes first
        ("h a h a", Limits(3), False, 2),
        ("h a h a", Limits(2), True, 2),
        ("h a h a", Limits(4), True, 0),  # exactly full: older ones cannot help
        ("h a h a", Limits(5), True, None),
        ("a h a h", Limits(4), True, 1),
        ("h a h a", Limits(turns=1), False, 2),
        ("h a h a", Limits(turns=2), True, None),  # what is older may be no turn
        ("h a h a", Limits(max_tokens=25), False, 2),
        ("h a h a", Limits(max_tokens=20), True, 2),
        ("h a:x t:x a", Limits(3), False, 1),  # the turn is split at a whole unit
        ("h a:x t:x a", Limits(2), False, 3),
        ("h a:x,y t:x t:y", Limits(2), False, 1),  # the newest unit, though too large
        ("h a:x,y t:x t:y", Limits(max_tokens=1), False, 1),
        ("h a h", Limits(max_tokens=1), True, 2),
        ("h a:x,y t:x h t:y", Limits(2), False, 1),  # y comes late: no start between
        ("t:x a h", Limits(2), True, 2),
        ("t:x t:y", Limits(1), True, None),  # the call is older
        ("t:x t:y", Limits(1), False, 1),  # there is none
        ("h t:x", Limits(1), True, None),
        ("h t:x", Limits(1), False, 0),
        ("h a:x t:x h a:x t:x", Limits(3), True, 3),  # an id that is used again
        ("t h a", Limits(2), True, 1),
    ],
)
def test_rules(text: str, given: Limits, more: bool, expected: int | None) -> None:
    messages = script(text)
    assert view_start(messages, [10] * len(messages), given, more=more) == expected


def test_linear() -> None:
    messages = script("h " + "a:x,y t:y t:x " * 30_000 + "a:z " * 50_000 + "t:z")
    start = time.process_time()
    assert view_start(messages, [1] * len(messages), Limits(10), more=False) == 139_992
    assert time.process_time() - start < 20  # quadratic, it would be hours


@pytest.mark.parametrize("name", Limits._fields)
def test_limits_are_checked(name: str) -> None:
    assert limits(**{name: 7}) == Limits(**{name: 7})
    assert limits() == Limits()
    for wrong, said in ((0, "0"), (-1, "-1"), (True, "bool"), (1.5, "float"), ("3", "str")):
        with pytest.raises(InvalidInput, match=rf"{name} must be an int of at least 1.*{said}"):
            limits(**{name: wrong})
