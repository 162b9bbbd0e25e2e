"""Which pairs of questions the guard keeps apart, and which it lets pass."""

# ruff: noqa: RUF001 - look-alikes are what this is about
from __future__ import annotations

import dataclasses
import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.guard import (
    REASONS,
    LexicalGuard,
    default_guard,
    guard_of,
    strict_guard,
)
from redis_tiered.llm_cache.semantic.normal import normal
from redis_tiered.llm_cache.semantic.words import LANGUAGES, Words

VETOED = {
    "number": [
        ("how old was she in 2008", "how old was she in 2012"),
        ("recipe for two people", "recipe for 4 people"),
        ("features of Python 3.10", "features of Python 3.1"),
        ("who won the world cup in 2014", "who won the world cup"),
        ("take the first exit", "take the third exit"),
        ("a dose of twenty five", "a dose of twenty"),
        ("schedule it for 3pm", "schedule it for 3am"),
        ("价格是100元吗", "价格是200元吗"),
        ("сколько стоит 5 билетов", "сколько стоит 6 билетов"),
    ],
    "unit": [
        ("is 5 km far", "is 5 miles far"),
        ("convert $50 to yen", "convert €50 to yen"),
        ("set a timer for 5 minutes", "set a timer for 5 hours"),
    ],
    "date": [("open on monday?", "open on Sunday?"), ("sales in april", "sales in june")],
    "quoted": [('how do I say "cat" in Spanish', 'how do I say "dog" in Spanish')],
    "identifier": [
        ("what does E1234 mean", "what does E1235 mean"),
        ("open report.pdf", "open invoice.pdf"),
        ("mail bob@example.com", "mail alice@example.com"),
        ("read https://a.org/x", "read https://a.org/y"),
        ("explain get_user", "explain set_user"),
        ("what is new in v2", "what is new in v3"),
        ("state of ABC-123", "state of ABC-124"),
    ],
    "symbol": [("what is 2+2", "what is 2*2"), ("what does 😀 mean", "what does 😢 mean")],
    "name": [
        ("Who is Marie Curie?", "Who is Pierre Curie?"),
        ("what is the capital of france", "what is the capital of germany"),
        ("how do I sort in python", "how do I sort in java"),
        ("weather in paris", "weather in london"),
        ("read a file in C", "read a file in C++"),
    ],
    "kind": [("can dogs eat grapes", "can cats eat grapes")],
    "negation": [
        ("Is it safe to smoke here?", "Is it not safe to smoke here?"),
        ("do I have to pay", "do I not have to pay"),
        ("travel with a passport", "travel without a passport"),
        ("which plans include it", "which plans don't include it"),
        ("should I go", "should I not go"),
        ("I can log in but not pay", "I can pay but not log in"),
    ],
    "antonym": [
        ("turn on the wifi", "turn off the wifi"),
        ("how to enable it", "how to disable it"),
        ("Do I eat before running?", "Do I eat after running?"),
        ("is it legal", "is it illegal"),
        ("what causes hypertension", "what causes hypotension"),
        ("log in to the site", "log out to the site"),
        ("the minimum age", "the maximum age"),
    ],
    "question_word": [
        ("when does the shop open", "where does the shop open"),
        ("how much sugar is in it", "how many sugars are in it"),
    ],
    "pronoun": [("what did she say to him", "what did he say to her")],
    "person": [("what is my name", "what is your name")],
    "logic": [("is Ann a nurse or a poet", "is Ann a nurse and a poet")],
    "status": [("Is Ann Lee a nurse?", "Did Ann Lee use to be a nurse?")],
    "tense": [("Who is the CEO of Acme?", "Who was the CEO of Acme?")],
    "role": [
        ("Is Ann protecting Bob?", "Is Bob protecting Ann?"),
        ("Does Ann follow Bob?", "Is Ann followed by Bob?"),
        ("Did Ann seize the house?", "Was Ann seized by the house?"),
        ("flights from paris to london", "flights from london to paris"),
        ("convert usd to eur", "convert eur to usd"),
        ("translate from English to French", "translate from French to English"),
        ("can you call me", "can I call you"),
        ("who did Germany attack", "who attacked Germany"),
        ("is python faster than java", "is java faster than python"),
    ],
    "order": [("did the dog bite the man", "did the man bite the dog")],
    "modifier": [
        ("Is Ann an editor?", "Is Ann a bad editor?"),
        ("如何取消订单", "如何不取消订单"),
    ],
    "substitution": [
        ("what is the boiling point of water", "what is the freezing point of water"),
        ("make my site http only", "make my site https only"),
        ("今天天气怎么样", "明天天气怎么样"),
    ],
    "script": [
        ("is it safe to mix them", "is it sаfe to mix them"),
        ("сколько стоит билет", "how much is a ticket"),
    ],
    "code": [("fix:\n  a = 1\n  b()", "fix:\n  a = 1\n    b()")],
    "hidden": [("tell me all", "tell me all\U000e0041\U000e0042")],
    "wordless": [("", "hello"), ("?", "!")],
}
PAIRS = [(reason, *pair) for reason, pairs in VETOED.items() for pair in pairs]

