"""Numbers in a text: digits and words, with their units, so that `24 hours` meets `a day`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Final, NamedTuple

__all__ = ["Number", "has_more", "in_digits", "numbers"]


class Number(NamedTuple):
    """A quantity. `unit` is "" where none is known; that may be any."""

    value: Decimal
    unit: str

    @property
    def seconds(self) -> Decimal | None:
        """Of a duration: `24 hours` and `a day` are one."""
        return self.value * _SECONDS[self.unit] if self.unit in _SECONDS else None


_NUMBER: Final = re.compile(
    r"(?<![\w.])(?P<minus>[-\u2212](?=[\d€$£¥]))?"
    r"(?P<currency>[€$£¥])?\s?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)"
    r"|\d+,\d{1,2}(?![\d,])|\d+(?:[.]\d+)*)"
    r"(?::(?P<minutes>\d{2}))?(?P<suffix>st|nd|rd|th)?"
    r"\s?-?(?P<unit>[%€$£¥]|°\s?[CF]\b|[^\W\d_]+(?:/s\b)?)?"
)
_SECONDS: Final = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
}
_PERIODS: Final = {
    "secondly": "second", "hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month",
    "yearly": "year", "annually": "year", "annual": "year", "nightly": "day", "night": "day",
}  # fmt: skip
_A_PERIOD: Final = re.compile(
    r"\b(?:a|an|per|each|every|one|1|half an?)\s+(second|minute|hour|day|night|week|month|year)\b"
    r"|\b(secondly|hourly|daily|weekly|monthly|yearly|annually|annual|nightly)\b",
    re.IGNORECASE,
)
_UNITS: Final = {
    name: unit
    for unit, names in {
        "%": "% percent pct",
        "km": "km kilometre kilometres kilometer kilometers",
        "m": "m metre metres meter meters",
        "cm": "cm centimetre centimetres centimeter centimeters",
        "mm": "mm millimetre millimetres millimeter millimeters",
        "mi": "mi mile miles",
        "kg": "kg kilo kilos kilogram kilograms",
        "g": "g gram grams gramme grammes",
        "mg": "mg milligram milligrams",
        "lb": "lb lbs pound pounds",
        "l": "l litre litres liter liters",
        "ml": "ml millilitre millilitres milliliter milliliters",
        "C": "°c celsius",
        "F": "°f fahrenheit",
        "EUR": "€ eur euro euros",
        "USD": "$ usd dollar dollars",
        "GBP": "£ gbp",
        "JPY": "¥ jpy yen",
        "KB": "kb", "MB": "mb megabyte megabytes", "GB": "gb gigabyte gigabytes",
        "TB": "tb terabyte terabytes",
        "m/s": "m/s", "km/s": "km/s",
    }.items()
    for name in names.split()
}  # fmt: skip
_DECIMAL_COMMA: Final = re.compile(r",(?=\d{1,2}$)")
_PER_SECOND: Final = re.compile(r"\bmet(?:re|er)s? (?:per|a) second\b")
_CLOCK: Final = frozenset({"am", "pm"})


def has_more(some: AbstractSet[Number], others: AbstractSet[Number]) -> bool:
    """Whether `some` has a number that `others` has in no form."""
    more = some - others
    if not more:
        return False
    units: defaultdict[Decimal, set[str]] = defaultdict(set)
    for number in others:
        units[number.value].add(number.unit)
    durations = {number.seconds for number in others} - {None}
    return any(
        number.seconds not in durations
        and not ("" in units[number.value] or (units[number.value] and not number.unit))
        for number in more
    )


def numbers(
    prose: str, spelled: Mapping[str, float], scales: Mapping[str, float]
) -> Iterator[Number]:
    """The numbers of a text, more than once if they are; 1 alone is none.

    Args:
        prose: the text, without code and marks of lists.
        spelled, scales: what `twelve` and `hundred` are.
    """
    for match in _A_PERIOD.finditer(_PER_SECOND.sub("m/s", prose)):
        named, adverb = match.groups()
        period = (named or _PERIODS[adverb.lower()]).lower()
        share = Decimal("0.5" if match.group()[:4].lower() == "half" else "1")
        yield Number(share, _PERIODS.get(period, period))
    for match in _NUMBER.finditer(_PER_SECOND.sub("m/s", in_digits(prose, spelled, scales))):
        number = _number(match)
        if number.value != 1 or number.unit:
            yield number


def _number(match: re.Match[str]) -> Number:
    digits = _DECIMAL_COMMA.sub(".", match["digits"])
    digits = re.sub(r"[,\s]", "", digits)
    if digits.count(".") > 1:  # a version, an address
        return Number(Decimal(digits.partition(".")[0]), digits)
    value = Decimal(digits)
    if match["minutes"]:
        value += Decimal(match["minutes"]) / 60
    if match["minus"]:
        value = -value
    unit = re.sub(r"\s", "", match["currency"] or match["unit"] or "").lower()
    if unit in _CLOCK:
        return Number(value % 12 + 12 * (unit == "pm"), "")
    period = unit.removesuffix("s")
    return Number(value, period if period in _SECONDS else _UNITS.get(unit, ""))


def in_digits(prose: str, spelled: Mapping[str, float], scales: Mapping[str, float]) -> str:
    """Spelled numbers as digits: "two hundred" is "200"; "one" stays a word."""
    tokens = re.split(r"(\w+)", prose)
    for i in range(1, len(tokens), 2):
        value = spelled.get(tokens[i].lower())
        # "first" and "half" are mostly no quantities that the other text would repeat
        if value is None or value < 2 or tokens[i].lower() in ("quarter", "second"):
            continue
        if i + 2 < len(tokens) and (scale := scales.get(tokens[i + 2].lower())):
            value, tokens[i + 1], tokens[i + 2] = value * scale, "", ""
        tokens[i] = str(int(value)) if value == int(value) else str(value)
    return "".join(tokens)
