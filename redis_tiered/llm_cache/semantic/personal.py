"""Where a text holds data of a person: addresses, phone numbers, cards, accounts, national numbers.

Numbers with check digits are believed only if these fit, so an order number is seldom taken for a
card: Luhn (ISO/IEC 7812-1) with the issuers' prefixes, IBAN mod 97 (ISO 13616) with the countries'
lengths, German tax number (ISO 7064 mod 11, 10), French NIR (mod 97), Spanish DNI and NIE (mod 23),
Italian codice fiscale. US SSN and UK NINO have none: their written forms and forbidden ranges are used.
A phone number needs an international prefix, the blanks, brackets and dashes that people write, or a
word such as "call" before it; behind "order" or "ticket" it is none.

What was found is told by kind and place, never by value. All is done in time linear in the text's length.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["KINDS", "Found", "personal"]

KINDS = ("email", "phone", "card", "iban", "national_id")


class Found(NamedTuple):
    """A piece of personal data: its kind, one of `KINDS`, and `text[start:end]`."""

    kind: str
    start: int
    end: int


def personal(text: str) -> tuple[Found, ...]:
    """What `text` holds of a person, in order; pieces do not overlap.

    Kinds are looked for in the order IBAN, e-mail, national id, card, phone; the first one to
    claim a place has it.
    """
    found: list[Found] = []
    if "@" in text:
        found.extend(_emails(text))
    if _DIGIT.search(text):
        for look in (_ibans, _national, _cards, _phones):
            for one in look(text):
                if all(
                    one.end <= other.start or other.end <= one.start for other in found[-_NEAR:]
                ):
                    found.append(one)
            found.sort(key=_start)
    return tuple(found)


_NEAR = 1_000  # a text with more pieces than this keeps overlapping ones; the kinds stay right
_DIGIT = re.compile(r"\d")
_LOCAL = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_{|}~-"
)
_DOMAIN = re.compile(r"(?:[^\W_](?:[^\W_]|-){0,62}\.){1,8}[^\W\d_]{2,24}(?![\w-])")


def _start(found: Found) -> int:
    return found.start


def _emails(text: str) -> list[Found]:
    found = []
    for match in re.finditer("@", text):
        at = match.start()
        start = at
        while start and at - start < 64 and (text[start - 1] in _LOCAL or text[start - 1] > "\x7f"):
            if text[start - 1].isspace():
                break
            start -= 1
        while start < at and text[start] in ".'{(":
            start += 1
        domain = _DOMAIN.match(text, at + 1, at + 256)
        if start < at and domain:
            found.append(Found("email", start, domain.end()))
    return found


# IBAN: length by country, SWIFT registry of 2025
_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH CR HR LI LV",
    22: "BG BH DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_LENGTHS = {country: length for length, row in _COUNTRIES.items() for country in row.split()}
_IBAN = re.compile(r"(?<![^\W_])([A-Za-z]{2})\d{2}(?=[ -]?[A-Za-z0-9])")


def _ibans(text: str) -> list[Found]:
    found = []
    for match in _IBAN.finditer(text):
        length = _LENGTHS.get(match[1].upper(), 0)
        end, kept = match.start(), ""
        while length and len(kept) < length and end < len(text):
            character = text[end]
            if character.isascii() and character.isalnum():
                kept += character
            elif character not in " -" or text[end - 1] in " -":
                break
            end += 1
        whole = end == len(text) or not text[end].isalnum()
        if length and len(kept) == length and whole and _mod_97(kept.upper()):
            found.append(Found("iban", match.start(), end))
    return found


def _mod_97(iban: str) -> bool:
    return int("".join(str(int(one, 36)) for one in iban[4:] + iban[:4])) % 97 == 1


_RUN = re.compile(r"(?<![\w.])\d(?:[ -]?\d){10,22}(?!\w|\.\d)", re.ASCII)
_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]\d|7[01]|720))\d{14}|(?:5[1-5])\d{14}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|(?:6011|64[4-9]\d|65\d\d)\d{12}|35\d{14}|62\d{14,17}"
    r"|(?:50|5[6-9]|6[37])\d{10,17}",
    re.ASCII,
)


def _cards(text: str) -> list[Found]:
    found = []
    for match in _RUN.finditer(text):
        digits = match[0].replace(" ", "").replace("-", "")
        if 13 <= len(digits) <= 19 and _ISSUERS.fullmatch(digits) and _luhn(digits):
            found.append(Found("card", match.start(), match.end()))
    return found


def _luhn(digits: str) -> bool:
    total = 0
    for place, one in enumerate(reversed(digits)):
        value = int(one) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


_SSN = re.compile(
    r"(?<![\w-])(?!000|666|9)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-])", re.ASCII
)
_NINO = re.compile(
    r"(?<!\w)(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D](?!\w)",
    re.ASCII | re.IGNORECASE,
)
_TAX = re.compile(r"(?<![\w.-])[1-9]\d[ ]?\d{3}[ ]?\d{3}[ ]?\d{3}(?![\w-])", re.ASCII)
_NIR = re.compile(
    r"(?<!\w)[12][ ]?\d{2}[ ]?(?:0[1-9]|1[0-2]|[2-4]\d)[ ]?\d[\dAB][ ]?\d{3}[ ]?\d{3}[ ]?\d{2}(?!\w)",
    re.ASCII,
)
_DNI = re.compile(
    r"(?<!\w)(?:\d{8}|[XYZxyz][ -]?\d{7})[ -]?([A-HJ-NP-TV-Za-hj-np-tv-z])(?!\w)", re.ASCII
)
_FISCAL = re.compile(
    r"(?<!\w)[A-Z]{6}[\dLMNP-V]{2}[A-EHLMPRST][\dLMNP-V]{2}[A-Z][\dLMNP-V]{3}[A-Z](?!\w)",
    re.ASCII | re.IGNORECASE,
)
_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            1,
            0,
            5,
            7,
            9,
            13,
            15,
            17,
            19,
            21,
            1,
            0,
            5,
            7,
            9,
            13,
            15,
            17,
            19,
            21,
            2,
            4,
            18,
            20,
            11,
            3,
            6,
            8,
            12,
            14,
            16,
            10,
            22,
            25,
            24,
            23,
        ),
        strict=True,
    )
)


def _national(text: str) -> list[Found]:
    found = [Found("national_id", *match.span()) for match in _SSN.finditer(text)]
    found.extend(Found("national_id", *match.span()) for match in _NINO.finditer(text))
    for pattern, fits in ((_TAX, _german), (_NIR, _french), (_DNI, _spanish), (_FISCAL, _italian)):
        for match in pattern.finditer(text):
            if fits(match[0].replace(" ", "").replace("-", "").upper()):
                found.append(Found("national_id", *match.span()))
    return found


def _german(number: str) -> bool:
    """Steuer-ID: of the first ten digits one is there twice or three times; then ISO 7064."""
    counts = sorted(number[:10].count(one) for one in set(number[:10]))
    if counts[-1] not in (2, 3) or (len(counts) > 1 and counts[-2] != 1):
        return False
    product = 10
    for one in number[:10]:
        total = (int(one) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(number[10])


def _french(number: str) -> bool:
    body = (
        number[:13].replace("2A", "19", 1).replace("2B", "18", 1)
        if not number[:13].isdigit()
        else number[:13]
    )
    return body.isdigit() and 97 - int(body) % 97 == int(number[13:])


def _spanish(number: str) -> bool:
    body = number[:-1]
    body = str("XYZ".index(body[0])) + body[1:] if body[0] in "XYZ" else body
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(body) % 23] == number[-1]


def _italian(number: str) -> bool:
    total = sum(_ODD[one] for one in number[:15:2])
    total += sum(int(one) if one.isdigit() else ord(one) - 65 for one in number[1:15:2])
    return chr(total % 26 + 65) == number[15]


_CALLED = re.compile(
    r"(?<![\w.+-])(?:\+|00(?=[1-9]))\d[\d ().\-/]{6,22}\d(?!\w)"
    r"|(?<![\w.+-])\(?\d[\d ().\-/]{7,20}\d(?!\w)",
    re.ASCII,
)
_AMERICAN = re.compile(
    r"(?:1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}", re.ASCII
)
_WITH_ZERO = re.compile(r"\(?0[1-9][\d ().\-/]{7,17}", re.ASCII)
_NO_PHONE = re.compile(
    r"(?:order|invoice|ticket|ref|reference|tracking|case|id|sku|isbn|part|serial|#|no\.?|nr\.?)[ :#.]{0,3}(?:(?:number|no\.?|nr\.?|is)[ :#.]{0,2}){0,2}$",
    re.IGNORECASE,
)


_PHONE = re.compile(
    r"(?:call|phone|mobile|cell|tel|telephone|whatsapp|sms|text|telefon|handy)(?: (?:number|me|us|no))?"
    r"(?: (?:is|on|at|under))?[ .:]{0,3}$",
    re.IGNORECASE,
)


def _phones(text: str) -> list[Found]:
    found = []
    for match in _CALLED.finditer(text):
        number = match[0]
        digits = sum(map(str.isdigit, number))
        international = number[0] == "+" or number[:2] == "00"
        if international:
            fits = 8 <= digits - 2 * (number[:2] == "00") <= 15
        elif _AMERICAN.fullmatch(number):
            fits = True
        else:
            fits = bool(_WITH_ZERO.fullmatch(number)) and 9 <= digits <= 12 and not _dated(number)
        before = text[max(0, match.start() - 40) : match.start()]
        fits = fits or (9 <= digits <= 12 and _PHONE.search(before) is not None)
        if fits and not _NO_PHONE.search(before):
            found.append(Found("phone", match.start(), match.end()))
    return found


def _dated(number: str) -> bool:
    """`01.02.2024 12` and `01-02-2024`."""
    return re.match(r"\d\d[./-]\d\d[./-]\d{2,4}", number) is not None