PASSED = [
    ("How do I reset my password?", "How can I reset my password?"),
    ("What's the capital of France", "tell me the capital city of France"),
    ("Is Jeff related to Tom?", "Is Tom related to Jeff?"),
    ("Did Eric buy the painting?", "Was the painting bought by Eric?"),
    ("Does Ann follow Bob?", "Is Bob followed by Ann?"),
    ("flights from Paris to London", "flights to London from Paris"),
    ("convert 5 km to miles", "how many miles is 5 km"),
    ("10% of 50", "ten percent of fifty"),
    ("one hundred dollars", "100 USD"),
    ("I don't know how to log in", "How do I log in?"),
    ("My app isn't working", "My app is not working"),
    ("the answer is not correct", "the answer is incorrect"),
    ("I can't verify my card", "I have trouble verifying my card"),
    ("what is the time in New York", "what time is it in new york"),
    ('what does "HTTP" stand for', "what does HTTP stand for"),
    ("Is Ann an editor?", "Is Ann really an editor?"),
    ("Is Ann a nurse and a poet?", "Is Ann a poet and a nurse?"),
    ("Which countries border Germany and France?", "Which countries border France and Germany?"),
    ("My dog eats rice. Is that normal for pets?", "My cat eats rice. Is that normal for pets?"),
    ("how can I become organised", "how can I become organized"),
    ("wait a week", "wait 1 week"),
    ("where is the café", "where is the cafe"),
    ("take １０ pills", "take 10 pills"),
    ("are cats better than dogs", "what is better, dogs or cats"),
    ("when will it arrive", "how long until it arrives"),
]

DISGUISED = [
    "Is it n\u200bot safe to eat?",
    "Is it no\u00adt safe to eat?",
    "Is it nоt safe to eat?",  # Cyrillic o
    "Is it ｎｏｔ safe to eat?",
    "Is it 𝐧𝐨𝐭 safe to eat?",
    "Is it n\u0336o\u0336t\u0336 safe to eat?",
    "Is it nöt safe to eat?",
    "Is it N O T safe to eat?",
    "Is it NOT safe to eat?",
    "Is it *not* safe to eat?",
    "Is it (not) safe to eat?",
    "Is it n0t safe to eat?",
    "Isn\u2019t it safe to eat?",
    "Is it \u202etonsafe\u202c safe to eat?",
    "Is it not\U000e0020 safe to eat?",
]

DEFAULT, STRICT = default_guard(), strict_guard()


@pytest.mark.parametrize(("reason", "one", "two"), PAIRS, ids=[f"{r}-{a}" for r, a, _ in PAIRS])
def test_vetoes_with_a_reason(reason: str, one: str, two: str) -> None:
    assert DEFAULT(one, two) == reason
    assert DEFAULT(two, one) == reason
    assert STRICT(one, two) == reason


@pytest.mark.parametrize(("one", "two"), PASSED, ids=[a for a, _ in PASSED])
def test_lets_other_wordings_pass(one: str, two: str) -> None:
    assert DEFAULT(one, two) is None
    assert DEFAULT(two, one) is None


@pytest.mark.parametrize("text", DISGUISED, ids=ascii)
def test_no_disguise_gets_past(text: str) -> None:
    assert DEFAULT(text, "Is it safe to eat?") is not None


def test_strict_doubts_what_default_allows() -> None:
    for one, two in (
        ("how do I get a refund", "how do I get a refund from Netflix"),
        ("send me a list of phones", "which of those that you sell costs under 500"),
        ("how to get ants", "how to get rid of ants"),
    ):
        assert DEFAULT(one, two) is None
        assert STRICT(one, two) is not None


@given(st.text())
def test_a_text_passes_by_itself_and_its_spellings(text: str) -> None:
    assert DEFAULT(text, text) is None
    assert DEFAULT(text, normal(text)) is None


WORDS = st.sampled_from(
    [
        "Is",
        "it",
        "not",
        "safe",
        "to",
        "go",
        "from",
        "Paris",
        "Rome",
        "before",
        "after",
        "5",
        "km",
        "miles",
        "he",
        "she",
        "my",
        "your",
        "and",
        "or",
        "by",
        "than",
        "was",
        "bought",
        "C++",
        "'a",
        "b'",
        "who",
        "when",
        "Ann",
        "Bob",
        "on",
        "off",
        "unhappy",
        "happy",
        "NOT",
        "nоt",
        ".NET",
        "2+2",
        "a.pdf",
        "今天",
        ",",
        "?",
    ]
)


@given(st.lists(WORDS).map(" ".join), st.lists(WORDS).map(" ".join))
def test_is_symmetric_and_names_known_reasons(one: str, two: str) -> None:
    for guard in (DEFAULT, STRICT):
        reason = guard(one, two)
        assert guard(two, one) == reason
        assert reason is None or reason in REASONS


@given(st.text(), st.text())
def test_any_text_can_be_compared(one: str, two: str) -> None:
    assert DEFAULT(one, two) == DEFAULT(two, one)


