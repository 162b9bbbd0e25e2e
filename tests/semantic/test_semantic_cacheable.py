"""What may be answered by the answer to another wording, and for how long."""

from __future__ import annotations

import dataclasses
import pickle
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.cacheable import REASONS, Asked, CacheRules, Verdict
from redis_tiered.llm_cache.semantic.words import Words

REASON = {
    "How do I reset my password?": "",
    "What are your opening hours?": "",
    "how do I cancel my order?": "",
    "Why was my order cancelled?": "",
    "Can I cancel my order?": "",
    "I want to know how to cancel an order": "",
    "Order limits": "",
    "What is a haiku?": "",
    "How do I write a poem?": "",
    "I bought it today and it is broken": "",
    "Why was I charged yesterday?": "",
    "There is a random charge on my card": "",
    "cancel my order": "action",
    "Please cancel my order": "action",
    "can you cancel my order?": "action",
    "I want to cancel my subscription": "action",
    "I'd like to book a room": "action",
    "Hi, could you please send money to Tom": "action",
    "What is the weather in Rome?": "volatile",
    "is the bank open today?": "volatile",
    "latest news on rates": "volatile",
    "What's my balance? Show my balance": "volatile",
    "what time is it": "volatile",
    "exchange rate of the euro": "volatile",
    "Write a poem about the sea": "creative",
    "tell me a joke": "creative",
    "Could you give me some ideas for a party": "creative",
    "pick a random number": "creative",
    "What is the capital of France?": "static",
    "define entropy": "static",
    "what is the meaning of 'ubiquitous'": "static",
    "what is the definition of my health plan": "",
    "reach me at bob@example.org": "personal.email",
    "my IBAN is DE89370400440532013000": "personal.iban",
    "charged on 4111 1111 1111 1111": "personal.card",
    "my SSN is 536-90-4399": "personal.national_id",
    "+49 30 1234567 does not work": "personal.phone",
    "": "empty",
    " ?! ": "empty",
}


@pytest.mark.parametrize("prompt", REASON, ids=repr)
def test_reason(prompt: str) -> None:
    verdict = CacheRules()(Asked(prompt))
    assert verdict.reason == REASON[prompt]
    assert verdict.allowed == (verdict.reason in ("", "static"))
    assert verdict.ttl == (7 * 86_400 if verdict.reason == "static" else None)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Asked("hello there", temperature=1.0), ""),
        (Asked("hello there", temperature=1.01), "temperature"),
        (Asked("hello there", temperature=float("nan")), "temperature"),
        (Asked("hello there", turns=5), ""),
        (Asked("hello there", turns=6), "long_conversation"),
        (Asked("hello there", tools=True), "tools"),
        (Asked("a" * 8_001), "too_long"),
        (Asked("a " * 4_000), ""),
    ],
    ids=str,
)
def test_reasons_besides_the_words(asked: Asked, reason: str) -> None:
    assert CacheRules()(asked).reason == reason


def test_live_data_may_be_kept_for_a_short_time() -> None:
    rules = CacheRules(volatile_ttl=300)
    assert rules(Asked("weather in Rome")) == Verdict(True, "volatile", 300)


def test_each_rule_can_be_switched_off() -> None:
    rules = CacheRules(
        actions="allow",
        creative="allow",
        tools="allow",
        personal=frozenset(),
        max_temperature=None,
        max_turns=None,
        static_ttl=None,
        words=dataclasses.replace(Words.of("en"), volatile="", volatile_if_asked=""),
    )
    for prompt, reason in REASON.items():
        if reason != "empty":
            assert rules(Asked(prompt, 99, 2.0, True)) == Verdict(True, "", None)


def test_personal_data_can_be_chosen_by_kind() -> None:
    rules = CacheRules(personal={"card"})
    assert rules(Asked("bob@example.org")).allowed
    assert rules(Asked("4111 1111 1111 1111")).reason == "personal.card"


def test_german_lists() -> None:
    rules = CacheRules(words=Words.of("de"))
    assert rules(Asked("Wie wird das Wetter?")).reason == "volatile"
    assert rules(Asked("Bitte storniere meine Bestellung")).reason == "action"
    assert rules(Asked("Erzähl mir einen Witz")).reason == "creative"
    assert rules(Asked("Wie storniere ich meine Bestellung?")).reason == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"volatile_ttl": -1},
        {"volatile_ttl": True},
        {"static_ttl": 0},
        {"actions": "maybe"},
        {"creative": None},
        {"tools": 1},
        {"personal": {"shoe"}},
        {"personal": "email"},
        {"max_temperature": "hot"},
        {"max_turns": 0},
        {"max_characters": 0},
        {"words": "en"},
    ],
    ids=str,
)
def test_bad_input(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        CacheRules(**wrong)


def test_rules_are_a_value() -> None:
    assert CacheRules() == CacheRules()
    assert pickle.loads(pickle.dumps(CacheRules(max_turns=3))) == CacheRules(max_turns=3)


@given(st.text(), st.integers(1, 9), st.none() | st.floats(), st.booleans())
def test_every_verdict_has_words(
    prompt: str, turns: int, temperature: float | None, tools: bool
) -> None:
    verdict = CacheRules(volatile_ttl=60)(Asked(prompt, turns, temperature, tools))
    assert verdict.reason in REASONS
    assert verdict.allowed or verdict.ttl is None


@pytest.mark.parametrize(
    "unit", ["please ", "can you ", "a", "today. ", "'s ", "?", "1 "], ids=repr
)
def test_long_texts_take_linear_time(unit: str) -> None:
    rules = CacheRules(max_characters=1_000_000)
    began = time.process_time()
    rules(Asked(unit * (100_000 // len(unit))))
    assert time.process_time() - began < 3
