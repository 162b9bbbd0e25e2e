"""Personal data is found by form and check digit, and never repeated."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.llm_cache.semantic.personal import KINDS, personal

FOUND = {
    "write to bob.smith+shop@example.co.uk please": "email",
    "(jörg@müller.example)": "email",
    "call +49 30 1234567": "phone",
    "+1 (555) 123-4567": "phone",
    "0049 30 1234567 is mine": "phone",
    "(212) 555-0199": "phone",
    "212.555.0199": "phone",
    "07911 123456": "phone",
    "01 23 45 67 89": "phone",
    "030/1234567": "phone",
    "my phone number is 5551234567": "phone",
    "4111 1111 1111 1111": "card",
    "5555-5555-5555-4444": "card",
    "378282246310005": "card",
    "DE89 3704 0044 0532 0130 00": "iban",
    "gb82west12345698765432": "iban",
    "NL91ABNA0417164300": "iban",
    "536-90-4399": "national_id",
    "AB 12 34 56 C": "national_id",
    "86 095 742 719": "national_id",
    "2 55 08 14 168 025 38": "national_id",
    "12345678Z": "national_id",
    "X1234567L": "national_id",
    "RSSMRA85T10A562S": "national_id",
}

NOT_FOUND = [
    "4111 1111 1111 1112",  # Luhn
    "1234 5678 9012 3452",  # Luhn fits, no issuer
    "DE88 3704 0044 0532 0130 00",
    "GB82WEST1234569876543",  # one digit short
    "000-12-3456",
    "666-12-3456",
    "123-00-4567",
    "BG 12 34 56 C",
    "86095742718",
    "12345678A",
    "RSSMRA85T10A562X",
    "order 1234567890",
    "order number 212-555-0199",
    "ticket 0800-1234567",
    "in 2019, 2020, 2021 and 2022",
    "2024-03-05",
    "01.02.2024 12:00",
    "3.14159265358979",
    "1 000 000 000",
    "2,500,000,000",
    "192.168.1.100",
    "ISBN 978-3-16-148410-0",
    "a@b and @bob",
    "x@y.1",
    "",
]


@pytest.mark.parametrize("text", FOUND, ids=repr)
def test_finds(text: str) -> None:
    [found] = personal(text)
    assert found.kind == FOUND[text]
    assert found.kind in KINDS


@pytest.mark.parametrize("text", NOT_FOUND, ids=repr)
def test_leaves_alone(text: str) -> None:
    assert personal(text) == ()


def test_tells_where_each_piece_is() -> None:
    text = (
        "I am a@b.org, card 4111111111111111, IBAN DE89370400440532013000, tel. +44 20 7946 0958."
    )
    pieces = [(one.kind, text[one.start : one.end]) for one in personal(text)]
    assert pieces == [
        ("email", "a@b.org"),
        ("card", "4111111111111111"),
        ("iban", "DE89370400440532013000"),
        ("phone", "+44 20 7946 0958"),
    ]


@pytest.mark.parametrize("text", FOUND, ids=repr)
def test_what_was_found_is_not_repeated(text: str) -> None:
    [found] = personal(text)
    assert text[found.start : found.end] not in repr(found)


def check_digit(digits: str) -> str:
    total = sum(
        sum(divmod(int(one) * (2 - place % 2), 10)) for place, one in enumerate(reversed(digits))
    )
    return str(-total % 10)


@given(st.text("0123456789", min_size=14, max_size=14), st.integers(0, 15), st.integers(1, 9))
def test_a_wrong_digit_makes_a_card_none(digits: str, place: int, more: int) -> None:
    card = "4" + digits
    card += check_digit(card)
    assert [found.kind for found in personal(card)] == ["card"]
    place = max(1, place)
    wrong = card[:place] + str((int(card[place]) + more) % 10) + card[place + 1 :]
    assert "card" not in [found.kind for found in personal(wrong)]


@given(st.text())
def test_spans_lie_in_the_text_and_in_order(text: str) -> None:
    pieces = personal(text)
    assert list(pieces) == sorted(pieces, key=lambda one: one.start)
    assert all(0 <= one.start < one.end <= len(text) for one in pieces)


@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "1 ",
        "@",
        "a@",
        "a.b@c.",
        "1-",
        "+1 (555) ",
        "DE89 ",
        "123-45-",
        "(0",
        "4111 ",
        "A1",
        "00",
    ],
    ids=repr,
)
def test_long_texts_take_linear_time(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    began = time.process_time()
    personal(text)
    assert time.process_time() - began < 3