@given(st.lists(WORDS).map(" ".join), st.lists(WORDS).map(" ".join))
def test_strict_allows_nothing_that_default_does_not(one: str, two: str) -> None:
    assert STRICT(one, two) is not None or DEFAULT(one, two) is None


def test_a_difference_at_the_end_of_a_long_text_counts() -> None:
    text = "how do I cancel my order " * 4_000
    assert DEFAULT(text + "today", text + "today?") is None
    assert DEFAULT(text + "today", text + "never") == "long"
    text = text[:10_000]
    assert DEFAULT(text + " 5", text + " 6") == "number"


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "1 ",
        "`",
        "'",
        " 'a",
        '"a',
        "n't ",
        "+1 (5) ",
        "12,345 ",
        "a.b.",
        "x_y ",
        "😀",
        "今",
        "A b. ",
    ],
    ids=ascii,
)
def test_takes_linear_time(unit: str) -> None:
    text = unit * (19_000 // len(unit))
    began = time.process_time()
    DEFAULT(text, text + " b")
    assert time.process_time() - began < 2


def test_of_a_setting() -> None:
    assert guard_of("off") is None
    assert guard_of("default") == DEFAULT
    assert guard_of("strict") == STRICT

    def own(asked: str, stored: str) -> str | None:
        return None

    assert guard_of(own) is own


@pytest.mark.parametrize("wrong", ["lax", 1, "", ["off"]], ids=repr)
def test_of_a_wrong_setting(wrong: object) -> None:
    with pytest.raises(
        InvalidInput, match=r"guard must be 'off', 'default', 'strict' or a callable"
    ):
        guard_of(wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"words": "en"}, {"level": "lax"}, {"ignore": {"weather"}}, {"ignore": 5}],
    ids=str,
)
def test_bad_input(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        LexicalGuard(**wrong)


def test_is_a_value() -> None:
    copy = pickle.loads(pickle.dumps(STRICT))
    assert copy == STRICT
    assert hash(copy) == hash(STRICT)
    assert copy("turn it on", "turn it off") == "antonym"
    with pytest.raises(dataclasses.FrozenInstanceError):
        copy.level = "default"


def test_reasons_can_be_ignored() -> None:
    guard = LexicalGuard(ignore=frozenset({"number"}))
    assert guard("born in 1990", "born in 1991") is None
    assert guard("not born in 1990", "born in 1991") == "negation"


def test_lists_can_be_replaced() -> None:
    words = dataclasses.replace(Words.of("en"), antonyms=("zig|zag",))
    guard = LexicalGuard(words)
    pair = ("all the zig lines of the drawing", "its lines, those that zag")
    assert guard(*pair) == "antonym"
    assert DEFAULT(*pair) is None


def test_without_lists_numbers_quotes_and_identifiers_still_count() -> None:
    guard = LexicalGuard(Words())
    assert guard("hinta 5 euroa", "hinta 6 euroa") == "number"
    assert guard("mikä on 'kissa' suomeksi", "mikä on 'koira' suomeksi") == "quoted"
    assert guard("virhe E12", "virhe E13") == "identifier"
    assert guard("kuka on Anna Virtanen", "kuka on Maija Virtanen") == "name"


@pytest.mark.parametrize(
    ("one", "two", "reason"),
    [
        ("Ist das erlaubt?", "Ist das nicht erlaubt?", "negation"),
        ("Züge von Berlin nach Köln", "Züge von Köln nach Berlin", "role"),
        ("Termin am Montag", "Termin am Dienstag", "date"),
        ("Ist Gas teuer?", "Ist Gas billig?", "antonym"),
        ("wie schalte ich das Licht ein", "wie schalte ich das Licht aus", "antonym"),
        ("fünf Euro", "5 €", None),
        ("Wie ändere ich meine PIN?", "Wie kann ich meine PIN ändern?", None),
    ],
)
def test_german(one: str, two: str, reason: str | None) -> None:
    assert default_guard("de")(one, two) == reason


def test_unknown_language() -> None:
    with pytest.raises(InvalidInput, match="language must be one of de, en"):
        default_guard("xx")


@pytest.mark.parametrize("language", LANGUAGES)
def test_shipped_lists_name_no_word_on_both_sides(language: str) -> None:
    for row in Words.of(language).antonyms:
        left, bar, right = row.partition("|")
        assert bar
        assert left.strip()
        assert right.strip()
        assert not set(left.split()) & set(right.split())


def test_lists_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fi.json"
    path.write_text(
        json.dumps({"language": "fi", "negation": "ei en et", "antonyms": ["osta|myy"]})
    )
    guard = LexicalGuard(Words.read(path))
    assert guard("osta talo", "myy talo") == "antonym"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"antonym": []}', "is no list"),
        ('{"negation": ["ei"]}', "must be a string"),
        ('{"antonyms": "a|b"}', "must be a list of strings"),
        ('{"classes": [{"reason": "name"}]}', "needs a 'name'"),
        ('{"classes": ["a"]}', "must hold a JSON object"),
    ],
)
def test_wrong_lists(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "xx.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=message):
        Words.read(path)


def test_lists_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        Words.read(tmp_path / "none.json")
