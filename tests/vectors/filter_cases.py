"""Filters of a field "a", values of it that pass, and values that do not; None: it is missing."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from redis_tiered.vectors.filters import And, Field, Filter, Or

a = Field("a")
NAN = float("nan")
CASES: list[tuple[Filter, list[Any], list[Any]]] = [
    (a == 1, [1, 1.0, True], [2, "1", [1], None, NAN, {"a": 1}]),
    (a == True, [1, True, 1.0], [False, "True"]),  # noqa: E712
    (a == 0, [0, -0.0, False], [None, "", []]),
    (a != 1, [2, "1", [1], None, NAN], [1, 1.0, True]),
    (a == 2**53 + 1, [2**53 + 1], [2**53, 2.0**53, 2**53 + 2]),
    (a == 2.0**75, [2**75, 2.0**75], [2**75 + 1]),
    (a == 10**400, [10**400], [math.inf, 10**400 + 1]),
    (a == NAN, [], [NAN, None, 1]),
    (a != NAN, [NAN, None, 1], []),
    (a == [1, NAN], [], [[1, NAN]]),
    (a == "x", ["x"], ["X", "xx", ["x"], b"x"]),
    (a == "", [""], [None, []]),
    (a == None, [None], ["", 0, [], NAN]),  # noqa: E711
    (a != None, ["", 0, [], NAN], [None]),  # noqa: E711
    (a == ["x", 1], [["x", 1], ["x", True]], [["x"], [1, "x"], ("x", 1), ["x", 1, None]]),
    (a == [], [[]], [None, [None], ""]),
    (a == [["x"], "y"], [[["x"], "y"]], [["x", "y"], [["x", "y"]], [["x"], ["y"]]]),
    (a == (1, 2), [(1, 2), (1.0, 2)], [[1, 2], (2, 1)]),
    (a == {"x": 1, "y": 2}, [{"y": 2, "x": 1.0}], [{"x": 1}, {"x": 1, "y": 3}]),
    (a == {"x", "y", "z"}, [{"z", "y", "x"}, frozenset({"x", "y", "z"})], [{"x"}, ["x", "y", "z"]]),
    (a == date(2024, 1, 1), [date(2024, 1, 1)], [datetime(2024, 1, 1), "2024-01-01"]),
    (
        a == datetime(2024, 1, 1, tzinfo=UTC),
        [datetime(2024, 1, 1), datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))],
        [datetime(2024, 1, 1, 2), date(2024, 1, 1)],
    ),
    (a > 1, [1.5, 2, math.inf, 2**64], [1, True, -math.inf, NAN, "2", [2], None, 10**400]),
    (a >= 1, [1, True, 2], [0.999, None]),
    (a < 2**53 + 1, [2**53, 2.0**53, -math.inf, False], [2**53 + 1, 2**53 + 2]),
    (a <= -0.0, [0, -1, -5e-324], [5e-324]),
    (a > "b", ["ba", "c", "é", "🦉"], ["b", "B", "", 3, ["c"]]),
    (a < datetime(2024, 1, 1), [datetime(2023, 12, 31), datetime.min], [date(2023, 1, 1), 0]),
    (a.between(1, 3), [1, 2.5, 3], [0, 4, "2"]),
    (a.between(3, 1), [], [1, 2, 3]),
    (a.is_in([1, "x"]), [1, "x", 1.0], [[1, "x"], None, 2]),
    (a.is_in([1, None]), [1, None], [2, ""]),
    (a.is_in([]), [], [1, None, []]),
    (a.is_in([NAN]), [], [NAN]),
    (a.not_in([1, "x"]), [None, 2, [1]], [1, "x"]),
    (a.not_in([1, None]), [2], [1, None]),
    (a.contains("x"), [["x"], ["y", "x", None]], ["x", [["x"]], [], None, ("x",)]),
    (a.contains(["x"]), [[["x"]]], [["x"]]),
    (a.contains(1), [[True]], [["1"], [NAN], 1]),
    (a.contains(NAN), [], [[NAN]]),
    (a.any_of(["x", 2]), [["x"], [0, 2.0]], [["y"], [], "x"]),
    (a.any_of([]), [], [[], ["x"], None]),
    (a.all_of(["x", 2]), [["x", 2], [2, "y", "x"]], [["x"], [2], "x"]),
    (a.all_of([]), [[], ["x"], None], []),
    (a.text("bc"), ["bc", "abcd"], ["BC", "b c", ["bc"], None, 1]),
    (a.text("Är", case_sensitive=False), ["ärger", "WÄRE"], ["arger", ["ärger"]]),
    (a.text(""), ["", "x"], [None, 1, []]),
    (a.text("%"), ["5%"], ["5"]),
    (a.present(), ["", 0, [], NAN, {}], [None]),
    (a.is_empty(), [None, "", []], [" ", 0, False, [None], {}]),
    (~(a == 1) & ~(a == 2), [None, 3], [1, 2]),
    ((a == 1) | (a == "x") | a.contains("y"), [1, "x", ["y"]], [2, ["x"], None]),
    (And(()), [None, 1], []),
    (Or(()), [], [None, 1]),
]
